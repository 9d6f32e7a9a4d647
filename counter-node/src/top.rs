//! The pages that most look at now: each shard's busiest, from one of its replicas, put together. A page lies in one shard, so the
//! busiest of all are among the busiest of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use counter_core::counter::Key;
use counter_core::id::ShardId;
use counter_core::layout::{LayoutVersion, Shard};
use counter_core::presence::Viewers;
use counter_core::slot::Slot;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use crate::lock::lock;
use crate::members::Reach as _;
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
/// How soon shards are asked again that have answered by different layouts, and how often they are asked at most.
const AGAIN: Duration = Duration::from_millis(50);
const ROUNDS_MAX: u32 = 3;

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

/// The busiest pages of one shard, as one of its replicas says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfShard {
    /// By which the replica knows which pages are its shard's.
    layout: LayoutVersion,
    pages: Busiest,
}

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
    pub fn here(&self, asked: &Asked) -> Option<OfShard> {
        let view = self.peers.protocol.view();
        let routes = view.routes.as_ref().filter(|_| view.is_serving())?;
        routes.mine()?;
        let is_known = Slot::all().filter(|slot| routes.is_mine(*slot)).all(|slot| self.viewers.is_known(slot));
        let layout = routes.layout.version;
        is_known.then(|| OfShard { layout, pages: self.viewers.top(asked.limit.min(TOP_MAX), &asked.prefix) })
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
        let (began, list) = self.gather(&Asked { limit: TOP_MAX, prefix: prefix.clone() }).await?;
        let list = Arc::new(list);
        self.recent.keep(prefix, began, list.clone());
        Ok(first((began.elapsed(), list)))
    }

    /// All shards' lists together, and since when they are what is. While a new layout goes round, two shards may both have a page that
    /// moves, or neither: they are asked again then, if it does not take long.
    async fn gather(&self, asked: &Asked) -> Result<(Instant, Busiest), TopError> {
        let mut rounds = 0;
        loop {
            let began = Instant::now();
            rounds += 1;
            let view = self.peers.protocol.view();
            let routes = view.routes.as_ref().ok_or(TopError::NoLayout)?;
            let shards = routes.layout.shards.iter().enumerate();
            let said = join_all(shards.map(|(index, shard)| self.of_shard(routes, index, shard, asked))).await;
            let said: Vec<OfShard> = said.into_iter().collect::<Result<_, _>>()?;
            if said.windows(2).all(|pair| pair[0].layout == pair[1].layout) || rounds == ROUNDS_MAX {
                return Ok((began, together(said)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn of_shard(&self, routes: &Routes, index: usize, shard: &Shard, asked: &Asked) -> Result<OfShard, TopError> {
        if routes.mine() == Some(index)
            && let Some(said) = self.here(asked)
        {
            return Ok(said);
        }
        let question = Question { path: TOP_PATH, body: asked, time: TIMEOUT };
        let said = self.peers.first(shard.nodes.iter(), question, |said: Option<OfShard>| said);
        said.await.ok_or(TopError::Silent(shard.shard))
    }
}

/// The busiest pages of all. One that two shards name, since it moves, is there once, by the greater of its numbers: whoever has just
/// got it may not have heard of all its viewers.
fn together(said: Vec<OfShard>) -> Busiest {
    let mut by_page: HashMap<Key, u64> = HashMap::new();
    for (page, viewers) in said.into_iter().flat_map(|of_shard| of_shard.pages) {
        let known = by_page.entry(page).or_default();
        *known = viewers.max(*known);
    }
    let mut pages: Busiest = by_page.into_iter().collect();
    pages.sort_unstable_by(|(page, viewers), (other, others)| others.cmp(viewers).then_with(|| page.cmp(other)));
    pages.truncate(TOP_MAX);
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_of_all_are_those_of_a_model_and_a_page_that_moves_is_there_once() {
        let of_shard = |shard: u64, pages: &Busiest| {
            let mine = |page: &Key| page.slot().index() as u64 % 3 == shard;
            let mut own: Busiest = pages.iter().filter(|(page, _)| mine(page)).cloned().collect();
            own.sort_by_key(|(page, viewers)| (std::cmp::Reverse(*viewers), page.clone()));
            own.truncate(TOP_MAX);
            OfShard { layout: LayoutVersion(1), pages: own }
        };
        // Many have equally many viewers, about the hundredth place, too.
        let page = |number: u64| (Key::new(format!("page-{number}").as_bytes()).unwrap(), number * 7919 % 40 + 1);
        let all: Busiest = (0..1_000).map(page).collect();
        let mut said: Vec<OfShard> = (0..3).map(|shard| of_shard(shard, &all)).collect();
        let mut expected = all.clone();
        expected.sort_by_key(|(page, viewers)| (std::cmp::Reverse(*viewers), page.clone()));
        expected.truncate(TOP_MAX);
        assert_eq!(together(said.clone()), expected);
        // Another shard has begun to hear of the busiest one.
        let busiest = expected[0].0.clone();
        said.push(OfShard { layout: LayoutVersion(2), pages: vec![(busiest, 1)] });
        assert_eq!(together(said), expected);
    }

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
