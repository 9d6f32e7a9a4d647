//! Pulling: repair, start-up, slot moves and receipts are all this. The puller says what it has of some slots, by
//! digest; of those that differ it says what it has counter by counter, in bounded ranges of key hashes; the replier
//! keeps nothing in mind between questions.

use std::collections::BTreeMap;

use super::ReplicaConfig;
use super::answer::summary_of_range;
use super::slots::SlotSet;
use crate::id::NodeName;
use crate::layout::LayoutVersion;
use crate::message::{DetailAsk, DetailReply, DigestReply, Message, Position};
use crate::slot::{Slot, SlotRange};
use crate::table::Table;

/// One slot, pulled from one peer: this node holds, though not yet durably, what the peer had at some moment after `began`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pulled {
    pub(super) peer: NodeName,
    pub(super) slot: Slot,
    /// The digest question's round.
    pub(super) began: u64,
    /// The oldest layout that the peer acted by while it answered. None when it did not hold the slot.
    pub(super) layout: Option<LayoutVersion>,
    /// The peer will never have anything newer of its own.
    pub(super) last: bool,
}

/// The pulling from one peer.
#[derive(Debug)]
pub(super) struct Puller {
    peer: NodeName,
    wanted: SlotSet,
    comparing: Option<Comparing>,
    /// Slots that differ, with the round that said so, in wait of detail questions.
    differing: BTreeMap<Slot, u64>,
    detailing: BTreeMap<Slot, Detailing>,
    next_round: u64,
    /// Time-outs since the last answer.
    tries: u32,
    answered_ms: Option<u64>,
}

#[derive(Debug)]
struct Comparing {
    round: u64,
    slots: SlotSet,
    sent_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Detailing {
    round: u64,
    began: u64,
    from: Position,
    sent_ms: u64,
    /// Over all answers so far.
    layout: Option<LayoutVersion>,
    last: bool,
}

impl Puller {
    /// `first_round` must be unlike that of an earlier process of this node.
    pub(super) fn new(peer: NodeName, first_round: u64) -> Self {
        Self {
            peer,
            wanted: SlotSet::default(),
            comparing: None,
            differing: BTreeMap::new(),
            detailing: BTreeMap::new(),
            next_round: first_round,
            tries: 0,
            answered_ms: None,
        }
    }

    /// Pulls these slots, from the beginning, even if they are being pulled already.
    pub(super) fn want(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.wanted.extend(slots);
    }

    /// Goes on with these slots only.
    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        self.wanted.retain(&keep);
        self.differing.retain(|slot, _| keep(*slot));
        self.detailing.retain(|slot, _| keep(*slot));
        if let Some(comparing) = &mut self.comparing {
            comparing.slots.retain(&keep);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.comparing.is_none() && self.differing.is_empty() && self.detailing.is_empty()
    }

    /// The first round that no question has been asked in yet.
    pub(super) fn next_round(&self) -> u64 {
        self.next_round
    }

    /// When the peer last answered a question.
    pub(super) fn answered_ms(&self) -> Option<u64> {
        self.answered_ms
    }

    /// The peer lives: no reason to hold questions back.
    pub(super) fn heard(&mut self) {
        self.tries = 0;
    }

    fn round(&mut self) -> u64 {
        let round = self.next_round;
        self.next_round = round.saturating_add(1);
        round
    }

    /// Asks what can be asked now; what was not answered in time is asked anew from its digest on.
    pub(super) fn pump(&mut self, table: &Table, now_ms: u64, config: &ReplicaConfig) -> Vec<Message> {
        self.expire(now_ms, config);
        let mut asks = Vec::new();
        if self.comparing.is_none() && self.differing.len() < config.digest_slots_max {
            asks.extend(self.compare(table, now_ms, config));
        }
        while self.tries == 0 && self.detailing.len() < config.detail_slots_max {
            let Some((slot, began)) = self.differing.pop_first() else { break };
            let detailing = Detailing { round: 0, began, from: Position::FIRST, sent_ms: now_ms, layout: None, last: true };
            asks.push(self.detail(table, slot, detailing, config));
        }
        asks
    }

    fn expire(&mut self, now_ms: u64, config: &ReplicaConfig) {
        let timeout_ms = config.timeout_ms(self.tries);
        let late = |sent_ms: u64| now_ms.saturating_sub(sent_ms) >= timeout_ms;
        let mut expired: Vec<Slot> = Vec::new();
        self.detailing.retain(|slot, detailing| {
            let is_late = late(detailing.sent_ms);
            expired.extend(is_late.then_some(*slot));
            !is_late
        });
        if let Some(comparing) = self.comparing.take_if(|comparing| late(comparing.sent_ms)) {
            expired.extend(comparing.slots.iter());
            self.tries = self.tries.saturating_add(1);
        }
        self.wanted.extend(expired);
    }

    fn compare(&mut self, table: &Table, now_ms: u64, config: &ReplicaConfig) -> Option<Message> {
        let mut digests = Vec::new();
        let mut counters = 0_usize;
        for slot in self.wanted.iter() {
            let busy = self.differing.contains_key(&slot) || self.detailing.contains_key(&slot);
            if busy {
                continue;
            }
            // What one question costs is bounded too.
            if digests.len() >= config.digest_slots_max || counters > config.digest_counters_max {
                break;
            }
            let vector = table.slot(slot);
            counters = counters.saturating_add(vector.len());
            digests.push((slot, vector.digest()));
        }
        if digests.is_empty() {
            return None;
        }
        let slots: SlotSet = digests.iter().map(|(slot, _)| *slot).collect();
        for slot in slots.iter() {
            self.wanted.remove(slot);
        }
        let round = self.round();
        self.comparing = Some(Comparing { round, slots, sent_ms: now_ms });
        Some(Message::DigestAsk { round, digests })
    }

    fn detail(&mut self, table: &Table, slot: Slot, mut detailing: Detailing, config: &ReplicaConfig) -> Message {
        detailing.round = self.round();
        let vector = table.slot(slot);
        let (counters, tokens, to) = summary_of_range(&vector, detailing.from, config.summary_counters_max);
        let generation = vector.generation();
        drop(vector);
        self.detailing.insert(slot, detailing);
        Message::DetailAsk(DetailAsk { round: detailing.round, slot, generation, from: detailing.from, to, counters, tokens })
    }

    /// Takes a digest answer in; returns what is pulled with it. An answer to another round says nothing.
    pub(super) fn compared(&mut self, reply: &DigestReply, now_ms: u64) -> Vec<Pulled> {
        let Some(comparing) = self.comparing.take_if(|comparing| comparing.round == reply.round) else { return Vec::new() };
        self.answered(now_ms);
        let of_ranges = |ranges: &[SlotRange]| ranges.iter().flat_map(|range| range.iter()).collect::<SlotSet>();
        let (unheld, last) = (of_ranges(&reply.unheld), of_ranges(&reply.last));
        let differing: SlotSet = reply.differing.iter().copied().collect();
        let mut pulled = Vec::new();
        for slot in comparing.slots.iter() {
            if unheld.contains(slot) {
                pulled.push(self.pulled(slot, reply.round, None, false));
            } else if differing.contains(slot) {
                self.differing.insert(slot, reply.round);
            } else {
                pulled.push(self.pulled(slot, reply.round, Some(reply.layout), last.contains(slot)));
            }
        }
        pulled
    }

    /// Takes a detail answer in, whose counters have just been merged: the next question, or that the slot is pulled.
    pub(super) fn detailed(
        &mut self,
        table: &Table,
        reply: &DetailReply,
        now_ms: u64,
        config: &ReplicaConfig,
    ) -> (Option<Message>, Option<Pulled>) {
        let found = self.detailing.iter().find(|(_, detailing)| detailing.round == reply.round);
        let Some((slot, detailing)) = found.map(|(slot, detailing)| (*slot, *detailing)) else { return (None, None) };
        self.answered(now_ms);
        self.detailing.remove(&slot);
        if reply.delta.is_none() {
            return (None, Some(self.pulled(slot, detailing.began, None, false)));
        }
        let layout = detailing.layout.map_or(reply.layout, |layout| layout.min(reply.layout));
        let last = detailing.last && reply.last;
        match reply.upto.next() {
            None => (None, Some(self.pulled(slot, detailing.began, Some(layout), last))),
            Some(from) => {
                let next = Detailing { from, sent_ms: now_ms, layout: Some(layout), last, ..detailing };
                (Some(self.detail(table, slot, next, config)), None)
            }
        }
    }

    fn answered(&mut self, now_ms: u64) {
        self.answered_ms = Some(now_ms);
        self.tries = 0;
    }

    fn pulled(&self, slot: Slot, began: u64, layout: Option<LayoutVersion>, last: bool) -> Pulled {
        Pulled { peer: self.peer.clone(), slot, began, layout, last }
    }
}
