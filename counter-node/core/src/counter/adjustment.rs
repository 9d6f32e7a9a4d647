//! What token records do to a counter beside its entries: refunds that are due, and resets that may still lose.

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

/// Derived from the token records of one counter, the same wherever the same records are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adjustment {
    /// Per actor: what has been counted more than once, and is not taken back in its entry yet. Inverse effects.
    refunds: ByActor,
    /// What winning resets clear.
    resets: ByActor,
    cleared: Total,
}

impl Adjustment {
    pub(crate) const NONE: Self =
        Self { refunds: Vec::new(), resets: Vec::new(), cleared: Total { increments: 0, decrements: 0 } };

    /// An update of `actor` counts nothing.
    pub(crate) fn refund(&mut self, actor: ActorId, update: Update) {
        let by = inverse(update);
        match self.refunds.binary_search_by_key(&actor, |(actor, _)| *actor) {
            Ok(index) => self.refunds[index].1 = self.refunds[index].1.plus(by),
            Err(index) => self.refunds.insert(index, (actor, by)),
        }
    }

    /// A reset counts.
    pub(crate) fn reset(&mut self, observed: &Observed) {
        merge_by_max(&mut self.resets, &observed.entries, |_| true);
        self.cleared = self.cleared.max(observed.total);
    }
}

fn inverse(update: Update) -> Entry {
    let Entry { increments, decrements } = Entry::of(update);
    Entry { increments: decrements, decrements: increments }
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
    /// The counter as it reads with `adjustment`.
    pub(crate) fn adjusted(&self, adjustment: &Adjustment) -> Self {
        let mut adjusted = self.clone();
        for (actor, refund) in &adjustment.refunds {
            match adjusted.entries.binary_search_by_key(actor, |(actor, _)| *actor) {
                Ok(index) => adjusted.entries[index].1 = adjusted.entries[index].1.plus(*refund),
                Err(index) => adjusted.entries.insert(index, (*actor, *refund)),
            }
        }
        adjusted.clear_all(&adjustment.resets, adjustment.cleared);
        adjusted
    }

    /// All that the counter has, for a reset at `at`.
    pub(crate) fn observe(&self, adjustment: &Adjustment, at: Hlc) -> Observed {
        let adjusted = self.adjusted(adjustment);
        Observed { at, total: adjusted.base().total, entries: adjusted.entries }
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
    }

    /// What an update under a token does to its actor's entry. What it clears stands elsewhere.
    pub(crate) fn apply_effect(
        &mut self,
        actor: ActorId,
        update: Update,
        now: Hlc,
        adjustment: &Adjustment,
    ) -> Result<(), OutOfRange> {
        match update {
            Update::Increment(_) | Update::Decrement(_) => self.apply_with(actor, update, now, adjustment)?,
            Update::Set(_) => self.add(actor, Entry::of(update), 0)?,
            Update::Reset | Update::Raise { .. } => {}
        }
        self.touch(now);
        Ok(())
    }

    /// Takes an update of `actor` back in its entry. False, and nothing has changed, when the entry is full.
    pub(crate) fn refund(&mut self, actor: ActorId, update: Update) -> bool {
        let by = inverse(update);
        let place = self.entries.binary_search_by_key(&actor, |(actor, _)| *actor);
        let held = place.map_or_else(|_| Entry::default(), |index| self.entries[index].1);
        let (Some(increments), Some(decrements)) =
            (held.increments.checked_add(by.increments), held.decrements.checked_add(by.decrements))
        else {
            return false;
        };
        let entry = Entry { increments, decrements };
        match place {
            Ok(index) => self.entries[index].1 = entry,
            Err(index) => self.entries.insert(index, (actor, entry)),
        }
        true
    }

    /// The counter was updated at `now`.
    pub(crate) fn touch(&mut self, now: Hlc) {
        self.updated_at = self.updated_at.max(now);
    }

    /// Whether anything of actors that are not retired has been reset.
    pub(crate) fn has_baselines(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| !rest.baselines.is_empty())
    }

    /// The counter with the entries of one volume's actors only, and what is of no actor.
    pub(crate) fn of_origin(&self, origin: u64) -> Self {
        let entries = self.entries.iter().filter(|(actor, _)| actor.origin == origin || *actor == REGISTER).copied().collect();
        Self { entries, updated_at: self.updated_at, rest: self.rest.clone() }
    }
}

impl Observed {
    /// What was observed of `retired`, sorted, is part of the base now.
    pub(crate) fn fold(&mut self, retired: &[ActorId]) {
        let (folded, kept) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition::<ByActor, _>(|(actor, _)| retired.binary_search(actor).is_ok());
        self.entries = kept;
        self.total = folded.iter().fold(self.total, |total, (_, entry)| total.plus(*entry));
    }
}
