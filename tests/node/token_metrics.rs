//! What became of updates under tokens can be read off the admin port.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use counter_tests::exact::token;
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Request, StatusCode};

/// So few, so that a node is soon full.
const TOKENS_MAX: u64 = 64;
/// Tokens that are sent to both replicas at once, at the most, until two have taken one.
const RACES_MAX: i64 = 30;

async fn put(node: &TestNode, page: &str, token: &str, by: u64) -> anyhow::Result<StatusCode> {
    let request = Request::put(format!("{}/{page}/counter", node.http()))
        .header("idempotency-key", token)
        .header("content-type", "application/json")
        .body(Bytes::from(format!(r#"{{"by": {by}}}"#)))?;
    Ok(Http::default().request(request).await?.status)
}

async fn refusals(node: &TestNode, reason: &str) -> anyhow::Result<u64> {
    node.metric(&format!("counter_token_refusals_total{{reason=\"{reason}\"}}")).await
}

/// A token made so long from now.
fn made_in(seconds: i64) -> anyhow::Result<String> {
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    Ok(format!("{}-x", now_ms + seconds * 1_000))
}

#[tokio::test]
async fn replays_and_refusals_of_tokens_are_counted_by_their_reason() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-tokens", &TOKENS_MAX.to_string()])?;
    node.start_ready().await?;
    let known = token()?;
    assert_eq!(put(&node, "page", &known, 1).await?, StatusCode::OK);
    for metric in ["counter_token_replays_total", "counter_token_refunds_total"] {
        assert_eq!(node.metric(metric).await?, 0, "{metric}");
    }
    for _ in 0..3 {
        assert_eq!(put(&node, "page", &known, 1).await?, StatusCode::OK);
    }
    assert_eq!(put(&node, "page", &known, 2).await?, StatusCode::UNPROCESSABLE_ENTITY);
    for _ in 0..2 {
        assert_eq!(put(&node, "page", &made_in(-3_600)?, 1).await?, StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(put(&node, "page", &made_in(3_600)?, 1).await?, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(node.metric("counter_tokens").await?, 1);
    for _ in 1..TOKENS_MAX {
        assert_eq!(put(&node, "page", &token()?, 1).await?, StatusCode::OK);
    }
    assert_eq!(refusals(&node, "full").await?, 0);
    assert_eq!(put(&node, "page", &token()?, 1).await?, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(node.metric("counter_tokens").await?, TOKENS_MAX);
    assert_eq!(node.metric("counter_token_replays_total").await?, 3);
    assert_eq!(node.metric("counter_token_refunds_total").await?, 0);
    for (reason, times) in [("reused", 1), ("expired", 2), ("from-future", 1), ("full", 1)] {
        assert_eq!(refusals(&node, reason).await?, times, "{reason}");
    }
    Ok(())
}

#[tokio::test]
async fn an_update_that_two_replicas_took_under_one_token_is_counted_as_refunded_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 2, &[]).await?;
    let [one, other] = cluster.nodes.as_slice() else { anyhow::bail!("two nodes were asked for") };
    let refunds = async || {
        let name = "counter_token_refunds_total";
        anyhow::Ok(one.metric(name).await? + other.metric(name).await?)
    };
    let replays = async || {
        let name = "counter_token_replays_total";
        anyhow::Ok(one.metric(name).await? + other.metric(name).await?)
    };
    let mut sent = 0;
    while refunds().await? == 0 {
        anyhow::ensure!(sent < RACES_MAX, "no two replicas ever took one token");
        let token = token()?;
        let (first, second) = tokio::join!(put(one, "page", &token, 1), put(other, "page", &token, 1));
        assert_eq!((first?, second?), (StatusCode::OK, StatusCode::OK));
        sent += 1;
        // Where the second came after the news of the first it was a replay; else one of the two is taken back.
        until("each second try is a replay or taken back", async || {
            let (refunds, replays) = (refunds().await?, replays().await?);
            anyhow::ensure!(i64::try_from(refunds + replays)? == sent, "{refunds} refunds and {replays} replays of {sent}");
            Ok(())
        })
        .await?;
    }
    for node in &cluster.nodes {
        until("the replica counts each token once", async || {
            let count = Http::default().count(&node.http(), "page").await?;
            anyhow::ensure!(count == sent, "{count} instead of {sent}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
