//! Which replica a counter is forwarded to: sticky per counter, spread over the replicas.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::counter::Key;
use crate::id::NodeName;
use crate::layout::{Layout, LayoutVersion, Owners};

/// A place in the forwarder's list of targets.
pub(super) type TargetIndex = usize;

/// A layout, as far as forwarding needs it.
#[derive(Debug)]
pub(super) struct Routes {
    pub(super) version: LayoutVersion,
    owners: Owners,
    /// By shard: the replicas, and what their names are hashed to.
    shards: Vec<Vec<(TargetIndex, u64)>>,
}

impl Routes {
    /// The routes of a valid layout; `target_of` gives each node its place.
    pub(super) fn of(layout: &Layout, mut target_of: impl FnMut(&NodeName) -> TargetIndex) -> Self {
        let mut replica = |name: &NodeName| (target_of(name), xxh3_64(name.0.as_bytes()));
        let shards = layout.shards.iter().map(|shard| shard.nodes.iter().map(|node| replica(&node.name)).collect()).collect();
        Self { version: layout.version, owners: Owners::of(layout), shards }
    }

    /// The owner's replicas, each with its rank for this counter, by rendezvous hashing; the highest is to be asked first. While the
    /// layout stays, a counter's updates meet at one replica, where they cost one entry, and the loss of a replica moves only
    /// its own counters.
    pub(super) fn replicas(&self, key: &Key) -> impl Iterator<Item = (TargetIndex, u64)> {
        let replicas = self.shards[self.owners.index(key.slot())].iter();
        replicas.map(|(target, seed)| (*target, xxh3_64_with_seed(key.as_bytes(), *seed)))
    }
}
