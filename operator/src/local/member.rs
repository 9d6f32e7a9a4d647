//! One node of a cluster: its process, its ports, and what it said last.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use counter_core::id::{ClusterId, NodeName};
use counter_core::layout::Node;
use counter_core::status::{NodeStatus, Readiness};

use super::folder::ClusterFolder;
use super::process::{Launch, Process, STOP_GRACE};
use super::round::Answer;
use super::view::{NodeState, NodeView, PortsView};
use crate::controller::plan::{ObservedNode, Template};
use crate::controller::validate::{ClusterSpec, Storage};

/// How many peers a node is given to ask for the layout at its start. Any one that answers is enough.
const SEEDS_MAX: usize = 16;

/// How many rounds in a row a node may miss before it counts as silent, as with a Pod's readiness probe: a busy machine
/// makes one miss easily, and a plan replaces nodes that are not ready.
const MISSES_MAX: u8 = 3;

/// A node's place in its cluster: (shard, replica).
pub(super) type Place = (u16, u16);

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: NodeName,
    pub(super) place: Place,
    pub(super) process: Process,
    said: Said,
    /// Why it did not take the recorded layout over.
    refusal: Option<String>,
}

/// What the running process said at the last rounds.
#[derive(Debug)]
enum Said {
    Nothing,
    /// Its last answer, and the rounds that it has missed since.
    Status(Box<NodeStatus>, u8),
    /// It had answered before.
    NothingMore,
}

/// What the processes of one cluster have in common.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) program: PathBuf,
    pub(super) folder: ClusterFolder,
    /// Flags from the specification.
    pub(super) flags: Vec<String>,
    /// Whether nodes speak the Redis protocol, each on a port of its own.
    pub(super) resp: bool,
    /// Whether counts are kept in a Redis, under the cluster's id.
    pub(super) is_in_redis: bool,
}

impl Settings {
    /// The settings that a specification asks for.
    pub(super) fn new(program: PathBuf, folder: ClusterFolder, spec: &ClusterSpec) -> Self {
        let mut flags = vec!["--storage", spec.storage.kind(), "--acks", spec.acks.as_str()];
        if let Storage::Volume(volume) = &spec.storage {
            flags.extend(["--fsync", volume.fsync.as_str()]);
        }
        let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        flags.extend(spec.client_flags().into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        if spec.api_token.is_some() {
            flags.extend(["--api-token-file".to_owned(), folder.api_token_path().display().to_string()]);
        }
        let is_in_redis = matches!(spec.storage, Storage::Redis(_));
        if is_in_redis {
            flags.extend(["--redis-url-file".to_owned(), folder.redis_url_path().display().to_string()]);
        }
        Self { program, folder, flags, resp: spec.resp, is_in_redis }
    }

    /// What stands for a Pod template: nodes made from equal ones need no restart.
    pub(super) fn template(&self) -> Template {
        Template(if self.resp { format!("{} --resp", self.flags.join(" ")) } else { self.flags.join(" ") })
    }

    /// What to run as node `name`; `peers` are asked for the layout at its start. `cluster` is needed by nodes that keep
    /// their counts in a Redis, which do not start without.
    pub(super) fn launch(&self, name: &NodeName, ports: PortsView, peers: &[PortsView], cluster: Option<ClusterId>) -> Launch {
        let mut args: Vec<OsString> = vec!["--name".into(), (&name.0).into()];
        args.extend(["--data".into(), self.folder.node(&name.0).into_os_string()]);
        args.extend(["--cluster-token-file".into(), self.folder.token_path().into_os_string()]);
        for (flag, port) in [("--http", ports.http), ("--admin", ports.admin), ("--peer", ports.peer)] {
            args.extend([flag.into(), address(port).into()]);
        }
        args.extend(ports.resp.into_iter().flat_map(|port| ["--resp".into(), address(port).into()]));
        let prefix = cluster.filter(|_| self.is_in_redis).map(|cluster| ["--redis-prefix".into(), cluster.to_string().into()]);
        args.extend(prefix.into_iter().flatten());
        let seeds: Vec<String> =
            peers.iter().filter(|peer| peer.peer != ports.peer).take(SEEDS_MAX).map(|peer| address(peer.peer)).collect();
        if !seeds.is_empty() {
            args.extend(["--seeds".into(), seeds.join(",").into()]);
        }
        args.extend(["--shutdown-grace".into(), STOP_GRACE.as_secs().to_string().into(), "--exit-on-stdin-close".into()]);
        args.extend(self.flags.iter().map(Into::into));
        Launch { program: self.program.clone(), args, template: self.template().hash(), log: self.log(name), ports }
    }

    /// The log of node `name`.
    pub(super) fn log(&self, name: &NodeName) -> PathBuf {
        self.folder.logs().join(format!("{name}.log"))
    }
}

impl Member {
    pub(super) fn new(name: NodeName, place: Place, launch: Launch) -> Self {
        Self { name, place, process: Process::new(launch), said: Said::Nothing, refusal: None }
    }

    /// Looks after the process. A new one has said nothing yet.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let before = self.process.pid();
        let changed = self.process.tend(now);
        if self.process.pid() != before {
            self.said = Said::Nothing;
            self.refusal = None;
        }
        changed
    }

    /// Takes note of an answer of the process that runs now.
    pub(super) fn hear(&mut self, answer: Answer) {
        if self.process.pid() != Some(answer.pid) {
            return;
        }
        self.refusal = answer.refusal.map(|error| format!("the layout was not taken: {error}"));
        let before = std::mem::replace(&mut self.said, Said::Nothing);
        self.said = match (answer.status, before) {
            (Ok(status), _) => Said::Status(Box::new(status), 0),
            (Err(_), Said::Nothing) => Said::Nothing,
            (Err(_), Said::Status(status, misses)) if misses < MISSES_MAX => Said::Status(status, misses.saturating_add(1)),
            (Err(_), Said::Status(..) | Said::NothingMore) => Said::NothingMore,
        };
    }

    /// What it said of itself at the last round.
    pub(super) fn status(&self) -> Option<&NodeStatus> {
        match &self.said {
            Said::Status(status, _) => Some(status),
            Said::Nothing | Said::NothingMore => None,
        }
    }

    pub(super) fn state(&self) -> NodeState {
        if self.process.pid().is_none() {
            return NodeState::Down;
        }
        if self.process.is_stopping() {
            return NodeState::Stopping;
        }
        match &self.said {
            Said::Nothing => NodeState::Starting,
            Said::NothingMore => NodeState::Silent,
            Said::Status(status, _) => match status.readiness {
                Readiness::Ready => NodeState::Ready,
                Readiness::WaitingForLayout | Readiness::NotInLayout => NodeState::Waiting,
                Readiness::MergingSiblings => NodeState::Merging,
                Readiness::Draining => NodeState::Stopping,
            },
        }
    }

    /// What stands for the Pod's UID: a process that comes after this one is another.
    pub(super) fn uid(&self) -> String {
        format!("{}.{}", self.process.pid().unwrap_or_default(), self.process.starts())
    }

    /// As a plan sees it.
    pub(super) fn observed(&self) -> ObservedNode {
        let state = self.state();
        let problem = self.process.note().map(str::to_owned).or_else(|| self.refusal.clone());
        ObservedNode {
            uid: self.uid(),
            ip: None,
            template: Some(self.process.template().to_owned()),
            ready: state == NodeState::Ready,
            terminating: state == NodeState::Stopping,
            problem: problem.filter(|_| state != NodeState::Ready),
            running: self.process.pid().is_some(),
            status: self.status().cloned(),
        }
    }

    pub(super) fn view(&self) -> NodeView {
        NodeView {
            name: self.name.0.clone(),
            shard: self.place.0,
            replica: self.place.1,
            state: self.state(),
            pid: self.process.pid(),
            ports: self.process.ports(),
            restarts: self.process.restarts(),
            note: self.refusal.clone().or_else(|| self.process.note().map(str::to_owned)),
        }
    }

    /// Its entry in a layout.
    pub(super) fn node(&self) -> Node {
        let ports = self.process.ports();
        Node {
            name: self.name.clone(),
            http: address(ports.http),
            admin: address(ports.admin),
            peer: address(ports.peer),
            resp: ports.resp.map(address),
        }
    }
}

/// A loopback port as `host:port`.
pub(super) fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// The ports by which a layout names a node; none when they are no loopback ports of ours.
pub(super) fn ports_of(node: &Node) -> Option<PortsView> {
    let port = |address: &str| address.strip_prefix("127.0.0.1:")?.parse().ok();
    let resp = node.resp.as_deref().and_then(port);
    Some(PortsView { http: port(&node.http)?, admin: port(&node.admin)?, peer: port(&node.peer)?, resp })
}
