//! The CustomResourceDefinition, made from the types and finished where the derive macros cannot say it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON, JSONSchemaProps};
use kube::CustomResourceExt as _;
use serde_json::json;

use super::DistributedCounter;

const HEADER: &str = "# Generated from the types in operator/src/crd.rs by `operator crd`. Do not edit; `make crds` renews it.\n";

/// The definition to install in a Kubernetes cluster.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = DistributedCounter::crd();
    for version in &mut crd.spec.versions {
        if let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            default_spec(root);
            strip(root);
        }
    }
    crd
}

/// The definition as a YAML document, as `operator crd` prints it and the chart carries it.
#[must_use]
pub fn yaml() -> String {
    // These types consist of maps with text keys, lists and scalars: nothing that YAML lacks.
    let body = serde_saphyr::to_string(&crd()).unwrap_or_default();
    format!("{HEADER}{}\n", body.trim_end())
}

/// An object without `spec` is one with an empty spec.
fn default_spec(root: &mut JSONSchemaProps) {
    root.required = None;
    if let Some(spec) = root.properties.as_mut().and_then(|properties| properties.get_mut("spec")) {
        spec.default = Some(JSON(json!({})));
    }
}

/// Takes out what Kubernetes ignores, warns of, or repeats.
fn strip(schema: &mut JSONSchemaProps) {
    schema.title = None;
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for inner in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        strip(inner);
    }
}
