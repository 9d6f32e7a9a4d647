//! The command line: the one place where flags and environment become values that the rest can trust.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use counter_core::id::NodeName;
use counter_core::table::TableLimits;

use crate::live::{AdmissionLimits, LiveConfig};
use crate::storage::{Fsync, RedisConfig, StoreConfig};
use crate::telemetry::LogFormat;

/// The exit code of a program that was called wrongly (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// The exit code when the data folder is corrupt or of a newer format (EX_DATAERR).
pub const EXIT_DATA: u8 = 65;
/// The exit code when the data folder is in use by another process (EX_TEMPFAIL).
pub const EXIT_IN_USE: u8 = 75;

/// The exit code when a file that a flag names cannot be used (EX_CONFIG).
pub const EXIT_CONFIG: u8 = 78;

/// The storage engine's own lines tell of its files, at every start.
const DEFAULT_FILTER: &str = "info,lsm_tree=warn";

/// What the keys of a node that is a cluster of its own begin with, if it is told nothing.
const DEFAULT_PREFIX: &str = "counter";
/// The name of a node that is a cluster of its own.
pub const ALONE: &str = "local";

const AFTER_HELP: &str = "\
Started without flags it is a whole cluster of one node, which keeps its counters in ./counter-data:

  counter-node
  curl -X PUT http://127.0.0.1:8080/front-page/counter    count a page up
  curl        http://127.0.0.1:8080/front-page/counter    read it
  http://127.0.0.1:8080/docs                              the API, to read and to try

As one of several it has a name, knows some peers, waits for a layout from them or from the operator, and shares a token
with them:

  counter-node --name page-views-0-1 --seeds page-views-0-0:8082 --cluster-token-file token

Exit codes: 0 stopped in order, 64 wrong flag, 65 data folder corrupt or of a newer format, 75 data folder in use.";

/// Counts: one node of a counter cluster, or a whole cluster of one.
#[derive(Debug, Parser)]
#[command(name = "counter-node", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Print the OpenAPI document of the public API as JSON.
    Openapi,
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// This node's name in its cluster, CLUSTER-SHARD-REPLICA; without it the node is a cluster of its own.
    #[arg(long, env = "COUNTER_NAME")]
    name: Option<String>,
    /// Where counters are kept; made when it does not exist.
    #[arg(long, env = "COUNTER_DATA", value_name = "DIR", default_value = "./counter-data")]
    data: PathBuf,
    /// Public API: a port, or ADDRESS:PORT.
    #[arg(long, env = "COUNTER_HTTP", value_name = "PORT", default_value = "8080", value_parser = parse_endpoint)]
    http: Endpoint,
    /// Probes, metrics, status and layout: a port, or ADDRESS:PORT.
    #[arg(long, env = "COUNTER_ADMIN", value_name = "PORT", default_value = "8081", value_parser = parse_endpoint)]
    admin: Endpoint,
    /// Node to node: a port, or ADDRESS:PORT.
    #[arg(long, env = "COUNTER_PEER", value_name = "PORT", default_value = "8082", value_parser = parse_endpoint)]
    peer: Endpoint,
    /// Redis protocol: a port, or ADDRESS:PORT; not spoken when absent.
    #[arg(long, env = "COUNTER_RESP", value_name = "PORT", value_parser = parse_endpoint)]
    resp: Option<Endpoint>,
    /// What a Redis client is answered at a node that does not own the counter: forward its request, or MOVED.
    #[arg(long, env = "COUNTER_RESP_REDIRECT", value_enum, default_value_t = Redirect::Forward)]
    resp_redirect: Redirect,
    /// Let Redis clients reset all counters of a node at once (FLUSHALL, FLUSHDB).
    #[arg(long, env = "COUNTER_RESP_FLUSH", action = clap::ArgAction::SetTrue)]
    resp_flush: bool,
    /// The address for ports that are given without one.
    #[arg(long, env = "COUNTER_BIND", value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Peer addresses to ask for the layout at start, HOST:PORT, separated by commas.
    #[arg(long, env = "COUNTER_SEEDS", value_name = "HOST:PORT", value_delimiter = ',', value_parser = parse_seed)]
    seeds: Vec<String>,
    /// The secret that the cluster's nodes and its operator share; read again when the file changes.
    #[arg(long, env = "COUNTER_CLUSTER_TOKEN_FILE", value_name = "FILE")]
    cluster_token_file: Option<PathBuf>,
    /// Bearer tokens, one a line, of which PUT, POST and DELETE of the public API need one; read again when the file changes.
    #[arg(long, env = "COUNTER_API_TOKEN_FILE", value_name = "FILE")]
    api_token_file: Option<PathBuf>,
    /// Keep counters on a volume (--data), in an external Redis or Valkey, or in memory only.
    #[arg(long, env = "COUNTER_STORAGE", value_enum, default_value_t = StorageKind::Volume)]
    storage: StorageKind,
    /// The file with the URL of that Redis, redis:// or rediss:// with TLS, a secret; read again when it changes.
    #[arg(long, env = "COUNTER_REDIS_URL_FILE", value_name = "FILE")]
    redis_url_file: Option<PathBuf>,
    /// What the node's keys in Redis begin with: the cluster's id, or for a node of its own any name.
    #[arg(long, env = "COUNTER_REDIS_PREFIX", value_name = "TEXT", value_parser = parse_prefix)]
    redis_prefix: Option<String>,
    /// When a volume's writes are forced to the disk: before each answer, each second, or when the kernel pleases.
    #[arg(long, env = "COUNTER_FSYNC", value_enum, default_value_t = FsyncMode::EverySecond)]
    fsync: FsyncMode,
    /// Who has an update before it is answered: one replica of its shard, or a majority.
    #[arg(long, env = "COUNTER_ACKS", value_enum, default_value_t = Acks::Local)]
    acks: Acks,
    /// The UID of the Pod that this process runs in; admin requests that name another are refused.
    #[arg(long, env = "COUNTER_POD_UID", value_name = "UID")]
    pod_uid: Option<String>,
    /// Host names in the form of /etc/hosts, consulted before DNS; read again when the file changes.
    #[arg(long, env = "COUNTER_HOSTS_FILE", value_name = "FILE")]
    hosts_file: Option<PathBuf>,
    /// Counters that the node holds before it refuses new ones.
    #[arg(long, env = "COUNTER_MAX_COUNTERS", value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_counters: u64,
    /// Memory that counters may take before new ones are refused: bytes, or with Ki, Mi or Gi; unlimited when absent.
    #[arg(long, env = "COUNTER_MAX_MEMORY", value_name = "BYTES", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Tokens that the node remembers before it refuses updates under new ones.
    #[arg(long, env = "COUNTER_MAX_TOKENS", value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    max_tokens: u64,
    /// For how many seconds an update's idempotency key is recognised; later it is refused. The same on all nodes.
    #[arg(long, env = "COUNTER_TOKEN_WINDOW", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    token_window: u64,
    /// Connections to the public API, and as many to the Redis port; one more is told so and closed.
    #[arg(long, env = "COUNTER_MAX_CONNECTIONS", value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// Requests of the public API at once; one more is answered 503.
    #[arg(long, env = "COUNTER_MAX_IN_FLIGHT", value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_in_flight: u32,
    /// The longest request body: bytes, or with Ki, Mi or Gi.
    #[arg(long, env = "COUNTER_MAX_BODY", value_name = "BYTES", default_value = "1Mi", value_parser = parse_bytes)]
    max_body: u64,
    /// Sites whose pages may use the API from a browser, https://HOST, separated by commas; `*`: any.
    #[arg(long, env = "COUNTER_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = parse_origin)]
    cors_origin: Vec<String>,
    /// A node that is silent for so many seconds has no viewers any more. The same on all nodes.
    #[arg(long, env = "COUNTER_PRESENCE_LEASE", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(3..=60))]
    presence_lease: u64,
    /// A viewer who is silent for so many seconds is gone; clients on live connections are asked twice as often.
    #[arg(long, env = "COUNTER_PRESENCE_HEARTBEAT", value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    presence_heartbeat: u64,
    /// Live connections (WebSocket, server-sent events) at once; three quarters of --max-connections when absent.
    #[arg(long, env = "COUNTER_LIVE_CONNECTIONS_MAX", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    live_connections_max: Option<u32>,
    /// Live connections at once from one address; no limit when absent. Behind a proxy all clients have the proxy's.
    #[arg(long, env = "COUNTER_LIVE_CONNECTIONS_PER_ADDRESS_MAX", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    live_connections_per_address_max: Option<u32>,
    /// New live connections a second; more are told to come again later.
    #[arg(long, env = "COUNTER_LIVE_CONNECTS_PER_SECOND", value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    live_connects_per_second: u32,
    /// Subscriptions of the users whose unread counts are followed here, all together; nobody else is followed then.
    #[arg(long, env = "COUNTER_LIVE_UNREAD_MAX", value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    live_unread_max: u32,
    /// Answer WebSocket conformance tests at /websocket/echo.
    #[arg(long, env = "COUNTER_WEBSOCKET_ECHO", action = clap::ArgAction::SetTrue, hide = true)]
    websocket_echo: bool,
    /// How long a stopping node lets requests end and hands over.
    #[arg(long, env = "COUNTER_SHUTDOWN_GRACE", value_name = "SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    shutdown_grace: u64,
    /// What is logged, as `info` or `warn,counter_node::peers=debug`.
    #[arg(long, env = "COUNTER_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    log: String,
    /// How log lines are written.
    #[arg(long, env = "COUNTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Stop when standard input closes, so that no child outlives its parent.
    #[arg(long, env = "COUNTER_EXIT_ON_STDIN_CLOSE", action = clap::ArgAction::SetTrue)]
    exit_on_stdin_close: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StorageKind {
    Volume,
    Redis,
    Memory,
}

// Spelled as in the DistributedCounter's spec, from which the operator takes the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum FsyncMode {
    Always,
    EverySecond,
    Never,
}

/// Who has an update before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Acks {
    /// The replica that applied it.
    Local,
    /// A majority of its shard.
    Quorum,
}

/// What a Redis client is answered about a counter of another shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Redirect {
    /// The owner's answer.
    Forward,
    /// MOVED, with the owner's address.
    Moved,
}

/// Where a port listens, before `--bind` has been considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Endpoint {
    address: Option<IpAddr>,
    port: u16,
}

impl Endpoint {
    fn on(self, bind: IpAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(bind), self.port)
    }
}

/// Everything that a node is told at start, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// None: a cluster of its own.
    pub name: Option<NodeName>,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub peer: SocketAddr,
    /// None: the Redis protocol is not spoken.
    pub resp: Option<SocketAddr>,
    pub resp_redirect: Redirect,
    /// Whether FLUSHALL and FLUSHDB are served.
    pub resp_flush: bool,
    /// `host:port` each.
    pub seeds: Vec<String>,
    pub cluster_token_file: Option<PathBuf>,
    pub api_token_file: Option<PathBuf>,
    pub store: StoreConfig,
    pub fsync: Fsync,
    pub acks: Acks,
    pub pod_uid: Option<String>,
    pub hosts_file: Option<PathBuf>,
    pub table: TableLimits,
    pub connections_max: usize,
    pub in_flight_max: usize,
    pub body_bytes_max: usize,
    pub cors_origins: Vec<String>,
    pub live: LiveConfig,
    /// Whether the WebSocket conformance tests' echo is served.
    pub websocket_echo: bool,
    pub shutdown_grace: Duration,
    pub log: String,
    pub log_format: LogFormat,
    pub exit_on_stdin_close: bool,
}

/// What the process was started for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Be a node.
    Run(Box<Config>),
    /// Print the OpenAPI document.
    Openapi,
}

/// Why there is no [`Command`].
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// A flag is wrong; one line that says which, and how.
    #[error("{0}")]
    Wrong(String),
    /// Help or the version was asked for: the text to print. Not a mistake.
    #[error("{0}")]
    Information(String),
}

impl Command {
    /// Reads the command line and the environment.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn read(argv: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let args = Args::try_parse_from(argv).map_err(|error| {
            if error.use_stderr() {
                UsageError::Wrong(one_line(&error.to_string()))
            } else {
                UsageError::Information(error.to_string())
            }
        })?;
        match args.command {
            Some(Subcommands::Openapi) => Ok(Self::Openapi),
            None => args.node.check().map(|config| Self::Run(Box::new(config))).map_err(UsageError::Wrong),
        }
    }
}

impl NodeArgs {
    fn check(self) -> Result<Config, String> {
        let (store, live) = (self.store()?, self.live());
        let config = Config {
            name: self.name.map(NodeName),
            http: self.http.on(self.bind),
            admin: self.admin.on(self.bind),
            peer: self.peer.on(self.bind),
            resp: self.resp.map(|resp| resp.on(self.bind)),
            resp_redirect: self.resp_redirect,
            resp_flush: self.resp_flush,
            seeds: self.seeds,
            cluster_token_file: self.cluster_token_file,
            api_token_file: self.api_token_file,
            // Redis has what is acknowledged before each answer; when that is on its disk, its own configuration says.
            fsync: match self.fsync {
                _ if matches!(store, StoreConfig::Redis(_)) => Fsync::Always,
                FsyncMode::Always => Fsync::Always,
                FsyncMode::EverySecond => Fsync::EverySecond,
                FsyncMode::Never => Fsync::Never,
            },
            store,
            acks: self.acks,
            pod_uid: self.pod_uid.filter(|uid| !uid.is_empty()),
            hosts_file: self.hosts_file,
            table: TableLimits {
                counters: self.max_counters,
                memory_bytes: self.max_memory.unwrap_or(u64::MAX),
                tokens: self.max_tokens,
                token_window_ms: self.token_window.saturating_mul(1_000),
            },
            connections_max: size(self.max_connections.into()),
            in_flight_max: size(self.max_in_flight.into()),
            body_bytes_max: size(self.max_body),
            cors_origins: self.cors_origin,
            live,
            websocket_echo: self.websocket_echo,
            shutdown_grace: Duration::from_secs(self.shutdown_grace),
            log: self.log,
            log_format: self.log_format,
            exit_on_stdin_close: self.exit_on_stdin_close,
        };
        config.check_name()?;
        config.check_addresses()?;
        Ok(config)
    }

    fn live(&self) -> LiveConfig {
        // What is left is for requests, and for those who are to be told that there are too many.
        let open = self.live_connections_max.unwrap_or((self.max_connections / 4).saturating_mul(3).max(1));
        LiveConfig {
            heartbeat: Duration::from_secs(self.presence_heartbeat),
            lease: Duration::from_secs(self.presence_lease),
            admission: AdmissionLimits {
                open: size(open.into()),
                per_address: self.live_connections_per_address_max.map(|limit| size(limit.into())),
                per_second: self.live_connects_per_second,
            },
            unread_max: size(self.live_unread_max.into()),
        }
    }

    fn store(&self) -> Result<StoreConfig, String> {
        let kind = self.storage;
        match (kind, &self.redis_url_file) {
            (StorageKind::Volume | StorageKind::Memory, Some(_)) => Err("--redis-url-file needs --storage redis".to_owned()),
            (StorageKind::Volume, None) => Ok(StoreConfig::Volume(self.data.clone())),
            (StorageKind::Memory, None) => Ok(StoreConfig::Memory),
            (StorageKind::Redis, None) => Err("--storage redis needs --redis-url-file".to_owned()),
            (StorageKind::Redis, Some(url_file)) => {
                let prefix = match (&self.redis_prefix, &self.name) {
                    (Some(prefix), _) => prefix.clone(),
                    (None, None) => DEFAULT_PREFIX.to_owned(),
                    (None, Some(_)) => {
                        return Err("--storage redis needs --redis-prefix, the cluster's id: clusters and nodes of one name \
                                    may share a Redis"
                            .to_owned());
                    }
                };
                let node = self.name.clone().unwrap_or_else(|| ALONE.to_owned());
                Ok(StoreConfig::Redis(RedisConfig { url_file: url_file.clone(), prefix, node }))
            }
        }
    }
}

impl Config {
    fn check_name(&self) -> Result<(), String> {
        match &self.name {
            None if !self.seeds.is_empty() => {
                Err("--seeds needs --name: a node without a name is a cluster of its own".to_owned())
            }
            Some(name) if !is_node_name(&name.0) => {
                Err(format!("--name `{name}` is no node name: expected CLUSTER-SHARD-REPLICA, as page-views-0-1"))
            }
            None | Some(_) => Ok(()),
        }
    }

    /// Without a token anyone who reaches the admin or the peer port could change counters, so only this machine may.
    fn check_addresses(&self) -> Result<(), String> {
        let resp = self.resp.map(|address| ("--resp", address));
        let ports: Vec<_> =
            [("--http", self.http), ("--admin", self.admin), ("--peer", self.peer)].into_iter().chain(resp).collect();
        for (index, (flag, address)) in ports.iter().enumerate() {
            let needs_token = matches!(*flag, "--admin" | "--peer") && self.cluster_token_file.is_none();
            if needs_token && !address.ip().is_loopback() {
                return Err(format!("{flag} {address} is not a loopback address, which needs --cluster-token-file"));
            }
            let same = |other: &&(&str, SocketAddr)| address.port() != 0 && other.1 == *address;
            if let Some((other, _)) = ports[..index].iter().find(same) {
                return Err(format!("{other} and {flag} are both {address}"));
            }
        }
        Ok(())
    }
}

/// `CLUSTER-SHARD-REPLICA`, where the cluster's name is a DNS label.
fn is_node_name(name: &str) -> bool {
    let mut parts = name.rsplitn(3, '-');
    let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u16>().is_ok());
    let numbered = number(parts.next()) && number(parts.next());
    let label = |cluster: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !cluster.is_empty() && cluster.bytes().all(plain)
    };
    numbered && name.len() <= 63 && parts.next().is_some_and(label)
}

/// clap explains itself over several lines; the first paragraph says what is wrong.
fn one_line(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or(text);
    let joined = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.strip_prefix("error: ").map(str::to_owned).unwrap_or(joined)
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    if let Ok(port) = text.parse() {
        return Ok(Endpoint { address: None, port });
    }
    text.parse::<SocketAddr>()
        .map(|address| Endpoint { address: Some(address.ip()), port: address.port() })
        .map_err(|_| "expected a port or ADDRESS:PORT".to_owned())
}

/// An origin as browsers send it, or the star for all.
fn parse_origin(text: &str) -> Result<String, String> {
    let valid = text.split_once("://").is_some_and(|(scheme, host)| {
        matches!(scheme, "http" | "https") && !host.is_empty() && !host.contains(['/', '?', '#', ' ', '*']) && text.is_ascii()
    });
    if valid || text == "*" {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("expected https://HOST, http://HOST:PORT or *".to_owned())
    }
}

fn parse_seed(text: &str) -> Result<String, String> {
    let valid = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if valid { Ok(text.to_owned()) } else { Err("expected HOST:PORT".to_owned()) }
}

/// Text that needs no escaping in keys, nor in patterns over them.
fn parse_prefix(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let valid = !text.is_empty() && text.len() <= 63 && text.bytes().all(plain);
    if valid { Ok(text.to_owned()) } else { Err("expected 1 to 63 letters, digits, `-`, `_` or `.`".to_owned()) }
}

/// Reads `4096`, `64Ki`, `1Mi` or `2Gi`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused = || "expected bytes such as 65536, 64Ki, 1Mi or 2Gi, more than nothing".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_bytes = match unit {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => return Err(refused()),
    };
    let number: u64 = number.parse().map_err(|_| refused())?;
    number.checked_mul(unit_bytes).filter(|bytes| *bytes > 0).ok_or_else(refused)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
