//! What all objects have in common: labels, and the owner.

use std::collections::BTreeMap;

use counter_core::id::ShardId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::Resource as _;
use kube::api::ObjectMeta;

use crate::controller::validate::{ClusterSpec, Identity};
use crate::crd::DistributedCounter;

/// The field manager of everything that the operator applies, and the value of the managed-by label.
pub const MANAGER: &str = "distributed-counter-operator";
/// The value of the name label.
pub const PRODUCT: &str = "distributed-counter";
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
pub const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
/// On what belongs to one shard: its number.
pub const SHARD_LABEL: &str = "distributedcounter.dev/shard";

const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
const COMPONENT: &str = "counter-node";

pub(super) type Labels = BTreeMap<String, String>;

/// Metadata of an object of this name that goes when its owner goes.
pub(super) fn owned(spec: &ClusterSpec, name: String) -> ObjectMeta {
    ObjectMeta { owner_references: owner(&spec.identity).map(|owner| vec![owner]), ..unowned(spec, name) }
}

/// Metadata of an object of this name that outlives the cluster's object.
pub(super) fn unowned(spec: &ClusterSpec, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(spec.identity.namespace.clone()),
        labels: Some(labels(&spec.identity)),
        ..ObjectMeta::default()
    }
}

/// The labels of every object of a cluster.
pub(super) fn labels(identity: &Identity) -> Labels {
    let mut labels = selected(identity);
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGER.to_owned());
    labels
}

/// The labels by which a cluster's Pods are selected; they never change.
pub(super) fn selected(identity: &Identity) -> Labels {
    [(NAME_LABEL, PRODUCT), (INSTANCE_LABEL, identity.name.as_str()), (COMPONENT_LABEL, COMPONENT)]
        .into_iter()
        .map(|(label, value)| (label.to_owned(), value.to_owned()))
        .collect()
}

/// A selector of all Pods of a cluster.
pub(super) fn selector(identity: &Identity) -> LabelSelector {
    LabelSelector { match_labels: Some(selected(identity)), ..LabelSelector::default() }
}

/// A selector of the Pods of one shard.
pub(super) fn shard_selector(identity: &Identity, shard: ShardId) -> LabelSelector {
    let mut labels = selected(identity);
    labels.insert(SHARD_LABEL.to_owned(), shard.to_string());
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// Matches one Pod per shard, for the scale subresource: an autoscaler divides by what it finds.
#[must_use]
pub fn selector_of_shards(identity: &Identity) -> String {
    format!("{NAME_LABEL}={PRODUCT},{INSTANCE_LABEL}={},apps.kubernetes.io/pod-index=0", identity.name)
}

fn owner(identity: &Identity) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: DistributedCounter::api_version(&()).into_owned(),
        kind: DistributedCounter::kind(&()).into_owned(),
        name: identity.name.clone(),
        uid: identity.uid.clone()?,
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}
