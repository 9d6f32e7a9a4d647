//! One object: created, corrected, or left alone; never taken over from somebody else.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Patch, PatchParams, PostParams};
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
pub struct Settled {
    settled: Mutex<HashMap<String, (String, u64)>>,
    disputes: Mutex<HashMap<String, Dispute>>,
}

/// Corrections of one and the same change of an object.
#[derive(Debug)]
struct Dispute {
    /// The hash of what was found and put right.
    found: u64,
    corrections: u32,
    /// Before this nothing is written.
    due: Instant,
    told: bool,
}

/// How often the same change is put right at once: a person may repeat it, or another operator may act by an old state.
const CORRECTIONS_MAX: u32 = 3;
/// The wait before the next correction of a change that keeps coming back; it doubles up to the longest.
const DISPUTE_WAIT_MIN: Duration = Duration::from_secs(5);
const DISPUTE_WAIT_MAX: Duration = Duration::from_secs(600);

impl Settled {
    fn knows(&self, uid: &str, state: &str, hash: u64) -> bool {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).get(uid).is_some_and(|(at, of)| at == state && *of == hash)
    }

    fn note(&self, uid: String, state: String, hash: u64) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (state, hash));
    }

    fn forget(&self, uid: &str) {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Whether a change that was found has come back too often to be put right now; and whether that is news.
    fn disputed(&self, uid: &str, found: u64, now: Instant) -> Option<bool> {
        let mut disputes = self.disputes.lock().unwrap_or_else(PoisonError::into_inner);
        let dispute = disputes.get_mut(uid).filter(|dispute| dispute.found == found && now < dispute.due)?;
        Some(!std::mem::replace(&mut dispute.told, true))
    }

    /// Notes that what was found has been put right.
    fn corrected(&self, uid: &str, found: u64, now: Instant) {
        let mut disputes = self.disputes.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Dispute { found, corrections: 0, due: now, told: false };
        let dispute = disputes.entry(uid.to_owned()).or_insert(fresh);
        if dispute.found != found {
            *dispute = Dispute { found, corrections: 0, due: now, told: false };
        }
        dispute.corrections = dispute.corrections.saturating_add(1);
        if let Some(beyond) = dispute.corrections.checked_sub(CORRECTIONS_MAX) {
            let wait = DISPUTE_WAIT_MIN.saturating_mul(1 << beyond.min(16)).min(DISPUTE_WAIT_MAX);
            dispute.due = now.checked_add(wait).unwrap_or(now);
        }
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
    /// The name of the DistributedCounter.
    pub cluster: &'a str,
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
            Some(live) if !self.owns(live) => Err(ApplyError::refusal(live, self.cluster)),
            // Nothing of ours is written to what is on its way out; its deletion wakes the pass that makes it anew.
            Some(live) if live.meta().deletion_timestamp.is_some() => Ok(Change::None),
            Some(live) => self.correct(desired, live).await,
        }
    }

    /// Whether the object belongs to the cluster that this is done for.
    pub fn owns<K: Kind>(&self, live: &K) -> bool {
        live.owner_references().iter().any(|owner| owner.uid == self.owner)
    }

    /// Creates what was not there: by a plain create, because an apply would change what somebody else may have created
    /// under this name in the meantime.
    async fn create<K: Kind>(&self, desired: &K) -> Result<Change, ApplyError> {
        let name = desired.name_any();
        let (body, _) = document(desired)?;
        let object: K = serde_json::from_value(body).map_err(|source| ApplyError::json::<K>(&name, source))?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = self.api::<K>().create(&params, &object).await;
        created.map(|_| Change::Created).map_err(|source| ApplyError::write::<K>("created", &name, source))
    }

    /// Makes the fields that a create has set fields that were applied: only of those does the next apply take away what is
    /// no longer said.
    async fn take_fields<K: Kind>(&self, live: &K) -> Result<Option<K>, ApplyError> {
        let own = |entry: &ManagedFieldsEntry, operation: &str| {
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && entry.operation.as_deref() == Some(operation)
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        };
        let mut entries = live.managed_fields().to_vec();
        if !entries.iter().any(|entry| own(entry, "Update")) {
            return Ok(None);
        }
        if entries.iter().any(|entry| own(entry, "Apply")) {
            entries.retain(|entry| !own(entry, "Update"));
        } else {
            entries.iter_mut().filter(|entry| own(entry, "Update")).for_each(|entry| entry.operation = Some("Apply".to_owned()));
        }
        let name = live.name_any();
        let patch =
            json!({"metadata": {"uid": live.uid(), "resourceVersion": live.resource_version(), "managedFields": entries}});
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let taken = self.api::<K>().patch(&name, &params, &Patch::Merge(patch)).await;
        taken.map(Some).map_err(|source| ApplyError::write::<K>("taken over from its creation", &name, source))
    }

    async fn correct<K: Kind>(&self, desired: &K, live: &K) -> Result<Change, ApplyError> {
        let (mut body, hash) = document(desired)?;
        let name = desired.name_any();
        let uid = live.uid().unwrap_or_default();
        let said = serde_json::to_value(live).map_err(|source| ApplyError::json::<K>(&name, source))?;
        let as_said = drift::holds(&said, &body) && drift::excess(&said, &body).is_none();
        if as_said || self.settled.knows(&uid, &state(live), hash) {
            return Ok(Change::None);
        }
        let found = found(&said);
        if let Some(news) = self.settled.disputed(&uid, found, Instant::now()) {
            return Err(ApplyError::Disputed { kind: K::kind(&()).into_owned(), name, by: last_writer(live), news });
        }
        let taken = self.take_fields(live).await?;
        let live = taken.as_ref().unwrap_or(live);
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
        let now = serde_json::to_value(&written).map_err(|source| ApplyError::json::<K>(&name, source))?;
        let written = match drift::excess(&now, &body) {
            Some(excess) => {
                body["metadata"]["resourceVersion"] = json!(written.resource_version());
                self.repair::<K>(&name, excess, &uid, &body).await?
            }
            None => written,
        };
        let after = state(&written);
        if after == before {
            self.settled.note(uid, after, hash);
            return Ok(Change::None);
        }
        self.settled.forget(&uid);
        self.settled.corrected(&uid, found, Instant::now());
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

/// A hash of what an object was found to say, its status and what the API server keeps of it aside.
fn found(said: &Value) -> u64 {
    let kept: Vec<&Value> = ["labels", "annotations", "ownerReferences"].iter().map(|field| &said["metadata"][field]).collect();
    xxh3_64(json!({"metadata": kept, "spec": said["spec"]}).to_string().as_bytes())
}

/// Who wrote to an object last, besides us.
fn last_writer<K: Kind>(live: &K) -> String {
    let others = live.managed_fields().iter().filter(|entry| {
        let ours = [Some(FIELD_MANAGER), Some(REPAIR_MANAGER)].contains(&entry.manager.as_deref());
        !ours && entry.subresource.as_deref().unwrap_or_default().is_empty()
    });
    let last = others.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.as_ref()).map_or_else(|| "somebody".to_owned(), |manager| format!("`{manager}`"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_change_over_and_over_is_put_right_ever_more_rarely_and_another_one_at_once() {
        let (settled, now) = (Settled::default(), Instant::now());
        for _ in 0..CORRECTIONS_MAX {
            assert_eq!(settled.disputed("a", 1, now), None);
            settled.corrected("a", 1, now);
        }
        assert_eq!(settled.disputed("a", 1, now), Some(true));
        assert_eq!(settled.disputed("a", 1, now), Some(false), "told once");
        assert_eq!((settled.disputed("a", 2, now), settled.disputed("b", 1, now)), (None, None));
        let later = now + DISPUTE_WAIT_MIN;
        assert_eq!(settled.disputed("a", 1, later), None);
        settled.corrected("a", 1, later);
        assert_eq!(settled.disputed("a", 1, later + DISPUTE_WAIT_MIN), Some(false), "the wait has doubled");
        for _ in 0..100 {
            settled.corrected("a", 1, later);
        }
        assert_eq!(settled.disputed("a", 1, later + DISPUTE_WAIT_MAX), None);
    }

    #[test]
    fn what_was_found_is_told_from_what_changes_by_itself() {
        let said =
            |replicas: u32, version: &str| json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}});
        assert_eq!(found(&said(1, "7")), found(&said(1, "8")));
        assert_ne!(found(&said(1, "7")), found(&said(2, "7")));
    }
}
