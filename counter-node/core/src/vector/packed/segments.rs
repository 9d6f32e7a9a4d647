//! A slot's segments, by the highest bits of the hash (extendible hashing): a full segment is split in two, and no operation
//! ever goes over all counters of a slot, however many a hash tag brings together.

use std::mem::offset_of;

use foldhash::quality::FixedState;

use super::record::Record;
use super::segment::Segment;

/// Up to how many bits of the hash tell segments apart. A segment that is full beyond takes no more.
const DEPTH_MAX: u32 = 24;

/// One segment to begin with, which most slots never exceed.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Segments {
    depth: u32,
    /// By how many bits the first segment's hashes agree.
    first_depth: u32,
    first: Segment,
    more: Vec<Split>,
    /// Segment numbers by the highest `depth` bits of the hash; empty while there is one segment only.
    directory: Vec<u32>,
    /// What all segments take on the heap.
    segment_bytes: usize,
}

#[derive(Clone, Debug)]
struct Split {
    segment: Segment,
    depth: u32,
}

impl Segments {
    /// What a look-up in the first segment reads of this itself ends here.
    pub(super) const READ_END: usize = offset_of!(Self, first) + Segment::READ_END;

    /// The record of a key, if there is one.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<Record<'_>> {
        let segment = self.of(hash);
        segment.find(hash, key).map(|place| segment.record(place))
    }

    /// The same, to be changed in place; and what lies behind it.
    pub(super) fn find_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut [u8]> {
        let segment = self.of_mut(hash);
        segment.find(hash, key).map(|place| segment.bytes_mut(place))
    }

    /// Inserts a record, or replaces the one with its key. There must be room: see [`Self::make_room`].
    pub(super) fn set(&mut self, hash: u64, bytes: &[u8], hasher: &FixedState) {
        self.change(hash, |segment| match segment.find(hash, Record::at(bytes).key()) {
            Some(place) => segment.replace(place, hash, bytes, hasher),
            None => segment.insert(hash, bytes, hasher),
        });
    }

    /// Inserts a record whose key is not here. There must be room: see [`Self::make_room`].
    pub(super) fn insert(&mut self, hash: u64, bytes: &[u8], hasher: &FixedState) {
        self.change(hash, |segment| segment.insert(hash, bytes, hasher));
    }

    /// Removes the record of a key, if there is one.
    pub(super) fn remove(&mut self, hash: u64, key: &[u8], hasher: &FixedState) {
        self.change(hash, |segment| {
            if let Some(place) = segment.find(hash, key) {
                segment.remove(place, hasher);
            }
        });
    }

    /// The records, in no order.
    pub(super) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let more = self.more.iter().map(|split| &split.segment);
        std::iter::once(&self.first).chain(more).flat_map(Segment::records)
    }

    /// The segment that a key of this hash lies in.
    pub(super) fn of(&self, hash: u64) -> &Segment {
        match self.number(hash).checked_sub(1) {
            None => &self.first,
            Some(index) => &self.more[index].segment,
        }
    }

    fn of_mut(&mut self, hash: u64) -> &mut Segment {
        match self.number(hash).checked_sub(1) {
            None => &mut self.first,
            Some(index) => &mut self.more[index].segment,
        }
    }

    fn change(&mut self, hash: u64, change: impl FnOnce(&mut Segment)) {
        let segment = self.of_mut(hash);
        let before = segment.memory_bytes();
        change(segment);
        let after = segment.memory_bytes();
        self.segment_bytes = self.segment_bytes.saturating_sub(before).saturating_add(after);
    }

    /// Splits until the segment of this hash takes `bytes` more. False when it cannot be split any further.
    pub(super) fn make_room(&mut self, hash: u64, bytes: usize, hasher: &FixedState) -> bool {
        while self.of(hash).is_full_for(bytes) {
            if self.depth_of(self.number(hash)) >= DEPTH_MAX {
                return false;
            }
            self.split(hash, hasher);
        }
        true
    }

    /// What the segments and their directory take on the heap, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let directory = self.directory.capacity().saturating_mul(size_of::<u32>());
        let headers = self.more.capacity().saturating_mul(size_of::<Split>());
        self.segment_bytes.saturating_add(headers).saturating_add(directory)
    }

    /// What the segments really take, and how many there are.
    #[cfg(test)]
    pub(super) fn recount(&self) -> (usize, usize) {
        let more = self.more.iter().map(|split| &split.segment);
        let bytes = std::iter::once(&self.first).chain(more).map(Segment::memory_bytes).sum::<usize>();
        let headers = self.more.capacity() * size_of::<Split>() + self.directory.capacity() * size_of::<u32>();
        (bytes + headers, self.more.len() + 1)
    }

    fn number(&self, hash: u64) -> usize {
        if self.depth == 0 {
            return 0;
        }
        usize::try_from(self.directory[prefix(hash, self.depth)]).unwrap_or(0)
    }

    fn depth_of(&self, number: usize) -> u32 {
        number.checked_sub(1).map_or(self.first_depth, |index| self.more[index].depth)
    }

    fn split(&mut self, hash: u64, hasher: &FixedState) {
        let number = self.number(hash);
        let depth = self.depth_of(number).saturating_add(1);
        if depth > self.depth {
            self.deepen();
        }
        let bit = 1_u64 << 63 >> depth.saturating_sub(1);
        let mut split = Segment::default();
        self.change(hash, |segment| split = segment.split(hasher, |hash| hash & bit != 0));
        self.segment_bytes = self.segment_bytes.saturating_add(split.memory_bytes());
        match number.checked_sub(1) {
            None => self.first_depth = depth,
            Some(index) => self.more[index].depth = depth,
        }
        if self.more.len() == self.more.capacity() {
            self.more.reserve_exact(1.max(self.more.len() >> 3));
        }
        self.more.push(Split { segment: split, depth });
        // The directory's entries with this prefix, and the bit set, name the new segment.
        let from = prefix(hash | bit, depth) << self.depth.saturating_sub(depth);
        let count = 1_usize << self.depth.saturating_sub(depth);
        let named = u32::try_from(self.more.len()).unwrap_or(0);
        self.directory[from..from.saturating_add(count)].fill(named);
    }

    /// Tells segments apart by one bit more.
    fn deepen(&mut self) {
        if self.directory.is_empty() {
            self.directory = vec![0, 0];
        } else {
            self.directory = self.directory.iter().flat_map(|number| [*number, *number]).collect();
        }
        self.depth = self.depth.saturating_add(1);
    }
}

/// The highest `depth` bits, of which there are 1 to 24.
fn prefix(hash: u64, depth: u32) -> usize {
    usize::try_from(hash >> 64_u32.saturating_sub(depth)).unwrap_or(0)
}
