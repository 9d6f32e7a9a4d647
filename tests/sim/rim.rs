//! What a node's rim does: performs effects in order, commits, and never tells anyone what is not durable.

use std::collections::BTreeMap;

use counter_core::counter::Update;
use counter_core::id::{ActorId, NodeName};
use counter_core::layout::Layout;
use counter_core::message::{Envelope, Message};
use counter_core::replica::{Effect, Now, Report};
use counter_core::token::{TokenName, TokenRecord};
use counter_core::unread::REGISTER;

use crate::bugs::Bug;
use crate::disk::{Batch, Write};
use crate::events::Event;
use crate::faults::Fsync;
use crate::process::{Process, Waiter, Work};
use crate::world::World;

/// How long an update waits for a majority.
const QUORUM_MS: u64 = 3_000;

impl World {
    /// Lets a node's process do something, and performs what it then wants.
    pub(crate) fn step(&mut self, node: usize, act: impl FnOnce(&mut Process, Now) -> Vec<Effect>) {
        let held = &mut self.nodes[node];
        let Some(process) = &mut held.process else { return };
        let now = process.now(self.now_ms, held.wall_offset_ms);
        let effects = act(process, now);
        let number = process.number;
        let mut mail: BTreeMap<NodeName, Vec<Message>> = BTreeMap::new();
        for effect in effects {
            if let Effect::Send { to, message } = effect {
                mail.entry(to).or_default().push(message);
            } else {
                self.perform(node, effect);
            }
        }
        for (to, body) in mail {
            self.send(node, &to, body);
        }
        if self.process(node, number).is_some() {
            self.refresh_presence(node);
            self.begin_commit(node);
            self.release_quorum(node);
            self.pump_forwarder(node);
        }
    }

    fn perform(&mut self, node: usize, effect: Effect) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let number = process.number;
        match effect {
            Effect::Send { .. } => {}
            Effect::Persist { id, keys, slots, floors } => {
                if self.bug == Some(Bug::RegisterRetired) {
                    slots.iter().for_each(|slot| drop(process.table.slot(*slot).retire(&[REGISTER])));
                }
                if let Some(gateway) = process.gateway.as_mut().filter(|_| self.bug != Some(Bug::MergesUntold)) {
                    gateway.changed(&keys, slots.iter().copied());
                }
                let raised = floors.len();
                process.queued.keys.extend(keys);
                process.queued.slots.extend(slots);
                process.queued.floors.extend(floors);
                process.queued.persists.push(id);
                (0..raised).for_each(|_| self.note("floor raised"));
            }
            Effect::AdoptLayout(layout) => {
                process.forwarder.handle_layout(process.monotonic_ms(self.now_ms), &layout);
                self.captures.take(node, &self.nodes[node], &self.ledger.keys);
                let layout = Box::new(layout.as_ref().clone());
                self.trace(|| format!("node {node} acts by layout {}", layout.version));
                let saved_ms = self.now_ms + self.rng.range(0, 30);
                self.events.at(saved_ms, Event::LayoutSaved { node, process: number, layout });
            }
            Effect::RenewActor { above } => {
                self.note(if above.is_some() {
                    "actor renewed above a later start"
                } else {
                    "actor renewed for a regained slot"
                });
                let starts = &mut self.nodes[node].disk.starts;
                *starts = (*starts).max(above.map_or(0, ActorId::starts));
                let last = self.nodes[node].disk.last_actor;
                let actor = match (self.bug, last) {
                    (Some(Bug::ResumedActor), Some(last)) => last,
                    _ => self.next_actor(node),
                };
                let saved_ms = self.now_ms + self.rng.range(0, 30);
                self.events.at(saved_ms, Event::ActorSaved { node, process: number, actor, reopened: false });
            }
            Effect::Forget { slots, keys } => {
                self.trace(|| format!("node {node} forgets {keys:?}"));
                let Some(process) = &mut self.nodes[node].process else { return };
                process.queued.keys.extend(keys);
                process.queued.slots.extend(slots);
            }
            Effect::Report(report) => {
                self.trace(|| format!("node {node} reports: {report}"));
                if let Report::Superseded { .. } = report {
                    self.note("superseded");
                    self.kill(node);
                    self.events.at(self.now_ms + 300, Event::Start { node });
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: &NodeName, body: Vec<Message>) {
        let Some(&target) = self.names.get(to) else { return };
        let held = &mut self.nodes[from];
        let Some(process) = &mut held.process else { return };
        let now = process.now(self.now_ms, held.wall_offset_ms);
        let clock = process.tick_clock(now);
        let header = process.replica.header(Some(to.clone()), clock);
        let cut = self.network.cut.contains(&(from, target)) && self.bug != Some(Bug::EarlyForget);
        if cut || self.rng.per_mille(self.network.loss) {
            return;
        }
        let envelope = Envelope { header, body };
        let body = self.forged(&envelope);
        if let Some(body) = body {
            let header = self.nodes[target]
                .process
                .as_ref()
                .map(|process| process.replica.header(Some(envelope.header.from.clone()), clock));
            if let Some(header) = header {
                self.events.at(self.now_ms + 1, Event::Deliver { to: from, envelope: Envelope { header, body } });
            }
            return;
        }
        if self.network.cut.contains(&(from, target)) {
            return;
        }
        if self.rng.per_mille(self.network.repeat) {
            let at_ms = self.now_ms + self.rng.range(1, 2_000);
            self.events.at(at_ms, Event::Deliver { to: target, envelope: envelope.clone() });
        }
        let at_ms = self.now_ms + self.delay_ms();
        self.events.at(at_ms, Event::Deliver { to: target, envelope });
    }

    /// The planted bugs of a sibling that agrees to everything of a kind.
    fn forged(&self, envelope: &Envelope) -> Option<Vec<Message>> {
        let forgets = match self.bug {
            Some(Bug::LateFold) => false,
            Some(Bug::EarlyForget) => true,
            _ => return None,
        };
        let reply = |message: &Message| match message {
            Message::RetireAsk { round, layout, slots } if slots.iter().any(|slot| slot.actors.is_empty() == forgets) => {
                let of_kind = slots.iter().filter(|proposal| proposal.actors.is_empty() == forgets);
                let agreed = of_kind.map(|proposal| proposal.slot).collect();
                Some(Message::RetireReply { round: *round, layout: *layout, agreed })
            }
            _ => None,
        };
        let replies: Vec<Message> = envelope.body.iter().filter_map(reply).collect();
        (!replies.is_empty()).then_some(replies)
    }

    pub(crate) fn delay_ms(&mut self) -> u64 {
        let spike_ms = if self.rng.per_mille(10) { self.rng.below(1_500) } else { 0 };
        self.rng.range(1, self.network.delay_ms_max.max(1)) + spike_ms
    }

    /// Begins to write what is queued, if nothing is being written.
    pub(crate) fn begin_commit(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.committing || process.queued.is_empty() {
            return;
        }
        process.committing = true;
        let work = std::mem::take(&mut process.queued);
        let writes = process.records(&work, self.bug);
        let number = process.number;
        self.note_refunds(node, &writes);
        let takes_ms = if self.plan.slow_writes && self.rng.per_mille(500) {
            self.rng.range(200, 1_000)
        } else if self.rng.per_mille(20) {
            self.rng.range(50, 400)
        } else {
            self.rng.below(4)
        };
        self.events.at(self.now_ms + takes_ms, Event::Committed { node, process: number, work, writes });
    }

    /// What the node has counted in vain, as it hears now that another counts it.
    fn note_refunds(&mut self, node: usize, writes: &[Write]) {
        for (name, record) in writes.iter().filter_map(|write| match write {
            Write::Token(name, Some(record)) => Some((name, record)),
            _ => None,
        }) {
            let Some(process) = &self.nodes[node].process else { return };
            let vector = process.table.slot(record.key.slot());
            let own = vector.writer().filter(|own| record.actor < *own);
            let lost = own.is_some_and(|own| vector.token(&TokenName { actor: own, ..*name }).is_some());
            drop(vector);
            if lost {
                self.note("token counted twice, and refunded");
                if self.bug == Some(Bug::DoubleSettle) {
                    self.refund_again(node, record);
                }
            }
        }
    }

    fn refund_again(&mut self, node: usize, record: &TokenRecord) {
        let held = &mut self.nodes[node];
        let Some(process) = &mut held.process else { return };
        let update = match record.update {
            Update::Increment(by) => Update::Decrement(by),
            Update::Decrement(by) => Update::Increment(by),
            Update::Reset | Update::Set(_) | Update::Raise { .. } => return,
        };
        let clock = process.tick_clock(process.now(self.now_ms, held.wall_offset_ms));
        if process.table.apply(&record.key, update, None, clock).is_ok() {
            process.queued.keys.insert(record.key.clone());
            process.queued.own.push(record.key.clone());
        }
    }

    pub(crate) fn committed(&mut self, node: usize, number: u64, work: Work, writes: Vec<Write>) {
        if self.process(node, number).is_none() {
            // The kernel may have got it before the process died.
            if self.nodes[node].dying == Some(number) && self.rng.per_mille(500) {
                self.nodes[node].disk.commit(Batch { writes, applied: work.applied });
            }
            return;
        }
        let fails = self.nodes[node].storage_fails;
        let Work { keys, mut slots, floors, own, applied, waiters, persists } = work;
        slots.extend(if fails { floors } else { Default::default() });
        let unsaved = if fails {
            applied
        } else {
            let disk = &mut self.nodes[node].disk;
            disk.commit(Batch { writes, applied });
            if self.plan.fsync == Fsync::Always {
                disk.sync();
            }
            Vec::new()
        };
        let quorum = self.plan.quorum && !fails;
        let untold = self.bug == Some(Bug::UpdatesUntold);
        let until_ms = self.now_ms + QUORUM_MS;
        let mut answered = Vec::new();
        self.step(node, |process, now| {
            process.committing = false;
            let mut effects = Vec::new();
            if let Some(gateway) = process.gateway.as_mut().filter(|_| !untold) {
                gateway.changed(&own, []);
            }
            // A change that stands in the table counts, and must come to count everywhere.
            let mark = process.replica.committed(own.iter().map(|key| (key.slot(), key.into())));
            for id in persists {
                if fails { process.replica.persist_failed(id) } else { effects.extend(process.replica.persisted(id)) }
            }
            if quorum {
                process.quorum.push((mark, until_ms, waiters));
                effects.extend(process.replica.flush(&process.table, now));
            } else {
                answered = waiters;
            }
            if fails {
                process.fail(keys, slots, unsaved);
            }
            effects
        });
        for waiter in answered {
            self.answer(node, waiter, !fails);
        }
        if fails {
            self.trace(|| format!("node {node} cannot write"));
            self.events.at(self.now_ms + 200, Event::Reopen { node, process: number });
        }
    }

    fn release_quorum(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.nodes[node].process else { return };
        let held = process.replica.acknowledged();
        let (over, waiting) =
            std::mem::take(&mut process.quorum).into_iter().partition(|(mark, until_ms, _)| *mark <= held || *until_ms <= now_ms);
        process.quorum = waiting;
        let over: Vec<(_, _, Vec<Waiter>)> = over;
        for (mark, _, waiters) in over {
            for waiter in waiters {
                self.answer(node, waiter, mark <= held);
            }
        }
    }

    pub(crate) fn layout_saved(&mut self, node: usize, number: u64, layout: Layout) {
        if self.process(node, number).is_none() {
            return;
        }
        if self.nodes[node].storage_fails {
            self.events.at(self.now_ms + 100, Event::LayoutSaved { node, process: number, layout: Box::new(layout) });
            return;
        }
        let version = layout.version;
        let disk = &mut self.nodes[node].disk;
        if disk.layout.as_ref().is_none_or(|held| held.version < version) {
            disk.layout = Some(layout);
        }
        self.step(node, |process, _| {
            process.replica.layout_persisted(&process.table, version);
            Vec::new()
        });
    }

    pub(crate) fn layout_arrives(&mut self, to: usize, layout: Layout) {
        self.step(to, |process, _| {
            process.replica.offer_layout(&process.table, layout).map(|(_, effects)| effects).unwrap_or_default()
        });
    }

    pub(crate) fn reopen(&mut self, node: usize, number: u64) {
        if self.process(node, number).is_none() {
            return;
        }
        if self.nodes[node].storage_fails {
            self.events.at(self.now_ms + 200, Event::Reopen { node, process: number });
            return;
        }
        self.note("storage reopened");
        let actor = self.next_actor(node);
        self.actor_saved(node, number, actor, true);
    }

    pub(crate) fn actor_saved(&mut self, node: usize, number: u64, actor: ActorId, reopened: bool) {
        if self.process(node, number).is_none() {
            return;
        }
        self.trace(|| format!("node {node} goes on as {actor}"));
        self.step(node, |process, _| {
            if reopened {
                process.writable = true;
                let Work { keys, slots, applied, .. } = std::mem::take(&mut process.unsaved);
                process.queued.keys.extend(keys);
                process.queued.slots.extend(slots);
                process.queued.applied.extend(applied);
            }
            process.replica.actor_renewed(&process.table, actor)
        });
    }
}
