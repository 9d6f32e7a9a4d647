//! What the Kubernetes API server checks before an object is stored, by the CRD's own schema: unknown fields (by their
//! path, with the nearest known one), types, ranges and enumerations. Here no server does it.

use serde_json::{Map, Value};

/// How many known fields are listed when none is near to an unknown one.
const LISTED_MAX: usize = 12;

/// Everything in `value` that the schema refuses, as `path: what`.
pub(super) fn violations(value: &Value, schema: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    check(value, schema, path, &mut found);
    found
}

/// Takes out fields that are null: in a manifest they mean the same as absent ones.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, without_nulls(value))).collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

fn check(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(problem) = wrong_type(value, schema) {
        found.push(format!("{path}: {problem}"));
        return;
    }
    check_enum(value, schema, path, found);
    check_range(value, schema, path, found);
    check_length(value, schema, path, found);
    match value {
        Value::Object(fields) => check_fields(fields, schema, path, found),
        Value::Array(items) => {
            let Some(of_items) = schema.get("items") else { return };
            for (index, item) in items.iter().enumerate() {
                check(item, of_items, &format!("{path}[{index}]"), found);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn wrong_type(value: &Value, schema: &Value) -> Option<String> {
    if flag(schema, "x-kubernetes-int-or-string") {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then(|| format!("expected a whole number or a string, found {}", shown(value)));
    }
    let (expected, fits) = match schema.get("type")?.as_str()? {
        "object" => ("a mapping", value.is_object()),
        "array" => ("a list", value.is_array()),
        "string" => ("a string", value.is_string()),
        "boolean" => ("true or false", value.is_boolean()),
        "integer" => ("a whole number", value.is_i64() || value.is_u64()),
        "number" => ("a number", value.is_number()),
        _ => return None,
    };
    (!fits).then(|| format!("expected {expected}, found {}", shown(value)))
}

fn check_enum(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let Some(known) = schema.get("enum").and_then(Value::as_array) else { return };
    if known.contains(value) {
        return;
    }
    let names: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
    let hint = value.as_str().and_then(|text| nearest(text, names.iter().copied()));
    let hint = hint.map_or_else(String::new, |name| format!(", did you mean {name}?"));
    found.push(format!("{path}: expected one of {}, found {}{hint}", names.join(", "), shown(value)));
}

fn check_range(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let Some(number) = value.as_f64() else { return };
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some(minimum) = bound("minimum").filter(|minimum| number < *minimum) {
        found.push(format!("{path}: must be at least {minimum}, found {value}"));
    }
    if let Some(maximum) = bound("maximum").filter(|maximum| number > *maximum) {
        found.push(format!("{path}: must be at most {maximum}, found {value}"));
    }
}

fn check_length(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let (length, names, unit) = match value {
        Value::String(text) => (text.chars().count(), ["minLength", "maxLength"], "characters"),
        Value::Array(items) => (items.len(), ["minItems", "maxItems"], "items"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return,
    };
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    if let Some(least) = bound(names[0]).filter(|least| length < *least) {
        found.push(format!("{path}: must have at least {least} {unit}, has {length}"));
    }
    if let Some(most) = bound(names[1]).filter(|most| length > *most) {
        found.push(format!("{path}: must have at most {most} {unit}, has {length}"));
    }
}

fn check_fields(fields: &Map<String, Value>, schema: &Value, path: &str, found: &mut Vec<String>) {
    let known = schema.get("properties").and_then(Value::as_object);
    let of_others = schema.get("additionalProperties").filter(|others| others.is_object());
    let open = flag(schema, "x-kubernetes-preserve-unknown-fields") || (known.is_none() && of_others.is_none());
    for (name, value) in fields {
        let child = join(path, name);
        match known.and_then(|known| known.get(name)).or(of_others) {
            Some(of_field) => check(value, of_field, &child, found),
            None if open => {}
            None => found.push(format!("{child}: unknown field{}", suggestion(name, known))),
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    found.extend(required.filter(|name| !fields.contains_key(*name)).map(|name| format!("{}: required", join(path, name))));
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn suggestion(name: &str, known: Option<&Map<String, Value>>) -> String {
    let names = || known.into_iter().flat_map(Map::keys).map(String::as_str);
    if let Some(near) = nearest(name, names()) {
        return format!(", did you mean {near}?");
    }
    let listed: Vec<&str> = names().take(LISTED_MAX).collect();
    let more = if names().count() > LISTED_MAX { ", …" } else { "" };
    if listed.is_empty() { ", there are none here".to_owned() } else { format!("; known here: {}{more}", listed.join(", ")) }
}

/// The candidate that `text` was most likely meant to be; none when all are far off.
fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = text.to_lowercase();
    let far = (text.chars().count() / 3).max(2);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&typed, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= far && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(value: &Value) -> Vec<String> {
        let schema = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "maxLength": 4},
            "shards": {"type": "integer", "minimum": 1.0, "maximum": 256.0},
            "acks": {"type": "string", "enum": ["Local", "Quorum"]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "size": {"x-kubernetes-int-or-string": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "volumes": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"path": {"type": "string"}}}},
        }});
        violations(value, &schema, "spec")
    }

    #[test]
    fn what_fits_the_schema_passes() {
        let value =
            json!({"name": "a", "shards": 256, "acks": "Local", "labels": {"x": "y"}, "size": 3, "any": {"x": 1}, "volumes": []});
        assert_eq!(found(&value), Vec::<String>::new());
    }

    #[test]
    fn unknown_fields_are_named_by_path_with_the_nearest_known_one() {
        assert_eq!(found(&json!({"name": "a", "shard": 1})), ["spec.shard: unknown field, did you mean shards?"]);
        assert_eq!(
            found(&json!({"name": "a", "volumes": [{"pth": "x"}]})),
            ["spec.volumes[0].pth: unknown field, did you mean path?"]
        );
        let far = found(&json!({"name": "a", "zookeeper": 1}));
        assert_eq!(far, ["spec.zookeeper: unknown field; known here: acks, any, labels, name, shards, size, volumes"]);
    }

    #[test]
    fn all_that_is_wrong_is_found_in_one_go() {
        let value = json!({"shards": 0, "acks": "local", "labels": {"x": 1}, "size": true, "volumes": {}});
        assert_eq!(
            found(&value),
            [
                "spec.acks: expected one of Local, Quorum, found \"local\", did you mean Local?",
                "spec.labels.x: expected a string, found 1",
                "spec.shards: must be at least 1, found 0",
                "spec.size: expected a whole number or a string, found true",
                "spec.volumes: expected a list, found a mapping",
                "spec.name: required",
            ]
        );
        assert_eq!(
            found(&json!({"name": "abcde", "shards": 1.5})),
            ["spec.name: must have at most 4 characters, has 5", "spec.shards: expected a whole number, found 1.5"]
        );
    }

    #[test]
    fn null_is_as_good_as_absent() {
        assert_eq!(without_nulls(json!({"a": null, "b": [{"c": null}]})), json!({"b": [{}]}));
    }
}
