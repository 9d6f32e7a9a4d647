//! The answering side of pulls: from the table and the layout alone, with nothing kept in mind.

use std::collections::{HashMap, HashSet};

use super::parts::Parts;
use super::push::{RECORD_WEIGHT, weight};
use crate::counter::KeyRef;
use crate::layout::LayoutVersion;
use crate::message::{DetailAsk, DetailReply, DigestReply, Position};
use crate::slot::{Slot, to_ranges};
use crate::table::Table;
use crate::token::{TokenName, TokenRecord};
use crate::vector::{CounterView, SlotDelta, SlotVector, key_hash};

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
    pub(super) items_max: usize,
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
            return DetailReply { round: ask.round, layout: self.layout, last: false, upto: Position::LAST, delta: None };
        }
        let vector = table.slot(ask.slot);
        let (found, mut upto) = range(&vector, ask.from, ask.to, self.items_max);
        let counters: HashMap<u64, u64> = ask.counters.iter().copied().collect();
        let tokens: HashSet<u64> = ask.tokens.iter().copied().collect();
        let mut delta = vector.empty_delta(ask.slot);
        let mut bytes = 0_usize;
        let mut passed = None;
        for (position, item) in found {
            if !item.is_in(&counters, &tokens) {
                bytes = bytes.saturating_add(item.weight());
                let too_long = bytes > self.bytes_max && !delta.counters.is_empty() && passed != Some(position);
                if let Some(passed) = passed.filter(|_| too_long) {
                    upto = passed;
                    break;
                }
                item.add_to(&vector, &mut delta);
            }
            passed = Some(position);
        }
        add_fresh(&vector, &mut delta);
        let newer = vector.generation() > ask.generation;
        delta.retirement = if newer { vector.retirement() } else { None };
        DetailReply { round: ask.round, layout: self.layout, last: (self.is_last)(ask.slot), upto, delta: Some(delta) }
    }
}

/// What a slot has from one place on, at most about so many items, as a question's summary; and the place up to which
/// there is nothing else.
pub(super) fn summary_of_range(vector: &SlotVector, from: Position, items_max: usize) -> (Vec<(u64, u64)>, Vec<u64>, Position) {
    let (found, to) = range(vector, from, Position::LAST, items_max);
    let (mut counters, mut tokens) = (Vec::new(), Vec::new());
    for (position, item) in found {
        match item {
            Item::Counter(key, counter) => counters.push((position.key_hash, counter.digest(key.as_bytes()))),
            Item::Token(hash, _) => tokens.push(hash),
        }
    }
    (counters, tokens, to)
}

/// A counter, or a token's record with its hash.
enum Item<'a> {
    Counter(KeyRef<'a>, CounterView<'a>),
    Token(u64, TokenRecord),
}

impl Item<'_> {
    fn is_in(&self, counters: &HashMap<u64, u64>, tokens: &HashSet<u64>) -> bool {
        match self {
            Self::Counter(key, counter) => counters.get(&key_hash(*key)) == Some(&counter.digest(key.as_bytes())),
            Self::Token(hash, _) => tokens.contains(hash),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Counter(key, counter) => weight(*key, *counter),
            Self::Token(_, record) => RECORD_WEIGHT.saturating_add(record.key.as_bytes().len()),
        }
    }

    /// A record goes with its counter, so that it never comes without its effect.
    fn add_to(self, vector: &SlotVector, delta: &mut SlotDelta) {
        match self {
            Self::Counter(key, counter) => delta.counters.push((key.to_key(), counter.to_counter())),
            Self::Token(_, record) => {
                let last = delta.counters.last().map(|(key, _)| key);
                if last != Some(&record.key) {
                    let counter = vector.counter(&record.key).map(CounterView::to_counter);
                    delta.counters.extend(counter.map(|counter| (record.key.clone(), counter)));
                }
                delta.tokens.push(record);
            }
        }
    }
}

/// The own records of the counters that go out, as far as siblings may lack them: their effects are in these counters, and of
/// what is not durable yet a crash may leave nothing but them.
fn add_fresh(vector: &SlotVector, delta: &mut SlotDelta) {
    let name_of =
        |record: &TokenRecord| TokenName { key_hash: key_hash((&record.key).into()), id: record.id, actor: record.actor };
    let has: HashSet<TokenName> = delta.tokens.iter().map(name_of).collect();
    let going_out: HashSet<u64> = delta.counters.iter().map(|(key, _)| key_hash(key.into())).collect();
    let fresh = vector.fresh_of(&going_out);
    delta.tokens.extend(fresh.filter(|record| !has.contains(&name_of(record))));
}

/// What lies between two places, in order, cut after about `items_max`; and the place up to which this is all.
fn range(vector: &SlotVector, from: Position, to: Position, items_max: usize) -> (Vec<(Position, Item<'_>)>, Position) {
    let hashed = vector.keys().chain(vector.keys_of_records_alone()).map(|key| (key_hash(key), key));
    let mut keys: Vec<(u64, KeyRef<'_>)> = hashed.filter(|(hash, _)| (from.key_hash..=to.key_hash).contains(hash)).collect();
    let mut upto = to;
    if keys.len() > items_max {
        let (_, (cut, _), _) = keys.select_nth_unstable(items_max);
        // Keys of one hash stay together.
        upto = to.min(Position { key_hash: *cut, token: u128::MAX });
        keys.retain(|(hash, _)| *hash <= upto.key_hash);
    }
    keys.sort_unstable();
    let mut found: Vec<(Position, Item<'_>)> = Vec::new();
    for (key_hash, key) in keys {
        let full = |found: &Vec<(Position, Item<'_>)>, position: Position| {
            found.len() >= items_max && found.last().is_some_and(|(last, _)| *last < position)
        };
        let counter = Position { key_hash, token: 0 };
        if full(&found, counter) {
            break;
        }
        if from <= counter
            && let Some(value) = vector.counter(key)
        {
            found.push((counter, Item::Counter(key, value)));
        }
        let first = if from.key_hash == key_hash { from.token } else { 0 };
        let last = if to.key_hash == key_hash { to.token } else { u128::MAX };
        for (token, hash, record) in vector.records_of(key, first, last) {
            if full(&found, Position { key_hash, token }) {
                break;
            }
            found.push((Position { key_hash, token }, Item::Token(hash, record)));
        }
    }
    if found.len() >= items_max
        && let Some((last, _)) = found.last()
    {
        upto = *last;
    }
    (found, upto)
}
