//! Reads that say how fresh they are: by this replica if it owns the counter, else by the first owner that answers.

use std::sync::Arc;
use std::time::Duration;

use counter_core::forward::{NotApplied, ReadItem};
use counter_core::presence::Viewers;
use counter_core::replica::Freshness;
use counter_core::table::Table;
use counter_core::vector::Reading;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::members::Reach as _;
use crate::own_writes::SEEN_TIMEOUT;
use crate::peers::{DETAIL_PATH, Peers, Question};

/// How long the owner's replicas may take to answer, all together.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How soon replicas are asked again that have not seen a client's marks: each by a request of its own, so not with every tick.
const AGAIN: Duration = Duration::from_millis(200);

/// What an owner says of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    pub reading: Reading,
    pub freshness: Freshness,
    /// How many people the viewers are, and whether that is an estimate.
    pub unique: (u64, bool),
}

/// The way to details.
pub struct Details {
    pub table: Arc<Table>,
    pub viewers: Arc<Viewers>,
    pub peers: Peers,
}

impl Details {
    /// What this node says.
    ///
    /// # Errors
    /// `NotOwner` when it does not own the counter, or does not serve yet, `Behind` when it has not seen the marks, `NotReady` when
    /// it does not know the page's viewers.
    pub fn here(&self, ReadItem { key, marks }: &ReadItem) -> Result<Detail, NotApplied> {
        let slot = key.slot();
        if !self.peers.protocol.serves(slot) {
            return Err(NotApplied::NotOwner);
        }
        if !marks.is_empty() && !self.table.has_seen(key, marks) {
            return Err(NotApplied::Behind);
        }
        let viewers = self.viewers.read_in(slot, key.into()).ok_or(NotApplied::NotReady)?;
        let unique = self.viewers.unique(key).ok_or(NotApplied::NotReady)?;
        let reading = self.table.read_in(slot, key.into()).with(viewers);
        Ok(Detail { reading, freshness: self.peers.protocol.freshness(), unique })
    }

    /// What the owner says.
    ///
    /// # Errors
    /// `Unreachable` when none of its replicas answers; `Behind` when those that do have not seen the marks, for
    /// [`SEEN_TIMEOUT`].
    pub async fn read(&self, item: ReadItem) -> Result<Detail, NotApplied> {
        let deadline = Instant::now() + SEEN_TIMEOUT;
        loop {
            match self.read_once(&item).await {
                Err(NotApplied::Behind) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    async fn read_once(&self, item: &ReadItem) -> Result<Detail, NotApplied> {
        match self.here(item) {
            Err(NotApplied::NotOwner | NotApplied::NotReady) => self.read_elsewhere(item).await,
            outcome => outcome,
        }
    }

    /// What another replica of the owner says.
    ///
    /// # Errors
    /// As [`Self::read`], of those that were asked now.
    pub async fn read_elsewhere(&self, item: &ReadItem) -> Result<Detail, NotApplied> {
        let view = self.peers.protocol.view();
        let routes = view.routes.as_ref().ok_or(NotApplied::NotReady)?;
        let nodes = &routes.layout.shards[routes.owners().index(item.key.slot())].nodes;
        let mut reason = NotApplied::Unreachable;
        let question = Question { path: DETAIL_PATH, body: item, time: TIMEOUT };
        let detail = self.peers.first(nodes.iter(), question, |said: Result<Detail, NotApplied>| {
            if said == Err(NotApplied::Behind) {
                reason = NotApplied::Behind;
            }
            said.ok()
        });
        detail.await.ok_or(reason)
    }
}
