//! The next layout, if one is due.
//!
//! Only what has been recorded counts: each version is made from the recorded one, and its number is above every number
//! that a node has seen. While slots move, nothing else about the layout changes but addresses.

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::virtual_shards::PATTERNS_MAX;
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Move, MovePhase, Node, Shard, normalised};
use counter_core::slot::{SlotRange, to_ranges};

use crate::controller::validate::{ClusterSpec, Storage};

use super::size::Size;
use super::summary::MoveSummary;
use super::volumes::Losses;
use super::{Change, Observed, ObservedNode, balance, virtual_shards};

/// What is due with the layout.
pub(super) enum Due {
    Nothing,
    Next(Change, Box<Layout>),
    /// Slots are on the move and must go on before anything else changes.
    Moving,
}

/// The cluster to which nodes belong although no layout is recorded: then the record was lost, and a new layout would
/// declare their counts void.
pub(super) fn cluster_without_record(observed: &Observed) -> Option<(&NodeName, ClusterId)> {
    if observed.layout.is_some() {
        return None;
    }
    observed.nodes.iter().find_map(|(name, node)| Some((name, node.status.as_ref()?.cluster?)))
}

/// A node that acts by a layout which the record does not explain: a newer one, or another one of the same version.
pub(super) fn ahead<'a>(layout: &Layout, observed: &'a Observed) -> Option<(&'a NodeName, LayoutVersion)> {
    let recorded = layout.hash();
    observed.nodes.iter().find_map(|(name, node)| {
        let (version, hash) = node.acts_by(layout.cluster)?;
        let unexplained = version > layout.version || (version == layout.version && hash != recorded);
        unexplained.then_some((name, version))
    })
}

/// Whether what nodes say cannot be explained by what is recorded, or nothing is: then no layout may be built upon it.
pub(super) fn is_unexplained(observed: &Observed) -> bool {
    match &observed.layout {
        Some(layout) => ahead(layout, observed).is_some(),
        None => cluster_without_record(observed).is_some(),
    }
}

/// Whether the nodes that are ahead own nothing but what the record gives to their shards, so that it can be put above
/// what they have seen, with all that they read.
pub(super) fn can_reassert(layout: &Layout, observed: &Observed) -> bool {
    let fits = virtual_shards::reasserted(layout, observed).len() <= PATTERNS_MAX;
    fits && layout.moves.is_empty() && observed.nodes.iter().all(|(name, node)| owns_no_more(layout, name, node))
}

fn owns_no_more(layout: &Layout, name: &NodeName, node: &ObservedNode) -> bool {
    let Some(status) = node.status.as_ref().filter(|status| status.cluster == Some(layout.cluster)) else { return true };
    let given = layout.shard_of(name).map_or(&[][..], |shard| &shard.slots);
    let mut owned = status.slots.iter().filter(|part| part.owned).flat_map(|part| part.range.iter());
    owned.all(|slot| given.iter().any(|range| range.contains(slot)))
}

/// What is due with the layout before Pods are replaced: what has begun is brought to its end, what the spec took back is
/// taken back.
pub(super) fn due(spec: &ClusterSpec, observed: &Observed, size: &Size, losses: &Losses) -> Due {
    let Some(layout) = &observed.layout else { return first(spec, observed) };
    if ahead(layout, observed).is_some() {
        if !can_reassert(layout, observed) {
            return Due::Nothing;
        }
        let virtual_shards = virtual_shards::reasserted(layout, observed);
        return next(Change::Reassert, Layout { virtual_shards, ..layout.clone() }, observed);
    }
    if let Some(moved) = readdressed(layout, observed) {
        return next(Change::Readdress, moved, observed);
    }
    // In a version of its own, which changes nothing about a move that is under way.
    let spread = virtual_shards::next(spec, layout, observed);
    if spread != layout.virtual_shards {
        return next(Change::Spread, Layout { virtual_shards: spread, ..layout.clone() }, observed);
    }
    if let Some(slot_move) = layout.moves.first() {
        return continued(slot_move, layout, observed, size, losses);
    }
    let mut smaller = layout.clone();
    smaller.shards.retain(|shard| size.targets.contains(&shard.shard));
    if smaller.shards.len() < layout.shards.len() { next(Change::Leave, smaller, observed) } else { Due::Nothing }
}

/// New shards and nodes that answer, to be in the layout from now on.
pub(super) fn joined(spec: &ClusterSpec, observed: &Observed, size: &Size) -> Due {
    let Some(layout) = &observed.layout else { return Due::Nothing };
    let mut larger = layout.clone();
    for shard in &mut larger.shards {
        let replicas = size.replicas(Some(layout), shard.shard);
        let missing = members(spec, observed, shard.shard, replicas).into_iter();
        let known = |node: &Node| shard.nodes.iter().any(|own| own.name == node.name);
        let joining: Vec<Node> =
            missing.filter(|node| !known(node) && observed.answers_for(&node.name, layout.cluster)).collect();
        shard.nodes.extend(joining);
    }
    for shard in size.targets.iter().filter(|shard| layout.shard(**shard).is_none()) {
        let nodes = members(spec, observed, *shard, size.replicas(Some(layout), *shard));
        let answering = nodes.iter().filter(|node| observed.answers_for(&node.name, layout.cluster)).count();
        if is_majority(answering, nodes.len()) {
            larger.shards.push(Shard { shard: *shard, slots: Vec::new(), nodes });
        }
    }
    larger.shards.sort_by_key(|shard| shard.shard);
    if larger == *layout { Due::Nothing } else { next(Change::Join, larger, observed) }
}

/// The start of the next move, when all of both shards' nodes are there to take part.
pub(super) fn started(observed: &Observed, size: &Size, losses: &Losses) -> Due {
    let Some(layout) = observed.layout.as_ref().filter(|_| !size.frozen) else { return Due::Nothing };
    let targets: Vec<ShardId> = size.targets.iter().copied().collect();
    let Some(slot_move) = balance::next_move(layout, &targets) else { return Due::Nothing };
    let lost = losses.open_among(layout, slot_move.from).next().is_some();
    if lost || !absent(&slot_move, layout, observed, losses).is_empty() {
        return Due::Nothing;
    }
    let mut copying = layout.clone();
    copying.moves.push(slot_move);
    next(Change::Copy, copying, observed)
}

/// The nodes without which a move would not get far: it needs every old replica whose loss is not accepted, and the new
/// ones to hold the slots.
pub(super) fn absent(slot_move: &Move, layout: &Layout, observed: &Observed, losses: &Losses) -> Vec<NodeName> {
    let silent = |shard: ShardId| {
        let names = layout.shard(shard).into_iter().flat_map(|shard| &shard.nodes).map(|node| &node.name);
        names.filter(|name| !observed.answers_for(name, layout.cluster)).cloned()
    };
    let sources = silent(slot_move.from).filter(|name| !losses.skipped.contains(name));
    sources.chain(silent(slot_move.to)).collect()
}

/// Whether there are nodes that keep their counts under an identity which no record names any more: in a Redis, where a
/// cluster's nodes come after its record.
pub(super) fn is_record_lost(spec: &ClusterSpec, observed: &Observed) -> bool {
    observed.layout.is_none() && matches!(spec.storage, Storage::Redis(_)) && !observed.shards.is_empty()
}

/// The cluster's first layout, once a majority of each shard's nodes waits for it: with none of them of another cluster.
/// Nodes that keep their counts in a Redis cannot wait for it: they are told the cluster's identity as they start, so
/// that the first layout comes before them.
fn first(spec: &ClusterSpec, observed: &Observed) -> Due {
    if cluster_without_record(observed).is_some() || is_record_lost(spec, observed) {
        return Due::Nothing;
    }
    let mut shards = Vec::new();
    for (number, range) in (0..spec.shards).zip(balance::first_ranges(spec.shards)) {
        let nodes = members(spec, observed, ShardId(number), spec.replicas);
        let waiting = nodes.iter().filter(|node| observed.answers_for(&node.name, observed.fresh_cluster)).count();
        let enough = match spec.storage {
            Storage::Redis(_) => nodes.len() == usize::from(spec.replicas),
            Storage::Volume(_) | Storage::Memory => is_majority(waiting, nodes.len()),
        };
        if !enough {
            return Due::Nothing;
        }
        shards.push(Shard { shard: ShardId(number), slots: vec![range], nodes });
    }
    let (cluster, version) = (observed.fresh_cluster, LayoutVersion(0));
    let virtual_shards = virtual_shards::first(spec);
    let layout = Layout { format: LAYOUT_FORMAT, cluster, version, shards, moves: Vec::new(), virtual_shards };
    next(Change::First, layout, observed)
}

fn continued(slot_move: &Move, layout: &Layout, observed: &Observed, size: &Size, losses: &Losses) -> Due {
    // Where a loss is seen, nothing goes on before a person has accepted it.
    let lost = losses.open_among(layout, slot_move.from).next().is_some();
    let done = !lost && MoveSummary::of(slot_move, layout, observed, losses).slots_left == Some(0);
    let without = || Layout { moves: layout.moves[1..].to_vec(), ..layout.clone() };
    match slot_move.phase {
        MovePhase::Copying if is_taken_back(slot_move, layout, size) => next(Change::Cancel, without(), observed),
        MovePhase::Copying if done => next(Change::Flip, flipped(slot_move, layout), observed),
        MovePhase::Flipped if done => next(Change::Finish, without(), observed),
        MovePhase::Copying | MovePhase::Flipped => Due::Moving,
    }
}

/// Whether a move would lead away from what the spec asks for now.
fn is_taken_back(slot_move: &Move, layout: &Layout, size: &Size) -> bool {
    let after = balance::held(layout, slot_move.to) + SlotRange::count_all(&slot_move.slots);
    let undone = !size.targets.contains(&slot_move.to) || (size.frozen && slot_move.to.0 >= size.wanted);
    undone || after > balance::share_max(size.targets.len())
}

fn flipped(slot_move: &Move, layout: &Layout) -> Layout {
    let mut layout = layout.clone();
    let moving = |slot| slot_move.slots.iter().any(|range| range.contains(slot));
    for shard in &mut layout.shards {
        if shard.shard == slot_move.from {
            let kept = shard.slots.iter().flat_map(|range| range.iter()).filter(|slot| !moving(*slot));
            shard.slots = to_ranges(kept);
        } else if shard.shard == slot_move.to {
            shard.slots = normalised(&[shard.slots.as_slice(), &slot_move.slots].concat());
        }
    }
    for own in layout.moves.iter_mut().filter(|own| *own == slot_move) {
        own.phase = MovePhase::Flipped;
    }
    layout
}

/// The layout with today's addresses, when they are not the recorded ones.
fn readdressed(layout: &Layout, observed: &Observed) -> Option<Layout> {
    let mut moved = layout.clone();
    for node in moved.shards.iter_mut().flat_map(|shard| &mut shard.nodes) {
        if let Some(current) = observed.addresses.node(&node.name) {
            *node = current;
        }
    }
    (moved != *layout).then_some(moved)
}

fn members(spec: &ClusterSpec, observed: &Observed, shard: ShardId, replicas: u16) -> Vec<Node> {
    let names = (0..replicas).map(|replica| NodeName::of(&spec.identity.name, shard, replica));
    names.filter_map(|name| observed.addresses.node(&name)).collect()
}

fn is_majority(count: usize, of: usize) -> bool {
    count > of / 2
}

/// `layout` under the next version, above every one that a node of its cluster has seen.
fn next(change: Change, layout: Layout, observed: &Observed) -> Due {
    let seen = observed.nodes.values().filter_map(|node| node.acts_by(layout.cluster)).map(|(version, _)| version).max();
    let version = seen.unwrap_or_default().max(layout.version).next();
    Due::Next(change, Box::new(Layout { version, ..layout }))
}
