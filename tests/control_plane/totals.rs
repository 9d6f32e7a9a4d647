//! The invariant of every change: what every slot's vector held before, its owners hold after.

use std::collections::BTreeMap;

use anyhow::Context as _;
use counter_core::slot::Slot;
use counter_tests::cluster::Cluster;
use counter_tests::count::agreed;
use counter_tests::count::{Counting, Ledger};
use counter_tests::http::Http;
use counter_tests::wait::until;

/// Clients that count pages of many slots.
pub(crate) struct Load(Vec<Counting>);

impl Load {
    pub(crate) fn start(cluster: &Cluster<'_>, pages: usize) -> Self {
        Self((0..pages).map(|page| cluster.count(&format!("page-{page}"), 1)).collect())
    }

    /// Waits until every page has counted on by so much.
    pub(crate) async fn go_on(&self, more: i64) -> anyhow::Result<()> {
        for counting in &self.0 {
            counting.acknowledge(more).await.with_context(|| counting.page().to_owned())?;
        }
        Ok(())
    }

    pub(crate) async fn stop(self) -> Vec<(String, Ledger)> {
        let mut ledgers = Vec::new();
        for counting in self.0 {
            let page = counting.page().to_owned();
            ledgers.push((page, counting.stop().await));
        }
        ledgers
    }
}

/// Checks every page at every node, and that each owner's totals per range of slots are the sums of the pages in it.
pub(crate) async fn check(cluster: &Cluster<'_>, ledgers: &[(String, Ledger)]) -> anyhow::Result<()> {
    let (http, bases) = (Http::default(), cluster.bases());
    let mut counts = BTreeMap::new();
    for (page, ledger) in ledgers {
        let count = agreed(&http, &bases, page, ledger).await.with_context(|| page.clone())?;
        counts.insert(Slot::of(page.as_bytes()), i128::from(count));
    }
    anyhow::ensure!(counts.len() == ledgers.len(), "two pages share a slot");
    until("every owner's totals are the sums of its pages", async || owners_hold(cluster, &counts).await).await
}

async fn owners_hold(cluster: &Cluster<'_>, counts: &BTreeMap<Slot, i128>) -> anyhow::Result<()> {
    let (layout, statuses) = (cluster.layout().await?, cluster.node_statuses().await?);
    for shard in &layout.shards {
        let pages = counts.iter().filter(|(slot, _)| shard.slots.iter().any(|range| range.contains(**slot)));
        let expected: i128 = pages.map(|(_, count)| count).sum();
        for node in &shard.nodes {
            let status = statuses.get(&node.name).with_context(|| format!("{} is missing", node.name))?;
            let owned = status.slots.iter().filter(|range| range.owned);
            for range in owned.clone() {
                let sum: i128 = counts.iter().filter(|(slot, _)| range.range.contains(**slot)).map(|(_, count)| count).sum();
                anyhow::ensure!(range.tally == sum, "{} says {} of {:?} instead of {sum}", node.name, range.tally, range.range);
            }
            let total: i128 = owned.map(|range| range.tally).sum();
            anyhow::ensure!(total == expected, "{} owns {total} instead of {expected}", node.name);
        }
    }
    Ok(())
}
