//! The chart, read as text: what it tells the operator, the operator takes. Rendering is checked by `make charts`.

use std::collections::BTreeMap;
use std::time::Duration;

use counter_tests::programs::repository;
use operator::args::{Args, Command, LogFormat, Reach, RunArgs};

use crate::flags::argv;

/// What the template's expressions come to in an install that sets everything. One that is not in here fails the test.
const VALUES: [(&str, &str); 13] = [
    ("join \",\" .", "team-a,team-b"),
    (".Values.reach", "pod"),
    ("include \"dc.image\" (list .Values.counterNode.image .)", "distributed-counter/counter-node:0.1.0"),
    (".", "IfNotPresent"),
    (".Values.networkPolicy.enabled", "true"),
    (".Values.healthPort", "8080"),
    (".Release.Namespace", "distributed-counter"),
    (".Values.leaderElection.leaseName", "distributed-counter-operator"),
    (".Values.leaderElection.leaseDuration", "15s"),
    (".Values.leaderElection.renewDeadline", "10s"),
    (".Values.leaderElection.retryPeriod", "2s"),
    (".Values.log.filter", "info"),
    (".Values.log.format", "json"),
];

fn chart(path: &str) -> String {
    std::fs::read_to_string(repository("charts/distributed-counter").join(path)).unwrap()
}

/// The items of the container's `args`, with their conditions taken as met.
fn args_in_the_template(values: &BTreeMap<&str, &str>) -> Vec<String> {
    let template = chart("templates/deployment.yaml");
    let after = template.split_once("          args:\n").unwrap().1;
    let block = after.lines().take_while(|line| line.starts_with("            "));
    block.filter_map(|line| line.trim().strip_prefix("- ")).map(|item| rendered(item, values)).collect()
}

fn rendered(item: &str, values: &BTreeMap<&str, &str>) -> String {
    let mut text = String::new();
    let mut rest = item;
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").unwrap();
        let expression = expression.trim();
        let value = values.get(expression).unwrap_or_else(|| panic!("what does `{expression}` in `{item}` come to?"));
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text + rest
}

fn run_args(args: &[String]) -> RunArgs {
    match Args::read(argv("operator", args.iter().map(String::as_str))) {
        Ok(Args { command: Command::Run(run) }) => *run,
        other => panic!("the operator does not take {args:?}: {other:?}"),
    }
}

#[test]
fn the_operator_takes_what_the_chart_tells_it() {
    let args = args_in_the_template(&BTreeMap::from(VALUES));
    assert!(args.len() > 12, "{args:?}");
    let run = run_args(&args);
    assert_eq!(run.namespaces, ["team-a", "team-b"]);
    assert_eq!(run.reach, Reach::Pod);
    assert_eq!(run.default_image.as_deref(), Some("distributed-counter/counter-node:0.1.0"));
    assert_eq!(run.image_pull_policy.map(|policy| policy.as_str()), Some("IfNotPresent"));
    assert!(run.network_policy && run.election.leader_elect);
    assert_eq!(run.health.on(run.bind).to_string(), "0.0.0.0:8080");
    assert_eq!(run.election.lease_namespace.as_deref(), Some("distributed-counter"));
    assert_eq!(run.election.lease_name, "distributed-counter-operator");
    assert_eq!(run.election.lease_duration, Duration::from_secs(15));
    assert_eq!(run.logging.log_format, LogFormat::Json);
}

#[test]
fn every_choice_that_the_values_schema_offers_is_one_of_the_operators() {
    let schema: serde_json::Value = serde_json::from_str(&chart("values.schema.json")).unwrap();
    let mut tried = 0;
    for (expression, pointer) in [
        (".Values.reach", "/properties/reach"),
        (".Values.log.format", "/properties/log/properties/format"),
        (".", "/definitions/image/properties/pullPolicy"),
    ] {
        let choices = schema.pointer(&format!("{pointer}/enum")).and_then(|choices| choices.as_array().cloned());
        let choices = choices.unwrap_or_else(|| panic!("the schema has no choices at {pointer}"));
        // An empty value leaves the flag out.
        for choice in choices.iter().filter_map(|choice| choice.as_str()).filter(|choice| !choice.is_empty()) {
            let mut values = BTreeMap::from(VALUES);
            values.insert(expression, choice);
            run_args(&args_in_the_template(&values));
            tried += 1;
        }
    }
    assert!(tried >= 7, "only {tried} choices were found");
}

#[test]
fn the_chart_sets_no_variable_that_the_operator_does_not_know() {
    let template = chart("templates/deployment.yaml");
    let known = crate::flags::of_the_operator().variables;
    let words = template.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    for variable in words.filter(|word| crate::flags::is_variable(word)) {
        assert!(known.contains(variable), "{variable}");
    }
}

#[tokio::test]
async fn the_operator_answers_the_probes_of_its_pod() {
    use operator::admin::{Stage, router, serve};
    let (_stage, stage) = tokio::sync::watch::channel(Stage::Following);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve(listener, router(stage, operator::telemetry::Metrics::default())));
    let template = chart("templates/deployment.yaml");
    let probes: Vec<&str> = template.lines().filter_map(|line| line.trim().strip_prefix("httpGet: ")).collect();
    assert_eq!(probes.len(), 2, "{probes:?}");
    for probe in probes {
        let path = probe.strip_prefix("{path: ").and_then(|rest| rest.strip_suffix(", port: health}")).unwrap();
        let answer = counter_tests::http::Http::default().send(hyper::Method::GET, &format!("{base}{path}"), None).await.unwrap();
        assert_eq!(answer.status, hyper::StatusCode::OK, "{path}");
    }
}
