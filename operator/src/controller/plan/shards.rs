//! The StatefulSets and claims as they should be.

use std::collections::BTreeMap;

use counter_core::id::ShardId;

use crate::controller::validate::{Bytes, ClusterSpec, Storage};

use super::size::Size;
use super::{DesiredShard, Observed, ObservedShard, Pin, Removal, Resize};

/// Every shard that is wanted or kept, and those that are still to be told what becomes of their claims.
pub(super) fn desired(spec: &ClusterSpec, observed: &Observed, size: &Size) -> BTreeMap<ShardId, DesiredShard> {
    let wanted = size.targets.iter().map(|shard| (*shard, wanted_shard(spec, observed, size, *shard)));
    let leaving = leaving(observed, size).map(|(shard, own)| (shard, leaving_shard(spec, observed, own)));
    wanted.chain(leaving).collect()
}

/// Shards that can be deleted: in no recorded layout, never the owner of a slot, and set to do with their claims what
/// the spec says for shards that it no longer asks for.
pub(super) fn removals(spec: &ClusterSpec, observed: &Observed, size: &Size) -> Vec<Removal> {
    let when_scaled = spec.storage.retention().when_scaled;
    let is_ready = |shard: ShardId, own: &ObservedShard| {
        let named = observed.layout.as_ref().is_some_and(|layout| layout.shard(shard).is_some());
        let told = !matches!(spec.storage, Storage::Volume(_)) || own.when_deleted == when_scaled;
        !named && told && own.settled
    };
    leaving(observed, size)
        .filter(|(shard, own)| is_ready(*shard, own))
        .map(|(shard, own)| Removal { shard, uid: own.uid.clone() })
        .collect()
}

/// Claims that are smaller than the spec says.
pub(super) fn resizes(spec: &ClusterSpec, observed: &Observed) -> Vec<Resize> {
    let Storage::Volume(volume) = &spec.storage else { return Vec::new() };
    let smaller = observed.claims.iter().filter(|(_, size)| **size < volume.size);
    smaller.map(|(node, _)| Resize { node: node.clone(), size: volume.size.clone() }).collect()
}

fn leaving<'a>(observed: &'a Observed, size: &Size) -> impl Iterator<Item = (ShardId, &'a ObservedShard)> {
    observed.shards.iter().filter(|(shard, _)| !size.targets.contains(shard)).map(|(shard, own)| (*shard, own))
}

fn wanted_shard(spec: &ClusterSpec, observed: &Observed, size: &Size, shard: ShardId) -> DesiredShard {
    let own = observed.shards.get(&shard);
    DesiredShard {
        replicas: size.replicas(observed.layout.as_ref(), shard),
        pin: pin(spec, observed, own),
        claim_size: claim_size(spec, own),
        when_deleted: spec.storage.retention().when_deleted,
    }
}

fn leaving_shard(spec: &ClusterSpec, observed: &Observed, own: &ObservedShard) -> DesiredShard {
    DesiredShard {
        replicas: own.replicas,
        pin: own.pin.clone().unwrap_or_else(|| fresh(spec, observed)),
        claim_size: claim_size(spec, Some(own)),
        when_deleted: spec.storage.retention().when_scaled,
    }
}

/// What Pods are made from: what is pinned, for as long as the user has asked for nothing new. A shard that was deleted
/// by hand comes back as its siblings are.
fn pin(spec: &ClusterSpec, observed: &Observed, own: Option<&ObservedShard>) -> Pin {
    let trigger = spec.identity.trigger();
    let pins = || own.into_iter().chain(observed.shards.values()).filter_map(|shard| shard.pin.as_ref());
    let pinned = pins().find(|pin| pin.trigger == trigger);
    pinned.cloned().unwrap_or_else(|| fresh(spec, observed))
}

fn fresh(spec: &ClusterSpec, observed: &Observed) -> Pin {
    Pin { trigger: spec.identity.trigger(), template: observed.template.clone() }
}

fn claim_size(spec: &ClusterSpec, own: Option<&ObservedShard>) -> Option<Bytes> {
    let Storage::Volume(volume) = &spec.storage else { return None };
    Some(own.and_then(|own| own.claim_size.clone()).unwrap_or_else(|| volume.size.clone()))
}
