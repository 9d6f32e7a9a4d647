//! What there is to show of the clusters at one moment. The table, the change lines and `endpoints.json` are made from it.

use counter_core::layout::LayoutVersion;

use crate::controller::plan::MoveSummary;

/// Everything that runs, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) clusters: Vec<ClusterView>,
    /// Why the file as it stands now is not what runs; one line per reason.
    pub(super) file_errors: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterView {
    pub(super) namespace: String,
    pub(super) name: String,
    /// As the specification has them.
    pub(super) shards: u16,
    pub(super) replicas: u16,
    /// None until the first layout is recorded.
    pub(super) layout: Option<LayoutVersion>,
    /// Whether all slots have a ready node.
    pub(super) available: bool,
    pub(super) moving: Option<MoveSummary>,
    /// Conditions that a person should read, as `Type: message`.
    pub(super) notices: Vec<String>,
    /// What is under way or waited for.
    pub(super) progress: Option<String>,
    pub(super) nodes: Vec<NodeView>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeView {
    pub(super) name: String,
    pub(super) shard: u16,
    pub(super) replica: u16,
    pub(super) state: NodeState,
    /// None while no process runs.
    pub(super) pid: Option<u32>,
    pub(super) ports: PortsView,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// Why it is not running, or why it was started again last.
    pub(super) note: Option<String>,
}

/// The node's ports on the loopback address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PortsView {
    pub(super) http: u16,
    pub(super) admin: u16,
    pub(super) peer: u16,
    /// Where it speaks the Redis protocol, if it does.
    pub(super) resp: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    /// Its process runs, and its admin port does not answer yet.
    Starting,
    /// It waits for a layout, or does not stand in it yet.
    Waiting,
    /// It merges what its siblings hold.
    Merging,
    Ready,
    /// Its process runs, but has stopped answering.
    Silent,
    /// It is stopping because its settings changed or the cluster left the file.
    Stopping,
    /// No process: it ended, or could not be started.
    Down,
}

impl NodeState {
    /// The word in the table.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Merging => "merging",
            Self::Ready => "ready",
            Self::Silent => "silent",
            Self::Stopping => "stopping",
            Self::Down => "down",
        }
    }
}

impl ClusterView {
    /// `NAMESPACE/NAME`.
    pub(super) fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl PortsView {
    /// The public API's URL.
    pub(super) fn url(self) -> String {
        local_url(self.http)
    }
}

/// The URL of a loopback port.
pub(super) fn local_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

#[cfg(test)]
pub(super) fn example() -> View {
    let node = |replica: u16| NodeView {
        name: format!("page-views-0-{replica}"),
        shard: 0,
        replica,
        state: NodeState::Ready,
        pid: Some(4711 + u32::from(replica)),
        ports: PortsView { http: 18080 + 3 * replica, admin: 18081 + 3 * replica, peer: 18082 + 3 * replica, resp: None },
        restarts: 0,
        note: None,
    };
    View {
        clusters: vec![ClusterView {
            namespace: "default".to_owned(),
            name: "page-views".to_owned(),
            shards: 1,
            replicas: 2,
            layout: Some(LayoutVersion(1)),
            available: true,
            moving: None,
            notices: Vec::new(),
            progress: None,
            nodes: vec![node(0), node(1)],
        }],
        file_errors: Vec::new(),
    }
}
