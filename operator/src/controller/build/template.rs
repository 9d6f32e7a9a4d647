//! What Pods are made from: one template for all shards of a cluster, with a placeholder where the shard's number goes.
//!
//! It names no number of shards or replicas and no Pod but the fixed seeds, so that growing rolls nothing.

use counter_core::id::{ClusterId, NodeName, ShardId};
use k8s_openapi::api::core::v1::{
    EmptyDirVolumeSource, KeyToPath, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, SecretVolumeSource,
    TopologySpreadConstraint, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;

use crate::controller::plan::{Addresses, Template};
use crate::controller::validate::{ClusterSpec, Storage};
use crate::crd::SecretKeyRef;

use super::container::container;
use super::metadata::{SHARD_LABEL, labels, selected};
use super::names::{CLAIM_TEMPLATE, Names};
use super::{BuildError, Settings};

/// On Pods: [`Template::hash`] of what they were made from.
pub const TEMPLATE_HASH_ANNOTATION: &str = "distributedcounter.dev/template-hash";

/// Stands for the shard's number. No label's value can contain it, so it is nobody's by accident.
const SHARD_PLACEHOLDER: &str = "%shard%";
/// Stands for the cluster's id, which is minted when there is a template already.
const CLUSTER_PLACEHOLDER: &str = "%cluster%";
/// The user that distroless images call nonroot.
const USER: i64 = 65532;
/// Longer than the node's own grace and the pause before it together.
const TERMINATION_GRACE_SECONDS: i64 = 40;
/// A node without a volume keeps its identity and its layout here, a few hundred KiB.
const SCRATCH_SIZE: &str = "64Mi";
/// Seeds are for nodes that have no layout yet and whose operator is away: the first nodes of the first shard, however
/// many there are.
const SEEDS: u16 = 3;

pub(super) const TOKEN_VOLUME: &str = "token";
pub(super) const API_TOKEN_VOLUME: &str = "api-token";
pub(super) const REDIS_URL_VOLUME: &str = "redis-url";

/// A port of a node.
#[derive(Clone, Copy)]
pub(super) struct Port {
    pub(super) name: &'static str,
    pub(super) number: i32,
    pub(super) app_protocol: Option<&'static str>,
}

pub(super) const HTTP: Port = Port { name: "http", number: 8080, app_protocol: Some("http") };
pub(super) const ADMIN: Port = Port { name: "admin", number: 8081, app_protocol: Some("http") };
pub(super) const PEER: Port = Port { name: "peer", number: 8082, app_protocol: Some("kubernetes.io/h2c") };
/// The Redis protocol's.
pub(super) const RESP: Port = Port { name: "resp", number: 6379, app_protocol: Some("redis") };

/// The ports that every client may use.
pub(super) fn client_ports(spec: &ClusterSpec) -> impl Iterator<Item = Port> {
    std::iter::once(HTTP).chain(spec.resp.then_some(RESP))
}

/// All ports of a node.
pub(super) fn ports(spec: &ClusterSpec) -> impl Iterator<Item = Port> {
    [HTTP, ADMIN, PEER].into_iter().chain(spec.resp.then_some(RESP))
}

/// What the Pods of a cluster would be made from if nothing were pinned.
///
/// # Errors
/// When neither the spec nor the operator names an image.
pub fn template(spec: &ClusterSpec, settings: &Settings) -> Result<Template, BuildError> {
    let image = spec.image.clone().or_else(|| settings.default_image.clone()).ok_or(BuildError::NoImage)?;
    let pod = PodTemplateSpec { metadata: Some(metadata(spec)), spec: Some(pod_spec(spec, image, settings.image_pull_policy)) };
    // By way of a value, whose fields are sorted: the text must not change when a library orders fields differently.
    let value = serde_json::to_value(&pod).map_err(BuildError::Template)?;
    Ok(Template(value.to_string()))
}

/// What the keys of the cluster's nodes in Redis begin with.
pub(super) fn redis_prefix() -> &'static str {
    CLUSTER_PLACEHOLDER
}

/// Whether Pods can be made from a template only when the cluster has its id.
pub(super) fn needs_cluster(template: &Template) -> bool {
    template.0.contains(CLUSTER_PLACEHOLDER)
}

/// The Pod template of one shard. A template that needs the cluster's id is no template without it.
pub(super) fn for_shard(template: &Template, shard: ShardId, cluster: Option<ClusterId>) -> Result<PodTemplateSpec, BuildError> {
    let mut text = template.0.replace(SHARD_PLACEHOLDER, &shard.to_string());
    if let Some(cluster) = cluster {
        text = text.replace(CLUSTER_PLACEHOLDER, &cluster.to_string());
    }
    let mut pod: PodTemplateSpec = serde_json::from_str(&text).map_err(BuildError::Template)?;
    let annotations = pod.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_HASH_ANNOTATION.to_owned(), template.hash());
    Ok(pod)
}

/// The peer addresses from which a node without a layout may learn one.
pub(super) fn seeds(spec: &ClusterSpec) -> String {
    let identity = &spec.identity;
    let addresses = Addresses::Dns { cluster: identity.name.clone(), namespace: identity.namespace.clone(), resp: false };
    let nodes = (0..SEEDS).map(|replica| NodeName::of(&identity.name, ShardId(0), replica));
    nodes.filter_map(|name| addresses.node(&name)).map(|node| node.peer).collect::<Vec<_>>().join(",")
}

fn metadata(spec: &ClusterSpec) -> ObjectMeta {
    let mut merged = spec.pod.pod_labels.clone();
    merged.extend(labels(&spec.identity));
    merged.insert(SHARD_LABEL.to_owned(), SHARD_PLACEHOLDER.to_owned());
    let annotations = &spec.pod.pod_annotations;
    ObjectMeta {
        labels: Some(merged),
        annotations: (!annotations.is_empty()).then(|| annotations.clone()),
        ..ObjectMeta::default()
    }
}

fn pod_spec(spec: &ClusterSpec, image: String, pull_policy: Option<&'static str>) -> PodSpec {
    let pod = &spec.pod;
    let given = |count: usize| count > 0;
    PodSpec {
        containers: vec![container(spec, image, pull_policy)],
        volumes: Some(volumes(spec)),
        security_context: Some(security_context()),
        service_account_name: Some(Names::from(&spec.identity).clients()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(TERMINATION_GRACE_SECONDS),
        topology_spread_constraints: Some(spread(spec)),
        affinity: pod.affinity.clone(),
        priority_class_name: pod.priority_class_name.clone(),
        node_selector: given(pod.node_selector.len()).then(|| pod.node_selector.clone()),
        tolerations: given(pod.tolerations.len()).then(|| pod.tolerations.clone()),
        image_pull_secrets: given(pod.image_pull_secrets.len()).then(|| pod.image_pull_secrets.clone()),
        ..PodSpec::default()
    }
}

fn volumes(spec: &ClusterSpec) -> Vec<Volume> {
    let token = Volume {
        name: TOKEN_VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(Names::from(&spec.identity).token()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let scratch = || Volume {
        name: CLAIM_TEMPLATE.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(SCRATCH_SIZE.to_owned())), medium: None }),
        ..Volume::default()
    };
    let scratch = matches!(spec.storage, Storage::Memory).then(scratch);
    let api_token = spec.api_token.as_ref().map(|reference| users_secret(API_TOKEN_VOLUME, "token", reference));
    let redis_url = match &spec.storage {
        Storage::Redis(reference) => Some(users_secret(REDIS_URL_VOLUME, "url", reference)),
        Storage::Volume(_) | Storage::Memory => None,
    };
    [Some(token), scratch, api_token, redis_url].into_iter().flatten().collect()
}

/// A key of a Secret of the user's as a file with a name of ours, whatever the key is: nodes read the file again when the
/// Secret changes.
fn users_secret(volume: &str, file: &str, reference: &SecretKeyRef) -> Volume {
    let item = KeyToPath { key: reference.key.clone(), path: file.to_owned(), mode: None };
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(reference.name.clone()),
            items: Some(vec![item]),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// With the container's, what the restricted Pod Security Standard asks for.
fn security_context() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // Changing the owner of every file of a large volume at every start would take minutes.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Replicas of a shard keep apart where they can, after whatever the user asks for.
fn spread(spec: &ClusterSpec) -> Vec<TopologySpreadConstraint> {
    let mut constraints = spec.pod.topology_spread_constraints.clone();
    for key in ["kubernetes.io/hostname", "topology.kubernetes.io/zone"] {
        let taken = constraints.iter().any(|own| own.topology_key == key && own.when_unsatisfiable == "ScheduleAnyway");
        if !taken {
            constraints.push(apart(spec, key));
        }
    }
    constraints
}

fn apart(spec: &ClusterSpec, topology_key: &str) -> TopologySpreadConstraint {
    let mut labels = selected(&spec.identity);
    labels.insert(SHARD_LABEL.to_owned(), SHARD_PLACEHOLDER.to_owned());
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: topology_key.to_owned(),
        // A small cluster of machines is no reason not to run.
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    }
}
