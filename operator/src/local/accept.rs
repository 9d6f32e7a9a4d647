//! What the API server does with an object that is applied: every rule is checked, against the state before as well, and
//! a changed spec gets the next generation.

use crate::controller::validate::{ClusterSpec, Storage, validate, validate_update};
use crate::crd::{DistributedCounter, SecretKeyRef};

use super::document::{Secrets, key};

/// An object that may be acted upon.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) object: DistributedCounter,
    pub(super) spec: ClusterSpec,
    /// What `spec.apiTokenSecretRef` names.
    pub(super) api_token: Option<Vec<u8>>,
    /// What `spec.storage.redis.urlSecretRef` names.
    pub(super) redis_url: Option<Vec<u8>>,
}

/// Checks one object against the rules, and against the state that was accepted before.
///
/// # Errors
/// Every rule that it breaks, a line each.
pub(super) fn accept(
    mut object: DistributedCounter,
    before: Option<&DistributedCounter>,
    secrets: &Secrets,
) -> Result<Accepted, Vec<String>> {
    let generation = before.map_or(1, |before| {
        let known = before.metadata.generation.unwrap_or(1);
        if before.spec == object.spec { known } else { known.saturating_add(1) }
    });
    object.metadata.generation = Some(generation);
    // Of a manifest that was read from some Kubernetes cluster: another object's identity.
    object.metadata.uid = None;
    object.status = None;
    let update = before.map_or(Ok(()), |before| validate_update(before, &object));
    match (validate(&object), update) {
        (Ok(spec), Ok(())) => {
            let redis = match &spec.storage {
                Storage::Redis(reference) => Some(reference),
                Storage::Volume(_) | Storage::Memory => None,
            };
            let named = |field: &str, what: &str, reference: Option<&SecretKeyRef>| {
                let Some(reference) = reference else { return Ok(None) };
                let found = secrets.get(&spec.identity.namespace, reference).map(<[u8]>::to_vec);
                found.map(Some).ok_or_else(|| {
                    let (object, SecretKeyRef { name, key }) = (key(&object), reference);
                    vec![format!("{object}: {field}: the file has no Secret {name} with {what} under the key {key}")]
                })
            };
            let api_token = named("spec.apiTokenSecretRef", "a token", spec.api_token.as_ref())?;
            let redis_url = named("spec.storage.redis.urlSecretRef", "a URL", redis)?;
            Ok(Accepted { object, spec, api_token, redis_url })
        }
        (alone, update) => {
            let broken = alone.err().into_iter().chain(update.err()).flatten();
            Err(broken.map(|violation| format!("{}: {violation}", key(&object))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::read;
    use super::*;

    fn object(spec: &str) -> DistributedCounter {
        let text = format!(
            "apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\nmetadata: {{name: a}}\nspec: {spec}\n"
        );
        read(&text).objects.remove(0)
    }

    fn refused(spec: &str, before: Option<&DistributedCounter>) -> Vec<String> {
        accept(object(spec), before, &Secrets::default()).unwrap_err()
    }

    #[test]
    fn a_changed_spec_is_a_new_generation() {
        let first = accept(object("{shards: 2}"), None, &Secrets::default()).unwrap();
        assert_eq!((first.spec.shards, first.spec.identity.generation), (2, 1));
        let same = accept(object("{shards: 2}"), Some(&first.object), &Secrets::default()).unwrap();
        assert_eq!(same.spec.identity.generation, 1);
        let grown = accept(object("{shards: 4}"), Some(&first.object), &Secrets::default()).unwrap();
        assert_eq!(grown.spec.identity.generation, 2);
    }

    #[test]
    fn every_broken_rule_is_named() {
        let broken = refused("{shards: 0, replicas: 1, storage: {memory: {}}}", None);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken.iter().all(|line| line.starts_with("default/a: spec")), "{broken:?}");
        assert!(broken.iter().any(|line| line.contains("shards must be between 1 and 256")), "{broken:?}");
    }

    #[test]
    fn the_url_of_a_redis_stands_in_the_same_file() {
        let redis = "{storage: {redis: {urlSecretRef: {name: redis, key: url}}}}";
        let missing = "default/a: spec.storage.redis.urlSecretRef: the file has no Secret redis with a URL under the key url";
        assert_eq!(refused(redis, None), [missing]);
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: redis}\nstringData: {url: 'redis://127.0.0.1'}\n";
        let accepted = accept(object(redis), None, &read(secret).secrets).unwrap();
        assert_eq!(accepted.redis_url.as_deref(), Some(&b"redis://127.0.0.1"[..]));
    }

    #[test]
    fn what_is_immutable_on_kubernetes_is_so_here() {
        let before = object("{}");
        let broken = refused("{storage: {memory: {}}}", Some(&before));
        assert_eq!(broken, ["default/a: spec.storage: the kind of storage is immutable"]);
    }
}
