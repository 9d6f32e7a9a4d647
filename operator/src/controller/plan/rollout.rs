//! The replacement of Pods that are made from an older template, one of the cluster at a time.

use std::collections::BTreeMap;

use counter_core::id::{NodeName, ShardId};

use crate::controller::validate::ClusterSpec;

use super::{DesiredShard, Eviction, Notice, Observed, ObservedNode};

/// How far the Pods are from what they should be.
#[derive(Debug, Default)]
pub(super) struct Rollout<'a> {
    /// Those that exist but are made from another template, by name and in the order in which they are replaced.
    outdated: Vec<(NodeName, &'a ObservedNode)>,
    /// Nodes that should be there and do not serve, for whatever reason.
    pub(super) absent: Vec<NodeName>,
    stopping: bool,
}

impl<'a> Rollout<'a> {
    pub(super) fn of(spec: &ClusterSpec, observed: &'a Observed, desired: &BTreeMap<ShardId, DesiredShard>) -> Self {
        let mut rollout = Self::default();
        for (shard, wanted) in desired {
            for replica in (0..wanted.replicas).rev() {
                rollout.add(NodeName::of(&spec.identity.name, *shard, replica), *shard, wanted, observed);
            }
        }
        rollout
    }

    fn add(&mut self, name: NodeName, shard: ShardId, wanted: &DesiredShard, observed: &'a Observed) {
        if !observed.serves(&name) {
            self.absent.push(name.clone());
        }
        let Some(node) = observed.nodes.get(&name) else { return };
        self.stopping |= node.terminating;
        if node.template.as_ref() != Some(&wanted.pin.template.hash()) && is_pinned(shard, wanted, observed) {
            self.outdated.push((name, node));
        }
    }

    /// How many Pods are still to be replaced.
    pub(super) fn left(&self) -> usize {
        self.outdated.len()
    }

    /// A Pod that serves nothing and would not either if it were waited for: its successor is made otherwise.
    pub(super) fn broken(&self) -> Option<Eviction> {
        if self.stopping {
            return None;
        }
        let (name, node) = self.outdated.iter().find(|(_, node)| !node.ready)?;
        let problem = node.problem.as_deref().unwrap_or("it is not ready");
        Some(evict(name, node, Notice::new("Broken", format!("replaced by one of the newer template: {problem}"))))
    }

    /// The next Pod to replace, when every other serves.
    pub(super) fn next(&self) -> Option<Eviction> {
        let (name, node) = self.outdated.first().filter(|_| self.absent.is_empty() && !self.stopping)?;
        Some(evict(name, node, Notice::new("Outdated", "replaced by one of the newer template")))
    }
}

fn evict(name: &NodeName, node: &ObservedNode, why: Notice) -> Eviction {
    Eviction { node: name.clone(), uid: node.uid.clone(), why }
}

/// Whether a new Pod of the shard would be made from the wanted template already.
fn is_pinned(shard: ShardId, wanted: &DesiredShard, observed: &Observed) -> bool {
    observed
        .shards
        .get(&shard)
        .is_some_and(|own| own.settled && own.pin.as_ref().is_some_and(|pin| pin.template == wanted.pin.template))
}
