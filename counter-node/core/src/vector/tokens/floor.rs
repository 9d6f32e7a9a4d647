//! Forgetting tokens: what all holders have to agree to, and what it leaves to be done to the counters.

use super::copies::cleared_of;
use super::record::{Group, Held, Place, group_of, key_range};
use super::{Tokens, key_hash};
use crate::counter::{Adjustment, Entry, Key, Observed, Update};
use crate::id::ActorId;

/// What raising the floor does to a counter.
#[derive(Debug, Default)]
pub(in crate::vector) struct Settlement {
    pub(in crate::vector) clears: Vec<Observed>,
    pub(in crate::vector) refunds: Vec<Refund>,
}

/// A copy that does not count, to be taken back in its actor's entry.
#[derive(Clone, Copy, Debug)]
pub(in crate::vector) struct Refund {
    pub(in crate::vector) actor: ActorId,
    pub(in crate::vector) update: Update,
    /// Resets have cleared the copy for good, so that taking it back must count for nothing.
    pub(in crate::vector) cleared: bool,
}

impl Tokens {
    /// The tokens all of whose records were made before.
    fn groups_below(&self, floor_ms: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut records = self.records.iter().peekable();
        while let Some((place, held)) = records.next() {
            let group = group_of(*place);
            let mut below = held.made_ms() < floor_ms;
            while let Some((_, held)) = records.next_if(|(place, _)| group_of(**place) == group) {
                below &= held.made_ms() < floor_ms;
            }
            groups.extend(below.then_some(group));
        }
        groups
    }

    /// A summary of all that raising the floor would forget, and of what it would do to the counters.
    pub(in crate::vector) fn digest_below(&self, floor_ms: u64, baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>) -> u64 {
        let mut digest = 0;
        let (below, of_keys) = (self.groups_below(floor_ms), &self.keys);
        for of_key in below.chunk_by(|left, right| left.0 == right.0) {
            let Some((key, _)) = of_key.first().and_then(|(hash, _)| of_keys.get(hash)) else { continue };
            let contested = of_key.iter().any(|group| self.contested.contains(group));
            let cleared = contested.then(|| {
                let baselines = baselines_of(key);
                let adjustment = self.adjustment_of(key.into(), &baselines);
                (baselines, adjustment)
            });
            for (place, held) in of_key.iter().flat_map(|group| self.copies(*group)) {
                let is_cleared = |(baselines, adjustment): &(Vec<_>, Adjustment)| {
                    held.is_cleared_by(cleared_of(baselines, adjustment, self.actors.id(place.actor)))
                };
                let hash = self.hash_of(place, held);
                digest ^= if cleared.as_ref().is_some_and(is_cleared) { hash.rotate_left(1) } else { hash };
            }
        }
        digest
    }

    /// Forgets all tokens that were made before. What that leaves to be done must be done to the counters.
    pub(in crate::vector) fn raise_floor(
        &mut self,
        floor_ms: u64,
        baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>,
    ) -> Vec<(Key, Settlement)> {
        if floor_ms <= self.floor_ms {
            return Vec::new();
        }
        let below = self.groups_below(floor_ms);
        let (mut settlements, mut gone) = (Vec::new(), Vec::new());
        for of_key in below.chunk_by(|left, right| left.0 == right.0) {
            gone.extend(of_key.iter().flat_map(|group| self.copies(*group)).map(|(place, _)| place));
            let Some((key, _)) = of_key.first().and_then(|(hash, _)| self.keys.get(hash)) else { continue };
            let key = key.clone();
            let settlement = self.settle(&key, of_key, &baselines_of);
            settlements.extend(settlement.map(|settlement| (key, settlement)));
        }
        self.remove_all(gone);
        self.set_floor(floor_ms);
        let refunded = settlements.iter().filter(|(_, settlement)| !settlement.refunds.is_empty());
        self.refunded_keys = refunded.map(|(key, _)| key_hash(key.into())).collect();
        self.unsaved_settled.extend(settlements.iter().map(|(key, _)| key.clone()));
        settlements
    }

    /// What forgetting these tokens of one key leaves to be done. Which copies lose does not depend on what a holder knows of
    /// resets, so that all correct the entries alike.
    fn settle(
        &mut self,
        key: &Key,
        groups: &[Group],
        baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>,
    ) -> Option<Settlement> {
        let is_contested = |group: &&Group| self.contested.contains(*group);
        let contested: Vec<Group> = groups.iter().filter(is_contested).copied().collect();
        let winners = groups.iter().filter(|_| !self.resets.is_empty()).filter_map(|group| self.winner(*group));
        let clears: Vec<Observed> =
            winners.filter_map(|winner| self.resets.get(&winner).map(|observed| (**observed).clone())).collect();
        let mut settlement = Settlement { clears, refunds: Vec::new() };
        if contested.is_empty() {
            return (!settlement.clears.is_empty()).then_some(settlement);
        }
        let baselines = baselines_of(key);
        let (all, mut for_good) = (self.adjustment_of(key.into(), &baselines), Adjustment::NONE);
        settlement.clears.iter().for_each(|observed| for_good.reset(observed));
        for group in contested {
            let winner = self.winner(group);
            let copies: Vec<(Place, Held)> = self.copies(group).collect();
            let is_cleared = |by: &Adjustment, (place, held): &(Place, Held)| {
                held.is_cleared_by(cleared_of(&baselines, by, self.actors.id(place.actor)))
            };
            let any_cleared = copies.iter().any(|copy| is_cleared(&all, copy));
            let counts = |copy: &&(Place, Held)| Some(copy.0) == winner && (is_cleared(&all, copy) || !any_cleared);
            let left: Vec<(Place, Held)> = copies.iter().filter(|copy| !counts(copy)).copied().collect();
            let refund_of = |copy: &(Place, Held)| Refund {
                actor: self.actors.id(copy.0.actor),
                update: copy.1.update(),
                cleared: is_cleared(&for_good, copy),
            };
            settlement.refunds.extend(left.iter().map(refund_of));
            left.into_iter().for_each(|copy| self.clear_refund(copy, groups));
        }
        Some(settlement)
    }

    /// A copy is taken back: what later resets have cleared, if they have cleared the copy, is that, too.
    fn clear_refund(&mut self, (place, held): (Place, Held), settled: &[Group]) {
        let actor = self.actors.id(place.actor);
        let resets = self.resets.range_mut(key_range(place.key_hash));
        for (reset, observed) in resets.filter(|(reset, _)| settled.binary_search(&group_of(**reset)).is_err()) {
            if held.is_cleared_by(observed.entry_of(actor)) {
                observed.add_refund(actor, held.update());
                self.unsaved.push(*reset);
            }
        }
    }

    fn set_floor(&mut self, floor_ms: u64) {
        self.floor_ms = floor_ms;
        self.unsaved_floor = true;
    }

    /// Puts the floor back as storage had it. Returns the keys of records that turn out to be forgotten.
    pub(in crate::vector) fn restore_floor(&mut self, floor_ms: u64) -> Vec<Key> {
        self.floor_ms = floor_ms;
        let below = self.groups_below(floor_ms);
        let early: Vec<(Place, Held)> = below.iter().flat_map(|group| self.copies(*group)).collect();
        let gone: Vec<Place> = early.iter().map(|(place, _)| *place).collect();
        for (place, held) in early {
            let record = self.record_at(place, held);
            self.early.entry(group_of(place)).or_default().extend(record);
        }
        let keys = self.keys_at(&gone);
        self.remove_all(gone);
        self.unsaved.clear();
        self.unsaved_floor = false;
        keys
    }
}
