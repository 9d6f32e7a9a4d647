//! The load generator: wrk, pinned to the second core, and what its report says.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::Args;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Requests that were answered, per second.
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// What wrk sends: PUT with the ordinary body, on a thousand pages; or GET of the same.
const SCRIPT: &str = r#"
local method = os.getenv("BENCH_METHOD")
local counter = 0
request = function()
  counter = (counter + 7) % 1000
  local path = "/page-" .. counter .. "/counter"
  if method == "PUT" then
    return wrk.format("PUT", path, {["Content-Type"] = "application/json"}, '{"action":"increment"}')
  end
  return wrk.format("GET", path)
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %f %f %f %d %d\n", summary.requests * 1e6 / summary.duration,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"#;

/// Loads `address` with `method` requests.
pub(crate) fn run(args: &Args, address: SocketAddr, method: &str) -> anyhow::Result<Measured> {
    let mut script = tempfile::NamedTempFile::with_suffix(".lua")?;
    script.write_all(SCRIPT.as_bytes())?;
    let output = Command::new("taskset")
        .args(["-c", "1", "wrk", "--threads", "1"])
        .args(["--connections", &args.connections.to_string()])
        .args(["--duration", &format!("{}s", args.seconds)])
        .arg("--script")
        .arg(script.path())
        .arg(format!("http://{address}/"))
        .env("BENCH_METHOD", method)
        .output()
        .context("cannot run wrk; install the packages wrk and util-linux")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    let Some(result) = result else { bail!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)) };
    let numbers: Vec<f64> = result.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let &[per_second, p50_ms, p99_ms, refused, broken] = numbers.as_slice() else { bail!("wrk said `{result}`") };
    if refused + broken > 0.0 {
        bail!("{refused} requests were answered with an error, {broken} were not answered: the figure would mean nothing");
    }
    Ok(Measured { per_second, p50_ms, p99_ms })
}
