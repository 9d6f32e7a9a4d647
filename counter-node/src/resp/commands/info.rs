//! INFO: what the node is and does, in Redis's sections and fields where it has the like.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::{Args, Executed, Step, Turn, scan};

/// The release of Redis whose commands and wordings clients may expect.
pub(super) const REDIS_VERSION: &str = "7.0.0";

type Section = (&'static str, fn(&Turn<'_, '_>) -> Vec<(&'static str, String)>);

const SECTIONS: &[Section] = &[
    ("Server", server),
    ("Clients", clients),
    ("Memory", memory),
    ("Persistence", persistence),
    ("Stats", stats),
    ("Replication", replication),
    ("Cluster", cluster),
    ("Keyspace", keyspace),
];

/// `INFO [section …]`
pub(super) fn info(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let everything =
        |section: &[u8]| ["default", "all", "everything"].iter().any(|all| section.eq_ignore_ascii_case(all.as_bytes()));
    let all = args.len() == 1 || args.from(1).any(everything);
    let mut text = String::new();
    for (name, fields) in SECTIONS {
        if !all && !args.from(1).any(|section| section.eq_ignore_ascii_case(name.as_bytes())) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing into memory does not fail.
        let _ = write!(text, "# {name}\r\n");
        for (field, value) in fields(turn) {
            let _ = write!(text, "{field}:{value}\r\n");
        }
    }
    turn.out.verbatim(&text);
    Ok(Step::Done)
}

/// Whether this node is one of several.
pub(super) fn mode(turn: &Turn<'_, '_>) -> &'static str {
    let view = turn.resp.router.protocol.view();
    let several = view.routes.as_ref().is_some_and(|routes| routes.layout.nodes().count() > 1);
    if several { "cluster" } else { "standalone" }
}

fn server(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    let uptime = turn.resp.since.elapsed().as_secs();
    vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("server_name", "counter-node".to_owned()),
        ("counter_node_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", mode(turn).to_owned()),
        ("node", turn.resp.router.protocol.me().to_string()),
        ("process_id", std::process::id().to_string()),
        ("tcp_port", turn.resp.address.port().to_string()),
        ("uptime_in_seconds", uptime.to_string()),
        ("uptime_in_days", (uptime / 86_400).to_string()),
    ]
}

fn clients(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    vec![
        ("connected_clients", turn.resp.port_metrics.connections_open().to_string()),
        ("maxclients", turn.resp.connections_max.to_string()),
    ]
}

fn memory(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    let limit = Some(turn.resp.memory_bytes_max).filter(|limit| *limit != u64::MAX).unwrap_or(0);
    vec![
        ("used_memory", turn.resp.router.owner.table.memory_bytes().to_string()),
        ("maxmemory", limit.to_string()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ]
}

fn persistence(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    // Loading is what clients wait for to end.
    let loading = !turn.resp.router.protocol.is_serving();
    vec![
        ("loading", u8::from(loading).to_string()),
        ("aof_enabled", u8::from(turn.resp.durability.is_some()).to_string()),
        ("writable", u8::from(*turn.resp.router.owner.committer.writable().borrow()).to_string()),
    ]
}

fn stats(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    vec![
        ("total_commands_processed", turn.resp.metrics.requests.load(Ordering::Relaxed).to_string()),
        ("total_error_replies", turn.resp.metrics.errors.load(Ordering::Relaxed).to_string()),
    ]
}

fn replication(_: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    // Every replica takes updates.
    vec![("role", "master".to_owned()), ("connected_slaves", "0".to_owned())]
}

fn cluster(_: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    vec![("cluster_enabled", "1".to_owned())]
}

fn keyspace(turn: &Turn<'_, '_>) -> Vec<(&'static str, String)> {
    let existing = scan::existing(turn);
    if existing == 0 { Vec::new() } else { vec![("db0", format!("keys={existing},expires=0,avg_ttl=0"))] }
}
