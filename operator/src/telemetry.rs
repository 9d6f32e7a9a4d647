//! Logs and metrics. Labels are enums, or names that the code gives, so their number is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::args::{LogArgs, LogFormat};

/// Starts logging to standard error.
///
/// # Errors
/// When the filter is none.
pub fn start(args: &LogArgs) -> Result<(), String> {
    let filter = EnvFilter::try_new(&args.log).map_err(|error| format!("--log `{}`: {error}", args.log))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match args.log_format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// How a pass over a cluster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    Unchanged,
    Changed,
    Error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    step: &'static str,
    category: &'static str,
}

/// The watched namespaces are few: the command line names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabel {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
    result: &'static str,
}

/// All that the operator counts. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    passes: Family<OutcomeLabel, Counter>,
    errors: Family<ErrorLabels, Counter>,
    seconds: Histogram,
    writes: Family<VerbLabel, Counter>,
    node_calls: Family<CallLabels, Counter>,
    leader: Gauge,
    crd_missing: Gauge,
    clusters: Family<ScopeLabel, Gauge>,
    invalid: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        // From a pass that changes nothing against a near API server to one that waits for unreachable nodes.
        const BUCKETS_SECONDS: [f64; 8] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
        let mut registry = Registry::with_prefix("operator");
        let metrics = Self {
            registry: Arc::default(),
            passes: Family::default(),
            errors: Family::default(),
            seconds: Histogram::new(BUCKETS_SECONDS),
            writes: Family::default(),
            node_calls: Family::default(),
            leader: Gauge::default(),
            crd_missing: Gauge::default(),
            clusters: Family::default(),
            invalid: Counter::default(),
        };
        registry.register("reconciles", "Passes over clusters by how they ended", metrics.passes.clone());
        registry.register("reconcile_errors", "Failed passes by step and category", metrics.errors.clone());
        registry.register("reconcile_duration_seconds", "Time of a pass over one cluster", metrics.seconds.clone());
        registry.register("api_writes", "Successful writes to the Kubernetes API, Lease renewals aside", metrics.writes.clone());
        registry.register("node_calls", "Calls of nodes' admin API by result", metrics.node_calls.clone());
        registry.register("leader", "1 while this process leads", metrics.leader.clone());
        registry.register("crd_missing", "1 while the DistributedCounter resource is not installed", metrics.crd_missing.clone());
        registry.register("clusters", "DistributedCounters that this process watches", metrics.clusters.clone());
        registry.register("invalid_objects", "DistributedCounters seen that could not be read", metrics.invalid.clone());
        Self { registry: Arc::new(registry), ..metrics }
    }
}

impl Metrics {
    /// The metrics in OpenMetrics text form.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Starts the time of a pass, which ends when the value is finished or dropped.
    #[must_use]
    pub fn pass(&self) -> Pass {
        Pass { metrics: self.clone(), started: Instant::now(), outcome: Outcome::Error }
    }

    /// Counts a failed pass.
    pub fn failed(&self, step: &'static str, category: &'static str) {
        self.errors.get_or_create(&ErrorLabels { step, category }).inc();
    }

    /// Counts a write that the API server has accepted.
    pub fn wrote(&self, verb: &'static str) {
        self.writes.get_or_create(&VerbLabel { verb }).inc();
    }

    /// Counts a call of a node.
    pub fn called(&self, call: &'static str, result: &'static str) {
        self.node_calls.get_or_create(&CallLabels { call, result }).inc();
    }

    /// Notes whether this process leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Notes whether the resource is missing.
    pub fn set_crd_missing(&self, missing: bool) {
        self.crd_missing.set(i64::from(missing));
    }

    /// Notes how many clusters are watched in a namespace of the command line, or everywhere (`""`).
    pub fn set_clusters(&self, namespace: &str, clusters: usize) {
        self.clusters
            .get_or_create(&ScopeLabel { namespace: namespace.to_owned() })
            .set(i64::try_from(clusters).unwrap_or(i64::MAX));
    }

    /// Counts an object that could not be read.
    pub fn saw_invalid(&self) {
        self.invalid.inc();
    }
}

/// A pass that is being timed. Dropped without a word, as by a panic or a cancelled task, it counts as an error.
pub struct Pass {
    metrics: Metrics,
    started: Instant,
    outcome: Outcome,
}

impl Pass {
    /// Ends the pass.
    pub fn finish(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let elapsed: Duration = self.started.elapsed();
        self.metrics.seconds.observe(elapsed.as_secs_f64());
        self.metrics.passes.get_or_create(&OutcomeLabel { outcome: self.outcome }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_encoded_with_their_labels() {
        let metrics = Metrics::default();
        metrics.pass().finish(Outcome::Changed);
        drop(metrics.pass());
        metrics.failed("gather", "api");
        metrics.wrote("patch");
        metrics.set_leader(true);
        let text = metrics.encode().unwrap();
        for line in [
            "operator_reconciles_total{outcome=\"Changed\"} 1",
            "operator_reconciles_total{outcome=\"Error\"} 1",
            "operator_reconcile_errors_total{step=\"gather\",category=\"api\"} 1",
            "operator_api_writes_total{verb=\"patch\"} 1",
            "operator_leader 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
