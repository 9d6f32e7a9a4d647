use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::*;

fn schema() -> Value {
    let crd = serde_json::to_value(crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Every schema below `schema`, each with its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), visit);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&schema[inner], &format!("{path}[]"), visit);
        }
    }
}

#[test]
fn the_chart_carries_the_current_definition() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/distributed-counter/files/crd.yaml");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == yaml(), "charts/distributed-counter/files/crd.yaml is not current: run `make crds`");
}

#[test]
fn the_definition_reads_back_as_it_was() {
    let read: CustomResourceDefinition = serde_saphyr::from_str(&yaml()).unwrap();
    assert_eq!(read, crd());
}

#[test]
fn an_empty_object_is_a_whole_spec() {
    let object: DistributedCounter = serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {}})).unwrap();
    let spec = object.spec;
    assert_eq!((spec.shards, spec.replicas, spec.consistency, spec.acks), (1, 3, Consistency::Eventual, Acks::Local));
    assert_eq!(spec.storage.volume.unwrap(), VolumeStorage::default());
    assert_eq!(schema()["properties"]["spec"]["default"], json!({}));
    assert_eq!(schema().get("required"), None);
}

#[test]
fn the_server_fills_in_the_defaults_that_the_types_have() {
    let spec = &schema()["properties"]["spec"]["properties"];
    let ours = serde_json::to_value(serde_json::from_value::<DistributedCounterSpec>(json!({})).unwrap()).unwrap();
    for (field, value) in ours.as_object().unwrap() {
        assert_eq!(&spec[field]["default"], value, "spec.{field}");
    }
    let volume = &spec["storage"]["properties"]["volume"]["properties"];
    assert_eq!(volume["size"]["default"], "1Gi");
    assert_eq!(volume["fsync"]["default"], "EverySecond");
    assert_eq!(volume["retention"]["default"], json!({"whenScaled": "Retain", "whenDeleted": "Retain"}));
    assert_eq!(volume["retention"]["properties"]["whenScaled"]["default"], "Retain");
}

#[test]
fn every_field_of_ours_says_what_it_is() {
    let mut silent = Vec::new();
    walk(&schema(), "", &mut |path, schema| {
        let field = path.rsplit('.').next().unwrap_or_default();
        if !path.is_empty() && !field.ends_with("[]") && schema["description"].as_str().is_none_or(str::is_empty) {
            silent.push(path.to_owned());
        }
    });
    silent.retain(|path| !path.starts_with(".spec.affinity") && !path.starts_with(".status.conditions"));
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn the_schema_is_structural() {
    walk(&schema(), "", &mut |path, schema| {
        let open = schema["x-kubernetes-int-or-string"] == true || schema["x-kubernetes-preserve-unknown-fields"] == true;
        assert!(schema["type"].is_string() || open, "{path} has no type");
        for keyword in ["$ref", "oneOf", "anyOf", "allOf", "definitions", "title"] {
            assert!(schema.get(keyword).is_none(), "{path} has {keyword}");
        }
        let format = schema["format"].as_str().unwrap_or("int32");
        assert!(["int32", "int64", "double", "date-time"].contains(&format), "{path} has the format {format}");
    });
}

#[test]
fn the_definition_fits_the_annotation_that_kubectl_apply_keeps_of_it() {
    let bytes = serde_json::to_string(&crd()).unwrap().len();
    assert!(bytes < 200 * 1024, "{bytes} bytes of at most 256 KiB");
}

#[test]
fn conditions_are_a_map_by_type_and_scaling_has_its_selector() {
    let conditions = &schema()["properties"]["status"]["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
    let crd = serde_json::to_value(crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    assert_eq!(
        version["subresources"]["scale"],
        json!({
            "specReplicasPath": ".spec.shards",
            "statusReplicasPath": ".status.shards",
            "labelSelectorPath": ".status.selector"
        })
    );
    assert_eq!(version["subresources"]["status"], json!({}));
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["dcounter"]));
    let columns: Vec<_> =
        version["additionalPrinterColumns"].as_array().unwrap().iter().map(|column| column["name"].clone()).collect();
    assert_eq!(columns, ["Shards", "Ready", "Consistency", "Available", "Age"]);
}

#[test]
fn fields_of_later_releases_are_unknown() {
    let spec = &schema()["properties"]["spec"]["properties"];
    assert_eq!(spec["consistency"]["enum"], json!(["Eventual"]));
}

#[test]
fn quantities_may_be_numbers() {
    let spec: DistributedCounterSpec =
        serde_json::from_value(json!({"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}})).unwrap();
    let limits = spec.pod.resources.unwrap().limits.unwrap();
    assert_eq!(limits["cpu"].0, "2");
    assert_eq!(limits["memory"].0, "1Gi");
}
