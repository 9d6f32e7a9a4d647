//! What token records do to a counter beside its entries: copies that do not count, and resets that may still lose.

use serde::{Deserialize, Serialize};

use super::{ByActor, Counter, Entry, OutOfRange, Total, Update, merge_by_max};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::unread::REGISTER;

/// What a reset under a token has observed, and clears while its record wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// When the reset was made: of several under one token, the earliest counts.
    pub at: Hlc,
    entries: ByActor,
    total: Total,
}

/// Derived from a counter and its token records, the same wherever the same of both is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adjustment {
    /// What the entries hold too much of tokens that several replicas have counted, negated.
    surplus: i128,
    /// How many tokens the surplus is of.
    tokens: usize,
    /// What winning resets clear.
    resets: ByActor,
    cleared: Total,
}

impl Adjustment {
    pub(crate) const NONE: Self =
        Self { surplus: 0, tokens: 0, resets: Vec::new(), cleared: Total { increments: 0, decrements: 0 } };

    /// A token for which the entries are to be corrected by so much.
    pub(crate) fn correct(&mut self, by: i128) {
        self.surplus = self.surplus.saturating_add(by);
        self.tokens = self.tokens.saturating_add(1);
    }

    /// A reset counts.
    pub(crate) fn reset(&mut self, observed: &Observed) {
        merge_by_max(&mut self.resets, &observed.entries, |_| true);
        self.cleared = self.cleared.max(observed.total);
    }

    /// What winning resets clear of an actor's entry.
    pub(crate) fn cleared_of(&self, actor: ActorId) -> Entry {
        entry_in(&self.resets, actor)
    }

    /// What the entries are to be corrected by.
    pub(crate) fn surplus(&self) -> i128 {
        self.surplus
    }

    pub(crate) fn has_resets(&self) -> bool {
        !self.resets.is_empty() || !self.cleared.is_zero()
    }
}

fn inverse(update: Update) -> Entry {
    let Entry { increments, decrements } = Entry::of(update);
    Entry { increments: decrements, decrements: increments }
}

/// What a copy of an update adds to the tally.
pub(crate) fn effect(update: Update) -> i128 {
    Entry::of(update).net()
}

/// The part of an entry that an update raises: it stands for the update's place among those of its actor.
pub(crate) fn position(update: Update, entry: Entry) -> u64 {
    let raised = Entry::of(update);
    if raised.increments == 0 && raised.decrements > 0 { entry.decrements } else { entry.increments }
}

impl Entry {
    fn plus(self, other: Self) -> Self {
        Self {
            increments: self.increments.saturating_add(other.increments),
            decrements: self.decrements.saturating_add(other.decrements),
        }
    }
}

impl Counter {
    /// The counter with what winning resets clear.
    pub(crate) fn adjusted(&self, adjustment: &Adjustment) -> Self {
        let mut adjusted = self.clone();
        adjusted.clear_all(&adjustment.resets, adjustment.cleared);
        adjusted
    }

    /// All that the counter has, for a reset at `at`.
    pub(crate) fn observe(&self, at: Hlc) -> Observed {
        Observed { at, total: self.base().total, entries: self.entries.clone() }
    }

    /// Clears what a reset has observed, for good.
    pub(crate) fn clear(&mut self, observed: &Observed) {
        self.clear_all(&observed.entries, observed.total);
    }

    fn clear_all(&mut self, entries: &[(ActorId, Entry)], total: Total) {
        // Equal counters are equal in memory, too.
        if entries.is_empty() && total.is_zero() {
            return;
        }
        let rest = self.rest.get_or_insert_default();
        rest.base.cleared = rest.base.cleared.max(total);
        merge_by_max(&mut rest.baselines, entries, |_| true);
        merge_by_max(&mut self.entries, entries, |_| true);
    }

    /// What an update under a token does to its actor's entry, where the counter reads as `tally`. What it clears stands elsewhere.
    pub(crate) fn apply_effect(&mut self, actor: ActorId, update: Update, now: Hlc, tally: i128) -> Result<(), OutOfRange> {
        match update {
            Update::Increment(_) | Update::Decrement(_) => self.add(actor, Entry::of(update), tally)?,
            Update::Set(_) => self.add(actor, Entry::of(update), 0)?,
            Update::Reset | Update::Raise { .. } => {}
        }
        self.touch(now);
        Ok(())
    }

    /// Takes a copy of `actor`'s update back in its entry, for good: `cleared` where a reset has cleared the copy already, so that
    /// taking it back must count for nothing.
    pub(crate) fn refund(&mut self, actor: ActorId, update: Update, cleared: bool) {
        let by = inverse(update);
        add_to(&mut self.entries, actor, by);
        if cleared {
            add_to(&mut self.rest.get_or_insert_default().baselines, actor, by);
        }
    }

    /// The counter was updated at `now`.
    pub(crate) fn touch(&mut self, now: Hlc) {
        self.updated_at = self.updated_at.max(now);
    }

    /// The counter with the entries of one volume's actors only, and what is of no actor.
    pub(crate) fn of_origin(&self, origin: u64) -> Self {
        let entries = self.entries.iter().filter(|(actor, _)| actor.origin == origin || *actor == REGISTER).copied().collect();
        Self { entries, updated_at: self.updated_at, rest: self.rest.clone() }
    }
}

/// An actor's entry among these, which are sorted.
pub(crate) fn entry_in(entries: &[(ActorId, Entry)], actor: ActorId) -> Entry {
    let place = entries.binary_search_by_key(&actor, |(actor, _)| *actor);
    place.map_or_else(|_| Entry::default(), |index| entries[index].1)
}

/// What an entry has no room for is left out: none ever comes near it.
fn add_to(entries: &mut ByActor, actor: ActorId, by: Entry) {
    match entries.binary_search_by_key(&actor, |(actor, _)| *actor) {
        Ok(index) => entries[index].1 = entries[index].1.plus(by),
        Err(index) => entries.insert(index, (actor, by)),
    }
}

impl Observed {
    pub(crate) fn entry_of(&self, actor: ActorId) -> Entry {
        entry_in(&self.entries, actor)
    }

    /// A copy that it clears is taken back in the actor's entry: it clears that, too.
    pub(crate) fn add_refund(&mut self, actor: ActorId, update: Update) {
        add_to(&mut self.entries, actor, inverse(update));
    }

    /// What was observed of `retired`, sorted, is part of the base now.
    pub(crate) fn fold(&mut self, retired: &[ActorId]) {
        let (folded, kept) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition::<ByActor, _>(|(actor, _)| retired.binary_search(actor).is_ok());
        self.entries = kept;
        self.total = folded.iter().fold(self.total, |total, (_, entry)| total.plus(*entry));
    }
}
