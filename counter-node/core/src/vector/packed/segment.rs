//! Some of a slot's counters: their records in one arena, one behind the other, and an index over them. All that takes time in
//! proportion to the number of records (growing the index, compacting, splitting) does so for one segment, which is small.

use std::hash::BuildHasher;
use std::mem::offset_of;

use foldhash::quality::FixedState;

use super::index::{Index, OFFSET_END, Place};
use super::record::{self, RECORD_BYTES_MAX, Record};

/// How many bytes of records a segment holds before it is split: what a compaction or a split copies, some tens of
/// microseconds' worth.
pub(super) const SEGMENT_BYTES_MAX: usize = 64 << 10;

/// By how much an arena grows at least: five short records.
const ARENA_STEP_MIN: usize = 256;

/// How far from a record's first byte its last one is mostly, less than a cache line: with a key of 20 bytes.
const RECORD_TOUCHED: usize = 40;

// Of an arena that grows less than an eighth is garbage, and it grows by an eighth, by a few or by one long record.
const _: () = assert!(SEGMENT_BYTES_MAX / 7 * 9 + RECORD_BYTES_MAX < OFFSET_END && ARENA_STEP_MIN < RECORD_BYTES_MAX);

#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Segment {
    arena: Vec<u8>,
    index: Index,
    /// How many records are not garbage.
    records: usize,
    /// How many bytes of the arena are garbage.
    garbage: usize,
}

impl Segment {
    /// What a look-up reads of this itself ends here.
    pub(super) const READ_END: usize = offset_of!(Self, index) + Index::READ_END;

    /// The record of a key, if it is here.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Place> {
        self.index.find(hash, |offset| Record::at(&self.arena[offset..]).key() == key)
    }

    /// Reads where the arena and the index are. What is returned means nothing.
    pub(super) fn touch(&self) -> u64 {
        u64::from(self.arena.is_empty() ^ self.index.is_empty())
    }

    /// Reads where a search for this hash begins. What is returned means nothing.
    pub(super) fn touch_index(&self, hash: u64) -> u32 {
        self.index.first_word(hash)
    }

    /// Reads both ends of what may be the record of this hash, or of what a new one is put behind. What is returned means nothing.
    pub(super) fn touch_record(&self, hash: u64) -> u8 {
        let found = self.index.find(hash, |_| true).map(|place| self.index.offset(place));
        let at = found.unwrap_or(self.arena.len().saturating_sub(RECORD_TOUCHED));
        let byte = |at: usize| self.arena.get(at).copied().unwrap_or(0);
        byte(at) ^ byte(at.saturating_add(RECORD_TOUCHED))
    }

    pub(super) fn record(&self, place: Place) -> Record<'_> {
        Record::at(&self.arena[self.index.offset(place)..])
    }

    /// The record's bytes, and what lies behind them.
    pub(super) fn bytes_mut(&mut self, place: Place) -> &mut [u8] {
        &mut self.arena[self.index.offset(place)..]
    }

    /// The records, in no order.
    pub(super) fn records(&self) -> Records<'_> {
        Records { arena: &self.arena, at: 0 }
    }

    /// Whether the segment is to be split before it takes `bytes` more.
    pub(super) fn is_full_for(&self, bytes: usize) -> bool {
        self.arena.len().saturating_sub(self.garbage).saturating_add(bytes) > SEGMENT_BYTES_MAX
    }

    /// Adds a record, whose key is not here. The caller has seen to it that the segment is not full.
    pub(super) fn insert(&mut self, hash: u64, bytes: &[u8], hasher: &FixedState) {
        self.make_room(bytes.len(), hasher);
        self.records = self.records.saturating_add(1);
        if !self.index.has_room() {
            self.rebuild_index(hasher);
        }
        let offset = self.push(bytes);
        self.index.insert(hash, offset);
    }

    /// Puts another record of the same key in the place of one. The caller has seen to it that the segment is not full.
    pub(super) fn replace(&mut self, place: Place, hash: u64, bytes: &[u8], hasher: &FixedState) {
        let held = self.record(place).len();
        if held == bytes.len() {
            self.bytes_mut(place)[..held].copy_from_slice(bytes);
            return;
        }
        self.discard(place);
        let index_is_new = self.make_room(bytes.len(), hasher);
        let offset = self.push(bytes);
        if index_is_new {
            self.index.insert(hash, offset);
        } else {
            self.index.relocate(place, offset);
        }
    }

    /// Removes a record.
    pub(super) fn remove(&mut self, place: Place, hasher: &FixedState) {
        self.discard(place);
        self.index.remove(place);
        self.records = self.records.saturating_sub(1);
        if self.garbage > self.arena.len() >> 1 {
            self.compact(hasher);
            self.arena.shrink_to_fit();
        }
    }

    /// Moves the records for whose keys' hashes `goes` is true into a new segment.
    pub(super) fn split(&mut self, hasher: &FixedState, goes: impl Fn(u64) -> bool) -> Self {
        let (mut stays, mut leaves) = (Vec::new(), Vec::new());
        let goes = |record: Record<'_>| goes(hasher.hash_one(record.key()));
        let (mut stay_bytes, mut leave_bytes) = (0_usize, 0_usize);
        for record in self.records() {
            let (group, bytes) = if goes(record) { (&mut leaves, &mut leave_bytes) } else { (&mut stays, &mut stay_bytes) };
            group.push(record);
            *bytes = bytes.saturating_add(record.len());
        }
        let left = Self::of(&leaves, leave_bytes, hasher);
        *self = Self::of(&stays, stay_bytes, hasher);
        left
    }

    fn of(records: &[Record<'_>], bytes: usize, hasher: &FixedState) -> Self {
        let mut arena = Vec::with_capacity(bytes.saturating_add(bytes >> 3));
        records.iter().for_each(|record| arena.extend_from_slice(record.bytes()));
        let mut segment = Self { arena, index: Index::default(), records: records.len(), garbage: 0 };
        segment.rebuild_index(hasher);
        segment
    }

    /// What the segment takes on the heap, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.arena.capacity().saturating_add(self.index.memory_bytes())
    }

    fn push(&mut self, bytes: &[u8]) -> usize {
        let offset = self.arena.len();
        self.arena.extend_from_slice(bytes);
        offset
    }

    /// Makes room for `bytes` more, by compacting or growing. Returns whether the index was built anew.
    fn make_room(&mut self, bytes: usize, hasher: &FixedState) -> bool {
        let lacks = |arena: &Vec<u8>| arena.capacity().saturating_sub(arena.len()) < bytes;
        if !lacks(&self.arena) {
            return false;
        }
        let compacts = self.garbage > 0 && self.garbage >= self.arena.len() >> 3;
        if compacts {
            self.compact(hasher);
        }
        if lacks(&self.arena) {
            // In small steps: doubling would leave a quarter of all memory unused. But not record by record where there are few.
            self.arena.reserve_exact(bytes.max(self.arena.len() >> 3).max(ARENA_STEP_MIN));
        }
        compacts
    }

    fn discard(&mut self, place: Place) {
        self.garbage = self.garbage.saturating_add(self.record(place).len());
        record::mark_gone(self.bytes_mut(place));
    }

    /// Moves the records together.
    fn compact(&mut self, hasher: &FixedState) {
        let (mut from, mut to) = (0, 0);
        while from < self.arena.len() {
            let record = Record::at(&self.arena[from..]);
            let (length, gone) = (record.len(), record.is_gone());
            let end = from.saturating_add(length);
            if !gone {
                self.arena.copy_within(from..end, to);
                to = to.saturating_add(length);
            }
            from = end;
        }
        self.arena.truncate(to);
        self.garbage = 0;
        self.rebuild_index(hasher);
    }

    fn rebuild_index(&mut self, hasher: &FixedState) {
        let mut index = Index::with_room_for(self.records);
        let mut records = self.records();
        while let Some((offset, record)) = records.next_with_offset() {
            index.insert(hasher.hash_one(record.key()), offset);
        }
        self.index = index;
    }
}

/// The records of a segment that are not garbage.
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    arena: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    fn next_with_offset(&mut self) -> Option<(usize, Record<'a>)> {
        while let Some(bytes) = self.arena.get(self.at..).filter(|bytes| !bytes.is_empty()) {
            let (offset, record) = (self.at, Record::at(bytes));
            self.at = self.at.saturating_add(record.len());
            if !record.is_gone() {
                return Some((offset, record));
            }
        }
        None
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        self.next_with_offset().map(|(_, record)| record)
    }
}
