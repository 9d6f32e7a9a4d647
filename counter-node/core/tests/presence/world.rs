//! The world: time, the network, the nodes, and what happens to them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;

use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, NodeName};
use counter_core::layout::Layout;
use counter_core::presence::{FeedReading, Presence, PresenceConfig, PresenceEffect, PresenceMessage, Viewers};
use counter_core::replica::Now;
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};

use crate::bugs::Bug;
use crate::operator::Operator;
use crate::plan::{Fault, Plan};
use crate::truth::{ProcessNumber, Truth};
use counter_seeds::Rng;

pub(crate) const PAGES: usize = 10;
pub(crate) const LEASE_MS: u64 = 5_000;
const TICK_MS: u64 = 50;
const EPOCH_MS: u64 = 1_900_000_000_000;

/// A message that takes longer is a disturbance.
const SLOW_MS: u64 = 60;
/// Keeps these runs apart from those of whole clusters under the same seed.
const STREAM: u64 = 0x27FF_0EB8_8F23_4E5A;
const TRACE_LINES: usize = 2_000;
const LIMITS: TableLimits = TableLimits { counters: 1_000, memory_bytes: 1 << 30, tokens: 10, token_window_ms: 1_000 };

#[derive(Debug)]
enum Event {
    Tick { node: usize, process: ProcessNumber },
    GoOn { node: usize, process: ProcessNumber },
    Deliver { to: usize, from: usize, from_process: ProcessNumber, message: Box<PresenceMessage> },
    Layout { node: usize, layout: Arc<Layout> },
    Start { node: usize },
    Fault(Fault),
    Mend { from: usize, to: usize },
    Client,
    Operate,
    Check,
}

/// An event, in the order of time and then of its making.
#[derive(Debug)]
struct At(u64, u64, Event);

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for At {}

impl PartialOrd for At {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for At {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) process: Option<Process>,
    /// The layout that is durable here.
    pub(crate) layout: Arc<Layout>,
    wall_ahead_ms: i64,
    stalled_until_ms: u64,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) number: ProcessNumber,
    pub(crate) presence: Presence,
    pub(crate) viewers: Arc<Viewers>,
    pub(crate) fed: BTreeMap<Key, FeedReading>,
    pub(crate) watched: BTreeSet<usize>,
    monotonic_ahead_ms: u64,
    ticked_ms: u64,
    leaving: bool,
}

/// A world of one seed.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    bug: Option<Bug>,
    events: BinaryHeap<Reverse<At>>,
    made: u64,
    pub(crate) nodes: Vec<Node>,
    cut: BTreeMap<(usize, usize), u64>,
    pub(crate) operator: Operator,
    pub(crate) truth: Truth,
    pub(crate) keys: Vec<Key>,
    /// What every replica knows of the tallies; how they get to know it is not in question here.
    table: Table,
    pub(crate) tallies: Vec<i128>,
    healed: bool,
    processes: ProcessNumber,
    pub(crate) seen: BTreeMap<&'static str, u64>,
    trace: Option<VecDeque<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut rng = Rng::new(seed ^ STREAM);
        let mut plan = Plan::of(&mut rng);
        if let Some(bug) = bug {
            bug.sharpen(&mut plan);
        }
        let operator = Operator::new(plan.shards, plan.replicas);
        let node =
            |name: NodeName| Node { name, process: None, layout: operator.layout.clone(), wall_ahead_ms: 0, stalled_until_ms: 0 };
        let nodes: Vec<Node> = operator.layout.nodes().map(|found| node(found.name.clone())).collect();
        let mut world = Self {
            now_ms: 0,
            rng,
            plan,
            bug,
            events: BinaryHeap::new(),
            made: 0,
            nodes,
            cut: BTreeMap::new(),
            operator,
            truth: Truth::default(),
            keys: (0..PAGES).map(|page| Key::new(format!("page-{page}").as_bytes()).unwrap()).collect(),
            table: Table::new(7, LIMITS),
            tallies: vec![0; PAGES],
            healed: false,
            processes: 0,
            seen: BTreeMap::new(),
            trace: traced.then(VecDeque::new),
        };
        world.table.set_writer(Slot::all(), Some(ActorId { origin: 1, incarnation: 1 }));
        for node in 0..world.nodes.len() {
            let after_ms = world.rng.range(0, 300);
            world.at(after_ms, Event::Start { node });
        }
        for (at_ms, fault) in std::mem::take(&mut world.plan.faults) {
            world.at(at_ms, Event::Fault(fault));
        }
        for event in [Event::Client, Event::Operate, Event::Check] {
            world.at(400, event);
        }
        world
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse(At(at_ms, self.made, event)));
    }

    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{:>6} {}", self.now_ms, line()));
            if trace.len() > TRACE_LINES {
                trace.pop_front();
            }
        }
    }

    pub(crate) fn trace(&self) -> String {
        self.trace.iter().flatten().fold(String::new(), |text, line| text + line + "\n")
    }

    pub(crate) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn run_until(&mut self, end_ms: u64) -> Result<(), String> {
        while self.events.peek().is_some_and(|Reverse(At(at_ms, ..))| *at_ms <= end_ms) {
            let Some(Reverse(At(at_ms, _, event))) = self.events.pop() else { break };
            self.now_ms = self.now_ms.max(at_ms);
            self.handle(event)?;
        }
        self.now_ms = end_ms;
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Tick { node, process } => self.tick(node, process)?,
            Event::GoOn { node, process } => self.go_on(node, process),
            Event::Deliver { to, from, from_process, message } => self.deliver(to, from, from_process, message),
            Event::Layout { node, layout } => self.layout_comes(node, layout),
            Event::Start { node } => self.start(node),
            Event::Fault(fault) => self.fault(fault),
            Event::Mend { from, to } => {
                let cuts = self.cut.entry((from, to)).or_default();
                *cuts = cuts.saturating_sub(1);
            }
            Event::Client => self.client(),
            Event::Operate => self.operate(),
            Event::Check => {
                self.check_bounds()?;
                if !self.healed {
                    self.at(self.now_ms + 130, Event::Check);
                }
            }
        }
        Ok(())
    }

    fn now(&self, node: usize) -> Now {
        let process = self.nodes[node].process.as_ref();
        Now {
            monotonic_ms: self.now_ms + process.map_or(0, |process| process.monotonic_ahead_ms),
            wall_ms: (EPOCH_MS + self.now_ms).saturating_add_signed(self.nodes[node].wall_ahead_ms),
        }
    }

    /// Whether the node stands still; what is to happen to it waits then.
    fn waits(&self, node: usize) -> Option<u64> {
        Some(self.nodes[node].stalled_until_ms).filter(|until_ms| *until_ms > self.now_ms)
    }

    pub(crate) fn step(&mut self, node: usize, act: impl FnOnce(&mut Presence, &Table, Now) -> Vec<PresenceEffect>) {
        let now = self.now(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        let effects = act(&mut process.presence, &self.table, now);
        let number = process.number;
        for effect in effects {
            match effect {
                PresenceEffect::Send { to, message } => self.send(node, number, &to, message),
                PresenceEffect::Fed { readings, .. } => {
                    if let Some(process) = &mut self.nodes[node].process {
                        process.fed.extend(readings);
                    }
                }
            }
        }
    }

    fn send(&mut self, from: usize, from_process: ProcessNumber, to: &NodeName, message: PresenceMessage) {
        let Some(to) = self.nodes.iter().position(|node| node.name == *to) else { return };
        self.note(|| format!("{from} -> {to}: {message:?}"));
        let lost = self.cut.get(&(from, to)).is_some_and(|cuts| *cuts > 0) || self.rng.per_mille(self.plan.loss);
        if lost {
            self.lose(from, from_process, to, &message);
        } else {
            let times = if self.rng.per_mille(self.plan.repeat) { 2 } else { 1 };
            for _ in 0..times {
                let slow = self.rng.per_mille(self.plan.slow);
                let delay_ms = if slow { self.rng.range(SLOW_MS, 2_000) } else { self.rng.range(0, 4) };
                if slow {
                    self.disturb(from_process, to);
                }
                let message = Box::new(message.clone());
                self.at(self.now_ms + delay_ms, Event::Deliver { to, from, from_process, message });
            }
        }
    }

    fn lose(&mut self, from: usize, from_process: ProcessNumber, to: usize, message: &PresenceMessage) {
        self.saw("a message is lost");
        self.disturb(from_process, to);
        if let (Some(Bug::FeedNotResent), PresenceMessage::Feed(feed)) = (self.bug, message) {
            let answer = PresenceMessage::FeedAck { gateway: feed.gateway, epoch: feed.epoch, sequence: feed.sequence };
            let message = Box::new(answer);
            self.at(self.now_ms + 1, Event::Deliver { to: from, from: to, from_process, message });
        }
    }

    fn disturb(&mut self, process: ProcessNumber, node: usize) {
        if let Some(other) = self.nodes[node].process.as_ref().map(|process| process.number) {
            self.truth.disturbed(process, other, self.now_ms);
        }
    }

    fn deliver(&mut self, to: usize, from: usize, from_process: ProcessNumber, message: Box<PresenceMessage>) {
        if let Some(until_ms) = self.waits(to) {
            return self.at(until_ms, Event::Deliver { to, from, from_process, message });
        }
        let Some(process) = &self.nodes[to].process else { return };
        let (number, name) = (process.number, self.nodes[from].name.clone());
        // Encoding is the wire's; some of it is proved here.
        let mut message = *message;
        if self.rng.per_mille(20) {
            message = postcard::from_bytes(&postcard::to_stdvec(&message).unwrap()).unwrap();
        }
        if let Some(bug) = self.bug {
            let Some(distorted) = bug.distort(message) else { return };
            message = distorted;
        }
        self.count(&message);
        if let PresenceMessage::Renewal(renewal) = &message {
            self.truth.renewed(from_process, number, renewal, self.now_ms);
        }
        self.step(to, |presence, table, now| presence.handle_messages(table, now, &name, vec![message]));
    }

    fn count(&mut self, message: &PresenceMessage) {
        match message {
            PresenceMessage::Renewal(renewal) if renewal.farewell => self.saw("a gateway says farewell"),
            PresenceMessage::Renewal(renewal) if renewal.delta.upto < renewal.delta.head => self.saw("a part of a ledger"),
            PresenceMessage::Renewal(renewal) if renewal.delta.after == 0 && renewal.delta.base > 9 => {
                self.saw("a copy begins anew")
            }
            PresenceMessage::RenewalAck(ack) if ack.differs => self.saw("a copy differs"),
            PresenceMessage::Relay { delta, .. } if !delta.changes.is_empty() => self.saw("a sibling relays changes"),
            PresenceMessage::Feed(_) => self.saw("counts are fed"),
            _ => {}
        }
    }

    fn tick(&mut self, node: usize, number: ProcessNumber) -> Result<(), String> {
        if self.nodes[node].process.as_ref().is_none_or(|process| process.number != number) {
            return Ok(());
        }
        let notices = self.bug != Some(Bug::StallUnnoticed);
        if let Some(until_ms) = self.waits(node).filter(|_| notices) {
            self.at(until_ms, Event::Tick { node, process: number });
            return Ok(());
        }
        let late_ms = self.rng.below(8);
        self.at(self.now_ms + TICK_MS + late_ms, Event::Tick { node, process: number });
        let now_ms = self.now_ms;
        let ticked_ms = self.nodes[node].process.as_mut().map_or(0, |process| std::mem::replace(&mut process.ticked_ms, now_ms));
        self.step(node, |presence, table, now| presence.handle_tick(table, now));
        self.at(now_ms, Event::GoOn { node, process: number });
        let now = self.now(node);
        if self.nodes[node].process.as_ref().is_some_and(|process| process.leaving && process.presence.has_left(now)) {
            self.kill(node);
        }
        // Before anything that has waited meanwhile is taken in.
        if now_ms > ticked_ms + 4 * TICK_MS { self.check_bounds() } else { Ok(()) }
    }

    /// What is left of leases that have ended is taken off step by step, and whatever comes meanwhile comes in between.
    fn go_on(&mut self, node: usize, number: ProcessNumber) {
        let Some(process) = self.nodes[node].process.as_ref().filter(|process| process.number == number) else { return };
        if !process.presence.is_ending() || self.bug == Some(Bug::EndsForgotten) {
            return;
        }
        if let Some(until_ms) = self.waits(node) {
            return self.at(until_ms, Event::GoOn { node, process: number });
        }
        self.saw("a lease ends in parts");
        self.step(node, |presence, table, now| presence.go_on(table, now));
        self.at(self.now_ms + self.now_ms % 4, Event::GoOn { node, process: number });
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        self.processes += 1;
        let number = self.processes;
        let start = if self.bug == Some(Bug::ReusedStart) { 7 } else { self.rng.draw() };
        let viewers = Arc::new(Viewers::new(number));
        let config = PresenceConfig {
            lease_ms: LEASE_MS,
            message_bytes_max: self.plan.message_bytes_max,
            absent_max: self.plan.absent_max,
            ended_max: self.plan.ended_max,
            ..PresenceConfig::default()
        };
        let presence = Presence::new(self.nodes[node].name.clone(), start, config, viewers.clone());
        let monotonic_ahead_ms = self.rng.below(1_000_000);
        self.nodes[node].process = Some(Process {
            number,
            presence,
            viewers,
            fed: BTreeMap::new(),
            watched: BTreeSet::new(),
            monotonic_ahead_ms,
            ticked_ms: self.now_ms,
            leaving: false,
        });
        self.note(|| format!("node {node} starts as process {number}"));
        self.truth.began(number, self.now_ms);
        if let Some(until_ms) = self.waits(node) {
            // The machine stands still, and so does whatever starts on it.
            self.truth.stalled(number, self.now_ms, until_ms - self.now_ms);
        }
        let layout = self.nodes[node].layout.clone();
        self.adopt(node, &layout);
        self.at(self.now_ms + 20, Event::Tick { node, process: number });
        let newest = self.operator.layout.clone();
        let after_ms = self.rng.below(300);
        self.at(self.now_ms + after_ms, Event::Layout { node, layout: newest });
    }

    fn kill(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process.take() {
            self.note(|| format!("process {} of node {node} ends", process.number));
            self.truth.died(process.number, self.now_ms);
            self.nodes[node].stalled_until_ms = self.now_ms;
        }
    }

    fn adopt(&mut self, node: usize, layout: &Layout) {
        let mut told = layout.clone();
        if self.bug == Some(Bug::MoveNotDoubled) {
            told.moves.clear();
        }
        self.step(node, |presence, table, now| presence.adopt_layout(table, now, &told));
    }

    fn layout_comes(&mut self, node: usize, layout: Arc<Layout>) {
        if let Some(until_ms) = self.waits(node) {
            return self.at(until_ms, Event::Layout { node, layout });
        }
        if self.nodes[node].process.is_none() || layout.version <= self.nodes[node].layout.version {
            return;
        }
        self.note(|| format!("node {node} adopts layout {} with {:?}", layout.version, layout.moves));
        self.nodes[node].layout = layout.clone();
        self.adopt(node, &layout);
    }

    fn operate(&mut self) {
        if self.healed {
            return;
        }
        self.at(self.now_ms + 200, Event::Operate);
        let version = |node: &Node| node.process.as_ref().map(|_| node.layout.version);
        let adopted: Vec<_> = self.nodes.iter().map(|node| (node.name.clone(), version(node))).collect();
        let Some(what) = self.operator.operate(&mut self.rng, self.now_ms, &adopted) else { return };
        self.saw(what);
        self.publish(self.plan.layout_ms_max);
    }

    fn publish(&mut self, within_ms: u64) {
        for node in 0..self.nodes.len() {
            let after_ms = self.rng.below(within_ms);
            let layout = self.operator.layout.clone();
            self.at(self.now_ms + after_ms, Event::Layout { node, layout });
        }
    }

    fn client(&mut self) {
        if self.healed {
            return;
        }
        let after_ms = self.rng.range(1, 60);
        self.at(self.now_ms + after_ms, Event::Client);
        let (node, page) = (self.rng.index(self.nodes.len()), self.rng.index(PAGES));
        // The first pages are busy, the others change seldom.
        if page < 3 || self.rng.per_mille(250) {
            self.act(node, page);
        }
    }

    /// Somebody comes, leaves, watches or counts.
    pub(crate) fn act(&mut self, node: usize, page: usize) {
        if self.waits(node).is_some() {
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.leaving {
            return;
        }
        let (number, key) = (process.number, self.keys[page].clone());
        match self.rng.below(10) {
            0..7 => {
                let sessions = u32::try_from(self.rng.below(4)).unwrap();
                self.note(|| format!("{sessions} sessions on page {page} at node {node}"));
                self.truth.set(number, page, sessions, self.now_ms);
                self.step(node, |presence, table, now| {
                    presence.set_sessions(&key, sessions, now);
                    presence.flush(table, now)
                });
            }
            7..9 => {
                let watched = process.watched.insert(page) || !process.watched.remove(&page);
                self.step(node, |presence, table, now| {
                    presence.set_watched(&key, watched);
                    presence.flush(table, now)
                });
            }
            _ => self.count_up(page),
        }
    }

    fn count_up(&mut self, page: usize) {
        self.tallies[page] += 1;
        let key = self.keys[page].clone();
        self.table.apply(&key, Update::Increment(1), None, Hlc::from_wall_ms(EPOCH_MS + self.now_ms)).unwrap();
        for node in 0..self.nodes.len() {
            let stands = self.waits(node).is_some();
            self.step(node, |presence, table, now| {
                presence.changed([&key]);
                if stands { Vec::new() } else { presence.flush(table, now) }
            });
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.note(|| format!("{fault:?}"));
        match fault {
            Fault::Crash { node, down_ms } => {
                self.saw("a crash");
                self.kill(node);
                self.at(self.now_ms + down_ms, Event::Start { node });
            }
            Fault::Stop { node, down_ms } => {
                self.at(self.now_ms + LEASE_MS + down_ms, Event::Start { node });
                self.farewell(node);
            }
            Fault::Stall { node, .. } if self.waits(node).is_some() => {}
            Fault::Stall { node, ms } => {
                self.saw("a stall");
                self.nodes[node].stalled_until_ms = self.now_ms + ms;
                if let Some(process) = &self.nodes[node].process {
                    self.truth.stalled(process.number, self.now_ms, ms);
                }
            }
            Fault::Cut { from, to, ms } => self.cut_for(from, to, ms),
            Fault::CutBoth { one, other, ms } => {
                self.cut_for(one, other, ms);
                self.cut_for(other, one, ms);
            }
            Fault::Clock { node, ahead_ms } => {
                self.saw("a clock jumps");
                self.nodes[node].wall_ahead_ms = ahead_ms;
            }
        }
    }

    fn cut_for(&mut self, from: usize, to: usize, ms: u64) {
        self.saw("a cut");
        *self.cut.entry((from, to)).or_default() += 1;
        self.at(self.now_ms + ms, Event::Mend { from, to });
    }

    /// A planned stop: the sessions are gone, or elsewhere.
    pub(crate) fn farewell(&mut self, node: usize) {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.nodes[node].process else { return };
        process.leaving = true;
        (0..PAGES).for_each(|page| self.truth.set(process.number, page, 0, now_ms));
        self.step(node, |presence, table, now| presence.farewell(table, now));
    }

    /// From now on nothing goes wrong, and everyone has started, and has the newest layout.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
        (self.plan.loss, self.plan.repeat, self.plan.slow) = (0, 0, 0);
        let waiting = std::mem::take(&mut self.events);
        for Reverse(At(at_ms, _, event)) in waiting.into_sorted_vec().into_iter().rev() {
            match event {
                Event::Deliver { .. } | Event::Tick { .. } | Event::GoOn { .. } => self.at(at_ms.min(self.now_ms + 5), event),
                Event::Fault(_) | Event::Mend { .. } | Event::Start { .. } | Event::Layout { .. } => {}
                Event::Client | Event::Operate | Event::Check => self.at(at_ms, event),
            }
        }
        for node in 0..self.nodes.len() {
            self.nodes[node].stalled_until_ms = self.now_ms;
            if self.nodes[node].process.as_ref().is_some_and(|process| process.leaving) {
                self.kill(node);
            }
            self.start(node);
        }
        self.publish(20);
    }
}
