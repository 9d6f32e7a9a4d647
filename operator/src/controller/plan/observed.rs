//! What is, as far as a plan needs it: no types of Kubernetes, so that local processes fit as well as Pods do.

use std::collections::BTreeMap;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{Layout, LayoutVersion, Node};
use counter_core::status::NodeStatus;
use xxhash_rust::xxh3::xxh3_64;

use crate::controller::build::Names;
use crate::controller::validate::{Bytes, Trigger};
use crate::crd::Retain;

use super::Volumes;

/// What is. Gathered anew for each pass.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The recorded layout; the one authority on who owns what.
    pub layout: Option<Layout>,
    /// The identity of the cluster if this pass has to mint its first layout: random.
    pub fresh_cluster: ClusterId,
    /// Where nodes are reached, those that do not exist yet included.
    pub addresses: Addresses,
    /// What Pods would be made from if nothing were pinned.
    pub template: Template,
    /// The shards' StatefulSets, those only that are ours.
    pub shards: BTreeMap<ShardId, ObservedShard>,
    /// The Pods of those shards.
    pub nodes: BTreeMap<NodeName, ObservedNode>,
    /// The sizes that the nodes' claims ask for.
    pub claims: BTreeMap<NodeName, Bytes>,
    /// What is recorded of the cluster's storage; None before the first layout.
    pub volumes: Option<Volumes>,
    /// Nodes that had a volume and have no claim of one any more, and in which way.
    pub absent_claims: BTreeMap<NodeName, String>,
}

/// A StatefulSet, or what stands for it among local processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedShard {
    pub uid: String,
    pub replicas: u16,
    /// What its Pods are made from and why. None when unreadable. Local processes give the fresh template.
    pub pin: Option<Pin>,
    /// Whether its controller has seen its newest state, so that a new Pod is made from the pinned template.
    pub settled: bool,
    /// The size in its claim template, which cannot change.
    pub claim_size: Option<Bytes>,
    /// What becomes of its claims when it is deleted.
    pub when_deleted: Retain,
}

/// What a StatefulSet's Pods are made from, and which state of the user's object asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub trigger: Trigger,
    pub template: Template,
}

/// What Pods are made from, as text, the same for all shards of a cluster. Equal texts make equal Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub String);

impl Template {
    /// A short name of this text, which Pods carry.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:016x}", xxh3_64(self.0.as_bytes()))
    }
}

/// A Pod, or a local process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedNode {
    /// The Pod's UID: a Pod of the same name that comes after it is another one.
    pub uid: String,
    /// The Pod's address; of use for publishing only.
    pub ip: Option<String>,
    /// [`Template::hash`] of what it was made from.
    pub template: Option<String>,
    pub ready: bool,
    pub terminating: bool,
    /// Why it is not ready, in the words of Kubernetes or of the supervisor.
    pub problem: Option<String>,
    /// Whether a process of it runs, as far as is known without its answer.
    pub running: bool,
    /// What the node says of itself. None when it did not answer.
    pub status: Option<NodeStatus>,
}

/// Where nodes are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// By DNS names under the Service of the cluster's nodes. `resp`: they speak the Redis protocol, or soon do: until
    /// then they refuse connections to its port.
    Dns { cluster: String, namespace: String, resp: bool },
    /// By what is written here. A node that is not in it joins no layout yet.
    Table(BTreeMap<NodeName, Node>),
}

impl Addresses {
    /// The layout's entry for a node.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<Node> {
        match self {
            Self::Table(table) => table.get(name).cloned(),
            Self::Dns { cluster, namespace, resp } => {
                let address = |port: u16| format!("{name}.{cluster}-nodes.{namespace}.svc:{port}");
                let resp = resp.then(|| address(6379));
                Some(Node { name: name.clone(), http: address(8080), admin: address(8081), peer: address(8082), resp })
            }
        }
    }
}

impl Addresses {
    /// Where a node's volume is, in words.
    pub(super) fn volume(&self, node: &NodeName) -> String {
        match self {
            Self::Table(_) => "its data folder".to_owned(),
            Self::Dns { cluster, .. } => format!("claim {}", Names(cluster).claim(node)),
        }
    }
}

impl ObservedNode {
    /// Whether it serves and is going to stay.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.ready && !self.terminating
    }

    /// Whether it answers and belongs to `cluster` or to none yet.
    #[must_use]
    pub fn answers_for(&self, cluster: ClusterId) -> bool {
        self.status.as_ref().is_some_and(|status| status.cluster.is_none_or(|own| own == cluster))
    }

    /// The layout by which it acts, as (version, hash), when it is one of `cluster`.
    #[must_use]
    pub fn acts_by(&self, cluster: ClusterId) -> Option<(LayoutVersion, u64)> {
        let status = self.status.as_ref().filter(|status| status.cluster == Some(cluster))?;
        status.layout.map(|layout| (layout.version, layout.hash))
    }
}

impl Observed {
    /// Whether a node of this name serves and is going to stay.
    pub(super) fn serves(&self, name: &NodeName) -> bool {
        self.nodes.get(name).is_some_and(ObservedNode::serves)
    }

    /// Whether a node of this name answers and belongs to `cluster` or to none yet.
    pub(super) fn answers_for(&self, name: &NodeName, cluster: ClusterId) -> bool {
        self.nodes.get(name).is_some_and(|node| node.answers_for(cluster))
    }
}
