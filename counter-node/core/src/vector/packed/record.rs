//! One counter as bytes. Numbers are as wide as the greatest of the counter needs, so that counting up is a write in place
//! and a counter outgrows its record at most twice:
//!
//! ```text
//! flags  key length  entries  updated_at  key  entries × (actor, increments, decrements)
//! u8     u8          u8       u64              u8, then two numbers of 4, 8 or 16 bytes
//! with REST: total increments, total decrements, cleared increments, cleared decrements, u8 baselines × (…)
//! ```

use super::actors::Actors;
use crate::counter::{Base, Counter, Entry, Total};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::vector::Reading;

/// The longest record: so that a segment's offsets stay small, and moving a record is quick.
pub(super) const RECORD_BYTES_MAX: usize = 4096;

const HEADER: usize = 11;
const UPDATED_AT: usize = 3;

/// Bits 0 and 1 of the flags: the width of numbers.
const WIDTHS: [usize; 4] = [4, 8, 16, 16];
const WIDTH: u8 = 0b11;
/// The record is garbage.
const GONE: u8 = 1 << 2;
/// There is a base, or baselines.
const REST: u8 = 1 << 3;
/// Bits 4 and 5: the length of the key above its lower 8 bits.
const KEY_SHIFT: u32 = 4;
const KEY_HIGH: u8 = 0b11;

/// One more than the longest key that a record takes: its length has 10 bits.
const KEY_BYTES_END: usize = 1 << 10;

/// How a record is laid out, as its first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    width: usize,
    key: usize,
    entries: usize,
    rest: bool,
}

impl Shape {
    fn of(bytes: &[u8]) -> Self {
        let flags = bytes[0];
        let key_high = usize::from((flags >> KEY_SHIFT) & KEY_HIGH);
        Self {
            width: WIDTHS[usize::from(flags & WIDTH)],
            key: (key_high << 8) | usize::from(bytes[1]),
            entries: usize::from(bytes[2]),
            rest: flags & REST != 0,
        }
    }

    fn item(self) -> usize {
        self.width.wrapping_mul(2).wrapping_add(1)
    }

    fn entries_at(self) -> usize {
        HEADER.wrapping_add(self.key)
    }

    fn entry_at(self, index: usize) -> usize {
        self.entries_at().wrapping_add(index.wrapping_mul(self.item()))
    }

    fn rest_at(self) -> usize {
        self.entry_at(self.entries)
    }

    fn baselines_count_at(self) -> usize {
        self.rest_at().wrapping_add(self.width.wrapping_mul(4))
    }

    fn baselines_at(self) -> usize {
        self.baselines_count_at().wrapping_add(1)
    }
}

/// One record, borrowed. `bytes` may go on behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

impl<'a> Record<'a> {
    /// The record that `bytes` begin with.
    pub(super) fn at(bytes: &'a [u8]) -> Self {
        Self { bytes, shape: Shape::of(bytes) }
    }

    pub(super) fn is_gone(self) -> bool {
        self.bytes[0] & GONE != 0
    }

    pub(super) fn len(self) -> usize {
        if !self.shape.rest {
            return self.shape.rest_at();
        }
        self.shape.baselines_at().wrapping_add(self.baselines_len().wrapping_mul(self.shape.item()))
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        &self.bytes[..self.len()]
    }

    pub(super) fn key(self) -> &'a [u8] {
        &self.bytes[HEADER..self.shape.entries_at()]
    }

    pub(super) fn reading(self) -> Reading {
        let updated_at = Some(self.updated_at()).filter(|updated_at| *updated_at > Hlc::default());
        Reading { tally: self.tally(), updated_at, exists: self.exists(), viewers: 0 }
    }

    pub(super) fn updated_at(self) -> Hlc {
        Hlc(u64::from_le_bytes(array(self.bytes, UPDATED_AT)))
    }

    pub(super) fn tally(self) -> i128 {
        let sum = |items: Items<'_>| items.fold(0_i128, |sum, (_, entry)| sum.saturating_add(entry.net()));
        let entries = sum(self.entries());
        if !self.shape.rest {
            return entries;
        }
        let base = self.base();
        entries.saturating_add(base.total.net()).saturating_sub(base.cleared.net()).saturating_sub(sum(self.baselines()))
    }

    /// See [`Counter::exists`].
    pub(super) fn exists(self) -> bool {
        if !self.shape.rest {
            return self.shape.entries > 0;
        }
        let cleared = |(actor, entry): (u8, Entry)| {
            self.baselines().any(|(cleared, baseline)| cleared == actor && baseline.max(entry) == baseline)
        };
        let base = self.base();
        base.total != base.cleared || !self.entries().all(cleared)
    }

    pub(super) fn entries(self) -> Items<'a> {
        let Shape { width, entries, .. } = self.shape;
        Items { bytes: self.bytes, at: self.shape.entries_at(), left: entries, width }
    }

    pub(super) fn base(self) -> Base {
        if !self.shape.rest {
            return Base::default();
        }
        let Shape { width, .. } = self.shape;
        let number = |index: usize| number(self.bytes, self.shape.rest_at().wrapping_add(width.wrapping_mul(index)), width);
        Base {
            total: Total { increments: number(0), decrements: number(1) },
            cleared: Total { increments: number(2), decrements: number(3) },
        }
    }

    pub(super) fn baselines(self) -> Items<'a> {
        Items { bytes: self.bytes, at: self.shape.baselines_at(), left: self.baselines_len(), width: self.shape.width }
    }

    fn baselines_len(self) -> usize {
        if self.shape.rest { usize::from(self.bytes[self.shape.baselines_count_at()]) } else { 0 }
    }
}

/// Entries or baselines of a record: (the actor's place in the slot's list, the entry).
#[derive(Clone, Debug)]
pub(super) struct Items<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
    width: usize,
}

impl Iterator for Items<'_> {
    type Item = (u8, Entry);

    fn next(&mut self) -> Option<(u8, Entry)> {
        self.left = self.left.checked_sub(1)?;
        let (actor, increments) = (self.bytes[self.at], self.at.wrapping_add(1));
        let decrements = increments.wrapping_add(self.width);
        self.at = decrements.wrapping_add(self.width);
        let word = |at: usize| word(self.bytes, at, self.width);
        Some((actor, Entry { increments: word(increments), decrements: word(decrements) }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl Record<'_> {
    /// Where an actor's entry is among the entries, and what it is.
    pub(super) fn entry_of(self, actor: u8) -> Option<(usize, Entry)> {
        self.entries().enumerate().find(|(_, (held_by, _))| *held_by == actor).map(|(index, (_, entry))| (index, entry))
    }

    /// Whether the record's numbers are wide enough for an entry.
    pub(super) fn takes(self, entry: Entry) -> bool {
        self.shape.width > 4 || entry.increments.max(entry.decrements) <= u64::from(u32::MAX)
    }
}

/// How long the record of a counter with one small entry is.
pub(crate) fn new_record_bytes(key: &[u8]) -> usize {
    Shape { width: WIDTHS[0], key: key.len(), entries: 1, rest: false }.rest_at()
}

/// Marks a record as garbage.
pub(super) fn mark_gone(bytes: &mut [u8]) {
    bytes[0] |= GONE;
}

/// Writes the record's time.
pub(super) fn set_updated_at(bytes: &mut [u8], updated_at: Hlc) {
    bytes[UPDATED_AT..HEADER].copy_from_slice(&updated_at.0.to_le_bytes());
}

/// Writes the `index`-th entry, which the record [`Record::takes`].
pub(super) fn set_entry(bytes: &mut [u8], index: usize, entry: Entry) {
    let shape = Shape::of(bytes);
    let increments = shape.entry_at(index).wrapping_add(1);
    let decrements = increments.wrapping_add(shape.width);
    if shape.width == 4 {
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        put(bytes, increments, narrow(entry.increments));
        put(bytes, decrements, narrow(entry.decrements));
    } else {
        put(bytes, increments, entry.increments.to_le_bytes());
        put(bytes, decrements, entry.decrements.to_le_bytes());
    }
}

/// The counter as a record; its actors' uses are counted in. None, and nothing has changed, when it has no packed form: it
/// would be too long, or the slot has too many actors.
pub(super) fn pack(key: &[u8], counter: &Counter, actors: &mut Actors) -> Option<Vec<u8>> {
    let (entries, baselines, base) = (counter.entries(), counter.baselines(), counter.base());
    let rest = !baselines.is_empty() || base != Base::default();
    let code = width_code(counter);
    let width = WIDTHS[usize::from(code)];
    let (entries_len, baselines_len) = (u8::try_from(entries.len()).ok()?, u8::try_from(baselines.len()).ok()?);
    let shape = Shape { width, key: key.len(), entries: entries.len(), rest };
    let baseline_bytes = baselines.len().saturating_mul(shape.item());
    let length = if rest { shape.baselines_at().saturating_add(baseline_bytes) } else { shape.rest_at() };
    let fits = length <= RECORD_BYTES_MAX && key.len() < KEY_BYTES_END;
    if !fits || !actors.have_room_for(counter) {
        return None;
    }
    let [key_low, key_high, ..] = key.len().to_le_bytes();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend([code | (key_high << KEY_SHIFT) | if rest { REST } else { 0 }, key_low, entries_len]);
    bytes.extend(counter.updated_at().unwrap_or_default().0.to_le_bytes());
    bytes.extend(key);
    push_items(&mut bytes, width, entries, actors)?;
    if rest {
        let Base { total, cleared } = base;
        for number in [total.increments, total.decrements, cleared.increments, cleared.decrements] {
            bytes.extend(&number.to_le_bytes()[..width]);
        }
        bytes.push(baselines_len);
        push_items(&mut bytes, width, baselines, actors)?;
    }
    Some(bytes)
}

/// The record of a counter of one entry, whose actor's use is counted in. The key is one that [`pack`] takes.
pub(super) fn pack_first(key: &[u8], actor: u8, entry: Entry, updated_at: Hlc) -> Vec<u8> {
    let wide = entry.increments.max(entry.decrements) > u64::from(u32::MAX);
    let code = u8::from(wide);
    let width = WIDTHS[usize::from(code)];
    let shape = Shape { width, key: key.len(), entries: 1, rest: false };
    let [key_low, key_high, ..] = key.len().to_le_bytes();
    let mut bytes = Vec::with_capacity(shape.rest_at());
    bytes.extend_from_slice(&[code | (key_high << KEY_SHIFT), key_low, 1]);
    bytes.extend_from_slice(&updated_at.0.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.push(actor);
    for number in [entry.increments, entry.decrements] {
        bytes.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    bytes
}

fn push_items(bytes: &mut Vec<u8>, width: usize, items: &[(ActorId, Entry)], actors: &mut Actors) -> Option<()> {
    for (actor, entry) in items {
        bytes.push(actors.take(*actor)?);
        for number in [entry.increments, entry.decrements] {
            bytes.extend(&u128::from(number).to_le_bytes()[..width]);
        }
    }
    Some(())
}

/// The code of the narrowest width that takes all of the counter's numbers.
fn width_code(counter: &Counter) -> u8 {
    let of_items = counter.entries().iter().chain(counter.baselines());
    let widest = of_items.fold(0, |widest, (_, entry)| widest | entry.increments | entry.decrements);
    let Base { total, cleared } = counter.base();
    let widest = u128::from(widest) | total.increments | total.decrements | cleared.increments | cleared.decrements;
    u8::from(widest > u128::from(u32::MAX)).saturating_add(u8::from(widest > u128::from(u64::MAX)))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..][..N]);
    array
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..][..N].copy_from_slice(&value);
}

/// A number of an entry, which has 64 bits however wide it is stored.
fn word(bytes: &[u8], at: usize, width: usize) -> u64 {
    if width == 4 { u64::from(u32::from_le_bytes(array(bytes, at))) } else { u64::from_le_bytes(array(bytes, at)) }
}

fn number(bytes: &[u8], at: usize, width: usize) -> u128 {
    if width == 16 { u128::from_le_bytes(array(bytes, at)) } else { u128::from(word(bytes, at, width)) }
}
