//! The one container of a Pod: the node, its command line, its probes.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, Probe, SecurityContext, SleepAction, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::controller::validate::{Bytes, ClusterSpec, Storage};

use super::names::CLAIM_TEMPLATE;
use super::template::{ADMIN, API_TOKEN_VOLUME, Port, REDIS_URL_VOLUME, RESP, TOKEN_VOLUME, ports, redis_prefix, seeds};

/// The container's name, for `kubectl logs`.
const CONTAINER: &str = "counter-node";
const DATA_DIR: &str = "/var/lib/counter";
const TOKEN_DIR: &str = "/etc/counter/token";
const TOKEN_FILE: &str = "/etc/counter/token/token";
const API_TOKEN_DIR: &str = "/etc/counter/api-token";
const API_TOKEN_FILE: &str = "/etc/counter/api-token/token";
const REDIS_URL_DIR: &str = "/etc/counter/redis-url";
const REDIS_URL_FILE: &str = "/etc/counter/redis-url/url";
/// How much of its container's memory limit a node's counters may take. The rest is for storage, connections and what is
/// under way: at its own limit a node refuses new pages, at the container's it is killed.
const COUNTERS_MEMORY_PERCENT: u128 = 70;
/// How long a node takes at most to hand over and flush.
const SHUTDOWN_GRACE_SECONDS: u16 = 25;
/// Services learn that a Pod goes while it goes: for this long it still takes those who have not heard.
const PAUSE_BEFORE_STOP_SECONDS: i64 = 3;

pub(super) fn container(spec: &ClusterSpec, image: String, pull_policy: Option<&'static str>) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image),
        image_pull_policy: pull_policy.map(str::to_owned),
        args: Some(args(spec)),
        env: Some(env()),
        ports: Some(ports(spec).map(container_port).collect()),
        volume_mounts: Some(mounts(spec)),
        // Reading a large volume takes its time; until then nothing else may call the node dead.
        startup_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(300), ..probe("/livez") }),
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(3), ..probe("/livez") }),
        readiness_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(2), ..probe("/readyz") }),
        lifecycle: Some(lifecycle()),
        resources: spec.pod.resources.clone(),
        security_context: Some(security_context()),
        ..Container::default()
    }
}

fn mounts(spec: &ClusterSpec) -> Vec<VolumeMount> {
    let api_token = spec.api_token.as_ref().map(|_| mount(API_TOKEN_VOLUME, API_TOKEN_DIR, true));
    let (data, redis_url) = match spec.storage {
        Storage::Volume(_) | Storage::Memory => (Some(mount(CLAIM_TEMPLATE, DATA_DIR, false)), None),
        Storage::Redis(_) => (None, Some(mount(REDIS_URL_VOLUME, REDIS_URL_DIR, true))),
    };
    data.into_iter().chain([mount(TOKEN_VOLUME, TOKEN_DIR, true)]).chain(api_token).chain(redis_url).collect()
}

fn args(spec: &ClusterSpec) -> Vec<String> {
    let storage = match &spec.storage {
        Storage::Volume(volume) => vec![("--data", DATA_DIR), ("--fsync", volume.fsync.as_str())],
        Storage::Memory => vec![("--data", DATA_DIR)],
        Storage::Redis(_) => vec![("--redis-url-file", REDIS_URL_FILE), ("--redis-prefix", redis_prefix())],
    };
    let grace = SHUTDOWN_GRACE_SECONDS.to_string();
    let seeds = seeds(spec);
    let memory = memory_max(spec).map(|bytes| bytes.to_string());
    let resp = RESP.number.to_string();
    let of_clients = spec.client_flags();
    let mut flags = vec![
        ("--name", "$(POD_NAME)"),
        ("--seeds", &seeds),
        ("--storage", spec.storage.kind()),
        ("--acks", spec.acks.as_str()),
        ("--cluster-token-file", TOKEN_FILE),
        ("--shutdown-grace", &grace),
    ];
    flags.extend(storage);
    flags.extend(spec.api_token.as_ref().map(|_| ("--api-token-file", API_TOKEN_FILE)));
    flags.extend(spec.resp.then_some(("--resp", resp.as_str())));
    flags.extend(of_clients.iter().map(|(flag, value)| (*flag, value.as_str())));
    flags.extend(memory.as_deref().map(|bytes| ("--max-memory", bytes)));
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
}

/// What counters may take of the container's memory, in bytes; None where that has no limit.
fn memory_max(spec: &ClusterSpec) -> Option<u128> {
    let limit = spec.pod.resources.as_ref()?.limits.as_ref()?.get("memory")?;
    Some(Bytes::of_claim(&limit.0)?.percent(COUNTERS_MEMORY_PERCENT)).filter(|bytes| *bytes > 0)
}

fn env() -> Vec<EnvVar> {
    let bind = EnvVar { name: "COUNTER_BIND".to_owned(), value: Some("0.0.0.0".to_owned()), value_from: None };
    vec![field("POD_NAME", "metadata.name"), field("COUNTER_POD_UID", "metadata.uid"), bind]
}

fn field(name: &str, path: &str) -> EnvVar {
    // Said in full, as the API server would complete it.
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value: None, value_from: Some(source) }
}

fn container_port(port: Port) -> ContainerPort {
    ContainerPort {
        name: Some(port.name.to_owned()),
        container_port: port.number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn probe(path: &str) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String(ADMIN.name.to_owned()),
        ..HTTPGetAction::default()
    };
    Probe { http_get: Some(get), timeout_seconds: Some(3), ..Probe::default() }
}

fn lifecycle() -> Lifecycle {
    let sleep = SleepAction { seconds: PAUSE_BEFORE_STOP_SECONDS };
    Lifecycle { pre_stop: Some(LifecycleHandler { sleep: Some(sleep), ..LifecycleHandler::default() }), ..Lifecycle::default() }
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}
