//! `DistributedCounter`, the object that a person writes: its fields, their defaults, and the rules that need no cluster.
//!
//! The rules are CEL in the schema, so that the API server refuses a wrong object before it is stored.
//! [`crate::controller::validate`] mirrors each of them with the same words, for files that no API server sees.

#![allow(unreachable_pub, reason = "the schema macro makes private copies of public types")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

pub use generate::{crd, yaml};
pub use pod::PodSettings;
pub use status::{DistributedCounterStatus, MoveProgress};
pub use storage::{Fsync, MemoryStorage, RedisStorage, Retain, Retention, StorageSpec, VolumeStorage};

mod generate;
mod pod;

pub mod rule;
mod status;
mod storage;

/// The API group of [`DistributedCounter`], and the prefix of the product's labels and annotations.
pub const GROUP: &str = "distributedcounter.dev";

/// What a cluster of counters is to be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "distributedcounter.dev",
    version = "v1alpha1",
    kind = "DistributedCounter",
    plural = "distributedcounters",
    shortname = "dcounter",
    namespaced,
    doc = "A cluster of counter nodes that counts, shards and replicates. `spec: {}` is a sane one of one shard and three replicas.",
    status = "DistributedCounterStatus",
    derive = "PartialEq",

    scale(
        spec_replicas_path = ".spec.shards",
        status_replicas_path = ".status.shards",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Shards", type_ = "integer", json_path = ".status.shards", description = "Shards in the layout"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyShards", description = "Shards of which every node is ready"),
    printcolumn(name = "Consistency", type_ = "string", json_path = ".spec.consistency", description = "How replicas agree"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Available')].status",
        description = "Whether every slot has a serving owner"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(rule::NAME_LENGTH.cel).message(rule::NAME_LENGTH.message),
    validation = Rule::new(rule::NAME_FORM.cel).message(rule::NAME_FORM.message),
    validation = Rule::new(rule::NAME_SUFFIX.cel).message(rule::NAME_SUFFIX.message)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::MEMORY_REPLICAS.cel).message(rule::MEMORY_REPLICAS.message))]
pub struct DistributedCounterSpec {
    /// How many shards the counters are spread over, 1 to 256; the number that the scale subresource changes. A shard is
    /// a group of replicas, one StatefulSet. Only growing works for now.
    #[serde(default = "one")]
    #[x_kube(validation = Rule::new(rule::SHARDS.cel).message(rule::SHARDS.message))]
    pub shards: i32,
    /// How many nodes hold each shard, 1 to 7. Only growing works for now.
    #[serde(default = "three")]
    #[x_kube(validation = Rule::new(rule::REPLICAS.cel).message(rule::REPLICAS.message))]
    pub replicas: i32,
    /// How replicas agree. Eventual: any replica counts by itself, and all come to the same exact number. Immutable.
    #[serde(default)]
    #[x_kube(validation = Rule::new(rule::CONSISTENCY.cel).message(rule::CONSISTENCY.message))]
    pub consistency: Consistency,
    /// When an update is answered. Local: when one replica has it. Quorum: when a majority of the shard's replicas have it.
    #[serde(default)]
    pub acks: Acks,
    /// Where counts are kept: exactly one of `volume`, `memory` and `redis`. The kind is immutable.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Pages that are counted under several keys, spread over shards, for more updates than one shard takes; to clients each
    /// stays one page. Updates go by the first pattern that fits. What was counted under a pattern is read for ever.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new(rule::SPREAD_PAGES.cel).message(rule::SPREAD_PAGES.message))]
    #[x_kube(validation = Rule::new(rule::SPREAD_COUNT.cel).message(rule::SPREAD_COUNT.message))]
    #[x_kube(validation = Rule::new(rule::SPREAD_ONCE.cel).message(rule::SPREAD_ONCE.message))]
    #[schemars(length(max = 32))]
    pub virtual_shards: Vec<VirtualShardsSpec>,
    /// The nodes' image. The operator's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(rule::IMAGE.cel).message(rule::IMAGE.message))]
    #[schemars(length(max = 512))]
    pub image: Option<String>,
    /// The Service that clients use.
    #[serde(default)]
    pub service: ServiceSpec,
    /// The Redis protocol, beside HTTP.
    #[serde(default)]
    pub resp: RespSpec,
    /// How long, and how many, idempotency keys are remembered.
    #[serde(default)]
    pub tokens: TokensSpec,
    /// How long viewers count who have fallen silent.
    #[serde(default)]
    pub presence: PresenceSpec,
    /// Which sites' pages may use the public API from a browser.
    #[serde(default)]
    pub cors: CorsSpec,
    /// While true the operator changes nothing; nodes go on counting, and status is kept up to date.
    #[serde(default)]
    pub paused: bool,
    /// The bearer tokens, one a line, of which a client needs one to change anything through the public API. Without it
    /// whoever reaches that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_token_secret_ref: Option<SecretKeyRef>,
    /// As in Pods.
    #[serde(flatten)]
    pub pod: PodSettings,
}

/// A key of a Secret in the object's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[x_kube(validation = Rule::new(rule::SECRET_NAME.cel).message(rule::SECRET_NAME.message))]
    #[schemars(length(max = 253))]
    pub name: String,
    /// The key in it.
    #[x_kube(validation = Rule::new(rule::SECRET_KEY.cel).message(rule::SECRET_KEY.message))]
    #[schemars(length(max = 253))]
    pub key: String,
}

/// Pages that are counted under several keys.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualShardsSpec {
    /// A glob on the whole page: `*` is any text, `?` any one character.
    #[schemars(length(max = 512))]
    pub pages: String,
    /// Over how many keys the updates of each page are spread, 1 to 256.
    pub count: i32,
}

/// How replicas agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Consistency {
    #[default]
    Eventual,
}

/// When an update is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Acks {
    #[default]
    Local,
    Quorum,
}

impl Acks {
    /// Its name in the spec and in a node's argv.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Quorum => "Quorum",
        }
    }
}

/// The Service that clients use.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// As in Services: ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations of the Service, for load balancers and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The Redis protocol.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RespSpec {
    /// Whether nodes speak it, on port 6379 of each and of the Service. A change replaces the Pods, one at a time.
    #[serde(default)]
    pub enabled: bool,
}

/// How long, and how many, idempotency keys (tokens) are remembered. A change replaces the Pods, one at a time.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokensSpec {
    /// An update under a key that was made more than so many seconds ago, 1 to 86400, is refused; one that is repeated before counts once.
    #[serde(default = "ten_minutes")]
    #[x_kube(validation = Rule::new(rule::TOKEN_WINDOW.cel).message(rule::TOKEN_WINDOW.message))]
    pub window_seconds: i32,
    /// A node that remembers so many, 1 to 100000000, refuses updates under further ones until their window has passed. A million take
    /// some 100 to 200 MB of memory.
    #[serde(default = "a_million")]
    #[x_kube(validation = Rule::new(rule::TOKENS.cel).message(rule::TOKENS.message))]
    pub max: i32,
}

impl Default for TokensSpec {
    fn default() -> Self {
        Self { window_seconds: ten_minutes(), max: a_million() }
    }
}

/// How long viewers count who have fallen silent. A change replaces the Pods, one at a time.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceSpec {
    /// A node that is silent for so many seconds, 3 to 60, has no viewers any more.
    #[serde(default = "five")]
    #[x_kube(validation = Rule::new(rule::LEASE.cel).message(rule::LEASE.message))]
    pub lease_seconds: i32,
    /// A viewer who is silent for so many seconds, 1 to 600, is gone.
    #[serde(default = "twenty")]
    #[x_kube(validation = Rule::new(rule::HEARTBEAT.cel).message(rule::HEARTBEAT.message))]
    pub heartbeat_seconds: i32,
}

impl Default for PresenceSpec {
    fn default() -> Self {
        Self { lease_seconds: five(), heartbeat_seconds: twenty() }
    }
}

/// Which sites' pages may use the public API from a browser. A change replaces the Pods, one at a time.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsSpec {
    /// Origins as browsers send them, such as https://www.example.org; `*` is any. None: only pages that nodes serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(validation = Rule::new(rule::ORIGINS.cel).message(rule::ORIGINS.message))]
    #[schemars(length(max = 64), inner(length(max = 256)))]
    pub origins: Vec<String>,
}

/// The kinds of Services that make sense for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]

pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
}

impl ServiceType {
    /// Its name in a Service.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

fn one() -> i32 {
    1
}

fn three() -> i32 {
    3
}

fn five() -> i32 {
    5
}

fn ten_minutes() -> i32 {
    600
}

fn a_million() -> i32 {
    1_000_000
}

fn twenty() -> i32 {
    20
}

#[cfg(test)]
mod tests;
