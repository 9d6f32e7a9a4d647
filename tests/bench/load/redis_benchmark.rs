//! RESP load: redis-benchmark, and what its report says.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use super::fill;
use crate::Args;
use crate::figures::Figures;
use crate::server::pinned;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Incr,
    Get,
}

/// The key of every request, in which redis-benchmark puts a number of 12 digits where it is told to draw one, and nothing where it
/// is not.
const KEY: &str = "counter:__rand_int__";

/// Counts every key of a load once, so that reads have something to find and updates something to add to.
pub(crate) fn fill(address: SocketAddr, keys: u64) -> anyhow::Result<()> {
    fill::run_named(
        address,
        keys,
        |number| if keys == 1 { KEY.to_owned() } else { KEY.replace("__rand_int__", &format!("{number:012}")) },
    )
}

/// Requests of a first, short run, which tells how many make up the time of the real one.
const TRIAL: u64 = 20_000;

/// How many requests make up about as long a run as the arguments say.
pub(crate) fn calibrate(
    args: &Args,
    address: SocketAddr,
    command: Command,
    clients: usize,
    pipeline: usize,
    keys: u64,
) -> anyhow::Result<u64> {
    let per_second = |requests| Ok(run(address, command, clients, pipeline, keys, requests)?.per_second.unwrap_or_default());
    let first: anyhow::Result<f64> = per_second(TRIAL);
    // A rate that a few milliseconds gave says little: the second trial is a tenth of the run.
    let second: anyhow::Result<f64> = per_second(requests(first?, args.seconds * 100));
    Ok(requests(second?, args.seconds * 1000))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of requests for a command line")]
fn requests(per_second: f64, milliseconds: u64) -> u64 {
    let seconds = std::time::Duration::from_millis(milliseconds).as_secs_f64();
    ((per_second * seconds) as u64).max(TRIAL)
}

/// Loads `address` with so many requests. One key when `keys` is 1, else random ones of so many.
pub(crate) fn run(
    address: SocketAddr,
    command: Command,
    clients: usize,
    pipeline: usize,
    keys: u64,
    requests: u64,
) -> anyhow::Result<Figures> {
    let mut benchmark = pinned(1);
    benchmark.args(["redis-benchmark", "-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    benchmark.args(["-c", &clients.to_string(), "-P", &pipeline.to_string(), "-n", &requests.to_string()]);
    if keys > 1 {
        benchmark.args(["-r", &keys.to_string()]);
    }
    let verb = match command {
        Command::Incr => "INCR",
        Command::Get => "GET",
    };
    let output = benchmark.args([verb, KEY]).output().context("cannot run redis-benchmark; install redis-tools")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || text.contains("Error") || stderr.contains("Error from server") {
        bail!("redis-benchmark failed: {text}{stderr}");
    }
    read(&text).with_context(|| format!("redis-benchmark said `{text}`"))
}

/// The figures in a report for people, the only one that goes past the 99th percentile. Progress stands before it, each line of
/// which a carriage return ends.
fn read(report: &str) -> Option<Figures> {
    let mut lines = report.split(['\r', '\n']).map(str::trim).skip_while(|line| *line != "Latency by percentile distribution:");
    // Each a percentile and the latency that it is at most, to the longest; the first beyond is the least that is told of 99.9 %.
    let percentile = |line: &str| {
        let (share, rest) = line.split_once("% <= ")?;
        Some((share.parse::<f64>().ok()?, rest.split_once(" milliseconds")?.0.parse::<f64>().ok()?))
    };
    let (_, p999) = lines.by_ref().skip(1).map_while(percentile).find(|(share, _)| *share >= 99.9)?;
    let per_second = lines.by_ref().find_map(|line| line.strip_prefix("throughput summary: "))?.split_once(' ')?.0;
    let numbers = |line: &str| line.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>().ok();
    // avg min p50 p95 p99 max
    let summary = lines.skip_while(|line| !line.starts_with("avg")).nth(1).and_then(numbers)?;
    let &[_, _, p50, _, p99, _] = summary.as_slice() else { return None };
    Some(Figures {
        per_second: Some(per_second.parse().ok()?),
        p50_ms: Some(p50),
        p99_ms: Some(p99),
        p999_ms: Some(p999),
        ..Figures::default()
    })
}
