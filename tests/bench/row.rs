//! One line of the table: a setting, what is done to it, and the row that it is compared with.

use std::net::SocketAddr;
use std::time::Instant;

use crate::Args;
use crate::cluster::{Cluster, pages_of};
use crate::figures::Figures;
use crate::http::Connection;
use crate::live::{self, Storm};
use crate::load::wrk::{Request, Wrk};
use crate::load::{Load, fill, lag, redis_benchmark, steady, wrk};
use crate::server::{Running, Server, Storage};
use crate::unread;

/// Connections of the background load, and of the rows that do not vary them.
pub(crate) const CONNECTIONS: usize = 64;
/// So many requests at once for each node of a hot counter that its share of the processor is what limits it, not how long it waits for the
/// others, who have their shares at other times.
const HOT_CONNECTIONS: usize = 256;
/// Share of one processor that each node of a `Hot` row may take, in hundredths.
const SHARE: u32 = 25;

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) setting: Setting,
    /// The row of the same group that ratios refer to.
    pub(crate) peer: Option<String>,
    pub(crate) aims: Vec<Aim>,
}

/// What is started and measured.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    /// One server under load.
    One { server: Server, load: Load },
    /// Two shards of one node; pages of the second are updated through the node with this number.
    Through { node: usize },
    /// A server that is filled with so many counters; by as many actors, each a replica of its own.
    Filled { server: Server, counters: u64, actors: usize },
    /// A node that is filled with so many tokens, dealt out to so many pages that have counted before.
    Tokens { tokens: u64, pages: u64 },
    /// Filled servers on volumes; then the first of them is killed and started again.
    Started { counters: u64, actors: usize },
    /// One of so many replicas, under load at a fixed rate.
    Steady { storage: Storage, replicas: usize },
    /// A page that so many users subscribe to is modified.
    Modified { subscribers: usize },
    /// What a user of as many subscriptions as may be has not read.
    Unread,
    /// Two replicas, the first of them under full load.
    Lag,
    /// One page, updated through every one of so many nodes, each with a fixed share of a processor.
    Hot { nodes: usize },
    /// Viewers of so many pages that are only there.
    Idle { server: Server, pages: usize },
    /// Viewers who come at one node and are seen at another.
    Joins,
    /// One change, for everyone who looks at a page.
    Fan { server: Server, cores: Cores },
    /// Viewers who come and go by the thousand.
    Storm(Storm),
}

/// Where a server and its clients run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Each on one of its own.
    Apart,
    /// All of them on all of the machine's.
    Shared,
}

/// What a ratio to the peer, or a figure, should come to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// Operations per second, at least this often the peer's.
    Throughput(f64),
    /// Processor time per operation, at most this often the peer's.
    Cpu(f64),
    /// Resident bytes per counter, at most.
    Bytes(f64),
    /// Seconds from the start of a process to its first answer, at most.
    Start(f64),
    /// The 99th percentile, at most, in milliseconds.
    P99(f64),
    /// Resident bytes per idle viewer, at most.
    ViewerBytes(f64),
    /// Until the last viewer has a change, at most, in milliseconds.
    All(f64),
    /// So many a second, at least.
    PerSecond(f64),
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.name)
    }
}

impl Row {
    /// How often it is measured. What has been filled takes long, and memory does not vary from round to round as speed does;
    /// starts come in series.
    pub(crate) fn rounds(&self, args: &Args) -> usize {
        match self.setting {
            Setting::Filled { .. } | Setting::Tokens { .. } | Setting::Started { .. } | Setting::Idle { .. } => {
                args.rounds.min(1)
            }
            _ => args.rounds,
        }
    }

    /// Starts the servers, loads them, and ends them. The inner error says why this machine cannot do it.
    pub(crate) fn measure(&self, args: &Args) -> anyhow::Result<Result<Figures, String>> {
        Ok(match &self.setting {
            Setting::One { server, load } => Ok(one(args, *server, load)?),
            Setting::Through { node } => Ok(through(args, *node)?),
            Setting::Filled { server, counters, actors } => Ok(filled(args, *server, *counters, *actors)?),
            Setting::Tokens { tokens, pages } => Ok(remembering(args, *tokens, *pages)?),
            Setting::Started { counters, actors } => Ok(started(args, *counters, *actors)?),
            Setting::Steady { storage, replicas } => Ok(at_rate(args, *storage, *replicas)?),
            Setting::Modified { subscribers } => Ok(unread::modifications(args, *subscribers)?),
            Setting::Unread => Ok(unread::totals(args)?),
            Setting::Lag => Ok(lagging(args)?),
            Setting::Hot { nodes } => return hot(args, *nodes),
            Setting::Idle { server, pages } => Ok(live::idle(args, *server, *pages)?),
            Setting::Joins => Ok(live::joins(args)?),
            Setting::Fan { server, cores } => Ok(live::fan(args, *server, *cores)?),
            Setting::Storm(storm) => Ok(live::storm(args, *storm)?),
        })
    }
}

/// What a load gives on counters that exist, and how many operations it was.
pub(crate) fn under(args: &Args, server: &Running, load: &Load) -> anyhow::Result<Figures> {
    match load {
        Load::Http { request, connections } => {
            wrk::fill(server.http, request)?;
            let before = server.cpu()?;
            let figures = wrk::run(args, server.http, request, *connections)?;
            let seconds = std::time::Duration::from_secs(args.seconds).as_secs_f64();
            let spent = server.cpu()?.saturating_sub(before).as_secs_f64();
            let operations = figures.per_second.map(|per_second| per_second * seconds);
            Ok(Figures { cpu_us: operations.map(|operations| spent * 1e6 / operations), ..figures })
        }
        Load::Resp { command, clients, pipeline, keys } => resp(args, server, *command, *clients, *pipeline, *keys),
    }
}

fn resp(
    args: &Args,
    server: &Running,
    command: redis_benchmark::Command,
    clients: usize,
    pipeline: usize,
    keys: u64,
) -> anyhow::Result<Figures> {
    redis_benchmark::fill(server.resp, keys)?;
    let count = redis_benchmark::calibrate(args, server.resp, command, clients, pipeline, keys)?;
    let before = server.cpu()?;
    let figures = redis_benchmark::run(server.resp, command, clients, pipeline, keys, count)?;
    let spent = server.cpu()?.saturating_sub(before);
    let operations = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Ok(Figures { cpu_us: Some(spent.as_secs_f64() * 1e6 / operations), ..figures })
}

fn one(args: &Args, server: Server, load: &Load) -> anyhow::Result<Figures> {
    under(args, &server.start(args)?, load)
}

fn through(args: &Args, node: usize) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(args, Storage::Volume("EverySecond"), 2, 1)?;
    wrk::run(args, cluster.nodes[node].http, &Request::PutOn(pages_of(1, 2)), CONNECTIONS)
}

/// As many nodes as there are to be actors, replicas of one shard.
fn nodes(args: &Args, server: Server, actors: usize) -> anyhow::Result<Vec<Running>> {
    match server {
        Server::Node(storage) if actors > 1 => Ok(Cluster::start(args, storage, 1, actors)?.nodes),
        server => Ok(vec![server.start(args)?]),
    }
}

/// Each node counts each counter up once, and comes to know what the others have counted. Several take all cores for it, since that takes
/// minutes and is not what is measured.
fn fill_all(nodes: &[Running], counters: u64) -> anyhow::Result<()> {
    if nodes.len() > 1 {
        nodes.iter().try_for_each(Running::spread)?;
    }
    for node in nodes {
        fill::run(node.resp, counters)?;
    }
    if nodes.len() > 1 {
        fill::wait_until_equal(&nodes.iter().map(|node| node.http).collect::<Vec<SocketAddr>>(), counters)?;
    }
    Ok(())
}

fn filled(args: &Args, server: Server, counters: u64, actors: usize) -> anyhow::Result<Figures> {
    let nodes = nodes(args, server, actors)?;
    let before = nodes[0].resident()?;
    fill_all(&nodes, counters)?;
    Ok(Figures { bytes_per_counter: Some(each(nodes[0].resident()? - before, counters)), ..Figures::default() })
}

fn each(bytes: f64, of: u64) -> f64 {
    bytes / f64::from(u32::try_from(of).unwrap_or(u32::MAX))
}

fn remembering(args: &Args, tokens: u64, pages: u64) -> anyhow::Result<Figures> {
    let node = Server::Node(Storage::Memory).start(args)?;
    fill::run(node.resp, pages)?;
    let before = node.resident()?;
    fill::run_tokens(node.resp, tokens, pages)?;
    Ok(Figures { bytes_per_token: Some(each(node.resident()? - before, tokens)), ..Figures::default() })
}

/// As often as there are rounds, one after the other.
fn started(args: &Args, counters: u64, actors: usize) -> anyhow::Result<Figures> {
    let mut nodes = nodes(args, Server::Node(Storage::Volume("Never")), actors)?;
    fill_all(&nodes, counters)?;
    let last = format!("/{}/counter", fill::key(counters.saturating_sub(1)));
    let mut all = Vec::new();
    for _ in 0..args.rounds {
        let since = Instant::now();
        nodes[0].restart()?;
        nodes[0].wait_until_it_counts(&last, i64::try_from(actors)?)?;
        let start_s = Some(since.elapsed().as_secs_f64());
        let bytes_per_counter = Some(each(nodes[0].resident()?, counters));
        all.push(Figures { start_s, bytes_per_counter, ..Figures::default() });
    }
    Ok(Figures::medians(&all))
}

fn at_rate(args: &Args, storage: Storage, replicas: usize) -> anyhow::Result<Figures> {
    let mut nodes = nodes(args, Server::Node(storage), replicas)?;
    fill::run(nodes[0].resp, steady::KEYS)?;
    if replicas > 1 {
        // What the others have counted themselves is nothing.
        nodes[1].wait_until_it_counts("/counter", i64::try_from(steady::KEYS)?)?;
    }
    let folds = || nodes[0].metric("counter_log_folds_total");
    let before = folds()?;
    let figures = steady::run(nodes[0].resp, args.seconds.max(steady::SECONDS_MIN))?;
    let folds = folds()? - before;
    anyhow::ensure!(folds > 0.0 || storage == Storage::Memory, "nothing was folded meanwhile");
    Ok(Figures { folds: Some(folds), ..figures })
}

fn lagging(args: &Args) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(args, Storage::Volume("EverySecond"), 1, 2)?;
    let [loaded, sibling] = [0, 1].map(|node: usize| cluster.nodes[node].http);
    let load = Wrk::start(loaded, &Request::Put, CONNECTIONS, args.seconds + 2)?;
    let lags = lag::run(loaded, sibling, args.seconds)?;
    let figures = load.finish()?;
    Ok(Figures { per_second: figures.per_second, ..lags })
}

fn hot(args: &Args, nodes: usize) -> anyhow::Result<Result<Figures, String>> {
    let cluster = Cluster::start(args, Storage::Volume("EverySecond"), nodes, 1)?;
    let mut shares = Vec::new();
    for node in &cluster.nodes {
        match crate::machine::Share::give(node.pid(), SHARE) {
            Ok(share) => shares.push(share),
            Err(error) => return Ok(Err(format!("no control group to fix a processor share by: {error:#}"))),
        }
    }
    let page = Request::PutOn(vec!["front-page".to_owned()]);
    // As many requests at once for each node: what is compared is what nodes add.
    let load = |node: &Running| Wrk::start(node.http, &page, HOT_CONNECTIONS, args.seconds);
    let loads: Vec<Wrk> = cluster.nodes.iter().map(load).collect::<Result<_, _>>()?;
    let figures: Vec<Figures> = loads.into_iter().map(Wrk::finish).collect::<Result<_, _>>()?;
    let per_second: f64 = figures.iter().filter_map(|figures| figures.per_second).sum();
    let worst = figures.iter().filter_map(|figures| figures.p99_ms).fold(0.0, f64::max);
    // Nothing may be lost on the way: what was answered is what the counter has.
    let counted = Connection::open(cluster.nodes[0].http)?.count("GET", "/front-page/counter")?;
    #[expect(clippy::cast_precision_loss, reason = "a plausibility check of counts far below 2^52")]
    let answered = counted as f64 >= per_second * std::time::Duration::from_secs(args.seconds).as_secs_f64() * 0.99;
    anyhow::ensure!(answered, "the page counts {counted}, fewer than were answered");
    Ok(Ok(Figures { per_second: Some(per_second), p99_ms: Some(worst), ..Figures::default() }))
}
