//! A few replicas, their storage, and the wire between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::counter::{Counter, Key, Update};
use crate::hlc::Hlc;
use crate::id::{ActorId, ClusterId, NodeName, ShardId};
use crate::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Move, MovePhase, Node, Shard};
use crate::message::{Envelope, Header, Message};
use crate::replica::random::Random;
use crate::replica::{CommitMark, Effect, Now, PersistId, Replica, ReplicaConfig, Report};
use crate::slot::{Slot, SlotRange};
use crate::status::Readiness;
use crate::table::{Table, TableLimits};
use crate::token::{Token, TokenName, TokenRecord};
use crate::vector::{Applied, CounterView, Refusal, SlotRecord};

pub(super) fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

/// A layout of shards given as (slots, number of replicas), with one move at most.
pub(super) fn layout(version: u64, shards: &[(&str, u16)], moving: Option<(u16, u16, &str, MovePhase)>) -> Layout {
    let shard = |(number, (slots, replicas)): (u16, &(&str, u16))| Shard {
        shard: ShardId(number),
        slots: slots.split_terminator(',').map(|range| range.parse().unwrap()).collect(),
        nodes: (0..*replicas).map(|replica| node(NodeName::of("c", ShardId(number), replica))).collect(),
    };
    let to_move = |(from, to, slots, phase): (u16, u16, &str, _)| Move {
        from: ShardId(from),
        to: ShardId(to),
        slots: vec![range(slots)],
        phase,
    };
    let layout = Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(7),
        version: LayoutVersion(version),
        shards: (0..).zip(shards).map(shard).collect(),
        moves: moving.map(to_move).into_iter().collect(),
        virtual_shards: Vec::new(),
    };
    layout.validate().unwrap();
    layout
}

fn node(name: NodeName) -> Node {
    Node { http: format!("{name}:8080"), admin: format!("{name}:8081"), peer: format!("{name}:8082"), resp: None, name }
}

fn range(text: &str) -> SlotRange {
    text.parse().unwrap()
}

#[derive(Clone, Default)]
pub(super) struct Storage {
    pub(super) counters: BTreeMap<Key, Counter>,
    pub(super) slots: BTreeMap<Slot, SlotRecord>,
    pub(super) tokens: BTreeMap<TokenName, TokenRecord>,
    pub(super) floors: BTreeMap<Slot, u64>,
    layout: Option<Arc<Layout>>,
    starts: u32,
}

/// A write that waits: its id, its keys, the slots with a new generation, and those with a new floor.
pub(super) type Write = (PersistId, Vec<Key>, Vec<Slot>, Vec<Slot>);

pub(super) struct Member {
    pub(super) table: Table,
    pub(super) replica: Replica,
    pub(super) storage: Storage,
    pub(super) up: bool,
    /// While true, writes stay in `held`.
    pub(super) holds_writes: bool,
    pub(super) held: VecDeque<Write>,
    /// While true, a new actor is not given.
    pub(super) holds_actor: bool,
    pub(super) actor_wanted: bool,
    /// While true, layouts do not become durable; the newest of them stays in `held_layout`.
    pub(super) holds_layout: bool,
    held_layout: Option<Arc<Layout>>,
    pub(super) reports: Vec<Report>,
    pub(super) forgotten: usize,
    origin: u64,
}

impl Member {
    fn store_layout(&mut self, layout: Arc<Layout>) {
        let version = layout.version;
        self.storage.layout = Some(layout);
        self.replica.layout_persisted(&self.table, version);
    }

    /// Writes counters and, where a slot's generation has changed, all of the slot: as the contract with storage says.
    fn write(&mut self, keys: &[Key], slots: &[Slot], floors: &[Slot]) {
        let touched = keys.iter().map(Key::slot).chain(slots.iter().copied()).chain(floors.iter().copied());
        let touched: BTreeSet<Slot> = touched.collect();
        let mut all: BTreeSet<Key> = keys.iter().cloned().collect();
        for slot in touched {
            if let Some((record, keys)) = self.table.slot(slot).take_unsaved_generation() {
                self.storage.slots.insert(slot, record);
                all.extend(keys);
            }
            let floor = self.table.slot(slot).take_unsaved_floor();
            self.storage.floors.extend(floor.map(|floor_ms| (slot, floor_ms)));
            for (name, record) in self.table.slot(slot).take_unsaved_tokens() {
                all.extend(record.as_ref().map(|record| record.key.clone()));
                match record {
                    Some(record) => drop(self.storage.tokens.insert(name, record)),
                    None => drop(self.storage.tokens.remove(&name)),
                }
            }
        }
        for key in all {
            let current = self.table.slot(key.slot()).counter(&key).map(CounterView::to_counter);
            match current {
                Some(counter) => self.storage.counters.insert(key, counter),
                None => self.storage.counters.remove(&key),
            };
        }
    }
}

/// What a node's processes come and go upon.
pub(super) struct Volume {
    storage: Storage,
    origin: u64,
}

pub(super) struct Sent {
    pub(super) from: NodeName,
    pub(super) to: NodeName,
    pub(super) header: Header,
    pub(super) message: Message,
}

pub(super) struct Cluster {
    pub(super) members: BTreeMap<NodeName, Member>,
    pub(super) wire: VecDeque<Sent>,
    pub(super) now_ms: u64,
    cut: BTreeSet<NodeName>,
    config: ReplicaConfig,
    /// Of 100 messages, how many are lost, sent twice, or overtaken.
    pub(super) chaos: u64,
    random: Random,
    seed: u64,
}

const WALL_MS: u64 = 1_000_000_000;

impl Cluster {
    /// Nodes that have heard of no layout.
    pub(super) fn waiting(names: &[&str], config: ReplicaConfig) -> Self {
        let mut cluster = Self {
            members: BTreeMap::new(),
            wire: VecDeque::new(),
            now_ms: 5_000_000,
            cut: BTreeSet::new(),
            config,
            chaos: 0,
            random: Random::new(1),
            seed: 0,
        };
        for name in names {
            cluster.boot(&NodeName::from(*name), Storage::default(), cluster.members.len() as u64 + 1);
        }
        cluster
    }

    /// Nodes named by a layout, ready.
    pub(super) fn of(layout: &Layout) -> Self {
        Self::with(layout, ReplicaConfig::default())
    }

    pub(super) fn with(layout: &Layout, config: ReplicaConfig) -> Self {
        let names: Vec<String> = layout.nodes().map(|node| node.name.to_string()).collect();
        let mut cluster = Self::waiting(&names.iter().map(String::as_str).collect::<Vec<_>>(), config);
        cluster.offer_all(layout);
        cluster.until("all nodes are ready", |cluster| {
            cluster.members.values().all(|member| member.replica.readiness() == Readiness::Ready)
        });
        cluster
    }

    /// Starts one more node, without a layout.
    pub(super) fn join(&mut self, name: &str) {
        let origin = self.members.len() as u64 + 1;
        self.boot(&name.into(), Storage::default(), origin);
    }

    fn boot(&mut self, name: &NodeName, mut storage: Storage, origin: u64) {
        storage.starts += 1;
        self.seed += 1;
        let table =
            Table::new(1, TableLimits { counters: 1 << 20, memory_bytes: 1 << 30, tokens: 1 << 20, token_window_ms: 600_000 });
        for (slot, record) in &storage.slots {
            table.restore_slot(*slot, record.clone());
        }
        storage.floors.iter().for_each(|(slot, floor_ms)| table.restore_floor(*slot, *floor_ms));
        storage.tokens.values().for_each(|record| table.restore_token(record));
        for (key, counter) in &storage.counters {
            table.restore_counter(key.slot(), key.into(), counter);
        }
        let actor = ActorId::new(origin, storage.starts, 0);
        let (replica, effects) =
            Replica::new(name.clone(), actor, storage.layout.clone(), self.config.clone(), self.seed, &table);
        let member = Member {
            table,
            replica,
            storage,
            up: true,
            holds_writes: false,
            held: VecDeque::new(),
            holds_actor: false,
            actor_wanted: false,
            holds_layout: false,
            held_layout: None,
            reports: Vec::new(),
            forgotten: 0,
            origin,
        };
        self.members.insert(name.clone(), member);
        self.perform(name, effects);
    }

    pub(super) fn member(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(&NodeName::from(name)).unwrap()
    }

    /// The process is gone, with everything that storage does not have.
    pub(super) fn crash(&mut self, name: &str) {
        self.member(name).up = false;
    }

    /// A new process on the storage of one that has crashed.
    pub(super) fn start(&mut self, name: &str) {
        let name = NodeName::from(name);
        let member = self.members.remove(&name).unwrap();
        self.boot(&name, member.storage, member.origin);
    }

    /// A new process on another volume, an empty one where there was none yet. What it had is kept for a later exchange.
    pub(super) fn exchange_volume(&mut self, name: &str, other: Option<Volume>) -> Volume {
        let name = NodeName::from(name);
        let member = self.members.remove(&name).unwrap();
        let other = other.unwrap_or_else(|| Volume { storage: Storage::default(), origin: 1_000 });
        self.boot(&name, other.storage, other.origin);
        Volume { storage: member.storage, origin: member.origin }
    }

    /// No message comes to or from this node.
    pub(super) fn partition(&mut self, name: &str) {
        self.cut.insert(name.into());
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.chaos = 0;
    }

    pub(super) fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, wall_ms: WALL_MS + self.now_ms }
    }

    pub(super) fn offer(&mut self, name: &str, layout: &Layout) {
        let member = self.member(name);
        let (_, effects) = member.replica.offer_layout(&member.table, layout.clone()).unwrap();
        self.perform(&name.into(), effects);
    }

    pub(super) fn offer_all(&mut self, layout: &Layout) {
        for name in self.members.keys().cloned().collect::<Vec<_>>() {
            self.offer(&name.0, layout);
        }
    }

    /// A client's update at this node, made durable there. Returns its mark, or none when it is refused.
    pub(super) fn count(&mut self, name: &str, page: &str, by: u64) -> Option<CommitMark> {
        self.update(name, page, Update::Increment(by))
    }

    pub(super) fn update(&mut self, name: &str, page: &str, update: Update) -> Option<CommitMark> {
        self.update_once(name, page, update, None).ok().map(|(_, mark)| mark)
    }

    /// A client's update under a token, made durable at this node.
    pub(super) fn update_once(
        &mut self,
        name: &str,
        page: &str,
        update: Update,
        token: Option<Token>,
    ) -> Result<(Applied, CommitMark), Refusal> {
        let now = Hlc::from_wall_ms(self.now().wall_ms);
        let member = self.member(name);
        let applied = member.table.apply(&key(page), update, token.as_ref(), now)?;
        member.write(&[key(page)], &[], &[]);
        Ok((applied, member.replica.committed([(key(page).slot(), (&key(page)).into())])))
    }

    pub(super) fn read(&self, name: &str, page: &str) -> i128 {
        self.members[&NodeName::from(name)].table.read(&key(page)).tally
    }

    /// What the nodes say of one page.
    pub(super) fn read_all(&self, names: &[&str], page: &str) -> Vec<i128> {
        names.iter().map(|name| self.read(name, page)).collect()
    }

    pub(super) fn perform(&mut self, name: &NodeName, effects: Vec<Effect>) {
        let mut more = Vec::new();
        let clock = Hlc::from_wall_ms(self.now().wall_ms);
        let member = self.members.get_mut(name).unwrap();
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    let header = member.replica.header(Some(to.clone()), clock);
                    self.wire.push_back(Sent { from: name.clone(), to, header, message });
                }
                Effect::Persist { id, keys, slots, floors } if member.holds_writes => {
                    member.held.push_back((id, keys, slots, floors));
                }
                Effect::Persist { id, keys, slots, floors } => {
                    member.write(&keys, &slots, &floors);
                    more.extend(member.replica.persisted(id));
                }
                Effect::AdoptLayout(layout) if !member.holds_layout => member.store_layout(layout),
                Effect::AdoptLayout(layout) => member.held_layout = Some(layout),
                Effect::RenewActor { above } => {
                    member.actor_wanted = true;
                    member.storage.starts = member.storage.starts.max(above.map_or(0, ActorId::starts));
                    if !member.holds_actor {
                        more.extend(renew(member));
                    }
                }
                Effect::Forget { slots, keys } => {
                    member.forgotten += slots.len();
                    slots.iter().for_each(|slot| drop(member.storage.slots.remove(slot)));
                    keys.iter().for_each(|key| drop(member.storage.counters.remove(key)));
                }
                Effect::Report(report) => member.reports.push(report),
            }
        }
        if !more.is_empty() {
            self.perform(name, more);
        }
    }

    /// Lets what the node's storage has held back become durable.
    pub(super) fn release_writes(&mut self, name: &str) {
        let member = self.member(name);
        member.holds_writes = false;
        let mut effects = Vec::new();
        while let Some((id, keys, slots, floors)) = member.held.pop_front() {
            member.write(&keys, &slots, &floors);
            effects.extend(member.replica.persisted(id));
        }
        self.perform(&name.into(), effects);
    }

    /// Lets the newest layout that has been held back become durable.
    pub(super) fn release_layout(&mut self, name: &str) {
        let member = self.member(name);
        member.holds_layout = false;
        if let Some(layout) = member.held_layout.take() {
            member.store_layout(layout);
        }
    }

    pub(super) fn release_actor(&mut self, name: &str) {
        let member = self.member(name);
        member.holds_actor = false;
        let effects = renew(member);
        self.perform(&name.into(), effects);
    }

    pub(super) fn deliver(&mut self, sent: Sent) {
        if self.cut.contains(&sent.from) || self.cut.contains(&sent.to) {
            return;
        }
        let now = self.now();
        let Some(member) = self.members.get_mut(&sent.to).filter(|member| member.up) else { return };
        // Through its bytes, so that every message is seen to survive the wire.
        let envelope = Envelope { header: sent.header, body: vec![sent.message] };
        let envelope = Envelope::decode(&envelope.encode()).unwrap();
        let effects = member.replica.handle_envelope(&member.table, now, envelope);
        self.perform(&sent.to, effects);
    }

    /// Delivers everything that is on the wire, and what comes of it.
    pub(super) fn deliver_all(&mut self) {
        let mut left = 100_000;
        while let Some(sent) = self.wire.pop_front() {
            left -= 1;
            assert!(left > 0, "the nodes do not stop talking");
            match self.random.number() % 100 {
                roll if roll < self.chaos => {}
                roll if roll < 2 * self.chaos => {
                    let again = Sent {
                        header: sent.header.clone(),
                        message: sent.message.clone(),
                        from: sent.from.clone(),
                        to: sent.to.clone(),
                    };
                    self.wire.push_back(again);
                    self.deliver(sent);
                }
                roll if roll < 3 * self.chaos => self.wire.push_back(sent),
                _ => self.deliver(sent),
            }
        }
    }

    /// 50 ms pass at all nodes; nothing is delivered.
    pub(super) fn tick(&mut self) {
        self.now_ms += 50;
        for name in self.members.keys().cloned().collect::<Vec<_>>() {
            let now = self.now();
            let member = self.members.get_mut(&name).unwrap();
            if member.up {
                let effects = member.replica.handle_tick(&member.table, now);
                self.perform(&name, effects);
            }
        }
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.tick();
            self.deliver_all();
        }
    }

    /// Runs until it is so; at most a minute.
    pub(super) fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end_ms = self.now_ms + 60_000;
        while !is_so(self) {
            assert!(self.now_ms < end_ms, "not within a minute: {what}");
            self.run(50);
        }
    }

    pub(super) fn slots_left(&self, name: &str) -> Option<u64> {
        let member = &self.members[&NodeName::from(name)];
        let moves = member.replica.status(self.now()).moves;
        moves.first().map(|status| status.slots_left)
    }

    /// How many actors have entries of their own in the page's slot, at this node.
    pub(super) fn actors(&self, name: &str, page: &str) -> usize {
        self.members[&NodeName::from(name)].table.slot(key(page).slot()).actors().len()
    }

    /// Whether the slots of these pages are equal at these nodes.
    pub(super) fn agree(&self, names: &[&str], pages: &[&str]) -> bool {
        pages.iter().all(|page| {
            let digest = |name: &&str| self.members[&NodeName::from(*name)].table.slot(key(page).slot()).digest();
            let digests: BTreeSet<u64> = names.iter().map(digest).collect();
            digests.len() == 1
        })
    }
}

fn renew(member: &mut Member) -> Vec<Effect> {
    member.actor_wanted = false;
    member.storage.starts += 1;
    let actor = ActorId::new(member.origin, member.storage.starts, 0);
    member.replica.actor_renewed(&member.table, actor)
}
