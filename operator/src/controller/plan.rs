//! The decision: from what is wanted and what is, to what is done in this pass.
//!
//! A pure function that remembers nothing, so a crash, a reverted spec or a second operator is just another input. It
//! takes at most one [`Step`] at a time; whatever is left follows in later passes. Order within a pass, when acted upon:
//! objects, then the step's layout is recorded, then it is published; evictions and removals come last.
//!
//! What it never does: shrink what owns slots, take a missing Pod for a change of membership, or start one disruption
//! while another is under way.

use std::collections::BTreeMap;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::Layout;

use crate::controller::validate::{Bytes, ClusterSpec};
use crate::crd::Retain;

use layout::Due;
use progress::State;
use rollout::Rollout;
use size::Size;
use volumes::Losses;

pub use observed::{Addresses, Observed, ObservedNode, ObservedShard, Pin, Template};
pub use summary::{MoveSummary, Summary};
pub use volumes::{Judgement, VOLUMES_FORMAT, VolumeId, Volumes};

mod balance;
mod layout;
mod observed;
mod progress;
mod publish;
mod rollout;
mod shards;
mod size;
mod summary;
mod virtual_shards;
mod volumes;

/// What is done in this pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// True while the user pauses the operator: only `publish` and the status are acted upon, all else is empty.
    pub paused: bool,
    /// The identity of the cluster, from the moment that this pass records it.
    pub cluster: Option<ClusterId>,
    /// The StatefulSets as they should be. One that exists and is not named here stays untouched.
    pub shards: BTreeMap<ShardId, DesiredShard>,
    /// Shards that never owned a slot, are in no layout, and that the spec no longer asks for.
    pub remove: Vec<Removal>,
    /// Claims that are smaller than the spec says.
    pub resize: Vec<Resize>,
    pub step: Step,
    /// What is to be recorded of the cluster's storage, together with the step's layout or the recorded one; None while
    /// there is neither.
    pub volumes: Option<Volumes>,
    /// The layout to act by after this pass, and who does not act by it yet.
    pub publish: Option<Publish>,
    /// Set while the spec asks for less than there is: `ScaleDownBlocked`.
    pub blocked: Option<Notice>,
    /// What became of the annotation that accepts losses, while it stands.
    pub verdict: Option<Notice>,
    /// The nodes whose loss is accepted by this pass.
    pub accepted: Vec<NodeName>,
    /// Set while Pods would be made otherwise if nothing were pinned: `UpdatePending`.
    pub update_pending: Option<Notice>,
    /// Set when a person has to do something: `Stalled`.
    pub stalled: Option<Notice>,
    /// What is under way or waited for: `Reconciling`. None when all is as it should be.
    pub progress: Option<Notice>,
    pub summary: Summary,
}

/// A StatefulSet as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredShard {
    pub replicas: u16,
    pub pin: Pin,
    /// The size in the claim template: that of the existing one, because it cannot change. None for memory.
    pub claim_size: Option<Bytes>,
    /// What becomes of its claims when it is deleted. For a shard about to be removed: what `whenScaled` says.
    pub when_deleted: Retain,
}

/// A StatefulSet to delete, if it still has this UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    pub shard: ShardId,
    pub uid: String,
}

/// A claim to be made larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    pub node: NodeName,
    pub size: Bytes,
}

/// The one step of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Rest,
    /// Record this layout by compare-and-swap; it is then published.
    Record(Change, Box<Layout>),
    Evict(Eviction),
}

/// A Pod to evict, if it still has this UID; a local process to restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    pub node: NodeName,
    pub uid: String,
    pub why: Notice,
}

/// What a new layout version is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The cluster's first layout.
    First,
    /// The recorded layout once more, above a version that nodes have seen.
    Reassert,
    /// Nodes are reached elsewhere.
    Readdress,
    /// Pages are spread over more keys or fewer, or are about to be.
    Spread,
    /// New shards without slots, new nodes of shards.
    Join,
    /// Shards that never owned a slot go.
    Leave,
    /// A move starts: the new owner receives.
    Copy,
    /// The new owner counts.
    Flip,
    /// The old owner's receipt.
    Finish,
    /// A move that had not flipped is taken back.
    Cancel,
}

impl Change {
    /// A bounded name, for events and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "First",
            Self::Reassert => "Reassert",
            Self::Readdress => "Readdress",
            Self::Spread => "Spread",
            Self::Join => "Join",
            Self::Leave => "Leave",
            Self::Copy => "Copy",
            Self::Flip => "Flip",
            Self::Finish => "Finish",
            Self::Cancel => "Cancel",
        }
    }

    /// Whether it changes who answers for slots.
    #[must_use]
    pub fn is_disruptive(self) -> bool {
        matches!(self, Self::Copy | Self::Flip | Self::Finish | Self::Cancel)
    }
}

/// A layout and the nodes that answer but act by another one or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub layout: Layout,
    pub nodes: Vec<NodeName>,
}

/// A reason in CamelCase, from a bounded set, and a sentence for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: &'static str,
    pub message: String,
}

impl Notice {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Decides what is done in this pass.
#[must_use]
pub fn plan(spec: &ClusterSpec, observed: &Observed) -> Plan {
    if let Some(notice) = volumes::of_another_kind(spec, observed) {
        return hold(observed, notice);
    }
    let losses = Losses::of(spec, observed);
    let mut size = Size::of(spec, observed);
    size.blocked = joined([losses.notice(observed), size.blocked.take()]);
    let stalled = progress::stalled(spec, observed);
    let desired = shards::desired(spec, observed, &size);
    if spec.paused {
        return Plan { update_pending: progress::update_pending(observed, &desired), ..paused(size, stalled, observed, &losses) };
    }
    let rollout = Rollout::of(spec, observed, &desired);
    let step = step(spec, observed, &size, &losses, &rollout);
    let remove = shards::removals(spec, observed, &size);
    let removing = !remove.is_empty();
    let state =
        State { spec, observed, size: &size, losses: &losses, desired: &desired, rollout: &rollout, step: &step, removing };
    Plan {
        paused: false,
        cluster: step.layout().or(observed.layout.as_ref()).map(|layout| layout.cluster),
        publish: publish::publish(observed, &step),
        update_pending: progress::update_pending(observed, &desired),
        progress: progress::progress(&state),
        resize: shards::resizes(spec, observed),
        volumes: losses.record(spec, observed, step.layout().or(observed.layout.as_ref())),
        verdict: losses.verdict(),
        accepted: losses.accepted_now(observed),
        summary: Summary::of(observed, &losses),
        blocked: size.blocked,
        shards: desired,
        remove,
        stalled,
        step,
    }
}

/// What is done while something keeps the cluster from being planned: the recorded layout is published, and said is how
/// the cluster is.
#[must_use]
pub fn hold(observed: &Observed, stalled: Notice) -> Plan {
    resting(observed, &Losses::default(), Some(stalled))
}

/// The same for a cluster whose spec can be planned, but is not to be acted on.
fn paused(size: Size, stalled: Option<Notice>, observed: &Observed, losses: &Losses) -> Plan {
    Plan { blocked: size.blocked, verdict: losses.verdict(), ..resting(observed, losses, stalled) }
}

/// Nothing but the recorded layout for those who do not act by it.
fn resting(observed: &Observed, losses: &Losses, stalled: Option<Notice>) -> Plan {
    Plan {
        paused: true,
        cluster: observed.layout.as_ref().map(|layout| layout.cluster),
        shards: BTreeMap::new(),
        remove: Vec::new(),
        resize: Vec::new(),
        step: Step::Rest,
        volumes: None,
        publish: publish::publish(observed, &Step::Rest),
        blocked: None,
        verdict: None,
        accepted: Vec::new(),
        update_pending: None,
        stalled,
        progress: None,
        summary: Summary::of(observed, losses),
    }
}

/// Several notices as one, under the first one's reason.
fn joined(notices: [Option<Notice>; 2]) -> Option<Notice> {
    notices
        .into_iter()
        .flatten()
        .reduce(|first, next| Notice { message: format!("{}; {}", first.message, next.message), ..first })
}

impl Step {
    /// The layout that it records.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        match self {
            Self::Record(_, layout) => Some(layout),
            Self::Rest | Self::Evict(_) => None,
        }
    }
}

/// The one step: what has begun comes first, then what is broken, then new nodes, then older Pods, then new moves.
fn step(spec: &ClusterSpec, observed: &Observed, size: &Size, losses: &Losses, rollout: &Rollout<'_>) -> Step {
    let moving = match layout::due(spec, observed, size, losses) {
        Due::Next(change, layout) => return Step::Record(change, layout),
        Due::Moving => true,
        Due::Nothing => false,
    };
    if let Some(eviction) = rollout.broken() {
        return Step::Evict(eviction);
    }
    if moving || layout::is_unexplained(observed) {
        return Step::Rest;
    }
    if let Due::Next(change, layout) = layout::joined(spec, observed, size) {
        return Step::Record(change, layout);
    }
    if let Some(eviction) = rollout.next() {
        return Step::Evict(eviction);
    }
    match layout::started(observed, size, losses) {
        Due::Next(change, layout) if rollout.left() == 0 => Step::Record(change, layout),
        Due::Next(..) | Due::Moving | Due::Nothing => Step::Rest,
    }
}

#[cfg(test)]
mod tests;
