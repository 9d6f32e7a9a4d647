use serde_json::{Value, json};

use super::*;
use crate::crd::rule;

/// An object named `page-views` with this spec.
pub(crate) fn object(spec: Value) -> DistributedCounter {
    let metadata = json!({"name": "page-views", "namespace": "site", "uid": "11111111-2222", "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// The cluster that such an object describes.
pub(crate) fn spec_of(spec: Value) -> ClusterSpec {
    validate(&object(spec)).unwrap()
}

fn refusals(spec: Value) -> Vec<String> {
    validate(&object(spec)).unwrap_err().iter().map(Violation::to_string).collect()
}

fn update_refusals(old: Value, new: Value) -> Vec<String> {
    let refused = validate_update(&object(old), &object(new)).err().unwrap_or_default();
    refused.iter().map(Violation::to_string).collect()
}

fn says(field: &str, rule: rule::RuleText) -> Vec<String> {
    vec![if field.is_empty() { rule.message.to_owned() } else { format!("{field}: {}", rule.message) }]
}

#[test]
fn an_empty_spec_is_one_shard_of_three_replicas_on_volumes() {
    let spec = spec_of(json!({}));
    assert_eq!((spec.shards, spec.replicas, spec.paused, spec.image), (1, 3, false, None));
    let Storage::Volume(volume) = spec.storage else { panic!("a volume is the default") };
    assert_eq!(volume.size.as_str(), "1Gi");
    assert_eq!(spec.identity.trigger(), Trigger("1".to_owned()));
}

#[test]
fn the_bounds_of_shards_and_replicas_are_inclusive() {
    for (shards, replicas) in [(1, 1), (256, 7)] {
        let spec = spec_of(json!({"shards": shards, "replicas": replicas}));
        assert_eq!((spec.shards, spec.replicas), (shards, replicas));
    }
    for shards in [-1, 0, 257, i32::MAX] {
        assert_eq!(refusals(json!({"shards": shards})), says("spec.shards", rule::SHARDS), "{shards}");
    }
    for replicas in [i32::MIN, 0, 8] {
        assert_eq!(refusals(json!({"replicas": replicas})), says("spec.replicas", rule::REPLICAS), "{replicas}");
    }
}

#[test]
fn every_broken_rule_is_told_at_once() {
    let spec = json!({"shards": 0, "replicas": 0, "image": "", "storage": {"volume": {"size": "1 GB"}, "memory": {}}});
    let refused = refusals(spec);
    let fields: Vec<&str> = refused.iter().map(|refusal| refusal.split(':').next().unwrap()).collect();
    assert_eq!(fields, ["spec", "spec.shards", "spec.replicas", "spec.image", "spec.storage", "spec.storage.volume.size"]);
}

#[test]
fn names_must_leave_room_for_the_names_made_from_them() {
    let named = |name: &str| {
        let mut object = object(json!({}));
        object.metadata.name = Some(name.to_owned());
        let refused = validate(&object).err().unwrap_or_default();
        refused.iter().map(Violation::to_string).collect::<Vec<_>>()
    };
    for name in ["a", "a-1", "page-views", "nodes", &"a".repeat(40)] {
        assert_eq!(named(name), Vec::<String>::new(), "{name}");
    }
    assert_eq!(named(&"a".repeat(41)), says("", rule::NAME_LENGTH));
    assert_eq!(named("page-views-nodes"), says("", rule::NAME_SUFFIX));
    for name in ["", "1a", "-a", "a-", "A", "a.b", "ä"] {
        assert_eq!(named(name), says("", rule::NAME_FORM), "{name}");
    }
}

#[test]
fn storage_is_exactly_one_kind_and_memory_needs_a_second_replica() {
    assert_eq!(spec_of(json!({"storage": {"memory": {}}, "replicas": 2})).storage, Storage::Memory);
    assert_eq!(refusals(json!({"storage": {"memory": {}}, "replicas": 1})), says("spec", rule::MEMORY_REPLICAS));
    let redis = json!({"urlSecretRef": {"name": "redis", "key": "url"}});
    let Storage::Redis(reference) = spec_of(json!({"storage": {"redis": redis}, "replicas": 1})).storage else { panic!() };
    assert_eq!((reference.name.as_str(), reference.key.as_str()), ("redis", "url"));
    for storage in [
        json!({}),
        json!({"memory": {}, "volume": {}}),
        json!({"redis": redis, "volume": {}}),
        json!({"redis": redis, "memory": {}}),
        json!({"redis": redis, "memory": {}, "volume": {}}),
    ] {
        assert_eq!(refusals(json!({"storage": storage})), says("spec.storage", rule::STORAGE_KIND));
    }
}

#[test]
fn virtual_shards_are_patterns_with_counts() {
    let spread = |pages: &str, count: i32| json!({"virtualShards": [{"pages": pages, "count": count}]});
    for (pages, count) in [("a", 1), ("*", 256), (&"a".repeat(512), 2)] {
        assert_eq!(spec_of(spread(pages, count)).virtual_shards, [(pages.to_owned(), u16::try_from(count).unwrap())]);
    }
    for pages in ["", &"a".repeat(513), &"é".repeat(257)] {
        assert_eq!(refusals(spread(pages, 1)), says("spec.virtualShards", rule::SPREAD_PAGES), "{pages}");
    }
    for count in [-1, 0, 257] {
        assert_eq!(refusals(spread("a", count)), says("spec.virtualShards", rule::SPREAD_COUNT), "{count}");
    }
    let twice = json!({"virtualShards": [{"pages": "a", "count": 1}, {"pages": "a", "count": 2}]});
    assert_eq!(refusals(twice), says("spec.virtualShards", rule::SPREAD_ONCE));
}

#[test]
fn idempotency_keys_are_remembered_within_bounds() {
    let tokens = |window: i32, max: i32| json!({"tokens": {"windowSeconds": window, "max": max}});
    assert_eq!(spec_of(json!({"tokens": {}})).tokens, Tokens { window_seconds: 600, max: 1_000_000 });
    for (window, max) in [(1_i32, 1_i32), (86_400, 100_000_000)] {
        let expected = Tokens { window_seconds: window.unsigned_abs(), max: max.unsigned_abs() };
        assert_eq!(spec_of(tokens(window, max)).tokens, expected);
    }
    for window in [-1, 0, 86_401] {
        assert_eq!(refusals(tokens(window, 1)), says("spec.tokens.windowSeconds", rule::TOKEN_WINDOW), "{window}");
    }
    for max in [-1, 0, 100_000_001] {
        assert_eq!(refusals(tokens(600, max)), says("spec.tokens.max", rule::TOKENS), "{max}");
    }
}

#[test]
fn viewers_are_given_up_after_seconds_within_bounds() {
    let presence = |lease: i32, heartbeat: i32| json!({"presence": {"leaseSeconds": lease, "heartbeatSeconds": heartbeat}});
    assert_eq!(spec_of(json!({"presence": {}})).presence, Presence { lease_seconds: 5, heartbeat_seconds: 20 });
    for (lease, heartbeat) in [(3, 1), (60, 600)] {
        let expected = Presence { lease_seconds: lease, heartbeat_seconds: heartbeat };
        assert_eq!(spec_of(presence(lease.into(), heartbeat.into())).presence, expected);
    }
    for lease in [-1, 2, 61] {
        assert_eq!(refusals(presence(lease, 20)), says("spec.presence.leaseSeconds", rule::LEASE), "{lease}");
    }
    for heartbeat in [-1, 0, 601] {
        assert_eq!(refusals(presence(5, heartbeat)), says("spec.presence.heartbeatSeconds", rule::HEARTBEAT), "{heartbeat}");
    }
}

#[test]
fn origins_are_as_browsers_send_them() {
    let origins = |origin: &str| json!({"cors": {"origins": ["https://a.example", origin]}});
    for origin in ["*", "http://localhost:8080", "https://xn--bcher-kva.example"] {
        assert_eq!(spec_of(origins(origin)).origins, ["https://a.example", origin]);
    }
    for origin in ["", "a.example", "https://", "https://a.example/", "https://A.example", "ftp://a.example", "https://*.example"]
    {
        assert_eq!(refusals(origins(origin)), says("spec.cors.origins", rule::ORIGINS), "{origin}");
    }
}

#[test]
fn an_image_is_a_name_or_absent() {
    assert_eq!(spec_of(json!({"image": "a/b:1"})).image.as_deref(), Some("a/b:1"));
    assert_eq!(refusals(json!({"image": ""})), says("spec.image", rule::IMAGE));
}

#[test]
fn a_reference_to_a_secret_names_what_can_be_one() {
    let reference = |name: &str, key: &str| json!({"apiTokenSecretRef": {"name": name, "key": key}});
    assert_eq!(spec_of(reference("api.token-1", "Token_1.a-b")).api_token.unwrap().name, "api.token-1");
    for name in ["", "Api", "-api", "api.", "a b"] {
        assert_eq!(refusals(reference(name, "token")), says("spec.apiTokenSecretRef.name", rule::SECRET_NAME), "{name}");
    }
    for key in ["", "a/b", "ä"] {
        assert_eq!(refusals(reference("api", key)), says("spec.apiTokenSecretRef.key", rule::SECRET_KEY), "{key}");
    }
    let redis = |name: &str, key: &str| json!({"storage": {"redis": {"urlSecretRef": {"name": name, "key": key}}}});
    assert_eq!(refusals(redis("-", "url")), says("spec.storage.redis.urlSecretRef.name", rule::SECRET_NAME));
    assert_eq!(refusals(redis("redis", "")), says("spec.storage.redis.urlSecretRef.key", rule::SECRET_KEY));
}

#[test]
fn accepted_losses_are_a_list_of_nodes_of_this_cluster() {
    let accepts = |list: &str| {
        let mut object = object(json!({}));
        let name = object.metadata.name.clone().unwrap();
        object.metadata.annotations = Some([(ACCEPT_LOSS_ANNOTATION.to_owned(), list.replace("NAME", &name))].into());
        validate(&object).map(|spec| spec.identity.accept_loss.len()).map_err(|violations| violations[0].message)
    };
    assert_eq!([accepts(""), accepts("NAME-0-1"), accepts(" NAME-10-2, NAME-0-1,NAME-0-1 ")], [Ok(0), Ok(1), Ok(2)]);
    for list in ["other-0-1", "NAME", "NAME-0", "NAME-0-1-2", "NAME-00-1", "NAME-0-x", "NAME-0-1;NAME-0-2"] {
        assert_eq!(accepts(list), Err(rule::ACCEPT_LOSS.message), "{list}");
    }
}

#[test]
fn sizes_are_quantities_of_bytes() {
    let sized = |size: &str| json!({"storage": {"volume": {"size": size}}});
    for size in ["1", "1Gi", "1.5Gi", "0.001k", "999999999999999Pi"] {
        spec_of(sized(size));
    }
    for size in ["", "Gi", "1 Gi", "1gi", "1e3", "-1Gi", "1.Gi", "1.1234Gi", "1000m", "1Ei", "0x1", "1234567890123456"] {
        assert_eq!(refusals(sized(size)), says("spec.storage.volume.size", rule::SIZE_FORM), "{size}");
    }
    for size in ["0", "0Gi", "0.000Mi"] {
        assert_eq!(refusals(sized(size)), says("spec.storage.volume.size", rule::SIZE_POSITIVE), "{size}");
    }
}

#[test]
fn sizes_compare_by_what_they_are_worth() {
    let bytes = |text: &str| Bytes::parse(text).unwrap();
    assert_eq!(bytes("1Gi"), bytes("1024Mi"));
    assert_eq!(bytes("1.5Gi"), bytes("1536Mi"));
    assert!(bytes("1G") < bytes("1Gi"));
    assert_eq!(bytes("999999999999999Pi"), bytes("9999999999999Pi"), "both are past what Kubernetes holds");
    assert_eq!(Bytes::of_claim("1024").unwrap(), bytes("1Ki"));
    assert_eq!(Bytes::of_claim("1500m").unwrap(), bytes("1.5"));
}

#[test]
fn sizes_only_grow() {
    let sized = |size: &str| json!({"storage": {"volume": {"size": size}}});
    for (old, new) in [("1Gi", "2Gi"), ("1Gi", "1024Mi"), ("1Gi", "1Gi")] {
        assert_eq!(update_refusals(sized(old), sized(new)), Vec::<String>::new());
    }
    for (old, new) in [("1Gi", "1G"), ("2Gi", "1Gi")] {
        assert_eq!(update_refusals(sized(old), sized(new)), says("spec.storage.volume.size", rule::SIZE_GROWS));
    }
}

#[test]
fn the_kind_and_class_of_storage_stay() {
    let class = |name: &str| json!({"storage": {"volume": {"storageClassName": name}}});
    assert_eq!(update_refusals(class("a"), class("a")), Vec::<String>::new());
    for (old, new) in [(class("a"), class("b")), (class("a"), json!({})), (json!({}), class("a"))] {
        assert_eq!(update_refusals(old, new), says("spec.storage.volume", rule::CLASS_FIXED));
    }
    let memory = json!({"storage": {"memory": {}}});
    assert_eq!(update_refusals(json!({}), memory.clone()), says("spec.storage", rule::STORAGE_KIND_FIXED));
    assert_eq!(update_refusals(memory.clone(), json!({})), says("spec.storage", rule::STORAGE_KIND_FIXED));
    let redis = |name: &str| json!({"storage": {"redis": {"urlSecretRef": {"name": name, "key": "url"}}}});
    for (old, new) in [(redis("a"), json!({})), (memory.clone(), redis("a")), (redis("a"), memory), (json!({}), redis("a"))] {
        assert_eq!(update_refusals(old, new), says("spec.storage", rule::STORAGE_KIND_FIXED));
    }
    assert_eq!(update_refusals(redis("a"), redis("b")), Vec::<String>::new());
}

#[test]
fn the_annotation_that_asks_for_updates_is_part_of_the_trigger() {
    let mut object = object(json!({}));
    object.metadata.annotations = Some([(APPLY_UPDATE_ANNOTATION.to_owned(), "today".to_owned())].into());
    assert_eq!(validate(&object).unwrap().identity.trigger(), Trigger("1 today".to_owned()));
}

#[test]
fn the_schema_carries_every_rule_with_the_words_of_its_mirror() {
    let crd = serde_json::to_string(&crate::crd::crd()).unwrap();
    let rules = [
        rule::NAME_LENGTH,
        rule::NAME_FORM,
        rule::NAME_SUFFIX,
        rule::MEMORY_REPLICAS,
        rule::SHARDS,
        rule::REPLICAS,
        rule::CONSISTENCY,
        rule::IMAGE,
        rule::SECRET_NAME,
        rule::SECRET_KEY,
        rule::SPREAD_PAGES,
        rule::SPREAD_COUNT,
        rule::SPREAD_ONCE,
        rule::TOKEN_WINDOW,
        rule::TOKENS,
        rule::LEASE,
        rule::HEARTBEAT,
        rule::ORIGINS,
        rule::STORAGE_KIND,
        rule::STORAGE_KIND_FIXED,
        rule::CLASS_FIXED,
        rule::SIZE_FORM,
        rule::SIZE_POSITIVE,
        rule::SIZE_GROWS,
    ];
    for rule in rules {
        let entry = json!({"message": rule.message, "rule": rule.cel});
        assert!(crd.contains(&entry["message"].to_string()) && crd.contains(&entry["rule"].to_string()), "{}", rule.message);
    }
    // Those of references stand wherever there is one.
    let found: std::collections::BTreeSet<&str> =
        crd.split("\"rule\":").skip(1).filter_map(|rest| rest.split("\"}").next()).collect();
    assert_eq!(found.len(), rules.len(), "a rule without a mirror: {found:#?}");
}
