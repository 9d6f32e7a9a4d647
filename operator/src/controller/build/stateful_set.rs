//! A shard's StatefulSet. Its Pods are replaced by the operator, one of the cluster at a time; its claims never by anyone.

use counter_core::id::{ClusterId, ShardId};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;

use crate::controller::plan::{DesiredShard, Pin, Template};
use crate::controller::validate::{Bytes, ClusterSpec, Storage, Trigger, Volume};

use super::BuildError;
use super::metadata::{SHARD_LABEL, owned, shard_selector};
use super::names::{CLAIM_TEMPLATE, Names};
use super::template::for_shard;

/// On StatefulSets: the template that its Pods are made from, as the operator that pinned it wrote it.
pub const TEMPLATE_ANNOTATION: &str = "distributedcounter.dev/template";
/// On StatefulSets: the state of the user's object for which the template was pinned.
pub const TRIGGER_ANNOTATION: &str = "distributedcounter.dev/template-trigger";

pub(super) fn stateful_set(
    spec: &ClusterSpec,
    shard: ShardId,
    desired: &DesiredShard,
    cluster: Option<ClusterId>,
) -> Result<StatefulSet, BuildError> {
    let mut metadata = owned(spec, Names::from(&spec.identity).shard(shard));
    metadata.labels.get_or_insert_default().insert(SHARD_LABEL.to_owned(), shard.to_string());
    metadata.annotations = Some(
        [(TEMPLATE_ANNOTATION, &desired.pin.template.0), (TRIGGER_ANNOTATION, &desired.pin.trigger.0)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into(),
    );
    Ok(StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(i32::from(desired.replicas)),
            service_name: Some(Names::from(&spec.identity).nodes()),
            selector: shard_selector(&spec.identity, shard),
            template: for_shard(&desired.pin.template, shard, cluster)?,
            // Nodes wait for one another, so none may wait for another's readiness before it starts.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None }),
            persistent_volume_claim_retention_policy: retention(spec, desired),
            volume_claim_templates: claim_template(spec, desired),
            ..StatefulSetSpec::default()
        }),
        status: None,
    })
}

/// What an existing StatefulSet's Pods are made from; None when it does not say, or says what cannot be read.
#[must_use]
pub fn observed_pin(stateful_set: &StatefulSet) -> Option<Pin> {
    let annotations = stateful_set.metadata.annotations.as_ref()?;
    let template = annotations.get(TEMPLATE_ANNOTATION)?.clone();
    serde_json::from_str::<PodTemplateSpec>(&template).ok()?;
    Some(Pin { trigger: Trigger(annotations.get(TRIGGER_ANNOTATION)?.clone()), template: Template(template) })
}

fn retention(spec: &ClusterSpec, desired: &DesiredShard) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    let Storage::Volume(volume) = &spec.storage else { return None };
    Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_scaled: Some(volume.retention.when_scaled.as_str().to_owned()),
        when_deleted: Some(desired.when_deleted.as_str().to_owned()),
    })
}

fn claim_template(spec: &ClusterSpec, desired: &DesiredShard) -> Option<Vec<PersistentVolumeClaim>> {
    let Storage::Volume(volume) = &spec.storage else { return None };
    Some(vec![claim(volume, desired.claim_size.as_ref().unwrap_or(&volume.size))])
}

/// Kubernetes lets no claim template change, so nothing goes in here that a later release might want otherwise.
fn claim(volume: &Volume, size: &Bytes) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), Quantity(size.as_str().to_owned()))].into();
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(CLAIM_TEMPLATE.to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: volume.class.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(requests), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}
