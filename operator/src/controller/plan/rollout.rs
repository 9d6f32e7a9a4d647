//! The replacement of Pods that are made from an older template, one of the cluster at a time.

use std::collections::BTreeMap;

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::Shard;

use crate::controller::validate::{ClusterSpec, Storage};

use super::{DesiredShard, Eviction, Notice, Observed, ObservedNode};

/// How far the Pods are from what they should be.
#[derive(Debug, Default)]
pub(super) struct Rollout<'a> {
    /// Those that exist but are made from another template, by name and in the order in which they are replaced.
    outdated: Vec<Outdated<'a>>,
    /// Nodes that should be there and do not serve, for whatever reason.
    pub(super) absent: Vec<NodeName>,
    stopping: bool,
}

#[derive(Debug)]
struct Outdated<'a> {
    name: NodeName,
    node: &'a ObservedNode,
    /// Whether its memory may be all that is left of its shard's counts.
    is_last_copy: bool,
}

impl<'a> Rollout<'a> {
    pub(super) fn of(spec: &ClusterSpec, observed: &'a Observed, desired: &BTreeMap<ShardId, DesiredShard>) -> Self {
        let mut rollout = Self::default();
        for (shard, wanted) in desired {
            for replica in (0..wanted.replicas).rev() {
                let name = NodeName::of(&spec.identity.name, *shard, replica);
                if !observed.serves(&name) {
                    rollout.absent.push(name.clone());
                }
                let Some(node) = observed.nodes.get(&name) else { continue };
                rollout.stopping |= node.terminating;
                if node.template.as_ref() != Some(&wanted.pin.template.hash()) && is_pinned(*shard, wanted, observed) {
                    let is_last_copy = is_last_copy(spec, observed, &name, node);
                    rollout.outdated.push(Outdated { name, node, is_last_copy });
                }
            }
        }
        rollout
    }

    /// How many Pods are still to be replaced.
    pub(super) fn left(&self) -> usize {
        self.outdated.len()
    }

    /// A Pod that serves nothing and would not either if it were waited for: its successor is made otherwise. One whose
    /// process answers may be unready for a moment only, so it is left alone while a replaced one is still to come up.
    pub(super) fn broken(&self) -> Option<Eviction> {
        if self.stopping {
            return None;
        }
        let is_outdated = |name: &NodeName| self.outdated.iter().any(|own| own.name == *name);
        let awaits_new = !self.absent.iter().all(is_outdated);
        let may_recover = |own: &Outdated<'_>| awaits_new && own.node.status.is_some();
        let is_broken = |own: &&Outdated<'_>| !own.node.ready && !own.is_last_copy && !may_recover(own);
        let broken = self.outdated.iter().find(is_broken)?;
        let problem = broken.node.problem.as_deref().unwrap_or("it is not ready");
        Some(evict(broken, Notice::new("Broken", format!("replaced by one of the newer template: {problem}"))))
    }

    /// The next Pod to replace, when every other serves.
    pub(super) fn next(&self) -> Option<Eviction> {
        let next = self.outdated.first().filter(|_| self.absent.is_empty() && !self.stopping)?;
        Some(evict(next, Notice::new("Outdated", "replaced by one of the newer template")))
    }
}

fn evict(outdated: &Outdated<'_>, why: Notice) -> Eviction {
    Eviction { node: outdated.name.clone(), uid: outdated.node.uid.clone(), why }
}

/// Whether the node runs, keeps its counts in memory only, and has no sibling that serves them as well.
fn is_last_copy(spec: &ClusterSpec, observed: &Observed, name: &NodeName, node: &ObservedNode) -> bool {
    let shard = observed.layout.as_ref().and_then(|layout| layout.shard_of(name));
    let alone = |shard: &Shard| shard.nodes.iter().all(|own| own.name == *name || !observed.serves(&own.name));
    spec.storage == Storage::Memory && node.status.is_some() && shard.is_some_and(alone)
}

/// Whether a new Pod of the shard would be made from the wanted template already.
fn is_pinned(shard: ShardId, wanted: &DesiredShard, observed: &Observed) -> bool {
    observed
        .shards
        .get(&shard)
        .is_some_and(|own| own.settled && own.pin.as_ref().is_some_and(|pin| pin.template == wanted.pin.template))
}
