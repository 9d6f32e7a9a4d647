//! The forwarder: chooses replicas, keeps time, and gives each client one outcome. Sending and settling: `messages.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::lane::{LaneKind, Message, Pending, Target};
use super::routes::{Routes, TargetIndex};
use super::{Attempt, ForwardConfig, ForwardEffect, Marked, MessageId, NotApplied, Operation, Outcome, Ticket};
use crate::counter::Key;
use crate::id::{ActorId, NodeName};
use crate::layout::{Layout, LayoutVersion};
use crate::marks::Mark;

/// How often what waits in queues is looked through for what has run out of time.
const SWEEP_MS: u64 = 100;

/// Forwards what this node does not own, or cannot apply itself.
#[derive(Debug)]
pub struct Forwarder {
    pub(super) identity: ActorId,
    pub(super) config: ForwardConfig,
    here: TargetIndex,
    routes: Option<Routes>,
    pub(super) targets: Vec<Target>,
    pub(super) messages: BTreeMap<MessageId, Message>,
    pub(super) last_message: MessageId,
    /// Waiting to be routed again, in the order of when.
    parked: VecDeque<(u64, Pending)>,
    /// Targets with something to send, now or soon.
    pub(super) ready: BTreeSet<TargetIndex>,
    next_sweep_ms: u64,
    pub(super) effects: Vec<ForwardEffect>,
}

impl Forwarder {
    /// The forwarder of a process that started as `identity` on the node `here`.
    #[must_use]
    pub fn new(identity: ActorId, here: NodeName, config: ForwardConfig) -> Self {
        Self {
            identity,
            config,
            here: 0,
            routes: None,
            targets: vec![Target::new(here)],
            messages: BTreeMap::new(),
            last_message: MessageId::default(),
            parked: VecDeque::new(),
            ready: BTreeSet::new(),
            next_sweep_ms: 0,
            effects: Vec::new(),
        }
    }

    /// Has an update applied by another node, also when this one owns the slot but cannot apply it now.
    pub fn submit(&mut self, now_ms: u64, key: Key, attempt: Attempt, ticket: Ticket) {
        self.accept(now_ms, key, Operation::Update(attempt), None, ticket);
    }

    /// Has a counter read by another node.
    pub fn submit_read(&mut self, now_ms: u64, key: Key, ticket: Ticket) {
        self.accept(now_ms, key, Operation::Read, None, ticket);
    }

    /// Has either done for a client that keeps marks, by a node that has seen them.
    pub fn submit_marked(&mut self, now_ms: u64, marked: Marked, ticket: Ticket) {
        let Marked { key, operation, marks } = marked;
        self.accept(now_ms, key, operation, Some(marks), ticket);
    }

    fn accept(&mut self, now_ms: u64, key: Key, operation: Operation, marks: Option<Vec<Mark>>, ticket: Ticket) {
        let deadline_ms = now_ms.saturating_add(self.config.total_timeout_ms);
        let seen_by_ms = now_ms.saturating_add(self.config.seen_timeout_ms);
        let reason = NotApplied::Unreachable;
        // What is submitted here could not be done here: the other replicas come first.
        let (refused_here, refused_by) = (true, Vec::new());
        let item = Pending { ticket, key, operation, marks, deadline_ms, seen_by_ms, refused_here, refused_by, reason };
        self.route(now_ms, item);
    }

    /// What has become due by `now_ms`. To be called after everything else that is called here, and at
    /// [`Self::next_wakeup_ms`].
    pub fn poll(&mut self, now_ms: u64) -> Vec<ForwardEffect> {
        self.poll_messages(now_ms);
        while self.parked.front().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            if let Some((_, item)) = self.parked.pop_front() {
                self.route(now_ms, item);
            }
        }
        if now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = now_ms.saturating_add(SWEEP_MS);
            self.sweep(now_ms);
        }
        for target in std::mem::take(&mut self.ready) {
            self.send_queued(now_ms, target);
            if self.turn_ms(target).is_some() {
                self.ready.insert(target);
            }
        }
        std::mem::take(&mut self.effects)
    }

    /// When to poll next if nothing else happens; none when nothing waits.
    #[must_use]
    pub fn next_wakeup_ms(&self) -> Option<u64> {
        if !self.effects.is_empty() {
            return Some(0);
        }
        let ready = self.ready.iter().filter_map(|target| self.turn_ms(*target)).min();
        let message = self.messages.values().map(|message| message.due_ms).min();
        let parked = self.parked.front().map(|(due_ms, _)| *due_ms);
        let waiting = self.targets.iter().any(|target| !target.updates.queue.is_empty() || !target.reads.queue.is_empty());
        let sweep = (waiting || message.is_some()).then_some(self.next_sweep_ms);
        [ready, message, parked, sweep].into_iter().flatten().min()
    }

    /// When something is to be sent to the target.
    fn turn_ms(&self, target: TargetIndex) -> Option<u64> {
        let turns = [LaneKind::Updates, LaneKind::Reads].map(|kind| self.next_turn_ms(target, kind));
        turns.into_iter().flatten().min()
    }

    /// Follows a newer layout: what has not been sent is routed by it.
    pub fn handle_layout(&mut self, now_ms: u64, layout: &Layout) {
        if self.routes.as_ref().is_some_and(|routes| routes.version >= layout.version) {
            return;
        }
        let targets = &mut self.targets;
        self.routes = Some(Routes::of(layout, |name| target_of(targets, name)));
        let queued = self.targets.iter_mut().flat_map(|target| [&mut target.updates, &mut target.reads]);
        let mut unsent: Vec<Pending> = queued.flat_map(|lane| lane.queue.drain(..)).collect();
        unsent.extend(self.parked.drain(..).map(|(_, item)| item));
        for mut item in unsent {
            (item.refused_here, item.refused_by) = (false, Vec::new());
            self.route(now_ms, item);
        }
    }

    pub(super) fn layout_version(&self) -> LayoutVersion {
        self.routes.as_ref().map_or_else(LayoutVersion::default, |routes| routes.version)
    }

    /// Queues an item for the first of its replicas that has not refused it, one that is not passed over if there is one.
    pub(super) fn route(&mut self, now_ms: u64, item: Pending) {
        let Some(routes) = &self.routes else {
            return self.finish(&item, Outcome::NotApplied(NotApplied::NotReady));
        };
        let kind = item.lane();
        // Where this node is an owner itself, it is the cheapest one.
        let is_here = |target: TargetIndex| target == self.here;
        let serves = |target: TargetIndex| self.targets[target].lane(kind).avoid_until_ms <= now_ms;
        let left = routes.replicas(&item.key).filter(|(target, _)| !item.is_refused_by(*target, self.here));
        let first = left.max_by_key(|(target, rank)| (is_here(*target), serves(*target), *rank, *target));
        match first.map(|(target, _)| target) {
            // The only owner is the node that could not do it.
            None if routes.replicas(&item.key).all(|(target, _)| is_here(target)) => {
                self.finish(&item, Outcome::NotApplied(NotApplied::ReadOnly));
            }
            None => self.park(now_ms, item),
            Some(target) if target == self.here => {
                let Pending { ticket, key, operation, .. } = item;
                self.effects.push(ForwardEffect::Local { ticket, key, operation });
            }
            Some(target) => self.enqueue(target, item),
        }
    }

    fn enqueue(&mut self, target: TargetIndex, item: Pending) {
        let queue = &mut self.targets[target].lane_mut(item.lane()).queue;
        if queue.len() >= self.config.queue_max {
            return self.finish(&item, Outcome::NotApplied(NotApplied::Overloaded));
        }
        queue.push_back(item);
        self.ready.insert(target);
    }

    /// Every replica has been tried: begins anew a little later, if there is time.
    fn park(&mut self, now_ms: u64, mut item: Pending) {
        let due_ms = now_ms.saturating_add(self.config.retry_ms.max(1));
        if item.is_late(due_ms) {
            return self.finish(&item, Outcome::NotApplied(item.reason));
        }
        if self.parked.len() >= self.config.queue_max {
            return self.finish(&item, Outcome::NotApplied(NotApplied::Overloaded));
        }
        // What was given up here comes back here only with a new layout, or it would go round in circles.
        item.refused_by.clear();
        self.parked.push_back((due_ms, item));
    }

    /// Routes an item again that `target` has certainly not applied.
    pub(super) fn route_past(&mut self, now_ms: u64, target: TargetIndex, reason: NotApplied, mut item: Pending) {
        item.reason = reason;
        if item.is_late(now_ms) {
            return self.finish(&item, Outcome::NotApplied(reason));
        }
        item.refused_by.push(target);
        self.route(now_ms, item);
    }

    /// Passes `target` over for a while, and offers what waits for it to the others.
    pub(super) fn avoid(&mut self, now_ms: u64, target: TargetIndex, kind: LaneKind) {
        let avoid_until_ms = now_ms.saturating_add(self.config.avoid_ms);
        let lane = self.targets[target].lane_mut(kind);
        lane.avoid_until_ms = avoid_until_ms;
        for item in std::mem::take(&mut lane.queue) {
            self.route(now_ms, item);
        }
    }

    /// Gives up what has waited too long for its turn: it was never sent.
    fn sweep(&mut self, now_ms: u64) {
        let mut late = Vec::new();
        for lane in self.targets.iter_mut().flat_map(|target| [&mut target.updates, &mut target.reads]) {
            late.extend(lane.take_late(now_ms));
        }
        for item in late {
            self.finish(&item, Outcome::NotApplied(item.reason));
        }
        self.expire_sent(now_ms);
    }

    pub(super) fn finish(&mut self, item: &Pending, outcome: Outcome) {
        self.effects.push(ForwardEffect::Complete { ticket: item.ticket, outcome: item.told(outcome) });
    }

    /// What `target` may have applied: another replica will know it by its token.
    pub(super) fn route_unknown(&mut self, now_ms: u64, target: TargetIndex, mut item: Pending) {
        if item.may_repeat() && now_ms < item.deadline_ms {
            item.refused_by.push(target);
            self.route(now_ms, item);
        } else {
            self.finish(&item, Outcome::Unknown);
        }
    }
}

/// The target's place; new names get new places, and places are never given up: there are as many as there are names.
fn target_of(targets: &mut Vec<Target>, name: &NodeName) -> TargetIndex {
    targets.iter().position(|target| target.name == *name).unwrap_or_else(|| {
        targets.push(Target::new(name.clone()));
        targets.len().saturating_sub(1)
    })
}
