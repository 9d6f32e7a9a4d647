//! How the cluster is, for people: every node's word on itself, gathered by whichever node is asked. It names nodes and
//! says nothing of addresses, identities or pages, since whoever reaches the public port may see it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::{Layout, MovePhase, Node};
use counter_core::slot::SlotRange;
use counter_core::status::Readiness;
use counter_core::table::Table;
use futures::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};

use crate::commit::Committer;
use crate::lock::lock;
use crate::peers::{OVERVIEW_PATH, Peers, Question};

/// For how long an overview serves further readers, at the least.
const FRESH: Duration = Duration::from_secs(1);
/// And per node of the cluster: however many nodes are asked for overviews, each is asked by the others 100 times a second at
/// most.
const FRESH_PER_NODE: Duration = Duration::from_millis(10);
/// How long a node may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// Nodes that are asked at once.
const ASKED_AT_ONCE: usize = 64;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeOverview {
    pub readiness: Readiness,
    /// False while its storage cannot write.
    pub writable: bool,
    /// Counters held in memory.
    pub counters: u64,
    /// Own changes that some replica of its shard has not acknowledged.
    pub unsent_changes: u64,
    /// For how long the replica has been silent that it has not heard for longest, in milliseconds.
    pub silent_ms: u64,
    /// The layout that it acts by; 0 before the first.
    pub layout_version: u64,
    pub moves: Vec<MoveOverview>,
}

/// How far a node is that receives slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveOverview {
    pub from: ShardId,
    pub to: ShardId,
    pub slots_left: u64,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOverview {
    /// Who has gathered it.
    pub node: NodeName,
    /// By which layout; none before the first.
    pub layout: Option<Arc<Layout>>,
    /// What each node of the layout has said, in its order; none of one that did not answer.
    pub nodes: Vec<(NodeName, Option<NodeOverview>)>,
}

impl ClusterOverview {
    /// What this node of the layout has said.
    #[must_use]
    pub fn of(&self, name: &NodeName) -> Option<&NodeOverview> {
        self.nodes.iter().find(|(node, _)| node == name).and_then(|(_, said)| said.as_ref())
    }

    /// How many slots of a move its receivers still lack, by the one that lacks most; none when none of them says.
    #[must_use]
    pub fn slots_left(&self, from: ShardId, to: ShardId) -> Option<u64> {
        let said = self.nodes.iter().filter_map(|(_, said)| said.as_ref()).flat_map(|said| &said.moves);
        said.filter(|left| (left.from, left.to) == (from, to)).map(|left| left.slots_left).max()
    }
}

/// The number of slots in these ranges.
#[must_use]
pub fn slots(ranges: &[SlotRange]) -> u64 {
    ranges.iter().map(|range| range.iter().count() as u64).sum()
}

/// The name of a move's phase.
#[must_use]
pub fn phase(phase: MovePhase) -> &'static str {
    match phase {
        MovePhase::Copying => "copying",
        MovePhase::Flipped => "flipped",
    }
}

/// Gathers overviews.
pub struct Overviews {
    pub table: Arc<Table>,
    pub committer: Arc<Committer>,
    pub peers: Peers,
    pub gathered: Gathered,
}

/// The last overview. Who comes while one is gathered waits for it.
#[derive(Debug, Default)]
pub struct Gathered {
    turn: tokio::sync::Mutex<()>,
    last: Mutex<Option<(Instant, Arc<ClusterOverview>)>>,
}

impl Overviews {
    /// What this node says of itself.
    #[must_use]
    pub fn here(&self) -> NodeOverview {
        let view = self.peers.protocol.view();
        let (_, replica) = self.peers.protocol.status();
        let left = |status: &counter_core::status::MoveStatus| MoveOverview {
            from: status.from,
            to: status.to,
            slots_left: status.slots_left,
        };
        NodeOverview {
            readiness: view.readiness,
            writable: *self.committer.writable().borrow(),
            counters: self.table.counters(),
            unsent_changes: replica.unsent_entries,
            silent_ms: self.peers.protocol.freshness().silent_ms,
            layout_version: view.routes.as_ref().map_or(0, |routes| routes.layout.version.0),
            moves: replica.moves.iter().map(left).collect(),
        }
    }

    /// The cluster, as it was a moment ago.
    pub async fn cluster(&self) -> Arc<ClusterOverview> {
        if let Some(fresh) = self.gathered.fresh() {
            return fresh;
        }
        let _turn = self.gathered.turn.lock().await;
        if let Some(fresh) = self.gathered.fresh() {
            return fresh;
        }
        let overview = Arc::new(self.gather().await);
        *lock(&self.gathered.last) = Some((Instant::now(), overview.clone()));
        overview
    }

    async fn gather(&self) -> ClusterOverview {
        let layout = self.peers.protocol.view().routes.as_ref().map(|routes| routes.layout.clone());
        let nodes: Vec<Node> = layout.as_ref().map(|layout| layout.nodes().cloned().collect()).unwrap_or_default();
        let nodes = stream::iter(nodes).map(|node| self.named(node)).buffered(ASKED_AT_ONCE).collect().await;
        ClusterOverview { node: self.peers.protocol.me().clone(), layout, nodes }
    }

    async fn named(&self, node: Node) -> (NodeName, Option<NodeOverview>) {
        let said = self.ask(&node).await;
        (node.name, said)
    }

    async fn ask(&self, node: &Node) -> Option<NodeOverview> {
        if node.name == *self.peers.protocol.me() {
            return Some(self.here());
        }
        self.peers.ask(node, &Question { path: OVERVIEW_PATH, body: (), time: ASK_TIMEOUT }).await
    }
}

impl Gathered {
    fn fresh(&self) -> Option<Arc<ClusterOverview>> {
        let last = lock(&self.last);
        let (since, overview) = last.as_ref()?;
        let per_node = FRESH_PER_NODE.saturating_mul(u32::try_from(overview.nodes.len()).unwrap_or(u32::MAX));
        (since.elapsed() < FRESH.max(per_node)).then(|| overview.clone())
    }
}
