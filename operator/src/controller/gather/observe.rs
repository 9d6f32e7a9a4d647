//! From Kubernetes' objects to what a plan is made from.

use std::collections::{BTreeMap, HashMap};

use counter_core::id::{NodeName, ShardId};
use counter_core::status::NodeStatus;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;

use super::super::build::{self, Names, TEMPLATE_HASH_ANNOTATION};
use super::super::plan::{Addresses, Observed, ObservedNode, ObservedShard, Template};
use super::super::validate::{Bytes, ClusterSpec};
use super::Live;
use crate::crd::Retain;

/// What is, as plans see it.
pub(super) fn observed(
    spec: &ClusterSpec,
    live: &Live,
    mut statuses: HashMap<NodeName, NodeStatus>,
    template: Template,
) -> Observed {
    let identity = &spec.identity;
    let nodes = own_pods(live, spec).map(|pod| {
        let name = NodeName(pod.name_any());
        let status = statuses.remove(&name);
        (name, node(pod, status))
    });
    Observed {
        layout: live.layout.clone(),
        fresh_cluster: super::fresh_cluster(),
        addresses: Addresses::Dns { cluster: identity.name.clone(), namespace: identity.namespace.clone(), resp: spec.resp },
        template,
        nodes: nodes.collect(),
        shards: own_sets(live, spec).map(|(number, set)| (number, shard(set))).collect(),
        claims: claims(live, spec),
        volumes: live.volumes.clone(),
        absent_claims: absent_claims(live, spec),
    }
}

/// The shards' StatefulSets that belong to this very object, not to one of its name before it.
fn own_sets<'a>(live: &'a Live, spec: &'a ClusterSpec) -> impl Iterator<Item = (ShardId, &'a StatefulSet)> {
    let names = Names::from(&spec.identity);
    let own = move |set: &&StatefulSet| {
        let owners = set.owner_references();
        owners.iter().any(|owner| Some(&owner.uid) == spec.identity.uid.as_ref())
    };
    live.stateful_sets.all().filter(own).filter_map(move |set| Some((names.shard_of(&set.name_any())?, set)))
}

/// The Pods of those StatefulSets.
pub(super) fn own_pods<'a>(live: &'a Live, spec: &'a ClusterSpec) -> impl Iterator<Item = &'a Pod> {
    let sets: Vec<String> = own_sets(live, spec).filter_map(|(_, set)| set.uid()).collect();
    live.pods.all().filter(move |pod| pod.owner_references().iter().any(|owner| sets.contains(&owner.uid)))
}

fn shard(set: &StatefulSet) -> ObservedShard {
    let spec = set.spec.as_ref();
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    let claim = spec.and_then(|spec| spec.volume_claim_templates.as_ref()).and_then(|claims| claims.first());
    let retention = spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    ObservedShard {
        uid: set.uid().unwrap_or_default(),
        replicas: spec.and_then(|spec| spec.replicas).and_then(|replicas| u16::try_from(replicas).ok()).unwrap_or(1),
        pin: build::observed_pin(set),
        settled: seen.is_some() && seen >= set.metadata.generation,
        claim_size: claim.and_then(|claim| claim_size(claim.spec.as_ref())),
        when_deleted: retention.and_then(|policy| policy.when_deleted.as_deref()).map_or(Retain::Retain, Retain::from_name),
    }
}

fn claims(live: &Live, spec: &ClusterSpec) -> BTreeMap<NodeName, Bytes> {
    let names = Names::from(&spec.identity);
    // Kubernetes refuses to change a claim that has no volume yet.
    let bound =
        live.claims.all().filter(|claim| claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound")));
    let claims = bound.filter_map(|claim| {
        let name = claim.name_any();
        // `claim` puts something before the node's name, whatever that is.
        let prefix = names.claim(&NodeName(String::new()));
        let node = NodeName(name.strip_prefix(&prefix)?.to_owned());
        Some((node, claim_size(claim.spec.as_ref())?))
    });
    claims.collect()
}

/// The nodes that had a volume and whose claim is gone, or has lost what it was bound to. One whose Pod is still to be
/// made anew has its claim made with it.
fn absent_claims(live: &Live, spec: &ClusterSpec) -> BTreeMap<NodeName, String> {
    let names = Names::from(&spec.identity);
    let recorded = live.volumes.iter().flat_map(|volumes| volumes.nodes.keys());
    let why = |node: &NodeName| {
        let name = names.claim(node);
        let Some(claim) = live.claims.get(&name) else { return Some(format!("claim {name} does not exist")) };
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        (phase == Some("Lost")).then(|| format!("claim {name} has lost its PersistentVolume"))
    };
    recorded.filter_map(|node| Some((node.clone(), why(node)?))).collect()
}

fn claim_size(spec: Option<&k8s_openapi::api::core::v1::PersistentVolumeClaimSpec>) -> Option<Bytes> {
    let requests = spec?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").and_then(|size| Bytes::of_claim(&size.0))
}

fn node(pod: &Pod, status: Option<NodeStatus>) -> ObservedNode {
    let ready = condition(pod, "Ready").is_some_and(|(status, _)| status == "True");
    ObservedNode {
        uid: pod.uid().unwrap_or_default(),
        ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
        template: pod.annotations().get(TEMPLATE_HASH_ANNOTATION).cloned(),
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        problem: if ready { None } else { problem(pod) },
        running: is_running(pod),
        status,
    }
}

/// Whether a container of the Pod runs, by what its machine said last.
fn is_running(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let runs = |container: &ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
    containers.is_some_and(|containers| containers.iter().any(runs))
}

/// A condition's status and message.
fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, Option<&'a str>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, found.message.as_deref()))
}

/// Why a Pod is not ready, in the words of Kubernetes.
fn problem(pod: &Pod) -> Option<String> {
    if let Some(("False", message)) = condition(pod, "PodScheduled") {
        return Some(format!("not scheduled: {}", message.unwrap_or("no reason given")));
    }
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    containers.iter().find_map(trouble)
}

fn trouble(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref()?;
        // What every start goes through is no trouble.
        return (reason != "ContainerCreating" && reason != "PodInitializing")
            .then(|| explained(reason, waiting.message.as_deref()));
    }
    let ended = state.terminated.as_ref()?;
    Some(explained(ended.reason.as_deref().unwrap_or("ended"), ended.message.as_deref()))
}

fn explained(reason: &str, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
