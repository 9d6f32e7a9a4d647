//! Drives the protocol: tells [`Replica`] messages, ticks and what became durable, and performs its effects in order.
//!
//! Effects are performed while the replica is locked, so their order is that of the steps. None of them waits for the
//! network, a commit or a disk: what is to be sent goes to an outbox, a write reports back by itself, and new layouts
//! are stored by a task of their own, in their order. Until one is durable, the replica gives the slots that it brings no writer,
//! and neither says nor claims anything that a crash could take back.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use counter_core::counter::Key;
use counter_core::id::{ActorId, NodeName};
use counter_core::key::KeyKind;
use counter_core::layout::{Adoption, Layout, LayoutRefused, Owners, Spread};
use counter_core::message::{Envelope, Header, LayoutId, Message};
use counter_core::replica::{CommitMark, Effect, Freshness, Now, PersistId, Replica, ReplicaStatus, Report};
use counter_core::slot::Slot;
use counter_core::status::Readiness;
use counter_core::table::Table;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::commit::{CommitError, Committer};
use crate::lock::lock;
use crate::peers::{Conversation, MESSAGES_PATH, Outboxes};
use crate::storage::{Change, Identity, Store, StoreError, meta};

/// How often the replica is told the time.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait before storage is asked again for what it refused.
const RETRY: Duration = Duration::from_secs(1);
/// Changes of one commit: a write that has waited for storage to be mended can have more than the committer ever admits.
const COMMIT_AT_ONCE: usize = 4_096;
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
    fn of(layout: &Arc<Layout>, me: &NodeName) -> Self {
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
    own: Mutex<Vec<(Slot, Key)>>,
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
        let mut own = Vec::new();
        while stopped.run_until_cancelled(interval.tick()).await.is_some() {
            drop(self.drive(None, |replica, table, now| {
                // Under the replica's lock, so that changes are always seen here or there.
                std::mem::swap(&mut own, &mut *lock(&self.own));
                if !own.is_empty() {
                    replica.committed(own.drain(..));
                }
                own.shrink_to(OWN_KEPT);
                replica.handle_tick(table, now)
            }));
        }
    }

    /// Takes an envelope in. Returns what is to be said to its sender at once.
    pub fn receive(&self, envelope: Envelope) -> Vec<Message> {
        let sender = envelope.header.from.clone();
        let replies = self.drive(Some(&sender), |replica, table, now| replica.handle_envelope(table, now, envelope));
        self.merged.notify_waiters();
        replies
    }

    /// A layout from the operator.
    ///
    /// # Errors
    /// [`LayoutRefused`]; nothing has changed then.
    pub fn offer_layout(&self, layout: Layout) -> Result<Adoption, LayoutRefused> {
        let mut offered = Err(LayoutRefused::Conflict { version: layout.version });
        drop(self.drive(None, |replica, table, _| match replica.offer_layout(table, layout) {
            Ok((adoption, effects)) => {
                offered = Ok(adoption);
                effects
            }
            Err(refused) => {
                offered = Err(refused);
                Vec::new()
            }
        }));
        offered
    }

    /// Stores new layouts, in their order, until the node has stopped. Of several that came meanwhile, the newest does.
    pub async fn save_layouts(self: Arc<Self>, stopped: CancellationToken) {
        while stopped.run_until_cancelled(self.layout_came.notified()).await.is_some() {
            while let Some(layout) = self.unsaved_layout() {
                let version = layout.version;
                match self.store_layout(layout.clone()).await {
                    Ok(()) => drop(self.drive(None, |replica, table, _| {
                        // Under the replica's lock, where newer ones come.
                        lock(&self.unsaved_layout).take_if(|unsaved| unsaved.version == version);
                        replica.layout_persisted(table, version);
                        Vec::new()
                    })),
                    Err(error) => {
                        tracing::error!(%error, version = version.0, "cannot store the layout; trying again");
                        if stopped.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn unsaved_layout(&self) -> Option<Arc<Layout>> {
        lock(&self.unsaved_layout).clone()
    }

    /// Not under any lock: it waits for the disk.
    async fn store_layout(&self, layout: Arc<Layout>) -> Result<(), StoreError> {
        let document = serde_json::to_vec(&*layout).unwrap_or_default();
        let cluster = layout.cluster.to_string();
        let store = self.parts.store.clone();
        let put = move || store.put_meta(&[(meta::LAYOUT, Some(&document)), (meta::CLUSTER, Some(cluster.as_bytes()))]);
        let cut_off = |error: tokio::task::JoinError| Err(StoreError::Engine(error.to_string()));
        tokio::task::spawn_blocking(put).await.unwrap_or_else(cut_off)
    }

    /// The newest layout that a crash would not take back.
    #[must_use]
    pub fn durable_layout(&self) -> Option<LayoutId> {
        *self.durable_layout.borrow()
    }

    /// Waits until the layout that this node acts by is durable. False: it was all the time, or is not in time.
    pub async fn settles(&self, timeout: Duration) -> bool {
        let mut durable = self.durable_layout.subscribe();
        let is_settled = |durable: &Option<LayoutId>| {
            let acts_by = self.view.load().routes.as_ref().map(|routes| routes.layout.version);
            acts_by <= durable.map(|id| id.version)
        };
        if is_settled(&durable.borrow_and_update()) {
            return false;
        }
        tokio::time::timeout(timeout, durable.wait_for(is_settled)).await.is_ok_and(|settled| settled.is_ok())
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
    pub fn own_changes(&self, keys: impl IntoIterator<Item = (Slot, Key)>) {
        let observer = self.observer.get();
        let mut own = lock(&self.own);
        for (slot, key) in keys {
            if let Some(observer) = observer.filter(|observer| observer.watches(slot)) {
                observer.changed(&mut std::iter::once(key.clone()), &mut std::iter::empty());
            }
            // A hot counter's changes come in a row.
            if own.last().is_none_or(|(_, last)| *last != key) {
                own.push((slot, key));
            }
        }
    }

    /// Pushes these durable own changes now, and waits until a majority of the shard holds them. False when that is not
    /// known in time.
    pub async fn await_quorum(&self, keys: Vec<Key>, timeout: Duration) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        let mut mark = CommitMark::default();
        drop(self.drive(None, |replica, table, now| {
            mark = replica.committed(keys.into_iter().map(|key| (key.slot(), key)));
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
                // In this order, and one lock at a time: see `run`.
                let all_handed_over = lock(&self.own).is_empty();
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

    /// Puts a message into a peer's outbox.
    pub fn send(&self, to: &NodeName, message: Message) {
        self.parts.outboxes.push(to, message);
    }

    /// This node's name.
    #[must_use]
    pub fn me(&self) -> &NodeName {
        &self.parts.me
    }

    fn replica(&self) -> MutexGuard<'_, Replica> {
        lock(&self.parts.replica)
    }

    /// One step, and its effects. What is for `direct` is returned, not put into an outbox.
    fn drive(&self, direct: Option<&NodeName>, step: impl FnOnce(&mut Replica, &Table, Now) -> Vec<Effect>) -> Vec<Message> {
        let Parts { table, clock, replica, .. } = &self.parts;
        let mut replica = lock(replica);
        let mut replies = Vec::new();
        for effect in step(&mut replica, table, clock.now()) {
            match effect {
                Effect::Send { to, message } if Some(&to) == direct => replies.push(message),
                Effect::Send { to, message } => self.parts.outboxes.push(&to, message),
                Effect::Persist { id, keys, slots, floors } => {
                    self.tell(&keys, &slots);
                    self.persist(id, changes_of(&slots, &floors, &keys));
                }
                Effect::AdoptLayout(layout) => self.adopt(layout),
                Effect::RenewActor { above } => self.renew_actor(above),
                Effect::Forget { slots, keys } => self.forget(&slots, &keys),
                Effect::Report(report) => self.report(&report),
            }
        }
        self.publish(&replica);
        replies
    }

    /// Tells the observer what has been merged.
    fn tell(&self, keys: &[Key], slots: &[Slot]) {
        let Some(observer) = self.observer.get() else { return };
        let keys: Vec<&Key> = keys.iter().filter(|key| observer.watches(key.slot())).collect();
        let slots: Vec<Slot> = slots.iter().copied().filter(|slot| observer.watches(*slot)).collect();
        if !keys.is_empty() || !slots.is_empty() {
            observer.changed(&mut keys.into_iter().cloned(), &mut slots.into_iter());
        }
    }

    /// Lets everyone see what the replica has come to.
    fn publish(&self, replica: &Replica) {
        // A clock too far ahead was refused by the replica already.
        let _ = self.parts.clock.hear(replica.clock());
        // What a majority held stays acknowledged when a layout brings siblings that have to pull it first.
        let acknowledged = replica.acknowledged();
        self.acknowledged.send_if_modified(|held| acknowledged > std::mem::replace(held, acknowledged.max(*held)));
        let durable = replica.durable_layout();
        self.durable_layout.send_if_modified(|held| durable.is_some() && std::mem::replace(held, durable) != durable);
        let view = self.view.load();
        let held = view.routes.as_ref().map(|routes| &routes.layout);
        let current = replica.layout();
        let same_layout = held.map(Arc::as_ptr) == current.map(Arc::as_ptr);
        let readiness = replica.readiness();
        if same_layout && view.readiness == readiness {
            return;
        }
        tracing::info!(?readiness, layout = current.map(|layout| layout.version.0), "serving state changed");
        let routes = current.map(|layout| Routes::of(layout, &self.parts.me));
        self.view.store(Arc::new(View { routes, readiness }));
        if let (false, Some(layout), Some(observer)) = (same_layout, current, self.observer.get()) {
            observer.adopt(layout);
        }
    }

    fn adopt(&self, layout: Arc<Layout>) {
        self.parts.outboxes.retain(&layout);
        *lock(&self.unsaved_layout) = Some(layout);
        self.layout_came.notify_one();
    }

    fn persist(&self, id: PersistId, changes: Vec<Change>) {
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            match commit(&protocol.parts.committer, &changes).await {
                Ok(()) => drop(protocol.drive(None, |replica, _, _| replica.persisted(id))),
                Err(error) => {
                    tracing::debug!(%error, "what peers sent could not be written; it is tried again");
                    drop(protocol.drive(None, |replica, _, _| {
                        replica.persist_failed(id);
                        Vec::new()
                    }));
                }
            }
        });
    }

    fn renew_actor(&self, above: Option<ActorId>) {
        let above = above.map_or(0, ActorId::starts);
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            loop {
                let identity = protocol.parts.identity.clone();
                match tokio::task::spawn_blocking(move || identity.renew_above(above)).await {
                    Ok(Ok(actor)) => return protocol.actor_renewed(actor),
                    Ok(Err(error)) => tracing::error!(%error, "cannot store a new incarnation; trying again"),
                    Err(error) => tracing::error!(%error, "storing a new incarnation was cut off; trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn forget(&self, slots: &[Slot], keys: &[Key]) {
        let changes = changes_of(slots, slots, keys);
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            // Until it has worked, since the slot may come back, and what is left of it must not be taken for part of that.
            // A record is read when it is written, so that by then it removes only what is still forgotten.
            while let Err(error) = commit(&protocol.parts.committer, &changes).await {
                tracing::warn!(%error, "cannot remove from storage what has moved away; trying again");
                if matches!(error, CommitError::Stopped) {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn report(&self, report: &Report) {
        if let Report::Superseded { .. } = report {
            tracing::error!(%report, "stopping");
            self.parts.table.set_writer(Slot::all(), None);
            self.parts.superseded.cancel();
        } else {
            tracing::warn!(%report, "protocol");
        }
    }
}

impl Conversation for Arc<Protocol> {
    type Message = Message;
    const PATH: &'static str = MESSAGES_PATH;

    fn receive(&self, envelope: Envelope) -> Vec<Message> {
        Protocol::receive(self, envelope)
    }

    fn send(&self, to: &NodeName, message: Message) {
        Protocol::send(self, to, message);
    }
}

/// Makes all of these changes durable, some at a time.
async fn commit(committer: &Committer, changes: &[Change]) -> Result<(), CommitError> {
    for part in changes.chunks(COMMIT_AT_ONCE) {
        let ticket = committer.admit(part.len())?.submit(part.iter().cloned());
        ticket.await?;
    }
    Ok(())
}

fn changes_of(slots: &[Slot], floors: &[Slot], keys: &[Key]) -> Vec<Change> {
    let slots = slots.iter().copied().map(Change::Slot).chain(floors.iter().copied().map(Change::Floor));
    slots.chain(keys.iter().map(Change::of)).collect()
}
