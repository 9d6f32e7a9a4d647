//! The machine and the peers that figures are of.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use serde::{Deserialize, Serialize};

use crate::Args;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) node: String,
    pub(crate) redis: String,
}

/// What was measured, where, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Of the tree that the tool was started in, and whether something in it differed from that.
    pub(crate) revision: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) machine: Machine,
}

impl Run {
    pub(crate) fn of(args: &Args) -> Self {
        Self { revision: revision(), rounds: args.rounds, seconds: args.seconds, machine: Machine::of(args) }
    }

    /// What of this run another one's page does not say yet.
    pub(crate) fn against(&self, page: &Self) -> String {
        if self.machine == page.machine { self.how() } else { self.to_string() }
    }

    fn how(&self) -> String {
        let Self { revision, rounds, seconds, .. } = self;
        format!("revision {revision}, medians of {rounds} interleaved rounds of {seconds} s")
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}; servers on core 0, load on core 1", self.machine, self.how())
    }
}

/// What this tool writes itself makes no tree dirty.
fn revision() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"]);
    match (head, git(&["status", "--porcelain", "--", ":/", ":(top,exclude)docs/benchmarks*"])) {
        (Some(head), Some(changes)) if changes.is_empty() => head,
        (Some(head), _) => format!("{head} and changes that are not committed"),
        (None, _) => "unknown".to_owned(),
    }
}

impl Machine {
    pub(crate) fn of(args: &Args) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned()));
        Self {
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            node: said_by(Command::new(&args.node).arg("--version")),
            redis: said_by(Command::new("redis-server").arg("--version")),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { processor, cores, kernel, node, redis } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}; {node}; {redis}")
    }
}

fn said_by(command: &mut Command) -> String {
    let output = command.output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let line = output.lines().next().unwrap_or("not installed");
    line.split(" sha=").next().unwrap_or(line).to_owned()
}

/// A fixed share of one processor for a process, by a control group that goes when this is dropped.
pub(crate) struct Share {
    group: PathBuf,
    parent: PathBuf,
}

/// The period over which a share is reckoned, in microseconds. Short, so that latencies stay small.
const PERIOD_US: u32 = 10_000;

impl Share {
    /// Gives the process `hundredths` of a processor and no more.
    pub(crate) fn give(pid: u32, hundredths: u32) -> anyhow::Result<Self> {
        let quota = PERIOD_US * hundredths / 100;
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let (parent, settings) = if first.join("cpu.cfs_quota_us").exists() {
            (first, vec![("cpu.cfs_period_us", PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota.to_string())])
        } else {
            (PathBuf::from("/sys/fs/cgroup"), vec![("cpu.max", format!("{quota} {PERIOD_US}"))])
        };
        let group = parent.join(format!("counter-bench-{pid}"));
        std::fs::create_dir(&group).with_context(|| format!("cannot make {}", group.display()))?;
        let share = Self { group, parent };
        for (name, value) in settings.into_iter().chain([("cgroup.procs", pid.to_string())]) {
            std::fs::write(share.group.join(name), value).with_context(|| format!("cannot set {name}"))?;
        }
        Ok(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A group with processes cannot be removed: they go back first.
        let members = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        members.lines().for_each(|pid| drop(std::fs::write(self.parent.join("cgroup.procs"), pid)));
        drop(std::fs::remove_dir(&self.group));
    }
}
