//! Where a segment's records lie, by the hashes of their keys: one array of words, so that a look-up touches one cache line of
//! it, at a load of up to four fifths. A word is a tag, 15 bits of the hash, and an offset.

use std::mem::offset_of;

/// Bits of a word that are the offset; a segment's arena stays below.
const OFFSET_BITS: u32 = 17;
/// One more than the greatest offset.
pub(super) const OFFSET_END: usize = (1 << OFFSET_BITS) - 2;

const OFFSET: u32 = (1 << OFFSET_BITS) - 1;
const VACANT: u32 = u32::MAX;
/// A record was removed here; a search goes on behind it.
const REMOVED: u32 = u32::MAX - 1;

/// A look-up's hash: its lower half says where the search begins, the bits above are the tag; the highest bits are the
/// directory's.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Index {
    words: Box<[u32]>,
    /// Words that are not vacant.
    used: usize,
}

/// The place of a word in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(usize);

impl Index {
    /// What a look-up reads of this itself ends here.
    pub(super) const READ_END: usize = offset_of!(Self, used);

    /// An index with room for `records`, and a fifth more. With more room it would be built anew less often, but that leaves holes:
    /// two fifths made it five bytes more of resident memory for each of ten million counters.
    pub(super) fn with_room_for(records: usize) -> Self {
        let length = records.saturating_add(records >> 1).saturating_add(3);
        Self { words: vec![VACANT; length].into(), used: 0 }
    }

    /// Whether it has no words at all.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Whether one more record can be put in.
    pub(super) fn has_room(&self) -> bool {
        self.used.saturating_add(1).saturating_mul(5) <= self.words.len().saturating_mul(4)
    }

    /// The first word with this hash whose offset `matches`.
    pub(super) fn find(&self, hash: u64, matches: impl Fn(usize) -> bool) -> Option<Place> {
        let tag = tag(hash);
        let mut at = self.home(hash);
        // Ends at a vacant word: there always are some, unless there are no words at all.
        loop {
            let word = *self.words.get(at)?;
            if word == VACANT {
                return None;
            }
            if word & !OFFSET == tag && word != REMOVED && matches(offset(word)) {
                return Some(Place(at));
            }
            at = self.next(at);
        }
    }

    /// The word that a search for this hash begins at; 0 where there are none.
    pub(super) fn first_word(&self, hash: u64) -> u32 {
        self.words.get(self.home(hash)).copied().unwrap_or(0)
    }

    /// Puts an offset in, which the caller has room for.
    pub(super) fn insert(&mut self, hash: u64, offset: usize) {
        let mut at = self.home(hash);
        while self.words[at] != VACANT {
            at = self.next(at);
        }
        self.words[at] = word(hash, offset);
        self.used = self.used.saturating_add(1);
    }

    /// The record that `place` named lies elsewhere now.
    pub(super) fn relocate(&mut self, place: Place, offset: usize) {
        self.words[place.0] = (self.words[place.0] & !OFFSET) | bits(offset);
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.words[place.0] = REMOVED;
    }

    /// The offset at a place.
    pub(super) fn offset(&self, place: Place) -> usize {
        offset(self.words[place.0])
    }

    /// What the index takes on the heap, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.words.len().saturating_mul(size_of::<u32>())
    }

    fn home(&self, hash: u64) -> usize {
        // The lower half, scaled to the length: below 2³² times a length, so nothing is lost.
        let scaled = (hash & u64::from(u32::MAX)).wrapping_mul(u64::try_from(self.words.len()).unwrap_or(0)) >> 32;
        usize::try_from(scaled).unwrap_or(0)
    }

    fn next(&self, at: usize) -> usize {
        let next = at.wrapping_add(1);
        if next == self.words.len() { 0 } else { next }
    }
}

fn tag(hash: u64) -> u32 {
    bits(usize::try_from((hash >> 32) & 0x7fff).unwrap_or(0)) << OFFSET_BITS
}

fn word(hash: u64, offset: usize) -> u32 {
    tag(hash) | bits(offset)
}

fn offset(word: u32) -> usize {
    usize::try_from(word & OFFSET).unwrap_or(0)
}

fn bits(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(0)
}
