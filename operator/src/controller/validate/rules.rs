//! The mirror of the schema's rules.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::crd::rule::{self, RuleText};
use crate::crd::{DistributedCounter, StorageSpec, VolumeStorage};

use counter_core::counter::KEY_BYTES_MAX;
use counter_core::id::NodeName;

use super::Violation;
use super::quantity::Bytes;
use super::spec::{ACCEPT_LOSS_ANNOTATION, node_names};

const SHARDS_MAX: i32 = 256;
const REPLICAS_MAX: i32 = 7;
const VIRTUAL_SHARDS_MAX: i32 = 256;
const TOKEN_WINDOW_SECONDS: RangeInclusive<i32> = 1..=86_400;
const TOKENS: RangeInclusive<i32> = 1..=100_000_000;
const LEASE_SECONDS: RangeInclusive<i32> = 3..=60;
const HEARTBEAT_SECONDS: RangeInclusive<i32> = 1..=600;
const SPREAD: &str = "spec.virtualShards";
const NAME_CHARS_MAX: usize = 40;

/// Every rule that an object breaks by itself, in the order of its fields.
pub(super) fn broken(object: &DistributedCounter) -> Vec<Violation> {
    let mut broken = Broken::default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let spec = &object.spec;
    broken.unless(name.chars().count() <= NAME_CHARS_MAX, "", rule::NAME_LENGTH);
    broken.unless(is_dns_1035(name), "", rule::NAME_FORM);
    broken.unless(!name.ends_with("-nodes"), "", rule::NAME_SUFFIX);
    broken.unless(names_own_nodes(object, name), "metadata.annotations", rule::ACCEPT_LOSS);
    broken.unless(spec.storage.memory.is_none() || spec.replicas >= 2, "spec", rule::MEMORY_REPLICAS);
    broken.unless((1..=SHARDS_MAX).contains(&spec.shards), "spec.shards", rule::SHARDS);
    broken.unless((1..=REPLICAS_MAX).contains(&spec.replicas), "spec.replicas", rule::REPLICAS);
    broken.unless(spec.image.as_ref().is_none_or(|image| !image.is_empty()), "spec.image", rule::IMAGE);
    let spread = &spec.virtual_shards;
    let pages: BTreeSet<&str> = spread.iter().map(|own| own.pages.as_str()).collect();
    let is_pattern = |pages: &str| (1..=KEY_BYTES_MAX).contains(&pages.len());
    broken.unless(pages.iter().all(|pages| is_pattern(pages)), SPREAD, rule::SPREAD_PAGES);
    broken.unless(spread.iter().all(|own| (1..=VIRTUAL_SHARDS_MAX).contains(&own.count)), SPREAD, rule::SPREAD_COUNT);
    broken.unless(pages.len() == spread.len(), SPREAD, rule::SPREAD_ONCE);
    broken.unless(TOKEN_WINDOW_SECONDS.contains(&spec.tokens.window_seconds), "spec.tokens.windowSeconds", rule::TOKEN_WINDOW);
    broken.unless(TOKENS.contains(&spec.tokens.max), "spec.tokens.max", rule::TOKENS);
    broken.unless(LEASE_SECONDS.contains(&spec.presence.lease_seconds), "spec.presence.leaseSeconds", rule::LEASE);
    broken.unless(
        HEARTBEAT_SECONDS.contains(&spec.presence.heartbeat_seconds),
        "spec.presence.heartbeatSeconds",
        rule::HEARTBEAT,
    );
    broken.unless(spec.cors.origins.iter().all(|origin| is_origin(origin)), "spec.cors.origins", rule::ORIGINS);
    broken.unless(kinds(&spec.storage).into_iter().filter(|named| *named).count() == 1, "spec.storage", rule::STORAGE_KIND);
    if let Some(reference) = &spec.api_token_secret_ref {
        broken.unless(is_secret_name(&reference.name), "spec.apiTokenSecretRef.name", rule::SECRET_NAME);
        broken.unless(is_secret_key(&reference.key), "spec.apiTokenSecretRef.key", rule::SECRET_KEY);
    }
    if let Some(redis) = &spec.storage.redis {
        let reference = &redis.url_secret_ref;
        broken.unless(is_secret_name(&reference.name), "spec.storage.redis.urlSecretRef.name", rule::SECRET_NAME);
        broken.unless(is_secret_key(&reference.key), "spec.storage.redis.urlSecretRef.key", rule::SECRET_KEY);
    }
    if let Some(volume) = &spec.storage.volume {
        let size = Bytes::parse(&volume.size);
        broken.unless(size.is_some(), SIZE, rule::SIZE_FORM);
        broken.unless(size.is_none_or(|size| !size.is_zero()), SIZE, rule::SIZE_POSITIVE);
    }
    broken.0
}

/// Every rule that the change from one state of an object to the next breaks.
pub(super) fn broken_by_update(old: &DistributedCounter, new: &DistributedCounter) -> Vec<Violation> {
    let mut broken = Broken::default();
    let (old, new) = (&old.spec, &new.spec);
    broken.unless(new.consistency == old.consistency, "spec.consistency", rule::CONSISTENCY);
    let [volume, _, redis] = kinds(&new.storage);
    let kind_stays = (volume, redis) == (old.storage.volume.is_some(), old.storage.redis.is_some());
    broken.unless(kind_stays, "spec.storage", rule::STORAGE_KIND_FIXED);
    if let (Some(old), Some(new)) = (&old.storage.volume, &new.storage.volume) {
        broken.unless(new.storage_class_name == old.storage_class_name, "spec.storage.volume", rule::CLASS_FIXED);
        broken.unless(!shrinks(old, new), SIZE, rule::SIZE_GROWS);
    }
    broken.0
}

const SIZE: &str = "spec.storage.volume.size";

/// Which kinds of storage are named.
fn kinds(storage: &StorageSpec) -> [bool; 3] {
    [storage.volume.is_some(), storage.memory.is_some(), storage.redis.is_some()]
}

fn shrinks(old: &VolumeStorage, new: &VolumeStorage) -> bool {
    Bytes::parse(&old.size).zip(Bytes::parse(&new.size)).is_some_and(|(old, new)| new < old)
}

/// Whether the annotation that accepts losses, if there is one, lists what can be nodes of this cluster.
fn names_own_nodes(object: &DistributedCounter, cluster: &str) -> bool {
    let list = object.metadata.annotations.as_ref().and_then(|annotations| annotations.get(ACCEPT_LOSS_ANNOTATION));
    let is_number = |part: &str| part.parse::<u16>().is_ok_and(|number| number.to_string() == part);
    let is_own = |node: &NodeName| {
        let place = node.0.strip_prefix(cluster).and_then(|rest| rest.strip_prefix('-')).and_then(|place| place.split_once('-'));
        place.is_some_and(|(shard, replica)| is_number(shard) && is_number(replica))
    };
    list.is_none_or(|list| node_names(list).iter().all(is_own))
}

fn is_origin(origin: &str) -> bool {
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_host =
        |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c));
    origin == "*" || host.is_some_and(is_host)
}

fn is_secret_name(name: &str) -> bool {
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    name.chars().all(inner) && end(name.chars().next()) && end(name.chars().next_back())
}

fn is_secret_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn is_dns_1035(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[derive(Default)]
struct Broken(Vec<Violation>);

impl Broken {
    fn unless(&mut self, holds: bool, field: &'static str, rule: RuleText) {
        if !holds {
            self.0.push(Violation { field, message: rule.message });
        }
    }
}
