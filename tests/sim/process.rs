//! A node and its process: the state machines that a real node runs, and what its rim holds for them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use counter_core::counter::Key;
use counter_core::forward::{ForwardConfig, ForwardInbox, Forwarder, InboxConfig, ItemResult, MessageId, Session};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, NodeName};
use counter_core::key::KeyKind;
use counter_core::layout::LayoutVersion;
use counter_core::replica::{CommitMark, Effect, Now, PersistId, Replica, ReplicaConfig};
use counter_core::slot::Slot;
use counter_core::status::Readiness;
use counter_core::table::{Table, TableLimits};
use counter_core::vector::CounterView;
use counter_node::protocol::{Routes, View};
use counter_node::unread::shards::Shards;

use crate::bugs::Bug;
use crate::disk::{AppliedUpdate, Disk, Write};
use crate::followers::Gateway;
use crate::tasks::{Desk, Port};

/// The wall clock when a simulation begins.
pub(crate) const EPOCH_MS: u64 = 1_900_000_000_000;
/// Shortened, so that tokens are forgotten within a run.
pub(crate) const TOKEN_WINDOW_MS: u64 = 5_000;
pub(crate) const TOKEN_SLACK_MS: u64 = 2_000;
/// The order in which tables go through their counters depends on it.
const TABLE_SEED: u64 = 11;
const LIMITS: TableLimits =
    TableLimits { counters: 1 << 20, memory_bytes: 1 << 30, tokens: 1 << 20, token_window_ms: TOKEN_WINDOW_MS };

/// A node: its volume stays, its process comes and goes.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) disk: Disk,
    pub(crate) process: Option<Process>,
    /// The process that was killed last, while what it was writing may still reach the kernel.
    pub(crate) dying: Option<u64>,
    pub(crate) wall_offset_ms: i64,
    pub(crate) storage_fails: bool,
    /// To be restored, or to be given to another node, by a later fault.
    pub(crate) snapshot: Option<Disk>,
}

/// Who waits for a commit.
#[derive(Debug)]
pub(crate) enum Waiter {
    Client { request: u64 },
    Forward(ForwardWaiter),
}

#[derive(Debug)]
pub(crate) struct ForwardWaiter {
    pub(crate) from: usize,
    pub(crate) from_process: u64,
    pub(crate) forwarder: ActorId,
    pub(crate) session: Session,
    pub(crate) message: MessageId,
    pub(crate) newer_than: LayoutVersion,
    pub(crate) results: Vec<ItemResult>,
}

/// What one commit is for.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) keys: BTreeSet<Key>,
    pub(crate) slots: BTreeSet<Slot>,
    pub(crate) floors: BTreeSet<Slot>,
    pub(crate) own: Vec<Key>,
    pub(crate) applied: Vec<AppliedUpdate>,
    pub(crate) waiters: Vec<Waiter>,
    pub(crate) persists: Vec<PersistId>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.slots.is_empty()
            && self.floors.is_empty()
            && self.waiters.is_empty()
            && self.persists.is_empty()
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    /// Counted over the whole simulation.
    pub(crate) number: u64,
    started_ms: u64,
    pub(crate) table: Arc<Table>,
    pub(crate) replica: Replica,
    pub(crate) forwarder: Forwarder,
    pub(crate) inbox: ForwardInbox,
    pub(crate) clock: Hlc,
    pub(crate) writable: bool,
    pub(crate) committing: bool,
    pub(crate) queued: Work,
    /// What failed commits were to write: storage has it once it is open again, and not before.
    pub(crate) unsaved: Work,
    /// Waiting for a majority, until when.
    pub(crate) quorum: Vec<(CommitMark, u64, Vec<Waiter>)>,
    /// Clients' requests that this process has not answered.
    pub(crate) pending: BTreeSet<u64>,
    /// A clean stop is under way, and must be over by then.
    pub(crate) stopping_ms: Option<u64>,
    /// What users' requests are routed by, see [`Self::see`].
    view: Arc<Mutex<Arc<View>>>,
    /// Where a plan has followers.
    pub(crate) gateway: Option<Box<Gateway>>,
}

impl Process {
    pub(crate) fn start(name: &NodeName, disk: &Disk, actor: ActorId, start: Start) -> (Self, Vec<Effect>) {
        let table = Arc::new(Table::new(TABLE_SEED, LIMITS));
        disk.image().load(&table);
        let layout = disk.layout.clone().map(Arc::new);
        let mut forwarder = Forwarder::new(actor, name.clone(), ForwardConfig::default());
        if let Some(layout) = &layout {
            forwarder.handle_layout(0, layout);
        }
        let (replica, effects) = Replica::new(name.clone(), actor, layout, start.config, start.seed, &table);
        let process = Self {
            number: start.number,
            started_ms: start.now_ms,
            table,
            replica,
            forwarder,
            inbox: ForwardInbox::new(actor, InboxConfig::default()),
            clock: Hlc::default(),
            writable: true,
            committing: false,
            queued: Work::default(),
            unsaved: Work::default(),
            quorum: Vec::new(),
            pending: BTreeSet::new(),
            stopping_ms: None,
            view: Arc::new(Mutex::new(Arc::new(View { routes: None, readiness: Readiness::WaitingForLayout }))),
            gateway: start.followers.then(|| Box::new(Gateway::new(name.clone(), start.seed))),
        };
        (process, effects)
    }

    /// Monotonic time is a process's own, and so is nobody else's.
    pub(crate) fn now(&self, now_ms: u64, wall_offset_ms: i64) -> Now {
        let wall_ms = (EPOCH_MS + now_ms).saturating_add_signed(wall_offset_ms);
        Now { monotonic_ms: self.monotonic_ms(now_ms), wall_ms }
    }

    pub(crate) fn monotonic_ms(&self, now_ms: u64) -> u64 {
        now_ms - self.started_ms
    }

    /// The next moment of the node's hybrid clock.
    pub(crate) fn tick_clock(&mut self, now: Now) -> Hlc {
        self.clock = self.clock.max(self.replica.clock()).next(now.wall_ms);
        self.clock
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.replica.readiness() == Readiness::Ready
    }

    /// Whether this node may serve clients of the slot.
    pub(crate) fn serves(&self, name: &NodeName, slot: Slot) -> bool {
        let owner = self.replica.layout().and_then(|layout| layout.owner(slot));
        self.is_ready() && owner.is_some_and(|shard| shard.nodes.iter().any(|node| node.name == *name))
    }

    /// Routes by what the replica has come to.
    pub(crate) fn see(&self, name: &NodeName) {
        let mut view = self.view.lock().unwrap();
        let (layout, readiness) = (self.replica.layout(), self.replica.readiness());
        let held = view.routes.as_ref().map(|routes| routes.layout.version);
        if held != layout.map(|layout| layout.version) || view.readiness != readiness {
            let routes = layout.map(|layout| Routes::of(layout, name));
            *view = Arc::new(View { routes, readiness });
        }
    }

    /// The way to the shards, for one task.
    pub(crate) fn shards(&self, name: &NodeName, desk: Desk) -> Shards<Port> {
        Shards { table: self.table.clone(), way: Port { me: name.clone(), view: self.view.clone(), desk } }
    }

    /// The current records of what is to be written.
    pub(crate) fn records(&self, work: &Work, bug: Option<Bug>) -> Vec<Write> {
        let slots: BTreeSet<Slot> =
            work.keys.iter().map(Key::slot).chain(work.slots.iter().chain(&work.floors).copied()).collect();
        let mut writes = Vec::new();
        for slot in slots {
            let mut vector = self.table.slot(slot);
            if work.slots.contains(&slot) {
                vector.mark_generation_unsaved();
            }
            if let Some((record, keys)) = vector.take_unsaved_generation() {
                writes.push(Write::Slot(slot, Some(record)));
                writes.extend(
                    keys.into_iter().map(|key| Write::Counter(key.clone(), vector.counter(&key).map(CounterView::to_counter))),
                );
            } else if work.slots.contains(&slot) && bug != Some(Bug::SlotRecordLeft) {
                // The record of an earlier stay must go, or counters that come anew would pass as being of its generation.
                writes.push(Write::Slot(slot, None));
                writes.extend(vector.counters().map(|(key, counter)| Write::Counter(key.to_key(), Some(counter.to_counter()))));
            }
        }
        let current =
            |key: &Key| Write::Counter(key.clone(), self.table.slot(key.slot()).counter(key).map(CounterView::to_counter));
        let left_behind = |key: &&Key| {
            bug == Some(Bug::SubscriptionNotMoved) && key.kind() == KeyKind::Subscription && self.is_coming(key.slot())
        };
        writes.extend(work.keys.iter().filter(|key| !left_behind(key)).map(current));
        for slot in work.keys.iter().map(Key::slot).chain(work.slots.iter().chain(&work.floors).copied()) {
            self.records_of_tokens(slot, bug, &mut writes);
        }
        writes
    }
}

impl Process {
    /// Whether the slot has not become this node's yet.
    fn is_coming(&self, slot: Slot) -> bool {
        let name = self.replica.header(None, self.clock).from;
        let owner = self.replica.layout().and_then(|layout| layout.owner(slot));
        owner.is_none_or(|shard| shard.nodes.iter().all(|node| node.name != name))
    }

    /// The slot's token records that storage lacks, with the counters that they are of.
    fn records_of_tokens(&self, slot: Slot, bug: Option<Bug>, writes: &mut Vec<Write>) {
        let mut vector = self.table.slot(slot);
        writes.extend(vector.take_unsaved_floor().map(|floor_ms| Write::Floor(slot, floor_ms)));
        for key in vector.take_unsaved_settled() {
            let counter = vector.counter(&key).map(CounterView::to_counter);
            writes.push(Write::Counter(key, counter));
        }
        for (name, record) in vector.take_unsaved_tokens() {
            let key = record.as_ref().map(|record| record.key.clone());
            let counter = key.map(|key| Write::Counter(key.clone(), vector.counter(&key).map(CounterView::to_counter)));
            writes.extend(counter);
            let left_behind =
                bug == Some(Bug::RecordNotMoved) && record.as_ref().is_some_and(|record| self.is_coming(record.key.slot()));
            if bug != Some(Bug::EffectWithoutRecord) && !left_behind {
                writes.push(Write::Token(name, record));
            }
        }
    }
}

/// The circumstances of a start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) number: u64,
    pub(crate) now_ms: u64,
    pub(crate) seed: u64,
    pub(crate) config: ReplicaConfig,
    pub(crate) followers: bool,
}

impl Process {
    /// A write has failed: nothing is admitted until storage is open again.
    pub(crate) fn fail(&mut self, keys: BTreeSet<Key>, slots: BTreeSet<Slot>, applied: Vec<AppliedUpdate>) {
        self.writable = false;
        for slot in keys.iter().map(Key::slot).chain(slots.iter().copied()) {
            let mut vector = self.table.slot(slot);
            vector.mark_generation_unsaved();
            vector.mark_tokens_unsaved();
        }
        self.unsaved.keys.extend(keys);
        self.unsaved.slots.extend(slots);
        self.unsaved.applied.extend(applied);
    }
}
