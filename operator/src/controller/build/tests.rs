use std::collections::BTreeSet;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::Layout;
use serde_json::{Value, json};

use super::*;
use crate::controller::plan::{Addresses, DesiredShard, Pin, Step, Summary, Template};
use crate::controller::validate::tests::spec_of;
use crate::controller::validate::{Bytes, Storage};
use crate::crd::Retain;

fn settings() -> Settings {
    Settings { default_image: Some("example.org/counter-node:1".to_owned()), image_pull_policy: None, network_policy: true }
}

fn desired(spec: &ClusterSpec) -> DesiredShard {
    let template = template(spec, &settings()).unwrap();
    DesiredShard {
        replicas: spec.replicas,
        pin: Pin { trigger: spec.identity.trigger(), template },
        claim_size: None,
        when_deleted: spec.storage.retention().when_deleted,
    }
}

fn plan_of(spec: &ClusterSpec) -> Plan {
    Plan {
        paused: false,
        cluster: Some(ClusterId(7)),
        shards: (0..spec.shards).map(|shard| (ShardId(shard), desired(spec))).collect(),
        remove: Vec::new(),
        resize: Vec::new(),
        volumes: None,
        verdict: None,
        accepted: Vec::new(),
        step: Step::Rest,
        publish: None,
        blocked: None,
        update_pending: None,
        stalled: None,
        progress: None,
        summary: Summary::default(),
    }
}

fn objects(spec: Value) -> Objects {
    let spec = spec_of(spec);
    build(&spec, &settings(), &plan_of(&spec)).unwrap()
}

/// A spec that says something about everything.
fn full() -> Value {
    json!({
        "shards": 2,
        "replicas": 3,
        "acks": "Quorum",
        "image": "example.org/own:2",
        "storage": {"volume": {
            "size": "2Gi", "storageClassName": "fast", "fsync": "Always",
            "retention": {"whenScaled": "Delete", "whenDeleted": "Delete"}
        }},
        "resp": {"enabled": true},
        "service": {"type": "LoadBalancer", "annotations": {"example.org/internal": "true"}},
        "resources": {"requests": {"cpu": 1, "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "arch", "operator": "In", "values": ["amd64"]}]}]
        }}},
        "topologySpreadConstraints": [{
            "maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"team": "site"}}
        }],
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "podLabels": {"team": "site", "app.kubernetes.io/name": "not-yours"},
        "podAnnotations": {"example.org/scrape": "true"}
    })
}

#[test]
fn the_objects_of_an_empty_spec() {
    let Objects { service_account, network_policy, nodes_service, client_service, budgets, stateful_sets } = objects(json!({}));
    insta::assert_yaml_snapshot!("service_account", service_account);
    insta::assert_yaml_snapshot!("network_policy", network_policy.unwrap());
    insta::assert_yaml_snapshot!("nodes_service", nodes_service);
    insta::assert_yaml_snapshot!("client_service", client_service);
    insta::assert_yaml_snapshot!("budget", budgets[0]);
    insta::assert_yaml_snapshot!("stateful_set", stateful_sets[0]);
}

#[test]
fn the_objects_of_a_full_spec() {
    let objects = objects(full());
    assert_eq!((objects.budgets.len(), objects.stateful_sets.len()), (2, 2));
    insta::assert_yaml_snapshot!("full_client_service", objects.client_service);
    insta::assert_yaml_snapshot!("full_nodes_service", objects.nodes_service);
    insta::assert_yaml_snapshot!("full_network_policy", objects.network_policy.unwrap());
    insta::assert_yaml_snapshot!("full_stateful_set", objects.stateful_sets[1]);
}

#[test]
fn the_stateful_set_of_a_cluster_in_memory() {
    let objects = objects(json!({"storage": {"memory": {}}}));
    insta::assert_yaml_snapshot!("memory_stateful_set", objects.stateful_sets[0]);
}

#[test]
fn the_stateful_set_of_a_cluster_in_redis_needs_its_id() {
    let spec = spec_of(json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}}));
    let objects = build(&spec, &settings(), &plan_of(&spec)).unwrap();
    insta::assert_yaml_snapshot!("redis_stateful_set", objects.stateful_sets[0]);
    let unborn = build(&spec, &settings(), &Plan { cluster: None, ..plan_of(&spec) }).unwrap();
    assert_eq!((unborn.stateful_sets, unborn.budgets), (Vec::new(), Vec::new()));
}

#[test]
fn the_objects_that_are_written_once() {
    let spec = spec_of(json!({}));
    insta::assert_yaml_snapshot!("secret", secret(&spec, "s3cret"));
    let node = Addresses::Dns { cluster: "page-views".to_owned(), namespace: "site".to_owned(), resp: false };
    let layout = Layout::single(ClusterId(7), node.node(&NodeName::from("page-views-0-0")).unwrap());
    let record = layout_record(&spec, &layout, None).unwrap();
    insta::assert_yaml_snapshot!("layout_record", record);
    assert_eq!(read_layout(&record).unwrap(), Some(layout));
}

#[test]
fn the_layouts_record_goes_with_the_cluster_only_when_its_volumes_do() {
    let node = Addresses::Dns { cluster: "page-views".to_owned(), namespace: "site".to_owned(), resp: false };
    let layout = Layout::single(ClusterId(7), node.node(&NodeName::from("page-views-0-0")).unwrap());
    let owned = |spec| layout_record(&spec_of(spec), &layout, None).unwrap().metadata.owner_references.is_some();
    assert!(!owned(json!({})));
    assert!(owned(json!({"storage": {"volume": {"retention": {"whenDeleted": "Delete"}}}})));
    assert!(owned(json!({"storage": {"memory": {}}})));
    assert!(!owned(json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}})));
}

#[test]
fn without_any_image_nothing_is_built() {
    let nothing = Settings { default_image: None, ..settings() };
    let refused = template(&spec_of(json!({})), &nothing).unwrap_err();
    assert_eq!(refused.category(), "no_image");
    assert!(template(&spec_of(json!({"image": "a"})), &nothing).is_ok());
}

#[test]
fn sizes_of_clusters_change_no_template() {
    let template =
        |shards: u16, replicas: u16| template(&spec_of(json!({"shards": shards, "replicas": replicas})), &settings()).unwrap();
    assert_eq!(template(1, 1), template(256, 7));
}

#[test]
fn a_pinned_template_is_used_as_it_is_and_read_back() {
    let spec = spec_of(json!({}));
    let mut plan = plan_of(&spec);
    let pinned = Template(json!({"metadata": {"labels": {"distributedcounter.dev/shard": "%shard%"}}}).to_string());
    for shard in plan.shards.values_mut() {
        shard.pin.template = pinned.clone();
    }
    let stateful_set = build(&spec, &settings(), &plan).unwrap().stateful_sets.remove(0);
    assert_eq!(observed_pin(&stateful_set).unwrap().template, pinned);
    let metadata = stateful_set.spec.unwrap().template.metadata.unwrap();
    assert_eq!(metadata.labels.unwrap()["distributedcounter.dev/shard"], "0");
    assert_eq!(metadata.annotations.unwrap()[TEMPLATE_HASH_ANNOTATION], pinned.hash());
}

#[test]
fn a_template_that_nobody_can_read_is_no_pin() {
    let mut stateful_set = objects(json!({})).stateful_sets.remove(0);
    assert!(observed_pin(&stateful_set).is_some());
    stateful_set.metadata.annotations.as_mut().unwrap().insert(TEMPLATE_ANNOTATION.to_owned(), "{".to_owned());
    assert!(observed_pin(&stateful_set).is_none());
}

#[test]
fn the_claim_template_of_an_existing_stateful_set_keeps_its_size() {
    let spec = spec_of(json!({"storage": {"volume": {"size": "2Gi"}}}));
    let mut plan = plan_of(&spec);
    plan.shards.get_mut(&ShardId(0)).unwrap().claim_size = Bytes::parse("1Gi");
    let built = serde_json::to_value(&build(&spec, &settings(), &plan).unwrap().stateful_sets[0]).unwrap();
    assert_eq!(built["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "1Gi");
}

#[test]
fn a_shard_about_to_go_says_what_becomes_of_its_claims() {
    let spec = spec_of(json!({}));
    let mut plan = plan_of(&spec);
    plan.shards.get_mut(&ShardId(0)).unwrap().when_deleted = Retain::Delete;
    let built = serde_json::to_value(&build(&spec, &settings(), &plan).unwrap().stateful_sets[0]).unwrap();
    assert_eq!(built["spec"]["persistentVolumeClaimRetentionPolicy"], json!({"whenScaled": "Retain", "whenDeleted": "Delete"}));
}

#[test]
fn names_are_of_one_cluster_and_shard_only() {
    let names = Names("a-1");
    assert_eq!(names.shard(ShardId(2)), "a-1-2");
    assert_eq!(names.shard_of("a-1-2"), Some(ShardId(2)));
    for other in ["a-1", "a-1-", "a-1-02", "a-1-x", "a-1-2-0", "a-12", "b-1-2"] {
        assert_eq!(names.shard_of(other), None, "{other}");
    }
    let kinds = [names.clients(), names.nodes(), names.token(), names.layout(), names.shard(ShardId(0))];
    assert_eq!(kinds.iter().collect::<BTreeSet<_>>().len(), kinds.len());
}

#[test]
fn a_switched_off_network_policy_is_not_built() {
    let spec = spec_of(json!({}));
    let off = Settings { network_policy: false, ..settings() };
    assert_eq!(build(&spec, &off, &plan_of(&spec)).unwrap().network_policy, None);
}

#[test]
fn grace_is_longer_than_all_that_happens_in_it() {
    let built = serde_json::to_value(&objects(json!({})).stateful_sets[0]).unwrap();
    let pod = &built["spec"]["template"]["spec"];
    let args: Vec<&str> = pod["containers"][0]["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    let grace: i64 = args[args.iter().position(|arg| *arg == "--shutdown-grace").unwrap() + 1].parse().unwrap();
    let pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_i64().unwrap() > grace + pause);
}

#[test]
fn memory_says_nothing_about_fsync() {
    let spec = spec_of(json!({"storage": {"memory": {}}}));
    assert_eq!(spec.storage, Storage::Memory);
    assert!(!template(&spec, &settings()).unwrap().0.contains("--fsync"));
}

#[test]
fn counters_take_a_part_of_the_memory_limit_and_without_one_what_they_need() {
    let limit = |resources: Value| {
        let objects = objects(json!({"resources": resources}));
        let args = objects.stateful_sets[0].spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0].args.clone();
        let args = args.unwrap();
        args.iter().position(|arg| arg == "--max-memory").map(|at| args[at + 1].clone())
    };
    assert_eq!(limit(json!({"limits": {"memory": "1Gi"}})).as_deref(), Some("751619276"));
    assert_eq!(limit(json!({"limits": {"memory": 1000}})).as_deref(), Some("700"));
    assert_eq!(limit(json!({"limits": {"memory": "1500m"}})).as_deref(), Some("1"));
    assert_eq!(limit(json!({"limits": {"cpu": 1}, "requests": {"memory": "1Gi"}})), None);
}
