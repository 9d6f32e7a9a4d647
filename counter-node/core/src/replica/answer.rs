//! The answering side of pulls: from the table and the layout alone, with nothing kept in mind.

use std::collections::HashMap;

use super::parts::Parts;
use super::push::weight;
use crate::counter::{Counter, Key, KeyRef};
use crate::layout::LayoutVersion;
use crate::message::{DetailAsk, DetailReply, DigestReply};
use crate::slot::{Slot, to_ranges};
use crate::table::Table;
use crate::vector::{CounterView, SlotDelta, SlotVector, key_hash, summary_of};

/// What answers are made of besides the table.
pub(super) struct Answering<'a> {
    pub(super) parts: &'a Parts,
    pub(super) layout: LayoutVersion,
    /// Whether the slot is given away for good under a durable layout: no update is applied any more, neither now nor
    /// after a crash.
    ///
    /// Updates that were applied before and are not durable here yet do no harm: they are in the table, so they are in
    /// the answer; their clients have no answer yet, and get none if they do not become durable.
    pub(super) is_last: &'a dyn Fn(Slot) -> bool,
    pub(super) bytes_max: usize,
    pub(super) counters_max: usize,
}

impl Answering<'_> {
    /// Which of the asked slots differ.
    pub(super) fn compare(&self, table: &Table, round: u64, digests: &[(Slot, u64)]) -> DigestReply {
        let (mut differing, mut unheld, mut last) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, digest) in digests {
            if !self.parts.part(*slot).holds() {
                unheld.push(*slot);
                continue;
            }
            if (self.is_last)(*slot) {
                last.push(*slot);
            }
            if table.slot(*slot).digest() != *digest {
                differing.push(*slot);
            }
        }
        DigestReply { round, layout: self.layout, differing, unheld: to_ranges(unheld), last: to_ranges(last) }
    }

    /// What differs in the asked range of one slot, as far as one message takes it.
    pub(super) fn detail(&self, table: &Table, ask: &DetailAsk) -> DetailReply {
        let held = self.parts.part(ask.slot).holds();
        if !held {
            return DetailReply { round: ask.round, layout: self.layout, last: false, upto_hash: u64::MAX, delta: None };
        }
        let vector = table.slot(ask.slot);
        let (found, mut upto_hash) = range(&vector, ask.from_hash, ask.to_hash, self.counters_max);
        let theirs: HashMap<u64, u64> = ask.summary.iter().copied().collect();
        let mut counters: Vec<(Key, Counter)> = Vec::new();
        let mut bytes = 0_usize;
        let mut passed = None;
        for (hash, key, counter) in found {
            if theirs.get(&hash) != Some(&summary_of(key, counter).1) {
                bytes = bytes.saturating_add(weight(key, counter));
                let too_long = bytes > self.bytes_max && !counters.is_empty();
                if let Some(passed) = passed.filter(|_| too_long) {
                    upto_hash = passed;
                    break;
                }
                counters.push((key.to_key(), counter.to_counter()));
            }
            passed = Some(hash);
        }
        let newer = vector.generation() > ask.generation;
        let retirement = if newer { vector.retirement() } else { None };
        let delta = SlotDelta { slot: ask.slot, generation: vector.generation(), retirement, counters };
        DetailReply { round: ask.round, layout: self.layout, last: (self.is_last)(ask.slot), upto_hash, delta: Some(delta) }
    }
}

/// A slot's counters with key hashes from `from_hash` on, at most about `counters_max`, as pairs of hashes; and the
/// key hash up to which there are no others.
pub(super) fn summary_of_range(vector: &SlotVector, from_hash: u64, counters_max: usize) -> (Vec<(u64, u64)>, u64) {
    let (found, to_hash) = range(vector, from_hash, u64::MAX, counters_max);
    (found.into_iter().map(|(_, key, counter)| summary_of(key, counter)).collect(), to_hash)
}

type Found<'a> = Vec<(u64, KeyRef<'a>, CounterView<'a>)>;

/// The counters with key hashes in a range, in the order of hashes, cut after about `counters_max`; and the key hash
/// up to which these are all.
fn range(vector: &SlotVector, from_hash: u64, to_hash: u64, counters_max: usize) -> (Found<'_>, u64) {
    let hashed = vector.counters().map(|(key, counter)| (key_hash(key), key, counter));
    let mut found: Found<'_> = hashed.filter(|(hash, ..)| (from_hash..=to_hash).contains(hash)).collect();
    let mut upto_hash = to_hash;
    if found.len() > counters_max {
        let (_, (cut, ..), _) = found.select_nth_unstable_by_key(counters_max, |(hash, ..)| *hash);
        // Keys of one hash stay together.
        upto_hash = *cut;
        found.retain(|(hash, ..)| *hash <= upto_hash);
    }
    found.sort_unstable_by_key(|(hash, key, _)| (*hash, *key));
    (found, upto_hash)
}
