//! What is measured: each row is one server, started afresh on the first core, and one kind of request.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::Args;
use crate::wrk::{self, Measured};

/// How the server keeps what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Bare,
    Memory,
    Volume(&'static str),
}

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) server: Server,
    pub(crate) method: &'static str,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let server = match self.server {
            Server::Bare => "bare hyper".to_owned(),
            Server::Memory => "memory".to_owned(),
            Server::Volume(fsync) => format!("volume {fsync}"),
        };
        f.pad(&format!("{} {server}", self.method))
    }
}

impl Row {
    /// All rows, in the order of a round.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let servers =
            [Server::Bare, Server::Memory, Server::Volume("Never"), Server::Volume("EverySecond"), Server::Volume("Always")];
        // What a read costs does not depend on the mode.
        let reads = servers.into_iter().filter(|server| !matches!(server, Server::Volume("Never" | "Always")));
        let puts = servers.into_iter().map(|server| Self { server, method: "PUT" });
        puts.chain(reads.map(|server| Self { server, method: "GET" }))
    }

    /// The row that this one is compared with.
    pub(crate) fn peer(self) -> Self {
        Self { server: Server::Bare, ..self }
    }

    /// Starts the server, loads it, and ends it.
    pub(crate) fn measure(self, args: &Args) -> anyhow::Result<Measured> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let mut running = Running(self.command(args, address, folder.path())?.spawn().context("cannot start the server")?);
        running.wait_until_it_listens(address)?;
        wrk::run(args, address, self.method)
    }

    fn command(self, args: &Args, address: SocketAddr, folder: &std::path::Path) -> anyhow::Result<Command> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).stdout(Stdio::null()).stderr(Stdio::null());
        match self.server {
            Server::Bare => {
                command.arg(std::env::current_exe()?).args(["--serve-bare", &address.to_string()]);
            }
            Server::Memory => {
                command.arg(&args.node).args(["--storage", "memory"]);
            }
            Server::Volume(fsync) => {
                command.arg(&args.node).args(["--storage", "volume", "--fsync", fsync]);
            }
        }
        if self.server != Server::Bare {
            command.args(["--http", &address.to_string(), "--admin", "127.0.0.1:0", "--peer", "127.0.0.1:0"]);
            command.arg("--data").arg(folder);
        }
        Ok(command)
    }
}

struct Running(Child);

impl Running {
    fn wait_until_it_listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.0.try_wait()? {
                bail!("the server ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("the server does not listen on {address} after 20 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
