//! A replica that loses a tail of which its sibling knows: both come to the same counts, and what is counted afterwards is
//! never taken for what was lost.

use counter_tests::count::{Ledger, agreed};
use counter_tests::node::Cluster;

use super::*;

const PAGE: &str = "front-page";

/// Counts at one node, all of which is acknowledged.
async fn count(node: &TestNode) -> anyhow::Result<i64> {
    let base = node.http();
    let counting = Counting::start(PAGE, 4, move || vec![base.clone()]);
    counting.acknowledge(50).await?;
    let told = counting.stop().await;
    assert_eq!((told.unknown, told.refused), (0, 0));
    Ok(told.acknowledged)
}

/// Whether the sibling can be heard while the node is back and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sibling {
    Silent,
    There,
}

/// A cluster of two, the first of which loses its power twice.
async fn lose_and_go_on(fsync: &str) -> anyhow::Result<()> {
    let mut random = random();
    let logs = tempfile::tempdir()?;
    let mut cluster = Cluster::prepare(1, 2, &["--fsync", fsync])?;
    let (http, bases) = (Http::default(), cluster.bases());
    let data = cluster.nodes[0].data();
    let mut before = Image::empty();
    before.replace(&data)?;
    let mut told = Ledger::default();
    cluster.nodes[0].trace_to(Some(logs.path().join("Silent")));
    cluster.run().await?;
    for sibling in [Sibling::Silent, Sibling::There] {
        told.acknowledged += count(&cluster.nodes[0]).await?;
        agreed(&http, &bases, PAGE, &told).await?;
        let pid = cluster.nodes[0].pid().context("it has ended")?;
        cluster.nodes[0].kill().await?;
        let trace = trace::read_ended(&logs.path().join(format!("{sibling:?}")), pid).await?;
        let disk = Disk::after(trace.events.len(), &trace, &data, &before)?;
        before = if sibling == Sibling::Silent { disk.forced()? } else { disk.lose_power(&mut random)? };
        before.replace(&data)?;
        if sibling == Sibling::Silent {
            cluster.nodes[1].pause().await?;
        }
        cluster.nodes[0].trace_to(Some(logs.path().join(format!("{:?}", Sibling::There))));
        cluster.nodes[0].start_ready().await?;
        let left = http.count(&bases[0], PAGE).await?;
        println!("{fsync}, {sibling:?}: {left} of {} are left", told.acknowledged);
        if (fsync, sibling) == ("Never", Sibling::Silent) {
            assert_eq!(left, 0, "nothing was forced, and nobody could tell the node");
        }
        told.acknowledged += count(&cluster.nodes[0]).await?;
        if sibling == Sibling::Silent {
            cluster.nodes[1].resume().await?;
        }
        agreed(&http, &bases, PAGE, &told).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_counted_after_a_lost_tail_stays_with_every_second() -> anyhow::Result<()> {
    lose_and_go_on("EverySecond").await
}

#[tokio::test]
async fn what_is_counted_after_a_lost_tail_stays_with_never() -> anyhow::Result<()> {
    lose_and_go_on("Never").await
}
