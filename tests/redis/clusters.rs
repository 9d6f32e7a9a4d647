//! Several nodes: any of them takes any request, and cluster clients find their way.

use std::collections::BTreeMap;

use anyhow::Context as _;
use counter_tests::node::Cluster;
use counter_tests::wait::until;
use redis::AsyncCommands as _;

use crate::wire::Wire;

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.nodes.iter().filter_map(|node| Some(format!("redis://{}/", node.entry.resp.as_ref()?))).collect()
}

#[tokio::test]
async fn a_plain_client_is_served_anywhere_and_its_pipeline_keeps_its_order() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (near, far) = (cluster.page_of(0)?, cluster.page_of(1)?);
    let mut wire = Wire::to(&cluster.nodes[0]).await?;
    let requests = format!(
        "incr {near}\nincr {far}\nincrby {far} 10\nget {far}\nget {near}\ndecr {far}\nincr {far}\nset {far} 5\nget {far}\ngetset {far} 8\nmget {near} {far}"
    );
    let answers =
        ":1\r\n:1\r\n:11\r\n$2\r\n11\r\n$1\r\n1\r\n:10\r\n:11\r\n+OK\r\n$1\r\n5\r\n$1\r\n5\r\n*2\r\n$1\r\n1\r\n$1\r\n8\r\n";
    wire.ask(&requests, answers).await?;
    wire.ask(&format!("exists {near} {far} nobody\ntype {far}\nttl {far}"), ":2\r\n+string\r\n:-1\r\n").await?;
    wire.ask(
        &format!("incrby {far} 9223372036854775800\nget {far}"),
        "-ERR increment or decrement would overflow\r\n$1\r\n8\r\n",
    )
    .await?;
    wire.ask(&format!("client reply skip\nincr {far}\nget {far}"), "$1\r\n9\r\n").await?;
    // A deep pipeline on one counter of another shard.
    let pipeline = "*2\r\n$4\r\nINCR\r\n$HHH\r\nKKK\r\n".replace("HHH", &far.len().to_string()).replace("KKK", &far).repeat(200);
    wire.send(pipeline.as_bytes()).await?;
    wire.expect(&(10..210).map(|count| format!(":{count}\r\n")).collect::<String>()).await?;
    wire.ask(&format!("del {near} {far} nobody\nexists {near} {far}"), ":2\r\n:0\r\n").await
}

#[tokio::test]
async fn a_client_that_wants_to_be_sent_on_is() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &["--resp-redirect", "moved"]).await?;
    let (near, far) = (cluster.page_of(0)?, cluster.page_of(1)?);
    let slot = counter_core::slot::Slot::of(far.as_bytes());
    let owner = cluster.nodes[1].entry.resp.as_deref().context("no Redis port")?;
    let mut wire = Wire::to(&cluster.nodes[0]).await?;
    wire.ask(
        &format!("incr {near}\nincr {far}\nget {far}"),
        &format!(":1\r\n-MOVED {slot} {owner}\r\n-MOVED {slot} {owner}\r\n"),
    )
    .await?;
    Wire::to(&cluster.nodes[1]).await?.ask(&format!("incr {far}"), ":1\r\n").await
}

#[tokio::test]
async fn the_redis_crates_cluster_client_counts_on_all_nodes_and_goes_on_without_one() -> anyhow::Result<()> {
    // What is acknowledged is at both replicas: one of them dies.
    let mut cluster = Cluster::start(2, 2, &["--acks", "Quorum"]).await?;
    let client = redis::cluster::ClusterClient::builder(urls(&cluster)).retries(20).build()?;
    let mut connection = client.get_async_connection().await?;
    let mut expected = BTreeMap::new();
    for number in 0..400_i64 {
        let (page, by) = (format!("page-{}", number % 60), number % 7 + 1);
        let count: i64 = connection.incr(&page, by).await?;
        let sum = expected.entry(page).or_insert(0);
        *sum += by;
        assert_eq!(count, *sum);
    }
    // Each node is the master of a part of its shard's slots, and has its own updates to show for it.
    for node in &cluster.nodes {
        let mut own = redis::Client::open(format!("redis://{}/", node.entry.resp.as_deref().unwrap()))?
            .get_multiplexed_async_connection()
            .await?;
        let size: usize = redis::cmd("DBSIZE").query_async(&mut own).await?;
        assert!((1..60).contains(&size), "{} holds {size}", node.entry.name);
    }
    // Its sibling takes over what it was the master of, once it was silent for a while.
    cluster.nodes[3].kill().await?;
    until("the cluster client reads everything without the dead node", async || {
        let mut connection = client.get_async_connection().await?;
        for (page, sum) in &expected {
            let count: i64 = connection.get(page).await?;
            anyhow::ensure!(count == *sum, "{page}: {count} instead of {sum}");
        }
        Ok(())
    })
    .await
}
