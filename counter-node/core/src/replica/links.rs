//! A link: own changes on their way to one peer. One batch is in flight, repeated until the peer says that it is
//! durable there; what waits behind it is bounded, and beyond the bound the peer is asked to pull instead.

use std::collections::{BTreeMap, HashSet};

use foldhash::fast::FixedState;

use super::push::{RECORD_WEIGHT, weight};
use super::{CommitMark, ReplicaConfig};
use crate::counter::Key;
use crate::message::Message;
use crate::slot::{Slot, SlotRange};
use crate::table::Table;
use crate::vector::SlotDelta;

#[derive(Debug)]
pub(super) struct Link {
    /// By the first mark that the key has not been sent under.
    queue: BTreeMap<CommitMark, Vec<Key>>,
    queued: HashSet<Key, FixedState>,
    flight: Option<Flight>,
    behind: Option<Behind>,
    next_sequence: u64,
    /// How long the last batch was in flight.
    took_ms: u64,
    /// By slot: up to which of the own token record changes the peer has them. Of others none.
    records: BTreeMap<Slot, u64>,
    /// Time-outs since the peer was last heard of.
    tries: u32,
}

#[derive(Debug)]
struct Flight {
    sequence: u64,
    keys: Vec<Key>,
    /// The lowest mark among them.
    since: CommitMark,
    /// By slot: up to which own token records each of its copies so far has carried them. None before the first copy.
    records: Option<Vec<(Slot, u64)>>,
    sent_ms: u64,
}

/// The peer lacks more than the link keeps in mind, and is to pull.
#[derive(Debug)]
struct Behind {
    since: CommitMark,
    errand: u64,
    /// How many changes were dropped from the queue for it.
    dropped: usize,
    sent_ms: Option<u64>,
}

impl Link {
    /// A link whose numbers start at `first_sequence`, which must be unlike those of an earlier process of this node.
    pub(super) fn new(first_sequence: u64) -> Self {
        Self {
            queue: BTreeMap::new(),
            queued: HashSet::with_hasher(FixedState::with_seed(first_sequence)),
            flight: None,
            behind: None,
            next_sequence: first_sequence,
            took_ms: 0,
            records: BTreeMap::new(),
            tries: 0,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.next_sequence;
        self.next_sequence = number.saturating_add(1);
        number
    }

    /// The key has changed, durably, under this mark.
    pub(super) fn add(&mut self, mark: CommitMark, key: &Key, config: &ReplicaConfig) {
        if !self.queued.insert(key.clone()) {
            return;
        }
        self.queue.entry(mark).or_default().push(key.clone());
        if self.queued.len() > config.pending_keys_max {
            self.fall_behind(mark);
        }
    }

    /// The peer may lack anything up to this mark: it has to pull. The queue is dropped.
    pub(super) fn fall_behind(&mut self, mark: CommitMark) {
        let since = self.floor().unwrap_or(mark);
        let dropped = self.pending();
        self.queue.clear();
        self.queued.clear();
        self.flight = None;
        self.behind = Some(Behind { since, errand: self.number(), dropped, sent_ms: None });
    }

    /// The lowest mark of which the peer may lack something.
    pub(super) fn floor(&self) -> Option<CommitMark> {
        let queued = self.queue.first_key_value().map(|(mark, _)| *mark);
        let flight = self.flight.as_ref().map(|flight| flight.since);
        let behind = self.behind.as_ref().map(|behind| behind.since);
        [queued, flight, behind].into_iter().flatten().min()
    }

    /// How many own changes the peer has not acknowledged.
    pub(super) fn pending(&self) -> usize {
        let flight = self.flight.as_ref().map_or(0, |flight| flight.keys.len());
        let behind = self.behind.as_ref().map_or(0, |behind| behind.dropped);
        self.queued.len().saturating_add(flight).saturating_add(behind)
    }

    /// The keys that it has in mind.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.flight.iter().flat_map(|flight| &flight.keys).chain(self.queue.values().flatten())
    }

    /// Whether the peer owes nothing, or has not answered for a while.
    pub(super) fn is_done_or_lost(&self) -> bool {
        self.pending() == 0 || self.tries > 1
    }

    /// Goes on with these slots only.
    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        self.queued.retain(|key| keep(key.slot()));
        for keys in self.queue.values_mut() {
            keys.retain(|key| keep(key.slot()));
        }
        self.queue.retain(|_, keys| !keys.is_empty());
        if let Some(flight) = &mut self.flight {
            flight.keys.retain(|key| keep(key.slot()));
        }
        self.flight.take_if(|flight| flight.keys.is_empty());
        self.records.retain(|slot, _| keep(*slot));
    }

    /// Up to which of the slot's own token record changes the peer has them.
    pub(super) fn has_upto(&self, slot: Slot) -> u64 {
        self.records.get(&slot).copied().unwrap_or(0)
    }

    /// The peer lives: what is in flight is repeated without further delay.
    pub(super) fn heard(&mut self) {
        self.tries = 0;
    }

    /// Repeats what was not answered in time.
    pub(super) fn repeat(&mut self, table: &Table, now_ms: u64, config: &ReplicaConfig) -> Vec<Message> {
        let late = |sent_ms: u64| now_ms.saturating_sub(sent_ms) >= config.timeout_ms(self.tries);
        let ask = self.behind.as_mut().filter(|behind| behind.sent_ms.is_none_or(late)).map(|behind| {
            let again = behind.sent_ms.replace(now_ms).is_some();
            (again, Message::PullAsk { errand: behind.errand, slots: vec![SlotRange::ALL] })
        });
        let flight = self.flight.take_if(|flight| late(flight.sent_ms));
        let again = flight.is_some() || ask.as_ref().is_some_and(|(again, _)| *again);
        self.tries = self.tries.saturating_add(u32::from(again));
        let delta = flight.and_then(|flight| self.send(table, flight, now_ms, config));
        ask.map(|(_, ask)| ask).into_iter().chain(delta).collect()
    }

    /// Sends the next batch, if none is in flight.
    pub(super) fn advance(&mut self, table: &Table, now_ms: u64, config: &ReplicaConfig) -> Option<Message> {
        if self.flight.is_some() {
            return None;
        }
        let since = *self.queue.first_key_value()?.0;
        let took_ms = usize::try_from(self.took_ms).unwrap_or(usize::MAX);
        let in_time = self.queued.len().saturating_mul(took_ms).checked_div(config.delta_ms).unwrap_or(usize::MAX);
        let room = in_time.max(config.delta_keys).min(config.delta_keys_max);
        let mut keys = Vec::new();
        while keys.len() < room {
            let Some(mut entry) = self.queue.first_entry() else { break };
            match entry.get_mut().pop() {
                Some(key) => {
                    self.queued.remove(&key);
                    keys.push(key);
                }
                None => drop(entry.remove()),
            }
        }
        self.queue.retain(|_, keys| !keys.is_empty());
        let sequence = self.number();
        self.send(table, Flight { sequence, keys, since, records: None, sent_ms: now_ms }, now_ms, config)
    }

    /// Sends a batch, with the values of now. What does not fit goes back into the queue.
    fn send(&mut self, table: &Table, mut flight: Flight, now_ms: u64, config: &ReplicaConfig) -> Option<Message> {
        flight.keys.sort_unstable_by(|left, right| (left.slot(), left).cmp(&(right.slot(), right)));
        let batch = self.batch(table, &flight.keys, config.message_bytes_max);
        for (slot, upto) in &batch.lost {
            self.records.insert(*slot, *upto);
        }
        let left = flight.keys.drain(batch.taken..).chain(batch.again);
        for key in left {
            if self.queued.insert(key.clone()) {
                self.queue.entry(flight.since).or_default().push(key);
            }
        }
        if !batch.lost.is_empty() {
            // What has been dropped is for the peer to pull.
            self.flight = Some(flight);
            let since = self.floor().unwrap_or_default();
            self.fall_behind(since);
            return None;
        }
        if batch.slots.is_empty() {
            return None;
        }
        let sequence = flight.sequence;
        // The answer may be to any copy: it says what the least of them has carried.
        let records = match &flight.records {
            None => batch.records,
            Some(before) => in_both(before, &batch.records),
        };
        self.flight = Some(Flight { sent_ms: now_ms, records: Some(records), ..flight });
        Some(Message::Delta { sequence, slots: batch.slots })
    }

    /// The current values of these keys, sorted by slot, with the own token records of their slots that the peer lacks, as
    /// far as they fit one message. Keys that the table has forgotten are left out.
    fn batch(&self, table: &Table, keys: &[Key], bytes_max: usize) -> PushBatch {
        let mut batch = PushBatch::default();
        let mut bytes = 0_usize;
        for of_slot in keys.chunk_by(|left, right| left.slot() == right.slot()) {
            let Some(slot) = of_slot.first().map(Key::slot) else { continue };
            let mut vector = table.slot(slot);
            let mut fitting: Vec<&Key> = Vec::new();
            for key in of_slot {
                bytes = bytes.saturating_add(vector.counter(key).map_or(0, |counter| weight(key.into(), counter)));
                if bytes > bytes_max && batch.taken > 0 {
                    break;
                }
                fitting.push(key);
                batch.taken = batch.taken.saturating_add(1);
            }
            let complete = fitting.len() == of_slot.len();
            let records_max = (bytes_max.saturating_sub(bytes) / RECORD_WEIGHT).max(1);
            match vector.push_delta(slot, &fitting, self.has_upto(slot), records_max) {
                None => batch.lost.push((slot, vector.last_fresh())),
                Some(push) => {
                    bytes = bytes.saturating_add(push.delta.tokens.len().saturating_mul(RECORD_WEIGHT));
                    batch.records.extend((push.upto > self.has_upto(slot)).then_some((slot, push.upto)));
                    batch.again.extend(push.has_more.then(|| fitting.first().map(|key| (*key).clone())).flatten());
                    let empty = push.delta.counters.is_empty() && push.delta.tokens.is_empty();
                    batch.slots.extend((!empty).then_some(push.delta));
                }
            }
            if !complete {
                break;
            }
        }
        batch
    }

    /// The peer says that a batch is durable there. Returns, when it was the one in flight, the slots of its token records.
    pub(super) fn acknowledged(&mut self, sequence: u64, now_ms: u64) -> Option<Vec<Slot>> {
        let flight = self.flight.take_if(|flight| flight.sequence == sequence)?;
        self.took_ms = now_ms.saturating_sub(flight.sent_ms);
        let records = flight.records.unwrap_or_default();
        let slots = records.iter().map(|(slot, _)| *slot).collect();
        self.records.extend(records);
        Some(slots)
    }

    /// The peer says that it has pulled.
    pub(super) fn pulled(&mut self, errand: u64) {
        self.behind.take_if(|behind| behind.errand == errand);
    }
}

/// What one message is to carry.
#[derive(Debug, Default)]
struct PushBatch {
    slots: Vec<SlotDelta>,
    /// How many of the keys it has gone through.
    taken: usize,
    /// By slot: up to which own token record changes it carries them.
    records: Vec<(Slot, u64)>,
    /// Keys of slots that have more.
    again: Vec<Key>,
    /// Slots in which some changes that the peer lacks are not kept in mind, with the last of them.
    lost: Vec<(Slot, u64)>,
}

/// The slots that both name, each with the lower of its numbers.
fn in_both(left: &[(Slot, u64)], right: &[(Slot, u64)]) -> Vec<(Slot, u64)> {
    let other = |slot: Slot| right.iter().find(|(named, _)| *named == slot).map(|(_, upto)| *upto);
    left.iter().filter_map(|(slot, upto)| Some((*slot, other(*slot)?.min(*upto)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Update;
    use crate::hlc::Hlc;
    use crate::id::ActorId;
    use crate::table::TableLimits;
    use crate::token::Token;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn table(keys: &[Key]) -> Table {
        let table =
            Table::new(1, TableLimits { counters: 1 << 20, memory_bytes: 1 << 30, tokens: 1 << 20, token_window_ms: 600_000 });
        table.set_writer(Slot::all(), Some(ActorId { origin: 1, incarnation: 1 }));
        for key in keys {
            table.apply(key, Update::Increment(1), None, Hlc(1)).unwrap();
        }
        table
    }

    fn sequence_and_keys(message: Option<Message>) -> (u64, usize) {
        match message {
            Some(Message::Delta { sequence, slots }) => (sequence, slots.iter().map(|slot| slot.counters.len()).sum()),
            other => panic!("no delta: {other:?}"),
        }
    }

    #[test]
    fn one_batch_is_in_flight_and_is_repeated_with_backoff_until_it_is_acknowledged() {
        let config = ReplicaConfig::default();
        let keys = [key("a"), key("b")];
        let (table, mut link) = (table(&keys), Link::new(10));
        link.add(CommitMark(1), &keys[0], &config);
        assert_eq!(sequence_and_keys(link.advance(&table, 0, &config)), (10, 1));
        link.add(CommitMark(2), &keys[0], &config);
        link.add(CommitMark(2), &keys[1], &config);
        assert_eq!(link.advance(&table, 1, &config), None);
        assert_eq!((link.floor(), link.pending()), (Some(CommitMark(1)), 3));
        assert_eq!(link.repeat(&table, 499, &config), []);
        assert_eq!(link.repeat(&table, 500, &config).len(), 1);
        assert_eq!(link.repeat(&table, 1_499, &config), []);
        assert_eq!(link.repeat(&table, 1_500, &config).len(), 1);
        assert!(link.acknowledged(10, 1_500).is_some() && link.acknowledged(10, 1_500).is_none());
        assert_eq!(link.floor(), Some(CommitMark(2)));
        assert_eq!(sequence_and_keys(link.advance(&table, 1_500, &config)), (11, 2));
        assert!(link.acknowledged(11, 1_500).is_some());
        assert_eq!((link.floor(), link.pending()), (None, 0));
    }

    #[test]
    fn an_answer_to_an_earlier_copy_says_nothing_of_tokens_that_came_since() {
        let config = ReplicaConfig::default();
        let (table, mut link) = (table(&[]), Link::new(0));
        let key = key("a");
        let count = |id| table.apply(&key, Update::Increment(1), Some(&Token { id, made_ms: None }), Hlc(2)).unwrap();
        let tokens = |message: Option<Message>| match message {
            Some(Message::Delta { slots, .. }) => slots.iter().map(|slot| slot.tokens.len()).sum::<usize>(),
            other => panic!("no delta: {other:?}"),
        };
        count(1);
        link.add(CommitMark(1), &key, &config);
        assert_eq!(tokens(link.advance(&table, 0, &config)), 1);
        count(2);
        assert_eq!(tokens(link.repeat(&table, 500, &config).pop()), 2);
        link.acknowledged(0, 500).unwrap();
        assert_eq!(link.has_upto(key.slot()), 1, "it may be the first copy that was heard");
        link.add(CommitMark(2), &key, &config);
        assert_eq!(tokens(link.advance(&table, 501, &config)), 1);
    }

    #[test]
    fn a_batch_is_cut_at_the_message_limit_and_the_rest_stays_queued_under_its_mark() {
        let keys: Vec<Key> = (0..100).map(|number| key(&format!("page-{number}"))).collect();
        let config = ReplicaConfig { message_bytes_max: 1_000, ..ReplicaConfig::default() };
        let (table, mut link) = (table(&keys), Link::new(0));
        for key in &keys {
            link.add(CommitMark(1), key, &config);
        }
        let mut sent = 0;
        while let Some(message) = link.advance(&table, 0, &config) {
            let (sequence, count) = sequence_and_keys(Some(message));
            assert!(count < 20, "{count}");
            sent += count;
            assert_eq!(link.floor(), Some(CommitMark(1)));
            link.acknowledged(sequence, 0);
        }
        assert_eq!((sent, link.floor()), (100, None));
    }

    #[test]
    fn the_longer_a_batch_takes_the_more_keys_the_next_one_has() {
        let keys: Vec<Key> = (0..100).map(|number| key(&format!("page-{number}"))).collect();
        let config = ReplicaConfig { delta_keys: 4, delta_keys_max: 60, ..ReplicaConfig::default() };
        let table = table(&keys);
        for (took_ms, expected) in [(0, 4), (1, 4), (5, 19), (25, 60), (1_000, 60)] {
            let mut link = Link::new(0);
            keys.iter().for_each(|key| link.add(CommitMark(1), key, &config));
            let (first, _) = sequence_and_keys(link.advance(&table, 100, &config));
            link.acknowledged(first, 100 + took_ms).unwrap();
            assert_eq!(sequence_and_keys(link.advance(&table, 200, &config)).1, expected, "after {took_ms} ms");
        }
    }

    #[test]
    fn over_its_bound_the_queue_is_dropped_and_the_peer_asked_to_pull() {
        let config = ReplicaConfig { pending_keys_max: 2, ..ReplicaConfig::default() };
        let keys = [key("a"), key("b"), key("c")];
        let (table, mut link) = (table(&keys), Link::new(0));
        for (mark, key) in (1..).zip(&keys) {
            link.add(CommitMark(mark), key, &config);
        }
        assert_eq!((link.floor(), link.pending()), (Some(CommitMark(1)), 3));
        let Some(Message::PullAsk { errand, .. }) = link.repeat(&table, 0, &config).pop() else { panic!("no ask") };
        assert_eq!(link.advance(&table, 0, &config), None);
        link.pulled(errand.wrapping_add(1));
        assert!(link.floor().is_some(), "another errand says nothing");
        link.pulled(errand);
        assert_eq!((link.floor(), link.pending()), (None, 0));
    }
}
