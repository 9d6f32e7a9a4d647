//! What wakes a pass: the objects themselves, all that belongs to them, and nothing that a pass itself writes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::runtime::{Controller, Predicate as _, PredicateConfig, WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::build::{INSTANCE_LABEL, NAME_LABEL, PRODUCT};
use crate::crd::DistributedCounter;

/// An object that may be of another form than this release knows. One such object must not stop the watch of the others.
pub(super) type Guarded = DeserializeGuard<DistributedCounter>;

/// The objects of one namespace, or of all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A controller that is woken by everything that can change a pass's result.
pub(super) fn controller(client: &Client, namespace: Option<&str>) -> (Controller<Guarded>, Store<Guarded>) {
    let (reader, writer) = reflector::store();
    let objects = watcher(api::<Guarded>(client, namespace), Config::default())
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer)
        .applied_objects()
        // Status is what passes write: waking on it would be a loop.
        .predicate_filter(predicates::generation.combine(predicates::annotations).combine(deletion), PredicateConfig::default());
    let controller = Controller::for_stream(objects, reader.clone())
        .owns_stream(touched::<StatefulSet>(client, namespace))
        .owns_stream(touched::<Service>(client, namespace))
        .owns_stream(touched::<ServiceAccount>(client, namespace))
        .owns_stream(touched::<PodDisruptionBudget>(client, namespace))
        .owns_stream(touched::<NetworkPolicy>(client, namespace))
        // Pods belong to StatefulSets, and the layout may outlive its object: these are known by their labels.
        .watches_stream(touched::<Pod>(client, namespace), by_label)
        .watches_stream(touched::<ConfigMap>(client, namespace), by_label);
    (controller, reader)
}

/// Changes and deletions of our objects of one kind, metadata only.
fn touched<K>(
    client: &Client,
    namespace: Option<&str>,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let ours = Config::default().labels(&format!("{NAME_LABEL}={PRODUCT}"));
    watcher(api::<PartialObjectMeta<K>>(client, namespace), ours).default_backoff().touched_objects().boxed()
}

/// The object whose name and namespace the labels of what belongs to it say.
fn by_label<K: Resource>(object: PartialObjectMeta<K>) -> Option<ObjectRef<Guarded>> {
    let name = object.labels().get(INSTANCE_LABEL)?.clone();
    Some(ObjectRef::new(&name).within(&object.namespace()?))
}

/// Whether an object is being deleted, as a property to watch.
fn deletion(object: &Guarded) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    object.meta().deletion_timestamp.is_some().hash(&mut hasher);
    Some(hasher.finish())
}
