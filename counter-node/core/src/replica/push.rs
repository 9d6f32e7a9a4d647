//! Own changes on their way out, those of peers on their way in.

use super::effects::Step;
use super::links::Link;
use super::saves::Then;
use super::{CommitMark, Effect, Now, Replica};
use crate::counter::KeyRef;
use crate::id::NodeName;
use crate::message::Message;
use crate::slot::{Slot, to_ranges};
use crate::table::Table;
use crate::vector::{CounterView, SlotDelta};

impl Replica {
    /// A peer's own changes. What this node does not hold is left to whoever does; the peer learns who that is by its
    /// next layout, and gets no acknowledgement until then. Nor does it of what it has to hear of a floor for.
    pub(super) fn take_delta(&mut self, step: &mut Step<'_>, from: &NodeName, sequence: u64, deltas: Vec<SlotDelta>) {
        let offered = deltas.len();
        let held: Vec<SlotDelta> = deltas
            .into_iter()
            .filter(|delta| self.parts.part(delta.slot).holds() && !self.must_hear_of_floor(step, from, delta))
            .map(|delta| SlotDelta { retirement: None, ..delta })
            .collect();
        self.merge(step, &held);
        if held.len() == offered {
            let then = Then::Acknowledge { to: from.clone(), sequence };
            let due = self.saves.after(held.iter().map(|delta| delta.slot), then);
            self.follow(&mut step.effects, due);
        }
    }

    /// Whether the sibling's news has to wait until it has heard of a floor, see [`crate::vector::SlotVector::is_ahead_of`]: then it is
    /// asked to pull.
    pub(super) fn must_hear_of_floor(&mut self, step: &mut Step<'_>, from: &NodeName, delta: &SlotDelta) -> bool {
        let slot = delta.slot;
        let waits = self.parts.part(slot).repairs() && self.parts.is_sibling(from) && step.table.slot(slot).is_ahead_of(delta);
        if waits {
            let (errand, slots) = (self.random.start(), to_ranges([slot]));
            step.effects.send(from, Message::PullAsk { errand, slots });
        }
        waits
    }

    pub(super) fn take_ack(&mut self, step: &mut Step<'_>, from: &NodeName, sequence: u64) {
        let (config, now_ms) = (&self.config, self.now.monotonic_ms);
        let Some(link) = self.peers.get_mut(from).and_then(|peer| peer.link.as_mut()) else { return };
        let Some(slots) = link.acknowledged(sequence, now_ms) else { return };
        let next = link.advance(step.table, now_ms, config);
        step.effects.send_all(from, next);
        for slot in slots {
            let link = |target: &NodeName| self.peers.get(target).and_then(|peer| peer.link.as_ref());
            let had_by_all = self.parts.targets(slot).map(|target| link(target).map_or(0, |link| link.has_upto(slot))).min();
            step.table.slot(slot).forget_fresh(had_by_all.unwrap_or(0));
        }
    }

    pub(super) fn push(&mut self, step: &mut Step<'_>) {
        // Only updates under tokens leave anything that siblings would have to hear of besides counters.
        if !self.alone.is_empty() && step.table.tokens() > 0 {
            for slot in self.alone.iter().filter(|slot| self.parts.targets(*slot).next().is_none()) {
                let mut vector = step.table.slot(slot);
                let last = vector.last_fresh();
                vector.forget_fresh(last);
            }
        }
        self.alone.clear();
        for (name, peer) in &mut self.peers {
            let Some(link) = &mut peer.link else { continue };
            step.effects.send_all(name, link.repeat(step.table, self.now.monotonic_ms, &self.config));
            step.effects.send_all(name, link.advance(step.table, self.now.monotonic_ms, &self.config));
        }
    }

    /// These counters, with the slots that they are in, have own changes that are durable now: they are to be pushed.
    pub fn committed<'k>(&mut self, keys: impl IntoIterator<Item = (Slot, KeyRef<'k>)>) -> CommitMark {
        self.mark = CommitMark(self.mark.0.saturating_add(1));
        for (slot, key) in keys {
            let mut targets = self.parts.targets(slot).peekable();
            if targets.peek().is_none() {
                self.alone.insert(slot);
                continue;
            }
            let key = key.to_key();
            for target in targets {
                if let Some(link) = self.peers.get_mut(target).and_then(|peer| peer.link.as_mut()) {
                    link.add(self.mark, &key, &self.config);
                }
            }
        }
        self.mark
    }

    /// Sends own changes on idle links at once, without waiting for the tick: for clients that await a quorum.
    pub fn flush(&mut self, table: &Table, now: Now) -> Vec<Effect> {
        self.begin(now);
        let mut step = Step::on(table);
        for (name, peer) in &mut self.peers {
            let Some(link) = &mut peer.link else { continue };
            step.effects.send_all(name, link.advance(table, self.now.monotonic_ms, &self.config));
        }
        step.effects.0
    }

    /// The greatest mark up to which a majority of the shard, this node included, holds this node's changes durably.
    #[must_use]
    pub fn acknowledged(&self) -> CommitMark {
        let held_by = |sibling: &NodeName| {
            let floor = self.peers.get(sibling)?.link.as_ref()?.floor();
            Some(floor.map_or(self.mark, |floor| CommitMark(floor.0.saturating_sub(1))))
        };
        let mut marks: Vec<CommitMark> = self.parts.siblings.iter().map(|sibling| held_by(sibling).unwrap_or_default()).collect();
        marks.push(self.mark);
        marks.sort_unstable();
        // Of n nodes, sorted upwards, all from the one at ⌈n/2⌉ − 1 on hold its mark: a majority.
        let index = marks.len().div_ceil(2).saturating_sub(1);
        marks.get(index).copied().unwrap_or_default()
    }

    /// Whether every sibling that answers has acknowledged all own changes, so that a stopping process may go.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.peers.values().filter_map(|peer| peer.link.as_ref()).all(Link::is_done_or_lost)
    }
}

/// About how many bytes a token's record takes in a message, beside its key.
pub(super) const RECORD_WEIGHT: usize = 64;

/// About how many bytes a counter takes in a message.
pub(super) fn weight(key: KeyRef<'_>, counter: CounterView<'_>) -> usize {
    let entries = counter.actors().count();
    key.as_bytes().len().saturating_add(64).saturating_add(entries.saturating_mul(48))
}
