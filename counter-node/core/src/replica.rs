//! Replication, slot moves and retirement: one node's part in it, as a value.

use std::sync::Arc;

use crate::counter::Key;
use crate::hlc::Hlc;
use crate::id::{ActorId, ClusterId, NodeName};
use crate::layout::{Adoption, Layout, LayoutRefused, LayoutVersion};
use crate::message::{Envelope, Header, LayoutId, Message};
use crate::slot::Slot;
use crate::status::{MoveStatus, PeerStatus, Readiness};
use crate::table::Table;

/// The time, as the rim reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Never goes back; for time-outs.
    pub monotonic_ms: u64,
    /// Since the Unix epoch; for the hybrid logical clock.
    pub wall_ms: u64,
}

/// Names one write to storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersistId(pub u64);

/// Stands for a set of own changes that became durable together; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitMark(pub u64);

/// What the rim is to do. It performs effects in the order in which they were returned, across calls too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send once; when it fails, nothing is to be done.
    Send { to: NodeName, message: Message },
    /// Commit the current records of `keys`, and of `slots`, whose generation has changed, in one batch; then call
    /// [`Replica::persisted`] or [`Replica::persist_failed`]. The committer finds a slot's record and the counters that
    /// go with it by [`crate::vector::SlotVector::take_unsaved_generation`].
    Persist { id: PersistId, keys: Vec<Key>, slots: Vec<Slot> },
    /// Route by this layout, make it durable, then call [`Replica::layout_persisted`].
    AdoptLayout(Arc<Layout>),
    /// Make a new incarnation durable, then call [`Replica::actor_renewed`].
    RenewActor,
    /// These slots have moved away and the table has forgotten them: delete the keys and the slots' records from storage.
    Forget { slots: Vec<Slot>, keys: Vec<Key> },
    /// Tell a person or a metric.
    Report(Report),
}

/// What is wrong but does not stop this node, except [`Report::Superseded`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Report {
    #[error("the clock of {peer} is {ahead_ms} ms ahead of ours: its messages are refused")]
    ClockDrift { peer: NodeName, ahead_ms: u64 },
    #[error("{peer} is of cluster {cluster}: its messages are refused")]
    OtherCluster { peer: NodeName, cluster: ClusterId },
    #[error("{peer} has another layout of our version {version}: its messages are refused")]
    ConflictingLayout { peer: NodeName, version: LayoutVersion },
    #[error("{peer} sent a layout that is refused: {reason}")]
    LayoutRefused { peer: NodeName, reason: LayoutRefused },
    #[error("{peer} sent a layout that cannot be read: {reason}")]
    UnreadableLayout { peer: NodeName, reason: String },
    /// Another process speaks in this node's name, started later: this one must stop writing.
    #[error("a later start of this node, {by}, is known to {peer}")]
    Superseded { peer: NodeName, by: ActorId },
    #[error("two processes speak as {peer}: {one} and {other}")]
    NameContested { peer: NodeName, one: ActorId, other: ActorId },
    #[error("slot {slot} holds {counters} counters, too many to retire closed actors in")]
    SlotTooLarge { slot: Slot, counters: usize },
}

/// What `acks` promises to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acks {
    #[default]
    Local,
    Quorum,
}

/// The protocol's intervals and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// With `Quorum`, own changes leave at [`Replica::flush`] and after each acknowledgement, not only at ticks.
    pub acks: Acks,
    /// Keys of one delta message.
    pub delta_keys_max: usize,
    /// Encoded bytes of one delta or detail message, about.
    pub message_bytes_max: usize,
    /// Own changes kept per peer; beyond, the peer is asked to pull instead.
    pub pending_keys_max: usize,
    /// First time-out of anything that awaits an answer; doubled with each repetition.
    pub retry_ms: u64,
    /// The longest such time-out.
    pub retry_ms_max: u64,
    /// How often slots are compared with a sibling, each sibling in turn.
    pub repair_ms: u64,
    /// Slots of one digest message.
    pub digest_slots_max: usize,
    /// Slots asked for in detail at once, per peer.
    pub detail_slots_max: usize,
    /// Counters that one detail question sums up.
    pub summary_counters_max: usize,
    /// How often a layout's spread and a receiving node's progress are looked after.
    pub sweep_ms: u64,
    /// Start-up waits at most this long for the siblings…
    pub bootstrap_ms_max: u64,
    /// …and at most this long for one that does not answer.
    pub bootstrap_silence_ms_max: u64,
    /// How often closed actors are looked for.
    pub retire_ms: u64,
    /// Slots of one retirement question.
    pub retire_slots_max: usize,
    /// Counters looked at per tick in search of closed actors.
    pub retire_counters_max: usize,
    /// Slots of more counters keep their closed actors: the record must fit one message.
    pub retire_slot_counters_max: usize,
    /// Keys forgotten per tick.
    pub forget_keys_max: usize,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            acks: Acks::Local,
            delta_keys_max: 2_048,
            message_bytes_max: 256 << 10,
            pending_keys_max: 65_536,
            retry_ms: 500,
            retry_ms_max: 8_000,
            repair_ms: 2_000,
            digest_slots_max: 2_048,
            detail_slots_max: 64,
            summary_counters_max: 4_096,
            sweep_ms: 250,
            bootstrap_ms_max: 10_000,
            bootstrap_silence_ms_max: 3_000,
            retire_ms: 5_000,
            retire_slots_max: 256,
            retire_counters_max: 20_000,
            retire_slot_counters_max: 100_000,
            forget_keys_max: 20_000,
        }
    }
}

/// One node's part in replication. See the module's text.
#[derive(Debug)]
pub struct Replica {
    me: NodeName,
    actor: ActorId,
    layout: Option<Arc<Layout>>,
    config: ReplicaConfig,
}

/// The protocol's part of a node's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub peers: Vec<PeerStatus>,
    /// Own changes that some sibling has not acknowledged.
    pub unsent_entries: u64,
    pub moves: Vec<MoveStatus>,
}

impl Replica {
    /// The replica of a process that has just started as `actor`, with the durable `layout` and a table as storage had it.
    #[must_use]
    pub fn new(
        me: NodeName,
        actor: ActorId,
        layout: Option<Arc<Layout>>,
        config: ReplicaConfig,
        seed: u64,
        table: &Table,
    ) -> (Self, Vec<Effect>) {
        let _ = (seed, table);
        (Self { me, actor, layout, config }, Vec::new())
    }

    /// Takes in one message of an envelope.
    pub fn handle_message(&mut self, table: &Table, now: Now, header: &Header, message: Message) -> Vec<Effect> {
        let _ = (table, now, header, message);
        Vec::new()
    }

    /// Takes in a whole envelope.
    pub fn handle_envelope(&mut self, table: &Table, now: Now, envelope: Envelope) -> Vec<Effect> {
        let Envelope { header, body } = envelope;
        body.into_iter().flat_map(|message| self.handle_message(table, now, &header, message)).collect()
    }

    /// Does what is due. To be called about every 50 ms.
    pub fn handle_tick(&mut self, table: &Table, now: Now) -> Vec<Effect> {
        let _ = (table, now);
        Vec::new()
    }

    /// These counters have own changes that are durable now: they are to be pushed.
    pub fn committed(&mut self, keys: Vec<Key>) -> CommitMark {
        let _ = keys;
        CommitMark(0)
    }

    /// Sends own changes on idle links at once, without waiting for the tick: for clients that await a quorum.
    pub fn flush(&mut self, table: &Table, now: Now) -> Vec<Effect> {
        let _ = (table, now);
        Vec::new()
    }

    /// The greatest mark up to which a majority of the shard, this node included, holds this node's changes durably.
    #[must_use]
    pub fn acknowledged(&self) -> CommitMark {
        CommitMark(0)
    }

    /// A layout from the operator.
    ///
    /// # Errors
    /// [`LayoutRefused`]; nothing has changed then.
    pub fn offer_layout(&mut self, table: &Table, layout: Layout) -> Result<(Adoption, Vec<Effect>), LayoutRefused> {
        let _ = table;
        Ok((layout.offered_to(self.layout.as_deref())?, Vec::new()))
    }

    /// The layout of this version is durable.
    pub fn layout_persisted(&mut self, version: LayoutVersion) {
        let _ = version;
    }

    /// The write is durable.
    pub fn persisted(&mut self, id: PersistId) -> Vec<Effect> {
        let _ = id;
        Vec::new()
    }

    /// The write has failed: it is asked for again, under the same id, at a later tick.
    pub fn persist_failed(&mut self, id: PersistId) {
        let _ = id;
    }

    /// A new incarnation is durable.
    pub fn actor_renewed(&mut self, table: &Table, actor: ActorId) -> Vec<Effect> {
        let _ = table;
        self.actor = actor;
        Vec::new()
    }

    /// The process is stopping: readiness says so from now on. What is unsent still leaves at ticks.
    pub fn drain(&mut self) {}

    /// Whether every reachable sibling has acknowledged all own changes, so that a stopping process may go.
    #[must_use]
    pub fn drained(&self) -> bool {
        true
    }

    /// Whether this node should be given clients.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        Readiness::WaitingForLayout
    }

    /// Peers, unsent entries and moves for the node's status.
    #[must_use]
    pub fn status(&self, now: Now) -> ReplicaStatus {
        let _ = now;
        ReplicaStatus { peers: Vec::new(), unsent_entries: 0, moves: Vec::new() }
    }

    /// As whom this node applies updates.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.actor
    }

    /// The layout that this node acts by.
    #[must_use]
    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// The header for an envelope to `to`. `clock` is the rim's, which follows [`Self::clock`].
    #[must_use]
    pub fn header(&self, to: Option<NodeName>, clock: Hlc) -> Header {
        Header {
            cluster: self.layout.as_ref().map(|layout| layout.cluster),
            from: self.me.clone(),
            to,
            actor: self.actor,
            layout: self.layout.as_deref().map(LayoutId::of),
            clock,
        }
    }

    /// The latest moment heard of from peers: the rim's clock must never be behind it.
    #[must_use]
    pub fn clock(&self) -> Hlc {
        let _ = &self.config;
        Hlc::default()
    }
}
