//! A page that is counted under many keys is one page to everyone outside, however many they are at the time.

use counter_core::layout::{LayoutVersion, VirtualShards};
use counter_tests::count::{Counting, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, give};
use hyper::{Method, StatusCode};

/// Publishes the count of `front*` to every node.
async fn spread(cluster: &mut Cluster, count: u16, ever_count: u16) -> anyhow::Result<()> {
    let layout = &mut cluster.layout;
    layout.version = LayoutVersion(layout.version.0 + 1);
    layout.virtual_shards = vec![VirtualShards { pages: "front*".to_owned(), count, ever_count }];
    for node in &cluster.nodes {
        give(node, &cluster.layout).await?;
    }
    Ok(())
}

/// Σ of the counters of a node's own slots.
async fn held(cluster: &Cluster, node: usize) -> anyhow::Result<u64> {
    let status = cluster.nodes[node].status().await?;
    Ok(status.slots.iter().map(|range| u64::try_from(range.tally).unwrap_or_default()).sum())
}

#[tokio::test]
async fn a_count_is_raised_and_lowered_under_load_and_no_number_is_ever_wrong() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, &[]).await?;
    let (http, bases, page) = (Http::default(), cluster.bases(), "front-page");
    let everywhere = bases.clone();
    let counting = Counting::start(page, 8, move || everywhere.clone());
    for (count, ever_count) in [(10, 10), (3, 10), (64, 64), (0, 64)] {
        spread(&mut cluster, count, ever_count).await?;
        let before = counting.so_far().acknowledged;
        counting.acknowledge(200).await?;
        // A node may lack what its siblings took within the last tick, never more: so the count does not fall back to
        // where it was long ago, as it would if a part were left out.
        let read = http.count(&bases[0], page).await?;
        assert!(read >= before / 2, "{read} after {before} were acknowledged, with {count} virtual shards");
    }
    let told = counting.stop().await;
    assert_eq!((told.unknown, told.refused), (0, 0));
    let total = agreed(&http, &bases, page, &told).await?;
    // From this the operator learns of it when its own record is an older one.
    assert_eq!(cluster.nodes[3].status().await?.virtual_shards, cluster.layout.virtual_shards);
    for shard in [0, 2] {
        let here = held(&cluster, shard).await?;
        assert!(here * 10 > u64::try_from(total)?, "shard of node {shard} holds {here} of {total}: updates were not spread");
    }
    Ok(())
}

#[tokio::test]
async fn the_parts_of_a_page_are_no_pages_of_their_own() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 1, &[]).await?;
    spread(&mut cluster, 8, 8).await?;
    let (http, bases) = (Http::default(), cluster.bases());
    let url = |page: &str| format!("{}/{page}/counter", bases[0]);
    for count in 1..=40 {
        let answer = http.send(Method::PUT, &url("front"), None).await?.json_of(StatusCode::OK)?;
        assert_eq!(answer["count"], count);
    }
    for (page, count) in [("front", 40), ("front%230", 0), ("front%231", 0)] {
        assert_eq!(http.count(&bases[1], page).await?, count, "{page}");
    }
    assert_eq!(http.get_json(&format!("{}/counter", bases[1])).await?["count"], 40);
    let reset = http.send(Method::DELETE, &url("front"), None).await?.json_of(StatusCode::OK)?;
    assert_eq!(reset["count"], 0);
    for base in &bases {
        assert_eq!(http.count(base, "front").await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn with_an_owner_away_updates_go_on_and_the_sum_is_what_was_heard_last() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 1, &[]).await?;
    spread(&mut cluster, 16, 16).await?;
    let http = Http::default();
    let url = format!("{}/front/counter", cluster.nodes[0].http());
    for count in 1..=64 {
        assert_eq!(http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?["count"], count);
    }
    cluster.nodes[1].kill().await?;
    for count in 65..=80 {
        assert_eq!(http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?["count"], count);
    }
    assert_eq!(http.get_json(&url).await?["count"], 80);
    cluster.nodes[1].start_ready().await?;
    assert_eq!(http.count(&cluster.nodes[1].http(), "front").await?, 80);
    Ok(())
}
