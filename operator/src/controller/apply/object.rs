//! One object: created, corrected, or left alone; never taken over from somebody else.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{ApplyError, FIELD_MANAGER, drift};

/// The hash of what was applied last, on the object itself.
pub const APPLIED_ANNOTATION: &str = "distributedcounter.dev/applied";

/// The name under which lists are repaired, which owns nothing for longer than that takes.
const REPAIR_MANAGER: &str = "distributed-counter-operator-repair";

/// How often an object's status may get in before a write: past this, the next pass tries.
const STATUS_RACES_MAX: u32 = 3;

/// A kind of object that the operator writes.
pub trait Kind:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Kind for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Objects that were applied and do not read back as they were said, by UID: what the API server, or an admission hook,
/// makes of them is their final form, and applying the same again would change nothing.
#[derive(Debug, Default)]
pub struct Settled(Mutex<HashMap<String, (String, u64)>>);

impl Settled {
    fn knows(&self, uid: &str, state: &str, hash: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).is_some_and(|(at, of)| at == state && *of == hash)
    }

    fn note(&self, uid: String, state: String, hash: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (state, hash));
    }

    fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Created,
    Corrected,
    None,
}

/// Where and for whom objects are written.
pub struct Desk<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    /// The UID of the DistributedCounter that owns what is written.
    pub owner: &'a str,
    pub settled: &'a Settled,
}

impl Desk<'_> {
    /// The objects of one kind.
    pub fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), self.namespace)
    }

    /// Makes the live object say what `desired` says. `listed` is the live object where the labels have shown it.
    ///
    /// # Errors
    /// When the name belongs to somebody else (nothing is changed then), or the API server refuses.
    pub async fn ensure<K: Kind>(&self, desired: &K, listed: Option<&K>) -> Result<Change, ApplyError> {
        let name = desired.name_any();
        let hidden = match listed {
            Some(_) => None,
            // Our label may have been taken off, or the name is somebody else's.
            None => self.api::<K>().get_opt(&name).await.map_err(|source| ApplyError::read::<K>(&name, source))?,
        };
        match listed.or(hidden.as_ref()) {
            None => self.create(desired).await,
            Some(live) if !self.owns(live) => Err(ApplyError::conflict::<K>(&name)),
            // Nothing of ours is written to what is on its way out; its deletion wakes the pass that makes it anew.
            Some(live) if live.meta().deletion_timestamp.is_some() => Ok(Change::None),
            Some(live) => self.correct(desired, live).await,
        }
    }

    /// Whether the object belongs to the cluster that this is done for.
    pub fn owns<K: Kind>(&self, live: &K) -> bool {
        live.owner_references().iter().any(|owner| owner.uid == self.owner)
    }

    async fn create<K: Kind>(&self, desired: &K) -> Result<Change, ApplyError> {
        let (body, _) = document(desired)?;
        // Without force: should somebody else create the name in this moment, it is theirs.
        self.patch::<K>(&desired.name_any(), &PatchParams::apply(FIELD_MANAGER), &body).await?;
        Ok(Change::Created)
    }

    async fn correct<K: Kind>(&self, desired: &K, live: &K) -> Result<Change, ApplyError> {
        let (mut body, hash) = document(desired)?;
        let name = desired.name_any();
        let uid = live.uid().unwrap_or_default();
        let said = serde_json::to_value(live).map_err(|source| ApplyError::json::<K>(&name, source))?;
        if drift::holds(&said, &body) || self.settled.knows(&uid, &state(live), hash) {
            return Ok(Change::None);
        }
        // Bound to what was read: a process that was paused must not put back what its successor has changed since.
        body["metadata"]["uid"] = json!(uid);
        body["metadata"]["resourceVersion"] = json!(live.resource_version());
        let before = state(live);
        let written = match self.force_unchanged(&name, &mut body, &before).await {
            Err(refused) if refused.category() == "invalid" => match drift::lists(&said, &body) {
                Some(lists) => self.repair::<K>(&name, lists, &uid, &body).await?,
                None => return Err(refused),
            },
            written => written?,
        };
        let after = state(&written);
        if after == before {
            self.settled.note(uid, after, hash);
            return Ok(Change::None);
        }
        self.settled.forget(&uid);
        Ok(Change::Corrected)
    }

    /// Applies to an object that still is in the state that was read. Its status, which has changed the resourceVersion
    /// whenever Pods came or went, does not count.
    async fn force_unchanged<K: Kind>(&self, name: &str, body: &mut Value, before: &str) -> Result<K, ApplyError> {
        for _ in 0..STATUS_RACES_MAX {
            let refused = match self.force::<K>(name, body).await {
                Err(error) if error.category() == "conflict" => error,
                result => return result,
            };
            let fresh = self.api::<K>().get(name).await.map_err(|source| ApplyError::read::<K>(name, source))?;
            if state(&fresh) != before || json!(fresh.uid()) != body["metadata"]["uid"] {
                return Err(refused);
            }
            body["metadata"]["resourceVersion"] = json!(fresh.resource_version());
        }
        self.force(name, body).await
    }

    async fn force<K: Kind>(&self, name: &str, body: &Value) -> Result<K, ApplyError> {
        self.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), body).await
    }

    /// Corrects lists in which another's elements forbid ours. Afterwards what was written on the way is given up, so that
    /// applying alone decides again which fields are ours.
    async fn repair<K: Kind>(&self, name: &str, mut lists: Value, uid: &str, body: &Value) -> Result<K, ApplyError> {
        let failed = |source| ApplyError::write::<K>("repaired", name, source);
        let params = PatchParams { field_manager: Some(REPAIR_MANAGER.to_owned()), ..PatchParams::default() };
        lists["metadata"]["uid"] = json!(uid);
        lists["metadata"]["resourceVersion"] = body["metadata"]["resourceVersion"].clone();
        let mended = self.api::<K>().patch(name, &params, &Patch::Merge(lists)).await.map_err(failed)?;
        let mut body = body.clone();
        body["metadata"]["resourceVersion"] = json!(mended.resource_version());
        let mut applied = self.force_unchanged::<K>(name, &mut body, &state(&mended)).await?;
        let kept: Vec<_> =
            applied.managed_fields_mut().drain(..).filter(|entry| entry.manager.as_deref() != Some(REPAIR_MANAGER)).collect();
        let given_up = json!({"metadata": {"resourceVersion": applied.resource_version(), "managedFields": kept}});
        self.api::<K>().patch(name, &params, &Patch::Merge(given_up)).await.map_err(failed)
    }

    async fn patch<K: Kind>(&self, name: &str, params: &PatchParams, body: &Value) -> Result<K, ApplyError> {
        self.api::<K>()
            .patch(name, params, &Patch::Apply(body))
            .await
            .map_err(|source| ApplyError::write::<K>("applied", name, source))
    }
}

/// The body to apply, with its own hash as an annotation. The hash shows what was *stopped* being said: a field that is
/// no longer in the body still stands in the live object, which [`drift::holds`] cannot see.
fn document<K: Kind>(desired: &K) -> Result<(Value, u64), ApplyError> {
    let json = |source| ApplyError::json::<K>(&desired.name_any(), source);
    let mut body = serde_json::to_value(desired).map_err(json)?;
    let hash = xxh3_64(&serde_json::to_vec(&body).map_err(json)?);
    body["metadata"]["annotations"][APPLIED_ANNOTATION] = json!(format!("{hash:016x}"));
    Ok((body, hash))
}

/// What changes when somebody changes the object: its generation, which leaves out status, where the kind has one.
fn state<K: Kind>(live: &K) -> String {
    let meta = live.meta();
    match meta.generation {
        // Metadata has no generation, and what is applied contains some.
        Some(generation) => format!("{generation} {:?} {:?}", meta.labels, meta.annotations),
        None => meta.resource_version.clone().unwrap_or_default(),
    }
}
