//! All slots of one replica: the compact table that client requests run straight on.

mod token_counts;

use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::token_counts::Outcomes;
pub use self::token_counts::TokenCounts;
use crate::counter::{Counter, Key, KeyRef, Update};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::key::slot_of;
use crate::marks::Mark;
use crate::slot::{SLOTS, Slot};
use crate::token::{Token, TokenRecord};
use crate::vector::{Applied, Growth, Merged, Reading, Refusal, SlotDelta, SlotRecord, SlotVector};

/// About what a token's record takes in memory: see `docs/exactly-once.md` for how it was measured.
const TOKEN_BYTES: u64 = 96;
/// And what each page takes besides that has records: its key once more, and the slot's lists, which few records fill badly.
const TOKEN_PAGE_BYTES: u64 = 160;

/// For how many counters [`Table::warm`] holds the locks of their slots at once, about a microsecond: as many waits for memory as a processor
/// has under way.
const WARMED_AT_ONCE: usize = 16;

/// How much a table takes in before it refuses new counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    pub counters: u64,
    /// What counters and token records may take in memory: [`Table::memory_bytes`]. Memory grows in steps of up to an eighth of a slot, so the
    /// last counter that is taken in may go past it by that much.
    pub memory_bytes: u64,
    /// Token records.
    pub tokens: u64,
    /// For how long after they were made tokens are taken.
    pub token_window_ms: u64,
}

/// Every slot of a replica, each behind its own lock, held for one counter's worth of work.
#[derive(Debug)]
pub struct Table {
    slots: Box<[Place]>,
    /// Of the slots' hashes.
    seed: u64,
    limits: TableLimits,
    held: Held,
    outcomes: Outcomes,
}

/// A slot, beginning with a line of memory, of which most updates in place read three.
#[derive(Debug)]
#[repr(align(64))]
struct Place(Mutex<SlotVector>);

const _: () = {
    // The lock itself, and whether it is poisoned.
    let lock_bytes = size_of::<Mutex<SlotVector>>() - size_of::<SlotVector>();
    assert!(lock_bytes + SlotVector::READ_END <= 3 * align_of::<Place>());
};

/// What all slots hold together.
#[derive(Debug, Default)]
struct Held {
    counters: AtomicU64,
    tokens: AtomicU64,
    memory_bytes: AtomicU64,
    /// Updates taken back since the start: see [`TokenCounts`].
    refunded: AtomicU64,
}

/// A slot, locked. When it is let go, what has changed of its size is told to the table.
#[derive(Debug)]
pub struct LockedSlot<'a> {
    vector: MutexGuard<'a, SlotVector>,
    held: &'a Held,
    /// How much of the table's counts is this slot's.
    counted: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    counters: u64,
    tokens: u64,
    memory_bytes: u64,
    refunded: u64,
}

impl Table {
    /// An empty table that owns nothing. `seed`: see [`SlotVector::new`].
    #[must_use]
    pub fn new(seed: u64, limits: TableLimits) -> Self {
        let slot = || {
            let mut slot = SlotVector::new(seed);
            slot.set_token_window_ms(limits.token_window_ms);
            Place(Mutex::new(slot))
        };
        Self { slots: (0..SLOTS).map(|_| slot()).collect(), seed, limits, held: Held::default(), outcomes: Outcomes::default() }
    }

    /// The slot, locked. Take one at a time.
    pub fn slot(&self, slot: Slot) -> LockedSlot<'_> {
        self.counted(self.lock(slot))
    }

    /// Does something with a slot, locked, that leaves its size as it is, which then need not be looked at: handing out its records.
    pub fn in_slot<R>(&self, slot: Slot, act: impl FnOnce(&mut SlotVector) -> R) -> R {
        let mut vector = self.lock(slot);
        let before = cfg!(debug_assertions).then(|| Size::of(&vector));
        let result = act(&mut vector);
        debug_assert_eq!(before, cfg!(debug_assertions).then(|| Size::of(&vector)));
        result
    }

    /// Reads the memory that these counters lie in, so that a request for each of them finds it in the processor's cache. Nothing comes
    /// of it but time: one look-up alone waits for its slot, then for its index, then for its record. Of several these waits
    /// overlap, as long as nothing orders them; and taking or releasing a lock does. So all locks are taken first, and nobody is waited for.
    pub fn warm(&self, keys: &[&[u8]]) {
        for some in keys.chunks(WARMED_AT_ONCE) {
            let mut places = [(0, 0); WARMED_AT_ONCE];
            let count = places.iter_mut().zip(some).map(|(place, key)| *place = self.place(key)).count();
            let places = &places[..count];
            // Whether a lock is poisoned stands beside it.
            black_box(places.iter().fold(false, |any, (slot, _)| any ^ self.slots[*slot].0.is_poisoned()));
            let mut held: [_; WARMED_AT_ONCE] = std::array::from_fn(|_| None);
            for (held, (slot, hash)) in held.iter_mut().zip(places) {
                *held = self.slots[*slot].0.try_lock().ok().map(|vector| (vector, *hash));
            }
            let held = &held[..count];
            black_box(held.iter().flatten().fold(0, |all, (vector, hash)| all ^ vector.touch(*hash)));
            black_box(held.iter().flatten().fold(0, |all, (vector, hash)| all ^ vector.touch_index(*hash)));
            black_box(held.iter().flatten().fold(0, |all, (vector, hash)| all ^ vector.touch_record(*hash)));
        }
    }

    /// Which slot's a key is, and the hash that its counter has a place by.
    fn place(&self, key: &[u8]) -> (usize, u64) {
        (slot_of(key).index(), SlotVector::place_hash(self.seed, key))
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, SlotVector> {
        // Nothing below panics while it holds the lock; and what it guards is consistent after each step.
        self.slots[slot.index()].0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted<'a>(&'a self, vector: MutexGuard<'a, SlotVector>) -> LockedSlot<'a> {
        let counted = Size::of(&vector);
        LockedSlot { vector, held: &self.held, counted }
    }

    /// Applies a client's update, once for each token.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply<'k>(
        &self,
        key: impl Into<KeyRef<'k>>,
        update: Update,
        token: Option<&Token>,
        now: Hlc,
    ) -> Result<Applied, Refusal> {
        let key = key.into();
        self.apply_in(key.slot(), key, update, token, now)
    }

    /// The same, where the key's slot is known.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply_in(
        &self,
        slot: Slot,
        key: KeyRef<'_>,
        update: Update,
        token: Option<&Token>,
        now: Hlc,
    ) -> Result<Applied, Refusal> {
        debug_assert_eq!(slot, key.slot());
        let mut vector = self.lock(slot);
        if token.is_none()
            && let Some(applied) = vector.apply_in_place(key, update, now)?
        {
            // Its size is what it was.
            return Ok(applied);
        }
        self.apply_locked(&mut self.counted(vector), key, update, token, now)
    }

    /// The same, with what stands for the update: nothing that comes later is in it, which might be lost where this is not.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply_marked(
        &self,
        key: KeyRef<'_>,
        update: Update,
        token: Option<&Token>,
        now: Hlc,
    ) -> Result<(Applied, Option<Mark>), Refusal> {
        let mut slot = self.slot(key.slot());
        let applied = self.apply_locked(&mut slot, key, update, token, now)?;
        Ok((applied, slot.mark(key, applied.actor, update)))
    }

    fn apply_locked(
        &self,
        slot: &mut LockedSlot<'_>,
        key: KeyRef<'_>,
        update: Update,
        token: Option<&Token>,
        now: Hlc,
    ) -> Result<Applied, Refusal> {
        let LockedSlot { vector, counted, .. } = slot;
        let applied = vector.apply(key, update, token, now, |growth| {
            self.admit(key, growth)?;
            // The places are taken already, so that two new counters at the limit cannot both have it.
            counted.counters = counted.counters.saturating_add(u64::from(growth.counter));
            counted.tokens = counted.tokens.saturating_add(u64::from(growth.token));
            Ok(())
        });
        if token.is_some() {
            self.outcomes.note(&applied);
        }
        applied
    }

    /// What this replica knows of a counter.
    #[must_use]
    pub fn read<'k>(&self, key: impl Into<KeyRef<'k>>) -> Reading {
        let key = key.into();
        self.read_in(key.slot(), key)
    }

    /// The same, where the key's slot is known.
    #[must_use]
    pub fn read_in(&self, slot: Slot, key: KeyRef<'_>) -> Reading {
        debug_assert_eq!(slot, key.slot());
        self.lock(slot).read(key)
    }

    /// Whether all that these marks stand for is in this replica's copy of the counter.
    #[must_use]
    pub fn has_seen<'k>(&self, key: impl Into<KeyRef<'k>>, marks: &[Mark]) -> bool {
        let key = key.into();
        let vector = self.lock(key.slot());
        marks.iter().all(|mark| vector.has_seen(key, mark))
    }

    /// What stands for an update that has been applied: see [`SlotVector::mark`].
    #[must_use]
    pub fn mark<'k>(&self, key: impl Into<KeyRef<'k>>, actor: ActorId, update: Update) -> Option<Mark> {
        let key = key.into();
        self.lock(key.slot()).mark(key, actor, update)
    }

    /// Merges what another replica knows; never refused.
    pub fn merge(&self, delta: &SlotDelta) -> Merged {
        self.slot(delta.slot).merge(delta)
    }

    /// Puts a token's record back as storage had it, at start.
    pub fn restore_token(&self, record: &TokenRecord) {
        self.slot(record.key.slot()).restore_token(record);
    }

    /// Puts a slot's floor back as storage had it, at start.
    pub fn restore_floor(&self, slot: Slot, floor_ms: u64) {
        self.slot(slot).restore_floor(floor_ms);
    }

    /// How many token records the table holds.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.held.tokens.load(Ordering::Relaxed)
    }

    /// What has become of updates under tokens.
    #[must_use]
    pub fn token_counts(&self) -> TokenCounts {
        self.outcomes.counts(self.held.refunded.load(Ordering::Relaxed))
    }

    /// Puts a counter back as storage had it, at start. The slot is the key's.
    pub fn restore_counter(&self, slot: Slot, key: KeyRef<'_>, counter: &Counter) {
        debug_assert_eq!(slot, key.slot());
        self.slot(slot).restore_counter(key, counter);
    }

    /// Puts a slot's own record back as storage had it, at start.
    pub fn restore_slot(&self, slot: Slot, record: SlotRecord) {
        self.slot(slot).restore_slot(record);
    }

    /// Forgets a slot that has moved away. Returns the keys that it held.
    pub fn clear(&self, slot: Slot) -> Vec<Key> {
        let mut vector = self.slot(slot);
        let keys = vector.keys().map(KeyRef::to_key).collect();
        vector.clear();
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
        self.held.counters.load(Ordering::Relaxed)
    }

    /// How many bytes the counters take: keys, indexes and room for growth included; not what the allocator adds, nor the
    /// fixed part of the table.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.held.memory_bytes.load(Ordering::Relaxed)
    }

    /// Takes the places that an update needs: all or none.
    fn admit(&self, key: KeyRef<'_>, growth: Growth) -> Result<(), Refusal> {
        let TableLimits { counters, memory_bytes, tokens, .. } = self.limits;
        let counter_bytes = if growth.counter { count(SlotVector::new_counter_bytes(key)) } else { 0 };
        let added = counter_bytes.saturating_add(if growth.token { TOKEN_BYTES } else { 0 });
        if self.memory_bytes().saturating_add(added) > memory_bytes {
            return Err(Refusal::TooMuchMemory { limit_bytes: memory_bytes });
        }
        let take = |held: &AtomicU64, limit: u64| {
            let within = |held: u64| held.checked_add(1).filter(|sum| *sum <= limit);
            held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
        };
        if growth.counter && !take(&self.held.counters, counters) {
            return Err(Refusal::TooManyCounters { limit: counters });
        }
        if growth.token && !take(&self.held.tokens, tokens) {
            self.held.counters.fetch_sub(u64::from(growth.counter), Ordering::Relaxed);
            return Err(Refusal::TooManyTokens { limit: tokens });
        }
        Ok(())
    }
}

impl Deref for LockedSlot<'_> {
    type Target = SlotVector;

    fn deref(&self) -> &SlotVector {
        &self.vector
    }
}

impl DerefMut for LockedSlot<'_> {
    fn deref_mut(&mut self) -> &mut SlotVector {
        &mut self.vector
    }
}

impl Drop for LockedSlot<'_> {
    fn drop(&mut self) {
        let size = Size::of(&self.vector);
        if size != self.counted {
            adjust(&self.held.counters, self.counted.counters, size.counters);
            adjust(&self.held.tokens, self.counted.tokens, size.tokens);
            adjust(&self.held.memory_bytes, self.counted.memory_bytes, size.memory_bytes);
            adjust(&self.held.refunded, self.counted.refunded, size.refunded);
        }
    }
}

impl Size {
    fn of(vector: &SlotVector) -> Self {
        let tokens = count(vector.tokens());
        let of_tokens = tokens.saturating_mul(TOKEN_BYTES);
        let of_pages = count(vector.token_keys()).saturating_mul(TOKEN_PAGE_BYTES);
        let memory_bytes = count(vector.memory_bytes()).saturating_add(of_tokens).saturating_add(of_pages);
        Self { counters: count(vector.len()), tokens, memory_bytes, refunded: vector.refunded() }
    }
}

/// Counts `now` in the place of `before`, both of one slot.
fn adjust(sum: &AtomicU64, before: u64, now: u64) {
    // Wraps where `now` is less, and the sum wraps back.
    sum.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TableLimits = TableLimits { counters: 2, memory_bytes: 1 << 20, tokens: 3, token_window_ms: 1_000 };
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
            table.apply(&key(name), Update::Increment(1), None, Hlc(1)).unwrap();
        }
        let refused = table.apply(&key("c"), Update::Increment(1), None, Hlc(1)).unwrap_err();
        assert_eq!(refused, Refusal::TooManyCounters { limit: 2 });
        assert_eq!((table.counters(), table.read(&key("c"))), (2, Reading::UNKNOWN));
        assert_eq!(table.apply(&key("a"), Update::Increment(1), None, Hlc(2)).unwrap().reading.tally, 2);
    }

    #[test]
    fn at_the_memory_limit_a_new_counter_is_refused_and_takes_no_place() {
        let table = owning(TableLimits { counters: 9, memory_bytes: 50, ..LIMITS });
        table.apply(&key("a"), Update::Increment(1), None, Hlc(1)).unwrap();
        let refused = table.apply(&key("b"), Update::Increment(1), None, Hlc(1)).unwrap_err();
        assert_eq!(refused, Refusal::TooMuchMemory { limit_bytes: 50 });
        assert_eq!((table.counters(), table.read(&key("b"))), (1, Reading::UNKNOWN));
        assert_eq!(table.apply(&key("a"), Update::Increment(1), None, Hlc(2)).unwrap().reading.tally, 2);
    }

    #[test]
    fn a_refused_first_update_takes_no_place() {
        let table = owning(LIMITS);
        assert!(table.apply(&key("a"), Update::Increment(u64::MAX), None, Hlc(1)).is_err());
        assert_eq!(table.counters(), 0);
    }

    #[test]
    fn a_slot_without_a_writer_refuses() {
        let table = Table::new(7, LIMITS);
        assert_eq!(table.apply(&key("a"), Update::Increment(1), None, Hlc(1)), Err(Refusal::NotOwner));
    }

    #[test]
    fn what_is_changed_through_a_locked_slot_is_counted_too() {
        let (table, slot) = (owning(LIMITS), key("a").slot());
        table.apply(&key("a"), Update::Increment(1), None, Hlc(1)).unwrap();
        table.slot(slot).retire(&[ACTOR]);
        let held = table.slot(slot).memory_bytes();
        assert_eq!((table.counters(), table.memory_bytes()), (1, held.try_into().unwrap()));
        table.slot(slot).clear();
        assert_eq!((table.counters(), table.memory_bytes()), (0, 0));
    }

    #[test]
    fn warming_waits_for_no_lock_and_changes_nothing() {
        let table = owning(TableLimits { counters: 99, ..LIMITS });
        let names: Vec<String> = (0..40).map(|number| format!("page-{number}")).collect();
        for name in names.iter().step_by(2) {
            table.apply(&key(name), Update::Increment(1), None, Hlc(1)).unwrap();
        }
        let before: Vec<Reading> = names.iter().map(|name| table.read(&key(name))).collect();
        // Some more than once, one that is no key, and one whose slot is locked all the while.
        let keys: Vec<&[u8]> = names.iter().chain(&names[..5]).map(String::as_bytes).chain([&b""[..]]).collect();
        let held = table.slot(key("page-0").slot());
        table.warm(&keys);
        drop(held);
        table.warm(&keys);
        let after: Vec<Reading> = names.iter().map(|name| table.read(&key(name))).collect();
        assert_eq!((after, table.counters()), (before, 20));
    }

    #[test]
    fn a_cleared_slot_gives_its_places_back() {
        let table = owning(LIMITS);
        table.apply(&key("a"), Update::Increment(1), None, Hlc(1)).unwrap();
        assert_eq!(table.clear(key("a").slot()), [key("a")]);
        assert_eq!((table.counters(), table.memory_bytes()), (0, 0));
    }
}
