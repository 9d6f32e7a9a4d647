//! A slot's vector: all that is replicated, digested and moved of one slot.
//!
//! **Retirement.** Closed actors are folded into a base, generation by generation: generation n+1 is made once, by one
//! replica, after all holders of the slot have reported the same generation n and the same final entries and baselines
//! of the actors that retire. Two consequences make [`SlotVector::merge`] exact: equal generations have equal bases,
//! and a holder that lags one generation behind knows the final entries of all that was folded meanwhile.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use self::packed::{Changed, InPlace, PackedCounters};
use crate::counter::{Base, Bases, Counter, Key, KeyRef, OutOfRange, Update};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::slot::Slot;

mod digest;
mod packed;

pub use packed::view::{CounterView, Entries};

/// How often a slot's actors have been retired; the higher wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// One slot of one replica.
#[derive(Debug, Clone)]
pub struct SlotVector {
    /// As whom this replica applies updates; none while it does not own the slot.
    writer: Option<ActorId>,
    generation: Generation,
    /// Sorted.
    retired: Vec<ActorId>,
    counters: PackedCounters,
    tally: i128,
    /// How many of the counters exist, see [`Counter::exists`].
    existing: usize,
    /// The latest change of any counter.
    updated_at: Hlc,
    /// The generation changed since the slot was last written to storage.
    unsaved_generation: bool,
}

/// A replica's answer about one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The sum, which concurrent updates can take past the range of the reply.
    pub tally: i128,
    /// None for a counter that nobody has updated.
    pub updated_at: Option<Hlc>,
    /// See [`Counter::exists`].
    pub exists: bool,
}

impl Reading {
    /// A counter that nobody has updated.
    pub const UNKNOWN: Self = Self { tally: 0, updated_at: None, exists: false };

    /// The sum as clients get it: clamped to a signed 64-bit number.
    #[must_use]
    pub fn count(self) -> i64 {
        let clamped = self.tally.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        i64::try_from(clamped).unwrap_or(i64::MAX)
    }

    fn of(counter: CounterView<'_>) -> Self {
        Self { tally: counter.tally(), updated_at: counter.updated_at(), exists: counter.exists() }
    }
}

/// Why a slot did not apply an update; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("this node does not own the slot now")]
    NotOwner,
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error("the node holds {limit} counters, its limit; counters that exist count on")]
    TooManyCounters { limit: u64 },
    #[error("the node's counters take {limit_bytes} bytes, its limit; counters that exist count on")]
    TooMuchMemory { limit_bytes: u64 },
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
    pub counters: Vec<(Key, Counter)>,
}

/// What storage keeps of a slot apart from its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    pub generation: Generation,
    pub retired: Vec<ActorId>,
}

impl SlotVector {
    /// An empty slot. `seed` mixes the table's hashes: random in a node, fixed in a simulation.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            writer: None,
            generation: Generation::default(),
            retired: Vec::new(),
            counters: PackedCounters::new(seed),
            tally: 0,
            existing: 0,
            updated_at: Hlc::default(),
            unsaved_generation: false,
        }
    }

    /// From now on updates are applied as `writer`, or refused.
    pub fn set_writer(&mut self, writer: Option<ActorId>) {
        self.writer = writer;
    }

    /// As whom updates are applied.
    #[must_use]
    pub fn writer(&self) -> Option<ActorId> {
        self.writer
    }

    /// The slot's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Σ of the slot's tallies.
    #[must_use]
    pub fn tally(&self) -> i128 {
        self.tally
    }

    /// The slot's total as a reading: Σ of its tallies, and its latest change.
    #[must_use]
    pub fn total(&self) -> Reading {
        let updated_at = (self.updated_at > Hlc::default()).then_some(self.updated_at);
        Reading { tally: self.tally, updated_at, exists: self.existing > 0 }
    }

    /// How many counters the slot holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// How many of the slot's counters exist, see [`Counter::exists`].
    #[must_use]
    pub fn existing(&self) -> usize {
        self.existing
    }

    /// Whether the slot holds no counter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.len() == 0
    }

    /// What the slot's counters take in memory, in bytes: keys, index and room for growth included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.counters.memory_bytes()
    }

    /// What a counter that one actor has updated takes at least, in bytes.
    pub(crate) fn new_counter_bytes(key: KeyRef<'_>) -> usize {
        packed::new_record_bytes(key.as_bytes())
    }

    /// The slot's counters, in no order.
    pub fn counters(&self) -> impl Iterator<Item = (KeyRef<'_>, CounterView<'_>)> {
        self.counters.iter()
    }

    /// The slot's keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.counters.iter().map(|(key, _)| key)
    }

    /// A counter, if anyone has updated it.
    #[must_use]
    pub fn counter<'k>(&self, key: impl Into<KeyRef<'k>>) -> Option<CounterView<'_>> {
        self.counters.get(key.into().as_bytes())
    }

    /// What this replica knows of a counter.
    #[must_use]
    pub fn read<'k>(&self, key: impl Into<KeyRef<'k>>) -> Reading {
        self.counter(key).map_or(Reading::UNKNOWN, Reading::of)
    }

    /// Applies a client's update as the slot's writer. `admit` is asked before a new counter is made.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply<'k>(
        &mut self,
        key: impl Into<KeyRef<'k>>,
        update: Update,
        now: Hlc,
        admit: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        let actor = self.writer.ok_or(Refusal::NotOwner)?;
        let key = key.into();
        let Some(changed) = self.counters.apply(key.as_bytes(), actor, update, now)? else {
            return self.apply_to_new(key, update, now, actor, admit);
        };
        self.changed(changed);
        Ok(Applied { reading: answer(update, changed.before, changed.after), changed: true })
    }

    fn apply_to_new(
        &mut self,
        key: KeyRef<'_>,
        update: Update,
        now: Hlc,
        actor: ActorId,
        admit: impl FnOnce() -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        if update == Update::Reset {
            return Ok(Applied { reading: Reading::UNKNOWN, changed: false });
        }
        let mut counter = Counter::default();
        counter.apply(actor, update, now)?;
        admit()?;
        let Changed { before, after } = self.replace(key, &counter);
        Ok(Applied { reading: answer(update, before, after), changed: true })
    }

    /// Takes over what `delta` knows and this replica does not. Returns the keys of what changed.
    pub fn merge(&mut self, delta: &SlotDelta) -> Vec<Key> {
        let mut changed = match &delta.retirement {
            Some(retirement) if retirement.generation > self.generation => self.catch_up(retirement),
            _ => Vec::new(),
        };
        let bases = match delta.generation.cmp(&self.generation) {
            std::cmp::Ordering::Equal => Bases::Same,
            std::cmp::Ordering::Less => Bases::OtherOlder,
            std::cmp::Ordering::Greater => Bases::OtherNewer,
        };
        for (key, theirs) in &delta.counters {
            match self.counters.merge_in_place(key.as_bytes(), theirs, &self.retired) {
                InPlace::Unchanged => continue,
                InPlace::Changed(what) => {
                    self.changed(what);
                    changed.push(key.clone());
                    continue;
                }
                InPlace::NoPlace => {}
            }
            let known = self.counters.get(key.as_bytes()).map(CounterView::to_counter);
            let mut merged = known.clone().unwrap_or_default();
            merged.merge(theirs, &self.retired, bases);
            if merged == known.unwrap_or_default() {
                continue;
            }
            self.replace(key.into(), &merged);
            changed.push(key.clone());
        }
        changed
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
        keys
    }

    fn set_generation(&mut self, generation: Generation, retired: Vec<ActorId>) {
        self.generation = generation;
        self.retired = retired;
        self.unsaved_generation = true;
    }

    fn replace(&mut self, key: KeyRef<'_>, counter: &Counter) -> Changed {
        let changed = self.counters.set(key.as_bytes(), counter);
        self.changed(changed);
        changed
    }

    fn changed(&mut self, Changed { before, after }: Changed) {
        self.tally = self.tally.saturating_sub(before.tally).saturating_add(after.tally);
        self.existing = self.existing.saturating_sub(usize::from(before.exists)).saturating_add(usize::from(after.exists));
        self.updated_at = self.updated_at.max(after.updated_at.unwrap_or_default());
    }

    /// The actors, not retired, that have anything in the slot. Sorted.
    #[must_use]
    pub fn actors(&self) -> Vec<ActorId> {
        let mut actors: Vec<ActorId> = self.counters().flat_map(|(_, counter)| counter.actors()).collect();
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

    /// These counters as a delta; keys that the slot does not hold are left out.
    #[must_use]
    pub fn delta<'k>(&self, slot: Slot, keys: impl IntoIterator<Item = impl Into<KeyRef<'k>>>) -> SlotDelta {
        let known = |key: KeyRef<'k>| Some((key.to_key(), self.counter(key)?.to_counter()));
        let counters = keys.into_iter().map(Into::into).filter_map(known).collect();
        SlotDelta { slot, generation: self.generation, retirement: None, counters }
    }

    /// A summary of everything in the slot: equal vectors have equal digests. It is kept in step with each change.
    #[must_use]
    pub fn digest(&self) -> u64 {
        // An empty slot of the first generation has digest 0, so that it is the same everywhere at no cost.
        let generations = if self.generation == Generation::default() { 0 } else { hash(&(self.generation, &self.retired)) };
        generations ^ self.counters.digest()
    }

    /// A summary of what `actors`, sorted, and the retired before them have in the slot.
    #[must_use]
    pub fn digest_of(&self, actors: &[ActorId]) -> u64 {
        let parts = self.counters().map(|(key, counter)| counter.digest_of(key.as_bytes(), actors));
        parts.fold(hash(&self.generation), |digest, part| digest ^ part)
    }

    /// A summary per counter: the hash of the key, the digest of the counter. In no order.
    #[must_use]
    pub fn summary(&self) -> Vec<(u64, u64)> {
        self.counters().map(|(key, counter)| summary_of(key, counter)).collect()
    }

    /// The keys of the counters that `summary`, another replica's, lacks or has otherwise.
    #[must_use]
    pub fn differing(&self, summary: &[(u64, u64)]) -> Vec<Key> {
        let theirs: HashMap<u64, u64> = summary.iter().copied().collect();
        let differs = |key: KeyRef<'_>, counter: CounterView<'_>| {
            let (key_hash, digest) = summary_of(key, counter);
            theirs.get(&key_hash) != Some(&digest)
        };
        let differing = self.counters().filter(|(key, counter)| differs(*key, *counter));
        let mut keys: Vec<Key> = differing.map(|(key, _)| key.to_key()).collect();
        keys.sort_unstable();
        keys
    }

    /// Forgets everything: the slot has been moved away, and its receipt is there.
    pub fn clear(&mut self) {
        self.counters.clear();
        self.retired.clear();
        self.generation = Generation::default();
        self.tally = 0;
        self.existing = 0;
        self.updated_at = Hlc::default();
        self.unsaved_generation = false;
    }

    /// Puts a counter back as storage had it.
    pub fn restore_counter<'k>(&mut self, key: impl Into<KeyRef<'k>>, counter: &Counter) {
        self.replace(key.into(), counter);
    }

    /// Puts the slot's own record back as storage had it.
    pub fn restore_slot(&mut self, record: SlotRecord) {
        self.set_generation(record.generation, record.retired);
        self.unsaved_generation = false;
    }

    /// The slot's own record and all keys, when the generation changed since this was last asked: counters and
    /// generation must reach storage together, or a base would count beside the entries that it is made of.
    pub fn take_unsaved_generation(&mut self) -> Option<(SlotRecord, Vec<Key>)> {
        std::mem::take(&mut self.unsaved_generation).then(|| {
            let record = SlotRecord { generation: self.generation, retired: self.retired.clone() };
            (record, self.keys().map(KeyRef::to_key).collect())
        })
    }

    /// The write of what [`Self::take_unsaved_generation`] gave has failed: it is to be given again.
    pub fn mark_generation_unsaved(&mut self) {
        self.unsaved_generation = self.generation > Generation::default();
    }
}

/// What an update came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reading: Reading,
    /// False when there is nothing to make durable: the reset of a counter that nobody has updated.
    pub changed: bool,
}

/// What an update is answered with: what the counter came to; a set, whose outcome is known, with what it replaced.
fn answer(update: Update, before: Reading, after: Reading) -> Reading {
    match update {
        Update::Increment(_) | Update::Decrement(_) | Update::Reset => after,
        Update::Set(_) => before,
    }
}

/// The hash of a key, by which a pull goes through a slot in parts.
pub(crate) fn key_hash(key: KeyRef<'_>) -> u64 {
    xxh3_64(key.as_bytes())
}

/// The hash of the key, the digest of the counter.
pub(crate) fn summary_of(key: KeyRef<'_>, counter: CounterView<'_>) -> (u64, u64) {
    (key_hash(key), counter.digest(key.as_bytes()))
}

/// A hash that is the same on every node and in every release of one format.
fn hash(value: &impl Serialize) -> u64 {
    // Encoding into memory has no way to fail for these types.
    xxh3_64(&postcard::to_stdvec(value).unwrap_or_default())
}

#[cfg(test)]
mod tests;
