//! A page that is counted under many keys is one page to everyone outside, however many they are at the time.

use counter_core::layout::{LayoutVersion, VirtualShards};
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
