//! Unread counts: what a modification costs whatever the number of subscribers, and how long a user's total takes over many pages.

use std::time::Instant;

use crate::Args;
use crate::cluster::Cluster;
use crate::figures::Figures;
use crate::http::Connection;
use crate::load::wrk::{self, Request};
use crate::row::CONNECTIONS;
use crate::server::{Server, Storage};

/// The page that the load modifies.
const PAGE: &str = "page-0";
/// As many as a user may have.
pub(crate) const SUBSCRIPTIONS: usize = 1_000;

/// Modifications of a page to which so many users subscribe.
pub(crate) fn modifications(args: &Args, subscribers: usize) -> anyhow::Result<Figures> {
    let node = Server::Node(Storage::Volume("EverySecond")).start(args)?;
    let mut site = Connection::open(node.http)?;
    for user in 0..subscribers {
        site.request("PUT", &format!("/users/user-{user}/subscriptions/{PAGE}"), b"")?;
    }
    wrk::run(args, node.http, &Request::Modify(PAGE.to_owned()), CONNECTIONS)
}

/// The total of a user who subscribes to [`SUBSCRIPTIONS`] pages of three shards, one request after the other.
pub(crate) fn totals(args: &Args) -> anyhow::Result<Figures> {
    let cluster = Cluster::start(args, Storage::Volume("EverySecond"), 3, 1)?;
    let mut site = Connection::open(cluster.nodes[0].http)?;
    for page in 0..SUBSCRIPTIONS {
        site.request("PUT", &format!("/users/reader/subscriptions/page-{page}"), b"")?;
        site.request("POST", &format!("/page-{page}/modifications"), b"")?;
    }
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed().as_secs() < args.seconds {
        let asked = Instant::now();
        let unread = site.count("GET", "/users/reader/unread")?;
        anyhow::ensure!(unread == i64::try_from(SUBSCRIPTIONS)?, "the total is {unread}");
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times.get(times.len() * share / 1000).copied();
    Ok(Figures { p50_ms: at(500), p99_ms: at(990), ..Figures::default() })
}
