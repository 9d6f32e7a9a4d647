//! A disk that is full, made by a limit on the size of files: updates are refused or go to a sibling, reads go on, and
//! once there is room again everything is as before, without a restart.

use counter_tests::count::{Counting, Ledger, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

const PAGE: &str = "front-page";
/// Larger than what a new node writes by itself.
const FILE_BYTES_MAX: u64 = 128 << 10;

/// Lets the node's process write no file beyond a size.
fn limit_file_size(node: &TestNode, bytes: Option<u64>) -> anyhow::Result<()> {
    let pid = node.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum })?;
    Ok(())
}

/// Makes counters with long names until the node can write no more. Returns how many are certainly kept.
async fn fill(node: &TestNode) -> anyhow::Result<Vec<String>> {
    let (http, url) = (Http::default(), format!("{}/counters", node.http()));
    let mut kept = Vec::new();
    for batch in 0..1_000 {
        let pages: Vec<String> = (0..50).map(|number| format!("{batch}-{number}-{}", "a".repeat(400))).collect();
        let updates: Vec<Value> = pages.iter().map(|page| json!({"page": page})).collect();
        let answer = http.send(Method::POST, &url, Some(json!({"updates": updates}))).await?.json_of(StatusCode::OK)?;
        let all_kept = answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 200);
        if all_kept {
            kept.extend(pages);
        }
        if !node.status().await?.storage.writable && !goes_on(node).await? {
            return Ok(kept);
        }
    }
    anyhow::bail!("the disk was never full")
}

/// Whether a node that could not write went on in another segment of its log: there may be a spare one.
async fn goes_on(node: &TestNode) -> anyhow::Result<bool> {
    until("the node goes on or stays as it is", async || {
        let failures = node.metric("counter_commit_failures_total").await?;
        let writable = node.status().await?.storage.writable;
        // Each segment fails once, and more are failures to have another one.
        anyhow::ensure!(writable || failures >= 4, "neither is known yet");
        Ok(writable)
    })
    .await
}

async fn is_writable(node: &TestNode) -> anyhow::Result<()> {
    until("the node writes again", async || {
        anyhow::ensure!(node.status().await?.storage.writable, "it does not");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_with_a_full_disk_refuses_updates_and_answers_reads_until_there_is_room() -> anyhow::Result<()> {
    for fsync in ["Always", "EverySecond", "Never"] {
        let folder = tempfile::tempdir()?;
        let mut node = TestNode::alone(folder.path(), &["--fsync", fsync])?;
        node.start_ready().await?;
        let (http, url) = (Http::default(), format!("{}/{PAGE}/counter", node.http()));
        assert_eq!(http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?["count"], 1);
        limit_file_size(&node, Some(FILE_BYTES_MAX))?;
        let kept = fill(&node).await?;
        for _ in 0..3 {
            let refused = http.send(Method::PUT, &url, None).await?;
            assert!(refused.headers.contains_key("retry-after"));
            assert_eq!(refused.json_of(StatusCode::SERVICE_UNAVAILABLE)?["type"], "/problems/not-applied");
            assert_eq!(http.get_json(&url).await?["count"], 1, "a refused update counted");
        }
        let ready = http.send(Method::GET, &format!("{}/readyz", node.admin()), None).await?;
        assert_eq!(ready.status, StatusCode::OK, "what can be read is served");

        limit_file_size(&node, None)?;
        is_writable(&node).await?;
        assert_eq!(http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?["count"], 2);
        node.kill().await?;
        node.start_ready().await?;
        assert_eq!(http.count(&node.http(), PAGE).await?, 2);
        for page in kept.iter().step_by(7) {
            assert_eq!(http.count(&node.http(), page).await?, 1, "{fsync}: a kept counter is lost");
        }
    }
    Ok(())
}

#[tokio::test]
async fn updates_at_a_node_with_a_full_disk_go_to_its_sibling() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 2, &[]).await?;
    let (http, full) = (Http::default(), &cluster.nodes[0]);
    limit_file_size(full, Some(FILE_BYTES_MAX))?;
    fill(full).await?;
    let base = full.http();
    let counting = Counting::start(PAGE, 4, move || vec![base.clone()]);
    counting.acknowledge(100).await?;
    let told = counting.stop().await;
    assert_eq!(told, Ledger { acknowledged: told.acknowledged, ..Ledger::default() }, "the sibling takes all of them");
    assert!(!full.status().await?.storage.writable);
    assert_eq!(http.count(&cluster.nodes[1].http(), PAGE).await?, told.acknowledged);
    limit_file_size(full, None)?;
    is_writable(full).await?;
    agreed(&http, &cluster.bases(), PAGE, &told).await?;
    Ok(())
}
