//! Drives the protocol: tells [`Replica`] messages, ticks and what became durable, and performs its effects in order.
//!
//! Effects are performed while the replica is locked, so their order is that of the steps. None of them waits for the
//! network or for a commit: what is to be sent goes to an outbox, and a write reports back by itself. Only a new
//! layout, which is rare, is made durable on the spot, since nothing may be said under it before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use counter_core::counter::Key;
use counter_core::id::{ActorId, NodeName};
use counter_core::layout::{Adoption, Layout, LayoutRefused, Owners};
use counter_core::message::{Envelope, Header, Message};
use counter_core::replica::{CommitMark, Effect, Now, PersistId, Replica, ReplicaStatus, Report};
use counter_core::slot::Slot;
use counter_core::status::Readiness;
use counter_core::table::Table;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::commit::{CommitError, Committer};
use crate::peers::Outboxes;
use crate::storage::{Change, Identity, Store, StoreError, meta};

/// How often the replica is told the time.
const TICK: Duration = Duration::from_millis(50);
/// How long to wait before storage is asked again for what it refused.
const RETRY: Duration = Duration::from_secs(1);
/// Changes of one commit: a write that has waited for storage to be mended can have more than the committer ever admits.
const COMMIT_AT_ONCE: usize = 4_096;

/// What requests are routed by. Replaced as a whole.
#[derive(Debug)]
pub struct View {
    pub routes: Option<Routes>,
    pub readiness: Readiness,
}

impl View {
    fn is_serving(&self) -> bool {
        matches!(self.readiness, Readiness::Ready | Readiness::Draining)
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
    pub outboxes: Outboxes,
    /// Cancelled when this process must not go on: a later start of the same node is alive.
    pub superseded: CancellationToken,
}

/// One node's part in the protocol, running.
pub struct Protocol {
    parts: Parts,
    myself: Weak<Self>,
    view: ArcSwap<View>,
    /// Own changes that are durable and not handed to the replica yet.
    own: Mutex<Vec<Key>>,
    acknowledged: watch::Sender<CommitMark>,
    /// A layout that storage could not take; tried again at ticks.
    unsaved_layout: Mutex<Option<Arc<Layout>>>,
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
        });
        drop(protocol.drive(None, |_, _, _| effects));
        protocol
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
        let view = self.view.load();
        view.is_serving() && view.routes.as_ref().is_some_and(|routes| routes.is_mine(slot))
    }

    /// Tells the replica the time until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stopped.run_until_cancelled(interval.tick()).await.is_some() {
            self.save_layout();
            drop(self.drive(None, |replica, table, now| {
                // Under the replica's lock, so that changes are always seen here or there.
                let own = std::mem::take(&mut *lock(&self.own));
                if !own.is_empty() {
                    replica.committed(own);
                }
                replica.handle_tick(table, now)
            }));
        }
    }

    /// Takes an envelope in. Returns what is to be said to its sender at once.
    pub fn receive(&self, envelope: Envelope) -> Vec<Message> {
        let sender = envelope.header.from.clone();
        self.drive(Some(&sender), |replica, table, now| replica.handle_envelope(table, now, envelope))
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

    /// A further incarnation is durable.
    pub fn actor_renewed(&self, actor: ActorId) {
        drop(self.drive(None, |replica, table, _| replica.actor_renewed(table, actor)));
    }

    /// These own changes are durable: the next tick pushes them.
    pub fn own_changes(&self, keys: impl IntoIterator<Item = Key>) {
        lock(&self.own).extend(keys);
    }

    /// Pushes these durable own changes now, and waits until a majority of the shard holds them. False when that is not
    /// known in time.
    pub async fn await_quorum(&self, keys: Vec<Key>, timeout: Duration) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        let mut mark = CommitMark::default();
        drop(self.drive(None, |replica, table, now| {
            mark = replica.committed(keys);
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
                Effect::Persist { id, keys, slots } => self.persist(id, &keys, &slots),
                Effect::AdoptLayout(layout) => self.adopt(&mut replica, layout),
                Effect::RenewActor => self.renew_actor(),
                Effect::Forget { slots, keys } => self.forget(&slots, &keys),
                Effect::Report(report) => self.report(&report),
            }
        }
        self.publish(&replica);
        replies
    }

    /// Lets everyone see what the replica has come to.
    fn publish(&self, replica: &Replica) {
        // A clock too far ahead was refused by the replica already.
        let _ = self.parts.clock.hear(replica.clock());
        self.acknowledged.send_if_modified(|held| std::mem::replace(held, replica.acknowledged()) != replica.acknowledged());
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
    }

    fn adopt(&self, replica: &mut Replica, layout: Arc<Layout>) {
        self.parts.outboxes.retain(&layout);
        match self.store_layout(&layout) {
            Ok(()) => {
                *lock(&self.unsaved_layout) = None;
                replica.layout_persisted(layout.version);
            }
            Err(error) => {
                tracing::error!(%error, version = layout.version.0, "cannot store the layout; trying again");
                *lock(&self.unsaved_layout) = Some(layout);
            }
        }
    }

    fn save_layout(&self) {
        if lock(&self.unsaved_layout).is_none() {
            return;
        }
        drop(self.drive(None, |replica, _, _| {
            // Looked at again under the replica's lock: a newer layout must not be overwritten by this one.
            let unsaved = lock(&self.unsaved_layout).clone();
            unsaved.into_iter().for_each(|layout| self.adopt(replica, layout));
            Vec::new()
        }));
    }

    fn store_layout(&self, layout: &Layout) -> Result<(), StoreError> {
        let document = serde_json::to_vec(layout).unwrap_or_default();
        let cluster = layout.cluster.to_string();
        self.parts.store.put_meta(&[(meta::LAYOUT, Some(&document)), (meta::CLUSTER, Some(cluster.as_bytes()))])
    }

    fn persist(&self, id: PersistId, keys: &[Key], slots: &[Slot]) {
        let changes = changes_of(slots, keys);
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

    fn renew_actor(&self) {
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            loop {
                let identity = protocol.parts.identity.clone();
                match tokio::task::spawn_blocking(move || identity.renew()).await {
                    Ok(Ok(actor)) => return protocol.actor_renewed(actor),
                    Ok(Err(error)) => tracing::error!(%error, "cannot store a new incarnation; trying again"),
                    Err(error) => tracing::error!(%error, "storing a new incarnation was cut off; trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn forget(&self, slots: &[Slot], keys: &[Key]) {
        let changes = changes_of(slots, keys);
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

/// Makes all of these changes durable, some at a time.
async fn commit(committer: &Committer, changes: &[Change]) -> Result<(), CommitError> {
    for part in changes.chunks(COMMIT_AT_ONCE) {
        let ticket = committer.admit(part.len())?.submit(part.iter().cloned());
        ticket.await?;
    }
    Ok(())
}

fn changes_of(slots: &[Slot], keys: &[Key]) -> Vec<Change> {
    slots.iter().copied().map(Change::Slot).chain(keys.iter().map(Change::of)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
