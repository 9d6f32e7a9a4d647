//! Slot moves as the receiving side sees them, and forgetting what has left.
//!
//! The new replicas know what is covered: a slot is left as long as this node does not durably hold what every old
//! replica said it had under this layout; after the flip, what it said it had *last*. Each layout starts the reckoning
//! anew: by digest that costs little, and no figure can outlive the layout that it is for. So does another volume under
//! an old replica's name: what one of them said, it did not say for the other.

use std::collections::BTreeMap;

use super::parts::Part;
use super::pull::Pulled;
use super::slots::SlotSet;
use super::{Effect, Replica, Step};
use crate::id::NodeName;
use crate::layout::MovePhase;
use crate::slot::Slot;
use crate::status::{MoveStatus, SourceStatus};

/// One move in which this node receives.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Into the layout's moves.
    index: usize,
    phase: MovePhase,
    sources: BTreeMap<NodeName, Source>,
}

/// An old replica.
#[derive(Debug)]
struct Source {
    /// The slots not yet held as it has them.
    left: SlotSet,
    /// Pulls that began earlier do not count.
    since_round: u64,
}

impl Replica {
    /// The moves of a layout that has just been adopted.
    pub(super) fn begin_arrivals(&mut self) {
        self.arrivals.clear();
        let Some(layout) = &self.layout else { return };
        for incoming in self.parts.moves.iter().filter(|slot_move| slot_move.incoming) {
            let Some(slot_move) = layout.moves.get(incoming.index) else { continue };
            let slots: SlotSet = incoming.slots.iter().copied().collect();
            let source = |name: &NodeName| (name.clone(), Source { left: slots.clone(), since_round: 0 });
            let sources = incoming.others.iter().map(source).collect();
            self.arrivals.push(Arrival { index: incoming.index, phase: slot_move.phase, sources });
        }
        self.sweep_arrivals();
    }

    /// Asks for what is left, from whom nothing is being asked.
    pub(super) fn sweep_arrivals(&mut self) {
        for (name, source) in self.arrivals.iter().flat_map(|arrival| &arrival.sources) {
            if let Some(peer) = self.peers.get_mut(name)
                && peer.puller.is_idle()
            {
                peer.puller.want(source.left.iter());
            }
        }
    }

    /// Another volume speaks under an old replica's name: all that the moves are to bring from there is left again.
    pub(super) fn begin_arrivals_from(&mut self, name: &NodeName) {
        let Some(peer) = self.peers.get(name) else { return };
        for arrival in &mut self.arrivals {
            let slots = self.parts.moves.iter().find(|incoming| incoming.index == arrival.index).map(|incoming| &incoming.slots);
            if let (Some(source), Some(slots)) = (arrival.sources.get_mut(name), slots) {
                *source = Source { left: slots.iter().copied().collect(), since_round: peer.puller.next_round() };
            }
        }
    }

    /// A slot has been pulled durably.
    pub(super) fn arrived(&mut self, pulled: &Pulled) {
        let Some(ours) = self.layout_id else { return };
        // A source under an older layout may still apply, or not push here yet.
        if pulled.layout.is_none_or(|theirs| theirs < ours.version) {
            return;
        }
        for arrival in &mut self.arrivals {
            let counts = match arrival.phase {
                MovePhase::Copying => true,
                MovePhase::Flipped => pulled.last,
            };
            let source = arrival.sources.get_mut(&pulled.peer).filter(|source| pulled.began >= source.since_round);
            if let Some(source) = source.filter(|_| counts) {
                source.left.remove(pulled.slot);
            }
        }
    }

    /// How far the moves are in which this node receives.
    pub(super) fn move_statuses(&self) -> Vec<MoveStatus> {
        let Some(layout) = &self.layout else { return Vec::new() };
        let status = |arrival: &Arrival| {
            let slot_move = layout.moves.get(arrival.index)?;
            let left: SlotSet = arrival.sources.values().flat_map(|source| source.left.iter()).collect();
            let source = |(node, source): (&NodeName, &Source)| SourceStatus {
                node: node.clone(),
                actor: self.peers.get(node).and_then(|peer| peer.actor),
                slots_left: count(&source.left),
            };
            Some(MoveStatus {
                from: slot_move.from,
                to: slot_move.to,
                phase: slot_move.phase,
                layout_version: layout.version,
                slots_left: count(&left),
                sources: arrival.sources.iter().map(source).collect(),
            })
        };
        self.arrivals.iter().filter_map(status).collect()
    }

    /// Whether this node has given the slot away for good: under a durable layout, so that a crash does not bring back
    /// one by which it would apply updates again.
    pub(super) fn is_last(&self, slot: Slot) -> bool {
        self.is_layout_durable() && matches!(self.parts.part(slot), Part::Gave(_))
    }

    /// Forgets, some at a time, the slots that this node has nothing to do with under its durable layout. A node that
    /// the layout does not name keeps its data: that is for a person to throw away.
    pub(super) fn forget(&mut self, step: &mut Step<'_>) {
        if std::mem::take(&mut self.forget_due) {
            let held = |slot: &Slot| !step.table.slot(*slot).is_new();
            self.forgetting = self.parts.slots(|part| !part.holds()).filter(held).collect();
        }
        let (mut slots, mut keys) = (Vec::new(), Vec::new());
        while keys.len() < self.config.forget_keys_max {
            // A write under way would bring the slot back into storage.
            let Some(slot) = self.forgetting.iter().find(|slot| !self.saves.is_saving(*slot)) else { break };
            self.forgetting.remove(slot);
            keys.extend(step.table.clear(slot));
            slots.push(slot);
        }
        if !slots.is_empty() {
            step.effects.0.push(Effect::Forget { slots, keys });
        }
    }
}

fn count(slots: &SlotSet) -> u64 {
    u64::try_from(slots.len()).unwrap_or(u64::MAX)
}
