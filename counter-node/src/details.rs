//! Reads that say how fresh they are: by this replica if it owns the counter, else by the first owner that answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::forward::{NotApplied, ReadItem};
use counter_core::layout::Node;
use counter_core::message::Envelope;
use counter_core::presence::Viewers;
use counter_core::replica::Freshness;
use counter_core::table::Table;
use counter_core::vector::Reading;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::own_writes::SEEN_TIMEOUT;
use crate::peers::{DETAIL_PATH, PeerClient};
use crate::protocol::Protocol;
use crate::tokens::ClusterTokens;

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
    pub protocol: Arc<Protocol>,
    pub table: Arc<Table>,
    pub viewers: Arc<Viewers>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
}

impl Details {
    /// What this node says.
    ///
    /// # Errors
    /// `NotOwner` when it does not own the counter, or does not serve yet, `Behind` when it has not seen the marks, `NotReady` when
    /// it does not know the page's viewers.
    pub fn here(&self, ReadItem { key, marks }: &ReadItem) -> Result<Detail, NotApplied> {
        let slot = key.slot();
        if !self.protocol.serves(slot) {
            return Err(NotApplied::NotOwner);
        }
        if !marks.is_empty() && !self.table.has_seen(key, marks) {
            return Err(NotApplied::Behind);
        }
        let viewers = self.viewers.read_in(slot, key.into()).ok_or(NotApplied::NotReady)?;
        let unique = self.viewers.unique(key).ok_or(NotApplied::NotReady)?;
        let reading = self.table.read_in(slot, key.into()).with(viewers);
        Ok(Detail { reading, freshness: self.protocol.freshness(), unique })
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
        let key = &item.key;
        let view = self.protocol.view();
        let routes = view.routes.as_ref().ok_or(NotApplied::NotReady)?;
        let nodes = &routes.layout.shards[routes.owners().index(key.slot())].nodes;
        // So that one that hangs leaves time for the others.
        let each = TIMEOUT / u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        let mut reason = NotApplied::Unreachable;
        for node in nodes.iter().filter(|node| node.name != *self.protocol.me()) {
            match tokio::time::timeout(each, self.ask(node, item)).await.ok().flatten() {
                Some(Ok(detail)) => return Ok(detail),
                Some(Err(NotApplied::Behind)) => reason = NotApplied::Behind,
                Some(Err(_)) | None => tracing::debug!(peer = %node.name, "no details from this replica"),
            }
        }
        Err(reason)
    }

    async fn ask(&self, node: &Node, item: &ReadItem) -> Option<Result<Detail, NotApplied>> {
        let envelope = Envelope { header: self.protocol.header(Some(node.name.clone())), body: item };
        let body = Bytes::from(envelope.encode());
        let answer = self.client.post(&self.tokens, &node.peer, DETAIL_PATH, &node.name.0, body).await.ok()?;
        Some(Envelope::<Result<Detail, NotApplied>>::decode(&answer).ok()?.body)
    }
}
