//! `operator local` as its users run it: a program, a YAML file, and `endpoints.json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;
use crate::wait::until;
use crate::{ports, programs};

/// A running `operator local`, with its folder.
#[derive(Debug)]
pub struct Local {
    folder: TempDir,
    process: Process,
    base_port: u16,
}

#[derive(Debug, Deserialize)]
struct Endpoints {
    clusters: Vec<Cluster>,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    nodes: Vec<Node>,
}

/// A node as `endpoints.json` tells of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub pid: Option<u32>,
    pub ready: bool,
    pub http: String,
    pub admin: String,
}

impl Local {
    /// Starts it with this file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(yaml: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("clusters.yaml"), yaml)?;
        let base_port = ports::free()?;
        let process = run(folder.path(), base_port)?;
        Ok(Self { folder, process, base_port })
    }

    /// Starts it anew, after it has stopped, with the same folder.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.process = run(self.folder.path(), self.base_port)?;
        Ok(())
    }

    /// Replaces the file, as editors do.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edit(&self, yaml: &str) -> anyhow::Result<()> {
        let (new, file) = (self.folder.path().join("new.yaml"), self.folder.path().join("clusters.yaml"));
        std::fs::write(&new, yaml)?;
        Ok(std::fs::rename(new, file)?)
    }

    /// The nodes that `endpoints.json` names now.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        nodes(&self.endpoints())
    }

    /// Where `endpoints.json` is.
    #[must_use]
    pub fn endpoints(&self) -> PathBuf {
        self.folder.path().join("data/endpoints.json")
    }

    /// Waits until so many nodes run and are all ready.
    ///
    /// # Errors
    /// When that takes too long; with the end of the operator's log.
    pub async fn ready(&self, count: usize) -> anyhow::Result<Vec<Node>> {
        until("all nodes are ready", async || {
            let nodes = self.nodes()?;
            let ready = nodes.iter().filter(|node| node.ready).count();
            anyhow::ensure!(nodes.len() == count && ready == count, "{ready} of {} nodes are ready, {count} wanted", nodes.len());
            Ok(nodes)
        })
        .await
        .with_context(|| self.process.log_tail())
    }

    /// Stops it as Ctrl-C does.
    ///
    /// # Errors
    /// When it does not stop in order.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process.stop_by("INT", Duration::from_secs(60)).await?;
        anyhow::ensure!(status.success(), "ended with {status}: {}", self.process.log_tail());
        Ok(())
    }

    /// Kills it, as the system would that has run out of memory.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// The end of what it has said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// The nodes that an `endpoints.json` names.
///
/// # Errors
/// When it cannot be read.
pub fn nodes(endpoints: &Path) -> anyhow::Result<Vec<Node>> {
    let text = std::fs::read(endpoints).with_context(|| format!("cannot read {}", endpoints.display()))?;
    let endpoints: Endpoints = serde_json::from_slice(&text)?;
    Ok(endpoints.clusters.into_iter().flat_map(|cluster| cluster.nodes).collect())
}

fn run(folder: &Path, base_port: u16) -> anyhow::Result<Process> {
    let mut command = Command::new(programs::ours("operator")?);
    command.arg("local").arg(folder.join("clusters.yaml"));
    command.arg("--data").arg(folder.join("data")).args(["--base-port", &base_port.to_string()]);
    command.arg("--node-binary").arg(programs::ours("counter-node")?);
    Process::start(command, &folder.join("operator.log"))
}
