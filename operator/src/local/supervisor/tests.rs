use super::super::cluster::tests::host;
use super::super::table::Frame;
use super::*;
use crate::telemetry::Metrics;

fn document(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"
    )
}

fn supervisor(root: &std::path::Path) -> Supervisor {
    let frame = Frame { file: "a.yaml".to_owned(), data: String::new() };
    Supervisor::new(Parts {
        file: root.join("a.yaml"),
        text: String::new(),
        host: host(root),
        client: NodeClient::new(None, Metrics::default()),
        screen: Screen::new(frame),
    })
}

fn names(supervisor: &Supervisor) -> Vec<String> {
    supervisor.view().clusters.iter().map(|cluster| cluster.name.clone()).collect()
}

#[tokio::test]
async fn a_text_is_taken_over_whole_or_not_at_all() {
    let root = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(root.path());
    let good = document("a", "{replicas: 1}");
    supervisor.take_over(&good).unwrap();
    assert_eq!(names(&supervisor), ["a"]);

    supervisor.follow_edit(Ok(format!("{}{}", document("b", "{}"), document("c", "{shard: 2, replicas: 9}"))));
    assert_eq!(names(&supervisor), ["a"]);
    assert_eq!(supervisor.view().clusters[0].replicas, 1);
    let errors = &supervisor.view().file_errors;
    assert_eq!(errors[0], "document 2 (c): spec.shard: unknown field, did you mean shards?");
    assert!(errors[1].contains("replicas must be between 1 and 7"), "{errors:?}");

    supervisor.follow_edit(Ok(good));
    assert_eq!(supervisor.view().file_errors, Vec::<String>::new());
}

#[tokio::test]
async fn what_an_earlier_run_accepted_still_binds() {
    let root = tempfile::tempdir().unwrap();
    let mut first = supervisor(root.path());
    first.take_over(&document("a", "{}")).unwrap();
    drop(first);
    let mut second = supervisor(root.path());
    match second.take_over(&document("a", "{storage: {memory: {}}}")) {
        Err(Refusal::Text(problems)) => assert_eq!(problems, ["default/a: spec.storage: the kind of storage is immutable"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(names(&second), Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_that_leaves_the_file_keeps_its_data_and_may_come_back_otherwise() {
    let root = tempfile::tempdir().unwrap();
    let mut supervisor = supervisor(root.path());
    supervisor.take_over(&format!("{}{}", document("a", "{}"), document("b", "{}"))).unwrap();
    supervisor.take_over(&document("b", "{}")).unwrap();
    supervisor.look();
    assert_eq!(names(&supervisor), ["b"]);
    assert!(root.path().join("data/default/a/token").exists());
    supervisor.take_over(&format!("{}{}", document("a", "{storage: {memory: {}}}"), document("b", "{}"))).unwrap();
    assert_eq!(names(&supervisor), ["a", "b"]);
}
