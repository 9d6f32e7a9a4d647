//! Reads that say how fresh they are: by this replica if it owns the counter, else by the first owner that answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::counter::Key;
use counter_core::layout::Node;
use counter_core::message::Envelope;
use counter_core::replica::Freshness;
use counter_core::table::Table;
use counter_core::vector::Reading;
use serde::{Deserialize, Serialize};

use crate::peers::{DETAIL_PATH, PeerClient};
use crate::protocol::Protocol;
use crate::tokens::ClusterTokens;

/// How long the owner's replicas may take to answer, all together.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What an owner says of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    pub reading: Reading,
    pub freshness: Freshness,
}

/// The way to details.
pub struct Details {
    pub protocol: Arc<Protocol>,
    pub table: Arc<Table>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
}

impl Details {
    /// What this node says; none when it does not own the counter, or does not serve yet.
    #[must_use]
    pub fn here(&self, key: &Key) -> Option<Detail> {
        let serves = self.protocol.serves(key.slot());
        serves.then(|| Detail { reading: self.table.read(key), freshness: self.protocol.freshness() })
    }

    /// What the owner says; none when none of its replicas answers.
    pub async fn read(&self, key: &Key) -> Option<Detail> {
        if let Some(detail) = self.here(key) {
            return Some(detail);
        }
        let view = self.protocol.view();
        let routes = view.routes.as_ref()?;
        let nodes = &routes.layout.shards[routes.owners().index(key.slot())].nodes;
        // So that one that hangs leaves time for the others.
        let each = TIMEOUT / u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        for node in nodes.iter().filter(|node| node.name != *self.protocol.me()) {
            match tokio::time::timeout(each, self.ask(node, key)).await.ok().flatten() {
                Some(detail) => return Some(detail),
                None => tracing::debug!(peer = %node.name, "no details from this replica"),
            }
        }
        None
    }

    async fn ask(&self, node: &Node, key: &Key) -> Option<Detail> {
        let envelope = Envelope { header: self.protocol.header(Some(node.name.clone())), body: key };
        let body = Bytes::from(envelope.encode());
        let answer = self.client.post(&self.tokens, &node.peer, DETAIL_PATH, &node.name.0, body).await.ok()?;
        Envelope::<Option<Detail>>::decode(&answer).ok()?.body
    }
}
