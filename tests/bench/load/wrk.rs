//! HTTP load: wrk, and what its report says.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use crate::Args;
use crate::bare;
use crate::figures::Figures;
use crate::http::Connection;
use crate::server::pinned;

/// What wrk sends, over a thousand pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Get,
    /// With the ordinary body.
    Put,
    /// The same, but on these pages.
    PutOn(Vec<String>),
    /// `POST /{page}/modifications` of this page.
    Modify(String),
    /// `POST /counters`, so many updates each. Operations are updates.
    Batch(usize),
}

impl Request {
    /// Operations for each request.
    fn weight(&self) -> f64 {
        match self {
            Self::Batch(updates) => f64::from(u32::try_from(*updates).unwrap_or(u32::MAX)),
            _ => 1.0,
        }
    }

    /// The pages that are named.
    fn pages(&self) -> Vec<String> {
        match self {
            Self::PutOn(pages) => pages.clone(),
            Self::Modify(page) => vec![page.clone()],
            Self::Get | Self::Put | Self::Batch(_) => (0..1000).map(|page| format!("page-{page}")).collect(),
        }
    }

    fn script(&self) -> String {
        let mut pages = self.pages();
        if let Self::Batch(updates) = self {
            pages = pages.chunks(*updates).map(batch).collect();
        }
        let mut script = "local items = {\n".to_owned();
        pages.iter().for_each(|page| script.push_str(&format!("  [==[{page}]==],\n")));
        script.push_str("}\nlocal json = {[\"Content-Type\"] = \"application/json\"}\n");
        script.push_str(match self {
            Self::Get => "local function make(item) return wrk.format('GET', '/' .. item .. '/counter') end\n",
            Self::Modify(_) => "local function make(item) return wrk.format('POST', '/' .. item .. '/modifications') end\n",
            Self::Batch(_) => "local function make(item) return wrk.format('POST', '/counters', json, item) end\n",
            Self::Put | Self::PutOn(_) => {
                "local function make(item) return wrk.format('PUT', '/' .. item .. '/counter', json, '{\"action\":\"increment\"}') end\n"
            }
        });
        script.push_str(SCRIPT);
        script
    }
}

/// Counts every page of a load to what the bare server says, so that what is read is there, and answers are as long on both sides.
pub(crate) fn fill(address: SocketAddr, request: &Request) -> anyhow::Result<()> {
    let mut connection = Connection::open(address)?;
    let body = format!(r#"{{"action":"increment","by":{}}}"#, bare::COUNT);
    for page in request.pages() {
        let answer = connection.request("PUT", &format!("/{page}/counter"), body.as_bytes())?;
        let answer = String::from_utf8_lossy(&answer);
        anyhow::ensure!(answer.len() == bare::ANSWER.len(), "`{answer}` is not as long as the bare server's `{}`", bare::ANSWER);
    }
    Ok(())
}

fn batch(pages: &[String]) -> String {
    let updates: Vec<_> = pages.iter().map(|page| serde_json::json!({ "page": page, "action": "increment" })).collect();
    serde_json::json!({ "updates": updates }).to_string()
}

/// Requests are made beforehand: the generator must not be what is measured.
const SCRIPT: &str = r#"
local requests = {}
local next = 0
init = function() for i, item in ipairs(items) do requests[i] = make(item) end end
request = function()
  next = (next + 7) % #requests
  return requests[next + 1]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %f %f %f %f %d %d\n", summary.requests * 1e6 / summary.duration,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"#;

/// A wrk that runs.
pub(crate) struct Wrk {
    child: std::process::Child,
    weight: f64,
    _script: tempfile::NamedTempFile,
}

impl Wrk {
    pub(crate) fn start(address: SocketAddr, request: &Request, connections: usize, seconds: u64) -> anyhow::Result<Self> {
        let mut script = tempfile::NamedTempFile::with_suffix(".lua")?;
        script.write_all(request.script().as_bytes())?;
        let child = pinned(1)
            .args(["wrk", "--threads", "1", "--connections", &connections.to_string()])
            .args(["--duration", &format!("{seconds}s"), "--script"])
            .arg(script.path())
            .arg(format!("http://{address}/"))
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .context("cannot run wrk; install the packages wrk and util-linux")?;
        Ok(Self { child, weight: request.weight(), _script: script })
    }

    pub(crate) fn finish(self) -> anyhow::Result<Figures> {
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let result = text.lines().find_map(|line| line.strip_prefix("RESULT "));
        let Some(result) = result else { bail!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr)) };
        let numbers: Vec<f64> = result.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let &[per_second, p50, p99, p999, refused, broken] = numbers.as_slice() else { bail!("wrk said `{result}`") };
        if refused + broken > 0.0 {
            bail!("{refused} requests were answered with an error, {broken} were not answered: the figure would mean nothing");
        }
        let [p50_ms, p99_ms, p999_ms] = [p50, p99, p999].map(Some);
        Ok(Figures { per_second: Some(per_second * self.weight), p50_ms, p99_ms, p999_ms, ..Figures::default() })
    }
}

/// Loads `address` for as long as the arguments say.
pub(crate) fn run(args: &Args, address: SocketAddr, request: &Request, connections: usize) -> anyhow::Result<Figures> {
    Wrk::start(address, request, connections, args.seconds)?.finish()
}
