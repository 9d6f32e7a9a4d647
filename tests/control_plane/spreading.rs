//! Virtual shards: pages that are counted under several keys, while clients count and read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use counter_tests::count::agreed;
use counter_tests::http::Http;
use counter_tests::site::{Launch, Site};
use serde_json::json;

/// Reads the page at one node again and again, until `stop`; what it says may never fall.
async fn never_falls(base: String, stop: Arc<AtomicBool>) -> anyhow::Result<i64> {
    let (http, mut seen) = (Http::default(), 0);
    while !stop.load(Ordering::Relaxed) {
        let now = http.count(&base, "front-page").await?;
        anyhow::ensure!(now >= seen, "{base} said {now} after {seen}");
        seen = now;
    }
    Ok(seen)
}

pub(crate) async fn a_page_is_spread_and_gathered_again_while_two_nodes_count_and_no_read_falls(
    site: &Site,
) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"shards": 2, "replicas": 1})).await?;
    cluster.settled().await?;
    let bases = cluster.bases();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = bases.iter().map(|base| tokio::spawn(never_falls(base.clone(), stop.clone()))).collect();
    let counting = cluster.count("front-page", 2);
    counting.acknowledge(50).await?;
    for (patterns, recorded) in [
        (json!([{"pages": "front*", "count": 8}]), vec![("front*", 8, 8)]),
        (json!([{"pages": "front*", "count": 2}]), vec![("front*", 2, 8)]),
        (json!([{"pages": "front*", "count": 12}, {"pages": "b", "count": 3}]), vec![("front*", 12, 12), ("b", 3, 3)]),
        (json!([]), vec![("front*", 0, 12), ("b", 0, 3)]),
    ] {
        cluster.patch(json!({"spec": {"virtualShards": patterns}})).await?;
        cluster.settled().await?;
        let layout = cluster.layout().await?;
        let found: Vec<_> = layout.virtual_shards.iter().map(|own| (own.pages.as_str(), own.count, own.ever_count)).collect();
        anyhow::ensure!(found == recorded, "{found:?}");
        counting.acknowledge(50).await?;
    }
    let ledger = counting.stop().await;
    agreed(&Http::default(), &bases, "front-page", &ledger).await?;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await??;
    }
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}
