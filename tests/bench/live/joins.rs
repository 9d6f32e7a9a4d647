//! How soon a viewer at one node is seen at another, of a page that a third one owns.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::on_second_core;
use super::viewer::Viewer;
use crate::Args;
use crate::cluster::{Cluster, pages_of};
use crate::figures::Figures;
use crate::server::Storage;

/// Pages on which someone comes and goes, all of them the first node's.
const PAGES: usize = 50;
/// Enough for a 99th percentile.
const SECONDS_MIN: u64 = 10;

/// Has viewers come and go for so long.
pub(crate) fn joins(args: &Args) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(args, Storage::Memory, 3, 1)?;
    let [at, seen_at] = [1, 2].map(|node: usize| cluster.nodes[node].http);
    let time = Duration::from_secs(args.seconds.max(SECONDS_MIN));
    let mut waits = on_second_core(async move {
        let mut pages = tokio::task::JoinSet::new();
        for (number, page) in pages_of(0, 3).into_iter().take(PAGES).enumerate() {
            pages.spawn(come_and_go(number, page, at, seen_at, time));
        }
        let mut waits = Vec::new();
        while let Some(of_page) = pages.join_next().await {
            waits.extend(of_page??);
        }
        Ok(waits)
    })?;
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits.get(waits.len() * share / 1000).copied();
    Ok(Figures { p50_ms: at(500), p99_ms: at(990), max_ms: waits.last().copied(), ..Figures::default() })
}

/// How long after it began to connect each viewer was seen, in milliseconds.
async fn come_and_go(
    number: usize,
    page: String,
    at: SocketAddr,
    seen_at: SocketAddr,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let path = format!("/{page}/live");
    let mut observer = Viewer::open(seen_at, &format!("{path}?observe=true"), number).await?;
    observer.until(0).await?;
    let (mut waits, end) = (Vec::new(), Instant::now() + time);
    while Instant::now() < end {
        // Not in step with the nodes' ticks, nor with each other; and a page is at rest before someone comes.
        tokio::time::sleep(Duration::from_millis(150 + (waits.len() * 37 + number * 13) as u64 % 101)).await;
        let since = Instant::now();
        let viewer = Viewer::open(at, &path, number).await?;
        observer.until(1).await?;
        waits.push(since.elapsed().as_secs_f64() * 1e3);
        drop(viewer);
        observer.until(0).await?;
    }
    Ok(waits)
}
