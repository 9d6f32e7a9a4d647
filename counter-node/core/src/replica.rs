//! Replication, slot moves and retirement: one node's part in it, as a value. It is told messages, ticks, the time and
//! what has become durable, and answers with effects.
//!
//! **Invariants.**
//! - This node applies updates in exactly the slots that its shard owns under the newest layout it knows; once
//!   [`Replica::handle_message`] or [`Replica::offer_layout`] has returned, no update is applied under an older one.
//! - A slot that this process gave away and gets back has no writer until the process has a new actor; a slot that comes
//!   to it has none until the layout that brings it is durable.
//! - Nothing is acknowledged or claimed to a peer before it is durable here; no slot is said to be given away for good
//!   before the layout that says so is.
//! - An actor is retired once, by one node, after all holders have agreed to what it came to.
//! - Everything kept in mind is bounded, by the layout's size or by [`ReplicaConfig`].
//!
//! Deliberately absent: any order or completeness of messages, any clock in a merge, any vote. Pushes are for speed;
//! what makes replicas equal is pulling.

mod answer;
mod config;
mod contest;
mod effects;
mod layouts;
mod links;
mod moves;
mod parts;
mod peers;
mod pull;
mod push;
mod random;
mod retire;
mod saves;
mod slots;
mod start;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::answer::Answering;
pub use self::config::ReplicaConfig;
use self::contest::Contest;
pub use self::effects::{CommitMark, Effect, Now, PersistId, Report};
use self::effects::{Effects, Step};
use self::links::Link;
use self::moves::Arrival;
use self::parts::Parts;
pub use self::peers::Freshness;
use self::peers::Peer;
use self::pull::Pulled;
use self::random::Random;
use self::retire::Retiring;
use self::saves::{Saves, Then, Unsaved};
use self::slots::SlotSet;
use self::start::Start;

use crate::counter::Key;
use crate::hlc::Hlc;
use crate::id::{ActorId, NodeName};
use crate::layout::{Layout, LayoutVersion};
use crate::message::{Envelope, Header, LayoutId, Message};
use crate::slot::{SLOTS, Slot, SlotRange};
use crate::status::{MoveStatus, PeerStatus};
use crate::table::Table;
use crate::vector::SlotDelta;

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
    contest: Option<Contest>,
    /// When the process was first told the time.
    began_ms: Option<u64>,
    draining: bool,
    mark: CommitMark,
    peers: BTreeMap<NodeName, Peer>,
    saves: Saves,
    start: Start,
    arrivals: Vec<Arrival>,
    retiring: Retiring,
    forget_due: bool,
    forgetting: SlotSet,
    repair: Turns,
    sweep: Turns,
    hello: Turns,
    reported: BTreeMap<(NodeName, &'static str), u64>,
    /// Slots with own changes that nobody else is to hear of.
    alone: SlotSet,
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
            contest: None,
            began_ms: None,
            draining: false,
            mark: CommitMark::default(),
            peers: BTreeMap::new(),
            saves: Saves::default(),
            start: Start::Unnamed,
            arrivals: Vec::new(),
            retiring,
            forget_due: false,
            forgetting: SlotSet::default(),
            repair: Turns::default(),
            sweep: Turns::default(),
            hello: Turns::default(),
            reported: BTreeMap::new(),
            alone: SlotSet::default(),
        };
        let mut step = Step::on(table);
        if let Some(layout) = layout {
            let version = layout.version;
            replica.durable_layout = version;
            replica.act_by(&mut step, layout);
            replica.layout_persisted(table, version);
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
            Message::Superseded { by, silent_ms } => self.superseded(step, from, by, silent_ms),
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
            items_max: self.config.summary_counters_max,
        }
    }

    fn link(&mut self, peer: &NodeName) -> Option<&mut Link> {
        self.peers.get_mut(peer)?.link.as_mut()
    }

    fn begin(&mut self, now: Now) {
        self.now = Now { monotonic_ms: now.monotonic_ms.max(self.now.monotonic_ms), wall_ms: now.wall_ms };
        self.began_ms.get_or_insert(now.monotonic_ms);
    }

    fn take_detail(&mut self, step: &mut Step<'_>, from: &NodeName, reply: crate::message::DetailReply) {
        if let Some(delta) = &reply.delta {
            // A retirement is taken only from who holds the slot beside this node under this layout: any other might
            // hold one that was made without this node's shard.
            if !self.parts.is_partner(from, delta.slot) {
                return;
            }
            // Then this counts as no answer, and the question is asked again.
            if self.must_hear_of_floor(step, from, delta) {
                return;
            }
            let changed = self.merge(step, std::slice::from_ref(delta));
            if changed {
                // What comes by pull comes late, and may be of an actor that is closed by now.
                self.retiring.stir();
            }
        }
        let now_ms = self.now.monotonic_ms;
        let Some(peer) = self.peers.get_mut(from) else { return };
        let (next, pulled) = peer.puller.detailed(step.table, &reply, now_ms, &self.config);
        step.effects.send_all(from, next);
        self.take_pulled(step, pulled);
    }

    fn take_errand(&mut self, step: &mut Step<'_>, from: &NodeName, errand: u64, ranges: &[SlotRange]) {
        let shared = |slot: &Slot| self.parts.is_partner(from, *slot) && ranges.iter().any(|range| range.contains(*slot));
        let slots: SlotSet = Slot::all().filter(shared).collect();
        let is_done = self.peers.get_mut(from).is_some_and(|peer| peer.take_errand(errand, slots));
        if is_done {
            step.effects.send(from, Message::PullDone { errand });
        }
    }

    /// The only way in for what other nodes know. Returns whether anything was new.
    fn merge(&mut self, step: &mut Step<'_>, deltas: &[SlotDelta]) -> bool {
        let (mut keys, mut generations, mut floors) = (Vec::new(), Vec::new(), Vec::new());
        for delta in deltas {
            let before = step.table.slot(delta.slot).generation();
            let newer = delta.retirement.as_ref().filter(|retirement| retirement.generation > before);
            if newer.is_some_and(|retirement| retirement.retired.contains(&self.actor)) {
                self.bar(step, delta.slot);
            }
            let merged = step.table.merge(delta);
            keys.extend(merged.keys);
            floors.extend(merged.floor.then_some(delta.slot));
            if step.table.slot(delta.slot).generation() != before {
                generations.push(delta.slot);
            }
        }
        let changed = !keys.is_empty() || !generations.is_empty() || !floors.is_empty();
        step.effects.0.extend(self.saves.save(Unsaved { keys, generations, floors }));
        changed
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
        self.advance_contest(&mut step);
        if self.sweep.take(now_ms, self.config.sweep_ms).is_some() {
            self.sweep_arrivals();
        }
        if let Some(turn) = self.repair.take(now_ms, self.config.repair_ms) {
            self.begin_repair(turn);
        }
        if self.hello.take(now_ms, self.config.hello_ms).is_some() {
            self.greet(&mut step);
            self.ask_on(&mut step);
        }
        self.advance_retirement(&mut step);
        self.forget(&mut step);
        for (name, peer) in &mut self.peers {
            step.effects.send_all(name, peer.puller.pump(table, now_ms, &self.config));
        }
        step.effects.0
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
