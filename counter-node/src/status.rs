//! Gathers what the node says of itself: for `GET /status`, and for the metrics.

use std::sync::Arc;

use counter_core::layout::Layout;
use counter_core::message::LayoutId;
use counter_core::slot::{Slot, SlotRange};
use counter_core::status::{LayoutStatus, NodeStatus, Readiness, STATUS_FORMAT, SlotRangeStatus, StorageStatus};
use counter_core::table::{Table, TokenCounts};

use crate::commit::Committer;
use crate::forwarding::Forwarding;
use crate::presence::PresenceProtocol;
use crate::protocol::Protocol;
use crate::storage::{Fsync, Store, StoreConfig};
use crate::telemetry::{Kind, Sample, Source, Value};

/// Everything that has something to say.
#[derive(Clone)]
pub struct StatusSource {
    pub protocol: Arc<Protocol>,
    pub table: Arc<Table>,
    pub presence: Arc<PresenceProtocol>,
    pub committer: Arc<Committer>,
    pub forwarding: Arc<Forwarding>,
    pub volume: Arc<dyn Store>,
    pub store: StoreConfig,
    pub fsync: Fsync,
}

impl StatusSource {
    /// The node's status, in which a move counts as received only when it is on the disk: on the strength of this the
    /// old shard forgets what it had forced there, and a power loss here must not take more than it could there.
    pub async fn read_durable(&self) -> NodeStatus {
        let mut status = self.read();
        if status.moves.iter().all(|slot_move| slot_move.slots_left > 0) {
            return status;
        }
        let store = self.volume.clone();
        // After the reading: all that it counts as held has been committed by now.
        let synced = tokio::task::spawn_blocking(move || store.sync()).await;
        if let Ok(Ok(())) = synced {
            return status;
        }
        tracing::warn!("cannot force received slots to the disk; they do not count as received");
        for slot_move in &mut status.moves {
            slot_move.slots_left = slot_move.slots_left.max(1);
            for source in &mut slot_move.sources {
                source.slots_left = source.slots_left.max(1);
            }
        }
        status
    }

    /// Whether the node should be given clients. One that serves already does so in full only when it knows who looks at its pages.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        match self.protocol.view().readiness {
            Readiness::Ready if !self.presence.is_settled() => Readiness::MergingSiblings,
            readiness => readiness,
        }
    }

    /// The node's status as of now.
    #[must_use]
    pub fn read(&self) -> NodeStatus {
        let view = self.protocol.view();
        let layout = view.routes.as_ref().map(|routes| routes.layout.as_ref());
        let (actor, replica) = self.protocol.status();
        NodeStatus {
            format: STATUS_FORMAT,
            node: self.protocol.me().clone(),
            cluster: layout.map(|layout| layout.cluster),
            actor,
            readiness: self.readiness(),
            // What is said to be acted by must not be taken back by a crash: moves go on on the strength of it.
            layout: self.protocol.durable_layout().map(|LayoutId { version, hash }| LayoutStatus { version, hash }),
            virtual_shards: layout.map(|layout| layout.virtual_shards.clone()).unwrap_or_default(),
            storage: self.storage(),
            slots: layout.map(|layout| self.slots(layout)).unwrap_or_default(),
            peers: replica.peers,
            unsent_entries: replica.unsent_entries,
            moves: replica.moves,
        }
    }

    fn storage(&self) -> StorageStatus {
        let kind = match self.store {
            StoreConfig::Volume(_) => "volume",
            StoreConfig::Memory => "memory",
            StoreConfig::Redis(_) => "redis",
        };
        StorageStatus {
            kind: kind.to_owned(),
            fsync: format!("{:?}", self.fsync),
            writable: *self.committer.writable().borrow(),
            counters: self.table.counters(),
        }
    }

    /// The ranges that this node's shard owns or receives, with what this replica holds of them.
    fn slots(&self, layout: &Layout) -> Vec<SlotRangeStatus> {
        let Some(shard) = layout.shard_of(self.protocol.me()) else { return Vec::new() };
        let received = layout.moves.iter().filter(|slot_move| slot_move.to == shard.shard && slot_move.owner() != shard.shard);
        let received = received.flat_map(|slot_move| &slot_move.slots).map(|range| (*range, false));
        shard.slots.iter().map(|range| (*range, true)).chain(received).map(|(range, owned)| self.range(range, owned)).collect()
    }

    fn range(&self, range: SlotRange, owned: bool) -> SlotRangeStatus {
        let mut status = SlotRangeStatus { range, owned, counters: 0, tally: 0 };
        for slot in range.iter() {
            let vector = self.table.slot(slot);
            status.counters += vector.len() as u64;
            status.tally = status.tally.saturating_add(vector.tally());
        }
        status
    }
}

impl std::fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StatusSource")
    }
}

impl Source for StatusSource {
    fn samples(&self) -> Vec<Sample> {
        use std::sync::atomic::Ordering::Relaxed;
        let counts = self.committer.counts();
        let view = self.protocol.view();
        let version = view.routes.as_ref().map_or(0, |routes| routes.layout.version.0);
        let owned = view.routes.as_ref().map_or(0, |routes| Slot::all().filter(|slot| routes.is_mine(*slot)).count());
        let (_, replica) = self.protocol.status();
        let moving = replica.moves.iter().map(|slot_move| slot_move.slots_left).sum();
        let ready = u64::from(self.readiness() == Readiness::Ready);
        let writable = u64::from(*self.committer.writable().borrow());
        let store = self.volume.counts();
        let mut samples = vec![
            Sample::one("node_ready", "1 while the node should be given clients", Kind::Gauge, ready),
            Sample::one("layout_version", "The version of the layout that the node acts by", Kind::Gauge, version),
            Sample::one("slots_owned", "Slots that the node's shard owns", Kind::Gauge, owned as u64),
            Sample::one("move_slots_left", "Slots that the node has still to receive", Kind::Gauge, moving),
            Sample::one("counters", "Counters held in memory", Kind::Gauge, self.table.counters()),
            Sample::one(
                "counters_memory_bytes",
                "What the counters take, room for growth included",
                Kind::Gauge,
                self.table.memory_bytes(),
            ),
            Sample::one("storage_writable", "1 while the storage takes writes", Kind::Gauge, writable),
            Sample::one("commit_waiting", "Changes that wait to be written", Kind::Gauge, self.committer.waiting() as u64),
            Sample::one("commit_batches", "Batches written", Kind::Counter, counts.batches.load(Relaxed)),
            Sample::one("commit_records", "Records written", Kind::Counter, counts.records.load(Relaxed)),
            Sample::one("commit_changes", "Changes made durable", Kind::Counter, counts.changes.load(Relaxed)),
            Sample::one("commit_failures", "Failed writes and attempts to reopen", Kind::Counter, counts.failures.load(Relaxed)),
            Sample::one(
                "log_full_segments",
                "Log segments that wait to be folded into the checkpoint",
                Kind::Gauge,
                store.full_segments,
            ),
            Sample::one("log_folds", "Log segments folded into the checkpoint", Kind::Counter, store.folds),
            Sample::one(
                "log_failures",
                "Failed attempts to fold a log segment or to make one",
                Kind::Counter,
                store.fold_failures,
            ),
            Sample::one(
                "log_waited_us",
                "Microseconds that commits have waited for a log segment",
                Kind::Counter,
                store.waited_us,
            ),
            Sample::one("storage_mended", "Reconnects or reopenings after a failure", Kind::Counter, counts.mended.load(Relaxed)),
            Sample::one("forward_waiting", "Requests that wait for other nodes", Kind::Gauge, self.forwarding.waiting() as u64),
            Sample {
                name: "peer_unacknowledged",
                help: "Own changes that a peer has not acknowledged",
                kind: Kind::Gauge,
                values: replica.peers.iter().map(peer_value).collect(),
            },
        ];
        samples.extend(token_samples(&self.table));
        samples
    }
}

/// Labelled by why an update under a token was refused.
fn token_samples(table: &Table) -> [Sample; 4] {
    let TokenCounts { replayed, refunded, reused, expired, from_future, full } = table.token_counts();
    let reasons = [("reused", reused), ("expired", expired), ("from-future", from_future), ("full", full)];
    let refused = |(reason, value): (&str, u64)| Value { labels: vec![("reason", reason.to_owned())], value };
    [
        Sample::one("tokens", "Tokens that are remembered", Kind::Gauge, table.tokens()),
        Sample::one("token_replays", "Updates answered as counted before", Kind::Counter, replayed),
        Sample::one(
            "token_refunds",
            "Updates that count here no more because another replica had counted the token, too",
            Kind::Counter,
            refunded,
        ),
        Sample {
            name: "token_refusals",
            help: "Updates refused for their token",
            kind: Kind::Counter,
            values: reasons.map(refused).into(),
        },
    ]
}

/// Labelled by node: as many as a shard, and those it moves slots to, have.
fn peer_value(peer: &counter_core::status::PeerStatus) -> Value {
    Value { labels: vec![("peer", peer.node.0.clone())], value: peer.unacknowledged }
}
