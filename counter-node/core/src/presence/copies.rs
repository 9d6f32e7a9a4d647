//! A gateway's ledger as a replica has it: a copy, and the next one while that is not whole.

use serde::{Deserialize, Serialize};

use super::ledger::{Change, Entries, Ledger, PageState, Place};
use crate::layout::LayoutVersion;

/// How far a copy is. A copy begins empty at `base`, a number that its original had reached by then, and has all changes
/// up to `upto` that still matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub base: u64,
    pub upto: u64,
}

impl Reached {
    /// Whether a copy that is so far can go on by what has changed, for all that its original has forgotten.
    pub(super) fn follows(self, ledger: &Ledger) -> bool {
        // What was gone before the base was never in the copy.
        self.base.max(self.upto) >= ledger.floor()
    }

    /// Whether `self` is worth more than `other`.
    pub(super) fn is_ahead_of(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| self.upto > other.upto)
    }
}

/// Changes for a copy that is begun at `base` and stands at `after` or later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    pub base: u64,
    pub after: u64,
    pub upto: u64,
    /// How far the sender was: a copy that reaches it is whole.
    pub head: u64,
    pub changes: Vec<Change>,
}

impl Delta {
    /// What brings a copy that is at `reached` on, about `bytes_max` of it, from a ledger that is as far as `head`.
    pub(super) fn of(ledger: &Ledger, head: u64, reached: Reached, bytes_max: usize) -> Self {
        let Reached { base, upto: after } = reached;
        let (changes, cut) = ledger.after(after, bytes_max);
        Self { base, after, upto: cut.unwrap_or(head).max(after), head, changes }
    }
}

/// What became of a delta.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Pages whose shown state is another, or has become again what it was, with the state before and the one now.
    pub(super) changed: Vec<(Place, PageState, PageState)>,
    /// Whether the copy now is as the sender's was.
    pub(super) whole: bool,
}

/// One copy, as far as it is.
#[derive(Clone, Debug)]
struct Copy {
    ledger: Ledger,
    reached: Reached,
}

impl Copy {
    fn begin(base: u64) -> Self {
        Self { ledger: Ledger::new(base), reached: Reached { base, upto: 0 } }
    }

    /// Takes changes in, if they follow on what the copy has and go as far. Returns the states before.
    fn take(&mut self, delta: Delta, absent_max: usize) -> Option<Vec<(Place, PageState, PageState)>> {
        let mut changed = Vec::new();
        if delta.after > self.reached.upto || delta.upto < self.reached.upto {
            return None;
        }
        // Also when they go no further: part of a later state may have brought the copy there, without the pages that had
        // changed once more by then.
        for Change { sequence, key, state } in delta.changes {
            let place = (key.slot(), key);
            if let Some(before) = self.ledger.enter(sequence, place.clone(), state.clone()) {
                changed.push((place, before, state));
            }
        }
        self.reached.upto = delta.upto;
        self.ledger.forget(absent_max);
        Some(changed)
    }
}

/// What a replica has of a gateway's pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    /// What counts: a copy that has once been whole.
    shown: Option<Copy>,
    /// One that is on its way to be.
    next: Option<Copy>,
    /// The layout by which the original was arranged when the shown copy was last as far as it.
    arranged: LayoutVersion,
}

impl Copies {
    /// How far the copy is that changes go to.
    pub(super) fn reached(&self) -> Option<Reached> {
        self.next.as_ref().or(self.shown.as_ref()).map(|copy| copy.reached)
    }

    /// What counts and what is on its way to, page by page.
    pub(super) fn into_entries(self) -> (Entries, Entries) {
        let entries = |copy: Option<Copy>| copy.map(|copy| copy.ledger.into_entries()).unwrap_or_default();
        (entries(self.shown), entries(self.next))
    }

    /// What counts, and how far it is.
    pub(super) fn shown(&self) -> Option<(&Ledger, Reached)> {
        self.shown.as_ref().map(|copy| (&copy.ledger, copy.reached))
    }

    /// The layout by which what counts was arranged.
    pub(super) fn arranged(&self) -> LayoutVersion {
        self.arranged
    }

    /// Takes changes in, those of an original that is arranged by `layout`.
    pub(super) fn take(&mut self, delta: Delta, layout: LayoutVersion, absent_max: usize) -> Taken {
        let (base, after, upto, head) = (delta.base, delta.after, delta.upto, delta.head);
        let held = self.reached();
        if after == 0 && held.is_none_or(|held| base > held.base) {
            self.next = Some(Copy::begin(base));
        } else if held.is_none_or(|held| base != held.base) {
            return Taken::default();
        }
        let taken = match (&mut self.next, &mut self.shown) {
            (Some(next), _) => next.take(delta, absent_max).map(|_| Vec::new()),
            (None, Some(shown)) => shown.take(delta, absent_max),
            (None, None) => None,
        };
        let Some(mut changed) = taken else { return Taken::default() };
        let whole = upto == head;
        if whole {
            changed.extend(self.show_next());
            self.arranged = self.arranged.max(layout);
        }
        Taken { changed, whole }
    }

    /// Puts the next copy in the place of the shown one. Returns what differs, and what has become again what it was: whoever came back to
    /// a page is to be told of it anew.
    fn show_next(&mut self) -> Vec<(Place, PageState, PageState)> {
        let Some(next) = self.next.take() else { return Vec::new() };
        let before = self.shown.replace(next);
        let (Some(shown), before) = (&self.shown, before.map(|copy| copy.ledger).unwrap_or_default()) else { return Vec::new() };
        let is_known = |(place, state): &(&Place, &PageState)| {
            before.get(place) == Some(*state) && before.number(place) == shown.ledger.number(place)
        };
        let came = shown.ledger.iter().filter(|page| !is_known(page)).map(|(place, state)| {
            let before = before.get(place).cloned().unwrap_or_default();
            (place.clone(), before, state.clone())
        });
        let went = before.iter().filter(|(place, _)| shown.ledger.get(place).is_none());
        let went = went.map(|(place, state)| (place.clone(), state.clone(), PageState::default()));
        came.chain(went).collect()
    }
}

#[cfg(test)]
mod tests;
