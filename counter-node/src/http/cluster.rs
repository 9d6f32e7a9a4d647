//! `/cluster`: how the nodes are, for the dashboard. No addresses, identities or pages: everyone may read it.

use counter_core::layout::{Move, Shard};
use counter_core::status::Readiness;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Backend, Reply, Shared, reply};
use crate::overview::{ClusterOverview, NodeOverview, phase, slots};

/// The cluster as one node sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClusterAnswer {
    /// The node that answers.
    #[schema(example = "page-views-0-0")]
    node: String,
    /// The version of the layout that it acts by; null before it has one.
    #[schema(example = 7)]
    layout_version: Option<u64>,
    shards: Vec<ShardAnswer>,
    /// Slots on their way from one shard to another.
    moves: Vec<MoveAnswer>,
}

/// A replica group.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ShardAnswer {
    shard: u16,
    /// How many of the 16,384 slots it owns.
    #[schema(example = 8192)]
    slots: u64,
    nodes: Vec<NodeAnswer>,
}

/// A node; of one that is silent only the name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeAnswer {
    #[schema(example = "page-views-0-0")]
    name: String,
    state: NodeState,
    #[serde(flatten)]
    said: Option<NodeSaid>,
}

/// What a node says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeSaid {
    /// False while its storage cannot write; it then serves reads and passes updates on.
    writable: bool,
    /// Counters that it holds.
    counters: u64,
    /// Own changes that some replica of its shard has not acknowledged yet.
    unsent_changes: u64,
    /// For how long it has not heard the replica that has been silent longest, in milliseconds.
    silent_ms: u64,
    layout_version: u64,
}

/// Whether a node takes clients, and if not, why.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum NodeState {
    Ready,
    /// It waits for a layout, or merges what its siblings hold.
    Starting,
    Draining,
    /// It does not take itself to be of this cluster (any more).
    Outside,
    /// It did not answer.
    Silent,
}

/// Slots on their way from one shard to another.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MoveAnswer {
    from: u16,
    to: u16,
    /// `copying`: `from` still owns them. `flipped`: `to` does, and `from` has not been emptied yet.
    #[schema(value_type = String, example = "copying")]
    phase: &'static str,
    slots: u64,
    /// How many of them the receiver lacks that lacks most; null when none of the receivers answers.
    slots_left: Option<u64>,
}

/// Read how the nodes, shards and moves are.
#[utoipa::path(
    get, path = "/cluster", tag = "cluster", operation_id = "getCluster",
    responses((status = 200, description = "The cluster as this node sees it, at most some seconds old", body = ClusterAnswer)),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>) -> Result<Reply, Problem> {
    let overview = shared.backend.overview().await;
    let mut answer = reply(StatusCode::OK, "application/json", super::reply::to_json(&ClusterAnswer::from(&*overview))?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

impl From<&ClusterOverview> for ClusterAnswer {
    fn from(overview: &ClusterOverview) -> Self {
        let layout = overview.layout.as_deref();
        let shards = layout.map(|layout| layout.shards.as_slice()).unwrap_or_default();
        let moves = layout.map(|layout| layout.moves.as_slice()).unwrap_or_default();
        Self {
            node: overview.node.0.clone(),
            layout_version: layout.map(|layout| layout.version.0),
            shards: shards.iter().map(|shard| ShardAnswer::of(shard, overview)).collect(),
            moves: moves.iter().map(|slot_move| MoveAnswer::of(slot_move, overview)).collect(),
        }
    }
}

impl ShardAnswer {
    fn of(shard: &Shard, overview: &ClusterOverview) -> Self {
        let node = |node: &counter_core::layout::Node| {
            let said = overview.of(&node.name);
            let state = said.map_or(NodeState::Silent, |said| NodeState::from(said.readiness));
            NodeAnswer { name: node.name.0.clone(), state, said: said.map(NodeSaid::from) }
        };
        Self { shard: shard.shard.0, slots: slots(&shard.slots), nodes: shard.nodes.iter().map(node).collect() }
    }
}

impl MoveAnswer {
    fn of(slot_move: &Move, overview: &ClusterOverview) -> Self {
        let Move { from, to, slots: ranges, phase: at } = slot_move;
        Self { from: from.0, to: to.0, phase: phase(*at), slots: slots(ranges), slots_left: overview.slots_left(*from, *to) }
    }
}

impl From<&NodeOverview> for NodeSaid {
    fn from(said: &NodeOverview) -> Self {
        let NodeOverview { writable, counters, unsent_changes, silent_ms, layout_version, .. } = *said;
        Self { writable, counters, unsent_changes, silent_ms, layout_version }
    }
}

impl From<Readiness> for NodeState {
    fn from(readiness: Readiness) -> Self {
        match readiness {
            Readiness::Ready => Self::Ready,
            Readiness::WaitingForLayout | Readiness::MergingSiblings => Self::Starting,
            Readiness::Draining => Self::Draining,
            Readiness::NotInLayout => Self::Outside,
        }
    }
}
