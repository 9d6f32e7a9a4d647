//! The requests of one read, executed together: what is this node's at once, with one commit for all; what is another's
//! beside it. Nothing of the output may be sent before [`Batch::finish`].

use std::ops::Range;
use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::key::{KeyRef, slot_of};
use counter_core::slot::Slot;

use super::away::{Ask, Away};
use super::reply::Replies;
use super::words::{self, Refused};
use crate::pages::NodePages;
use crate::router::{Action, Failure, Here, Pipeline, Reading, Router, Write};

/// How a counter's reading is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A number, as INCR does.
    Count,
    /// A value, or null when the counter does not exist, as GET does.
    Value,
    /// That all went well, as SET does.
    Ok,
}

impl Told {
    pub(super) fn write(self, reading: &Reading, out: &mut Replies) {
        match self {
            Self::Count => out.integer(reading.count),
            Self::Value if reading.exists || reading.viewers > 0 => out.number(reading.count),
            Self::Value => out.null(),
            Self::Ok => out.ok(),
        }
    }
}

/// How far a batch and its output are, for taking back what a client does not want to hear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    bytes: usize,
    told: usize,
    holes: usize,
}

/// The key of the last update, and its slot, which is not computed anew for each request of a hot one.
#[derive(Default)]
struct Last {
    bytes: Vec<u8>,
    slot: Option<Slot>,
}

impl Last {
    fn set<'k>(&mut self, bytes: &'k [u8]) -> Result<(Slot, KeyRef<'k>), Refused> {
        let key = KeyRef::new(bytes).map_err(words::key)?;
        let slot = self.slot.filter(|_| self.bytes == bytes).unwrap_or_else(|| {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            key.slot()
        });
        self.slot = Some(slot);
        Ok((slot, key))
    }

    fn get(&self) -> Option<(Slot, KeyRef<'_>)> {
        Some((self.slot?, KeyRef::new(&self.bytes).ok()?))
    }
}

/// Several additions in a row as one, and what one of them adds.
fn all_of(added: Action, times: usize) -> Option<(Action, i128)> {
    let of_all = |by: u64| by.checked_mul(u64::try_from(times).ok()?);
    match added {
        Action::Increment(by) => Some((Action::Increment(of_all(by)?), i128::from(by))),
        Action::Decrement(by) => Some((Action::Decrement(of_all(by)?), -i128::from(by))),
        Action::Reset | Action::Set(_) | Action::Raise { .. } => None,
    }
}

/// What the last but `left` of several additions, each of `one`, is answered, when the last has come to `reading`.
fn count_before(reading: &Reading, one: i128, left: usize) -> i64 {
    if reading.clamped {
        // An addition that leaves the sum outside of the range has come from further outside: see `Entry::changed_by`.
        return reading.count;
    }
    let earlier = i128::try_from(left).unwrap_or(0) * one;
    let count = (i128::from(reading.count) - earlier).clamp(i64::MIN.into(), i64::MAX.into());
    i64::try_from(count).unwrap_or(reading.count)
}

pub(super) struct Batch<'r> {
    pages: &'r Arc<NodePages>,
    pipeline: Pipeline<'r>,
    last: Last,
    /// What the request that is under way has added to the counter of the last key, if that is all that it did.
    added: Option<Action>,
    /// Where in the output updates are answered that are not durable yet.
    told: Vec<Range<usize>>,
    away: Away,
}

impl<'r> Batch<'r> {
    pub(super) fn new(router: &'r Router, pages: &'r Arc<NodePages>) -> Self {
        let pipeline = router.pipeline();
        Self { pages, pipeline, last: Last::default(), added: None, told: Vec::new(), away: Away::default() }
    }

    /// About so many updates will be made until [`Self::finish`].
    pub(super) fn expect(&mut self, updates: usize) {
        self.pipeline.expect(updates);
    }

    /// Requests for these counters are about to come.
    pub(super) fn warm(&self, keys: &[&[u8]]) {
        self.pipeline.warm(keys);
    }

    /// Whether the counter is this node's to serve now.
    pub(super) fn holds(&self, key: &Key) -> bool {
        self.pipeline.holds(key.slot(), key.as_bytes())
    }

    /// A request begins.
    pub(super) fn mark(&mut self, out: &Replies) -> Mark {
        self.added = None;
        Mark { bytes: out.len(), told: self.told.len(), holes: self.away.holes() }
    }

    /// Takes back what was answered since.
    pub(super) fn mute(&mut self, since: Mark, out: &mut Replies) {
        out.bytes.truncate(since.bytes);
        self.told.truncate(since.told);
        self.away.mute(since.holes, since.bytes);
    }

    /// Refuses what is no key.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Refused> {
        KeyRef::new(bytes).map(drop).map_err(words::key)
    }

    /// A key that a client sent.
    pub(super) fn key(&self, bytes: &[u8]) -> Result<Key, Refused> {
        Key::new(bytes).map_err(words::key)
    }

    /// Updates a counter and answers, now or at the end.
    pub(super) fn update(&mut self, key: &[u8], write: Write, told: Told, out: &mut Replies) -> Result<(), Refused> {
        let (slot, key) = self.last.set(key)?;
        match self.pipeline.update(slot, key, write) {
            Here::Done(reading) => {
                let start = out.len();
                told.write(&reading, out);
                self.told.push(start..out.len());
                self.added = Some(write.action).filter(|_| told == Told::Count && write.token.is_none());
            }
            Here::Failed(failure) => return Err(words::failure(&failure)),
            Here::Elsewhere => self.away.push(key.to_key(), Ask::from(write), told, out.len()),
        }
        Ok(())
    }

    /// Has the last request come so many times more, in one update. Returns how often that was done: each time or none.
    pub(super) fn again(&mut self, times: usize, out: &mut Replies) -> usize {
        let (Some(added), Some((slot, key))) = (self.added, self.last.get()) else { return 0 };
        let Some((all, one)) = all_of(added, times) else { return 0 };
        let Here::Done(reading) = self.pipeline.update(slot, key, all.into()) else { return 0 };
        for left in (0..times).rev() {
            let start = out.len();
            out.integer(count_before(&reading, one, left));
            self.told.push(start..out.len());
        }
        times
    }

    /// Reads a counter and answers, now or at the end.
    pub(super) fn read(&mut self, bytes: &[u8], told: Told, out: &mut Replies) -> Result<(), Refused> {
        match self.pipeline.read(slot_of(bytes), bytes) {
            Some(reading) => told.write(&reading, out),
            None => {
                let key = self.key(bytes)?;
                self.away.push(key, Ask::Read, told, out.len());
            }
        }
        Ok(())
    }

    /// Reads a counter of this node's.
    pub(super) fn read_here(&self, bytes: &[u8]) -> Option<Reading> {
        self.pipeline.read(slot_of(bytes), bytes)
    }

    /// Resets a counter of this node's if it exists, and says whether it did. None when it is not this node's to do.
    pub(super) fn reset_here(&mut self, bytes: &[u8]) -> Option<bool> {
        if !self.read_here(bytes)?.exists {
            return Some(false);
        }
        let (slot, key) = self.last.set(bytes).ok()?;
        match self.pipeline.update(slot, key, Action::Reset.into()) {
            Here::Done(_) => Some(true),
            Here::Failed(_) | Here::Elsewhere => None,
        }
    }

    /// What was written since `start` tells of updates that are not durable yet.
    pub(super) fn tells_since(&mut self, start: usize, out: &Replies) {
        self.told.push(start..out.len());
    }

    /// Makes durable what was applied, has done what is elsewhere's, and completes the output.
    pub(super) async fn finish(&mut self, out: &mut Replies) {
        let committed = if self.away.is_empty() {
            self.pipeline.commit().await
        } else {
            let (committed, ()) = futures::join!(self.pipeline.commit(), self.away.run(self.pages));
            committed
        };
        let failed = committed.err();
        if failed.is_some() || !self.away.is_empty() {
            self.complete(failed, out);
        }
        self.told.clear();
    }

    /// Puts the answers that came late into their places, and takes back those that turned out not to hold.
    fn complete(&mut self, failed: Option<Failure>, out: &mut Replies) {
        let mut complete = Replies { bytes: Vec::with_capacity(out.len() + 64), version: out.version };
        let taken_back = failed.map(|failure| words::failure(&failure));
        let mut taken_back_at = self.told.iter().filter(|_| taken_back.is_some()).peekable();
        let mut holes = self.away.take_answers().into_iter().peekable();
        let mut from = 0;
        loop {
            let next_hole = holes.peek().map_or(usize::MAX, |hole| hole.at);
            let next_told = taken_back_at.peek().map_or(usize::MAX, |told| told.start);
            if next_hole == usize::MAX && next_told == usize::MAX {
                break;
            }
            complete.bytes.extend_from_slice(&out.bytes[from..next_hole.min(next_told)]);
            if next_hole <= next_told {
                from = next_hole;
                holes.next().into_iter().for_each(|hole| hole.write(&mut complete));
            } else if let (Some(told), Some(error)) = (taken_back_at.next(), &taken_back) {
                from = told.end;
                complete.error(error);
            }
        }
        complete.bytes.extend_from_slice(&out.bytes[from..]);
        *out = complete;
    }
}

#[cfg(test)]
mod tests {
    use counter_core::counter::Update;
    use counter_core::hlc::Hlc;
    use counter_core::id::ActorId;
    use counter_core::table::{Table, TableLimits};
    use proptest::prelude::*;

    use super::*;

    fn table(start: i64) -> (Table, Key) {
        let limits = TableLimits { counters: 9, memory_bytes: 1 << 20, tokens: 9, token_window_ms: 600_000 };
        let (table, key) = (Table::new(1, limits), Key::new(b"page").unwrap());
        table.set_writer([key.slot()], Some(ActorId { origin: 1, incarnation: 1 }));
        table.apply(&key, Update::Set(start), None, Hlc(1)).unwrap();
        (table, key)
    }

    fn apply(table: &Table, key: &Key, action: Action) -> Option<Reading> {
        table.apply(key, Update::from(action), None, Hlc(2)).ok().map(|applied| Reading::from(applied.reading))
    }

    fn numbers() -> impl Strategy<Value = i64> {
        prop_oneof![-9..9_i64, (0..9_i64).prop_map(|below| i64::MAX - below), (0..9_i64).prop_map(|above| i64::MIN + above)]
    }

    proptest! {
        #[test]
        fn additions_in_a_row_are_answered_as_one_after_the_other(
            start in numbers(), by in numbers(), up in any::<bool>(), times in 1_usize..6,
        ) {
            let by = by.unsigned_abs();
            let added = if up { Action::Increment(by) } else { Action::Decrement(by) };
            let (together, key) = table(start);
            let whole = all_of(added, times).and_then(|(all, one)| Some((apply(&together, &key, all)?, one)));
            // Where they cannot be applied together each is applied by itself, and the last ones may be refused.
            if let Some((reading, one)) = whole {
                let (apart, key) = table(start);
                for left in (0..times).rev() {
                    let count = apply(&apart, &key, added).map(|reading| reading.count);
                    prop_assert_eq!(count, Some(count_before(&reading, one, left)));
                }
            }
        }
    }
}
