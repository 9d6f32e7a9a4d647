//! Replication, slot moves and retirement: one node's part in it, as a value. It is told messages, ticks, the time and
//! what has become durable, and answers with effects.
//!
//! **Invariants.**
//! - This node applies updates in exactly the slots that its shard owns under the newest layout it knows; once
//!   [`Replica::handle_message`] or [`Replica::offer_layout`] has returned, no update is applied under an older one.
//! - A slot that this process gave away and gets back has no writer until the process has a new actor.
//! - Nothing is acknowledged or claimed to a peer before it is durable here; no slot is said to be given away for good
//!   before the layout that says so is.
//! - An actor is retired once, by one node, after all holders have agreed to what it came to.
//! - Everything kept in mind is bounded, by the layout's size or by [`ReplicaConfig`].
//!
//! Deliberately absent: any order or completeness of messages, any clock in a merge, any vote. Pushes are for speed;
//! what makes replicas equal is pulling.

mod answer;
mod config;
mod layouts;
mod links;
mod moves;
mod parts;
mod peers;
mod pull;
mod random;
mod retire;
mod saves;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::answer::Answering;
pub use self::config::{Acks, ReplicaConfig};
use self::links::Link;
use self::moves::Arrival;
use self::parts::Parts;
use self::peers::Peer;
use self::pull::Pulled;
use self::random::Random;
use self::retire::Retiring;
use self::saves::{Saves, Then};
use self::start::Start;

use crate::counter::{Counter, Key};
use crate::hlc::Hlc;
use crate::id::{ActorId, ClusterId, NodeName};
use crate::layout::{Layout, LayoutRefused, LayoutVersion};
use crate::message::{Envelope, Header, LayoutId, Message};
use crate::slot::{SLOTS, Slot, SlotRange};
use crate::status::{MoveStatus, PeerStatus};
use crate::table::Table;
use crate::vector::SlotDelta;

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

/// One node's part in replication. See the module's text.
#[derive(Debug)]
pub struct Replica {
    me: NodeName,
    actor: ActorId,
    config: ReplicaConfig,
    random: Random,
    now: Now,
    /// The latest moment heard of.
    clock: Hlc,
    layout: Option<Arc<Layout>>,
    layout_id: Option<LayoutId>,
    /// The newest version that is durable.
    durable_layout: LayoutVersion,
    parts: Parts,
    /// By slot: the current actor must not write there (again).
    barred: Box<[bool]>,
    renewing: bool,
    superseded: bool,
    draining: bool,
    mark: CommitMark,
    peers: BTreeMap<NodeName, Peer>,
    saves: Saves,
    start: Start,
    arrivals: Vec<Arrival>,
    retiring: Retiring,
    forget_due: bool,
    forgetting: BTreeSet<Slot>,
    repair: Turns,
    sweep: Turns,
    hello: Turns,
    reported: BTreeMap<(NodeName, &'static str), u64>,
}

/// Something that is done again and again.
#[derive(Debug, Default)]
struct Turns {
    due_ms: u64,
    taken: usize,
}

impl Turns {
    /// The number of this turn, if one is due.
    fn take(&mut self, now_ms: u64, every_ms: u64) -> Option<usize> {
        if now_ms < self.due_ms {
            return None;
        }
        self.due_ms = now_ms.saturating_add(every_ms);
        self.taken = self.taken.wrapping_add(1);
        Some(self.taken)
    }
}

/// What is to come of an input.
#[derive(Debug, Default)]
struct Effects(Vec<Effect>);

impl Effects {
    fn send(&mut self, to: &NodeName, message: Message) {
        self.0.push(Effect::Send { to: to.clone(), message });
    }

    fn send_all(&mut self, to: &NodeName, messages: impl IntoIterator<Item = Message>) {
        messages.into_iter().for_each(|message| self.send(to, message));
    }
}

/// What an input works on, and what is to come of it.
struct Step<'a> {
    table: &'a Table,
    effects: Effects,
}

impl<'a> Step<'a> {
    fn on(table: &'a Table) -> Self {
        Self { table, effects: Effects::default() }
    }
}

/// The protocol's part of a node's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The nodes that this one shares slots with.
    pub peers: Vec<PeerStatus>,
    /// Own changes that some sibling has not acknowledged.
    pub unsent_entries: u64,
    pub moves: Vec<MoveStatus>,
}

impl Replica {
    /// The replica of a process that has just started as `actor`, with the durable `layout` and a table as storage had
    /// it. `seed` must be unlike that of the process before.
    #[must_use]
    pub fn new(
        me: NodeName,
        actor: ActorId,
        layout: Option<Arc<Layout>>,
        config: ReplicaConfig,
        seed: u64,
        table: &Table,
    ) -> (Self, Vec<Effect>) {
        let mut random = Random::new(seed);
        let retiring = Retiring::new(random.start());
        let mut replica = Self {
            me,
            actor,
            config,
            random,
            now: Now::default(),
            clock: Hlc::default(),
            layout: None,
            layout_id: None,
            durable_layout: LayoutVersion::default(),
            parts: Parts::none(),
            barred: vec![false; usize::from(SLOTS)].into_boxed_slice(),
            renewing: false,
            superseded: false,
            draining: false,
            mark: CommitMark::default(),
            peers: BTreeMap::new(),
            saves: Saves::default(),
            start: Start::Unnamed,
            arrivals: Vec::new(),
            retiring,
            forget_due: false,
            forgetting: BTreeSet::new(),
            repair: Turns::default(),
            sweep: Turns::default(),
            hello: Turns::default(),
            reported: BTreeMap::new(),
        };
        let mut step = Step::on(table);
        if let Some(layout) = layout {
            let version = layout.version;
            replica.act_by(&mut step, layout);
            replica.layout_persisted(version);
        }
        (replica, step.effects.0)
    }

    /// Takes in one message of an envelope.
    pub fn handle_message(&mut self, table: &Table, now: Now, header: &Header, message: Message) -> Vec<Effect> {
        self.begin(now);
        let mut step = Step::on(table);
        if self.admit(&mut step, header) {
            if !matches!(message, Message::Layout(_) | Message::LayoutAsk) {
                self.compare_layouts(&mut step, header);
            }
            self.dispatch(&mut step, header, message);
            self.pump(&mut step, &header.from);
        }
        step.effects.0
    }

    /// Takes in a whole envelope.
    pub fn handle_envelope(&mut self, table: &Table, now: Now, envelope: Envelope) -> Vec<Effect> {
        let Envelope { header, body } = envelope;
        body.into_iter().flat_map(|message| self.handle_message(table, now, &header, message)).collect()
    }

    fn dispatch(&mut self, step: &mut Step<'_>, header: &Header, message: Message) {
        let from = &header.from;
        match message {
            Message::Hello => {}
            Message::LayoutAsk => step.effects.send_all(from, self.layout.as_deref().map(Message::layout)),
            Message::Layout(json) => self.take_layout(step, from, &json),
            Message::Superseded { by } => self.superseded(step, from, by),
            Message::Delta { sequence, slots } => self.take_delta(step, from, sequence, slots),
            Message::DeltaAck { sequence } => self.take_ack(step, from, sequence),
            Message::DigestAsk { round, digests } => {
                let is_last = |slot| self.is_last(slot);
                let reply = self.answering(&is_last).compare(step.table, round, &digests);
                step.effects.send(from, Message::DigestReply(reply));
            }
            Message::DetailAsk(ask) => {
                let is_last = |slot| self.is_last(slot);
                let reply = self.answering(&is_last).detail(step.table, &ask);
                step.effects.send(from, Message::DetailReply(reply));
            }
            Message::DigestReply(reply) => {
                let now_ms = self.now.monotonic_ms;
                let pulled = self.peers.get_mut(from).map(|peer| peer.puller.compared(&reply, now_ms));
                self.take_pulled(step, pulled.unwrap_or_default());
            }
            Message::DetailReply(reply) => self.take_detail(step, from, reply),
            Message::PullAsk { errand, slots } => self.take_errand(step, from, errand, &slots),
            Message::PullDone { errand } => {
                if let Some(link) = self.link(from) {
                    link.pulled(errand);
                }
            }
            Message::RetireAsk { round, layout, slots } => self.consider(step, header, round, layout, &slots),
            Message::RetireReply { round, layout, agreed } => self.agreed(step, header, round, layout, &agreed),
        }
    }

    fn answering<'a>(&'a self, is_last: &'a dyn Fn(Slot) -> bool) -> Answering<'a> {
        Answering {
            parts: &self.parts,
            layout: self.layout_id.map_or(LayoutVersion::default(), |id| id.version),
            is_last,
            bytes_max: self.config.message_bytes_max,
            counters_max: self.config.summary_counters_max,
        }
    }

    fn link(&mut self, peer: &NodeName) -> Option<&mut Link> {
        self.peers.get_mut(peer)?.link.as_mut()
    }

    fn begin(&mut self, now: Now) {
        self.now = Now { monotonic_ms: now.monotonic_ms.max(self.now.monotonic_ms), wall_ms: now.wall_ms };
    }

    /// A peer's own changes. What this node does not hold is left to whoever does; the peer learns who that is by its
    /// next layout, and gets no acknowledgement until then.
    fn take_delta(&mut self, step: &mut Step<'_>, from: &NodeName, sequence: u64, deltas: Vec<SlotDelta>) {
        let offered = deltas.len();
        let held: Vec<SlotDelta> = deltas
            .into_iter()
            .filter(|delta| self.parts.part(delta.slot).holds())
            .map(|delta| SlotDelta { retirement: None, ..delta })
            .collect();
        self.merge(step, &held);
        if held.len() == offered {
            let then = Then::Acknowledge { to: from.clone(), sequence };
            let due = self.saves.after(held.iter().map(|delta| delta.slot), then);
            self.follow(&mut step.effects, due);
        }
    }

    fn take_ack(&mut self, step: &mut Step<'_>, from: &NodeName, sequence: u64) {
        let (config, now_ms) = (&self.config, self.now.monotonic_ms);
        let Some(link) = self.peers.get_mut(from).and_then(|peer| peer.link.as_mut()) else { return };
        let goes_on = link.acknowledged(sequence) && (config.acks == Acks::Quorum || link.is_backed_up(config));
        if goes_on {
            let next = link.advance(step.table, now_ms, config);
            step.effects.send_all(from, next);
        }
    }

    fn take_detail(&mut self, step: &mut Step<'_>, from: &NodeName, reply: crate::message::DetailReply) {
        if let Some(delta) = &reply.delta {
            // A retirement is taken only from who holds the slot beside this node under this layout: any other might
            // hold one that was made without this node's shard.
            if !self.parts.is_partner(from, delta.slot) {
                return;
            }
            self.merge(step, std::slice::from_ref(delta));
        }
        let now_ms = self.now.monotonic_ms;
        let Some(peer) = self.peers.get_mut(from) else { return };
        let (next, pulled) = peer.puller.detailed(step.table, &reply, now_ms, &self.config);
        step.effects.send_all(from, next);
        self.take_pulled(step, pulled);
    }

    fn take_errand(&mut self, step: &mut Step<'_>, from: &NodeName, errand: u64, ranges: &[SlotRange]) {
        let shared = |slot: &Slot| self.parts.is_partner(from, *slot) && ranges.iter().any(|range| range.contains(*slot));
        let slots: Vec<Slot> = Slot::all().filter(shared).collect();
        let is_done = self.peers.get_mut(from).is_some_and(|peer| peer.take_errand(errand, slots));
        if is_done {
            step.effects.send(from, Message::PullDone { errand });
        }
    }

    /// The only way in for what other nodes know.
    fn merge(&mut self, step: &mut Step<'_>, deltas: &[SlotDelta]) {
        let (mut keys, mut generations) = (Vec::new(), Vec::new());
        for delta in deltas {
            let before = step.table.slot(delta.slot).generation();
            let newer = delta.retirement.as_ref().filter(|retirement| retirement.generation > before);
            if newer.is_some_and(|retirement| retirement.retired.contains(&self.actor)) {
                self.bar(step, delta.slot);
            }
            keys.extend(step.table.merge(delta));
            if step.table.slot(delta.slot).generation() != before {
                generations.push(delta.slot);
            }
        }
        step.effects.0.extend(self.saves.save(keys, generations));
    }

    fn take_pulled(&mut self, step: &mut Step<'_>, pulled: impl IntoIterator<Item = Pulled>) {
        for pulled in pulled {
            let slot = pulled.slot;
            let due = self.saves.after([slot], Then::Pulled(pulled));
            self.follow(&mut step.effects, due);
        }
    }

    /// Does what has waited for storage.
    fn follow(&mut self, effects: &mut Effects, due: impl IntoIterator<Item = Then>) {
        for then in due {
            match then {
                Then::Acknowledge { to, sequence } => effects.send(&to, Message::DeltaAck { sequence }),
                Then::Spread { slots } => self.spread(effects, slots),
                Then::Pulled(pulled) => {
                    self.pulled_at_start(&pulled);
                    self.arrived(&pulled);
                    let done = self.peers.get_mut(&pulled.peer).map(|peer| peer.errands_done(pulled.slot, pulled.began));
                    let done = done.unwrap_or_default().into_iter().map(|errand| Message::PullDone { errand });
                    effects.send_all(&pulled.peer, done);
                }
            }
        }
    }

    fn pump(&mut self, step: &mut Step<'_>, peer: &NodeName) {
        if let Some(found) = self.peers.get_mut(peer) {
            let asks = found.puller.pump(step.table, self.now.monotonic_ms, &self.config);
            step.effects.send_all(peer, asks);
        }
    }

    /// Does what is due. To be called about every 50 ms.
    pub fn handle_tick(&mut self, table: &Table, now: Now) -> Vec<Effect> {
        self.begin(now);
        let now_ms = self.now.monotonic_ms;
        let mut step = Step::on(table);
        step.effects.0.extend(self.saves.retry(now_ms));
        self.push(&mut step);
        self.advance_start();
        if self.sweep.take(now_ms, self.config.sweep_ms).is_some() {
            self.sweep_arrivals();
        }
        if let Some(turn) = self.repair.take(now_ms, self.config.repair_ms) {
            self.begin_repair(turn);
        }
        if self.hello.take(now_ms, self.config.hello_ms).is_some() {
            self.greet(&mut step);
        }
        self.advance_retirement(&mut step);
        self.forget(&mut step);
        for (name, peer) in &mut self.peers {
            step.effects.send_all(name, peer.puller.pump(table, now_ms, &self.config));
        }
        step.effects.0
    }

    fn push(&mut self, step: &mut Step<'_>) {
        for (name, peer) in &mut self.peers {
            let Some(link) = &mut peer.link else { continue };
            step.effects.send_all(name, link.repeat(step.table, self.now.monotonic_ms, &self.config));
            step.effects.send_all(name, link.advance(step.table, self.now.monotonic_ms, &self.config));
        }
    }

    fn begin_repair(&mut self, turn: usize) {
        let Some(index) = turn.checked_rem(self.parts.siblings.len()) else { return };
        if let Some(peer) = self.peers.get_mut(&self.parts.siblings[index])
            && peer.puller.is_idle()
        {
            peer.puller.want(self.parts.slots(parts::Part::repairs));
        }
    }

    /// Lets partners, and one other node, know that this node lives, and under which layout.
    fn greet(&mut self, step: &mut Step<'_>) {
        for partner in self.parts.partners() {
            step.effects.send(partner, Message::Hello);
        }
        if let Some((name, _)) = self.random.index(self.peers.len()).and_then(|index| self.peers.iter().nth(index)) {
            step.effects.send(name, Message::Hello);
        }
    }

    /// These counters have own changes that are durable now: they are to be pushed.
    pub fn committed(&mut self, keys: Vec<Key>) -> CommitMark {
        self.mark = CommitMark(self.mark.0.saturating_add(1));
        for key in &keys {
            for target in self.parts.targets(key.slot()) {
                if let Some(link) = self.peers.get_mut(target).and_then(|peer| peer.link.as_mut()) {
                    link.add(self.mark, key, &self.config);
                }
            }
        }
        self.mark
    }

    /// Sends own changes on idle links at once, without waiting for the tick: for clients that await a quorum.
    pub fn flush(&mut self, table: &Table, now: Now) -> Vec<Effect> {
        self.begin(now);
        let mut step = Step::on(table);
        for (name, peer) in &mut self.peers {
            let Some(link) = &mut peer.link else { continue };
            step.effects.send_all(name, link.advance(table, self.now.monotonic_ms, &self.config));
        }
        step.effects.0
    }

    /// The greatest mark up to which a majority of the shard, this node included, holds this node's changes durably.
    #[must_use]
    pub fn acknowledged(&self) -> CommitMark {
        let held_by = |sibling: &NodeName| {
            let floor = self.peers.get(sibling)?.link.as_ref()?.floor();
            Some(floor.map_or(self.mark, |floor| CommitMark(floor.0.saturating_sub(1))))
        };
        let mut marks: Vec<CommitMark> = self.parts.siblings.iter().map(|sibling| held_by(sibling).unwrap_or_default()).collect();
        marks.push(self.mark);
        marks.sort_unstable();
        // Of n nodes, sorted upwards, all from the one at ⌈n/2⌉ − 1 on hold its mark: a majority.
        let index = marks.len().div_ceil(2).saturating_sub(1);
        marks.get(index).copied().unwrap_or_default()
    }

    /// The write is durable.
    pub fn persisted(&mut self, id: PersistId) -> Vec<Effect> {
        let mut effects = Effects::default();
        let due = self.saves.persisted(id);
        self.follow(&mut effects, due);
        effects.0
    }

    /// The write has failed: it is asked for again, under the same id, at a later tick.
    pub fn persist_failed(&mut self, id: PersistId) {
        self.saves.failed(id, self.now.monotonic_ms.saturating_add(self.config.retry_ms));
    }

    /// The process is stopping: readiness says so from now on. What is unsent still leaves at ticks.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether every sibling that answers has acknowledged all own changes, so that a stopping process may go.
    #[must_use]
    pub fn drained(&self) -> bool {
        self.peers.values().filter_map(|peer| peer.link.as_ref()).all(Link::is_done_or_lost)
    }

    /// Peers, unsent entries and moves for the node's status.
    #[must_use]
    pub fn status(&self, now: Now) -> ReplicaStatus {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let status_of = |name: &&NodeName| {
            let peer = self.peers.get(*name)?;
            Some(PeerStatus {
                node: (*name).clone(),
                unacknowledged: count(peer.link.as_ref().map_or(0, Link::pending)),
                heard_ms: peer.heard_ms.map(|heard_ms| now.monotonic_ms.saturating_sub(heard_ms)),
                layout_version: peer.layout.map(|id| id.version),
            })
        };
        let links = self.parts.siblings.iter().filter_map(|sibling| self.peers.get(sibling)?.link.as_ref());
        let unsent: BTreeSet<&Key> = links.clone().flat_map(Link::keys).collect();
        // What a link has dropped it no longer knows by name.
        let most = links.map(Link::pending).max().unwrap_or(0);
        ReplicaStatus {
            peers: self.parts.partners().iter().filter_map(status_of).collect(),
            unsent_entries: count(unsent.len().max(most)),
            moves: self.move_statuses(),
        }
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
            layout: self.layout_id,
            clock,
        }
    }

    /// The latest moment heard of from peers: the rim's clock must never be behind it.
    #[must_use]
    pub fn clock(&self) -> Hlc {
        self.clock
    }
}

/// About how many bytes a counter takes in a message.
fn weight(key: &Key, counter: &Counter) -> usize {
    let entries = counter.actors().count();
    key.as_bytes().len().saturating_add(64).saturating_add(entries.saturating_mul(48))
}
