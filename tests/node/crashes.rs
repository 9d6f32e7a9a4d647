//! Ends of processes, wanted and unwanted, while clients count.

use bytes::Bytes;
use counter_tests::count::{Counting, Ledger};
use counter_tests::http::{Http, was_not_sent};
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Method, Request, StatusCode};

const PAGE: &str = "front-page";

/// Counts at a node that runs until `acknowledged` updates have been.
async fn count(node: &TestNode, acknowledged: i64) -> anyhow::Result<Counting> {
    let base = node.http();
    let counting = Counting::start(PAGE, 8, move || vec![base.clone()]);
    counting.acknowledge(acknowledged).await?;
    Ok(counting)
}

/// The sum of two ledgers.
fn both(one: Ledger, other: Ledger) -> Ledger {
    Ledger {
        acknowledged: one.acknowledged + other.acknowledged,
        unknown: one.unknown + other.unknown,
        refused: one.refused + other.refused,
    }
}

#[tokio::test]
async fn kill_minus_nine_loses_nothing_acknowledged_in_any_fsync_mode() -> anyhow::Result<()> {
    for fsync in ["Always", "EverySecond", "Never"] {
        let folder = tempfile::tempdir()?;
        let mut node = TestNode::alone(folder.path(), &["--fsync", fsync])?;
        let mut told = Ledger::default();
        for _ in 0..2 {
            node.start_ready().await?;
            let counting = count(&node, 200).await?;
            node.kill().await?;
            told = both(told, counting.stop().await);
        }
        node.start_ready().await?;
        told.check(Http::default().count(&node.http(), PAGE).await?)?;
        // At each of the two kills eight clients had at most one request each under way, and the kernel closes a dead process's
        // sockets one after another: who is cut off first may still be queued at a port that nobody serves any more.
        assert!(told.unknown <= 2 * 2 * 8, "{fsync}: {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stopping_node_answers_what_it_has_begun_and_keeps_it() -> anyhow::Result<()> {
    for storage in [&["--fsync", "Always"][..], &["--fsync", "EverySecond"]] {
        let folder = tempfile::tempdir()?;
        let mut node = TestNode::alone(folder.path(), storage)?;
        node.start_ready().await?;
        let counting = count(&node, 200).await?;
        let ended = node.stop().await?;
        let told = counting.stop().await;
        assert!(ended.success(), "{storage:?}: {ended}");
        node.start_ready().await?;
        // What was applied was answered: nothing counts that nobody was told of.
        assert_eq!(Http::default().count(&node.http(), PAGE).await?, told.acknowledged, "{storage:?}: {told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_drained_node_takes_no_new_clients_and_lives_until_it_is_stopped() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let counting = count(&node, 50).await?;
    let (http, admin) = (Http::default(), node.admin());
    // What a web page can have a browser send to a development node drains nothing.
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let request = Request::post(format!("{admin}/drain")).header("origin", "https://elsewhere.example");
        let request = content_type.into_iter().fold(request, |request, value| request.header("content-type", value));
        let refused = http.request(request.body(Bytes::new())?).await?;
        let problem = refused.json_of(StatusCode::FORBIDDEN)?;
        assert_eq!(problem["detail"], "a drain names its node in the header `counter-node`: this is local", "{content_type:?}");
    }
    assert_eq!(http.send(Method::GET, &format!("{admin}/readyz"), None).await?.status, StatusCode::OK);
    let drain = Request::post(format!("{admin}/drain")).header("counter-node", "local");
    assert_eq!(http.request(drain.body(Bytes::new())?).await?.status, StatusCode::ACCEPTED);
    until("no client is served any more", async || match Http::default().count(&node.http(), PAGE).await {
        Err(error) if was_not_sent(&error) => Ok(()),
        other => anyhow::bail!("{other:?}"),
    })
    .await?;
    let told = counting.stop().await;
    let probe = async |path: &str| anyhow::Ok(http.send(Method::GET, &format!("{admin}{path}"), None).await?.status);
    assert_eq!(probe("/readyz").await?, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(probe("/livez").await?, StatusCode::OK);
    let tally: i128 = node.status().await?.slots.iter().map(|range| range.tally).sum();
    assert_eq!(tally, i128::from(told.acknowledged), "{told:?}");
    assert!(node.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_cluster_s_node_waits_for_its_predecessor_to_leave_the_data_folder() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 1, &[]).await?;
    let node = &mut cluster.nodes[0];
    let counted = Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", node.http()), None).await?;
    assert_eq!(counted.status, StatusCode::OK);
    node.kill().await?;
    let predecessor = std::fs::File::options().read(true).write(true).open(node.data().join("LOCK"))?;
    predecessor.lock()?;
    node.start()?;
    until("the node says what it waits for", async || {
        anyhow::ensure!(node.log_tail().contains("waiting for the process that uses it to end"), "{}", node.log_tail());
        Ok(())
    })
    .await?;
    drop(predecessor);
    node.ready().await?;
    assert_eq!(Http::default().count(&node.http(), PAGE).await?, 1);
    Ok(())
}
