//! The figures of a cluster: for the status, for metrics, and for the table of `operator local`.

use std::collections::BTreeSet;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{Layout, LayoutVersion, Move, MovePhase, Shard};
use counter_core::slot::{SLOTS, Slot, SlotRange};
use counter_core::status::MoveStatus;

use super::volumes::Losses;
use super::{Observed, ObservedNode, ObservedShard};

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
    /// Without a recorded layout: whether every slot is owned by a node that serves, by the nodes' own account.
    pub all_owned: bool,
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
        self.all_owned && self.unserved.is_empty()
    }

    pub(super) fn of(observed: &Observed, losses: &Losses) -> Self {
        let Some(layout) = &observed.layout else { return Self::without_layout(observed) };
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
            slot_move: layout.moves.first().map(|slot_move| MoveSummary::of(slot_move, layout, observed, losses)),
            all_owned: true,
        }
    }

    /// What can be said where no layout is recorded, or the record is lost: an autoscaler that read of no shards would take
    /// the cluster for an empty one.
    fn without_layout(observed: &Observed) -> Self {
        let serving = |shard: ShardId| {
            let own = |(name, node): &(&NodeName, &ObservedNode)| node.serves() && is_of(name, shard);
            count(observed.nodes.iter().filter(own).count())
        };
        let whole = |(shard, own): &(&ShardId, &ObservedShard)| serving(**shard) >= own.replicas;
        Self {
            layout_version: None,
            shards: count(observed.shards.len()),
            ready_shards: count(observed.shards.iter().filter(whole).count()),
            nodes: observed.shards.values().map(|own| own.replicas).fold(0, u16::saturating_add),
            ready_nodes: observed.shards.keys().map(|shard| serving(*shard)).fold(0, u16::saturating_add),
            unserved: Vec::new(),
            slot_move: None,
            all_owned: all_owned(observed),
        }
    }
}

/// Whether a node's name is that of one of the shard's.
fn is_of(name: &NodeName, shard: ShardId) -> bool {
    let mut parts = name.0.rsplit('-');
    parts.nth(1).is_some_and(|number| number == shard.to_string())
}

/// Whether the nodes that serve say of every slot that one of them owns it.
fn all_owned(observed: &Observed) -> bool {
    let statuses = observed.nodes.values().filter(|node| node.serves()).filter_map(|node| node.status.as_ref());
    let owned = statuses.flat_map(|status| &status.slots).filter(|part| part.owned).flat_map(|part| part.range.iter());
    owned.collect::<BTreeSet<Slot>>().len() == usize::from(SLOTS)
}

impl MoveSummary {
    pub(super) fn of(slot_move: &Move, layout: &Layout, observed: &Observed, losses: &Losses) -> Self {
        Self {
            from: slot_move.from,
            to: slot_move.to,
            slots: slots_of(slot_move),
            phase: slot_move.phase,
            slots_left: slots_left(slot_move, layout, observed, losses),
        }
    }
}

/// What the best majority of the receiving nodes still lacks, by figures for this very layout.
fn slots_left(slot_move: &Move, layout: &Layout, observed: &Observed, losses: &Losses) -> Option<u64> {
    let receiving = &layout.shard(slot_move.to)?.nodes;
    let stamp = (layout.version, layout.hash());
    let mut left: Vec<u64> = receiving
        .iter()
        .filter_map(|node| observed.nodes.get(&node.name))
        .filter_map(|node| left_at(node, slot_move, layout.cluster, stamp))
        .map(|said| left_by(said, slot_move, losses))
        .collect();
    left.sort_unstable();
    left.get(receiving.len() / 2).copied()
}

/// What a node lacks by its own figures, if these are for the layout of this version and hash.
fn left_at<'a>(
    node: &'a ObservedNode,
    slot_move: &Move,
    cluster: ClusterId,
    stamp: (LayoutVersion, u64),
) -> Option<&'a MoveStatus> {
    if node.acts_by(cluster) != Some(stamp) {
        return None;
    }
    node.status.as_ref()?.moves.iter().find(|said| {
        (said.from, said.to, said.phase) == (slot_move.from, slot_move.to, slot_move.phase) && said.layout_version == stamp.0
    })
}

/// What a node lacks when nothing is expected any more of those whose loss is accepted, and of the others only what came
/// from the volume that they had counts.
fn left_by(said: &MoveStatus, slot_move: &Move, losses: &Losses) -> u64 {
    let mut awaited = said.sources.iter().filter(|source| !losses.skipped.contains(&source.node));
    if awaited.clone().any(|source| !losses.is_word_of(source)) {
        return slots_of(slot_move);
    }
    let knows = !said.sources.is_empty() && !losses.skipped.is_empty();
    if knows && awaited.all(|source| source.slots_left == 0) { 0 } else { said.slots_left }
}

fn slots_of(slot_move: &Move) -> u64 {
    u64::try_from(SlotRange::count_all(&slot_move.slots)).unwrap_or(u64::MAX)
}

fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
