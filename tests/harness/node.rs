//! Real counter-node processes without Kubernetes, each on a loopback address of its own, and the operator's own client
//! to hand them layouts.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use counter_core::counter::Key;
use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Node as Entry, Shard};
use counter_core::proof::ClusterToken;
use counter_core::slot::{SLOTS, Slot, SlotRange};
use counter_core::status::NodeStatus;
use hyper::{Method, StatusCode};
use operator::nodes::{Address, NodeClient, Target};
use operator::telemetry::Metrics;
use tempfile::TempDir;
use tokio::process::Command;

use crate::http::Http;
use crate::power::trace;
use crate::process::{Process, signal};
use crate::programs;
use crate::wait::until;

/// The token of the tests' clusters.
pub const TOKEN: &str = "the token of the tests' clusters";
/// The id of the tests' clusters.
pub const CLUSTER: ClusterId = ClusterId(0xc0de);
/// The name of a node that is a cluster of its own.
pub const ALONE: &str = "local";

/// How long a node may take to stop in order: more than it gives itself.
const STOP_GRACE: Duration = Duration::from_secs(60);

/// One node: its addresses and its folder, which outlive its processes, and its process while there is one.
#[derive(Debug)]
pub struct TestNode {
    /// Its name and addresses, as layouts have them.
    pub entry: Entry,
    folder: PathBuf,
    flags: Vec<String>,
    envs: BTreeMap<String, String>,
    token: String,
    traced: Option<PathBuf>,
    process: Option<Process>,
}

impl TestNode {
    /// A node that is not running yet; its files are made below `folder`.
    ///
    /// # Errors
    /// When there are no ports, or no files can be made.
    pub fn new(folder: &Path, name: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let [http, admin, peer, resp] = addresses()?;
        let entry = Entry { name: name.into(), http, admin, peer, resp: Some(resp) };
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let mut node = Self { entry, folder, flags, envs: BTreeMap::new(), token: TOKEN.to_owned(), traced: None, process: None };
        node.set_token(TOKEN)?;
        Ok(node)
    }

    /// A node that is a cluster of its own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn alone(folder: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        Self::new(folder, ALONE, flags)
    }

    /// Gives it further flags, for the processes that are started from now on.
    pub fn add_flags(&mut self, flags: impl IntoIterator<Item = String>) {
        self.flags.extend(flags);
    }

    /// Gives it a variable of its environment, for the processes that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.envs.insert(name.to_owned(), value.to_owned());
    }

    /// Has the system calls of the processes that are started from now on written to a log, or not any more: see [`trace`].
    pub fn trace_to(&mut self, log: Option<PathBuf>) {
        self.traced = log;
    }

    /// Gives it another cluster token, which its process reads by itself.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_token(&mut self, token: &str) -> anyhow::Result<()> {
        token.clone_into(&mut self.token);
        Ok(std::fs::write(self.folder.join("token"), token)?)
    }

    /// Gives it another cluster token and, beside it, the one that it had, as a rotated Secret does.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn rotate_token(&mut self, token: &str) -> anyhow::Result<()> {
        std::fs::write(self.folder.join("previous"), &self.token)?;
        self.set_token(token)
    }

    /// Takes the previous token away.
    ///
    /// # Errors
    /// When there is none.
    pub fn end_rotation(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.folder.join("previous"))?)
    }

    /// Starts a process for it.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.process = Some(Process::start(self.command()?, &self.folder.join("log"))?);
        Ok(())
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; with the end of its log.
    pub async fn start_ready(&mut self) -> anyhow::Result<()> {
        self.start()?;
        self.ready().await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it does not become so; with the end of its log.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let (http, url) = (Http::default(), format!("{}/readyz", self.admin()));
        let ready = until("the node is ready", async || {
            let answer = http.send(Method::GET, &url, None).await?;
            anyhow::ensure!(answer.status == StatusCode::OK, "{}", String::from_utf8_lossy(&answer.body));
            Ok(())
        });
        ready.await.with_context(|| self.log_tail())
    }

    /// Runs it to its end, which should come by itself: how it ended, and all that it said.
    ///
    /// # Errors
    /// When it goes on running.
    pub async fn refused(&self) -> anyhow::Result<(Option<i32>, String)> {
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = tokio::time::timeout(STOP_GRACE, command.output()).await.context("the node did not refuse to start")??;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn command(&self) -> anyhow::Result<Command> {
        // A write beyond a limit of file size then fails as one to a full disk does, instead of killing the process.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
        if let Some(log) = &self.traced {
            command.args(trace::command(log)?);
        }
        command.arg(programs::ours("counter-node")?);
        command.arg("--data").arg(self.data());
        command.args(["--http", &self.entry.http, "--admin", &self.entry.admin, "--peer", &self.entry.peer]);
        command.args(self.entry.resp.iter().flat_map(|resp| ["--resp", resp]));
        if self.entry.name.0 != ALONE {
            command.args(["--name", &self.entry.name.0, "--cluster-token-file"]).arg(self.folder.join("token"));
        }
        command.args(&self.flags).envs(&self.envs);
        Ok(command)
    }

    /// Ends its process with SIGKILL.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Ends its process with SIGTERM.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        self.process.take().context("the node does not run")?.stop(STOP_GRACE).await
    }

    /// Stops its process for a while, and waits until every thread stands still: on a busy machine some run on for a moment.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn pause(&self) -> anyhow::Result<()> {
        let pid = self.pid().context("the node does not run")?;
        signal(pid, "STOP").await?;
        until("every thread stands still", async || {
            for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
                let status = std::fs::read_to_string(thread?.path().join("status"))?;
                anyhow::ensure!(status.contains("State:\tT"), "{status}");
            }
            Ok(())
        })
        .await
    }

    /// Lets its process go on after [`Self::pause`].
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn resume(&self) -> anyhow::Result<()> {
        signal(self.pid().context("the node does not run")?, "CONT").await
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The base of its public API's URLs.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://{}", self.entry.http)
    }

    /// Where it speaks the Redis protocol: its host and its port.
    ///
    /// # Errors
    /// When it does not.
    pub fn redis(&self) -> anyhow::Result<(&str, &str)> {
        self.entry.resp.as_deref().and_then(|resp| resp.rsplit_once(':')).context("the node has no Redis port")
    }

    /// The base of its admin port's URLs.
    #[must_use]
    pub fn admin(&self) -> String {
        format!("http://{}", self.entry.admin)
    }

    /// The node as the operator calls it.
    #[must_use]
    pub fn target(&self) -> Target {
        let alone = self.entry.name.0 == ALONE;
        let tokens = if alone { Vec::new() } else { vec![ClusterToken::new(self.token.as_bytes())] };
        Target {
            node: self.entry.name.clone(),
            address: Address::Direct(self.entry.admin.clone()),
            cluster: (!alone).then_some(CLUSTER),
            pod_uid: None,
            tokens: tokens.into(),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> anyhow::Result<NodeStatus> {
        Ok(operator().status(&self.target()).await?)
    }

    /// One of its metrics, named as in the text: with its labels, and the suffix of counters.
    ///
    /// # Errors
    /// When it does not answer, or has no such metric.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let answer = Http::default().send(Method::GET, &format!("{}/metrics", self.admin()), None).await?;
        let text = std::str::from_utf8(&answer.body)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("there is no metric {name} in\n{text}"))?.parse()?)
    }

    /// The end of what its processes have said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(Process::log_tail).unwrap_or_default()
    }
}

/// The operator's client of admin ports.
#[must_use]
pub fn operator() -> NodeClient {
    NodeClient::new(None, Metrics::default())
}

/// A cluster of some shards with as many replicas each, and its layout.
#[derive(Debug)]
pub struct Cluster {
    /// Shard by shard.
    pub nodes: Vec<TestNode>,
    pub layout: Layout,
    _folder: TempDir,
}

impl Cluster {
    /// A cluster that is not running yet, with even slots.
    ///
    /// # Errors
    /// As [`TestNode::new`].
    pub fn prepare(shards: u16, replicas: u16, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut nodes = Vec::new();
        let mut parts = Vec::new();
        for shard in 0..shards {
            let names = (0..replicas).map(|replica| NodeName::of("test", ShardId(shard), replica));
            let of_shard = names.map(|name| TestNode::new(folder.path(), &name.0, flags)).collect::<anyhow::Result<Vec<_>>>()?;
            let entries = of_shard.iter().map(|node| node.entry.clone()).collect();
            parts.push(Shard { shard: ShardId(shard), slots: vec![part(shard, shards)?], nodes: entries });
            nodes.extend(of_shard);
        }
        let layout = Layout {
            format: LAYOUT_FORMAT,
            cluster: CLUSTER,
            version: LayoutVersion(1),
            shards: parts,
            moves: Vec::new(),
            virtual_shards: Vec::new(),
        };
        Ok(Self { nodes, layout, _folder: folder })
    }

    /// A cluster that runs and is ready.
    ///
    /// # Errors
    /// When it does not become so.
    pub async fn start(shards: u16, replicas: u16, flags: &[&str]) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(shards, replicas, flags)?;
        cluster.run().await?;
        Ok(cluster)
    }

    /// Starts every node of a cluster that was prepared, and waits until all are ready.
    ///
    /// # Errors
    /// When they do not become so.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.start()?;
        }
        for node in &self.nodes {
            give(node, &self.layout).await?;
        }
        for node in &mut self.nodes {
            node.ready().await?;
        }
        Ok(())
    }

    /// The bases of all nodes' public URLs.
    #[must_use]
    pub fn bases(&self) -> Vec<String> {
        self.nodes.iter().map(TestNode::http).collect()
    }

    /// A page that `shard` owns.
    ///
    /// # Errors
    /// When there is no such shard.
    pub fn page_of(&self, shard: u16) -> anyhow::Result<String> {
        self.pages_of(shard).next().context("no page of this shard")
    }

    /// Pages that `shard` owns.
    pub fn pages_of(&self, shard: u16) -> impl Iterator<Item = String> {
        let owns = move |page: &String| {
            let slot = Key::new(page.as_bytes()).ok().map(|key| key.slot());
            slot.and_then(|slot| self.layout.owner(slot)).is_some_and(|owner| owner.shard == ShardId(shard))
        };
        (0..10_000).map(|number| format!("page-{number}")).filter(owns)
    }
}

/// Hands a node that may still be starting a layout.
///
/// # Errors
/// When it does not take it.
pub async fn give(node: &TestNode, layout: &Layout) -> anyhow::Result<()> {
    let (operator, target) = (operator(), node.target());
    until("the node takes the layout", async || Ok(operator.put_layout(&target, layout).await?))
        .await
        .with_context(|| node.log_tail())
}

/// The slots of one of `shards` even parts.
fn part(shard: u16, shards: u16) -> anyhow::Result<SlotRange> {
    let bound = |shard: u16| u16::try_from(u32::from(SLOTS) * u32::from(shard) / u32::from(shards));
    let (first, last) = (Slot::new(bound(shard)?), Slot::new(bound(shard + 1)? - 1));
    first.zip(last).and_then(|(first, last)| SlotRange::new(first, last)).context("no slots for this shard")
}

/// Four free ports on a loopback address that no other node of these tests has, so that they stay free while the node
/// is down.
fn addresses() -> anyhow::Result<[String; 4]> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = u8::try_from(std::process::id() % 200)?;
    let address = Ipv4Addr::new(127, 40 + process, high, low);
    let listeners = [(); 4].map(|()| TcpListener::bind((address, 0)));
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.push(listener?.local_addr()?.to_string());
    }
    <[String; 4]>::try_from(addresses).map_err(|_| anyhow::anyhow!("four ports were asked for"))
}
