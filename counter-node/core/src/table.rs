//! All slots of one replica: the compact table that client requests run straight on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::counter::{Counter, Key, Update};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::slot::{SLOTS, Slot};
use crate::vector::{Applied, Reading, Refusal, SlotDelta, SlotRecord, SlotVector};

/// About what a counter takes in memory beyond its key: table slot, shared key header, one entry, allocator overhead.
const COUNTER_BYTES: u64 = 176;

/// How much a table takes in before it refuses new counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    pub counters: u64,
    /// By the table's own reckoning of what counters take.
    pub memory_bytes: u64,
}

/// Every slot of a replica, each behind its own lock, held for one counter's worth of work.
#[derive(Debug)]
pub struct Table {
    slots: Box<[Mutex<SlotVector>]>,
    limits: TableLimits,
    counters: AtomicU64,
    memory_bytes: AtomicU64,
}

impl Table {
    /// An empty table that owns nothing. `seed`: see [`SlotVector::new`].
    #[must_use]
    pub fn new(seed: u64, limits: TableLimits) -> Self {
        let slots = (0..SLOTS).map(|_| Mutex::new(SlotVector::new(seed))).collect();
        Self { slots, limits, counters: AtomicU64::new(0), memory_bytes: AtomicU64::new(0) }
    }

    /// The slot, locked. Take one at a time.
    pub fn slot(&self, slot: Slot) -> MutexGuard<'_, SlotVector> {
        // Nothing below panics while it holds the lock; and what it guards is consistent after each step.
        self.slots[slot.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a client's update.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply(&self, key: &Key, update: Update, now: Hlc) -> Result<Applied, Refusal> {
        self.slot(key.slot()).apply(key, update, now, || self.admit(key))
    }

    /// What this replica knows of a counter.
    #[must_use]
    pub fn read(&self, key: &Key) -> Reading {
        self.slot(key.slot()).read(key)
    }

    /// Merges what another replica knows; never refused. Returns the keys of what changed.
    pub fn merge(&self, delta: &SlotDelta) -> Vec<Key> {
        let mut slot = self.slot(delta.slot);
        let before = slot.len();
        let changed = slot.merge(delta);
        let added = slot.len().saturating_sub(before);
        drop(slot);
        self.count_in(added, changed.iter());
        changed
    }

    /// Puts a counter back as storage had it, at start.
    pub fn restore_counter(&self, key: Key, counter: Counter) {
        self.count_in(1, std::iter::once(&key));
        self.slot(key.slot()).restore_counter(key, counter);
    }

    /// Puts a slot's own record back as storage had it, at start.
    pub fn restore_slot(&self, slot: Slot, record: SlotRecord) {
        self.slot(slot).restore_slot(record);
    }

    /// Forgets a slot that has moved away. Returns the keys that it held.
    pub fn clear(&self, slot: Slot) -> Vec<Key> {
        let mut vector = self.slot(slot);
        let keys: Vec<Key> = vector.keys().cloned().collect();
        vector.clear();
        drop(vector);
        let bytes = keys.iter().map(memory_of).fold(0_u64, u64::saturating_add);
        self.counters.fetch_sub(count(keys.len()), Ordering::Relaxed);
        self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
        keys
    }

    /// From now on updates of these slots are applied as `writer`, or refused.
    pub fn set_writer(&self, slots: impl IntoIterator<Item = Slot>, writer: Option<ActorId>) {
        for slot in slots {
            self.slot(slot).set_writer(writer);
        }
    }

    /// How many counters the table holds.
    #[must_use]
    pub fn counters(&self) -> u64 {
        self.counters.load(Ordering::Relaxed)
    }

    /// About how many bytes the counters take.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Reserves a place for a new counter.
    fn admit(&self, key: &Key) -> Result<(), Refusal> {
        let TableLimits { counters, memory_bytes } = self.limits;
        let reserve = |gauge: &AtomicU64, by: u64, limit: u64| {
            let within = |held: u64| held.checked_add(by).filter(|sum| *sum <= limit);
            gauge.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
        };
        if !reserve(&self.counters, 1, counters) {
            return Err(Refusal::TooManyCounters { limit: counters });
        }
        if !reserve(&self.memory_bytes, memory_of(key), memory_bytes) {
            self.counters.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::TooMuchMemory { limit_bytes: memory_bytes });
        }
        Ok(())
    }

    /// Counts `added` of these keys in. Which of them are new is not known: their mean length serves.
    fn count_in<'a>(&self, added: usize, keys: impl ExactSizeIterator<Item = &'a Key>) {
        if added == 0 {
            return;
        }
        let all = count(keys.len()).max(1);
        let bytes = keys.map(memory_of).fold(0_u64, u64::saturating_add).saturating_mul(count(added));
        self.counters.fetch_add(count(added), Ordering::Relaxed);
        self.memory_bytes.fetch_add(bytes.checked_div(all).unwrap_or(bytes), Ordering::Relaxed);
    }
}

fn memory_of(key: &Key) -> u64 {
    count(key.as_bytes().len()).saturating_add(COUNTER_BYTES)
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TableLimits = TableLimits { counters: 2, memory_bytes: 1 << 20 };
    const ACTOR: ActorId = ActorId { origin: 1, incarnation: 1 };

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn owning(limits: TableLimits) -> Table {
        let table = Table::new(7, limits);
        table.set_writer(Slot::all(), Some(ACTOR));
        table
    }

    #[test]
    fn at_the_limit_a_new_counter_is_refused_and_existing_ones_count_on() {
        let table = owning(LIMITS);
        for name in ["a", "b"] {
            table.apply(&key(name), Update::Increment(1), Hlc(1)).unwrap();
        }
        let refused = table.apply(&key("c"), Update::Increment(1), Hlc(1)).unwrap_err();
        assert_eq!(refused, Refusal::TooManyCounters { limit: 2 });
        assert_eq!((table.counters(), table.read(&key("c"))), (2, Reading::UNKNOWN));
        assert_eq!(table.apply(&key("a"), Update::Increment(1), Hlc(2)).unwrap().reading.tally, 2);
    }

    #[test]
    fn at_the_memory_limit_a_new_counter_is_refused_and_takes_no_place() {
        let table = owning(TableLimits { counters: 9, memory_bytes: 200 });
        table.apply(&key("a"), Update::Increment(1), Hlc(1)).unwrap();
        let refused = table.apply(&key("b"), Update::Increment(1), Hlc(1)).unwrap_err();
        assert_eq!(refused, Refusal::TooMuchMemory { limit_bytes: 200 });
        assert_eq!(table.counters(), 1);
    }

    #[test]
    fn a_refused_first_update_takes_no_place() {
        let table = owning(LIMITS);
        assert!(table.apply(&key("a"), Update::Increment(u64::MAX), Hlc(1)).is_err());
        assert_eq!(table.counters(), 0);
    }

    #[test]
    fn a_slot_without_a_writer_refuses() {
        let table = Table::new(7, LIMITS);
        assert_eq!(table.apply(&key("a"), Update::Increment(1), Hlc(1)), Err(Refusal::NotOwner));
    }

    #[test]
    fn a_cleared_slot_gives_its_places_back() {
        let table = owning(LIMITS);
        table.apply(&key("a"), Update::Increment(1), Hlc(1)).unwrap();
        assert_eq!(table.clear(key("a").slot()), [key("a")]);
        assert_eq!((table.counters(), table.memory_bytes()), (0, 0));
    }
}
