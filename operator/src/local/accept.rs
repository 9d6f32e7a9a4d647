//! What the API server does with an object that is applied: every rule is checked, against the state before as well, and
//! a changed spec gets the next generation.

use crate::controller::validate::{ClusterSpec, validate, validate_update};
use crate::crd::DistributedCounter;

use super::document::{Secrets, key};

/// An object that may be acted upon.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) object: DistributedCounter,
    pub(super) spec: ClusterSpec,
    /// What `spec.apiTokenSecretRef` names.
    pub(super) api_token: Option<Vec<u8>>,
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
            let namespace = &spec.identity.namespace;
            let api_token = match &spec.api_token {
                None => None,
                Some(reference) => match secrets.get(namespace, reference) {
                    Some(token) => Some(token.to_vec()),
                    None => {
                        return Err(vec![format!(
                            "{}: spec.apiTokenSecretRef: the file has no Secret {} with a token under the key {}",
                            key(&object),
                            reference.name,
                            reference.key
                        )]);
                    }
                },
            };
            Ok(Accepted { object, spec, api_token })
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
    fn what_is_immutable_on_kubernetes_is_so_here() {
        let before = object("{}");
        let broken = refused("{storage: {memory: {}}}", Some(&before));
        assert_eq!(broken, ["default/a: spec.storage: the kind of storage is immutable"]);
    }
}
