//! The pages that most look at now: each shard's busiest, from one of its replicas, put together. A page lies in one shard, so the
//! busiest of all are among the busiest of each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::counter::Key;
use counter_core::id::ShardId;
use counter_core::layout::Shard;
use counter_core::message::Envelope;
use counter_core::presence::Viewers;
use counter_core::slot::Slot;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::peers::{PeerClient, TOP_PATH};
use crate::protocol::{Protocol, Routes};
use crate::tokens::ClusterTokens;

/// Pages of one answer, at the most.
pub const TOP_MAX: usize = 100;
/// How long a shard may take to answer, all of its replicas together.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Which pages are asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// At most [`TOP_MAX`].
    pub limit: usize,
    /// What they begin with.
    pub prefix: Vec<u8>,
}

/// Pages with their viewers, most first; equal ones by their names.
pub type Busiest = Vec<(Key, u64)>;

/// Why there is no list: a part of it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopError {
    #[error("this node has no layout yet")]
    NoLayout,
    #[error("no replica of shard {0} says who looks at its pages")]
    Silent(ShardId),
}

/// The way to the busiest pages.
pub struct Top {
    pub protocol: Arc<Protocol>,
    pub viewers: Arc<Viewers>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
}

impl Top {
    /// The busiest pages of this node's shard; none when this node does not know all of its viewers.
    #[must_use]
    pub fn here(&self, asked: &Asked) -> Option<Busiest> {
        let view = self.protocol.view();
        let routes = view.routes.as_ref().filter(|_| view.is_serving())?;
        routes.mine()?;
        let is_known = Slot::all().filter(|slot| routes.is_mine(*slot)).all(|slot| self.viewers.is_known(slot));
        is_known.then(|| self.viewers.top(asked.limit.min(TOP_MAX), &asked.prefix))
    }

    /// The busiest pages of the cluster.
    ///
    /// # Errors
    /// [`TopError`] when some shard does not answer.
    pub async fn pages(&self, asked: &Asked) -> Result<Busiest, TopError> {
        let view = self.protocol.view();
        let routes = view.routes.as_ref().ok_or(TopError::NoLayout)?;
        let shards = routes.layout.shards.iter().enumerate();
        let said = join_all(shards.map(|(index, shard)| self.of_shard(routes, index, shard, asked))).await;
        let mut pages: Busiest = said.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        pages.sort_unstable_by(|(page, viewers), (other, others)| others.cmp(viewers).then_with(|| page.cmp(other)));
        pages.truncate(asked.limit.min(TOP_MAX));
        Ok(pages)
    }

    async fn of_shard(&self, routes: &Routes, index: usize, shard: &Shard, asked: &Asked) -> Result<Busiest, TopError> {
        if routes.mine() == Some(index)
            && let Some(pages) = self.here(asked)
        {
            return Ok(pages);
        }
        let each = TIMEOUT / u32::try_from(shard.nodes.len()).unwrap_or(u32::MAX).max(1);
        for node in shard.nodes.iter().filter(|node| node.name != *self.protocol.me()) {
            let envelope = Envelope { header: self.protocol.header(Some(node.name.clone())), body: asked };
            let body = Bytes::from(envelope.encode());
            let post = self.client.post(&self.tokens, &node.peer, TOP_PATH, &node.name.0, body);
            let Ok(Ok(answer)) = tokio::time::timeout(each, post).await else { continue };
            let Ok(Envelope { body: Some(pages), .. }) = Envelope::<Option<Busiest>>::decode(&answer) else { continue };
            return Ok(pages);
        }
        Err(TopError::Silent(shard.shard))
    }
}
