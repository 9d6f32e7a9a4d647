//! The objects of a cluster, made from a plan. Nothing here reads or writes anything.
//!
//! All of them carry an owner reference to the `DistributedCounter`, so that Kubernetes takes them away with it. The
//! exception is the record of the layout where claims are retained: a cluster of the same name goes on from it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::controller::plan::{DesiredShard, Plan};
use crate::controller::validate::ClusterSpec;

pub use layout_record::{LAYOUT_KEY, RecordError, VOLUMES_KEY, layout_record, read_layout, read_volumes};
pub use metadata::{INSTANCE_LABEL, MANAGER, NAME_LABEL, PRODUCT, SHARD_LABEL, selector_of_shards};
pub use names::Names;
pub use secret::{TOKEN_KEY, TOKEN_PREVIOUS_KEY, secret};
pub use stateful_set::{TEMPLATE_ANNOTATION, TRIGGER_ANNOTATION, observed_pin};
pub use template::{TEMPLATE_HASH_ANNOTATION, template};

mod budget;
mod container;
mod layout_record;
mod metadata;
mod names;
mod network_policy;
mod secret;
mod service_account;
mod services;
mod stateful_set;
mod template;

/// What the operator's own command line says about objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of clusters that name none.
    pub default_image: Option<String>,
    /// Kubernetes' own default when absent.
    pub image_pull_policy: Option<&'static str>,
    /// Whether clusters get a NetworkPolicy.
    pub network_policy: bool,
}

/// Every object of a cluster that is applied. Take it apart without `..`, so that none can be forgotten.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    pub service_account: ServiceAccount,
    /// None when it is switched off: an existing one is to be deleted then.
    pub network_policy: Option<NetworkPolicy>,
    pub nodes_service: Service,
    pub client_service: Service,
    pub budgets: Vec<PodDisruptionBudget>,
    pub stateful_sets: Vec<StatefulSet>,
}

/// Why objects cannot be made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("spec.image is not set, and the operator was started without a default image")]
    NoImage,
    #[error("the template could not be written down or read back")]
    Template(#[source] serde_json::Error),
    #[error("the layout could not be written down")]
    Layout(#[source] serde_json::Error),
}

impl BuildError {
    /// A bounded name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::NoImage => "no_image",
            Self::Template(_) => "template",
            Self::Layout(_) => "layout",
        }
    }
}

/// The objects of a cluster as `plan` wants them.
///
/// # Errors
/// When a pinned template cannot be read.
pub fn build(spec: &ClusterSpec, settings: &Settings, plan: &Plan) -> Result<Objects, BuildError> {
    // Without its id a cluster in Redis has no Pods yet, or its record is lost and they are left alone.
    let can_be = |desired: &DesiredShard| plan.cluster.is_some() || !template::needs_cluster(&desired.pin.template);
    let shards = || plan.shards.iter().filter(|(_, desired)| can_be(desired));
    Ok(Objects {
        service_account: service_account::service_account(spec),
        network_policy: settings.network_policy.then(|| network_policy::network_policy(spec)),
        nodes_service: services::nodes(spec),
        client_service: services::clients(spec),
        budgets: shards().map(|(shard, _)| budget::budget(spec, *shard)).collect(),
        stateful_sets: shards()
            .map(|(shard, desired)| stateful_set::stateful_set(spec, *shard, desired, plan.cluster))
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests;
