//! The names of a cluster's objects, all made from the name of its `DistributedCounter`.

use counter_core::id::{NodeName, ShardId};

use crate::controller::validate::Identity;

/// The names of one cluster's objects.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a>(pub &'a str);

impl<'a> From<&'a Identity> for Names<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self(&identity.name)
    }
}

impl Names<'_> {
    /// The Service for clients; the ServiceAccount and the NetworkPolicy are named the same.
    #[must_use]
    pub fn clients(self) -> String {
        self.0.to_owned()
    }

    /// The Service under which nodes have their DNS names.
    #[must_use]
    pub fn nodes(self) -> String {
        format!("{}-nodes", self.0)
    }

    /// A shard's StatefulSet and its PodDisruptionBudget.
    #[must_use]
    pub fn shard(self, shard: ShardId) -> String {
        format!("{}-{shard}", self.0)
    }

    /// The Secret with the cluster's token.
    #[must_use]
    pub fn token(self) -> String {
        format!("{}-token", self.0)
    }

    /// The ConfigMap with the recorded layout.
    #[must_use]
    pub fn layout(self) -> String {
        format!("{}-layout", self.0)
    }

    /// The claim of a node's volume.
    #[must_use]
    pub fn claim(self, node: &NodeName) -> String {
        format!("{CLAIM_TEMPLATE}-{node}")
    }

    /// The number of the shard whose StatefulSet has this name.
    #[must_use]
    pub fn shard_of(self, stateful_set: &str) -> Option<ShardId> {
        let number = stateful_set.strip_prefix(self.0)?.strip_prefix('-')?;
        // Only the form that `shard` writes: `x-01` is not ours.
        number.parse().ok().map(ShardId).filter(|shard| self.shard(*shard) == stateful_set)
    }
}

/// The name of the claim template, and the prefix of claims.
pub(super) const CLAIM_TEMPLATE: &str = "data";
