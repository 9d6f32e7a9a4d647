//! The validated spec: no value in it is left to parse or to default.

use std::collections::BTreeSet;
use std::fmt;

use counter_core::id::NodeName;

use crate::crd::{Acks, DistributedCounter, Fsync, PodSettings, Retain, Retention, SecretKeyRef, ServiceSpec, StorageSpec};

use super::quantity::Bytes;

/// Asks for operator-made changes of Pods to be rolled out; any new value does.
pub const APPLY_UPDATE_ANNOTATION: &str = "distributedcounter.dev/apply-update";
/// Accepts that what only the lost volumes of these nodes held is lost: names, separated by commas.
pub const ACCEPT_LOSS_ANNOTATION: &str = "distributedcounter.dev/accept-loss";

/// What a cluster is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterSpec {
    pub identity: Identity,
    /// 1 to 256.
    pub shards: u16,
    /// 1 to 7.
    pub replicas: u16,
    pub acks: Acks,
    pub storage: Storage,
    /// The pages to be spread over several keys, and over how many each, the first pattern in force first.
    pub virtual_shards: Vec<(String, u16)>,
    /// None for the operator's default.
    pub image: Option<String>,
    pub service: ServiceSpec,
    /// Where the public API's tokens are, if it needs any.
    pub api_token: Option<SecretKeyRef>,
    /// Whether nodes speak the Redis protocol.
    pub resp: bool,
    pub tokens: Tokens,
    pub presence: Presence,
    /// The sites whose pages may use the public API from a browser.
    pub origins: Vec<String>,
    pub paused: bool,
    pub pod: PodSettings,
}

/// How long, and how many, idempotency keys are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// 1 to 86400.
    pub window_seconds: u32,
    /// At each node: 1 to 100000000.
    pub max: u32,
}

/// How long viewers count who have fallen silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// With their node: 3 to 60.
    pub lease_seconds: u16,
    /// By themselves: 1 to 600.
    pub heartbeat_seconds: u16,
}

/// Which object describes the cluster, and which state of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub namespace: String,
    /// At most 40 characters; the prefix of all names in the cluster.
    pub name: String,
    /// None where no API server gave one.
    pub uid: Option<String>,
    /// The spec's generation; 0 where no API server counts them.
    pub generation: i64,
    /// What [`APPLY_UPDATE_ANNOTATION`] says.
    pub apply_update: Option<String>,
    /// The nodes that [`ACCEPT_LOSS_ANNOTATION`] names.
    pub accept_loss: Vec<NodeName>,
}

/// The user's part in a template: while it is the same, changes that the operator would make wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger(pub String);

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where counts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    Volume(Volume),
    Memory,
    /// An external Redis; where its URL is.
    Redis(SecretKeyRef),
}

/// A volume per node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    pub size: Bytes,
    /// None for the Kubernetes cluster's default.
    pub class: Option<String>,
    pub fsync: Fsync,
    pub retention: Retention,
}

impl ClusterSpec {
    /// A node's flags for idempotency keys, viewers and browsers, each with its value.
    #[must_use]
    pub fn client_flags(&self) -> Vec<(&'static str, String)> {
        let mut flags = vec![
            ("--token-window", self.tokens.window_seconds.to_string()),
            ("--max-tokens", self.tokens.max.to_string()),
            ("--presence-lease", self.presence.lease_seconds.to_string()),
            ("--presence-heartbeat", self.presence.heartbeat_seconds.to_string()),
        ];
        if !self.origins.is_empty() {
            flags.push(("--cors-origin", self.origins.join(",")));
        }
        flags
    }
}

impl Identity {
    /// What templates of this state of the object are made for.
    #[must_use]
    pub fn trigger(&self) -> Trigger {
        Trigger(match &self.apply_update {
            None => self.generation.to_string(),
            Some(value) => format!("{} {value}", self.generation),
        })
    }
}

impl Storage {
    /// Its name in a node's argv and status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Volume(_) => "volume",
            Self::Memory => "memory",
            Self::Redis(_) => "redis",
        }
    }

    /// What becomes of claims, and with them of the record of the layout. There are claims of volumes only, but what a
    /// Redis holds outlives the object as retained ones do.
    #[must_use]
    pub fn retention(&self) -> Retention {
        match self {
            Self::Volume(volume) => volume.retention,
            Self::Memory => Retention { when_scaled: Retain::Delete, when_deleted: Retain::Delete },
            Self::Redis(_) => Retention::default(),
        }
    }
}

/// The spec of an object that breaks no rule. Values that a rule excludes are cut to the nearest that it admits.
pub(super) fn parse(object: &DistributedCounter) -> ClusterSpec {
    let (metadata, spec) = (&object.metadata, &object.spec);
    let annotation = |name: &str| metadata.annotations.as_ref().and_then(|annotations| annotations.get(name)).cloned();
    ClusterSpec {
        identity: Identity {
            namespace: metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone(),
            generation: metadata.generation.unwrap_or_default(),
            apply_update: annotation(APPLY_UPDATE_ANNOTATION),
            accept_loss: annotation(ACCEPT_LOSS_ANNOTATION).as_deref().map(node_names).unwrap_or_default(),
        },
        shards: within(spec.shards, 256),
        replicas: within(spec.replicas, 7),
        acks: spec.acks,
        storage: storage(&spec.storage),
        virtual_shards: spec.virtual_shards.iter().map(|own| (own.pages.clone(), within(own.count, 256))).collect(),
        image: spec.image.clone(),
        service: spec.service.clone(),
        api_token: spec.api_token_secret_ref.clone(),
        resp: spec.resp.enabled,
        tokens: Tokens {
            window_seconds: spec.tokens.window_seconds.clamp(1, 86_400).unsigned_abs(),
            max: spec.tokens.max.clamp(1, 100_000_000).unsigned_abs(),
        },
        presence: Presence {
            lease_seconds: within(spec.presence.lease_seconds, 60).max(3),
            heartbeat_seconds: within(spec.presence.heartbeat_seconds, 600),
        },
        origins: spec.cors.origins.clone(),
        paused: spec.paused,
        pod: spec.pod.clone(),
    }
}

/// The names in a list that is separated by commas.
pub(super) fn node_names(list: &str) -> Vec<NodeName> {
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: BTreeSet<NodeName> = names.map(NodeName::from).collect();
    names.into_iter().collect()
}

fn within(number: i32, max: u16) -> u16 {
    u16::try_from(number.max(1)).unwrap_or(max).min(max)
}

fn storage(spec: &StorageSpec) -> Storage {
    if let Some(redis) = &spec.redis {
        return Storage::Redis(redis.url_secret_ref.clone());
    }
    let Some(volume) = &spec.volume else { return Storage::Memory };
    Storage::Volume(Volume {
        size: Bytes::parse(&volume.size).unwrap_or_default(),
        class: volume.storage_class_name.clone(),
        fsync: volume.fsync,
        retention: volume.retention,
    })
}
