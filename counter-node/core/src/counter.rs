//! One counter: what each actor added and took away, what of it a reset has cleared, and how two copies merge.
//!
//! Every part only grows, and merging takes the maximum of each: so loss, repetition and reordering of messages change
//! nothing. **Tally = Σ entries + base − Σ baselines.**

mod adjustment;

use serde::{Deserialize, Serialize};

use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::unread::{Cursor, REGISTER, Subscription};

pub use adjustment::Observed;
pub(crate) use adjustment::{Adjustment, effect, entry_in, position};

pub use crate::key::{KEY_BYTES_MAX, Key, KeyError, KeyRef};

/// What one actor has added and taken away since it began. Only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub increments: u64,
    pub decrements: u64,
}

impl Entry {
    /// What an update adds to its actor's entry.
    fn of(update: Update) -> Self {
        match update {
            Update::Increment(by) => Self { increments: by, decrements: 0 },
            Update::Decrement(by) => Self { increments: 0, decrements: by },
            Update::Reset => Self::default(),
            Update::Set(to) => match to.signum() {
                1 => Self { increments: to.unsigned_abs(), decrements: 0 },
                -1 => Self { increments: 0, decrements: to.unsigned_abs() },
                // 0 leaves a trace, too, by which a counter that was set to it is told from one that was reset.
                _ => Self { increments: 1, decrements: 1 },
            },
            Update::Raise { generation, cursor } => Subscription { cursor, generation }.entry(),
        }
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self { increments: self.increments.max(other.increments), decrements: self.decrements.max(other.decrements) }
    }

    pub(crate) fn net(self) -> i128 {
        i128::from(self.increments).saturating_sub(i128::from(self.decrements))
    }

    /// Whether an entry of the same actor that is this high has all of `other` in it.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.max(other) == self
    }

    /// What `self` becomes when its actor changes a counter that stands at `tally`.
    pub(crate) fn changed_by(self, change: Self, tally: i128) -> Result<Self, OutOfRange> {
        let refused = OutOfRange { tally };
        let target = tally.saturating_add(change.net());
        // What concurrent updates have taken past the range may come back into it, one update at a time.
        let leaves = i64::try_from(target).is_err() && target.unsigned_abs() > tally.unsigned_abs();
        if leaves {
            return Err(refused);
        }
        let increments = self.increments.checked_add(change.increments).ok_or(refused)?;
        let decrements = self.decrements.checked_add(change.decrements).ok_or(refused)?;
        Ok(Self { increments, decrements })
    }
}

/// A sum of entries: what several actors added and took away together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    pub increments: u128,
    pub decrements: u128,
}

impl From<Entry> for Total {
    fn from(entry: Entry) -> Self {
        Self { increments: entry.increments.into(), decrements: entry.decrements.into() }
    }
}

impl Total {
    fn plus(self, entry: Entry) -> Self {
        Self {
            increments: self.increments.saturating_add(u128::from(entry.increments)),
            decrements: self.decrements.saturating_add(u128::from(entry.decrements)),
        }
    }

    pub(crate) fn max(self, other: Self) -> Self {
        Self { increments: self.increments.max(other.increments), decrements: self.decrements.max(other.decrements) }
    }

    pub(crate) fn net(self) -> i128 {
        let signed = |part: u128| i128::try_from(part).unwrap_or(i128::MAX);
        signed(self.increments).saturating_sub(signed(self.decrements))
    }

    fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// What retired actors have come to, for one counter and one generation of its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Σ of the retired actors' final entries.
    pub total: Total,
    /// How much of `total` resets have cleared.
    pub cleared: Total,
}

/// Entries or baselines by actor, in the actors' order.
type ByActor = Vec<(ActorId, Entry)>;

/// One replica's copy of a counter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    entries: ByActor,
    /// When it last changed; the clock's zero when never.
    updated_at: Hlc,
    /// Most counters are never reset and their actors seldom retire: what only these need stands apart.
    rest: Option<Box<Rest>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Rest {
    base: Base,
    /// Per actor that is not retired: how much of its entry resets have cleared.
    baselines: ByActor,
}

/// What a client asks of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Update {
    Increment(u64),
    Decrement(u64),
    /// Clears what this replica has observed; what others add at the same time survives.
    Reset,
    /// A reset and, in the same step, an update to this number. It is answered with what it replaced: so whoever sets a
    /// counter to 0 knows exactly what it took away.
    Set(i64),
    /// Raises a subscription to this, see [`crate::unread`]. Doing so again changes nothing, so it needs no token.
    Raise {
        generation: u32,
        cursor: Cursor,
    },
}

impl Update {
    /// What it adds to its actor's entry, where that is all that it does.
    pub(crate) fn change(self) -> Option<Entry> {
        match self {
            Self::Increment(by) => Some(Entry { increments: by, decrements: 0 }),
            Self::Decrement(by) => Some(Entry { increments: 0, decrements: by }),
            Self::Reset | Self::Set(_) | Self::Raise { .. } => None,
        }
    }
}

/// The update would take the counter, or what one actor can record, past its range. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the counter is at {tally}, and the update would take it past the range of a signed 64-bit number")]
pub struct OutOfRange {
    /// What this replica knows the counter to be.
    pub tally: i128,
}

impl Counter {
    /// What the counter comes to, as far as this replica knows.
    #[must_use]
    pub fn tally(&self) -> i128 {
        let entries = net(&self.entries);
        let Some(rest) = &self.rest else { return entries };
        entries.saturating_add(rest.base.total.net()).saturating_sub(rest.base.cleared.net()).saturating_sub(net(&rest.baselines))
    }

    /// When it last changed, if it ever did.
    #[must_use]
    pub fn updated_at(&self) -> Option<Hlc> {
        (self.updated_at > Hlc::default()).then_some(self.updated_at)
    }

    /// The actors that have entries or baselines of their own here.
    pub fn actors(&self) -> impl Iterator<Item = ActorId> {
        let baselines = self.rest.iter().flat_map(|rest| &rest.baselines);
        self.entries.iter().chain(baselines).map(|(actor, _)| *actor)
    }

    /// What retired actors have come to.
    #[must_use]
    pub fn base(&self) -> Base {
        self.rest.as_ref().map_or_else(Base::default, |rest| rest.base)
    }

    /// The counter of these parts; entries and baselines in the actors' order.
    pub(crate) fn of_parts(entries: ByActor, updated_at: Hlc, base: Base, baselines: ByActor) -> Self {
        let rest = Rest { base, baselines };
        Self { entries, updated_at, rest: (rest != Rest::default()).then(|| Box::new(rest)) }
    }

    /// What each actor has added and taken away, in the actors' order.
    #[must_use]
    pub fn entries(&self) -> &[(ActorId, Entry)] {
        &self.entries
    }

    /// How much of each actor's entry resets have cleared, in the actors' order.
    #[must_use]
    pub fn baselines(&self) -> &[(ActorId, Entry)] {
        self.rest.as_ref().map_or(&[], |rest| rest.baselines.as_slice())
    }

    /// Whether it has anything of resets, so that merging it is more than merging its entries.
    pub(crate) fn has_cleared(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.baselines.is_empty() || !rest.base.cleared.is_zero())
    }

    /// Applies an update as `actor`, at `now`.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing has changed then.
    pub fn apply(&mut self, actor: ActorId, update: Update, now: Hlc) -> Result<(), OutOfRange> {
        match update {
            Update::Increment(_) | Update::Decrement(_) => self.add(actor, Entry::of(update), self.tally())?,
            Update::Reset => {
                self.stamp(actor);
                self.reset();
            }
            Update::Set(to) => self.set(actor, to)?,
            Update::Raise { .. } => {
                if !self.raise(REGISTER, Entry::of(update)) {
                    return Ok(());
                }
            }
        }
        self.touch(now);
        Ok(())
    }

    /// Raises an entry to at least this. False where it is as high already.
    pub(crate) fn raise(&mut self, actor: ActorId, entry: Entry) -> bool {
        let held = self.entries.iter().find(|(held, _)| *held == actor).map(|(_, entry)| *entry);
        merge_by_max(&mut self.entries, &[(actor, entry)], |_| true);
        !held.is_some_and(|held| held.covers(entry))
    }

    /// The same for a counter that token records adjust, and that reads as `tally`.
    pub(crate) fn apply_adjusted(&mut self, actor: ActorId, update: Update, now: Hlc, tally: i128) -> Result<(), OutOfRange> {
        if update.change().is_none() {
            return self.apply(actor, update, now);
        }
        self.add(actor, Entry::of(update), tally)?;
        self.touch(now);
        Ok(())
    }

    /// Raises the actor's entry by an update that comes to nothing, before a reset: so that a reset, like any other update, is known
    /// by its writer's entry, see [`crate::marks`]. An entry that has no room for it, as none ever has, stays as it is.
    pub(crate) fn stamp(&mut self, actor: ActorId) {
        let touched = Entry { increments: 1, decrements: 1 };
        // A change of 0 leaves no range.
        let _ = self.add(actor, touched, 0);
    }

    fn add(&mut self, actor: ActorId, change: Entry, tally: i128) -> Result<(), OutOfRange> {
        let place = self.entries.binary_search_by_key(&actor, |(actor, _)| *actor);
        let held = place.map_or_else(|_| Entry::default(), |index| self.entries[index].1);
        let entry = held.changed_by(change, tally)?;
        match place {
            Ok(index) => self.entries[index].1 = entry,
            Err(index) => self.entries.insert(index, (actor, entry)),
        }
        Ok(())
    }

    /// Whether anything counts here: not when nobody has updated the counter, nor when it was reset and not updated since.
    #[must_use]
    pub fn exists(&self) -> bool {
        let Some(rest) = &self.rest else { return !self.entries.is_empty() };
        let cleared = |actor: &ActorId, entry: &Entry| {
            let baseline = rest.baselines.binary_search_by_key(actor, |(actor, _)| *actor);
            baseline.is_ok_and(|index| rest.baselines[index].1.max(*entry) == rest.baselines[index].1)
        };
        rest.base.total != rest.base.cleared || !self.entries.iter().all(|(actor, entry)| cleared(actor, entry))
    }

    fn set(&mut self, actor: ActorId, to: i64) -> Result<(), OutOfRange> {
        let before = self.clone();
        // Equal counters are equal in memory, too: what has nothing to clear gets no baselines.
        if self.exists() {
            self.reset();
        }
        self.add(actor, Entry::of(Update::Set(to)), self.tally()).map_err(|_| {
            let refused = OutOfRange { tally: before.tally() };
            *self = before;
            refused
        })
    }

    fn reset(&mut self) {
        let rest = self.rest.get_or_insert_default();
        rest.base.cleared = rest.base.cleared.max(rest.base.total);
        merge_by_max(&mut rest.baselines, &self.entries, |_| true);
    }

    /// Takes over what `other` knows and `self` does not. `retired` are the actors that either side has folded into its
    /// base: their entries are ignored. `bases` says what the two generations are to each other.
    pub fn merge(&mut self, other: &Self, retired: &[ActorId], bases: Bases) {
        let live = |actor: ActorId| retired.binary_search(&actor).is_err();
        merge_by_max(&mut self.entries, &other.entries, live);
        self.updated_at = self.updated_at.max(other.updated_at);
        let Some(theirs) = &other.rest else { return };
        let cleared = match bases {
            Bases::Same => theirs.base.cleared,
            Bases::OtherOlder => theirs.cleared_with(retired),
            Bases::OtherNewer => Total::default(),
        };
        if theirs.baselines.is_empty() && cleared.is_zero() {
            return;
        }
        let rest = self.rest.get_or_insert_default();
        rest.base.cleared = rest.base.cleared.max(cleared);
        merge_by_max(&mut rest.baselines, &theirs.baselines, live);
        // Who cleared so much of an entry had seen so much of it: it is known, too, though the entry itself may come later.
        merge_by_max(&mut self.entries, &theirs.baselines, live);
    }

    /// Folds the entries and baselines of `retired`, sorted, into the base.
    pub fn fold(&mut self, retired: &[ActorId]) {
        let (folded, kept) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition::<ByActor, _>(|(actor, _)| retired.binary_search(actor).is_ok());
        self.entries = kept;
        if folded.is_empty() && self.rest.is_none() {
            return;
        }
        let rest = self.rest.get_or_insert_default();
        rest.base.total = folded.iter().fold(rest.base.total, |total, (_, entry)| total.plus(*entry));
        rest.base.cleared = rest.cleared_with(retired);
        rest.baselines.retain(|(actor, _)| retired.binary_search(actor).is_err());
    }

    /// Takes over the base of a newer generation, in which `retired` are folded: their own entries go.
    pub fn rebase(&mut self, base: Base, retired: &[ActorId]) {
        let live = |actor: &ActorId| retired.binary_search(actor).is_err();
        self.entries.retain(|(actor, _)| live(actor));
        if base == Base::default() && self.rest.is_none() {
            return;
        }
        let rest = self.rest.get_or_insert_default();
        let cleared = base.cleared.max(rest.cleared_with(retired));
        rest.base = Base { total: base.total, cleared };
        rest.baselines.retain(|(actor, _)| live(actor));
    }

    /// The counter reduced to what `actors`, sorted, and the retired before them have in it.
    #[must_use]
    pub fn part_of(&self, actors: &[ActorId]) -> Self {
        let of_them = |(actor, _): &&(ActorId, Entry)| actors.binary_search(actor).is_ok();
        let rest = self.rest.as_ref().map(|rest| {
            let baselines = rest.baselines.iter().filter(of_them).copied().collect();
            Box::new(Rest { base: rest.base, baselines })
        });
        Self { entries: self.entries.iter().filter(of_them).copied().collect(), updated_at: Hlc::default(), rest }
    }
}

impl Rest {
    /// What is cleared of the base once `retired` are folded into it. A reset clears all that it observes, and each
    /// holder of a slot knows the final entries of those that retire: so this is exact, see [`crate::vector`].
    fn cleared_with(&self, retired: &[ActorId]) -> Total {
        self.baselines
            .iter()
            .filter(|(actor, _)| retired.binary_search(actor).is_ok())
            .fold(self.base.cleared, |total, (_, baseline)| total.plus(*baseline))
    }
}

/// What another copy's generation is to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bases {
    /// The same: the bases are equal, what resets have cleared of them merges.
    Same,
    /// Theirs is older: what they know of actors that we have folded counts into our base.
    OtherOlder,
    /// Theirs is newer: their base says nothing until their retirement has come.
    OtherNewer,
}

fn net(entries: &[(ActorId, Entry)]) -> i128 {
    entries.iter().fold(0_i128, |sum, (_, entry)| sum.saturating_add(entry.net()))
}

fn merge_by_max(ours: &mut ByActor, theirs: &[(ActorId, Entry)], keep: impl Fn(ActorId) -> bool) {
    for (actor, entry) in theirs.iter().filter(|(actor, _)| keep(*actor)) {
        match ours.binary_search_by_key(actor, |(actor, _)| *actor) {
            Ok(index) => ours[index].1 = ours[index].1.max(*entry),
            Err(index) => ours.insert(index, (*actor, *entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ActorId = ActorId { origin: 1, incarnation: 1 };
    const B: ActorId = ActorId { origin: 2, incarnation: 1 };

    fn counter(updates: &[(ActorId, Update)]) -> Counter {
        let mut counter = Counter::default();
        for (actor, update) in updates {
            counter.apply(*actor, *update, Hlc(1)).unwrap();
        }
        counter
    }

    #[test]
    fn an_update_past_the_range_is_refused_and_changes_nothing() {
        let mut full = counter(&[(A, Update::Increment(i64::MAX.unsigned_abs()))]);
        let before = full.clone();
        let refused = full.apply(A, Update::Increment(1), Hlc(2)).unwrap_err();
        assert!(refused.to_string().contains("is at 9223372036854775807"), "{refused}");
        assert_eq!(full, before);
        full.apply(A, Update::Decrement(1), Hlc(2)).unwrap();
        assert_eq!(full.tally(), i128::from(i64::MAX) - 1);
    }

    #[test]
    fn an_entry_never_wraps_even_when_the_tally_is_small() {
        let half = 1 << 62;
        let mut counter = Counter::default();
        for _ in 0..3 {
            counter.apply(A, Update::Increment(half), Hlc(1)).unwrap();
            counter.apply(A, Update::Decrement(half), Hlc(1)).unwrap();
        }
        assert!(counter.apply(A, Update::Increment(half), Hlc(1)).is_err());
        assert_eq!(counter.tally(), 0);
    }

    #[test]
    fn past_the_range_by_concurrent_updates_the_way_back_is_open() {
        let most = i64::MAX.unsigned_abs();
        let mut merged = counter(&[(A, Update::Increment(most))]);
        merged.merge(&counter(&[(B, Update::Increment(most))]), &[], Bases::Same);
        assert_eq!(merged.tally(), 2 * i128::from(i64::MAX));
        assert!(merged.apply(A, Update::Increment(1), Hlc(2)).is_err());
        merged.apply(A, Update::Decrement(1), Hlc(2)).unwrap();
    }

    #[test]
    fn a_reset_clears_what_it_observed_and_concurrent_increments_survive() {
        let mut ours = counter(&[(A, Update::Increment(5))]);
        let mut theirs = ours.clone();
        ours.apply(A, Update::Reset, Hlc(2)).unwrap();
        theirs.apply(B, Update::Increment(2), Hlc(2)).unwrap();
        ours.merge(&theirs, &[], Bases::Same);
        theirs.merge(&ours, &[], Bases::Same);
        assert_eq!((ours.tally(), theirs.tally()), (2, 2));
    }

    #[test]
    fn what_was_set_is_there_and_what_was_reset_is_not_until_it_is_updated() {
        let mut counter = counter(&[(A, Update::Increment(5)), (B, Update::Decrement(7))]);
        assert!(counter.exists() && !Counter::default().exists());
        for to in [0, 12, -12, i64::MAX, i64::MIN + 1] {
            counter.apply(A, Update::Set(to), Hlc(2)).unwrap();
            assert_eq!((counter.tally(), counter.exists()), (to.into(), true));
            counter.apply(B, Update::Reset, Hlc(3)).unwrap();
            assert_eq!((counter.tally(), counter.exists()), (0, false));
        }
        counter.fold(&[A]);
        assert!(!counter.exists());
        let replica = counter.clone();
        counter.apply(A, Update::Increment(1), Hlc(4)).unwrap();
        counter.apply(A, Update::Decrement(1), Hlc(4)).unwrap();
        assert_eq!((counter.tally(), counter.exists()), (0, true));
        counter.merge(&replica, &[], Bases::Same);
        assert!(counter.exists());
    }

    #[test]
    fn a_set_that_an_entry_has_no_room_for_changes_nothing() {
        let mut full = counter(&[(A, Update::Set(i64::MAX)), (A, Update::Set(i64::MAX)), (A, Update::Set(1))]);
        let before = full.clone();
        assert_eq!(full.apply(A, Update::Set(1), Hlc(2)), Err(OutOfRange { tally: 1 }));
        assert_eq!(full, before);
    }

    #[test]
    fn folding_changes_no_tally_and_a_late_reset_still_counts_once() {
        let mut folded = counter(&[(A, Update::Increment(5)), (B, Update::Increment(1))]);
        let mut late = folded.clone();
        late.apply(B, Update::Reset, Hlc(3)).unwrap();
        folded.fold(&[A]);
        assert_eq!(folded.tally(), 6);
        folded.merge(&late, &[A], Bases::OtherOlder);
        assert_eq!(folded.tally(), 0);
        late.rebase(folded.base(), &[A]);
        assert_eq!(late.tally(), 0);
    }
}
