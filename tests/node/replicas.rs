//! Replicas of one shard: they come to the same numbers, whatever keeps them apart for a time.

use counter_tests::count::{Counting, agreed};
use counter_tests::http::Http;
use counter_tests::node::Cluster;

const PAGE: &str = "front-page";

#[tokio::test]
async fn what_is_counted_at_one_replica_all_come_to_know() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 3, &[]).await?;
    let first = cluster.nodes[0].http();
    let counting = Counting::start(PAGE, 4, move || vec![first.clone()]);
    counting.acknowledge(100).await?;
    let told = counting.stop().await;
    assert_eq!((told.unknown, told.refused), (0, 0));
    agreed(&Http::default(), &cluster.bases(), PAGE, &told).await?;
    Ok(())
}

#[tokio::test]
async fn a_replica_that_stood_still_for_a_while_catches_up() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 3, &[]).await?;
    let (bases, others) = (cluster.bases(), cluster.bases()[..2].to_vec());
    let everywhere = Counting::start(PAGE, 6, move || bases.clone());
    everywhere.acknowledge(200).await?;
    cluster.nodes[2].pause().await?;
    let elsewhere = Counting::start("other-page", 4, move || others.clone());
    elsewhere.acknowledge(200).await?;
    cluster.nodes[2].resume().await?;
    everywhere.acknowledge(100).await?;
    let (told, elsewhere) = (everywhere.stop().await, elsewhere.stop().await);
    assert_eq!((elsewhere.unknown, elsewhere.refused), (0, 0), "those who can reach each other count on");
    agreed(&Http::default(), &cluster.bases(), PAGE, &told).await?;
    agreed(&Http::default(), &cluster.bases(), "other-page", &elsewhere).await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_replica_comes_back_with_what_the_others_counted_meanwhile() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 3, &["--acks", "Quorum"]).await?;
    let others = cluster.bases()[..2].to_vec();
    let counting = Counting::start(PAGE, 4, move || others.clone());
    counting.acknowledge(50).await?;
    cluster.nodes[2].kill().await?;
    counting.acknowledge(50).await?;
    cluster.nodes[2].start_ready().await?;
    let told = counting.stop().await;
    assert_eq!((told.unknown, told.refused), (0, 0), "two of three are a majority");
    agreed(&Http::default(), &cluster.bases(), PAGE, &told).await?;
    Ok(())
}
