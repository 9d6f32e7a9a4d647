//! What a node's admin port refuses, and that a refusal changes nothing.

use anyhow::Context as _;
use counter_core::id::{ClusterId, NodeName};
use counter_core::layout::LayoutVersion;
use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use operator::nodes::{CallError, NodeClient};
use operator::telemetry::Metrics;
use serde_json::json;

pub(crate) async fn a_node_refuses_older_foreign_and_unproved_layouts_and_keeps_its_own(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    let older = cluster.layout().await?;
    cluster.patch(json!({"spec": {"replicas": 2}})).await?;
    cluster.settled().await?;
    // With no operator around, nobody else speaks to the node.
    operator.stop().await?;
    let current = cluster.layout().await?;
    anyhow::ensure!(current.version > older.version, "{} after {}", current.version, older.version);

    let (node, client) = (NodeName::from("views-0-0"), NodeClient::new(None, Metrics::default()));
    let target = cluster.target(&node, &cluster.token().await?).await?;
    let acts_by = async || anyhow::Ok(client.status(&target).await?.layout.context("no layout")?);
    until("the node acts by the newest layout", async || {
        anyhow::ensure!(acts_by().await?.version == current.version, "not yet");
        Ok(())
    })
    .await?;

    let refused = client.put_layout(&target, &older).await;
    let message = format!("layout version {} is older than {}, which this node has", older.version, current.version);
    anyhow::ensure!(says(&refused, 409, &message), "{refused:?}");

    let mut conflicting = older.clone();
    conflicting.version = current.version;
    let refused = client.put_layout(&target, &conflicting).await;
    anyhow::ensure!(says(&refused, 409, "another layout of the same version"), "{refused:?}");

    let mut foreign = current.clone();
    (foreign.cluster, foreign.version) = (ClusterId(7), LayoutVersion(current.version.0 + 1));
    let refused = client.put_layout(&target, &foreign).await;
    anyhow::ensure!(says(&refused, 409, "this node belongs to"), "{refused:?}");

    let mut broken = current.clone();
    broken.version = current.version.next();
    broken.shards.clear();
    let refused = client.put_layout(&target, &broken).await;
    anyhow::ensure!(says(&refused, 400, "the layout is not valid"), "{refused:?}");

    let mut next = current.clone();
    next.version = current.version.next();
    let stranger = cluster.target(&node, b"a guess").await?;
    let refused = client.put_layout(&stranger, &next).await;
    anyhow::ensure!(says(&refused, 401, "no valid proof of the cluster token"), "{refused:?}");
    anyhow::ensure!(says(&client.status(&stranger).await, 401, "no valid proof"), "the status was told to a stranger");

    let mut other_pod = target.clone();
    other_pod.pod_uid = Some("another".to_owned());
    let refused = client.put_layout(&other_pod, &next).await;
    anyhow::ensure!(says(&refused, 421, "the request is meant for Pod another"), "{refused:?}");

    let kept = acts_by().await?;
    anyhow::ensure!((kept.version, kept.hash) == (current.version, current.hash()), "{kept:?}");
    // The same layout once more is no mistake.
    client.put_layout(&target, &current).await?;
    Ok(())
}

fn says<T>(result: &Result<T, CallError>, expected: u16, words: &str) -> bool {
    matches!(result, Err(CallError::Refused { status, detail }) if *status == expected && detail.contains(words))
}
