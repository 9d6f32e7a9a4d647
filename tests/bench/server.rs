//! The servers that are measured: each is started afresh, on the first core, with a folder of its own.

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::Args;
use crate::http::Connection;

/// How long a server may take to count as it should.
const COUNTS_WITHIN: Duration = Duration::from_secs(300);

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    BareHyper,
    BareWebSockets,
    Node(Storage),
    Redis(Aof),
}

/// How a node keeps what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Memory,
    Volume(&'static str),
}

/// How Redis keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aof {
    Off,
    EverySecond,
    Always,
}

/// A server that runs, until it is dropped.
pub(crate) struct Running {
    child: Child,
    program: Vec<OsString>,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) resp: SocketAddr,
    _folder: TempDir,
}

impl Server {
    pub(crate) fn start(self, args: &Args) -> anyhow::Result<Running> {
        self.start_with(args, &[])
    }

    /// Starts the server with some arguments more, and waits until it answers connections.
    pub(crate) fn start_with(self, args: &Args, more: &[&str]) -> anyhow::Result<Running> {
        let folder = tempfile::tempdir()?;
        let [http, admin, peer, resp] = free_addresses()?;
        let mut command;
        match self {
            Self::BareHyper => {
                command = Command::new(std::env::current_exe()?);
                command.args(["--serve-bare", &http.to_string()]);
            }
            Self::BareWebSockets => {
                command = Command::new(std::env::current_exe()?);
                command.args(["--serve-broadcast", &http.to_string()]);
            }
            Self::Node(storage) => {
                command = Command::new(&args.node);
                node(&mut command, storage, folder.path());
                let ports = [("--http", http), ("--admin", admin), ("--peer", peer), ("--resp", resp)];
                command.args(ports.into_iter().flat_map(|(flag, address)| [flag.to_owned(), address.to_string()]));
            }
            Self::Redis(aof) => {
                command = Command::new("redis-server");
                redis(&mut command, aof, folder.path(), resp);
            }
        }
        command.args(more);
        let program: Vec<OsString> = [command.get_program()].into_iter().chain(command.get_args()).map(OsString::from).collect();
        let mut running = Running { child: spawn(pinned(0), &program)?, program, http, admin, peer, resp, _folder: folder };
        let ports = match self {
            Self::Redis(_) => vec![resp],
            // One port after the other.
            Self::Node(_) => vec![http, resp],
            Self::BareHyper | Self::BareWebSockets => vec![http],
        };
        ports.into_iter().try_for_each(|port| running.wait_until_it_listens(port))?;
        Ok(running)
    }
}

fn node(command: &mut Command, storage: Storage, folder: &Path) {
    match storage {
        Storage::Memory => command.args(["--storage", "memory"]),
        Storage::Volume(fsync) => command.args(["--storage", "volume", "--fsync", fsync]),
    };
    command.args(["--max-counters", "20000000", "--max-memory", "16Gi"]).arg("--data").arg(folder);
}

fn redis(command: &mut Command, aof: Aof, folder: &Path, address: SocketAddr) {
    command.args(["--save", "", "--bind", &address.ip().to_string(), "--port", &address.port().to_string()]);
    command.arg("--dir").arg(folder);
    match aof {
        Aof::Off => command.args(["--appendonly", "no"]),
        Aof::EverySecond => command.args(["--appendonly", "yes", "--appendfsync", "everysec"]),
        Aof::Always => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
    };
}

fn spawn(mut command: Command, program: &[OsString]) -> anyhow::Result<Child> {
    command.args(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("cannot start the server; it takes util-linux, and redis-server for its rows")
}

/// A command that runs on this core only.
pub(crate) fn pinned(core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]);
    command
}

/// Has the calling thread run on this core only.
pub(crate) fn pin_this_thread(core: usize) -> anyhow::Result<()> {
    let thread = std::fs::read_link("/proc/thread-self")?;
    let number = thread.file_name().context("/proc has another format")?;
    taskset(&["-p".as_ref(), "-c".as_ref(), core.to_string().as_ref(), number])
}

/// Has something that is running run on other cores.
fn taskset(arguments: &[&OsStr]) -> anyhow::Result<()> {
    let done = Command::new("taskset").args(arguments).stdout(Stdio::null()).status()?;
    anyhow::ensure!(done.success(), "taskset failed: {done}");
    Ok(())
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process and starts another, on all cores and with the same folder. Does not wait for it.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let mut everywhere = Command::new("env");
        everywhere.arg("--");
        self.child = spawn(everywhere, &self.program)?;
        Ok(())
    }

    /// From now on it runs on all cores.
    pub(crate) fn spread(&self) -> anyhow::Result<()> {
        let last = std::thread::available_parallelism()?.get() - 1;
        let (cores, process) = (format!("0-{last}"), self.pid().to_string());
        taskset(&["-a".as_ref(), "-p".as_ref(), "-c".as_ref(), cores.as_ref(), process.as_ref()])
    }

    /// Waits until a GET of this path is answered with this count.
    pub(crate) fn wait_until_it_counts(&mut self, path: &str, count: i64) -> anyhow::Result<()> {
        let deadline = Instant::now() + COUNTS_WITHIN;
        let mut last = String::new();
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}");
            }
            // While it is starting this waits, too: its port is open, and nobody answers.
            match Connection::open(self.http).and_then(|mut connection| connection.count("GET", path)) {
                Ok(counted) if counted == count => return Ok(()),
                Ok(counted) => last = format!("it counts {counted}"),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{path} does not count {count} after {COUNTS_WITHIN:?}: {last}")
    }

    /// One of a node's metrics that has no labels.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = String::from_utf8(Connection::open(self.admin)?.request("GET", "/metrics", b"")?)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no metric {name}"))?.parse()?)
    }

    /// Processor time so far, user and kernel.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // Behind the name, which may hold anything: state, and 11 fields before utime and stime, in hundredths of a second.
        let (_, fields) = stat.rsplit_once(')').context("/proc has another format")?;
        let ticks: u64 = fields.split_ascii_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc tells no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0)
    }

    /// Waits until the port takes connections.
    pub(crate) fn wait_until_it_listens(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
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
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// All held until the last is found, so that no two are the same.
fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    let listeners: Vec<TcpListener> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let addresses: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    addresses.try_into().map_err(|_| anyhow::anyhow!("no {N} free ports"))
}
