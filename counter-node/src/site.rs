//! Gathers the site's total from one replica of every shard.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use counter_core::id::NodeName;
use counter_core::layout::Node;
use counter_core::message::Envelope;
use counter_core::presence::Viewers;
use counter_core::table::Table;
use futures::future::join_all;

use crate::peers::{PeerClient, TOTALS_PATH};
use crate::protocol::{Protocol, Routes};
use crate::tokens::ClusterTokens;
use crate::totals::{GATHER_TIMEOUT, NeverHeard, SiteTotal, SlotTotals, Totals};

/// Why there is no total.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("this node has no layout yet")]
    NoLayout,
    #[error(transparent)]
    NeverHeard(#[from] NeverHeard),
}

/// The site's total, as seen from this node.
pub struct Site {
    pub protocol: Arc<Protocol>,
    pub table: Arc<Table>,
    pub viewers: Arc<Viewers>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
    pub totals: Totals,
}

impl Site {
    /// The total, at most a moment old where all shards answer.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn total(&self) -> Result<SiteTotal, SiteError> {
        if let Some(total) = self.totals.fresh(Instant::now()) {
            return Ok(total?);
        }
        let _turn = self.totals.turn().await;
        if let Some(total) = self.totals.fresh(Instant::now()) {
            return Ok(total?);
        }
        let view = self.protocol.view();
        let routes = view.routes.as_ref().ok_or(SiteError::NoLayout)?;
        self.totals.begin();
        join_all((0..routes.layout.shards.len()).map(|shard| self.gather(routes, shard))).await;
        Ok(self.totals.gathered(Instant::now())?)
    }

    /// Asks one shard, replica after replica until one answers.
    async fn gather(&self, routes: &Routes, shard: usize) {
        let said = if routes.mine() == Some(shard) && self.protocol.is_serving() {
            Some(SlotTotals::of(&self.table, &self.viewers, self.protocol.freshness()))
        } else {
            tokio::time::timeout(GATHER_TIMEOUT, self.ask(&routes.layout.shards[shard].nodes)).await.ok().flatten()
        };
        if let Some(said) = said {
            self.totals.take(&routes.layout, routes.owners(), shard, &said, Instant::now());
        }
    }

    async fn ask(&self, nodes: &[Node]) -> Option<SlotTotals> {
        // So that one that hangs leaves time for the others.
        let each = GATHER_TIMEOUT / u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        for node in nodes.iter().filter(|node| node.name != *self.protocol.me()) {
            match tokio::time::timeout(each, self.ask_node(&node.name, &node.peer)).await.ok().flatten() {
                Some(said) => return Some(said),
                None => tracing::debug!(peer = %node.name, "no totals from this replica"),
            }
        }
        None
    }

    async fn ask_node(&self, name: &NodeName, address: &str) -> Option<SlotTotals> {
        let envelope = Envelope { header: self.protocol.header(Some(name.clone())), body: () };
        let answer = self.client.post(&self.tokens, address, TOTALS_PATH, &name.0, Bytes::from(envelope.encode())).await.ok()?;
        let said = Envelope::<SlotTotals>::decode(&answer).ok()?.body;
        // A replica that owns nothing is starting: another may know.
        (!said.owned.is_empty()).then_some(said)
    }
}
