//! How large the cluster is to be in this pass: what the spec asks for, and what must stay whatever it asks for.

use std::collections::{BTreeMap, BTreeSet};

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::{Layout, MovePhase};

use crate::controller::validate::ClusterSpec;

use super::balance::held;
use super::{Notice, Observed, ObservedShard, layout};

/// The shards and replicas to have.
#[derive(Debug)]
pub(super) struct Size {
    /// The shards that own slots in the end, or have to stay because they own some.
    pub(super) targets: BTreeSet<ShardId>,
    /// Whether a shard stays that the spec no longer asks for: then no further slots move.
    pub(super) frozen: bool,
    pub(super) blocked: Option<Notice>,
    /// The spec's number of shards.
    pub(super) wanted: u16,
    replicas: u16,
    /// The replicas of existing shards of which no record says what they hold.
    unknown: BTreeMap<ShardId, u16>,
}

impl Size {
    pub(super) fn of(spec: &ClusterSpec, observed: &Observed) -> Self {
        let wanted = (0..spec.shards).map(ShardId);
        let owners = observed.layout.as_ref().map(|layout| kept(layout, spec.shards)).unwrap_or_default();
        let blocked = observed.layout.as_ref().and_then(|layout| blocked(spec, layout, &owners));
        let unknown = unknown(spec, observed);
        let kept: BTreeSet<ShardId> = owners.into_iter().chain(unknown.keys().copied()).collect();
        let frozen = kept.iter().any(|shard| shard.0 >= spec.shards);
        Self { targets: wanted.chain(kept).collect(), frozen, blocked, wanted: spec.shards, replicas: spec.replicas, unknown }
    }

    /// How many nodes a shard is to have: never so few that one goes that the layout names, nor fewer than there are of a
    /// shard that no record explains.
    pub(super) fn replicas(&self, layout: Option<&Layout>, shard: ShardId) -> u16 {
        let unknown = self.unknown.get(&shard).copied().unwrap_or_default();
        self.replicas.max(nodes(layout, shard)).max(unknown)
    }
}

/// Existing shards that must stay as large as they are, because the record does not tell what they hold: all of them
/// where nodes contradict it, and where there is none, each that does not say of every node that it is of no cluster.
fn unknown(spec: &ClusterSpec, observed: &Observed) -> BTreeMap<ShardId, u16> {
    let unexplained = layout::is_unexplained(observed);
    let is_unknown =
        |shard: ShardId, own: &ObservedShard| unexplained || (observed.layout.is_none() && !is_blank(spec, observed, shard, own));
    let unknown = observed.shards.iter().filter(|(shard, own)| is_unknown(**shard, own));
    unknown.map(|(shard, own)| (*shard, own.replicas)).collect()
}

/// Whether each node of a shard answers, and none has ever belonged to a cluster.
fn is_blank(spec: &ClusterSpec, observed: &Observed, shard: ShardId, own: &ObservedShard) -> bool {
    let says = |name: &NodeName| observed.nodes.get(name).and_then(|node| node.status.as_ref());
    let mut names = (0..own.replicas).map(|replica| NodeName::of(&spec.identity.name, shard, replica));
    names.all(|name| says(&name).is_some_and(|status| status.cluster.is_none()))
}

/// How large a shard is that has every node which the layout names, be it that some before those never answered and are not in it.
fn nodes(layout: Option<&Layout>, shard: ShardId) -> u16 {
    let named = layout.and_then(|layout| layout.shard(shard)).into_iter().flat_map(|shard| &shard.nodes);
    named.filter_map(|node| node.name.replica()).map(|replica| replica.saturating_add(1)).max().unwrap_or(0)
}

/// The shards beyond the spec's number that cannot go: they own slots, or gave some away without a receipt.
fn kept(layout: &Layout, wanted: u16) -> BTreeSet<ShardId> {
    let beyond = layout.shards.iter().map(|shard| shard.shard).filter(|shard| shard.0 >= wanted);
    beyond.filter(|shard| held(layout, *shard) > 0 || is_unreceipted_source(layout, *shard)).collect()
}

fn is_unreceipted_source(layout: &Layout, shard: ShardId) -> bool {
    layout.moves.iter().any(|slot_move| slot_move.from == shard && slot_move.phase == MovePhase::Flipped)
}

fn blocked(spec: &ClusterSpec, layout: &Layout, kept: &BTreeSet<ShardId>) -> Option<Notice> {
    let shards = kept.last().filter(|last| last.0 >= spec.shards).map(|last| {
        let slots: usize = kept.iter().map(|shard| held(layout, *shard)).sum();
        let enough = u32::from(last.0) + 1;
        format!(
            "spec.shards is {}, but shards up to number {last} hold {slots} slots, and taking shards away is not supported yet; \
             set spec.shards to {enough}, the size that the cluster keeps meanwhile",
            spec.shards
        )
    });
    let most = layout.shards.iter().map(|shard| nodes(Some(layout), shard.shard)).max().unwrap_or_default();
    let replicas = (most > spec.replicas).then(|| {
        format!(
            "spec.replicas is {}, but shards have {most} nodes, and taking nodes away is not supported yet; \
             set spec.replicas to {most}, the size that the cluster keeps meanwhile",
            spec.replicas
        )
    });
    let message = [shards, replicas].into_iter().flatten().collect::<Vec<_>>().join("; ");
    (!message.is_empty()).then(|| Notice::new("NotSupported", message))
}
