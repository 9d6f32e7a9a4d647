//! The pages that most look at now: each shard's busiest, from one of its replicas, put together. A page lies in one shard, so the
//! busiest of all are among the busiest of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use counter_core::counter::Key;
use counter_core::id::ShardId;
use counter_core::layout::Shard;
use counter_core::presence::Viewers;
use counter_core::slot::Slot;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::lock::lock;
use crate::peers::{Peers, Question, TOP_PATH};
use crate::protocol::Routes;

/// Pages of one answer, at the most.
pub const TOP_MAX: usize = 100;
/// For how long a gathered list serves further readers.
const FRESH: Duration = Duration::from_millis(250);
/// Lists that are kept, each of another prefix.
const KEPT_MAX: usize = 64;
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
    pub viewers: Arc<Viewers>,
    pub peers: Peers,
    pub recent: Recent,
}

/// What was gathered a moment ago.
#[derive(Debug, Default)]
pub struct Recent {
    /// By prefix.
    lists: Mutex<HashMap<Vec<u8>, Gathered>>,
    /// Held while the list of all pages is gathered: who comes meanwhile waits for the same round.
    gathering: tokio::sync::Mutex<()>,
}

/// When gathering began, and what it gave.
type Gathered = (Instant, Arc<Busiest>);

impl Recent {
    /// The list of a prefix, and how old it is.
    fn fresh(&self, prefix: &[u8], now: Instant) -> Option<(Duration, Arc<Busiest>)> {
        let lists = lock(&self.lists);
        let (gathered, list) = lists.get(prefix)?;
        let age = now.saturating_duration_since(*gathered);
        (age < FRESH).then(|| (age, list.clone()))
    }

    fn keep(&self, prefix: &[u8], gathered: Instant, list: Arc<Busiest>) {
        let mut lists = lock(&self.lists);
        if lists.len() >= KEPT_MAX {
            lists.retain(|_, (kept, _)| gathered.saturating_duration_since(*kept) < FRESH);
        }
        if lists.len() < KEPT_MAX {
            lists.insert(prefix.to_vec(), (gathered, list));
        }
    }
}

impl Top {
    /// The busiest pages of this node's shard; none when this node does not know all of its viewers.
    #[must_use]
    pub fn here(&self, asked: &Asked) -> Option<Busiest> {
        let view = self.peers.protocol.view();
        let routes = view.routes.as_ref().filter(|_| view.is_serving())?;
        routes.mine()?;
        let is_known = Slot::all().filter(|slot| routes.is_mine(*slot)).all(|slot| self.viewers.is_known(slot));
        is_known.then(|| self.viewers.top(asked.limit.min(TOP_MAX), &asked.prefix))
    }

    /// The busiest pages of the cluster, at most a moment old, and how old.
    ///
    /// # Errors
    /// [`TopError`] when some shard does not answer.
    pub async fn pages(&self, Asked { limit, prefix }: &Asked) -> Result<(Busiest, Duration), TopError> {
        let first = |(age, list): (Duration, Arc<Busiest>)| (list.iter().take(*limit).cloned().collect(), age);
        if let Some(recent) = self.recent.fresh(prefix, Instant::now()) {
            return Ok(first(recent));
        }
        let _turn = if prefix.is_empty() { Some(self.recent.gathering.lock().await) } else { None };
        if let Some(recent) = self.recent.fresh(prefix, Instant::now()) {
            return Ok(first(recent));
        }
        let began = Instant::now();
        let list = Arc::new(self.gather(&Asked { limit: TOP_MAX, prefix: prefix.clone() }).await?);
        self.recent.keep(prefix, began, list.clone());
        Ok(first((began.elapsed(), list)))
    }

    async fn gather(&self, asked: &Asked) -> Result<Busiest, TopError> {
        let view = self.peers.protocol.view();
        let routes = view.routes.as_ref().ok_or(TopError::NoLayout)?;
        let shards = routes.layout.shards.iter().enumerate();
        let said = join_all(shards.map(|(index, shard)| self.of_shard(routes, index, shard, asked))).await;
        let mut pages: Busiest = said.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        pages.sort_unstable_by(|(page, viewers), (other, others)| others.cmp(viewers).then_with(|| page.cmp(other)));
        pages.truncate(TOP_MAX);
        Ok(pages)
    }

    async fn of_shard(&self, routes: &Routes, index: usize, shard: &Shard, asked: &Asked) -> Result<Busiest, TopError> {
        if routes.mine() == Some(index)
            && let Some(pages) = self.here(asked)
        {
            return Ok(pages);
        }
        let question = Question { path: TOP_PATH, body: asked, time: TIMEOUT };
        let pages = self.peers.first(shard.nodes.iter(), question, |said: Option<Busiest>| said);
        pages.await.ok_or(TopError::Silent(shard.shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_serves_for_a_moment_and_as_many_are_kept_as_may_be() {
        let (recent, began) = (Recent::default(), Instant::now());
        let list = Arc::new(vec![(Key::new(b"a").unwrap(), 3)]);
        recent.keep(b"", began, list.clone());
        let later = began + Duration::from_millis(100);
        assert_eq!(recent.fresh(b"", later), Some((Duration::from_millis(100), list.clone())));
        assert_eq!((recent.fresh(b"a", later), recent.fresh(b"", began + FRESH)), (None, None));
        for prefix in 0..100_u8 {
            recent.keep(&[prefix], later, list.clone());
        }
        assert_eq!(lock(&recent.lists).len(), KEPT_MAX);
        // Old ones make room.
        recent.keep(b"new", later + FRESH, list.clone());
        assert_eq!(lock(&recent.lists).len(), 1);
        assert!(recent.fresh(b"new", later + FRESH).is_some());
    }
}
