//! A shard's PodDisruptionBudget: whoever drains machines takes one of its Pods at a time.

use counter_core::id::ShardId;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::ClusterSpec;

use super::metadata::{SHARD_LABEL, owned, shard_selector};
use super::names::Names;

/// One unavailable Pod, in shards of any size: a budget that allows none would block the drain of a machine for ever.
pub(super) fn budget(spec: &ClusterSpec, shard: ShardId) -> PodDisruptionBudget {
    let mut metadata = owned(spec, Names::from(&spec.identity).shard(shard));
    metadata.labels.get_or_insert_default().insert(SHARD_LABEL.to_owned(), shard.to_string());
    PodDisruptionBudget {
        metadata,
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(shard_selector(&spec.identity, shard)),
            // A Pod that serves nothing protects nothing, and must not keep its machine from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
