//! The Pods that the operator builds, read as the node reads its command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_node::args::{Acks, Config};
use counter_node::storage::{Fsync, StoreConfig};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use operator::controller::build::{Settings, build, template};
use operator::controller::plan::{Addresses, Observed, plan};
use operator::controller::validate::{ClusterSpec, validate};
use operator::crd::DistributedCounter;
use serde_json::{Value, json};

use crate::flags::node_config;

const POD: &str = "page-views-1-2";
const UID: &str = "0b5ff1e1-aaaa-bbbb-cccc-0123456789ab";

pub(crate) fn spec_of(spec: Value) -> ClusterSpec {
    let metadata = json!({"name": "page-views", "namespace": "site", "uid": "1111-2222", "generation": 1});
    let object: DistributedCounter = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    validate(&object).unwrap()
}

/// A Pod of a shard, as the operator has it made in a cluster that does not exist yet.
pub(crate) fn pod(spec: Value) -> PodSpec {
    let mut spec = spec_of(spec);
    spec.shards = 2;
    let settings =
        Settings { default_image: Some("example.org/counter-node:1".to_owned()), image_pull_policy: None, network_policy: true };
    let observed = Observed {
        layout: None,
        fresh_cluster: ClusterId(7),
        addresses: addresses(),
        template: template(&spec, &settings).unwrap(),
        shards: BTreeMap::new(),
        nodes: BTreeMap::new(),
        claims: BTreeMap::new(),
        volumes: None,
        absent_claims: BTreeMap::new(),
    };
    let objects = build(&spec, &settings, &plan(&spec, &observed)).unwrap();
    let mut sets = objects.stateful_sets;
    assert_eq!(sets.len(), 2);
    sets.remove(1).spec.unwrap().template.spec.unwrap()
}

fn addresses() -> Addresses {
    Addresses::Dns { cluster: "page-views".to_owned(), namespace: "site".to_owned(), resp: true }
}

/// The one container of a Pod.
pub(crate) fn container(pod: &PodSpec) -> &Container {
    assert_eq!(pod.containers.len(), 1);
    &pod.containers[0]
}

/// What a container's node is told, resolved as the kubelet does. Its variables are given as the flags that they stand for.
pub(crate) fn config(container: &Container) -> Config {
    let mut values = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref()).map(|field| field.field_path.as_str());
        let value = match (&variable.value, field) {
            (Some(value), None) => value.clone(),
            (None, Some("metadata.name")) => POD.to_owned(),
            (None, Some("metadata.uid")) => UID.to_owned(),
            other => panic!("{}: what is {other:?}?", variable.name),
        };
        values.insert(variable.name.clone(), value);
    }
    let expand = |arg: &String| values.iter().fold(arg.clone(), |arg, (name, value)| arg.replace(&format!("$({name})"), value));
    let mut args: Vec<String> = container.args.iter().flatten().map(expand).collect();
    for (name, value) in &values {
        if let Some(flag) = name.strip_prefix("COUNTER_") {
            args.extend([format!("--{}", flag.to_lowercase().replace('_', "-")), value.clone()]);
        }
    }
    assert!(args.iter().all(|arg| !arg.contains("$(")), "{args:?}");
    node_config(args.iter().map(String::as_str))
}

fn volume(fsync: &str) -> Value {
    json!({"volume": {"size": "2Gi", "fsync": fsync}})
}

#[test]
fn a_pods_argv_means_to_the_node_what_the_spec_says() {
    let data = || StoreConfig::Volume(PathBuf::from("/var/lib/counter"));
    let cases = [
        (json!({}), data(), Fsync::EverySecond, Acks::Local),
        (json!({"acks": "Quorum", "storage": volume("Always")}), data(), Fsync::Always, Acks::Quorum),
        (json!({"acks": "Local", "storage": volume("EverySecond")}), data(), Fsync::EverySecond, Acks::Local),
        (json!({"storage": volume("Never"), "replicas": 1}), data(), Fsync::Never, Acks::Local),
        (json!({"storage": {"memory": {}}, "replicas": 3}), StoreConfig::Memory, Fsync::EverySecond, Acks::Local),
    ];
    for (spec, store, fsync, acks) in cases {
        let config = config(container(&pod(spec.clone())));
        assert_eq!((config.store, config.fsync, config.acks), (store, fsync, acks), "{spec}");
        assert_eq!(config.name, Some(NodeName::from(POD)), "{spec}");
        assert_eq!(config.pod_uid.as_deref(), Some(UID), "{spec}");
        assert_eq!(config.cluster_token_file.as_deref(), Some(Path::new("/etc/counter/token/token")), "{spec}");
        assert_eq!(config.shutdown_grace, Duration::from_secs(25), "{spec}");
    }
}

#[test]
fn a_node_counts_silent_viewers_for_as_long_as_the_spec_says_and_serves_the_sites_that_it_names() {
    let default = config(container(&pod(json!({}))));
    let seconds = |config: &Config| (config.live.lease.as_secs(), config.live.heartbeat.as_secs());
    assert_eq!((seconds(&default), default.cors_origins), ((5, 20), vec![]));
    let origins = ["https://a.example", "http://b.example:8080"];
    let presence = json!({"leaseSeconds": 3, "heartbeatSeconds": 600});
    let config = config(container(&pod(json!({"presence": presence, "cors": {"origins": origins}}))));
    assert_eq!((seconds(&config), config.cors_origins), ((3, 600), origins.map(str::to_owned).to_vec()));
}

#[test]
fn a_node_remembers_idempotency_keys_as_the_spec_says() {
    let remembered = |config: Config| (config.table.token_window_ms, config.table.tokens);
    assert_eq!(remembered(config(container(&pod(json!({}))))), (600_000, 1_000_000));
    let spec = json!({"tokens": {"windowSeconds": 60, "max": 5_000}});
    assert_eq!(remembered(config(container(&pod(spec)))), (60_000, 5_000));
}

#[test]
fn a_pods_seeds_are_the_addresses_that_the_layout_has_for_the_first_nodes() {
    let config = config(container(&pod(json!({}))));
    let first = (0..3).map(|replica| NodeName::of("page-views", ShardId(0), replica));
    let expected: Vec<String> = first.map(|name| addresses().node(&name).unwrap().peer).collect();
    assert_eq!(config.seeds, expected);
}

#[test]
fn a_node_listens_where_its_pod_its_services_and_its_layout_say() {
    let pod = pod(json!({"resp": {"enabled": true}}));
    let (container, config) = (container(&pod), config(container(&pod)));
    let layout = addresses().node(&NodeName::from(POD)).unwrap();
    let listens = [
        ("http", config.http, layout.http),
        ("admin", config.admin, layout.admin),
        ("peer", config.peer, layout.peer),
        ("resp", config.resp.unwrap(), layout.resp.unwrap()),
    ];
    let ports = container.ports.as_ref().unwrap();
    assert_eq!(ports.len(), listens.len());
    for (name, address, in_layout) in listens {
        let port = ports.iter().find(|port| port.name.as_deref() == Some(name)).unwrap();
        assert_eq!(port.container_port, i32::from(address.port()), "{name}");
        assert!(address.ip().is_unspecified(), "{name} listens on {address} only");
        assert_eq!(in_layout, format!("{POD}.page-views-nodes.site.svc:{}", address.port()));
    }
}

#[test]
fn the_redis_protocol_is_off_unless_the_spec_asks_for_it() {
    for spec in [json!({}), json!({"resp": {}}), json!({"resp": {"enabled": false}})] {
        assert_eq!(config(container(&pod(spec.clone()))).resp, None, "{spec}");
    }
}

#[test]
fn a_pod_mounts_what_its_node_is_told_to_use() {
    let redis = json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}});
    let redis_pod = pod(redis);
    let mounts = container(&redis_pod).volume_mounts.clone().unwrap();
    let StoreConfig::Redis(store) = config(container(&redis_pod)).store else { panic!("it keeps counts elsewhere") };
    assert_eq!((store.prefix, store.node.as_str()), (ClusterId(7).to_string(), POD));
    assert!(mounts.iter().any(|mount| store.url_file.starts_with(&mount.mount_path)), "{mounts:?}");
    for spec in [json!({}), json!({"storage": {"memory": {}}})] {
        let pod = pod(spec.clone());
        let mounts = container(&pod).volume_mounts.clone().unwrap();
        let config = config(container(&pod));
        let mounted = |path: &Path| mounts.iter().find(|mount| path.starts_with(&mount.mount_path));
        let token = mounted(&config.cluster_token_file.unwrap()).unwrap();
        assert_eq!(token.read_only, Some(true), "{spec}");
        // The file in it is the Secret's key of the current token.
        let secret = operator::controller::build::secret(&spec_of(spec.clone()), "t");
        assert!(secret.data.unwrap_or_default().contains_key(operator::controller::build::TOKEN_KEY), "{spec}");
        let data = mounted(Path::new("/var/lib/counter")).unwrap();
        assert_ne!(data.read_only, Some(true), "{spec}");
    }
}
