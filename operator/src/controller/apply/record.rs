//! The record of the layout: written by compare-and-swap, because whoever writes it last must have read it last.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::PostParams;

use super::super::build::{INSTANCE_LABEL, LAYOUT_KEY, NAME_LABEL, PRODUCT, VOLUMES_KEY};
use super::super::validate::Identity;
use super::{ApplyError, Desk, FIELD_MANAGER};

/// Makes the record say what `desired` says. Returns whether that took a write.
///
/// # Errors
/// When another wrote since the record was read.
pub(super) async fn ensure(desk: &Desk<'_>, desired: &ConfigMap, live: Option<&ConfigMap>) -> Result<bool, ApplyError> {
    let name = desired.name_any();
    let api = desk.api::<ConfigMap>();
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = match live {
        None => api.create(&params, desired).await,
        Some(live) => match next(live, desired, desk.owner) {
            None => return Ok(false),
            // `next` keeps the resourceVersion that was read, which makes this the swap.
            Some(next) => api.replace(&name, &params, &next).await,
        },
    };
    written.map(|_| true).map_err(|source| ApplyError::write::<ConfigMap>("recorded", &name, source))
}

/// A record may outlive its object, so it is known by its labels, unless it has an owner, which must be ours then.
#[must_use]
pub fn is_ours(record: &ConfigMap, identity: &Identity) -> bool {
    let labels = record.labels();
    let labelled =
        labels.get(NAME_LABEL).is_some_and(|product| product == PRODUCT) && labels.get(INSTANCE_LABEL) == Some(&identity.name);
    let owners = record.owner_references();
    let owned = owners.iter().any(|reference| Some(&reference.uid) == identity.uid.as_ref());
    owned || (labelled && owners.is_empty())
}

/// The record to write in place of `live`; None where that says all of it. What others added is kept.
fn next(live: &ConfigMap, desired: &ConfigMap, owner: &str) -> Option<ConfigMap> {
    let mut next = live.clone();
    next.metadata.managed_fields = None;
    next.labels_mut().extend(desired.labels().clone());
    let wanted: &[OwnerReference] = desired.metadata.owner_references.as_deref().unwrap_or_default();
    let mut owners: Vec<_> = live.owner_references().iter().filter(|reference| reference.uid != owner).cloned().collect();
    owners.extend(wanted.iter().cloned());
    next.metadata.owner_references = (!owners.is_empty()).then_some(owners);
    next.data = desired.data.clone();
    let same_data = [LAYOUT_KEY, VOLUMES_KEY].iter().all(|key| text(live, key) == text(desired, key));
    let same_metadata = live.labels() == next.labels() && live.owner_references() == next.owner_references();
    (!(same_data && same_metadata)).then_some(next)
}

/// A document as JSON, so that the same one in another form is no other.
fn text(record: &ConfigMap, key: &str) -> Option<serde_json::Value> {
    record.data.as_ref().and_then(|data| data.get(key)).and_then(|text| serde_json::from_str(text).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::api::ObjectMeta;

    use super::*;

    fn owned_by(uid: &str) -> Option<Vec<OwnerReference>> {
        Some(vec![OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() }])
    }

    fn record(layout: &str, owner: Option<&str>) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some("a-layout".to_owned()),
                resource_version: Some("7".to_owned()),
                labels: Some(BTreeMap::from([
                    (NAME_LABEL.to_owned(), PRODUCT.to_owned()),
                    (INSTANCE_LABEL.to_owned(), "a".to_owned()),
                ])),
                owner_references: owner.and_then(owned_by),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(LAYOUT_KEY.to_owned(), layout.to_owned())])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_record_that_says_the_same_is_not_written_whatever_its_form() {
        assert_eq!(next(&record("{\"a\": 1}", None), &record("{ \"a\":1 }", None), "me"), None);
    }

    #[test]
    fn another_layout_is_swapped_for_the_one_that_was_read() {
        let next = next(&record("{\"a\": 1}", None), &record("{\"a\": 2}", None), "me").unwrap();
        assert_eq!(next.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(next.data, record("{\"a\": 2}", None).data);
    }

    #[test]
    fn an_owner_comes_and_goes_with_the_retention_of_volumes() {
        let gains = next(&record("{}", None), &record("{}", Some("me")), "me").unwrap();
        assert_eq!(gains.metadata.owner_references, owned_by("me"));
        let loses = next(&record("{}", Some("me")), &record("{}", None), "me").unwrap();
        assert_eq!(loses.metadata.owner_references, None);
    }

    #[test]
    fn a_record_is_ours_by_its_labels_or_by_its_owner() {
        let identity = |name: &str| Identity {
            namespace: "x".to_owned(),
            name: name.to_owned(),
            uid: Some("me".to_owned()),
            generation: 1,
            apply_update: None,
            accept_loss: Vec::new(),
        };
        assert!(is_ours(&record("{}", None), &identity("a")));
        assert!(is_ours(&record("{}", Some("me")), &identity("a")));
        assert!(!is_ours(&record("{}", Some("another")), &identity("a")));
        assert!(!is_ours(&record("{}", None), &identity("b")));
        let mut foreign = record("{}", None);
        foreign.metadata.labels = None;
        assert!(!is_ours(&foreign, &identity("a")));
    }
}
