//! The nodes, their network and their clients.

use std::collections::BTreeMap;

use counter_core::id::NodeName;
use counter_core::key::Key;
use counter_core::presence::{Bequest, Resumption, SessionToken};

use super::Bug;
use super::process::{Answer, Process};
use counter_seeds::Rng;

pub(super) const LEASE_MS: u64 = 5_000;
/// Over so long the clients of a stopping node are spread.
const SPREAD_MS: u64 = 2_000;
const GRACE_MS: u64 = SPREAD_MS + LEASE_MS;
/// How long a node may take to answer, and a stopping one to hand over.
const TIMEOUT_MS: u64 = 1_500;
const STOP_MS: u64 = 5_000;
/// So long a connection is believed to be open that is not.
const HEARTBEAT_MS: u64 = 4_000;
const TRIES: usize = 3;
const HOPS_MAX: usize = 8;
const CLIENTS: usize = 12;
const PAGES: [&str; 2] = ["a", "b"];

#[derive(Debug)]
enum Event {
    /// Nodes hear of each other, and look through their orphans.
    Tick,
    Client(usize),
    Back {
        client: usize,
    },
    /// A connection was not heard for a heartbeat.
    Dead {
        node: usize,
        start: u64,
        number: u64,
    },
    Stop(usize),
    Crash(usize),
    Start(usize),
    /// A stopping node has nothing more under way.
    HandOn {
        node: usize,
        start: u64,
        tries: usize,
    },
    Exit {
        node: usize,
        start: u64,
    },
    /// A part comes to an heir.
    Part {
        part: Bequest,
        answer: Answered,
    },
    Answered(Answered),
    /// A node looks for the session that has resumed there.
    Search {
        node: usize,
        start: u64,
        resumption: Resumption,
        left: Option<Vec<NodeName>>,
        hops: usize,
    },
}

/// What becomes of a part that has set out.
#[derive(Clone, Copy, Debug)]
struct Answered {
    from: usize,
    start: u64,
    to: usize,
    /// How many heirs have not taken it before.
    tries: usize,
    gateway: u64,
    /// Which question it answers.
    asked: u64,
    took: bool,
}

struct Client {
    page: Key,
    /// Its node, that one's start, and its number there.
    at: Option<(usize, u64, u64)>,
    token: Option<SessionToken>,
    /// While it is away, until when it has to count all the same.
    counts_until_ms: u64,
}

pub(super) struct World {
    rng: Rng,
    bug: Option<Bug>,
    now_ms: u64,
    made: u64,
    events: BTreeMap<(u64, u64), Event>,
    names: Vec<NodeName>,
    nodes: Vec<Option<Process>>,
    /// By node, what it waits for an answer to.
    asked: Vec<Option<u64>>,
    clients: Vec<Client>,
    /// What crashed processes counted, until their leases end.
    ghosts: Vec<(u64, BTreeMap<Key, i64>)>,
    faults: bool,
    loss: u64,
    pub(super) resumed: u64,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = usize::try_from(rng.range(2, 5)).unwrap();
        let names: Vec<NodeName> = (0..nodes).map(|node| NodeName::from(format!("n{node}").as_str())).collect();
        let client = |client: usize| Client {
            page: Key::new(PAGES[client % PAGES.len()].as_bytes()).unwrap(),
            at: None,
            token: None,
            counts_until_ms: 0,
        };
        let loss = if rng.per_mille(500) { rng.below(200) } else { 0 };
        let mut world = Self {
            rng,
            bug,
            now_ms: 0,
            made: 0,
            events: BTreeMap::new(),
            nodes: names.iter().map(|_| None).collect(),
            asked: vec![None; nodes],
            names,
            clients: (0..CLIENTS).map(client).collect(),
            ghosts: Vec::new(),
            faults: true,
            loss,
            resumed: 0,
        };
        (0..nodes).for_each(|node| world.start(node));
        world.at(0, Event::Tick);
        for client in 0..CLIENTS {
            let ms = world.rng.below(1_000);
            world.at(ms, Event::Client(client));
        }
        for _ in 0..world.rng.range(2, 6) {
            let (ms, node) = (world.rng.range(2_000, 15_000), world.rng.index(nodes));
            let event = if world.rng.per_mille(700) { Event::Stop(node) } else { Event::Crash(node) };
            world.at(ms, event);
        }
        world
    }

    pub(super) fn prove(&mut self) -> Result<(), String> {
        self.run_until(20_000)?;
        self.faults = false;
        self.loss = 0;
        self.run_until(20_000 + STOP_MS + GRACE_MS + 2 * LEASE_MS)?;
        for page in PAGES {
            let (page, counted) = (Key::new(page.as_bytes()).unwrap(), self.counted(page));
            let there = self.clients.iter().filter(|client| client.page == page && client.at.is_some()).count();
            if counted != i64::try_from(there).unwrap() {
                return Err(format!("in the end {counted} viewers are counted of {page:?}, and {there} are there"));
            }
        }
        Ok(())
    }

    fn at(&mut self, after_ms: u64, event: Event) {
        self.made += 1;
        self.events.insert((self.now_ms + after_ms, self.made), event);
    }

    fn run_until(&mut self, end_ms: u64) -> Result<(), String> {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end_ms) {
            let ((at_ms, _), event) = entry.remove_entry();
            self.now_ms = at_ms;
            let what = format!("{event:?}");
            self.handle(event);
            self.check().map_err(|violation| format!("at {at_ms}, after {what}: {violation}"))?;
        }
        self.now_ms = end_ms;
        Ok(())
    }

    fn counted(&self, page: &str) -> i64 {
        let page = Key::new(page.as_bytes()).unwrap();
        let alive = self.nodes.iter().flatten().map(|process| &process.counted);
        let ghosts = self.ghosts.iter().filter(|(until_ms, _)| self.now_ms < *until_ms).map(|(_, counted)| counted);
        alive.chain(ghosts).map(|counted| counted.get(&page).copied().unwrap_or(0)).sum()
    }

    fn check(&self) -> Result<(), String> {
        for name in PAGES {
            let page = Key::new(name.as_bytes()).unwrap();
            let of_page = self.clients.iter().filter(|client| client.page == page);
            let there = of_page.filter(|client| client.at.is_some() || self.now_ms < client.counts_until_ms).count();
            let counted = self.counted(name);
            if counted < i64::try_from(there).unwrap() {
                return Err(format!("{counted} viewers are counted of {name}, and {there} are there"));
            }
        }
        Ok(())
    }

    fn process(&mut self, node: usize, start: u64) -> Option<&mut Process> {
        self.nodes[node].as_mut().filter(|process| process.start == start)
    }

    /// How long a message takes; None: it is lost.
    fn way(&mut self) -> Option<u64> {
        let slow = self.rng.per_mille(100);
        let ms = if slow { self.rng.range(1, 2 * TIMEOUT_MS) } else { self.rng.range(1, 40) };
        (!self.rng.per_mille(self.loss)).then_some(ms)
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Client(client) => self.act(client),
            Event::Back { client } if self.clients[client].at.is_none() => self.come_back(client),
            Event::Back { .. } => {}
            Event::Dead { node, start, number } => {
                if let Some(process) = self.process(node, start) {
                    process.close(number);
                }
            }
            Event::Stop(node) => self.stop(node),
            Event::Crash(node) => self.crash(node),
            Event::Start(node) => self.start(node),
            Event::HandOn { node, start, tries } => self.hand_on(node, start, tries),
            Event::Exit { node, start } => self.exit(node, start),
            Event::Part { part, answer } => {
                let (now_ms, bug) = (self.now_ms, self.bug);
                let Some(process) = &mut self.nodes[answer.to] else { return };
                let took = process.inherit(part, bug, now_ms);
                if let Some(ms) = self.way() {
                    self.at(ms, Event::Answered(Answered { took, ..answer }));
                }
            }
            Event::Answered(answer) => self.answered(answer),
            Event::Search { node, start, resumption, left, hops } => self.search((node, start), resumption, left, hops),
        }
    }

    fn tick(&mut self) {
        let now_ms = self.now_ms;
        let alive: Vec<(NodeName, u64, bool)> = (self.names.iter().zip(&self.nodes))
            .filter_map(|(name, process)| process.as_ref().map(|process| (name.clone(), process.start, process.leaves)))
            .collect();
        for process in self.nodes.iter_mut().flatten() {
            for (name, start, _) in alive.iter().filter(|(_, start, _)| *start != process.start) {
                process.roster.heard(name, *start, now_ms);
            }
            process.roster.forget(now_ms);
            if self.bug != Some(Bug::GraceForgotten) {
                process.expire(now_ms);
            }
        }
        self.at(250, Event::Tick);
    }

    fn act(&mut self, client: usize) {
        match self.clients[client].at {
            None if self.now_ms >= self.clients[client].counts_until_ms => self.come_back(client),
            Some((node, start, number)) if self.rng.per_mille(300) => {
                // It closes its connection, and forgets its token.
                if let Some(process) = self.process(node, start) {
                    process.close(number);
                }
                let client = &mut self.clients[client];
                (client.at, client.token, client.counts_until_ms) = (None, None, 0);
            }
            // Its network changes, and its old connection looks open.
            Some((node, start, number)) if self.rng.per_mille(400) => {
                self.at(HEARTBEAT_MS, Event::Dead { node, start, number });
                self.come_back(client);
            }
            _ => {}
        }
        if self.faults {
            let ms = self.rng.range(300, 4_000);
            self.at(ms, Event::Client(client));
        }
    }

    /// Connects at any node that takes it.
    fn come_back(&mut self, client: usize) {
        let open: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].as_ref().is_some_and(|one| !one.leaves)).collect();
        if open.is_empty() {
            return self.at(200, Event::Back { client });
        }
        let node = open[self.rng.index(open.len())];
        let Client { page, token, .. } = &self.clients[client];
        let (page, before) = (page.clone(), *token);
        let Some(process) = self.nodes[node].as_mut() else { return };
        let (start, token) = (process.start, process.open(&page));
        if let Some(before) = before {
            self.resumed += 1;
            // First the cluster knows that it counts here.
            let told_ms = self.rng.range(1, 100);
            let resumption = (before, page);
            self.at(told_ms, Event::Search { node, start, resumption, left: None, hops: 0 });
        }
        let client = &mut self.clients[client];
        (client.at, client.token, client.counts_until_ms) = (Some((node, start, token.number)), Some(token), 0);
    }

    /// Whoever was at this node goes, and most of them come back.
    fn send_away(&mut self, node: usize, spread_ms: u64, counts_ms: u64) {
        for client in 0..CLIENTS {
            if self.clients[client].at.is_none_or(|(at, _, _)| at != node) {
                continue;
            }
            self.clients[client].at = None;
            if self.rng.per_mille(850) {
                self.clients[client].counts_until_ms = self.now_ms + counts_ms;
                let ms = self.rng.range(1, spread_ms);
                self.at(ms, Event::Back { client });
            } else {
                self.clients[client].token = None;
            }
        }
    }

    fn stop(&mut self, node: usize) {
        let others = self.nodes.iter().flatten().filter(|process| !process.leaves).count();
        let (now_ms, bug) = (self.now_ms, self.bug);
        let Some(process) = self.nodes[node].as_mut().filter(|process| !process.leaves && others > 1) else { return };
        process.begin(GRACE_MS, bug, now_ms);
        let start = process.start;
        self.send_away(node, SPREAD_MS, GRACE_MS);
        self.at(1, Event::HandOn { node, start, tries: 0 });
        self.at(STOP_MS, Event::Exit { node, start });
    }

    /// Gives the next part to the heir whose turn it is.
    fn hand_on(&mut self, node: usize, start: u64, tries: usize) {
        let (now_ms, bug, names) = (self.now_ms, self.bug, self.names.clone());
        let Some(process) = self.process(node, start) else { return };
        let Some(part) = process.set_out(bug, now_ms) else { return };
        let ranked = process.roster.rank(part.gateway, &names, now_ms).into_iter();
        let heir = ranked.filter(|name| process.roster.believes_in(name, now_ms)).take(TRIES).nth(tries);
        let Some(to) = heir.and_then(|heir| names.iter().position(|name| name == heir)) else {
            process.gave_up = true;
            return process.returned(part.gateway);
        };
        let asked = self.rng.draw();
        let answer = Answered { from: node, start, to, tries, gateway: part.gateway, asked, took: false };
        self.asked[node] = Some(asked);
        // Whichever comes first, the answer or this.
        self.at(TIMEOUT_MS, Event::Answered(answer));
        if let Some(ms) = self.way() {
            self.at(ms, Event::Part { part, answer });
        }
    }

    /// An heir has answered, or has taken too long to.
    fn answered(&mut self, answer: Answered) {
        let Answered { from: node, start, to, tries, gateway, asked, took } = answer;
        if self.asked[node].take_if(|waiting| *waiting == asked).is_none() {
            return;
        }
        let (heir, bug) = (self.names[to].clone(), self.bug);
        let Some(process) = self.process(node, start) else { return };
        if !took {
            process.returned(gateway);
            return self.at(1, Event::HandOn { node, start, tries: tries + 1 });
        }
        for resumption in process.arrived(gateway, &heir, bug) {
            self.at(1, Event::Search { node, start, resumption, left: Some(vec![heir.clone()]), hops: HOPS_MAX });
        }
        self.at(1, Event::HandOn { node, start, tries });
    }

    fn exit(&mut self, node: usize, start: u64) {
        let Some(process) = self.process(node, start) else { return };
        let (gave_up, kept) = (process.gave_up, !process.orphans.is_empty());
        // Else it has handed over all that it had.
        let kept = kept && (gave_up || self.asked[node].take().is_some());
        self.nodes[node] = None;
        if kept {
            self.give_up(0);
        }
        let (name, now_ms) = (self.names[node].clone(), self.now_ms);
        self.nodes.iter_mut().flatten().for_each(|other| other.roster.left(&name, start, now_ms));
        let ms = self.rng.range(50, 3_000);
        self.at(ms, Event::Start(node));
    }

    /// What some node counted for clients that are away counts for so long only.
    fn give_up(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        self.clients.iter_mut().for_each(|client| client.counts_until_ms = client.counts_until_ms.min(until_ms));
    }

    fn crash(&mut self, node: usize) {
        let Some(process) = self.nodes[node].take() else { return };
        self.ghosts.push((self.now_ms + LEASE_MS, process.counted));
        self.give_up(LEASE_MS);
        self.send_away(node, LEASE_MS - 500, LEASE_MS);
        let ms = self.rng.range(50, 6_000);
        self.at(ms, Event::Start(node));
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_none() {
            let start = self.rng.draw();
            self.nodes[node] = Some(Process::new(self.names[node].clone(), start, self.now_ms));
        }
    }

    /// Asks the next who may have the session that has resumed at this node.
    fn search(&mut self, (node, start): (usize, u64), resumption: Resumption, left: Option<Vec<NodeName>>, hops: usize) {
        let (now_ms, names) = (self.now_ms, self.names.clone());
        let Some(process) = self.process(node, start) else { return };
        let gateway = resumption.0.gateway;
        let mut left = left.unwrap_or_else(|| {
            let of = if gateway == start { Some(names[node].clone()) } else { process.roster.node_of(gateway, now_ms).cloned() };
            let ranked = process.roster.rank(gateway, &names, now_ms).into_iter().cloned();
            let heirs = ranked.filter(|name| process.roster.believes_in(name, now_ms) && Some(name) != of.as_ref()).take(TRIES);
            of.iter().cloned().chain(heirs).collect()
        });
        if left.is_empty() {
            return;
        }
        let to = left.remove(0);
        let index = names.iter().position(|name| *name == to).unwrap();
        let heard = index == node || self.way().is_some();
        let answer = match self.nodes[index].as_mut().filter(|_| heard) {
            Some(asked) => asked.end_resumed(&resumption),
            None => Answer::No,
        };
        let (left, hops) = match answer {
            Answer::Yes => return,
            Answer::No => (left, hops),
            Answer::At(_) if hops >= HOPS_MAX => return,
            Answer::At(heirs) => (heirs.into_iter().take(TRIES).chain(left).collect(), hops + 1),
        };
        let ms = self.rng.range(1, 40);
        self.at(ms, Event::Search { node, start, resumption, left: Some(left), hops });
    }
}
