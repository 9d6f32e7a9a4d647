//! Logs and metrics. Hot paths count in plain atomics; a scrape samples them. Labels are names that the code gives, so
//! their number is bounded.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::runtime::RuntimeMetrics;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What the checkpoint's engine fails at we say ourselves, with what follows from it; and some of it is no failure.
const QUIET: &str = "lsm_tree=off";

/// Starts logging to standard error.
///
/// # Errors
/// When `filter` is no filter, or logging was started before.
pub fn start_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| format!("--log `{filter}`: {error}"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match format {
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// Whether a figure only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written as `NAME_total`.
    Counter,
    Gauge,
}

/// One figure of a metric and the labels that tell it from its others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub labels: Vec<(&'static str, String)>,
    pub value: u64,
}

/// A metric as of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Without the prefix `counter_` and the suffix `_total`; the unit last.
    pub name: &'static str,
    /// A sentence without its full stop.
    pub help: &'static str,
    pub kind: Kind,
    pub values: Vec<Value>,
}

impl Sample {
    /// A metric of a single figure.
    #[must_use]
    pub fn one(name: &'static str, help: &'static str, kind: Kind, value: u64) -> Self {
        Self { name, help, kind, values: vec![Value { labels: Vec::new(), value }] }
    }
}

/// A part of the node that has figures to show.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The part's metrics as of now. Names are unique over all sources.
    fn samples(&self) -> Vec<Sample>;
}

impl<T: Source> Source for Arc<T> {
    fn samples(&self) -> Vec<Sample> {
        self.as_ref().samples()
    }
}

/// The runtime's own figures.
impl Source for RuntimeMetrics {
    fn samples(&self) -> Vec<Sample> {
        let tasks = u64::try_from(self.num_alive_tasks()).unwrap_or(u64::MAX);
        vec![Sample::one("tasks", "Tasks that have not ended: the node's own, and one for each connection", Kind::Gauge, tasks)]
    }
}

/// All metrics of the process, read from their sources when they are asked for.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// The metrics of these sources.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        let mut registry = Registry::with_prefix("counter");
        for source in sources {
            registry.register_collector(Box::new(Sampled(source)));
        }
        Self(registry)
    }

    /// The metrics in OpenMetrics text form.
    ///
    /// # Errors
    /// When one cannot be written as text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct Sampled(Box<dyn Source>);

impl Collector for Sampled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for sample in self.0.samples() {
            let kind = match sample.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(sample.name, sample.help, None, kind)?;
            for Value { labels, value } in &sample.values {
                if labels.is_empty() {
                    encode(&mut family, sample.kind, *value)?;
                } else {
                    encode(&mut family.encode_family(labels)?, sample.kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, value: u64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => encoder.encode_counter::<[(&str, &str); 0], _, u64>(&value, None),
        Kind::Gauge => encoder.encode_gauge(&value),
    }
}

/// What one port counts.
#[derive(Debug)]
pub struct PortMetrics {
    name: &'static str,
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Connections refused at the limit.
    pub refused: AtomicU64,
    /// Connections that are open.
    pub open: AtomicU64,
}

impl PortMetrics {
    /// The figures of the port of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, accepted: AtomicU64::new(0), refused: AtomicU64::new(0), open: AtomicU64::new(0) })
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections_open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a connection as open for as long as the value lives.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Open(Arc<PortMetrics>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The figures of all ports, as metrics with the label `port`.
#[derive(Debug)]
pub struct Ports(pub Vec<Arc<PortMetrics>>);

impl Source for Ports {
    fn samples(&self) -> Vec<Sample> {
        let values = |figure: fn(&PortMetrics) -> &AtomicU64| {
            let value = |port: &Arc<PortMetrics>| Value {
                labels: vec![("port", port.name.to_owned())],
                value: figure(port).load(Ordering::Relaxed),
            };
            self.0.iter().map(value).collect()
        };
        let sample = |name, help, kind, values| Sample { name, help, kind, values };
        vec![
            sample("connections", "Connections taken", Kind::Counter, values(|port| &port.accepted)),
            sample("connections_refused", "Connections refused at the limit", Kind::Counter, values(|port| &port.refused)),
            sample("connections_open", "Connections that are open", Kind::Gauge, values(|port| &port.open)),
        ]
    }
}

/// The classes of HTTP statuses that are told apart.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What the public API counts: requests by route, method and status class, and those that are under way.
#[derive(Debug)]
pub struct HttpMetrics {
    routes: &'static [&'static str],
    methods: &'static [&'static str],
    /// By route, then method, then class.
    requests: Box<[AtomicU64]>,
    in_flight: AtomicUsize,
    /// Requests refused because too many were under way.
    pub refused: AtomicU64,
}

impl HttpMetrics {
    /// Figures for these routes and methods, which are named by their index from now on.
    #[must_use]
    pub fn new(routes: &'static [&'static str], methods: &'static [&'static str]) -> Arc<Self> {
        let figures = routes.len() * methods.len() * CLASSES.len();
        Arc::new(Self {
            routes,
            methods,
            requests: (0..figures).map(|_| AtomicU64::new(0)).collect(),
            in_flight: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Counts an answered request. An index that does not exist counts nothing.
    pub fn answered(&self, route: usize, method: usize, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1).min(CLASSES.len() - 1);
        let index = (route * self.methods.len() + method) * CLASSES.len() + class;
        if let Some(figure) = self.requests.get(index) {
            figure.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a request as under way for as long as the value lives; none when `limit` are already.
    #[must_use]
    pub fn begin(&self, limit: usize) -> Option<InFlight<'_>> {
        let under_way = InFlight(self);
        if self.in_flight.fetch_add(1, Ordering::Relaxed) < limit {
            return Some(under_way);
        }
        drop(under_way);
        self.refused.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// A request that is under way.
#[derive(Debug)]
pub struct InFlight<'a>(&'a HttpMetrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source for HttpMetrics {
    fn samples(&self) -> Vec<Sample> {
        let label = |index: usize| {
            let (rest, class) = (index / CLASSES.len(), index % CLASSES.len());
            let (route, method) = (rest / self.methods.len(), rest % self.methods.len());
            vec![
                ("route", self.routes[route].to_owned()),
                ("method", self.methods[method].to_owned()),
                ("status", CLASSES[class].to_owned()),
            ]
        };
        let counted = self.requests.iter().map(|figure| figure.load(Ordering::Relaxed)).enumerate();
        let values =
            counted.filter(|(_, value)| *value > 0).map(|(index, value)| Value { labels: label(index), value }).collect();
        let in_flight = u64::try_from(self.in_flight.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let refused = self.refused.load(Ordering::Relaxed);
        vec![
            Sample { name: "http_requests", help: "Requests answered by the public API", kind: Kind::Counter, values },
            Sample::one("http_requests_in_flight", "Requests of the public API that are under way", Kind::Gauge, in_flight),
            Sample::one("http_requests_refused", "Requests refused because too many were under way", Kind::Counter, refused),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_encoded_with_their_labels() {
        let http = HttpMetrics::new(&["counter", "site"], &["GET", "PUT"]);
        http.answered(1, 1, 503);
        http.answered(0, 0, 200);
        let port = PortMetrics::new("http");
        let open = port.open();
        let metrics = Metrics::new(vec![Box::new(http), Box::new(Ports(vec![port]))]);
        let text = metrics.encode().unwrap();
        for line in [
            "counter_http_requests_total{route=\"site\",method=\"PUT\",status=\"5xx\"} 1\n",
            "counter_http_requests_total{route=\"counter\",method=\"GET\",status=\"2xx\"} 1\n",
            "counter_http_requests_in_flight 0\n",
            "counter_connections_open{port=\"http\"} 1\n",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        drop(open);
        assert!(metrics.encode().unwrap().contains("counter_connections_open{port=\"http\"} 0\n"));
    }

    #[test]
    fn a_request_past_the_limit_is_refused_and_counted() {
        let http = HttpMetrics::new(&["counter"], &["GET"]);
        let first = http.begin(1);
        assert!(first.is_some());
        assert!(http.begin(1).is_none());
        drop(first);
        assert!(http.begin(1).is_some());
        assert_eq!(http.refused.load(Ordering::Relaxed), 1);
    }
}
