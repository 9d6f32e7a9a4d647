//! What a person is told: what is under way, what is waited for, and what needs a hand.

use std::collections::BTreeMap;

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::{Layout, Move, MovePhase};

use crate::controller::validate::{ACCEPT_LOSS_ANNOTATION, ClusterSpec};

use super::rollout::Rollout;
use super::size::Size;
use super::volumes::Losses;
use super::{Change, DesiredShard, MoveSummary, Notice, Observed, Step, balance, joined, layout, virtual_shards};

/// How many nodes a message names; the others are counted.
const NAMED_MAX: usize = 3;

/// What needs a person: nothing that the operator may do gets further.
pub(super) fn stalled(spec: &ClusterSpec, observed: &Observed) -> Option<Notice> {
    let name = &spec.identity.name;
    if let Some((node, cluster)) = layout::cluster_without_record(observed) {
        return Some(Notice::new(
            "LayoutLost",
            format!(
                "the record {name}-layout is missing, but node {node} belongs to cluster {cluster}: restore the record, \
                 or remove the volumes of nodes whose counts are to be given up"
            ),
        ));
    }
    if layout::is_record_lost(spec, observed) {
        return Some(Notice::new(
            "LayoutLost",
            format!(
                "the record {name}-layout is missing, with the id under which the cluster's counts are kept in Redis: restore \
                 the record, or delete the cluster's StatefulSets to begin anew"
            ),
        ));
    }
    let recorded = observed.layout.as_ref()?;
    if let Some((node, version)) = layout::ahead(recorded, observed).filter(|_| !layout::can_reassert(recorded, observed)) {
        return Some(Notice::new(
            "LayoutBehind",
            format!(
                "node {node} acts by layout version {version}, but {name}-layout records version {}, which gives slots to \
                 others: restore the newest record",
                recorded.version
            ),
        ));
    }
    if let Some(notice) = virtual_shards::too_many(spec, recorded) {
        return Some(notice);
    }
    let foreign = observed.nodes.iter().find_map(|(node, seen)| {
        let cluster = seen.status.as_ref()?.cluster.filter(|cluster| *cluster != recorded.cluster)?;
        Some((node, cluster))
    });
    let (node, cluster) = foreign?;
    Some(Notice::new(
        "ForeignVolume",
        format!("the volume of node {node} belongs to cluster {cluster}, not to {}: remove or exchange it", recorded.cluster),
    ))
}

/// What is under way or waited for; None when all is as the spec says.
pub(super) fn progress(state: &State<'_>) -> Option<Notice> {
    match state.step {
        Step::Record(change, _) => return Some(changing(*change)),
        Step::Evict(eviction) => {
            return Some(Notice::new("RollingOut", format!("{} is being replaced: {}", eviction.node, eviction.why.message)));
        }
        Step::Rest => {}
    }
    let rest = state
        .moving()
        .or_else(|| state.rolling_out())
        .or_else(|| state.absent())
        .or_else(|| state.objects())
        .or_else(|| state.uneven());
    joined([rest, state.spreading()])
}

/// What `progress` is made from.
pub(super) struct State<'a> {
    pub(super) spec: &'a ClusterSpec,
    pub(super) observed: &'a Observed,
    pub(super) size: &'a Size,
    pub(super) losses: &'a Losses,
    pub(super) desired: &'a BTreeMap<ShardId, DesiredShard>,
    pub(super) rollout: &'a Rollout<'a>,
    pub(super) step: &'a Step,
    pub(super) removing: bool,
}

impl State<'_> {
    fn moving(&self) -> Option<Notice> {
        let layout = self.observed.layout.as_ref()?;
        let slot_move = layout.moves.first()?;
        let summary = MoveSummary::of(slot_move, layout, self.observed, self.losses);
        let stage = match summary.phase {
            MovePhase::Copying => "to be copied",
            MovePhase::Flipped => "without a receipt",
        };
        let left = summary.slots_left.map_or("an unknown number".to_owned(), |left| left.to_string());
        let waits = self.waits(slot_move, layout).map_or_else(String::new, |waits| format!("; {waits}"));
        Some(Notice::new(
            "MovingSlots",
            format!("{} slots move from shard {} to shard {}, {left} {stage}{waits}", summary.slots, summary.from, summary.to),
        ))
    }

    fn rolling_out(&self) -> Option<Notice> {
        let left = self.rollout.left();
        let waits = self.named(&self.rollout.absent);
        (left > 0).then(|| Notice::new("RollingOut", format!("{left} nodes are to be replaced; waiting for {waits}")))
    }

    fn absent(&self) -> Option<Notice> {
        let absent = &self.rollout.absent;
        (!absent.is_empty()).then(|| Notice::new("WaitingForNodes", format!("waiting for {}", self.named(absent))))
    }

    /// Objects differ from what they should be: they are about to be applied.
    fn objects(&self) -> Option<Notice> {
        let applied = self.desired.iter().all(|(shard, desired)| {
            self.observed
                .shards
                .get(shard)
                .is_some_and(|own| own.settled && own.replicas == desired.replicas && own.pin.as_ref() == Some(&desired.pin))
        });
        (self.removing || !applied).then(|| Notice::new("Applying", "objects are being brought to what the spec says"))
    }

    /// Pages that are still to be spread over more keys.
    fn spreading(&self) -> Option<Notice> {
        let layout = self.observed.layout.as_ref().filter(|layout| virtual_shards::is_rising(self.spec, layout))?;
        virtual_shards::too_many(self.spec, layout).is_none().then(|| {
            let waits = self.named(&virtual_shards::behind(layout, self.observed));
            let message = format!("spec.virtualShards wait until every node reads as many keys; waiting for {waits}");
            Notice::new("SpreadingPages", message)
        })
    }

    /// Slots that are still to move, but cannot start to.
    fn uneven(&self) -> Option<Notice> {
        let layout = self.observed.layout.as_ref().filter(|_| !self.size.frozen)?;
        let targets: Vec<ShardId> = self.size.targets.iter().copied().collect();
        let next = balance::next_move(layout, &targets)?;
        let waits = self.waits(&next, layout).unwrap_or_default();
        Some(Notice::new("MovingSlots", format!("slots of shard {} are to move to shard {}; {waits}", next.from, next.to)))
    }

    /// What a move waits for that is not on its way.
    fn waits(&self, slot_move: &Move, layout: &Layout) -> Option<String> {
        let lost: Vec<NodeName> = self.losses.open_among(layout, slot_move.from).cloned().collect();
        if !lost.is_empty() {
            return Some(format!("waiting for the lost volume of {}, see ScaleDownBlocked", self.named(&lost)));
        }
        let absent = layout::absent(slot_move, layout, self.observed, self.losses);
        let source = |name: &&NodeName| layout.shard_of(name).is_some_and(|shard| shard.shard == slot_move.from);
        absent.first()?;
        let way_out = absent.iter().find(source).map_or_else(String::new, |source| {
            let volume = self.observed.addresses.volume(source);
            format!(" (if its volume, {volume}, is gone for good: {ACCEPT_LOSS_ANNOTATION}={source} accepts the loss)")
        });
        Some(format!("no answer from {}{way_out}", self.named(&absent)))
    }

    /// Some of the names, each with what is known to be wrong.
    fn named(&self, names: &[NodeName]) -> String {
        let shown = names.iter().take(NAMED_MAX).map(|name| self.described(name)).collect::<Vec<_>>().join(", ");
        match names.len().saturating_sub(NAMED_MAX) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }

    fn described(&self, name: &NodeName) -> String {
        let Some(node) = self.observed.nodes.get(name) else { return format!("{name} (does not exist yet)") };
        match &node.problem {
            Some(problem) => format!("{name} ({problem})"),
            None if node.terminating => format!("{name} (is stopping)"),
            None => name.to_string(),
        }
    }
}

fn changing(change: Change) -> Notice {
    let message = match change {
        Change::First => "the first layout is being published",
        Change::Reassert => "the recorded layout is being published above what nodes have seen",
        Change::Readdress => "new addresses of nodes are being published",
        Change::Spread => "pages are spread over other numbers of keys",
        Change::Join => "new nodes join the layout",
        Change::Leave => "shards that never owned a slot leave the layout",
        Change::Copy => "slots start to move",
        Change::Flip => "moved slots change their owner",
        Change::Finish => "a move of slots has its receipt",
        Change::Cancel => "a move of slots is taken back",
    };
    Notice::new(change.as_str(), message)
}

/// Why Pods are not made as they would be if nothing were pinned.
pub(super) fn update_pending(observed: &Observed, desired: &BTreeMap<ShardId, DesiredShard>) -> Option<Notice> {
    let pending = desired.values().filter(|shard| shard.pin.template != observed.template).count();
    (pending > 0).then(|| {
        Notice::new(
            "OperatorChange",
            "the operator would make Pods otherwise than they are; the change is rolled out with the next edit of the spec, \
             or when the annotation distributedcounter.dev/apply-update gets a new value",
        )
    })
}
