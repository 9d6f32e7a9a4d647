//! Where counts are kept.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{SecretKeyRef, rule};

/// Where counts are kept: exactly one of the fields.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new(rule::STORAGE_KIND.cel).message(rule::STORAGE_KIND.message))]
#[x_kube(validation = Rule::new(rule::STORAGE_KIND_FIXED.cel).message(rule::STORAGE_KIND_FIXED.message))]
pub struct StorageSpec {
    /// A volume per node. What was answered survives the death of every process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeStorage>,
    /// The nodes' memory. What was answered survives as long as one of the shard's replicas that has it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStorage>,
    /// An external Redis or Valkey, in place of volumes. What was answered survives as that is configured to let it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStorage>,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self { volume: Some(VolumeStorage::default()), memory: None, redis: None }
    }
}

/// The nodes' memory; nothing to set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStorage {}

/// An external Redis 7 or Valkey, or newer. Its keys begin with the cluster's id, so that clusters may share one.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisStorage {
    /// Its URL, redis:// or rediss:// with TLS. Nodes read it again when the Secret changes.
    pub url_secret_ref: SecretKeyRef,
}

/// A volume per node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(rule::CLASS_FIXED.cel).message(rule::CLASS_FIXED.message))]
pub struct VolumeStorage {
    /// The size of each volume. It only grows, and needs a storage class that allows expansion to do so.
    #[serde(default = "one_gibibyte")]
    #[x_kube(validation = Rule::new(rule::SIZE_FORM.cel).message(rule::SIZE_FORM.message))]
    #[x_kube(validation = Rule::new(rule::SIZE_POSITIVE.cel).message(rule::SIZE_POSITIVE.message))]
    #[x_kube(validation = Rule::new(rule::SIZE_GROWS.cel).message(rule::SIZE_GROWS.message))]
    #[schemars(length(max = 32))]
    pub size: String,
    /// The volumes' StorageClass. The Kubernetes cluster's default when absent. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
    /// When what was written is made safe from a power loss. Always: before the answer. EverySecond: within a second or two.
    /// Never: when the operating system does. The death of a process loses nothing in any of them.
    #[serde(default)]
    pub fsync: Fsync,
    /// What becomes of volumes that are no longer used.
    #[serde(default)]
    pub retention: Retention,
}

impl Default for VolumeStorage {
    fn default() -> Self {
        Self { size: one_gibibyte(), storage_class_name: None, fsync: Fsync::default(), retention: Retention::default() }
    }
}

fn one_gibibyte() -> String {
    "1Gi".to_owned()
}

/// When what was written is made safe from a power loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Fsync {
    Always,
    #[default]
    EverySecond,
    Never,
}

impl Fsync {
    /// Its name in the spec and in a node's argv.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::EverySecond => "EverySecond",
            Self::Never => "Never",
        }
    }
}

/// What becomes of volumes that are no longer used.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Of nodes and shards that the spec no longer asks for.
    #[serde(default)]
    pub when_scaled: Retain,
    /// Of the whole cluster, when its object is deleted. Retained volumes count on when an object of the same name comes.
    #[serde(default)]
    pub when_deleted: Retain,
}

/// Whether an unused volume stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Retain {
    #[default]
    Retain,
    Delete,
}

impl Retain {
    /// Its name in a StatefulSet's claim retention policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retain => "Retain",
            Self::Delete => "Delete",
        }
    }

    /// The policy of this name in a StatefulSet.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name == "Delete" { Self::Delete } else { Self::Retain }
    }
}
