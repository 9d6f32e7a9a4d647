//! The story of a pass: `gather → validate → plan → build → apply → publish → status`.
//!
//! `gather`, `apply`, `publish` and the status hold a client; what is in between is pure and remembers nothing, so a crash
//! at any point, a reverted spec or a second operator is just another input to the next pass.

use std::collections::HashSet;
use std::future::ready;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::join_all;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{Action, Config, Error as StreamError};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::args::{PullPolicy, Reach, RunArgs};
use crate::crd::DistributedCounter;
use crate::nodes::NodeClient;
use crate::telemetry::{Metrics, Outcome};

use apply::{Applied, ApplyError, Desk, Evicted};
use build::{BuildError, Settings};
use gather::{GatherError, Gathered};
use memory::{Memories, Memory, Pace};
use plan::{Notice, Plan, Step, Template};
use status::{Finding, StatusError};
use validate::ClusterSpec;
use watches::Guarded;

pub mod apply;
pub mod build;
pub mod events;
pub mod gather;
pub mod memory;
pub mod plan;
pub mod publish;
mod secrets;
pub mod status;
pub mod validate;
mod watches;

/// The API version of the resource.
pub const API_VERSION: &str = "distributedcounter.dev/v1alpha1";
/// The resource's name in paths.
pub const PLURAL: &str = "distributedcounters";

/// Clusters that are worked on at a time: passes mostly wait for the API server and for nodes.
const CONCURRENCY: u16 = 8;
/// Changes that come together, such as those of a StatefulSet and its Pods, wake one pass.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Between passes over a cluster that waits for a person: what they do may be nothing that a watch reports.
const STALLED_WAIT: Duration = Duration::from_secs(20);

/// What all passes share.
pub struct Context {
    client: Client,
    nodes: NodeClient,
    recorder: Recorder,
    settings: Settings,
    reach: Reach,
    metrics: Metrics,
    memories: Memories,
}

impl Context {
    /// What passes need, as the command line says.
    #[must_use]
    pub fn new(args: &RunArgs, client: Client, metrics: Metrics) -> Self {
        let settings = Settings {
            default_image: args.default_image.clone(),
            image_pull_policy: args.image_pull_policy.map(PullPolicy::as_str),
            network_policy: args.network_policy,
        };
        Self {
            nodes: NodeClient::new(Some(client.clone()), metrics.clone()),
            recorder: Recorder::new(client.clone(), Reporter::from(build::MANAGER)),
            client,
            settings,
            reach: args.reach,
            metrics,
            memories: Memories::default(),
        }
    }
}

/// Why a pass failed. It is tried again; what waits for a person or for time is a condition, never an error.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the object could not be read")]
    Fetch(#[source] Box<kube::Error>),
    #[error("gather: {0}")]
    Gather(#[from] GatherError),
    #[error("build: {0}")]
    Build(#[from] BuildError),
    #[error("apply: {0}")]
    Apply(#[from] ApplyError),
    #[error("status: {0}")]
    Status(#[from] StatusError),
}

impl ReconcileError {
    /// The failed step and a bounded name of the failure, for metrics.
    #[must_use]
    pub fn category(&self) -> (&'static str, &'static str) {
        match self {
            Self::Fetch(source) => ("fetch", api_category(source)),
            Self::Gather(error) => ("gather", error.category()),
            Self::Build(error) => ("build", error.category()),
            Self::Apply(error) => ("apply", error.category()),
            Self::Status(error) => ("status", error.category()),
        }
    }
}

/// A bounded name for what the API server, or the way to it, had against a request.
pub(crate) fn api_category(error: &kube::Error) -> &'static str {
    match error {
        kube::Error::Api(status) => match status.code {
            401 | 403 => "forbidden",
            404 => "not_found",
            409 => "conflict",
            422 => "invalid",
            429 => "throttled",
            500.. => "server",
            _ => "refused",
        },
        _ => "transport",
    }
}

/// Reconciles the clusters in `namespaces`, or everywhere when there are none, until `stop`.
pub async fn run(context: Arc<Context>, namespaces: &[String], stop: CancellationToken) {
    if namespaces.is_empty() {
        return run_scope(context, None, stop).await;
    }
    let scopes = namespaces.iter().map(|namespace| run_scope(Arc::clone(&context), Some(namespace.as_str()), stop.clone()));
    join_all(scopes).await;
}

async fn run_scope(context: Arc<Context>, namespace: Option<&str>, stop: CancellationToken) {
    let (controller, store) = watches::controller(&context.client, namespace);
    controller
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, retry_later, Arc::clone(&context))
        .for_each(|result| {
            if let Err(error) = result {
                log(&error);
            }
            note_clusters(&context, namespace, &store);
            ready(())
        })
        .await;
}

/// Failed passes are logged where they fail; what is left are the watches.
fn log(error: &StreamError<ReconcileError, kube::runtime::watcher::Error>) {
    match error {
        StreamError::ReconcilerFailed(..) => {}
        // Something that belonged to an object which is gone by now, or whose object was never there.
        StreamError::ObjectNotFound(object) => tracing::debug!(%object, "no such cluster"),
        error => tracing::warn!(%error, "a watch failed, it starts again"),
    }
}

/// Counts the clusters and forgets those that are gone. Several namespaces have a store each, which know only their own.
fn note_clusters(context: &Context, namespace: Option<&str>, store: &Store<Guarded>) {
    let objects = store.state();
    context.metrics.set_clusters(namespace.unwrap_or_default(), objects.len());
    if namespace.is_none() {
        let live: HashSet<String> = objects.iter().filter_map(|object| object.uid()).collect();
        context.memories.keep(&live);
    }
}

async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => object,
        Err(invalid) => {
            context.metrics.saw_invalid();
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            tracing::error!(name, error = invalid.error, "an object cannot be read; it may be of another release");
            return Ok(Action::await_change());
        }
    };
    let span = tracing::info_span!("reconcile", namespace = object.namespace(), name = object.name_any());
    let timed = context.metrics.pass();
    let result = context.pass(object).instrument(span.clone()).await;
    match &result {
        Ok((_, outcome)) => timed.finish(*outcome),
        Err(error) => {
            let (step, category) = error.category();
            context.metrics.failed(step, category);
            span.in_scope(|| tracing::warn!(error = %causes(error), "a pass failed, trying again"));
        }
    }
    result.map(|(action, _)| action)
}

#[allow(clippy::needless_pass_by_value, reason = "the signature is kube's")]
fn retry_later(object: Arc<Guarded>, _: &ReconcileError, context: Arc<Context>) -> Action {
    let uid = object.uid().unwrap_or_default();
    Action::requeue(context.memories.of(&uid).failed(rand::random()))
}

/// What a person has to do about a trouble before it can go away.
fn for_person(trouble: &ApplyError) -> Option<Notice> {
    match trouble {
        ApplyError::NameConflict { .. } => {
            Some(Notice { reason: "NameConflict", message: format!("{trouble}: rename it, or this cluster") })
        }
        ApplyError::Write { verb: apply::RESIZED, .. } if matches!(trouble.category(), "forbidden" | "invalid") => {
            let message = format!("{}: let the storage class expand volumes", causes(trouble));
            Some(Notice { reason: "VolumesCannotGrow", message })
        }
        _ => None,
    }
}

/// Why the record of the layout keeps the cluster from being planned, if it does.
fn unreadable(spec: &ClusterSpec, gathered: &Gathered) -> Option<Notice> {
    let error = gathered.live.unreadable.as_ref()?;
    let message = format!(
        "the ConfigMap `{}` records no layout that this release can read, and is left alone: {}",
        build::Names::from(&spec.identity).layout(),
        causes(error)
    );
    Some(Notice::new("LayoutUnreadable", message))
}

/// An error with its causes. What the API server says is told in its own words, without the structure around them.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let api = cause.downcast_ref::<kube::Error>().or_else(|| cause.downcast_ref::<Box<kube::Error>>().map(AsRef::as_ref));
        if let Some(kube::Error::Api(status)) = api {
            return format!("{text}: {} ({})", status.message, status.code);
        }
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Context {
    async fn pass(&self, cached: &DistributedCounter) -> Result<(Action, Outcome), ReconcileError> {
        let done = Ok((Action::await_change(), Outcome::Unchanged));
        let Some(object) = self.fetch(cached).await? else { return done };
        if object.metadata.deletion_timestamp.is_some() {
            // Owner references do the rest; whatever was written now would be in their way.
            return done;
        }
        let memory = self.memories.of(&object.uid().unwrap_or_default());
        let (spec, invalid) = match validate::validate(&object) {
            Ok(spec) => (spec, None),
            Err(violations) => (validate::guess(&object), Some(status::invalid(&violations))),
        };
        let (template, imageless) = match build::template(&spec, &self.settings) {
            Ok(template) => (template, None),
            Err(error @ BuildError::NoImage) => (Template(String::new()), Some(Notice::new("NoImage", error.to_string()))),
            Err(error) => return Err(error.into()),
        };
        let gathered = gather::gather(&self.client, &self.nodes, self.reach, &spec, template).await?;
        if let Some(hindrance) =
            invalid.or(imageless).or_else(|| unreadable(&spec, &gathered)).or_else(|| secrets::missing(&spec, &gathered.live))
        {
            return self.hold(&object, &memory, &spec, &gathered, hindrance).await;
        }
        let plan = plan::plan(&spec, &gathered.observed);
        let mut applied = self.act(&spec, &memory, &gathered, &plan).await?;
        let undelivered = self.publish(&gathered, &plan, &applied).await;
        events::tell(&self.recorder, &object.object_ref(&()), events::of_deeds(&plan, &applied)).await;
        let stalled = applied.troubles.iter().find_map(for_person);
        let failing = applied.troubles.iter().find(|trouble| trouble.category() != "conflict").map(|trouble| causes(trouble));
        let is_stalled = stalled.is_some();
        let refused = applied.eviction == Some(Evicted::Refused);
        let finding = Finding::Planned { spec: &spec, plan: &plan, stalled, failing, refused };
        let told = self.report(&object, &memory, &finding).await?;
        if let Some(trouble) = applied.troubles.pop().filter(|_| !is_stalled) {
            return Err(trouble.into());
        }

        let outcome = if applied.changed() || told { Outcome::Changed } else { Outcome::Unchanged };
        let pace = if applied.changed() {
            Pace::Acted
        } else if plan.progress.is_some() || undelivered {
            Pace::Waiting
        } else {
            Pace::Rest
        };
        let wait = memory.passed(pace, rand::random());
        Ok((Action::requeue(if is_stalled { wait.min(STALLED_WAIT) } else { wait }), outcome))
    }

    /// The object as it is now, unless it is gone or another one by its name.
    async fn fetch(&self, cached: &DistributedCounter) -> Result<Option<DistributedCounter>, ReconcileError> {
        let api: Api<DistributedCounter> = Api::namespaced(self.client.clone(), &cached.namespace().unwrap_or_default());
        let found = api.get_opt(&cached.name_any()).await.map_err(|source| ReconcileError::Fetch(Box::new(source)))?;
        Ok(found.filter(|object| object.uid() == cached.uid()))
    }

    /// Builds and applies what is planned.
    async fn act(
        &self,
        spec: &ClusterSpec,
        memory: &Memory,
        gathered: &Gathered,
        plan: &Plan,
    ) -> Result<Applied, ReconcileError> {
        if plan.paused {
            return Ok(Applied::default());
        }
        let objects = build::build(spec, &self.settings, plan)?;
        let identity = &spec.identity;
        let owner = identity.uid.as_deref().unwrap_or_default();
        let (namespace, cluster) = (&identity.namespace, &identity.name);
        let desk = Desk { client: &self.client, namespace, cluster, owner, settled: &memory.settled };
        Ok(apply::apply(&desk, spec, &gathered.live, &objects, plan).await)
    }

    /// Publishes a layout that is recorded for certain. Returns whether a node has not taken it.
    async fn publish(&self, gathered: &Gathered, plan: &Plan, applied: &Applied) -> bool {
        let Some(publish) = plan.publish.as_ref().filter(|publish| !publish.nodes.is_empty()) else { return false };
        let recorded =
            gathered.live.layout.as_ref() == Some(&publish.layout) || (applied.recorded && matches!(plan.step, Step::Record(..)));
        if !recorded {
            return true;
        }
        !publish::publish(&self.nodes, &gathered.targets, publish).await.failed.is_empty()
    }

    /// What is done while nothing can be planned: nodes get the recorded layout, and the status says how the cluster is.
    async fn hold(
        &self,
        object: &DistributedCounter,
        memory: &Memory,
        spec: &ClusterSpec,
        gathered: &Gathered,
        hindrance: Notice,
    ) -> Result<(Action, Outcome), ReconcileError> {
        let plan = plan::hold(&gathered.observed, hindrance);
        self.publish(gathered, &plan, &Applied::default()).await;
        let told = self.report(object, memory, &Finding::Held { spec, plan: &plan }).await?;
        memory.passed(Pace::Rest, 0.0);
        Ok((Action::requeue(STALLED_WAIT), if told { Outcome::Changed } else { Outcome::Unchanged }))
    }

    /// Writes the status if it says something new, and tells what that is. Returns whether it was written.
    async fn report(&self, object: &DistributedCounter, memory: &Memory, finding: &Finding<'_>) -> Result<bool, ReconcileError> {
        let before = object.status.clone().unwrap_or_default();
        let next = status::status(&before, object.metadata.generation, finding, Timestamp::now());
        if !status::is_due(&before, &next, memory.reported(), Instant::now()) {
            return Ok(false);
        }
        status::write(&self.client, object, &next).await?;
        memory.note_report(Instant::now());
        events::tell(&self.recorder, &object.object_ref(&()), events::of_conditions(&before, &next)).await;
        Ok(true)
    }
}
