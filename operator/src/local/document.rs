//! The file's text as objects. As strict as the API server is with `kubectl apply --validate=strict`: what it would refuse
//! is refused here, with everything that is wrong in one go.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::schema;
use crate::crd::{self, DistributedCounter, GROUP, SecretKeyRef};

/// The namespace of objects that name none, as in kubectl.
const NAMESPACE_DEFAULT: &str = "default";
/// The longest name of a namespace in Kubernetes.
const NAMESPACE_LENGTH_MAX: usize = 63;
const VERSION: &str = "v1alpha1";
const KIND: &str = "DistributedCounter";

/// What a text describes.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// The objects, in the order of the file, each with its namespace: those with problems too, as far as they can be
    /// read, so that the rules can be checked as well.
    pub(super) objects: Vec<DistributedCounter>,
    /// The Secrets that stand beside them, for the references in them.
    pub(super) secrets: Secrets,
    /// All that is wrong, a line each, naming the document and the field. With any, nothing may be acted upon.
    pub(super) problems: Vec<String>,
}

/// What the file's Secrets hold, by namespace, name and key.
#[derive(Debug, Default)]
pub(super) struct Secrets(BTreeMap<(String, String), BTreeMap<String, Vec<u8>>>);

impl Secrets {
    /// What a reference from this namespace names.
    pub(super) fn get(&self, namespace: &str, reference: &SecretKeyRef) -> Option<&[u8]> {
        let data = self.0.get(&(namespace.to_owned(), reference.name.clone()))?;
        data.get(&reference.key).map(Vec::as_slice).filter(|value| !value.iter().all(u8::is_ascii_whitespace))
    }

    fn add(&mut self, document: Value) -> Result<(), String> {
        let secret: Secret = serde_json::from_value(document).map_err(|error| error.to_string())?;
        let name = secret.metadata.name.clone().ok_or("metadata.name: required")?;
        let namespace = secret.metadata.namespace.clone().unwrap_or_else(|| NAMESPACE_DEFAULT.to_owned());
        let mut data: BTreeMap<String, Vec<u8>> =
            secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
        data.extend(secret.string_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes())));
        self.0.insert((namespace, name), data);
        Ok(())
    }
}

fn is_secret(document: &Value) -> bool {
    document.get("kind").is_some_and(|kind| kind == "Secret") && document.get("apiVersion").is_some_and(|version| version == "v1")
}

/// Reads the objects.
pub(super) fn read(text: &str) -> Reading {
    let documents: Vec<Value> = match serde_saphyr::from_multiple(text) {
        Ok(documents) => documents,
        Err(error) => return Reading { problems: lines(&format!("the file is no YAML: {error}")), ..Reading::default() },
    };
    let mut reading = Reading::default();
    if documents.iter().all(is_secret) {
        reading.problems.push(format!("the file describes no cluster: it needs at least one {KIND}"));
    }
    let schema = object_schema();
    for (index, document) in documents.into_iter().enumerate() {
        let title = title(index, &document);
        if is_secret(&document) {
            let wrong = reading.secrets.add(schema::without_nulls(document)).err();
            reading.problems.extend(wrong.map(|problem| format!("{title}: {problem}")));
            continue;
        }
        let (object, found) = object(document, &schema);
        reading.objects.extend(object);
        reading.problems.extend(found.into_iter().map(|problem| format!("{title}: {problem}")));
    }
    let mut seen = BTreeSet::new();
    let twice = reading.objects.iter().map(key).filter(|key| !seen.insert(key.clone()));
    reading.problems.extend(twice.map(|key| format!("{key} stands in the file twice")));
    reading
}

/// `NAMESPACE/NAME`.
pub(super) fn key(object: &DistributedCounter) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn title(index: usize, document: &Value) -> String {
    let number = index.saturating_add(1);
    match document.pointer("/metadata/name").and_then(Value::as_str) {
        Some(name) => format!("document {number} ({name})"),
        None => format!("document {number}"),
    }
}

fn object(document: Value, schema: &Value) -> (Option<DistributedCounter>, Vec<String>) {
    let mut document = schema::without_nulls(document);
    if let Some(problem) = other_kind(&document) {
        return (None, vec![problem]);
    }
    let mut problems = schema::violations(&document, schema, "");
    problems.extend(namespace_problem(&document));
    // What the API server fills in.
    if document.get("spec").is_none() {
        document["spec"] = json!({});
    }
    if document.pointer("/metadata/name").is_some() && document.pointer("/metadata/namespace").is_none() {
        document["metadata"]["namespace"] = json!(NAMESPACE_DEFAULT);
    }
    match serde_json::from_value(document) {
        Ok(object) => (Some(object), problems),
        // The schema has said it better already.
        Err(_) if !problems.is_empty() => (None, problems),
        Err(error) => (None, vec![error.to_string()]),
    }
}

fn other_kind(document: &Value) -> Option<String> {
    if !document.is_object() {
        return Some("expected an object with apiVersion, kind, metadata and spec".to_owned());
    }
    let found = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or("nothing").to_owned();
    let (version, kind) = (found("apiVersion"), found("kind"));
    let expected = format!("{GROUP}/{VERSION}");
    (version != expected || kind != KIND).then(|| {
        format!("only {KIND} of {expected} can be run locally, and Secrets can stand beside it; this is {kind} of {version}")
    })
}

/// On Kubernetes a namespace must exist; here it becomes the name of a folder.
fn namespace_problem(document: &Value) -> Option<String> {
    let namespace = document.pointer("/metadata/namespace")?.as_str()?;
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let valid = namespace.chars().all(inner)
        && end(namespace.chars().next())
        && end(namespace.chars().next_back())
        && namespace.len() <= NAMESPACE_LENGTH_MAX;
    (!valid).then(|| {
        format!(
            "metadata.namespace: must be at most {NAMESPACE_LENGTH_MAX} lower-case letters, digits and '-', found \"{namespace}\""
        )
    })
}

/// The CRD's schema, with the fields that every object has, which the API server knows by itself.
fn object_schema() -> Value {
    let crd = serde_json::to_value(crd::crd()).unwrap_or_default();
    let mut schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    schema["properties"]["metadata"] = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string", "minLength": 1},
        "namespace": {"type": "string"},
        "labels": texts,
        "annotations": texts,
        // Of objects that were read from a cluster; without meaning here.
        "creationTimestamp": {},
        "finalizers": {},
        "generation": {},
        "managedFields": {},
        "ownerReferences": {},
        "resourceVersion": {},
        "uid": {},
    }});
    schema["required"] = json!(["metadata"]);
    // Looked at before.
    schema["properties"]["apiVersion"] = json!({});
    schema["properties"]["kind"] = json!({});
    // Written by an operator, so never wrong, and never read from a file.
    schema["properties"]["status"] = json!({});
    schema
}

/// A message of several lines as that many messages, so that each keeps to a line of the screen.
fn lines(message: &str) -> Vec<String> {
    message.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\n";

    fn refused(text: &str) -> Vec<String> {
        read(text).problems
    }

    #[test]
    fn an_object_gets_what_the_api_server_would_fill_in() {
        let objects = read(&format!("# A comment.\n---\n{HEAD}metadata: {{name: a}}\n---\n{HEAD}metadata: {{name: a, namespace: b}}\nspec: {{shards: 2, image: null}}\n")).objects;
        assert_eq!(objects.iter().map(key).collect::<Vec<_>>(), ["default/a", "b/a"]);
        assert_eq!((objects[0].spec.shards, objects[0].spec.replicas), (1, 3));
        assert_eq!(objects[1].spec.shards, 2);
    }

    #[test]
    fn unknown_fields_name_the_document_the_path_and_the_nearest_field() {
        let text = format!(
            "{HEAD}metadata: {{name: a}}\n---\n{HEAD}metadata: {{name: b, lables: {{}}}}\nspec:\n  storage: {{volume: {{fsink: Never}}}}\n  shard: 2\n"
        );
        assert_eq!(
            refused(&text),
            [
                "document 2 (b): metadata.lables: unknown field, did you mean labels?",
                "document 2 (b): spec.shard: unknown field, did you mean shards?",
                "document 2 (b): spec.storage.volume.fsink: unknown field, did you mean fsync?",
            ]
        );
    }

    #[test]
    fn wrong_types_and_names_are_refused() {
        let text = format!("{HEAD}metadata: {{name: a, namespace: ../b}}\nspec: {{shards: many, acks: quorum}}\n");
        assert_eq!(
            refused(&text),
            [
                "document 1 (a): spec.acks: expected one of Local, Quorum, found \"quorum\", did you mean Quorum?",
                "document 1 (a): spec.shards: expected a whole number, found \"many\"",
                "document 1 (a): metadata.namespace: must be at most 63 lower-case letters, digits and '-', found \"../b\"",
            ]
        );
        assert_eq!(refused(&format!("{HEAD}spec: {{}}\n")), ["document 1: metadata: required"]);
    }

    #[test]
    fn a_secret_beside_the_objects_gives_what_they_refer_to() {
        let secret =
            "apiVersion: v1\nkind: Secret\nmetadata: {name: api}\ndata: {old: b25l}\nstringData: {token: two, none: ' '}\n";
        let reading = read(&format!("{HEAD}metadata: {{name: a}}\n---\n{secret}"));
        assert_eq!((reading.objects.len(), reading.problems), (1, Vec::new()));
        let get = |namespace: &str, key: &str| {
            reading.secrets.get(namespace, &SecretKeyRef { name: "api".to_owned(), key: key.to_owned() }).map(<[u8]>::to_vec)
        };
        assert_eq!((get("default", "old"), get("default", "token")), (Some(b"one".to_vec()), Some(b"two".to_vec())));
        assert_eq!((get("default", "none"), get("default", "other"), get("x", "token")), (None, None, None));
        assert_eq!(refused(secret), ["the file describes no cluster: it needs at least one DistributedCounter"]);
    }

    #[test]
    fn other_kinds_empty_files_doubles_and_broken_yaml_are_refused() {
        assert_eq!(
            refused("kind: Service\napiVersion: v1\nmetadata: {name: a}\n"),
            [
                "document 1 (a): only DistributedCounter of distributedcounter.dev/v1alpha1 can be run locally, and Secrets can stand beside it; this is Service of v1"
            ]
        );
        assert_eq!(refused("- 1\n"), ["document 1: expected an object with apiVersion, kind, metadata and spec"]);
        assert_eq!(refused("# nothing\n"), ["the file describes no cluster: it needs at least one DistributedCounter"]);
        let one = format!("{HEAD}metadata: {{name: a}}\n");
        assert_eq!(refused(&format!("{one}---\n{one}")), ["default/a stands in the file twice"]);
        let broken = refused("a: [1\nb: 2\n");
        assert!(broken[0].starts_with("the file is no YAML: "), "{broken:?}");
        assert!(refused("a: 1\na: 2\n")[0].contains("uplicate"), "{:?}", refused("a: 1\na: 2\n"));
    }
}
