//! What a replica is told, and what it answers with.

use std::sync::Arc;

use crate::counter::Key;
use crate::id::{ActorId, ClusterId, NodeName};
use crate::layout::{Layout, LayoutRefused, LayoutVersion};
use crate::message::Message;
use crate::slot::Slot;
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
    /// Commit the current records of `keys`, of `slots`, whose generation has changed, and the floors of `floors`, together
    /// with the token records of these slots that storage lacks, in one batch; then call
    /// [`super::Replica::persisted`] or [`super::Replica::persist_failed`]. The committer finds a slot's record and the counters that
    /// go with it by [`crate::vector::SlotVector::take_unsaved_generation`].
    Persist { id: PersistId, keys: Vec<Key>, slots: Vec<Slot>, floors: Vec<Slot> },
    /// Route by this layout and make it durable, in the order of versions, then call
    /// [`super::Replica::layout_persisted`]. Of several that wait, the newest is enough.
    AdoptLayout(Arc<Layout>),
    /// Make a new incarnation durable, one above `above` if that is given, then call [`super::Replica::actor_renewed`].
    RenewActor { above: Option<ActorId> },
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

impl Report {
    /// The kind of report, for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::ClockDrift { .. } => "clock-drift",
            Self::OtherCluster { .. } => "other-cluster",
            Self::ConflictingLayout { .. } => "conflicting-layout",
            Self::LayoutRefused { .. } => "layout-refused",
            Self::UnreadableLayout { .. } => "unreadable-layout",
            Self::Superseded { .. } => "superseded",
            Self::NameContested { .. } => "name-contested",
            Self::SlotTooLarge { .. } => "slot-too-large",
        }
    }
}

/// What is to come of an input.
#[derive(Debug, Default)]
pub(super) struct Effects(pub(super) Vec<Effect>);

impl Effects {
    pub(super) fn send(&mut self, to: &NodeName, message: Message) {
        self.0.push(Effect::Send { to: to.clone(), message });
    }

    pub(super) fn send_all(&mut self, to: &NodeName, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.send(to, message));
    }
}

/// What an input works on, and what is to come of it.
pub(super) struct Step<'a> {
    pub(super) table: &'a Table,
    pub(super) effects: Effects,
}

impl<'a> Step<'a> {
    pub(super) fn on(table: &'a Table) -> Self {
        Self { table, effects: Effects::default() }
    }
}
