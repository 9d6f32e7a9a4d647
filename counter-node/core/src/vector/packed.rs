//! A slot's counters as packed bytes: some 45 bytes a counter with a key of 16 bytes, where a map of [`Counter`]s takes 290; and
//! counting up, merging or reading what exists allocates nothing.
//!
//! A counter is a record in an arena ([`record`]); arenas and their indexes make segments ([`segment`]) of bounded size
//! ([`segments`]), so that no operation goes over all of a slot. The few counters without a packed form, because they
//! have hundreds of actors, are kept as they are.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::mem::offset_of;

use foldhash::quality::FixedState;

use self::actors::Actors;
use self::record::Record;
use self::segments::Segments;
use self::view::CounterView;
use super::Reading;
use super::digest::Terms;
use crate::counter::{Counter, Entry, Key, KeyRef, OutOfRange, Update};
use crate::hlc::Hlc;
use crate::id::ActorId;

mod actors;
mod index;
mod record;
mod segment;
mod segments;
#[cfg(test)]
mod tests;
pub(super) mod view;

pub(super) use record::new_record_bytes;

/// The counters of one slot.
#[derive(Clone, Debug)]
#[repr(C)]
pub(super) struct PackedCounters {
    hasher: FixedState,
    /// The counters' digests, combined.
    digest: u64,
    actors: Actors,
    segments: Segments,
    len: usize,
    /// Counters that have no packed form.
    whole: Option<Box<Whole>>,
}

/// What changing a counter came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) before: Reading,
    pub(super) after: Reading,
}

/// What merging in place came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InPlace {
    Unchanged,
    Changed(Changed),
    /// The record has no place for it; nothing has changed.
    NoPlace,
}

impl PackedCounters {
    /// What a look-up in the first segment reads of this itself ends here.
    pub(super) const READ_END: usize = offset_of!(Self, segments) + Segments::READ_END;

    /// No counters. `seed` mixes the hashes.
    pub(super) fn new(seed: u64) -> Self {
        Self::with(FixedState::with_seed(seed))
    }

    /// What places the key's counter, in every slot of the same seed.
    pub(super) fn hash(seed: u64, key: &[u8]) -> u64 {
        FixedState::with_seed(seed).hash_one(key)
    }

    fn with(hasher: FixedState) -> Self {
        Self { hasher, digest: 0, actors: Actors::default(), segments: Segments::default(), len: 0, whole: None }
    }

    /// Forgets all counters, and gives their memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::with(self.hasher.clone());
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The exclusive or of the counters' [`CounterView::digest`].
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// What the counters take on the heap, room for growth included.
    pub(super) fn memory_bytes(&self) -> usize {
        let whole = self.whole.as_ref().map_or(0, |whole| whole.memory_bytes());
        self.segments.memory_bytes().saturating_add(self.actors.memory_bytes()).saturating_add(whole)
    }

    /// Reads what a look-up needs of this itself. What is returned means nothing.
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.digest ^ self.segments.of(hash).touch()
    }

    /// Reads where a look-up begins. What is returned means nothing.
    pub(super) fn touch_index(&self, hash: u64) -> u32 {
        self.segments.of(hash).touch_index(hash) ^ self.actors.touch()
    }

    /// Reads where the counter of this hash probably lies. What is returned means nothing.
    pub(super) fn touch_record(&self, hash: u64) -> u8 {
        self.segments.of(hash).touch_record(hash)
    }

    /// A counter where it lies.
    pub(super) fn get(&self, key: &[u8]) -> Option<CounterView<'_>> {
        match self.segments.find(self.hasher.hash_one(key), key) {
            Some(record) => Some(CounterView::packed(record, &self.actors)),
            None => self.whole.as_ref()?.counters.get(key).map(CounterView::whole),
        }
    }

    /// The counters, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyRef<'_>, CounterView<'_>)> {
        let packed = self.segments.records();
        let packed = packed.map(|record| (KeyRef::of_stored(record.key()), CounterView::packed(record, &self.actors)));
        let whole = self.whole.iter().flat_map(|whole| &whole.counters);
        packed.chain(whole.map(|(key, counter)| (key.into(), CounterView::whole(counter))))
    }

    /// The actors that any counter names, some more than once: from the list of them, not from the counters.
    pub(super) fn actors(&self) -> impl Iterator<Item = ActorId> {
        let whole = self.whole.iter().flat_map(|whole| whole.counters.values());
        self.actors.in_use().chain(whole.flat_map(Counter::actors))
    }

    /// Applies an update to a counter that exists; None when there is no such counter.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing has changed then.
    pub(super) fn apply(&mut self, key: &[u8], actor: ActorId, update: Update, now: Hlc) -> Result<Option<Changed>, OutOfRange> {
        match self.apply_in_place(key, actor, update, now)? {
            None => self.apply_anew(key, actor, update, now),
            changed => Ok(changed),
        }
    }

    /// The same, in place; None, and nothing has changed, when the record has no place for it.
    pub(super) fn apply_in_place(
        &mut self,
        key: &[u8],
        actor: ActorId,
        update: Update,
        now: Hlc,
    ) -> Result<Option<Changed>, OutOfRange> {
        let hash = self.hasher.hash_one(key);
        let (Some(bytes), Some(change)) = (self.segments.find_mut(hash, key), update.change()) else { return Ok(None) };
        let record = Record::at(bytes);
        let Some((index, held)) = self.actors.find(actor).and_then(|place| record.entry_of(place)) else { return Ok(None) };
        let (before, updated_from) = (record.reading(), record.updated_at());
        let entry = held.changed_by(change, before.tally)?;
        if !record.takes(entry) {
            return Ok(None);
        }
        let updated_at = updated_from.max(now);
        record::set_entry(bytes, index, entry);
        let terms = Terms::of(key);
        self.digest ^= terms.entry(actor, held) ^ terms.entry(actor, entry);
        if updated_at != updated_from {
            record::set_updated_at(bytes, updated_at);
            self.digest ^= terms.updated_at(updated_from) ^ terms.updated_at(updated_at);
        }
        let after = Record::at(bytes).reading();
        Ok(Some(Changed { before, after }))
    }

    /// The same, where the record has no place for it: it is made anew.
    #[cold]
    fn apply_anew(&mut self, key: &[u8], actor: ActorId, update: Update, now: Hlc) -> Result<Option<Changed>, OutOfRange> {
        let Some(view) = self.get(key) else { return Ok(None) };
        let mut counter = view.to_counter();
        counter.apply(actor, update, now)?;
        Ok(Some(self.set(key, &counter)))
    }

    /// Merges `theirs`, of actors that are not `retired`, into a counter that names all of them already: what replication brings
    /// most of the time. What resets have cleared is not merged so.
    pub(super) fn merge_in_place(&mut self, key: &[u8], theirs: &Counter, retired: &[ActorId]) -> InPlace {
        let hash = self.hasher.hash_one(key);
        let Some(bytes) = self.segments.find_mut(hash, key).filter(|_| !theirs.has_cleared()) else { return InPlace::NoPlace };
        let actors = &self.actors;
        let live = || theirs.entries().iter().filter(|(actor, _)| retired.binary_search(actor).is_err());
        let held_by = |bytes: &[u8], actor: ActorId| Record::at(bytes).entry_of(actors.find(actor)?);
        let takes = |(actor, entry): &(ActorId, Entry)| held_by(bytes, *actor).is_some() && Record::at(bytes).takes(*entry);
        if !live().all(takes) {
            return InPlace::NoPlace;
        }
        let terms = Terms::of(key);
        let (before, updated_from) = (Record::at(bytes).reading(), Record::at(bytes).updated_at());
        let updated_at = updated_from.max(theirs.updated_at().unwrap_or_default());
        let mut digest = terms.updated_at(updated_from) ^ terms.updated_at(updated_at);
        let mut changed = updated_at > updated_from;
        for (actor, entry) in live() {
            let Some((index, held)) = held_by(bytes, *actor) else { continue };
            let merged = held.max(*entry);
            if merged != held {
                record::set_entry(bytes, index, merged);
                digest ^= terms.entry(*actor, held) ^ terms.entry(*actor, merged);
                changed = true;
            }
        }
        if !changed {
            return InPlace::Unchanged;
        }
        record::set_updated_at(bytes, updated_at);
        let after = Record::at(bytes).reading();
        self.digest ^= digest;
        InPlace::Changed(Changed { before, after })
    }

    /// Inserts a counter of one entry, whose key is not here: how nearly all of them begin. None, and nothing has changed, where it is
    /// not as simple as that.
    pub(super) fn begin(&mut self, key: &[u8], actor: ActorId, entry: Entry, now: Hlc) -> Option<Changed> {
        let hash = self.hasher.hash_one(key);
        let bytes = record::pack_first(key, self.actors.take(actor)?, entry, now);
        let fits = bytes.len() <= record::RECORD_BYTES_MAX && self.segments.make_room(hash, bytes.len(), &self.hasher);
        if !fits {
            self.actors.release_all(Record::at(&bytes));
            return None;
        }
        self.segments.insert(hash, &bytes, &self.hasher);
        self.len = self.len.saturating_add(1);
        let terms = Terms::of(key);
        self.digest ^= terms.updated_at(now) ^ terms.entry(actor, entry);
        Some(Changed { before: Reading::UNKNOWN, after: Record::at(&bytes).reading() })
    }

    /// Inserts a counter, or replaces it.
    pub(super) fn set(&mut self, key: &[u8], counter: &Counter) -> Changed {
        let hash = self.hasher.hash_one(key);
        let held = self.segments.find(hash, key);
        let whole = || self.whole.as_ref()?.counters.get(key).map(CounterView::whole);
        let before = held.map(|record| CounterView::packed(record, &self.actors)).or_else(whole);
        let (digest_before, before) = (before.map(|view| view.digest(key)), before.map_or(Reading::UNKNOWN, Reading::of));
        let packed = record::pack(key, counter, &mut self.actors);
        if let Some(record) = held {
            self.actors.release_all(record);
        }
        match packed {
            Some(bytes) if self.segments.make_room(hash, bytes.len(), &self.hasher) => {
                self.segments.set(hash, &bytes, &self.hasher);
                self.remove_whole(key);
            }
            packed => {
                packed.iter().for_each(|bytes| self.actors.release_all(Record::at(bytes)));
                self.segments.remove(hash, key, &self.hasher);
                self.whole.get_or_insert_default().insert(key, counter);
            }
        }
        self.len = self.len.saturating_add(usize::from(digest_before.is_none()));
        let view = CounterView::whole(counter);
        self.digest ^= digest_before.unwrap_or(0) ^ view.digest(key);
        Changed { before, after: Reading::of(view) }
    }

    fn remove_whole(&mut self, key: &[u8]) {
        if let Some(whole) = &mut self.whole {
            whole.remove(key);
            self.whole.take_if(|whole| whole.counters.is_empty());
        }
    }
}

/// Counters as they are, and what they take outside of the map.
#[derive(Clone, Debug, Default)]
struct Whole {
    counters: HashMap<Key, Counter>,
    heap_bytes: usize,
}

impl Whole {
    fn insert(&mut self, key: &[u8], counter: &Counter) {
        self.remove(key);
        let key = KeyRef::of_stored(key).to_key();
        self.heap_bytes = self.heap_bytes.saturating_add(heap_bytes(&key, counter));
        self.counters.insert(key, counter.clone());
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, counter)) = self.counters.remove_entry(key) {
            self.heap_bytes = self.heap_bytes.saturating_sub(heap_bytes(&key, &counter));
        }
    }

    fn memory_bytes(&self) -> usize {
        let bucket = size_of::<(Key, Counter)>().saturating_add(1);
        size_of::<Self>().saturating_add(self.heap_bytes).saturating_add(self.counters.capacity().saturating_mul(bucket))
    }
}

fn heap_bytes(key: &Key, counter: &Counter) -> usize {
    let items = counter.entries().len().saturating_add(counter.baselines().len());
    let items = items.saturating_mul(size_of::<(ActorId, Entry)>());
    key.as_bytes().len().saturating_add(size_of::<[usize; 2]>()).saturating_add(items)
}
