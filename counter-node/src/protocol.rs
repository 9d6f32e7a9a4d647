//! Drives the protocol: tells [`Replica`] messages, ticks and what became durable, and performs its effects in order.
//!
//! Effects are performed while the replica is locked, so their order is that of the steps. None of them waits for the
//! network, a commit or a disk: what is to be sent goes to an outbox, a write reports back by itself, and new layouts
//! are stored by a task of their own, in their order. Until one is durable, the replica gives the slots that it brings no writer,
//! and neither says nor claims anything that a crash could take back.

mod effects;
mod layouts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use counter_core::counter::Key;
use counter_core::id::{ActorId, NodeName};
use counter_core::key::{KeyKind, KeyList, KeyRef};
use counter_core::layout::{Layout, MovePhase, Owners, Spread};
use counter_core::message::{Envelope, Header, LayoutId, Message};
use counter_core::replica::{CommitMark, Effect, Freshness, Replica, ReplicaStatus};
use counter_core::slot::Slot;
use counter_core::status::Readiness;
use counter_core::table::Table;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::commit::Committer;
use crate::lock::lock;
use crate::peers::{Conversation, MESSAGES_PATH, Outboxes};
use crate::storage::{Identity, Store};

/// How often the replica is told the time.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait before storage is asked again for what it refused.
const RETRY: Duration = Duration::from_secs(1);
/// Own changes that the replica is told of at once: some tenths of a millisecond.
const HANDED_AT_ONCE: usize = 512;
/// In how many parts at most, however many they are: who has little time to give is not to fall behind.
const PARTS_MAX: usize = 16;
/// Own changes between two ticks that room is kept for: what a million updates a second make.
const OWN_KEPT: usize = 1 << 16;

/// What requests are routed by. Replaced as a whole.
#[derive(Debug)]
pub struct View {
    pub routes: Option<Routes>,
    pub readiness: Readiness,
}

impl View {
    /// Whether the node serves what it owns.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(self.readiness, Readiness::Ready | Readiness::Draining)
    }

    /// Whether the slot is this node's to serve.
    #[must_use]
    pub fn serves(&self, slot: Slot) -> bool {
        self.is_serving() && self.routes.as_ref().is_some_and(|routes| routes.is_mine(slot))
    }

    /// Whether this node has given the slot up, and holds it until the move has its receipt.
    #[must_use]
    pub fn has_left(&self, slot: Slot) -> bool {
        let left = |routes: &Routes| {
            let from = routes.layout.move_of(slot).filter(|one| one.phase == MovePhase::Flipped).map(|one| one.from);
            from.is_some() && routes.mine.and_then(|mine| routes.layout.shards.get(mine)).map(|shard| shard.shard) == from
        };
        self.is_serving() && self.routes.as_ref().is_some_and(left)
    }
}

/// A layout, and what looking up in it takes.
#[derive(Debug)]
pub struct Routes {
    pub layout: Arc<Layout>,
    owners: Owners,
    /// The index of this node's shard, if the layout names the node.
    mine: Option<usize>,
}

impl Routes {
    /// What a node routes by that acts by this layout.
    #[must_use]
    pub fn of(layout: &Arc<Layout>, me: &NodeName) -> Self {
        let names_me = |shard: &counter_core::layout::Shard| shard.nodes.iter().any(|node| node.name == *me);
        Self { layout: layout.clone(), owners: Owners::of(layout), mine: layout.shards.iter().position(names_me) }
    }

    /// Whether this node's shard owns the slot.
    #[must_use]
    pub fn is_mine(&self, slot: Slot) -> bool {
        self.mine == Some(self.owners.index(slot))
    }

    /// The index of this node's shard in the layout.
    #[must_use]
    pub fn mine(&self) -> Option<usize> {
        self.mine
    }

    /// The owners by slot.
    #[must_use]
    pub fn owners(&self) -> &Owners {
        &self.owners
    }
}

/// What the protocol stands on.
pub struct Parts {
    pub me: NodeName,
    pub table: Arc<Table>,
    pub clock: Arc<Clock>,
    pub identity: Arc<Identity>,
    pub store: Arc<dyn Store>,
    pub committer: Arc<Committer>,
    pub replica: Arc<Mutex<Replica>>,
    pub outboxes: Outboxes<Message>,
    /// Cancelled when this process must not go on: a later start of the same node is alive.
    pub superseded: CancellationToken,
}

/// Someone who is told which tallies have changed on this replica, by its own updates and by what peers sent.
pub trait Observer: Send + Sync + 'static {
    /// This node acts by this layout from now on. Called under the replica's lock: it must not wait.
    fn adopt(&self, layout: &Layout);
    /// Whether anything of the slot matters. Asked for each change: it must cost next to nothing.
    fn watches(&self, slot: Slot) -> bool;
    /// These keys have changed, and what is in these slots may have. Called under the replica's lock: it must not wait.
    fn changed(&self, keys: &mut dyn Iterator<Item = Key>, slots: &mut dyn Iterator<Item = Slot>);
}

/// One node's part in the protocol, running.
pub struct Protocol {
    parts: Parts,
    myself: Weak<Self>,
    view: ArcSwap<View>,
    /// Own changes that are durable and not handed to the replica yet.
    own: Mutex<KeyList>,
    /// Whether some were taken out of `own`, and are on their way to the replica.
    handing_over: AtomicBool,
    acknowledged: watch::Sender<CommitMark>,
    /// The newest layout that storage has not taken yet.
    unsaved_layout: Mutex<Option<Arc<Layout>>>,
    layout_came: Notify,
    durable_layout: watch::Sender<Option<LayoutId>>,
    merged: Notify,
    observer: OnceLock<Arc<dyn Observer>>,
}

impl Protocol {
    /// The protocol at its start. `effects` are those that the new replica asked for.
    #[must_use]
    pub fn new(parts: Parts, effects: Vec<Effect>) -> Arc<Self> {
        let protocol = Arc::new_cyclic(|myself| Self {
            parts,
            myself: myself.clone(),
            view: ArcSwap::from_pointee(View { routes: None, readiness: Readiness::WaitingForLayout }),
            own: Mutex::default(),
            handing_over: AtomicBool::new(false),
            acknowledged: watch::Sender::new(CommitMark::default()),
            unsaved_layout: Mutex::default(),
            layout_came: Notify::new(),
            durable_layout: watch::Sender::new(None),
            merged: Notify::new(),
            observer: OnceLock::new(),
        });
        drop(protocol.drive(None, |_, _, _| effects));
        protocol
    }

    /// Who is told of changed tallies. To be called once, before the protocol runs.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        // Under the replica's lock, where layouts come.
        let _replica = self.replica();
        if let Some(routes) = &self.view.load().routes {
            observer.adopt(&routes.layout);
        }
        drop(self.observer.set(observer));
    }

    /// What requests are routed by now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Whether this node serves what it owns: not before it has merged what its siblings hold.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.view.load().is_serving()
    }

    /// Whether the slot is this node's to serve. The hot path's question.
    #[must_use]
    pub fn serves(&self, slot: Slot) -> bool {
        self.view.load().serves(slot)
    }

    /// Over how many virtual shards the layout spreads a page.
    #[must_use]
    pub fn spread(&self, page: &Key) -> Spread {
        if page.kind() != KeyKind::Page {
            return Spread::default();
        }
        let view = self.view.load();
        view.routes.as_ref().map_or_else(Spread::default, |routes| routes.layout.spread(page.as_bytes()))
    }

    /// Tells the replica the time until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Reused from tick to tick.
        let mut own = KeyList::default();
        while stopped.run_until_cancelled(interval.tick()).await.is_some() {
            // In this order: see `drained`.
            self.handing_over.store(true, Ordering::Release);
            std::mem::swap(&mut own, &mut *lock(&self.own));
            self.hand_over(&own).await;
            self.handing_over.store(false, Ordering::Release);
            own.clear(OWN_KEPT);
            drop(self.drive(None, Replica::handle_tick));
        }
    }

    /// Tells the replica of own changes, some at a time, so that neither who waits for its lock nor who waits for this thread
    /// waits for all of them.
    async fn hand_over(&self, own: &KeyList) {
        let at_once = own.len().div_ceil(PARTS_MAX).max(HANDED_AT_ONCE);
        let mut keys = own.iter().peekable();
        while keys.peek().is_some() {
            drop(self.drive(None, |replica, _, _| {
                replica.committed(keys.by_ref().take(at_once));
                Vec::new()
            }));
            tokio::task::yield_now().await;
        }
    }

    /// Ends when another node's next messages have been taken in, which is where anything is merged.
    pub fn merged(&self) -> Notified<'_> {
        self.merged.notified()
    }

    /// A further incarnation is durable.
    pub fn actor_renewed(&self, actor: ActorId) {
        drop(self.drive(None, |replica, table, _| replica.actor_renewed(table, actor)));
    }

    /// These own changes, with the slots that they are in, are durable: the next tick pushes them.
    pub fn own_changes<'k>(&self, keys: impl IntoIterator<Item = (Slot, KeyRef<'k>)>) {
        let observer = self.observer.get();
        let mut own = lock(&self.own);
        for (slot, key) in keys {
            if let Some(observer) = observer.filter(|observer| observer.watches(slot)) {
                observer.changed(&mut std::iter::once(key.to_key()), &mut std::iter::empty());
            }
            own.push(slot, key);
        }
    }

    /// Pushes these durable own changes now, and waits until a majority of the shard holds them. False when that is not
    /// known in time.
    pub async fn await_quorum(&self, keys: Vec<Key>, timeout: Duration) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        let mut mark = CommitMark::default();
        drop(self.drive(None, |replica, table, now| {
            mark = replica.committed(keys.iter().map(|key| (key.slot(), key.into())));
            replica.flush(table, now)
        }));
        let reached = acknowledged.wait_for(|held| *held >= mark);
        tokio::time::timeout(timeout, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// The process is stopping: it is not ready any more.
    pub fn drain(&self) {
        drop(self.drive(None, |replica, _, _| {
            replica.drain();
            Vec::new()
        }));
    }

    /// Waits until every sibling that can be reached has this node's changes, or the time is over.
    pub async fn drained(&self, timeout: Duration) -> bool {
        let drained = async {
            loop {
                // In this order, which is that of `run` the other way round: a change is always seen in one of the three.
                let all_handed_over = lock(&self.own).is_empty() && !self.handing_over.load(Ordering::Acquire);
                if all_handed_over && self.replica().drained() {
                    return;
                }
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::time::timeout(timeout, drained).await.is_ok()
    }

    /// The protocol's part of the node's status, and its actor.
    #[must_use]
    pub fn status(&self) -> (ActorId, ReplicaStatus) {
        let replica = self.replica();
        (replica.actor(), replica.status(self.parts.clock.now()))
    }

    /// How fresh what this replica knows is.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.replica().freshness(self.parts.clock.now())
    }

    /// The actor as whom updates are applied.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.replica().actor()
    }

    /// The header of an envelope to `to`.
    #[must_use]
    pub fn header(&self, to: Option<NodeName>) -> Header {
        let clock = self.parts.clock.last();
        self.replica().header(to, clock)
    }

    /// This node's name.
    #[must_use]
    pub fn me(&self) -> &NodeName {
        &self.parts.me
    }

    fn replica(&self) -> MutexGuard<'_, Replica> {
        lock(&self.parts.replica)
    }
}

impl Conversation for Arc<Protocol> {
    type Message = Message;
    const PATH: &'static str = MESSAGES_PATH;

    fn receive(&self, envelope: Envelope) -> Vec<Message> {
        let sender = envelope.header.from.clone();
        let replies = self.drive(Some(&sender), |replica, table, now| replica.handle_envelope(table, now, envelope));
        self.merged.notify_waiters();
        replies
    }

    fn send(&self, to: &NodeName, message: Message) {
        self.parts.outboxes.push(to, message);
    }
}
