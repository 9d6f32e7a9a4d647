//! The operator's client and a Pod's probes against a real node.

use counter_core::layout::LayoutVersion;
use counter_core::proof::ClusterToken;
use counter_core::status::{Readiness, STATUS_FORMAT};
use counter_tests::http::Http;
use counter_tests::node::{CLUSTER, Cluster, operator};
use hyper::{Method, StatusCode};
use operator::nodes::{CallError, Target};
use serde_json::json;

use crate::argv;

#[tokio::test]
async fn what_the_operator_says_to_a_node_is_understood_and_so_is_the_answer() -> anyhow::Result<()> {
    let flags = ["--pod-uid", "a-uid", "--storage", "volume", "--fsync", "Always", "--acks", "Local"];
    let mut cluster = Cluster::prepare(1, 1, &flags)?;
    let (layout, operator) = (cluster.layout.clone(), operator());
    let node = &mut cluster.nodes[0];
    node.start()?;
    let target = Target { pod_uid: Some("a-uid".to_owned()), ..node.target() };
    let status = counter_tests::wait::until("the node answers", async || Ok(operator.status(&target).await?)).await?;
    assert_eq!((status.format, status.readiness), (STATUS_FORMAT, Readiness::WaitingForLayout));
    assert_eq!((status.cluster, &status.node), (None, &node.entry.name));

    operator.put_layout(&target, &layout).await?;
    node.ready().await?;
    let status = operator.status(&target).await?;
    assert_eq!((status.cluster, status.readiness), (Some(CLUSTER), Readiness::Ready));
    assert_eq!(status.layout.map(|layout| (layout.version, layout.hash)), Some((layout.version, layout.hash())));
    // The words of the spec.
    assert_eq!((status.storage.kind.as_str(), status.storage.fsync.as_str()), ("volume", "Always"));

    // A token that the node does not know yet, or no more, costs one more try.
    let tokens = [ClusterToken::new(b"newer")].into_iter().chain(target.tokens.iter().cloned()).collect();
    operator.put_layout(&Target { tokens, ..target.clone() }, &layout).await?;
    let category = async |target: Target, version: u64| {
        let mut layout = layout.clone();
        layout.version = LayoutVersion(version);
        operator.put_layout(&target, &layout).await.as_ref().map_err(CallError::category).copied()
    };
    assert_eq!(category(target.clone(), 0).await, Err("conflict"));
    assert_eq!(category(Target { tokens: [].into(), ..target.clone() }, 2).await, Err("unauthorized"));
    assert_eq!(category(Target { pod_uid: Some("b".to_owned()), ..target.clone() }, 2).await, Err("misdirected"));
    assert_eq!(category(target, 2).await, Ok(()));
    Ok(())
}

#[tokio::test]
async fn a_ready_node_answers_every_probe_of_its_pod() -> anyhow::Result<()> {
    let pod = argv::pod(json!({}));
    let container = argv::container(&pod);
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let cluster = Cluster::start(1, 1, &["--storage", "memory"]).await?;
    for probe in probes {
        let get = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        assert_eq!(serde_json::to_value(&get.port)?, "admin");
        let url = format!("{}{}", cluster.nodes[0].admin(), get.path.as_ref().unwrap());
        let answer = Http::default().send(Method::GET, &url, None).await?;
        assert_eq!(answer.status, StatusCode::OK, "{url}");
    }
    Ok(())
}
