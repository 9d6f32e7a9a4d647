//! Gathers the site's total from one replica of every shard.

use std::sync::Arc;
use std::time::Instant;

use counter_core::presence::Viewers;
use counter_core::table::Table;
use futures::future::join_all;

use crate::members::Reach as _;
use crate::peers::{Peers, Question, TOTALS_PATH};
use crate::protocol::Routes;
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
    pub table: Arc<Table>,
    pub viewers: Arc<Viewers>,
    pub peers: Peers,
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
        let view = self.peers.protocol.view();
        let routes = view.routes.as_ref().ok_or(SiteError::NoLayout)?;
        self.totals.begin();
        join_all((0..routes.layout.shards.len()).map(|shard| self.gather(routes, shard))).await;
        Ok(self.totals.gathered(Instant::now())?)
    }

    /// Asks one shard, replica after replica until one answers.
    async fn gather(&self, routes: &Routes, shard: usize) {
        let said = if routes.mine() == Some(shard) && self.peers.protocol.is_serving() {
            Some(SlotTotals::of(&self.table, &self.viewers, self.peers.protocol.freshness()))
        } else {
            let question = Question { path: TOTALS_PATH, body: (), time: GATHER_TIMEOUT };
            // A replica that owns nothing is starting: another may know.
            let take = |said: SlotTotals| (!said.owned.is_empty()).then_some(said);
            self.peers.first(routes.layout.shards[shard].nodes.iter(), question, take).await
        };
        if let Some(said) = said {
            self.totals.take(&routes.layout, routes.owners(), shard, &said, Instant::now());
        }
    }
}
