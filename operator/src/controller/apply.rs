//! Makes the Kubernetes cluster say what was built: by server-side apply under one field manager, and with no write at
//! all where it says so already.
//!
//! The order has reasons. What Pods need before they can start comes first; the layout is recorded before anybody can
//! be told of it; evictions and removals come last, and each is bound to the very object that the plan was made for,
//! because a process that was paused may send one more write after another has taken the lead.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt as _};

use super::build::{self, BuildError, Names, Objects};
use super::gather::Live;
use super::plan::{Eviction, Plan, Removal, Resize, Step};
use super::validate::ClusterSpec;
use crate::crd::DistributedCounter;

pub use object::{APPLIED_ANNOTATION, Change, Desk, Kind, Settled};
pub use record::is_ours;

mod drift;
mod object;
mod record;
mod token;

/// The name under which the API server knows which fields are ours.
pub const FIELD_MANAGER: &str = build::MANAGER;

/// What was tried of a claim that is to grow.
pub const RESIZED: &str = "resized";

/// Why something was not applied. What came before it in the order was; the next pass goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A person has to decide: the name is somebody else's. Nothing of that name was changed.
    #[error("{kind} `{name}` exists and does not belong to this cluster")]
    NameConflict { kind: String, name: String },
    /// What is left of an earlier object of this cluster's name; Kubernetes is about to remove it.
    #[error("{kind} `{name}` belongs to an earlier DistributedCounter of this name, and is still being removed")]
    Leftover { kind: String, name: String },
    /// Somebody changes an object back whenever it is put right. Nothing was written now. `news`: it was not told before.
    #[error("{kind} `{name}` is changed back by {by} whenever it is put right; the next attempt waits longer each time")]
    Disputed { kind: String, name: String, by: String, news: bool },
    #[error("{kind} `{name}` could not be read")]
    Read { kind: String, name: String, source: Box<kube::Error> },
    /// Unless the API server refused it, it may have been written.
    #[error("{kind} `{name}` could not be {verb}")]
    Write { verb: &'static str, kind: String, name: String, source: Box<kube::Error> },
    #[error("{kind} `{name}` could not be written down as JSON")]
    Json { kind: String, name: String, source: serde_json::Error },
    #[error(transparent)]
    Build(#[from] BuildError),
}

impl ApplyError {
    /// Why an object that is not this cluster's stays as it is.
    fn refusal<K: Resource<DynamicType = ()>>(live: &K, cluster: &str) -> Self {
        let earlier = |owner: &OwnerReference| owner.kind == DistributedCounter::kind(&()) && owner.name == cluster;
        let name = live.name_any();
        if live.owner_references().iter().any(earlier) {
            return Self::Leftover { kind: K::kind(&()).into_owned(), name };
        }
        Self::NameConflict { kind: K::kind(&()).into_owned(), name }
    }

    fn read<K: Resource<DynamicType = ()>>(name: &str, source: kube::Error) -> Self {
        Self::Read { kind: K::kind(&()).into_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    fn write<K: Resource<DynamicType = ()>>(verb: &'static str, name: &str, source: kube::Error) -> Self {
        Self::Write { verb, kind: K::kind(&()).into_owned(), name: name.to_owned(), source: Box::new(source) }
    }

    fn json<K: Resource<DynamicType = ()>>(name: &str, source: serde_json::Error) -> Self {
        Self::Json { kind: K::kind(&()).into_owned(), name: name.to_owned(), source }
    }

    /// A bounded name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::NameConflict { .. } => "name_conflict",
            Self::Leftover { .. } => "leftover",
            Self::Disputed { .. } => "disputed",
            Self::Read { source, .. } | Self::Write { source, .. } => super::api_category(source),
            Self::Json { .. } => "json",
            Self::Build(error) => error.category(),
        }
    }
}

/// What a pass has changed.
#[derive(Debug, Default)]
pub struct Applied {
    pub created: u32,
    pub corrected: u32,
    pub removed: u32,
    /// Claims that were asked to grow.
    pub resized: u32,
    /// The layout was recorded in another form or version.
    pub recorded: bool,
    pub eviction: Option<Evicted>,
    /// What could not be done, in the order in which it was tried.
    pub troubles: Vec<ApplyError>,
}

/// What became of an eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicted {
    Started,
    /// A disruption budget forbids it for now.
    Refused,
    /// The Pod has gone, or is another one already.
    Gone,
}

impl Applied {
    /// Whether anything was written.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.recorded
            || self.eviction == Some(Evicted::Started)
            || [self.created, self.corrected, self.removed, self.resized].iter().any(|count| *count > 0)
    }

    fn note(&mut self, result: Result<Change, ApplyError>) {
        match result {
            Ok(change) => self.count(change),
            Err(trouble) => self.troubles.push(trouble),
        }
    }

    fn count(&mut self, change: Change) {
        match change {
            Change::Created => self.created += 1,
            Change::Corrected => self.corrected += 1,
            Change::None => {}
        }
    }
}

/// Applies objects and then acts on the plan's step. What cannot be done is noted as trouble. Where nothing rests on it,
/// the rest goes on: a drifted budget must not keep a StatefulSet from being put right. Disruptions wait then.
pub async fn apply(desk: &Desk<'_>, spec: &ClusterSpec, live: &Live, objects: &Objects, plan: &Plan) -> Applied {
    let mut applied = Applied::default();
    if let Err(trouble) = apply_all(desk, spec, live, objects, plan, &mut applied).await {
        applied.troubles.push(trouble);
    }
    applied
}

async fn apply_all(
    desk: &Desk<'_>,
    spec: &ClusterSpec,
    live: &Live,
    objects: &Objects,
    plan: &Plan,
    applied: &mut Applied,
) -> Result<(), ApplyError> {
    // Whatever is added to `Objects` does not compile until it is applied here.
    let Objects { service_account, network_policy, nodes_service, client_service, budgets, stateful_sets } = objects;
    applied.count(desk.ensure(service_account, live.service_accounts.named(service_account)).await?);
    applied.count(token::ensure(desk, spec, live.token.as_ref()).await?);
    // The identity of the cluster is recorded before there is anybody who could take another one.
    applied.recorded = record_layout(desk, spec, live, plan).await?;
    match network_policy {
        Some(policy) => applied.note(desk.ensure(policy, live.network_policies.named(policy)).await),
        None => applied.removed += remove_all(desk, live.network_policies.all()).await?,
    }
    for service in [nodes_service, client_service] {
        applied.note(desk.ensure(service, live.services.named(service)).await);
    }
    for budget in budgets {
        applied.note(desk.ensure(budget, live.budgets.named(budget)).await);
    }
    for set in stateful_sets {
        applied.note(desk.ensure(set, live.stateful_sets.named(set)).await);
    }
    // Those of shards that are gone: a budget of no Pods is removed even if a crash came between it and its shard.
    let is_left = |budget: &&PodDisruptionBudget| {
        let name = budget.name_any();
        budgets.iter().all(|own| own.name_any() != name) && live.stateful_sets.get(&name).is_none()
    };
    applied.removed += remove_all(desk, live.budgets.all().filter(is_left)).await?;
    if applied.troubles.is_empty() {
        disrupt(desk, spec, live, plan, applied).await?;
    }
    Ok(())
}

async fn disrupt(desk: &Desk<'_>, spec: &ClusterSpec, live: &Live, plan: &Plan, applied: &mut Applied) -> Result<(), ApplyError> {
    if let Step::Evict(eviction) = &plan.step {
        applied.eviction = Some(evict(desk, eviction).await?);
    }
    for removal in &plan.remove {
        applied.removed += remove_shard(desk, spec, live, removal).await?;
    }
    // Last: a class whose volumes cannot grow must not keep Pods from being replaced.
    for claim in &plan.resize {
        resize(desk, spec, claim).await?;
        applied.resized += 1;
    }
    Ok(())
}

/// Records the step's layout, or sees to it that the recorded one still has its labels and its owner.
async fn record_layout(desk: &Desk<'_>, spec: &ClusterSpec, live: &Live, plan: &Plan) -> Result<bool, ApplyError> {
    if let Some(foreign) = live.record.as_ref().filter(|record| !is_ours(record, &spec.identity)) {
        return Err(ApplyError::refusal(foreign, desk.cluster));
    }
    let Some(layout) = plan.step.layout().or(live.layout.as_ref()) else { return Ok(false) };
    let volumes = plan.volumes.as_ref().or(live.volumes.as_ref());
    record::ensure(desk, &build::layout_record(spec, layout, volumes)?, live.record.as_ref()).await
}

async fn evict(desk: &Desk<'_>, eviction: &Eviction) -> Result<Evicted, ApplyError> {
    let name = &eviction.node.0;
    let this_one =
        DeleteParams::default().preconditions(Preconditions { uid: Some(eviction.uid.clone()), resource_version: None });
    let params = EvictParams { delete_options: Some(this_one), ..EvictParams::default() };
    match desk.api::<Pod>().evict(name, &params).await {
        Ok(_) => Ok(Evicted::Started),
        Err(kube::Error::Api(status)) if status.code == 429 => Ok(Evicted::Refused),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Evicted::Gone),
        Err(source) => Err(ApplyError::write::<Pod>("evicted", name, source)),
    }
}

/// Claims belong to the StatefulSet controller; only their size is ours to raise.
async fn resize(desk: &Desk<'_>, spec: &ClusterSpec, resize: &Resize) -> Result<(), ApplyError> {
    let name = Names::from(&spec.identity).claim(&resize.node);
    let body = serde_json::json!({"spec": {"resources": {"requests": {"storage": resize.size.as_str()}}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = desk.api::<PersistentVolumeClaim>().patch(&name, &params, &Patch::Merge(body)).await;
    patched.map(drop).map_err(|source| ApplyError::write::<PersistentVolumeClaim>(RESIZED, &name, source))
}

/// Takes away a shard's StatefulSet, and then the budget that its Pods had.
async fn remove_shard(desk: &Desk<'_>, spec: &ClusterSpec, live: &Live, removal: &Removal) -> Result<u32, ApplyError> {
    let name = Names::from(&spec.identity).shard(removal.shard);
    let mut removed = 0;
    let set = live.stateful_sets.get(&name).filter(|set| set.uid().as_deref() == Some(&removal.uid));
    if let Some(set) = set {
        removed += remove(desk, set).await?;
    }
    if let Some(budget) = live.budgets.get(&name) {
        removed += remove(desk, budget).await?;
    }
    Ok(removed)
}

async fn remove_all<'a, K: Kind>(desk: &Desk<'_>, objects: impl Iterator<Item = &'a K>) -> Result<u32, ApplyError> {
    let mut removed = 0;
    for object in objects {
        removed += remove(desk, object).await?;
    }
    Ok(removed)
}

/// Deletes this very object in this very state, if it is ours.
async fn remove<K: Kind>(desk: &Desk<'_>, object: &K) -> Result<u32, ApplyError> {
    if !desk.owns(object) || object.meta().deletion_timestamp.is_some() {
        return Ok(0);
    }
    let name = object.name_any();
    let state = Preconditions { uid: object.uid(), resource_version: object.resource_version() };
    match desk.api::<K>().delete(&name, &DeleteParams::background().preconditions(state)).await {
        Ok(_) => Ok(1),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(0),
        Err(source) => Err(ApplyError::write::<K>("deleted", &name, source)),
    }
}
