//! What the live part counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::telemetry::{Kind, Sample, Source, Value};

/// Figures of live connections. All are plain atomics.
#[derive(Debug, Default)]
pub struct LiveMetrics {
    /// Open now.
    pub websockets: AtomicU64,
    pub streams: AtomicU64,
    /// Subscriptions of open connections.
    pub subscriptions: AtomicU64,
    /// Viewers of pages that this node holds.
    pub sessions: AtomicU64,
    /// Those of them whose node has stopped, and whose clients are not back.
    pub orphans: AtomicU64,
    /// Those of whom nobody came back in time.
    pub orphans_lost: AtomicU64,
    /// Pages that someone here looks at.
    pub pages: AtomicU64,
    /// Counts of pages sent to other nodes where someone looks at them, and received from such.
    pub fed_sent: AtomicU64,
    pub fed_received: AtomicU64,
    /// Counts written as text.
    pub written: AtomicU64,
    /// Counts sent.
    pub sent: AtomicU64,
    /// Counts that a newer one has replaced before a slow client took them.
    pub replaced: AtomicU64,
    /// Clients cut off because they took nothing, or were not heard, for a heartbeat.
    pub cut: AtomicU64,
    pub refused_open: AtomicU64,
    pub refused_address: AtomicU64,
    pub refused_rate: AtomicU64,
    pub refused_origin: AtomicU64,
    pub refused_unread: AtomicU64,
    pub refused_stopping: AtomicU64,
    /// Users whose unread counts someone here follows.
    pub followed_users: AtomicU64,
    /// Subscriptions of theirs.
    pub followed_subscriptions: AtomicU64,
    /// Changes of their counts, for all who follow.
    pub unread_changes: AtomicU64,
    /// How often subscriptions of theirs were fetched.
    pub fetched: AtomicU64,
    pub fetches_failed: AtomicU64,
}

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted<F: Fn(&LiveMetrics) -> &AtomicU64> {
    metrics: std::sync::Arc<LiveMetrics>,
    figure: F,
}

impl<F: Fn(&LiveMetrics) -> &AtomicU64> Counted<F> {
    pub(super) fn new(metrics: std::sync::Arc<LiveMetrics>, figure: F) -> Self {
        figure(&metrics).fetch_add(1, Ordering::Relaxed);
        Self { metrics, figure }
    }
}

impl<F: Fn(&LiveMetrics) -> &AtomicU64> Drop for Counted<F> {
    fn drop(&mut self) {
        (self.figure)(&self.metrics).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Source for LiveMetrics {
    fn samples(&self) -> Vec<Sample> {
        let value = |name: &'static str, text: &str, figure: &AtomicU64| Value {
            labels: vec![(name, text.to_owned())],
            value: figure.load(Ordering::Relaxed),
        };
        let one = |name, help, kind, figure: &AtomicU64| Sample::one(name, help, kind, figure.load(Ordering::Relaxed));
        vec![
            Sample {
                name: "live_connections_open",
                help: "Live connections that are open",
                kind: Kind::Gauge,
                values: vec![value("kind", "websocket", &self.websockets), value("kind", "stream", &self.streams)],
            },
            Sample {
                name: "live_connections_refused",
                help: "Live connections refused, by the limit that was reached",
                kind: Kind::Counter,
                values: vec![
                    value("limit", "open", &self.refused_open),
                    value("limit", "address", &self.refused_address),
                    value("limit", "rate", &self.refused_rate),
                    value("limit", "origin", &self.refused_origin),
                    value("limit", "unread", &self.refused_unread),
                    value("limit", "stopping", &self.refused_stopping),
                ],
            },
            one(
                "live_subscriptions",
                "Pages that open live connections look at, each counted per connection",
                Kind::Gauge,
                &self.subscriptions,
            ),
            one("live_pages", "Pages that someone on this node looks at", Kind::Gauge, &self.pages),
            one("live_sessions", "Viewers that this node holds", Kind::Gauge, &self.sessions),
            one(
                "live_orphans",
                "Viewers that this node holds for one that has stopped, until their clients are back",
                Kind::Gauge,
                &self.orphans,
            ),
            one(
                "live_orphans_lost",
                "Viewers that this node held for one that has stopped, and whose clients did not come back in time",
                Kind::Counter,
                &self.orphans_lost,
            ),
            one("live_unread_users", "Users whose unread counts someone on this node follows", Kind::Gauge, &self.followed_users),
            one(
                "live_unread_subscriptions",
                "Subscriptions of the users whose unread counts someone on this node follows",
                Kind::Gauge,
                &self.followed_subscriptions,
            ),
            one(
                "live_unread_changes",
                "Changes of followed unread counts, each counted once however many follow it",
                Kind::Counter,
                &self.unread_changes,
            ),
            Sample {
                name: "live_unread_fetches",
                help: "How often a followed user's subscriptions were asked for, by what came of it",
                kind: Kind::Counter,
                values: vec![value("outcome", "answered", &self.fetched), value("outcome", "failed", &self.fetches_failed)],
            },
            Sample {
                name: "live_feed_readings",
                help: "Counts sent to other nodes for those who look at pages there, and received from such, each once per node",
                kind: Kind::Counter,
                values: vec![value("direction", "sent", &self.fed_sent), value("direction", "received", &self.fed_received)],
            },
            one(
                "live_counts_written",
                "Counts written as text, each once for all of this node's live connections that it is sent to",
                Kind::Counter,
                &self.written,
            ),
            one("live_messages_sent", "Counts sent to live connections", Kind::Counter, &self.sent),
            one(
                "live_messages_replaced",
                "Counts that a newer one has replaced before a slow client took them",
                Kind::Counter,
                &self.replaced,
            ),
            one(
                "live_connections_cut",
                "Live connections ended because their client took nothing, or was not heard, for a heartbeat",
                Kind::Counter,
                &self.cut,
            ),
        ]
    }
}
