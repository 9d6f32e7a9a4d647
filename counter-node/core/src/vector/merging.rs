//! What replicas tell each other of a slot and take over from each other, and the retirement of its actors.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::packed::{Changed, InPlace};
use super::tokens::Inserted;
use super::{CounterView, Generation, SlotVector};
use crate::counter::{Base, Bases, Counter, Key, KeyRef};
use crate::id::ActorId;
use crate::slot::Slot;
use crate::token::TokenRecord;

/// What a merge has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// The keys of what has changed: counters and token records.
    pub keys: Vec<Key>,
    /// The floor was raised.
    pub floor: bool,
}

impl Merged {
    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.floor
    }
}

/// A retirement: all that a replica of an older generation needs to catch up with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retirement {
    pub generation: Generation,
    /// Every actor ever retired in the slot, sorted.
    pub retired: Vec<ActorId>,
    /// The bases that are not zero.
    pub bases: Vec<(Key, Base)>,
}

/// Counters of one slot, with the generation that they were read at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDelta {
    pub slot: Slot,
    pub generation: Generation,
    /// Present when the receiver's generation is known to be older.
    pub retirement: Option<Retirement>,
    /// Tokens made before it, in milliseconds since the Unix epoch, are forgotten.
    pub floor_ms: u64,
    pub counters: Vec<(Key, Counter)>,
    /// With the counters that their effects are in, as of the same moment.
    pub tokens: Vec<TokenRecord>,
}

impl SlotVector {
    /// Takes over what `delta` knows and this replica does not.
    pub fn merge(&mut self, delta: &SlotDelta) -> Merged {
        let mut merged = Merged::default();
        if let Some(retirement) = delta.retirement.as_ref().filter(|retirement| retirement.generation > self.generation) {
            merged.keys = self.catch_up(retirement);
        }
        if delta.floor_ms > self.floor_ms() {
            merged.keys.extend(self.raise_floor(delta.floor_ms));
            merged.floor = true;
        }
        let bases = match delta.generation.cmp(&self.generation) {
            std::cmp::Ordering::Equal => Bases::Same,
            std::cmp::Ordering::Less => Bases::OtherOlder,
            std::cmp::Ordering::Greater => Bases::OtherNewer,
        };
        let mut records: BTreeMap<&Key, Vec<&TokenRecord>> = BTreeMap::new();
        for record in &delta.tokens {
            records.entry(&record.key).or_default().push(record);
        }
        // A token's latest record says whether the others are forgotten.
        records.values_mut().for_each(|of_key| of_key.sort_by_key(|record| std::cmp::Reverse(record.made_ms)));
        for (key, theirs) in &delta.counters {
            let records = records.remove(key).unwrap_or_default();
            if records.is_empty() && self.adjustment(key.into()).is_none() {
                match self.counters.merge_in_place(key.as_bytes(), theirs, &self.retired) {
                    InPlace::Unchanged => continue,
                    InPlace::Changed(what) => {
                        self.changed(key.into(), what);
                        merged.keys.push(key.clone());
                        continue;
                    }
                    InPlace::NoPlace => {}
                }
            }
            self.merge_key(key, Some((theirs, bases)), &records, &mut merged);
        }
        for (key, records) in records {
            self.merge_key(key, None, &records, &mut merged);
        }
        merged
    }

    /// One counter and its records: what changes in it changes in one step.
    fn merge_key(&mut self, key: &Key, theirs: Option<(&Counter, Bases)>, records: &[&TokenRecord], merged: &mut Merged) {
        let before = self.read(key);
        let known = self.counter(key).map(CounterView::to_counter).unwrap_or_default();
        let mut counter = known.clone();
        if let Some((theirs, bases)) = theirs {
            counter.merge(theirs, &self.retired, bases);
        }
        let (mut new_records, mut adjusts) = (false, false);
        for record in records {
            let inserted = self.tokens.get_or_insert_default().insert_beside(record, &self.retired, self.writer);
            new_records |= inserted != Inserted::Known;
            adjusts |= inserted == Inserted::Adjusts;
        }
        let changed = counter != known;
        // What resets have cleared says which copies count.
        adjusts |= changed && self.clears_copies(key.into(), &counter);
        if changed {
            self.counters.set(key.as_bytes(), &counter);
        }
        if changed || new_records {
            if adjusts {
                self.readjust(key.into());
            }
            let after = self.read(key);
            self.changed(key.into(), Changed { before, after });
            merged.keys.push(key.clone());
        }
    }

    fn catch_up(&mut self, retirement: &Retirement) -> Vec<Key> {
        let bases: HashMap<&Key, Base> = retirement.bases.iter().map(|(key, base)| (key, *base)).collect();
        let unknown = retirement.bases.iter().map(|(key, _)| key).filter(|key| self.counter(*key).is_none());
        let keys: Vec<Key> = self.keys().map(KeyRef::to_key).chain(unknown.cloned()).collect();
        for key in &keys {
            let mut counter = self.counter(key).map(CounterView::to_counter).unwrap_or_default();
            counter.rebase(bases.get(key).copied().unwrap_or_default(), &retirement.retired);
            self.replace(key.into(), &counter);
        }
        self.set_generation(retirement.generation, retirement.retired.clone());
        self.retire_records();
        keys
    }

    /// Retires `actors`: makes the next generation. Only after every holder has agreed to it. Returns the keys of what changed.
    pub fn retire(&mut self, actors: &[ActorId]) -> Vec<Key> {
        let mut sorted = actors.to_vec();
        sorted.sort_unstable();
        let keys: Vec<Key> = self.keys().map(KeyRef::to_key).collect();
        for key in &keys {
            let mut counter = self.counter(key).map(CounterView::to_counter).unwrap_or_default();
            counter.fold(&sorted);
            self.replace(key.into(), &counter);
        }
        let mut retired = std::mem::take(&mut self.retired);
        retired.extend(sorted);
        retired.sort_unstable();
        retired.dedup();
        self.set_generation(Generation(self.generation.0.saturating_add(1)), retired);
        self.retire_records();
        keys
    }

    /// The actors, not retired, that have anything in the slot. Sorted.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorId> {
        let mut actors: Vec<ActorId> = self.counters.actors().collect();
        actors.sort_unstable();
        actors.dedup();
        actors
    }

    /// Whether `actor` is retired here.
    #[must_use]
    pub fn is_retired(&self, actor: ActorId) -> bool {
        self.retired.binary_search(&actor).is_ok()
    }

    /// What a replica of an older generation needs to catch up with this one; none in the first generation.
    #[must_use]
    pub fn retirement(&self) -> Option<Retirement> {
        (self.generation > Generation::default()).then(|| Retirement {
            generation: self.generation,
            retired: self.retired.clone(),
            bases: self.bases(),
        })
    }

    fn bases(&self) -> Vec<(Key, Base)> {
        let with_base = self.counters().map(|(key, counter)| (key, counter.base()));
        let mut bases: Vec<(Key, Base)> =
            with_base.filter(|(_, base)| *base != Base::default()).map(|(key, base)| (key.to_key(), base)).collect();
        bases.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
        bases
    }

    /// These counters, with all of their records, as a delta; keys that the slot does not hold are left out.
    #[must_use]
    pub fn delta<'k>(&self, slot: Slot, keys: impl IntoIterator<Item = impl Into<KeyRef<'k>>>) -> SlotDelta {
        let mut delta = self.empty_delta(slot);
        for key in keys.into_iter().map(Into::into) {
            delta.counters.extend(self.counter(key).map(|counter| (key.to_key(), counter.to_counter())));
            delta.tokens.extend(self.records_of(key, 0, u128::MAX).map(|(_, _, record)| record));
        }
        delta
    }

    /// A delta of nothing, as of now.
    pub(crate) fn empty_delta(&self, slot: Slot) -> SlotDelta {
        let (generation, floor_ms) = (self.generation, self.floor_ms());
        SlotDelta { slot, generation, retirement: None, floor_ms, counters: Vec::new(), tokens: Vec::new() }
    }
}
