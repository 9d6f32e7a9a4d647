//! The world: time, the network, the nodes, and what happens to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use counter_core::counter::{Key, Update};
use counter_core::forward::{Attempt, NotApplied, Outcome};
use counter_core::id::{ActorId, NodeName, ShardId};
use counter_core::layout::{Layout, MovePhase, Spread};
use counter_core::message::{Envelope, Header, Message};
use counter_core::replica::ReplicaConfig;
use counter_core::token::Token;
use counter_core::unread::REGISTER;
use counter_core::vector::{Refusal, SlotDelta};

use crate::bugs::Bug;
use crate::captures::Captures;
use crate::disk::{AppliedUpdate, Disk};
use crate::events::{Event, Events};
use crate::faults::{Fault, Fsync, Plan, SUB_KEYS};
use crate::ledger::{Ledger, Told};
use crate::operator::{Operator, SPREAD_PAGE, Said};
use crate::process::{EPOCH_MS, Node, Process, Start, TOKEN_SLACK_MS, TOKEN_WINDOW_MS};
use crate::tasks::Tasks;
use crate::unread::Users;
use counter_seeds::Rng;

/// Shards and replicas that there can be.
const SHARDS_MAX: u16 = 4;
const REPLICAS_MAX: u16 = 3;
const TICK_MS: u64 = 50;
const OPERATE_MS: u64 = 300;
const SYNC_MS: u64 = 1_000;
const TRACE_LINES: usize = 120;
/// Tickets from here on are reads.
pub(crate) const FIRST_READ: u64 = 1 << 40;
/// Tickets from here on are of copies of requests.
const FIRST_COPY: u64 = 1 << 39;
/// The last of the keys are those that are reset.
const PAGES: usize = 12;

/// A world of one seed.
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) events: Events,
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: BTreeMap<NodeName, usize>,
    pub(crate) network: Network,
    pub(crate) operator: Operator,
    pub(crate) ledger: Ledger,
    pub(crate) users: Users,
    pub(crate) tasks: Tasks,
    pub(crate) captures: Captures,
    /// What reads of the last phase were answered.
    pub(crate) reads: BTreeMap<u64, Outcome>,
    /// A violation found on the way.
    pub(crate) violation: Option<String>,
    pub(crate) healed: bool,
    /// How often what has happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    processes: u64,
    actors: BTreeSet<ActorId>,
    trace: Option<VecDeque<String>>,
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Per mille.
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) delay_ms_max: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, plan: impl FnOnce(&mut Rng) -> Plan, traced: Traced) -> Self {
        let mut rng = Rng::new(seed);
        let plan = plan(&mut rng);
        let places =
            (0..SHARDS_MAX).flat_map(|shard| (0..REPLICAS_MAX).map(move |replica| NodeName::of("c", ShardId(shard), replica)));
        let nodes: Vec<Node> = places.map(|name| Node::new(name, rng.draw())).collect();
        let names = nodes.iter().enumerate().map(|(index, node)| (node.name.clone(), index)).collect();
        let mut keys: Vec<Key> = (0..PAGES).map(|number| Key::new(format!("page-{number}").as_bytes()).unwrap()).collect();
        // The first page's virtual shards stand right behind it.
        let page = keys[0].clone();
        keys.splice(1..1, (0..SUB_KEYS).map(|index| page.virtual_shard(index)));
        let users = Users::new(&mut keys);
        let mut world = Self {
            now_ms: 0,
            operator: Operator::new(plan.shards, plan.replicas, bug),
            rng,
            bug,
            events: Events::default(),
            nodes,
            names,
            network: Network { delay_ms_max: 5, ..Network::default() },
            ledger: Ledger::new(keys),
            users,
            tasks: Tasks::default(),
            captures: Captures::default(),
            reads: BTreeMap::new(),
            violation: None,
            healed: false,
            seen: BTreeMap::new(),
            processes: 0,
            actors: BTreeSet::new(),
            trace: (traced == Traced::Yes).then(VecDeque::new),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for (at_ms, fault) in std::mem::take(&mut self.plan.faults) {
            self.events.at(at_ms, Event::Fault(fault));
        }
        self.events.at(0, Event::Operate);
        self.events.at(0, Event::Client);
        self.events.at(0, Event::User);
        self.events.at(1_000, Event::Follow);
        self.events.at(SYNC_MS, Event::Sync);
    }

    /// Lets time pass until then.
    pub(crate) fn run_until(&mut self, end_ms: u64) -> Result<(), String> {
        while self.now_ms < end_ms {
            let Some((time_ms, event)) = self.events.next() else { return Err("nothing happens any more".to_owned()) };
            self.now_ms = time_ms;
            self.handle(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { node, process } => self.tick(node, process),
            Event::Deliver { to, envelope } => self.deliver(to, envelope),
            Event::ForwardArrives { to, process, from, from_process, request } => {
                self.forward_arrives(to, process, (from, from_process), request);
            }
            Event::ForwardReplies { to, process, reply } => self.forward_replies(to, process, reply),
            Event::ForwardFails { to, process, message, failure } => self.forward_fails(to, process, message, failure),
            Event::Committed { node, process, work, writes } => self.committed(node, process, work, writes),
            Event::LayoutSaved { node, process, layout } => self.layout_saved(node, process, *layout),
            Event::ActorSaved { node, process, actor, reopened } => self.actor_saved(node, process, actor, reopened),
            Event::Reopen { node, process } => self.reopen(node, process),
            Event::Start { node } => self.start(node),
            Event::Sync => self.sync(),
            Event::Client => self.client(),
            Event::User => self.user_acts(),
            Event::WishAgain { wish } => self.wish_again(wish),
            Event::Asked { from, to, question, ask } => self.asked((from, to), question, &ask),
            Event::Answered { question, answer } => self.question_answered(question, answer),
            Event::GoOn { task } => self.go_on(task),
            Event::Follow => self.follower_acts(),
            Event::Unfollow { node, process, user } => self.unfollow(node, process, user),
            Event::FetchFailed { node, process, user } => self.fetch_ended(node, process, user, true),
            Event::PresenceTick { node, process } => self.presence_tick(node, process),
            Event::PresenceArrives { from, to, messages } => self.presence_arrives(&from, to, messages),
            Event::Again { request } => self.again(request),
            Event::Operate => self.operate(),
            Event::LayoutArrives { to, layout } => self.layout_arrives(to, *layout),
            Event::SaidArrives { node, said } => drop(self.operator.said.insert(node, said)),
            Event::Fault(fault) => self.fault(fault),
            Event::Ghost { node, actor, until_ms } => self.ghost(node, actor, until_ms),
        }
    }

    /// The process of that number, if it still runs.
    pub(crate) fn process(&mut self, node: usize, number: u64) -> Option<&mut Process> {
        self.nodes[node].process.as_mut().filter(|process| process.number == number)
    }

    fn tick(&mut self, node: usize, number: u64) {
        if self.process(node, number).is_none() {
            return;
        }
        let late_ms = if self.rng.per_mille(5) { self.rng.below(400) } else { self.rng.below(10) };
        self.events.at(self.now_ms + TICK_MS + late_ms, Event::Tick { node, process: number });
        self.step(node, |process, now| process.replica.handle_tick(&process.table, now));
        self.advance_stop(node);
    }

    fn deliver(&mut self, to: usize, envelope: Envelope) {
        // Encoding is the wire's; some of it is proved here, all of it would take most of the time.
        let envelope =
            if self.rng.per_mille(20) { Envelope::decode(&envelope.encode()).expect("an envelope reads back") } else { envelope };
        let mut envelope = envelope;
        match self.bug {
            Some(Bug::NoRefund) => self.leave_out_contested(to, &mut envelope),
            Some(Bug::RegisterNotSent) => leave_out_register(&mut envelope),
            Some(Bug::RecordsCutOff) if self.rng.per_mille(500) => {
                envelope.body.iter_mut().flat_map(slot_deltas_of).for_each(|delta| delta.tokens.truncate(1));
            }
            _ => {}
        }
        self.step(to, |process, now| process.replica.handle_envelope(&process.table, now, envelope));
    }

    /// The planted bug of a replica that takes no other's record of a token that it has counted itself.
    fn leave_out_contested(&self, to: usize, envelope: &mut Envelope) {
        let Some(process) = &self.nodes[to].process else { return };
        for delta in envelope.body.iter_mut().flat_map(slot_deltas_of) {
            let vector = process.table.slot(delta.slot);
            delta.tokens.retain(|record| {
                let held = vector.delta(record.key.slot(), [record.key.clone()].iter()).tokens;
                !held.iter().any(|held| held.id == record.id && held.actor != record.actor)
            });
        }
    }

    fn sync(&mut self) {
        let period_ms = match self.plan.fsync {
            Fsync::Always => return,
            Fsync::EverySecond => SYNC_MS,
            Fsync::Never => 6 * SYNC_MS,
        };
        for node in &mut self.nodes {
            node.disk.sync();
        }
        self.events.at(self.now_ms + period_ms, Event::Sync);
    }

    fn client(&mut self) {
        if self.healed {
            return;
        }
        self.events.at(self.now_ms + self.rng.range(1, 2 * self.plan.client_ms), Event::Client);
        let Some(node) = self.any_running().filter(|_| self.now_ms >= 800) else { return };
        let key = self.pick_key(node);
        let by = self.rng.range(1, 1_000_000);
        let update = match (key + self.plan.keys_reset >= self.ledger.counted(), self.rng.below(10)) {
            (true, 0) => Update::Reset,
            (false, 0..3) => Update::Decrement(by),
            _ => Update::Increment(by),
        };
        self.send_update(node, key, update);
    }

    pub(crate) fn any_running(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some()).collect();
        (!running.is_empty()).then(|| *self.rng.pick(&running))
    }

    /// Sends an update, under a token or not.
    pub(crate) fn send_update(&mut self, node: usize, key: usize, update: Update) {
        let made_ms = EPOCH_MS + self.now_ms;
        let tokened = self.plan.tokens && self.rng.per_mille(700);
        // As the node does: a retry must find the first try's record, whatever the number of virtual shards is by then.
        let key = if tokened && (1..=usize::from(SUB_KEYS)).contains(&key) { 0 } else { key };
        let token = tokened.then(|| Token { id: u128::from(self.rng.draw()), made_ms: Some(made_ms) });
        if self.ledger.keys[key].is_virtual_shard() {
            self.note("update of a virtual shard");
        }
        let request = self.ledger.ask(self.now_ms, key, update, token);
        self.trace(|| format!("client asks {update:?} of page-{key} at node {node}: request {request}"));
        self.ask(node, request, key, Attempt::new(update, token));
        if token.is_some() && self.rng.per_mille(300) {
            // A copy of the request that comes by another way, and whose answer nobody hears.
            let at_ms = self.now_ms + self.rng.below(self.plan.copy_ms_max);
            self.events.at(at_ms, Event::Again { request: FIRST_COPY + request });
        }
    }

    /// The first page's updates go to one of its virtual shards, as many as the node knows.
    fn pick_key(&mut self, node: usize) -> usize {
        let others = self.ledger.counted() - 1 - usize::from(SUB_KEYS);
        let page = self.rng.index(others + 2);
        if page >= 2 {
            return page - 1 + usize::from(SUB_KEYS);
        }
        let count = self.spread_at(node).count;
        if count == 0 {
            return 0;
        }
        1 + self.rng.index(usize::from(count))
    }

    /// Over how many virtual shards the first page is spread, by the layout of a node.
    pub(crate) fn spread_at(&self, node: usize) -> Spread {
        let layout = self.nodes[node].process.as_ref().and_then(|process| process.replica.layout());
        layout.map(|layout| Spread::of(&layout.virtual_shards, SPREAD_PAGE.as_bytes())).unwrap_or_default()
    }

    /// A client sends an update under a token again, or a copy of it comes.
    fn again(&mut self, request: u64) {
        let of = if request >= FIRST_COPY { request - FIRST_COPY } else { request };
        let asked = self.ledger.request(of);
        let running: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].process.is_some()).collect();
        if request >= FIRST_COPY {
            if running.is_empty() || self.healed {
                return;
            }
            self.ledger.may_have_come(of);
        } else if running.is_empty() {
            return self.answered(of, Told::NotApplied);
        }
        let node = *self.rng.pick(&running);
        self.trace(|| format!("request {request} is sent to node {node}"));
        self.note(if request >= FIRST_COPY { "copy of a request" } else { "update sent again" });
        self.ask(node, request, asked.0, Attempt::new(asked.1, asked.2));
    }

    /// What a client hears; under a token it asks again, a few times, unless that ends it.
    fn answered(&mut self, request: u64, told: Told) {
        if self.ledger.asks_again(request, told) {
            let at_ms = self.now_ms + self.rng.range(10, 1_500);
            return self.events.at(at_ms, Event::Again { request });
        }
        self.ledger.tell(self.now_ms, request, told);
        self.update_told(request, told);
    }

    fn operate(&mut self) {
        self.events.at(self.now_ms + OPERATE_MS, Event::Operate);
        for name in self.operator.wanted_nodes() {
            let node = self.names[&name];
            if self.nodes[node].process.is_none() && self.nodes[node].disk.last_actor.is_none() {
                self.start(node);
            }
        }
        let before = self.operator.layout.clone();
        if self.operator.step() {
            let layout = self.operator.layout.clone();
            self.trace(|| format!("the operator makes layout {}: {:?}", layout.version, layout.moves));
            self.note(step_of(&before, &layout));
            let captured = self.captures.check_step(&self.nodes, &self.names, (&before, &layout), &self.ledger.keys);
            self.violation = self.violation.take().or(captured.err());
        }
        for node in 0..self.nodes.len() {
            self.talk_to_operator(node);
        }
    }

    fn talk_to_operator(&mut self, node: usize) {
        let delay_ms = self.rng.range(1, self.network.delay_ms_max.max(1));
        let lost = self.rng.per_mille(self.network.loss);
        let Node { name, disk, process: Some(process), .. } = &mut self.nodes[node] else { return };
        if lost {
            return;
        }
        let version = process.replica.layout().map(|layout| layout.version);
        let now = process.now(self.now_ms, 0);
        let said = Said { version, readiness: process.replica.readiness(), moves: process.replica.status(now).moves };
        // What is said to be held must not go with a lost tail: the old shard forgets it on the strength of this.
        if said.moves.iter().any(|status| status.slots_left == 0) && self.bug != Some(Bug::StatusBeforeSync) {
            disk.sync();
        }
        if version < Some(self.operator.layout.version) && self.operator.layout.node(name).is_some() {
            let layout = Box::new(self.operator.layout.clone());
            self.events.at(self.now_ms + delay_ms, Event::LayoutArrives { to: node, layout });
        }
        let name = name.clone();
        self.events.at(self.now_ms + delay_ms, Event::SaidArrives { node: name, said });
    }

    /// Starts a node's process, under a new actor.
    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        self.processes += 1;
        let actor = self.next_actor(node);
        // Shortened, so that a short run sees many of them.
        let config = ReplicaConfig {
            retire_ms: 1_000,
            token_window_ms: TOKEN_WINDOW_MS,
            token_slack_ms: TOKEN_SLACK_MS,
            token_floor_grain_ms: 1_000,
            // Slots are pulled in parts, too, and counters without all of their records.
            summary_counters_max: [3, 30, 4_096][self.rng.index(3)],
            message_bytes_max: [1_000, 256 << 10][self.rng.index(2)],
            delta_keys: [1, 3, 256][self.rng.index(3)],
            ..ReplicaConfig::default()
        };
        let followers = self.plan.followers;
        let start = Start { number: self.processes, now_ms: self.now_ms, seed: self.rng.draw(), config, followers };
        let number = start.number;
        let held = &mut self.nodes[node];
        held.dying = None;
        let (process, effects) = Process::start(&held.name, &held.disk, actor, start);
        held.process = Some(process);
        self.trace(|| format!("node {node} starts as {actor}"));
        self.captures.take(node, &self.nodes[node], &self.ledger.keys);
        self.events.at(self.now_ms + self.rng.below(TICK_MS), Event::Tick { node, process: number });
        if followers {
            self.events.at(self.now_ms + self.rng.below(TICK_MS), Event::PresenceTick { node, process: number });
        }
        self.step(node, |_, _| effects);
    }

    /// A new actor, durable before it is used.
    pub(crate) fn next_actor(&mut self, node: usize) -> ActorId {
        let nonce = u32::try_from(self.rng.below(1 << 32)).unwrap();
        let disk = &mut self.nodes[node].disk;
        if let (Some(Bug::ReusedIncarnation), Some(last)) = (self.bug, disk.last_actor) {
            return last;
        }
        disk.starts += 1;
        let actor = ActorId::new(disk.origin, disk.starts, nonce);
        disk.last_actor = Some(actor);
        if !self.actors.insert(actor) {
            self.violation = Some(format!("{actor} has been used before"));
        }
        actor
    }

    /// Ends a process at once. What is being written may or may not have reached the kernel.
    pub(crate) fn kill(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].process.take() else { return };
        self.nodes[node].dying = Some(process.number);
        self.trace(|| format!("node {node} dies"));
        for request in std::mem::take(&mut process.pending).into_iter().filter(|request| *request < FIRST_COPY) {
            self.answered(request, Told::Unknown);
        }
        self.drop_tasks(process.number);
    }

    fn fault(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        self.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::Kill { node, down_ms } => self.crash(node, down_ms, |_, _| None),
            Fault::PowerLoss { node, down_ms } => self.crash(node, down_ms, |disk, rng| Some(disk.lose_tail(rng))),
            Fault::PowerLossEverywhere => {
                (0..self.nodes.len()).for_each(|node| self.crash(node, 500, |disk, rng| Some(disk.lose_tail(rng))))
            }
            Fault::Stop { node, down_ms } => self.stop(node, down_ms),
            Fault::Cut { from, to } => drop(self.network.cut.insert((from, to))),
            Fault::CutBothWays { one, other } => self.network.cut.extend([(one, other), (other, one)]),
            Fault::Join => self.network.cut.clear(),
            Fault::Network { loss, repeat, delay_ms_max } => {
                (self.network.loss, self.network.repeat, self.network.delay_ms_max) = (loss, repeat, delay_ms_max);
            }
            Fault::Clock { node, offset_ms } => {
                self.ledger.resets_have_no_order();
                self.nodes[node].wall_offset_ms = offset_ms;
            }
            Fault::StorageFails { node, for_ms } => {
                self.nodes[node].storage_fails = true;
                self.events.at(self.now_ms + for_ms, Event::Fault(Fault::StorageWorks { node }));
            }
            Fault::StorageWorks { node } => self.nodes[node].storage_fails = false,
            Fault::Shards(shards) => {
                // Shrinking is not offered: only a growth that has flipped nothing can be taken back.
                let owning = self.operator.layout.shards.iter().filter(|shard| !shard.slots.is_empty()).count();
                self.operator.shards = shards.max(u16::try_from(owning).unwrap());
            }
            Fault::Replicas(replicas) => self.operator.replicas = self.operator.replicas.max(replicas),
            Fault::Transfer(transfer) if transfer.from != transfer.to => self.operator.transfer = Some(transfer),
            Fault::Transfer(_) => {}
            Fault::Spread(count) => self.operator.spread = Some(count),
            Fault::TakeSnapshot { node } => {
                let held = &mut self.nodes[node];
                held.snapshot = held.disk.last_actor.is_some().then(|| held.disk.snapshot());
            }
            Fault::RestoreSnapshot { node } => self.restore(node),
            Fault::Clone { node } => self.clone_volume(node),
            Fault::Ghost { node, for_ms } => {
                if let Some(process) = &self.nodes[node].process {
                    let (actor, until_ms) = (process.replica.actor(), self.now_ms + for_ms);
                    self.events.at(self.now_ms, Event::Ghost { node, actor, until_ms });
                }
            }
        }
    }

    fn crash(&mut self, node: usize, down_ms: u64, loss: impl FnOnce(&mut Disk, &mut Rng) -> Option<Vec<AppliedUpdate>>) {
        if self.nodes[node].process.is_none() {
            return;
        }
        self.kill(node);
        let lost = loss(&mut self.nodes[node].disk, &mut self.rng);
        // Without its volume, or without power, it writes nothing more.
        self.nodes[node].dying = self.nodes[node].dying.filter(|_| lost.is_none());
        let lost = lost.unwrap_or_default();
        self.trace(|| format!("node {node} may have lost {lost:?}"));
        if !lost.is_empty() {
            self.note("acknowledged updates lost with a tail or a volume");
        }
        self.ledger.may_be_lost(lost);
        self.events.at(self.now_ms + down_ms, Event::Start { node });
    }

    fn stop(&mut self, node: usize, down_ms: u64) {
        let now_ms = self.now_ms;
        if let Some(process) = &mut self.nodes[node].process {
            process.replica.drain();
            process.stopping_ms = Some(now_ms + down_ms.max(500));
        }
    }

    /// A process that stops goes when everything is written and handed over, or its time is over.
    fn advance_stop(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(stopping_ms) = process.stopping_ms else { return };
        let idle = !process.committing && process.queued.is_empty() && process.pending.is_empty();
        if (idle && process.replica.drained()) || self.now_ms >= stopping_ms {
            self.note("clean stop");
            self.kill(node);
            self.nodes[node].dying = None;
            self.nodes[node].disk.sync();
            self.events.at(self.now_ms + 200, Event::Start { node });
        }
    }

    /// Nobody may write under the actor of an old process any more: all it does is to greet.
    fn ghost(&mut self, node: usize, actor: ActorId, until_ms: u64) {
        if self.now_ms >= until_ms || self.healed {
            return;
        }
        self.events.at(self.now_ms + 500, Event::Ghost { node, actor, until_ms });
        let Some(process) = &self.nodes[node].process else { return };
        if process.replica.actor() == actor {
            return;
        }
        for (name, to) in self.names.iter().filter(|(_, to)| **to != node) {
            let header = Header { actor, ..process.replica.header(Some(name.clone()), process.clock) };
            self.events
                .at(self.now_ms + 1, Event::Deliver { to: *to, envelope: Envelope { header, body: vec![Message::Hello] } });
        }
    }

    /// Only where a sibling holds the rest, and nothing is on the move: a lone volume's loss is a loss.
    fn restore(&mut self, node: usize) {
        let layout = &self.operator.layout;
        let siblings = layout.shard_of(&self.nodes[node].name).map_or(0, |shard| shard.nodes.len());
        let Some(snapshot) = self.nodes[node].snapshot.take() else { return };
        if siblings < 2 || !layout.moves.is_empty() || self.nodes[node].process.is_none() {
            return;
        }
        self.note("volume restored");
        self.crash(node, 100, |disk, _| Some(disk.restore(snapshot)));
    }

    fn clone_volume(&mut self, node: usize) {
        let fresh = (0..self.nodes.len()).find(|other| self.nodes[*other].disk.last_actor.is_none());
        if let Some(fresh) = fresh.filter(|_| self.nodes[node].disk.last_actor.is_some()) {
            self.note("volume cloned");
            let copy = self.nodes[node].disk.snapshot();
            self.nodes[fresh].disk = Disk::copy_of(copy);
        }
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self) {
        self.healed = true;
        self.operator.transfer = None;
        self.network = Network { delay_ms_max: 5, ..Network::default() };
        for node in 0..self.nodes.len() {
            let held = &mut self.nodes[node];
            (held.wall_offset_ms, held.storage_fails) = (0, false);
            if held.process.is_none() && held.disk.last_actor.is_some() {
                self.events.at(self.now_ms, Event::Start { node });
            }
        }
        self.trace(|| "all faults end".to_owned());
    }

    pub(crate) fn complete(&mut self, node: usize, ticket: u64, outcome: Outcome) {
        if ticket >= FIRST_READ {
            self.reads.insert(ticket, outcome);
            return;
        }
        if matches!(outcome, Outcome::Refused(Refusal::TokenExpired { .. })) {
            self.note("expired token refused");
        }
        let told = match outcome {
            Outcome::Done(_) | Outcome::Replayed(_) | Outcome::Marked { .. } => Told::Acknowledged,
            Outcome::Refused(_) | Outcome::NotApplied(_) => Told::NotApplied,
            Outcome::Unknown => Told::Unknown,
        };
        // One that died has been given up already.
        if self.nodes[node].process.as_mut().is_some_and(|process| process.pending.remove(&ticket)) {
            self.trace(|| format!("request {ticket} at node {node}: {outcome:?}"));
            if ticket < FIRST_COPY {
                self.answered(ticket, told);
            }
        }
    }

    pub(crate) fn not_ready(&mut self, node: usize, request: u64) {
        self.complete(node, request, Outcome::NotApplied(NotApplied::NotReady));
    }

    pub(crate) fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub(crate) fn trace(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{:>6} {}", self.now_ms, line()));
            if trace.len() > TRACE_LINES * 50 {
                trace.pop_front();
            }
        }
    }

    /// The last lines of what happened.
    pub(crate) fn trace_tail(&self) -> String {
        let lines = std::env::var("SIM_TRACE").ok().and_then(|lines| lines.parse().ok()).unwrap_or(TRACE_LINES);
        let trace = self.trace.iter().flatten();
        let skipped = trace.clone().count().saturating_sub(lines);
        trace.skip(skipped).cloned().collect::<Vec<_>>().join("\n")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traced {
    No,
    Yes,
}

impl Node {
    fn new(name: NodeName, origin: u64) -> Self {
        Self {
            name,
            disk: Disk::new(origin),
            process: None,
            dying: None,
            wall_offset_ms: 0,
            storage_fails: false,
            snapshot: None,
        }
    }
}

/// The planted bug of deltas without what is of no actor.
fn leave_out_register(envelope: &mut Envelope) {
    for (_, counter) in envelope.body.iter_mut().flat_map(slot_deltas_of).flat_map(|delta| &mut delta.counters) {
        let actors: Vec<ActorId> = counter.actors().filter(|actor| *actor != REGISTER).collect();
        if actors.len() < counter.actors().count() {
            *counter = counter.part_of(&actors);
        }
    }
}

fn slot_deltas_of(message: &mut Message) -> &mut [SlotDelta] {
    match message {
        Message::Delta { slots, .. } => slots,
        Message::DetailReply(reply) => reply.delta.as_mut_slice(),
        _ => &mut [],
    }
}

fn step_of(before: &Layout, after: &Layout) -> &'static str {
    if before.virtual_shards != after.virtual_shards {
        return "virtual shards changed";
    }
    match (before.moves.first().map(|held| held.phase), after.moves.first().map(|made| made.phase)) {
        (None, Some(_)) => "move begun",
        (Some(MovePhase::Copying), None) => "move cancelled",
        (Some(MovePhase::Copying), Some(_)) => "move flipped",
        (Some(MovePhase::Flipped), _) => "move ended",
        (None, None) => "members changed",
    }
}
