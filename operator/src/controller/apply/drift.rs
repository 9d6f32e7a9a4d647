//! Whether a live object still says all that we said: the comparison that makes a pass without changes write nothing.
//!
//! The API server fills in defaults and others add fields of their own, so a live object always says more than was
//! applied. Only what we said counts. What we *stopped* saying is not seen here; the hash of the applied object, kept as
//! an annotation on it, shows that.

use serde_json::{Map, Value, json};

/// The fields by which Kubernetes tells the elements of a list apart, where it merges lists by element.
const KEYS: [&str; 4] = ["name", "containerPort", "mountPath", "uid"];
/// The fields below which texts are amounts, which the API server rewrites: `0.5` becomes `500m`.
const AMOUNTS: [&str; 3] = ["limits", "requests", "sizeLimit"];

/// The fields below which a further key changes what all of it means: Kubernetes takes them as a whole.
const WHOLES: [&str; 5] = ["selector", "matchLabels", "podSelector", "labelSelector", "nodeSelector"];

/// Whether `live` holds all that `desired` says.
#[must_use]
pub(super) fn holds(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => holds_object(live, desired),
        (Value::Array(live), Value::Array(desired)) => holds_list(live, desired),
        _ => live == desired,
    }
}

fn holds_object(live: &Map<String, Value>, desired: &Map<String, Value>) -> bool {
    desired.iter().all(|(field, desired)| match live.get(field) {
        None => says_nothing(desired),
        Some(live) if WHOLES.contains(&field.as_str()) => holds(live, desired) && says_no_more(live, desired),
        Some(live) if AMOUNTS.contains(&field.as_str()) => holds_amounts(live, desired),
        Some(live) => holds(live, desired),
    })
}

fn says_no_more(live: &Value, desired: &Value) -> bool {
    let (Some(live), Some(desired)) = (live.as_object(), desired.as_object()) else { return true };
    live.iter().all(|(field, value)| desired.contains_key(field) || says_nothing(value))
}

fn holds_list(live: &[Value], desired: &[Value]) -> bool {
    match KEYS.iter().find(|key| !desired.is_empty() && desired.iter().all(|element| element.get(**key).is_some())) {
        // Others may add elements, such as a side-car, and in any order.
        Some(key) => {
            desired.iter().all(|wanted| live.iter().any(|found| found.get(*key) == wanted.get(*key) && holds(found, wanted)))
        }
        None => live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| holds(live, desired)),
    }
}

fn holds_amounts(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().all(|(resource, desired)| match live.get(resource) {
            None => says_nothing(desired),
            Some(live) => holds_amounts(live, desired),
        }),
        (Value::String(live), Value::String(desired)) => match (amount(live), amount(desired)) {
            (Some(live), Some(desired)) => live == desired,
            _ => live == desired,
        },
        _ => live == desired,
    }
}

/// A merge patch that puts the drifted lists of `live` right as a whole; None where no list has drifted.
///
/// An apply merges lists by element. An element whose *key* somebody has changed stays beside ours as theirs, and the two
/// may not be allowed together, such as two ports of one name.
pub(super) fn lists(live: &Value, desired: &Value) -> Option<Value> {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            let drifted = desired.iter().filter_map(|(field, desired)| Some((field.clone(), lists(live.get(field)?, desired)?)));
            let drifted: Map<String, Value> = drifted.collect();
            (!drifted.is_empty()).then_some(Value::Object(drifted))
        }
        (Value::Array(live), Value::Array(desired)) => (!holds_list(live, desired)).then(|| Value::Array(desired.clone())),
        _ => None,
    }
}

/// The fields of a Pod that Kubernetes leaves as they were said, so that one which nobody of us said is somebody else's.
const POD_FIELDS: [&str; 17] = [
    "affinity",
    "dnsConfig",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "priorityClassName",
    "runtimeClassName",
    "shareProcessNamespace",
    "tolerations",
];
/// The same of a container.
const CONTAINER_FIELDS: [&str; 8] =
    ["command", "envFrom", "resizePolicy", "restartPolicy", "stdin", "tty", "volumeDevices", "workingDir"];
/// The lists of Pods and containers to which nobody else may add: elsewhere, such as in a Service's ports, others may.
const CLOSED_LISTS: [&str; 6] = ["containers", "env", "imagePullSecrets", "ports", "volumeMounts", "volumes"];

/// A merge patch that takes out what somebody has added to the template of Pods, whose containers and machines are ours
/// to choose; None where nobody has, or there is no template.
pub(super) fn excess(live: &Value, desired: &Value) -> Option<Value> {
    const POD: &str = "/spec/template/spec";
    let (live, desired) = (live.pointer(POD)?.as_object()?, desired.pointer(POD)?.as_object()?);
    let mut patch = added(live, desired, &POD_FIELDS);
    let (found, wanted) = (live.get("containers"), desired.get("containers"));
    if !patch.contains_key("containers") && found.zip(wanted).is_some_and(|(found, wanted)| has_more(found, wanted)) {
        patch.extend(wanted.map(|wanted| ("containers".to_owned(), wanted.clone())));
    }
    // Null takes a key away, and a patch of a map says nothing of its other keys.
    if let (Some(Value::Object(found)), Some(Value::Object(wanted))) = (live.get("nodeSelector"), desired.get("nodeSelector")) {
        let foreign: Map<String, Value> =
            found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null)).collect();
        if !foreign.is_empty() {
            patch.insert("nodeSelector".to_owned(), Value::Object(foreign));
        }
    }
    (!patch.is_empty()).then(|| json!({"spec": {"template": {"spec": patch}}}))
}

/// What takes the added fields and list elements out of an object.
fn added(live: &Map<String, Value>, desired: &Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    let silent = |value: Option<&Value>| value.is_none_or(says_nothing);
    let foreign = fields.iter().filter(|field| silent(desired.get(**field)) && !silent(live.get(**field)));
    let mut patch: Map<String, Value> = foreign.map(|field| ((*field).to_owned(), Value::Null)).collect();
    for list in CLOSED_LISTS {
        let length = |of: &Map<String, Value>| of.get(list).and_then(Value::as_array).map_or(0, Vec::len);
        if length(live) > length(desired) {
            patch.insert(list.to_owned(), desired.get(list).cloned().unwrap_or(Value::Null));
        }
    }
    patch
}

/// Whether one of the containers has more than was said.
fn has_more(found: &Value, wanted: &Value) -> bool {
    let list = |of: &Value| of.as_array().cloned().unwrap_or_default();
    list(wanted).iter().filter_map(Value::as_object).any(|wanted| {
        let named = |other: &&Value| other.get("name") == wanted.get("name");
        let found = list(found);
        let found = found.iter().find(named).and_then(Value::as_object);
        found.is_some_and(|found| !added(found, wanted, &CONTAINER_FIELDS).is_empty())
    })
}

/// What the API server leaves out when it writes an object: absence says the same.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.values().all(says_nothing),
    }
}

/// A Kubernetes quantity in billionths; None where it is none, or written with an exponent.
fn amount(text: &str) -> Option<i128> {
    const NANO: i128 = 1_000_000_000;
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: i128 = match suffix {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "" => NANO,
        "k" => NANO * 1_000,
        "M" => NANO * 1_000_000,
        "G" => NANO * 1_000_000_000,
        "T" => NANO * 1_000_000_000_000,
        "P" => NANO * 1_000_000_000_000_000,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        "Ti" => NANO << 40,
        "Pi" => NANO << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits <= 9)?;
    let unscaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    unscaled.checked_mul(scale)?.checked_div(10_i128.checked_pow(digits)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_and_others_add_is_no_drift() {
        let live = json!({
            "metadata": {"labels": {"a": "b", "theirs": "x"}, "uid": "u"},
            "spec": {"containers": [
                {"name": "sidecar", "image": "s"},
                {"name": "counter-node", "image": "i", "ports": [{"containerPort": 8080, "protocol": "TCP"}], "imagePullPolicy": "Always"},
            ]},
        });
        let desired = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "counter-node", "image": "i", "ports": [{"containerPort": 8080}]}]},
        });
        assert!(holds(&live, &desired));
    }

    #[test]
    fn a_changed_value_a_lost_field_and_a_lost_element_are_drift() {
        let desired = json!({"spec": {"replicas": 3, "args": ["--a", "1"], "ports": [{"name": "http", "port": 80}]}});
        for live in [
            json!({"spec": {"replicas": 2, "args": ["--a", "1"], "ports": [{"name": "http", "port": 80}]}}),
            json!({"spec": {"args": ["--a", "1"], "ports": [{"name": "http", "port": 80}]}}),
            json!({"spec": {"replicas": 3, "args": ["--a"], "ports": [{"name": "http", "port": 80}]}}),
            json!({"spec": {"replicas": 3, "args": ["--a", "1"], "ports": []}}),
            json!({"spec": {"replicas": 3, "args": ["--a", "1"], "ports": [{"name": "http", "port": 81}]}}),
        ] {
            assert!(!holds(&live, &desired), "{live}");
        }
    }

    #[test]
    fn a_selector_that_asks_for_more_is_drift() {
        let desired = json!({"spec": {"selector": {"app": "a"}}});
        assert!(holds(&desired, &desired));
        assert!(!holds(&json!({"spec": {"selector": {"app": "a", "shard": "7"}}}), &desired));
        let desired = json!({"spec": {"podSelector": {"matchLabels": {"app": "a"}}}});
        assert!(!holds(&json!({"spec": {"podSelector": {"matchLabels": {"app": "a", "shard": "7"}}}}), &desired));
    }

    #[test]
    fn drifted_lists_are_put_right_as_a_whole_and_nothing_else_is() {
        let desired = json!({"spec": {"replicas": 3, "ports": [{"name": "http", "port": 80}], "args": ["a"]}});
        let live = json!({"spec": {"replicas": 2, "ports": [{"name": "http", "port": 81}], "args": ["a"]}});
        assert_eq!(lists(&live, &desired), Some(json!({"spec": {"ports": [{"name": "http", "port": 80}]}})));
        assert_eq!(lists(&desired, &desired), None);
    }

    #[test]
    fn what_the_server_leaves_out_is_no_drift() {
        let desired = json!({"paused": false, "annotations": {}, "podSelector": {}, "note": "", "none": null, "zero": 0});
        assert!(holds(&json!({}), &desired));
        assert!(!holds(&json!({}), &json!({"paused": true})));
    }

    #[test]
    fn what_somebody_adds_to_a_pod_is_taken_out_and_what_kubernetes_fills_in_is_not() {
        let of = |pod: Value| json!({"spec": {"template": {"spec": pod}}});
        let ours = || json!({"name": "counter-node", "image": "i", "env": [{"name": "A", "value": "1"}]});
        let desired = of(json!({"containers": [ours()], "nodeSelector": {"disk": "fast"}, "volumes": [{"name": "token"}]}));
        let mut filled = desired.clone();
        filled["spec"]["template"]["spec"]["restartPolicy"] = json!("Always");
        filled["spec"]["template"]["spec"]["schedulerName"] = json!("default-scheduler");
        filled["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
        assert_eq!(excess(&filled, &desired), None);
        let with = |change: &dyn Fn(&mut Value)| {
            let mut live = filled.clone();
            change(&mut live["spec"]["template"]["spec"]);
            excess(&live, &desired).map(|patch| patch["spec"]["template"]["spec"].clone())
        };
        let containers = Some(json!({"containers": [ours()]}));
        let sidecar = |pod: &mut Value| pod["containers"].as_array_mut().unwrap().push(json!({"name": "sidecar"}));
        assert_eq!(with(&sidecar), containers);
        assert_eq!(with(&|pod| pod["containers"][0]["command"] = json!(["sh"])), containers);
        let variable = |pod: &mut Value| pod["containers"][0]["env"].as_array_mut().unwrap().push(json!({"name": "B"}));
        assert_eq!(with(&variable), containers);
        assert_eq!(with(&|pod| pod["initContainers"] = json!([{"name": "x"}])), Some(json!({"initContainers": null})));
        assert_eq!(with(&|pod| pod["tolerations"] = json!([{"operator": "Exists"}])), Some(json!({"tolerations": null})));
        assert_eq!(with(&|pod| pod["nodeSelector"]["zone"] = json!("a")), Some(json!({"nodeSelector": {"zone": null}})));
        assert_eq!(excess(&json!({"spec": {"ports": [1, 2]}}), &json!({"spec": {"ports": [1]}})), None);
    }

    #[test]
    fn amounts_are_compared_as_amounts_and_other_texts_are_not() {
        let limits = |cpu: &str| json!({"resources": {"limits": {"cpu": cpu, "memory": "1Gi"}}});
        assert!(holds(&limits("500m"), &limits("0.5")));
        assert!(holds(&limits("1"), &limits("1000m")));
        assert!(!holds(&limits("501m"), &limits("0.5")));
        assert!(holds(&json!({"limits": {"memory": "1Gi"}}), &json!({"limits": {"memory": "1024Mi"}})));
        assert!(!holds(&json!({"labels": {"v": "1"}}), &json!({"labels": {"v": "1.0"}})));
    }
}
