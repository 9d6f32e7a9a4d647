use serde::de::DeserializeOwned;
use serde_json::json;

use super::super::super::apply::Kind;
use super::super::super::validate::validate;
use super::super::Named;
use super::*;
use crate::crd::DistributedCounter;

fn named<K: Kind>(objects: &[serde_json::Value]) -> Named<K> {
    Named(objects.iter().map(|object| read::<K>(object)).map(|object| (object.name_any(), object)).collect())
}

fn read<T: DeserializeOwned>(value: &serde_json::Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn spec() -> ClusterSpec {
    let object: DistributedCounter = read(&json!({
        "apiVersion": "distributedcounter.dev/v1alpha1", "kind": "DistributedCounter",
        "metadata": {"name": "views", "namespace": "x", "uid": "cr"}, "spec": {},
    }));
    validate(&object).unwrap()
}

fn set(name: &str, uid: &str, owner: &str) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "uid": uid, "generation": 3, "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "views", "uid": owner}]},
        "spec": {
            "replicas": 2, "serviceName": "views-nodes", "selector": {}, "template": {},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}],
        },
        "status": {"observedGeneration": 3, "replicas": 2},
    })
}

fn pod(name: &str, owner: &str, status: &serde_json::Value) -> serde_json::Value {
    json!({
        "metadata": {
            "name": name, "namespace": "x", "uid": format!("{name}-uid"), "annotations": {TEMPLATE_HASH_ANNOTATION: "h"},
            "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "s", "uid": owner}],
        },
        "status": status,
    })
}

fn live(sets: &[serde_json::Value], pods: &[serde_json::Value]) -> Live {
    let claim = |name: &str, phase: &str| {
        let spec = json!({"resources": {"requests": {"storage": "2Gi"}}});
        json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}})
    };
    Live {
        stateful_sets: named(sets),
        pods: named(pods),
        claims: named(&[claim("data-views-0-1", "Bound"), claim("data-views-0-2", "Pending")]),
        services: named(&[]),
        service_accounts: named(&[]),
        budgets: named(&[]),
        network_policies: named(&[]),
        record: None,
        token: None,
        layout: None,
        volumes: None,
        api_token: None,
        redis_url: None,
        unreadable: None,
    }
}

fn seen(live: &Live) -> Observed {
    observed(&spec(), live, HashMap::new(), Template(String::new()))
}

#[test]
fn only_what_belongs_to_this_very_object_is_observed() {
    let sets = [set("views-0", "s0", "cr"), set("views-1", "s1", "an-older-cr"), set("views-x", "s2", "cr")];
    let running = json!({"podIP": "10.0.0.1"});
    let observed = seen(&live(&sets, &[pod("views-0-0", "s0", &running), pod("views-1-0", "s1", &running)]));
    assert_eq!(observed.shards.keys().copied().collect::<Vec<_>>(), [ShardId(0)]);
    assert_eq!(observed.nodes.keys().map(|name| name.0.as_str()).collect::<Vec<_>>(), ["views-0-0"]);
}

#[test]
fn a_stateful_set_is_seen_with_its_size_and_its_controllers_progress() {
    let mut unseen = set("views-0", "s0", "cr");
    let shard = seen(&live(&[unseen.clone()], &[])).shards.remove(&ShardId(0)).unwrap();
    assert!(shard.settled);
    assert_eq!((shard.replicas, shard.when_deleted), (2, Retain::Delete));
    assert_eq!(shard.claim_size.map(|size| size.as_str().to_owned()).as_deref(), Some("1Gi"));
    unseen["metadata"]["generation"] = json!(4);
    assert!(!seen(&live(&[unseen], &[])).shards[&ShardId(0)].settled);
}

#[test]
fn a_claim_is_known_by_its_nodes_name() {
    let observed = seen(&live(&[], &[]));
    assert_eq!(
        observed.claims.iter().map(|(node, size)| (node.0.as_str(), size.as_str())).collect::<Vec<_>>(),
        [("views-0-1", "2Gi")]
    );
}

#[test]
fn a_pod_says_why_it_is_not_ready_unless_it_is_only_starting() {
    let problem = |status: serde_json::Value| {
        let mut nodes = seen(&live(&[set("views-0", "s0", "cr")], &[pod("views-0-0", "s0", &status)])).nodes;
        nodes.remove(&NodeName::from("views-0-0")).unwrap().problem
    };
    let waiting = |reason: &str| json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": "m"}}}]});
    assert_eq!(problem(waiting("ImagePullBackOff")).as_deref(), Some("ImagePullBackOff: m"));
    assert_eq!(problem(waiting("ContainerCreating")), None);
    let unschedulable = json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no room"}]});
    assert_eq!(problem(unschedulable).as_deref(), Some("not scheduled: no room"));
    assert_eq!(problem(json!({"conditions": [{"type": "Ready", "status": "True"}]})), None);
}
