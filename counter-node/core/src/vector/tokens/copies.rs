//! Which copies of a token's update count, and what that does to a counter's reading.

use super::record::{Group, Held, Place, group_of, group_range, key_range};
use super::{Tokens, key_hash};
use crate::counter::{Adjustment, Entry, KeyRef, effect, entry_in};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::token::TokenRecord;

/// What resets have cleared of a counter's entries, by actor; sorted.
pub(super) type Baselines = [(ActorId, Entry)];

/// How much of an actor's entry resets have cleared.
pub(super) fn cleared_of(baselines: &Baselines, adjustment: &Adjustment, actor: ActorId) -> Entry {
    entry_in(baselines, actor).max(adjustment.cleared_of(actor))
}

impl Tokens {
    pub(super) fn copies(&self, group: Group) -> impl Iterator<Item = (Place, Held)> {
        self.records.range(group_range(group)).map(|(place, held)| (*place, *held))
    }

    /// The record of a token that counts.
    pub(super) fn winner(&self, group: Group) -> Option<Place> {
        let order =
            |place: &Place| (self.resets.get(place).map_or(Hlc::default(), |observed| observed.at), self.actors.id(place.actor));
        self.copies(group).map(|(place, _)| place).min_by_key(order)
    }

    /// The key's tokens that several have counted.
    fn contested_of(&self, key: KeyRef<'_>) -> impl Iterator<Item = Group> {
        let hash = (!self.contested.is_empty() && self.of_key(key) > 0).then(|| key_hash(key));
        hash.into_iter().flat_map(|hash| self.contested.range((hash, [0, 0])..=(hash, [u64::MAX, u64::MAX]))).copied()
    }

    /// What the key's entries are to be corrected by on account of a token that several have counted; none when by nothing.
    fn surplus(&self, group: Group, cleared_of: &impl Fn(ActorId) -> Entry) -> Option<i128> {
        let winner = self.winner(group)?;
        let (mut counts, mut any_cleared, mut left, mut held_by_all) = (0_i128, false, 0_usize, 0_i128);
        for (place, held) in self.copies(group) {
            if held.is_cleared_by(cleared_of(self.actors.id(place.actor))) {
                any_cleared = true;
                continue;
            }
            left = left.saturating_add(1);
            held_by_all = held_by_all.saturating_add(effect(held.update()));
            if place == winner {
                counts = effect(held.update());
            }
        }
        let counts = if any_cleared { 0 } else { counts };
        let is_right = left == usize::from(!any_cleared);
        (!is_right).then(|| counts.saturating_sub(held_by_all))
    }

    /// Whether the key's reading depends on which copies resets have cleared.
    pub(in crate::vector) fn is_adjustable(&self, key: KeyRef<'_>) -> bool {
        self.contested_of(key).next().is_some()
    }

    /// Adjusts for one more reset, of a token that nobody else has counted, without going over the others. False where tokens that
    /// several have counted make that more than it seems.
    pub(in crate::vector) fn adjust_for_reset(&mut self, record: &TokenRecord) -> bool {
        if self.is_adjustable((&record.key).into()) {
            return false;
        }
        let mut adjustment = self.adjustments.remove(&record.key).unwrap_or(Adjustment::NONE);
        record.observed.iter().for_each(|observed| adjustment.reset(observed));
        if adjustment != Adjustment::NONE {
            self.adjustments.insert(record.key.clone(), adjustment);
        }
        true
    }

    /// Reckons the key's adjustment anew, for a counter of these baselines.
    pub(in crate::vector) fn readjust(&mut self, key: KeyRef<'_>, baselines: &Baselines) {
        let adjustment = self.adjustment_of(key, baselines);
        if adjustment == Adjustment::NONE {
            self.adjustments.remove(key.as_bytes());
        } else {
            self.adjustments.insert(key.to_key(), adjustment);
        }
    }

    pub(super) fn adjustment_of(&self, key: KeyRef<'_>, baselines: &Baselines) -> Adjustment {
        let mut adjustment = Adjustment::NONE;
        if !self.resets.is_empty() && self.of_key(key) > 0 {
            let resets = self.resets.range(key_range(key_hash(key)));
            for (place, observed) in resets.filter(|(place, _)| self.winner(group_of(**place)) == Some(**place)) {
                debug_assert!(self.records.contains_key(place));
                adjustment.reset(observed);
            }
        }
        let surplus = |group| self.surplus(group, &|actor| cleared_of(baselines, &adjustment, actor));
        let corrections: Vec<i128> = self.contested_of(key).filter_map(surplus).collect();
        corrections.into_iter().for_each(|by| adjustment.correct(by));
        adjustment
    }
}
