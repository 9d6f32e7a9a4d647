//! The figures of a cluster: for the status, for metrics, and for the table of `operator local`.

use counter_core::id::{ClusterId, ShardId};
use counter_core::layout::{Layout, LayoutVersion, Move, MovePhase, Shard};

use super::{Observed, ObservedNode};

/// The figures of a cluster, by its recorded layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub layout_version: Option<u64>,
    pub shards: u16,
    /// Shards of which every node is ready.
    pub ready_shards: u16,
    pub nodes: u16,
    pub ready_nodes: u16,
    /// Shards that own slots and of which no node is ready. When there are none and there is a layout, every slot has a
    /// serving owner.
    pub unserved: Vec<ShardId>,
    pub slot_move: Option<MoveSummary>,
}

/// How far the move in the recorded layout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveSummary {
    pub from: ShardId,
    pub to: ShardId,
    /// How many slots move.
    pub slots: u64,
    pub phase: MovePhase,
    /// Slots that a majority of the receiving nodes does not have yet; None while fewer than a majority say.
    pub slots_left: Option<u64>,
}

impl Summary {
    /// Whether every slot has a serving owner.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.layout_version.is_some() && self.unserved.is_empty()
    }

    pub(super) fn of(observed: &Observed) -> Self {
        let Some(layout) = &observed.layout else { return Self::default() };
        let ready = |shard: &Shard| shard.nodes.iter().filter(|node| observed.serves(&node.name)).count();
        let whole = |shard: &&Shard| ready(shard) == shard.nodes.len();
        let unserved = |shard: &&Shard| !shard.slots.is_empty() && ready(shard) == 0;
        Self {
            layout_version: Some(layout.version.0),
            shards: count(layout.shards.len()),
            ready_shards: count(layout.shards.iter().filter(whole).count()),
            nodes: count(layout.nodes().count()),
            ready_nodes: count(layout.shards.iter().map(ready).sum()),
            unserved: layout.shards.iter().filter(unserved).map(|shard| shard.shard).collect(),
            slot_move: layout.moves.first().map(|slot_move| MoveSummary::of(slot_move, layout, observed)),
        }
    }
}

impl MoveSummary {
    pub(super) fn of(slot_move: &Move, layout: &Layout, observed: &Observed) -> Self {
        let slots = slot_move.slots.iter().map(|range| range.count()).sum::<usize>();
        Self {
            from: slot_move.from,
            to: slot_move.to,
            slots: u64::try_from(slots).unwrap_or(u64::MAX),
            phase: slot_move.phase,
            slots_left: slots_left(slot_move, layout, observed),
        }
    }
}

/// What the best majority of the receiving nodes still lacks, by figures for this very layout.
fn slots_left(slot_move: &Move, layout: &Layout, observed: &Observed) -> Option<u64> {
    let receiving = &layout.shard(slot_move.to)?.nodes;
    let stamp = (layout.version, layout.hash());
    let mut left: Vec<u64> = receiving
        .iter()
        .filter_map(|node| observed.nodes.get(&node.name))
        .filter_map(|node| left_at(node, slot_move, layout.cluster, stamp))
        .collect();
    left.sort_unstable();
    left.get(receiving.len() / 2).copied()
}

/// What a node lacks by its own figures, if these are for the layout of this version and hash.
fn left_at(node: &ObservedNode, slot_move: &Move, cluster: ClusterId, stamp: (LayoutVersion, u64)) -> Option<u64> {
    if node.acts_by(cluster) != Some(stamp) {
        return None;
    }
    let said = node.status.as_ref()?.moves.iter().find(|said| {
        (said.from, said.to, said.phase) == (slot_move.from, slot_move.to, slot_move.phase) && said.layout_version == stamp.0
    });
    said.map(|said| said.slots_left)
}

fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
