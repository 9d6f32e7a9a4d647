//! Live connections: what idle ones take, how soon a change reaches everyone, and whether the count is right after a storm.

mod fan;
mod idle;
mod joins;
mod storm;
mod viewer;

pub(crate) use fan::fan;
pub(crate) use idle::idle;
pub(crate) use joins::joins;
pub(crate) use storm::{Storm, storm};

use std::future::Future;
use std::thread;

use crate::Args;
use crate::row::Cores;
use crate::server::{Running, Server, Storage, pin_this_thread};

/// The page that everyone looks at.
const PAGE: &str = "front-page";

/// A node that takes as many connections as a process may have files here, as fast as they come.
fn start(args: &Args, server: Server) -> anyhow::Result<Running> {
    let flags = ["--max-connections", "19500", "--live-connections-max", "19000", "--live-connects-per-second", "1000000"];
    server.start_with(args, if matches!(server, Server::Node(_)) { &flags } else { &[] })
}

/// A node for live connections.
fn node(args: &Args) -> anyhow::Result<Running> {
    start(args, Server::Node(Storage::Memory))
}

/// Runs clients on the second core, all in one thread.
fn on_second_core<T: Send>(clients: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
    in_one_thread(Cores::Apart, clients)
}

/// Runs clients in a thread of their own, beside the server's core or on any.
fn in_one_thread<T: Send>(cores: Cores, clients: impl Future<Output = anyhow::Result<T>> + Send) -> anyhow::Result<T> {
    let run = move || {
        if cores == Cores::Apart {
            pin_this_thread(1)?;
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(clients)
    };
    thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow::anyhow!("the clients panicked"))?
}
