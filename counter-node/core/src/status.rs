//! What a node says of itself at `GET /status` of its admin port. JSON, camelCase. The operator plans from it.

use serde::{Deserialize, Serialize};

use crate::id::{ActorId, ClusterId, NodeName, ShardId};
use crate::layout::{LayoutVersion, MovePhase, VirtualShards};
use crate::slot::SlotRange;

/// The newest format of the status document.
pub const STATUS_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// [`STATUS_FORMAT`].
    pub format: u32,
    pub node: NodeName,
    /// None until a layout has named one.
    pub cluster: Option<ClusterId>,
    pub actor: ActorId,
    pub readiness: Readiness,
    /// The layout that this node acts by.
    pub layout: Option<LayoutStatus>,
    /// The patterns of the newest layout that this node knows: what any node may have counted by is to be read for ever,
    /// also when the record of it is lost. Empty where a node of an older release says nothing of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_shards: Vec<VirtualShards>,
    pub storage: StorageStatus,
    /// Per range of slots that are owned here or received.
    pub slots: Vec<SlotRangeStatus>,
    pub peers: Vec<PeerStatus>,
    /// Own changes that some sibling has not acknowledged.
    pub unsent_entries: u64,
    /// The moves in which this node receives.
    pub moves: Vec<MoveStatus>,
}

/// Whether the node should be given clients, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    Ready,
    /// No layout has come yet.
    WaitingForLayout,
    /// The layout does not name this node.
    NotInLayout,
    /// It is still merging what its siblings hold.
    MergingSiblings,
    /// It is stopping.
    Draining,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutStatus {
    pub version: LayoutVersion,
    /// [`crate::layout::Layout::hash`].
    pub hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// `volume` or `memory`.
    pub kind: String,
    /// `Always`, `EverySecond` or `Never`.
    pub fsync: String,
    /// False while the storage cannot write.
    pub writable: bool,
    /// Counters held in memory.
    pub counters: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotRangeStatus {
    pub range: SlotRange,
    pub owned: bool,
    pub counters: u64,
    /// Σ of the counts in the range.
    pub tally: i128,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub node: NodeName,
    /// Own changes that it has not acknowledged.
    pub unacknowledged: u64,
    /// Milliseconds since it was last heard of; none when never since this start.
    pub heard_ms: Option<u64>,
    /// The layout version that it said last.
    pub layout_version: Option<LayoutVersion>,
}

/// How far a receiving node is with one move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveStatus {
    pub from: ShardId,
    pub to: ShardId,
    pub phase: MovePhase,
    /// The layout version for which the figures hold.
    pub layout_version: LayoutVersion,
    /// Slots of which this node does not yet durably hold what every old replica reported (Copying), or what every old
    /// replica had last (Flipped).
    pub slots_left: u64,
    /// The same per old replica. Empty where a node of an older release says nothing of it.
    #[serde(default)]
    pub sources: Vec<SourceStatus>,
}

/// How far a receiving node is with one old replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    pub node: NodeName,
    /// By whose word the figure holds; of its parts, `origin` names the volume. None where the old replica has not been heard, or
    /// a node of an older release does not say.
    #[serde(default)]
    pub actor: Option<ActorId>,
    pub slots_left: u64,
}
