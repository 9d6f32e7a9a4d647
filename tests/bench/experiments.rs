//! All rows, by what they are about.

use crate::Args;
use crate::live::Storm;
use crate::load::Load;
use crate::load::redis_benchmark::Command;
use crate::load::wrk::Request;
use crate::row::{Aim, CONNECTIONS, Cores, Row, Setting};
use crate::server::{Aof, Server, Storage};
use crate::unread::SUBSCRIPTIONS;

/// Tokens in the rows of them.
const TOKENS: u64 = 400_000;

/// Rows that are measured together, interleaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Group {
    /// PUT and GET, not pipelined, against bare hyper.
    Http,
    /// INCR and GET against Redis, nothing forced to the disk on either side.
    Resp,
    /// The same over a million random keys.
    Keys,
    /// INCR with the disk forced once a second, and at each update, against Redis's append-only file.
    Durable,
    /// Updates through a node that does not own the page, and in batches.
    Routes,
    /// Resident bytes per counter against Redis.
    Memory,
    /// How long a node takes to start that has been killed.
    Start,
    /// Latency at a fixed rate, while nothing else goes on, and while the log is folded, the checkpoint compacted, and digests
    /// are compared.
    Steady,
    /// How long until another replica has an update.
    Lag,
    /// One counter, at one, two and three nodes.
    Hot,
    /// Modifications of pages with few and many subscribers, and a user's total.
    Unread,
    /// Live connections: memory at rest, how soon viewers and changes are seen, and storms of viewers.
    Live,
    /// Throughput and latency against the number of connections; drawn, not tabled.
    Curve,
}

impl Group {
    pub(crate) const ALL: [Self; 13] = [
        Self::Http,
        Self::Resp,
        Self::Keys,
        Self::Durable,
        Self::Routes,
        Self::Memory,
        Self::Start,
        Self::Steady,
        Self::Lag,
        Self::Hot,
        Self::Unread,
        Self::Live,
        Self::Curve,
    ];

    /// What the rows have in common, as a heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Http => "HTTP against bare hyper (64 connections, not pipelined)",
            Self::Resp => "RESP against Redis, in memory (50 clients, one key)",
            Self::Keys => "RESP against Redis, in memory, random keys over a million (50 clients)",
            Self::Durable => "RESP against Redis with an append-only file (one key)",
            Self::Routes => "Ways to a counter (HTTP, 64 connections, EverySecond)",
            Self::Memory => "Memory (keys of 16 bytes)",
            Self::Start => "Start of a node that was killed (on all cores, keys of 16 bytes)",
            Self::Steady => "At a fixed rate, over a million keys (open loop: latency counts from when a request was due)",
            Self::Lag => "Replica lag (the writer under full load)",
            Self::Hot => "One hot counter (each node with a quarter of a processor)",
            Self::Unread => "Unread counts (EverySecond)",
            Self::Live => "Live connections (WebSockets)",
            Self::Curve => "Load curves",
        }
    }

    pub(crate) fn rows(self, args: &Args) -> Vec<Row> {
        match self {
            Self::Http => http(),
            Self::Resp => resp(1, &[1, 16, 64]),
            Self::Keys => resp(1_000_000, &[1, 16, 64]),
            Self::Durable => durable(),
            Self::Routes => routes(),
            Self::Memory => memory(args.counters),
            Self::Start => start(args.counters),
            Self::Steady => steady(),
            Self::Lag => vec![Row {
                name: "update seen at the sibling".to_owned(),
                setting: Setting::Lag,
                peer: None,
                aims: vec![Aim::P99(100.0)],
            }],
            Self::Hot => hot(),
            Self::Unread => unread(),
            Self::Live => live(),
            Self::Curve => Vec::new(),
        }
    }
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = format!("{self:?}").to_lowercase();
        f.pad(&name)
    }
}

fn row(name: String, server: Server, load: Load) -> Row {
    Row { name, setting: Setting::One { server, load }, peer: None, aims: Vec::new() }
}

impl Row {
    fn against(mut self, peer: &str, aims: &[Aim]) -> Self {
        self.peer = Some(peer.to_owned());
        self.aims = aims.to_vec();
        self
    }
}

fn http() -> Vec<Row> {
    let ask = |name: &str, server, request| row(name.to_owned(), server, Load::Http { request, connections: CONNECTIONS });
    let put = |name: &str, storage| ask(name, Server::Node(storage), Request::Put);
    let aim = [Aim::Throughput(0.9)];
    vec![
        ask("PUT bare hyper", Server::BareHyper, Request::Put),
        put("PUT memory", Storage::Memory).against("PUT bare hyper", &[]),
        put("PUT volume Never", Storage::Volume("Never")).against("PUT bare hyper", &[]),
        put("PUT volume EverySecond", Storage::Volume("EverySecond")).against("PUT bare hyper", &aim),
        put("PUT volume Always", Storage::Volume("Always")).against("PUT bare hyper", &[]),
        ask("GET bare hyper", Server::BareHyper, Request::Get),
        ask("GET memory", Server::Node(Storage::Memory), Request::Get).against("GET bare hyper", &aim),
        ask("GET volume EverySecond", Server::Node(Storage::Volume("EverySecond")), Request::Get).against("GET bare hyper", &aim),
    ]
}

fn resp(keys: u64, pipelines: &[usize]) -> Vec<Row> {
    let mut rows = Vec::new();
    for &pipeline in pipelines {
        for (command, verb) in [(Command::Incr, "INCR"), (Command::Get, "GET")] {
            let load = Load::Resp { command, clients: 50, pipeline, keys };
            let peer = format!("{verb} P{pipeline} Redis");
            rows.push(row(peer.clone(), Server::Redis(Aof::Off), load.clone()));
            let (throughput, cpu) = match pipeline {
                1 => (1.0, 1.0),
                16 => (1.5, 0.67),
                _ => (1.5, 0.5),
            };
            let aims = [Aim::Throughput(throughput), Aim::Cpu(cpu)];
            let aims = if command == Command::Incr { &aims[..] } else { &[] };
            rows.push(row(format!("{verb} P{pipeline} memory"), Server::Node(Storage::Memory), load).against(&peer, aims));
        }
    }
    rows
}

fn durable() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut pair = |name: String, (aof, fsync), clients, pipeline, aims: &[Aim]| {
        let load = Load::Resp { command: Command::Incr, clients, pipeline, keys: 1 };
        let peer = format!("{name} Redis");
        rows.push(row(peer.clone(), Server::Redis(aof), load.clone()));
        rows.push(row(format!("{name} node"), Server::Node(Storage::Volume(fsync)), load).against(&peer, aims));
    };
    for (pipeline, throughput, cpu) in [(1, 1.0, 1.0), (16, 1.5, 0.67), (64, 1.5, 0.5)] {
        let aims = [Aim::Throughput(throughput), Aim::Cpu(cpu)];
        pair(format!("every second, 50 clients, P{pipeline}"), (Aof::EverySecond, "EverySecond"), 50, pipeline, &aims);
    }
    for (clients, throughput) in [(1, 1.0), (50, 2.0), (200, 3.0)] {
        let aims = [Aim::Throughput(throughput)];
        pair(format!("always, {clients} clients"), (Aof::Always, "Always"), clients, 1, &aims);
    }
    rows
}

fn routes() -> Vec<Row> {
    let through =
        |name: &str, node| Row { name: name.to_owned(), setting: Setting::Through { node }, peer: None, aims: Vec::new() };
    let node = Server::Node(Storage::Volume("EverySecond"));
    let load = |request| Load::Http { request, connections: CONNECTIONS };
    vec![
        through("PUT through the owner", 1),
        through("PUT through a non-owner", 0).against("PUT through the owner", &[Aim::Throughput(0.6)]),
        row("PUT, one node".to_owned(), node, load(Request::Put)),
        row("POST /counters, 100 updates each".to_owned(), node, load(Request::Batch(100))).against("PUT, one node", &[]),
    ]
}

fn unread() -> Vec<Row> {
    let modified = |subscribers| Row {
        name: format!("POST modifications, {subscribers} subscribers"),
        setting: Setting::Modified { subscribers },
        peer: None,
        aims: Vec::new(),
    };
    let few = modified(10);
    let many = modified(20_000).against(&few.name, &[Aim::Throughput(0.9)]);
    let total = Row {
        name: format!("GET unread of {SUBSCRIPTIONS} subscriptions, three shards"),
        setting: Setting::Unread,
        peer: None,
        aims: Vec::new(),
    };
    vec![few, many, total]
}

fn memory(most: u64) -> Vec<Row> {
    let filled = |name: String, server, counters, actors| Row {
        name,
        setting: Setting::Filled { server, counters, actors },
        peer: None,
        aims: Vec::new(),
    };
    let mut rows = Vec::new();
    for counters in [most / 10, most] {
        let peer = format!("{counters} counters, Redis");
        rows.push(filled(peer.clone(), Server::Redis(Aof::Off), counters, 1));
        for (actors, name, bytes) in [(1, "one actor", 64.0), (3, "three actors", 96.0)] {
            let name = format!("{counters} counters, {name}");
            // Of fewer counters the fixed part of a node is a greater part.
            let aims = if counters == most { &[Aim::Bytes(bytes)][..] } else { &[] };
            rows.push(filled(name, Server::Node(Storage::Memory), counters, actors).against(&peer, aims));
        }
    }
    for (pages, of) in [(1, "one page"), (TOKENS, "a page each")] {
        let (name, setting) = (format!("{TOKENS} tokens, {of}"), Setting::Tokens { tokens: TOKENS, pages });
        rows.push(Row { name, setting, peer: None, aims: Vec::new() });
    }
    rows
}

fn start(most: u64) -> Vec<Row> {
    let started = |counters, actors, name: &str| Row {
        name: format!("{counters} counters, {name}"),
        setting: Setting::Started { counters, actors },
        peer: None,
        aims: vec![Aim::Start(20.0)],
    };
    vec![started(most / 10, 1, "one actor"), started(most, 1, "one actor"), started(most, 3, "three actors")]
}

fn steady() -> Vec<Row> {
    let at_rate = |name: &str, storage, replicas| Row {
        name: name.to_owned(),
        setting: Setting::Steady { storage, replicas },
        peer: None,
        aims: Vec::new(),
    };
    let volume = Storage::Volume("EverySecond");
    vec![
        at_rate("INCR, memory: nothing else goes on", Storage::Memory, 1),
        at_rate("INCR, volume: folding and compacting", volume, 1),
        at_rate("INCR, two replicas: digests, too", volume, 2),
    ]
}

fn hot() -> Vec<Row> {
    let at = |nodes: usize| Row { name: format!("{nodes} nodes"), setting: Setting::Hot { nodes }, peer: None, aims: Vec::new() };
    vec![at(1), at(2).against("1 nodes", &[Aim::Throughput(1.2)]), at(3).against("1 nodes", &[Aim::Throughput(1.5)])]
}

fn live() -> Vec<Row> {
    let of = |name: &str, setting, aims: &[Aim]| Row { name: name.to_owned(), setting, peer: None, aims: aims.to_vec() };
    let (node, bare) = (Server::Node(Storage::Memory), Server::BareWebSockets);
    // 8 KiB, from 5,000 viewers to 15,000.
    let bytes = [Aim::ViewerBytes(8192.0)];
    let storm = [Aim::PerSecond(5_000.0)];
    let bare_fan = "a change for 10,000, bare WebSockets";
    let bare_shared = "a change for 10,000, bare WebSockets, on all cores";
    vec![
        of("idle viewers, bare WebSockets", Setting::Idle { server: bare, pages: 1 }, &[]),
        of("idle viewers, one page", Setting::Idle { server: node, pages: 1 }, &bytes),
        of("idle viewers, a page each", Setting::Idle { server: node, pages: usize::MAX }, &bytes),
        of("a viewer seen, three nodes", Setting::Joins, &[Aim::P99(150.0)]),
        of(bare_fan, Setting::Fan { server: bare, cores: Cores::Apart }, &[]),
        of("a change for 10,000 viewers", Setting::Fan { server: node, cores: Cores::Apart }, &[])
            .against(bare_fan, &[Aim::All(100.0)]),
        of(bare_shared, Setting::Fan { server: bare, cores: Cores::Shared }, &[]),
        of("a change for 10,000 viewers, on all cores", Setting::Fan { server: node, cores: Cores::Shared }, &[])
            .against(bare_shared, &[Aim::All(100.0)]),
        of("come and go, by messages", Setting::Storm(Storm::Messages), &storm),
        of("come and go, by connections", Setting::Storm(Storm::Connections), &storm),
    ]
}
