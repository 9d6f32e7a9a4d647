//! What clients know as one page: its own key and, where the layout spreads it, its virtual shards. An update goes to one
//! of them, a read sums them all, and nobody outside need know.
//!
//! **Invariants.**
//! - A read sums the page's own key and as many virtual shards as ever were written to, whatever the count is now.
//! - An update is applied under one key; it is tried under another only after it was certainly not applied.
//! - A part that does not answer contributes what it said last, and the answer says how old that is; one that was never
//!   heard makes the read fail, and an update too, before it is applied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use counter_core::id::ClusterId;
use counter_core::key::Key;
use counter_core::layout::Spread;
use counter_core::marks::MARKS_MAX;
use counter_core::vector::{self, Bounds};
use futures::future::join_all;
use rand::seq::IndexedRandom as _;

use crate::http::Backend;
use crate::lock::lock;
use crate::overview::ClusterOverview;
use crate::own_writes::OwnWrites;
use crate::protocol::Protocol;
use crate::router::{Action, Detailed, Failure, Reading, Router, Write};
use crate::top::{Asked, Busiest};

/// Under how many keys an update is tried.
const TRIES: usize = 3;
/// Parts remembered; more than the hottest pages have. Above that all are forgotten, and heard again with the next read.
const REMEMBERED_MAX: usize = 16_384;

/// Which pages are spread, and what of them is here.
pub trait Placement: Send + Sync + 'static {
    /// Over how many virtual shards the page is spread. What is no page, as modifications, never is.
    fn spread(&self, page: &Key) -> Spread;
    /// Whether this node serves the key itself.
    fn is_here(&self, key: &Key) -> bool;
}

impl Placement for Arc<Protocol> {
    fn spread(&self, page: &Key) -> Spread {
        Protocol::spread(self, page)
    }

    fn is_here(&self, key: &Key) -> bool {
        self.serves(key.slot())
    }
}

/// Pages over the counters that they are kept in.
#[derive(Debug)]
pub struct Pages<B, P> {
    counters: B,
    placement: P,
    /// What the parts that are elsewhere said last.
    remembered: Mutex<HashMap<Key, (Reading, Instant)>>,
}

/// The pages of a node.
pub type NodePages = Pages<Arc<Router>, Arc<Protocol>>;

impl<B: Backend, P: Placement> Pages<B, P> {
    /// Pages that are kept in `counters`, spread as `placement` says.
    #[must_use]
    pub fn new(counters: B, placement: P) -> Self {
        Self { counters, placement, remembered: Mutex::default() }
    }

    async fn update_spread(&self, writes: &OwnWrites, page: &Key, write: Write, spread: Spread) -> Result<Reading, Failure> {
        match write.action {
            Action::Increment(_) | Action::Decrement(_) => self.update_one(writes, page, write, spread).await,
            // No page is spread that this is done to, see `Placement`.
            Action::Raise { .. } => self.counters.update_after(writes, page.clone(), write).await,
            Action::Reset | Action::Set(_) if write.token.is_some() => self.update_all_once(writes, page, write, spread).await,
            Action::Reset | Action::Set(_) => Ok(self.update_all(writes, parts(page, spread), write).await?.0),
        }
    }

    /// Applies the update under one key, and sums what that came to with all others.
    async fn update_one(&self, writes: &OwnWrites, page: &Key, write: Write, spread: Spread) -> Result<Reading, Failure> {
        let known = self.know_all(writes, page, spread).await.map_err(not_applied)?;
        // A token is known under the key where it was counted. The page's own is the one that stays whatever the layout says.
        let mut candidates = if write.token.is_some() { vec![page.clone()] } else { candidates(page, spread) };
        let mut failed = None;
        for _ in 0..TRIES {
            let Some(key) = self.pick(&mut candidates) else { break };
            let others = parts(page, spread).filter(|part| *part != key).map(async |part| {
                let last = known.get(&part).copied();
                self.read_part(writes, part).await.or_else(|failure| last.ok_or(failure))
            });
            let (updated, others) = futures::join!(self.counters.update_after(writes, key.clone(), write), join_all(others));
            match updated {
                Ok(updated) => {
                    let total = sum(others.into_iter().flatten().chain([updated]));
                    return Ok(Reading { replayed: updated.replayed, ..total });
                }
                Err(failure @ (Failure::NotApplied { .. } | Failure::ReadOnly { .. } | Failure::Behind { .. })) => {
                    failed = Some(failure)
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(failed
            .unwrap_or_else(|| Failure::NotApplied { reason: "no virtual shard takes updates".to_owned(), retry_after_s: 1 }))
    }

    /// A reading of every part that is elsewhere: remembered, or else asked for now. Of what the client has written itself one that
    /// shows that.
    async fn know_all(&self, writes: &OwnWrites, page: &Key, spread: Spread) -> Result<HashMap<Key, Reading>, Failure> {
        let may_fail = |key: &Key| !self.placement.is_here(key) || writes.names(key);
        let elsewhere: Vec<Key> = parts(page, spread).filter(may_fail).collect();
        let readings = join_all(elsewhere.into_iter().map(async |key| {
            let reading = match self.recall(&key).filter(|_| !writes.names(&key)) {
                Some((reading, _)) => reading,
                None => self.read_part(writes, key.clone()).await?,
            };
            Ok((key, reading))
        }));
        readings.await.into_iter().collect()
    }

    /// Resets or sets every part under a token. The page's own key comes last: where it knows the token all parts have been updated,
    /// and those that have come since are left alone, whose counts are younger.
    async fn update_all_once(&self, writes: &OwnWrites, page: &Key, write: Write, spread: Spread) -> Result<Reading, Failure> {
        check_marks(writes, parts(page, spread).count())?;
        if self.knows_token(writes, page, write).await? {
            self.counters.update_after(writes, page.clone(), write).await?;
            if writes.are_told() {
                self.mark_known(writes, page, write, spread).await?;
            }
            return self.replayed(writes, page).await;
        }
        let (others, any_replayed) = self.update_all(writes, parts(page, spread).skip(1), write).await?;
        let Ok((own, _)) = self.update_all(writes, std::iter::once(page.clone()), write).await else { return Err(partly()) };
        // What the first try has taken from some parts is not known any more.
        if any_replayed { self.replayed(writes, page).await } else { Ok(sum([own, others].into_iter())) }
    }

    /// The answer to an update that was applied before, as far as it could be.
    async fn replayed(&self, writes: &OwnWrites, page: &Key) -> Result<Reading, Failure> {
        let now = self.read_page(writes, page.clone()).await?;
        Ok(Reading { replayed: true, ..now })
    }

    /// Repeats the update where it was applied before, for the client's session to show it, and nowhere else.
    async fn mark_known(&self, writes: &OwnWrites, page: &Key, write: Write, spread: Spread) -> Result<(), Failure> {
        let marked = parts(page, spread).skip(1).map(async |part| {
            let write = write.cleared();
            if self.knows_token(writes, &part, write).await? {
                self.counters.update_after(writes, part, write).await?;
            }
            Ok(())
        });
        join_all(marked).await.into_iter().collect()
    }

    /// Whether a counter knows the token of an update, asked by one that is refused in any case: for the token, or because it would take
    /// any counter past its range.
    async fn knows_token(&self, writes: &OwnWrites, key: &Key, write: Write) -> Result<bool, Failure> {
        let before = self.counters.read_after(writes, key.clone()).await.map_err(not_applied)?;
        let beyond = if before.tally < 0 { Action::Decrement(u64::MAX) } else { Action::Increment(u64::MAX) };
        match self.counters.update_after(writes, key.clone(), Write { action: beyond, ..write }).await {
            Err(Failure::TokenReused) => Ok(true),
            Err(Failure::Range { .. }) => Ok(false),
            Err(failure) => Err(failure),
            Ok(_) => Err(partly()),
        }
    }

    /// Updates every part. The sum is of what they answered, and beside it stands whether any of them had been updated before. A page is set
    /// by its own key, and its virtual shards to nothing: each answers with what that replaced, so that the sum is exact.
    async fn update_all(
        &self,
        writes: &OwnWrites,
        keys: impl Iterator<Item = Key>,
        write: Write,
    ) -> Result<(Reading, bool), Failure> {
        let keys: Vec<Key> = keys.collect();
        check_marks(writes, keys.len())?;
        // Before anything is applied: none of them is to be refused then because it does not show the client's own writes.
        let written = keys.iter().filter(|key| writes.names(key)).map(|key| self.counters.read_after(writes, key.clone()));
        for reading in join_all(written).await {
            reading.map_err(not_applied)?;
        }
        let updates = keys.into_iter().map(|key| {
            let write = if key.is_virtual_shard() { write.cleared() } else { write };
            self.counters.update_after(writes, key, write)
        });
        let results = join_all(updates).await;
        let applied = results.iter().filter(|result| result.is_ok()).count();
        match results.into_iter().collect::<Result<Vec<Reading>, Failure>>() {
            Ok(readings) => {
                let any_replayed = readings.iter().any(|reading| reading.replayed);
                Ok((sum(readings.into_iter()), any_replayed))
            }
            Err(failure) if applied == 0 => Err(failure),
            Err(_) => Err(partly()),
        }
    }

    async fn read_page(&self, writes: &OwnWrites, page: Key) -> Result<Reading, Failure> {
        let spread = self.placement.spread(&page);
        if spread.ever_count == 0 {
            return self.counters.read_after(writes, page).await;
        }
        Box::pin(self.read_spread(writes, &page, spread)).await
    }

    async fn read_spread(&self, writes: &OwnWrites, page: &Key, spread: Spread) -> Result<Reading, Failure> {
        let readings = join_all(parts(page, spread).map(|key| self.read_part(writes, key))).await;
        Ok(sum(readings.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter()))
    }

    /// What a part says; or what it said last, if it does not answer and the client has not written it itself.
    async fn read_part(&self, writes: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        match self.counters.read_after(writes, key.clone()).await {
            Ok(reading) => {
                if !self.placement.is_here(&key) {
                    self.remember(key, reading);
                }
                Ok(reading)
            }
            Err(failure) if writes.names(&key) => Err(failure),
            Err(failure) => self.recall(&key).map(|(reading, _)| reading).ok_or(failure),
        }
    }

    async fn read_part_detailed(&self, writes: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        match self.counters.read_detailed_after(writes, key.clone()).await {
            Ok(detailed) => {
                if !self.placement.is_here(&key) {
                    self.remember(key, detailed.reading);
                }
                Ok(detailed)
            }
            Err(failure) if writes.names(&key) => Err(failure),
            Err(failure) => {
                let (reading, staleness_ms) = self.recall(&key).ok_or(failure)?;
                Ok(Detailed { reading, staleness_ms, replicas: 0, bounds: None, unique: None })
            }
        }
    }

    fn remember(&self, key: Key, reading: Reading) {
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(&key) {
            remembered.clear();
        }
        remembered.insert(key, (reading, Instant::now()));
    }

    /// What a part said last, and how many milliseconds ago.
    fn recall(&self, key: &Key) -> Option<(Reading, u64)> {
        let (reading, heard) = lock(&self.remembered).get(key).copied()?;
        Some((reading, u64::try_from(heard.elapsed().as_millis()).unwrap_or(u64::MAX)))
    }

    /// Takes a candidate: any of those that are here, else any.
    fn pick(&self, candidates: &mut Vec<Key>) -> Option<Key> {
        let here: Vec<usize> = (0..candidates.len()).filter(|index| self.placement.is_here(&candidates[*index])).collect();
        let all: Vec<usize> = (0..candidates.len()).collect();
        let index = here.choose(&mut rand::rng()).or_else(|| all.choose(&mut rand::rng()))?;
        Some(candidates.swap_remove(*index))
    }
}

impl<B: Backend, P: Placement> Backend for Arc<Pages<B, P>> {
    async fn update_after(&self, writes: &OwnWrites, page: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        let write = write.into();
        match self.placement.spread(&page) {
            Spread { ever_count: 0, .. } => self.counters.update_after(writes, page, write).await,
            // Boxed, so that updates of all other pages have no room for it.
            spread => Box::pin(self.update_spread(writes, &page, write, spread)).await,
        }
    }

    async fn read_after(&self, writes: &OwnWrites, page: Key) -> Result<Reading, Failure> {
        self.read_page(writes, page).await
    }

    async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        if updates.iter().all(|(page, _)| self.placement.spread(page).ever_count == 0) {
            return self.counters.update_many_after(writes, updates).await;
        }
        let is_plain = |(_, (page, _)): &(usize, (Key, Write))| self.placement.spread(page).ever_count == 0;
        let (plain, spread): (Vec<_>, Vec<_>) = updates.into_iter().enumerate().partition(is_plain);
        let (places, plain): (Vec<usize>, Vec<(Key, Write)>) = plain.into_iter().unzip();
        let spread = spread.into_iter().map(async |(place, (page, write))| (place, self.update_after(writes, page, write).await));
        let (plain, spread) = futures::join!(self.counters.update_many_after(writes, plain), join_all(spread));
        let mut results: Vec<_> = places.into_iter().zip(plain).chain(spread).collect();
        results.sort_unstable_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, result)| result).collect()
    }

    async fn read_many_after(&self, writes: &OwnWrites, pages: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        if pages.iter().all(|page| self.placement.spread(page).ever_count == 0) {
            return self.counters.read_many_after(writes, pages).await;
        }
        join_all(pages.into_iter().map(|page| self.read_page(writes, page))).await
    }

    async fn read_detailed_after(&self, writes: &OwnWrites, page: Key) -> Result<Detailed, Failure> {
        let spread = self.placement.spread(&page);
        if spread.ever_count == 0 {
            let detailed = self.counters.read_detailed_after(writes, page.clone()).await?;
            let bounds = match detailed.bounds {
                None => self.counters.bounds(page, detailed.replicas).await,
                known => known,
            };
            return Ok(Detailed { bounds, ..detailed });
        }
        let parts = join_all(parts(&page, spread).map(|key| self.read_part_detailed(writes, key))).await;
        let parts = parts.into_iter().collect::<Result<Vec<Detailed>, Failure>>()?;
        // As fresh as its least fresh part, with as many replicas behind it as behind the part that has fewest.
        Ok(Detailed {
            reading: sum(parts.iter().map(|part| part.reading)),
            staleness_ms: parts.iter().map(|part| part.staleness_ms).max().unwrap_or_default(),
            replicas: parts.iter().map(|part| part.replicas).min().unwrap_or_default(),
            // Each part's bounds are of a moment of its own, but where nobody else counts.
            bounds: parts.iter().try_fold(Bounds::exactly(0), |sum, part| Some(sum.plus(part.bounds?))),
            // Only the page's own key, the first part, has viewers.
            unique: parts.first().and_then(|part| part.unique),
        })
    }

    async fn bounds(&self, page: Key, heard: u32) -> Option<Bounds> {
        self.counters.bounds(page, heard).await
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        self.counters.site().await
    }

    async fn top(&self, asked: &Asked) -> Result<(Busiest, Duration), Failure> {
        self.counters.top(asked).await
    }

    fn pages(&self, limit: usize) -> Vec<Key> {
        self.counters.pages(limit)
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.counters.cluster()
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        self.counters.overview().await
    }
}

impl Write {
    /// What a reset or a set of a page does to one of its virtual shards.
    fn cleared(self) -> Self {
        match self.action {
            Action::Set(_) => Self { action: Action::Set(0), ..self },
            _ => self,
        }
    }
}

/// Every key that a page is counted under.
fn parts(page: &Key, spread: Spread) -> impl Iterator<Item = Key> {
    std::iter::once(page.clone()).chain((0..spread.ever_count).map(|index| page.virtual_shard(index)))
}

/// The keys that an update may go to.
fn candidates(page: &Key, spread: Spread) -> Vec<Key> {
    match spread.count {
        0 => vec![page.clone()],
        count => (0..count).map(|index| page.virtual_shard(index)).collect(),
    }
}

fn sum(parts: impl Iterator<Item = Reading>) -> Reading {
    let add = |total: vector::Reading, part: Reading| vector::Reading {
        tally: total.tally.saturating_add(part.tally),
        updated_at: total.updated_at.max(part.updated_at),
        exists: total.exists || part.exists,
        viewers: total.viewers.saturating_add(part.viewers),
    };
    Reading::from(parts.fold(vector::Reading::UNKNOWN, add))
}

/// An answer in a session names every counter that was written.
fn check_marks(writes: &OwnWrites, counters: usize) -> Result<(), Failure> {
    if writes.are_told() && counters > MARKS_MAX {
        return Err(Failure::TooManyMarks { counters, limit: MARKS_MAX });
    }
    Ok(())
}

fn partly() -> Failure {
    Failure::OutcomeUnknown { reason: "some virtual shards did not take the update, others did".to_owned() }
}

/// A read that came before an update and failed: so nothing was applied.
fn not_applied(failure: Failure) -> Failure {
    match failure {
        Failure::OutcomeUnknown { reason } => Failure::NotApplied { reason, retry_after_s: 1 },
        failure => failure,
    }
}

#[cfg(test)]
#[path = "pages/tests.rs"]
mod tests;
