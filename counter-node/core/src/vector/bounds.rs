//! Between what a counter can be, where all replicas have told their copies of it.
//!
//! Each part of a counter only grows: so at the moment when the first copy was told, no part was lower, taking all replicas
//! together, than in that copy, nor higher than in all copies together, the others having been told later. A part that is
//! the same in all of them is known exactly. What differs is under way between replicas, or came while they were asked.

use std::collections::BTreeMap;

use super::{SlotDelta, SlotVector};
use crate::counter::{Counter, Entry, Key, Total};
use crate::id::ActorId;
use crate::key::KeyRef;
use crate::unread::copied;

/// A tally is between these, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub min: i128,
    pub max: i128,
}

impl Bounds {
    /// Of a tally that is known.
    #[must_use]
    pub fn exactly(tally: i128) -> Self {
        Self { min: tally, max: tally }
    }

    /// Of the sum of two numbers.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
}

/// From which to which height a part may be.
#[derive(Clone, Copy, Debug)]
struct Span {
    low: u128,
    high: u128,
}

impl Span {
    /// What is left of this of which so much is cleared. Nobody clears what there is not.
    fn without(self, cleared: Self) -> Self {
        Self { low: self.low.saturating_sub(cleared.high), high: self.high.saturating_sub(cleared.low) }
    }

    fn net(added: Self, taken: Self) -> Bounds {
        let signed = |part: u128| i128::try_from(part).unwrap_or(i128::MAX);
        Bounds {
            min: signed(added.low).saturating_sub(signed(taken.high)),
            max: signed(added.high).saturating_sub(signed(taken.low)),
        }
    }
}

/// One part of a counter in each of the copies, and what resets have cleared of it.
struct Part {
    held: Vec<Total>,
    cleared: Vec<Total>,
}

impl Part {
    fn of_actor(actor: ActorId, copies: &[Counter]) -> Self {
        let find = |all: &[(ActorId, Entry)]| all.iter().find(|(held, _)| *held == actor).map(|(_, entry)| Total::from(*entry));
        Self {
            held: copies.iter().map(|copy| find(copy.entries()).unwrap_or_default()).collect(),
            cleared: copies.iter().map(|copy| find(copy.baselines()).unwrap_or_default()).collect(),
        }
    }

    fn of_retired(copies: &[Counter]) -> Self {
        Self {
            held: copies.iter().map(|copy| copy.base().total).collect(),
            cleared: copies.iter().map(|copy| copy.base().cleared).collect(),
        }
    }

    fn bounds(&self) -> Bounds {
        let span = |totals: &[Total], part: fn(&Total) -> u128| Span {
            low: totals.iter().map(part).min().unwrap_or_default(),
            high: totals.iter().map(part).max().unwrap_or_default(),
        };
        let left = |part: fn(&Total) -> u128| span(&self.held, part).without(span(&self.cleared, part));
        Span::net(left(|total| total.increments), left(|total| total.decrements))
    }
}

/// What a key's tally was between when the first of these copies was told. They are of all replicas that may have counted, each told
/// as a delta of this one key. None where that cannot be said: actors retire or tokens are forgotten just now, or replicas have taken one token
/// apart, of which only one counts.
#[must_use]
pub fn bounds_of(key: &Key, copies: &[SlotDelta]) -> Option<Bounds> {
    let first = copies.first()?;
    let alike = |copy: &SlotDelta| copy.generation == first.generation && copy.floor_ms == first.floor_ms;
    if !copies.iter().all(alike) || has_rivals(copies) {
        return None;
    }
    let counters: Vec<Counter> = copies.iter().map(|copy| copied(copy, copy.floor_ms).as_read(key.into())).collect();
    let mut actors: Vec<ActorId> = counters.iter().flat_map(Counter::actors).collect();
    actors.sort_unstable();
    actors.dedup();
    let of_actors = actors.into_iter().map(|actor| Part::of_actor(actor, &counters));
    let parts = of_actors.chain([Part::of_retired(&counters)]);
    Some(parts.map(|part| part.bounds()).fold(Bounds::exactly(0), Bounds::plus))
}

/// Whether two replicas have taken one token.
fn has_rivals(copies: &[SlotDelta]) -> bool {
    let mut takers = BTreeMap::new();
    let mut records = copies.iter().flat_map(|copy| &copy.tokens);
    records.any(|record| *takers.entry(record.id).or_insert(record.actor) != record.actor)
}

impl SlotVector {
    /// The counter with all that its records do to it where no two of them are of one token.
    fn as_read(&self, key: KeyRef<'_>) -> Counter {
        let counter = self.counter(key).map(super::CounterView::to_counter).unwrap_or_default();
        self.adjustment(key).map(|adjustment| counter.adjusted(adjustment)).unwrap_or(counter)
    }
}
