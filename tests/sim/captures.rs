//! What slots held before a layout changed, its owners must hold after: checked at the operator's every step of a move.

use std::collections::BTreeMap;

use counter_core::counter::Key;
use counter_core::id::{NodeName, ShardId};
use counter_core::layout::{Layout, LayoutVersion, Move, MovePhase};
use counter_core::slot::Slot;
use counter_core::vector::SlotVector;

use crate::disk::Image;
use crate::process::Node;

/// By node: the layout under which it was taken, and the slots' vectors.
#[derive(Debug, Default)]
pub(crate) struct Captures(BTreeMap<usize, (LayoutVersion, BTreeMap<Slot, SlotVector>)>);

impl Captures {
    /// What a node holds as it begins to act by a layout.
    pub(crate) fn take(&mut self, node: usize, held: &Node, keys: &[Key]) {
        let Some(process) = &held.process else { return };
        let Some(layout) = process.replica.layout() else { return };
        if layout.moves.is_empty() {
            return;
        }
        let mut slots: BTreeMap<Slot, SlotVector> =
            keys.iter().map(Key::slot).map(|slot| (slot, process.table.slot(slot).clone())).collect();
        // A process that started anew under the same layout has more by now, or has lost what was in memory only: what
        // it had when it began to act by the layout is what counts, where that is still there.
        if let Some((_, earlier)) = self.0.get(&node).filter(|(version, _)| *version == layout.version) {
            slots.retain(|slot, now| earlier.get(slot).is_some_and(|earlier| holds(now, earlier, *slot)));
            slots = slots.into_keys().filter_map(|slot| Some((slot, earlier.get(&slot)?.clone()))).collect();
        }
        self.0.insert(node, (layout.version, slots));
    }

    /// The operator goes from one layout to the next.
    pub(crate) fn check_step(
        &self,
        nodes: &[Node],
        names: &BTreeMap<NodeName, usize>,
        (before, after): (&Layout, &Layout),
        keys: &[Key],
    ) -> Result<(), String> {
        let Some(slot_move) = before.moves.first() else { return Ok(()) };
        let phase_after = after.moves.first().map(|slot_move| slot_move.phase);
        match (slot_move.phase, phase_after) {
            (MovePhase::Copying, Some(MovePhase::Flipped)) | (MovePhase::Flipped, None) => {}
            _ => return Ok(()),
        }
        let of = |shard: ShardId| -> Vec<usize> {
            before.shard(shard).map(|shard| shard.nodes.iter().map(|node| names[&node.name]).collect()).unwrap_or_default()
        };
        let (old, new) = (of(slot_move.from), of(slot_move.to));
        let images: Vec<Image> = new.iter().map(|node| nodes[*node].disk.image()).collect();
        for slot in moving(slot_move, keys) {
            for source in &old {
                let had = match slot_move.phase {
                    MovePhase::Copying => self.captured(*source, before.version, slot)?,
                    MovePhase::Flipped => Some(current(&nodes[*source], slot)),
                };
                let Some(had) = had else { continue };
                let holding = images.iter().filter(|image| holds(&vector_of(image, slot), &had, slot)).count();
                if holding <= new.len() / 2 {
                    return Err(format!(
                        "layout {}: of slot {slot}, what node {source} had is held by {holding} of {} new replicas",
                        after.version,
                        new.len()
                    ));
                }
            }
        }
        Ok(())
    }

    /// None where a crash has taken part of it along.
    fn captured(&self, node: usize, version: LayoutVersion, slot: Slot) -> Result<Option<SlotVector>, String> {
        match self.0.get(&node) {
            Some((captured, slots)) if *captured == version => Ok(slots.get(&slot).cloned()),
            Some(_) | None => Err(format!("slots flip though node {node} has not acted by layout {version}")),
        }
    }
}

fn moving(slot_move: &Move, keys: &[Key]) -> Vec<Slot> {
    let is_moving = |slot: &Slot| slot_move.slots.iter().any(|range| range.contains(*slot));
    keys.iter().map(Key::slot).filter(is_moving).collect()
}

fn current(node: &Node, slot: Slot) -> SlotVector {
    match &node.process {
        Some(process) => process.table.slot(slot).clone(),
        None => vector_of(&node.disk.image(), slot),
    }
}

/// A slot as storage has it.
pub(crate) fn vector_of(image: &Image, slot: Slot) -> SlotVector {
    let mut vector = SlotVector::new(0);
    if let Some(record) = image.slots.get(&slot) {
        vector.restore_slot(record.clone());
    }
    image.floors.get(&slot).into_iter().for_each(|floor_ms| vector.restore_floor(*floor_ms));
    image.tokens.values().filter(|record| record.key.slot() == slot).for_each(|record| vector.restore_token(record));
    for (key, counter) in image.counters.iter().filter(|(key, _)| key.slot() == slot) {
        vector.restore_counter(key, counter);
    }
    vector
}

/// Whether `other` knows nothing that `vector` does not.
fn holds(vector: &SlotVector, other: &SlotVector, slot: Slot) -> bool {
    let mut delta = other.delta(slot, other.keys());
    delta.retirement = other.retirement();
    vector.clone().merge(&delta).is_empty()
}
