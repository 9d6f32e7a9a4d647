//! The operator's command line: the one place where flags and environment become values that the rest can trust.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// The exit code of a program that was called wrongly (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;

/// kube's own spans repeat what ours say.
const DEFAULT_FILTER: &str = "info,kube_runtime=warn,kube_client=warn";

/// Runs counter clusters: on Kubernetes from `DistributedCounter` objects, or as local processes from a file.
#[derive(Debug, Parser)]
#[command(name = "operator", version, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconcile the DistributedCounters of a Kubernetes cluster.
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
    /// Run the clusters in a YAML file as local processes, and follow edits of the file.
    Local(LocalArgs),
}

/// `operator run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// Namespaces to watch, separated by commas; all of them when absent.
    #[arg(long = "namespace", env = "OPERATOR_NAMESPACE", value_delimiter = ',', value_name = "NS")]
    pub namespaces: Vec<String>,
    /// How nodes are reached: by Pod address, or through the API server's proxy (from outside of the cluster).
    #[arg(long, env = "OPERATOR_REACH", value_enum, default_value_t = Reach::Pod)]
    pub reach: Reach,
    /// The image of clusters that name none.
    #[arg(long, env = "OPERATOR_DEFAULT_IMAGE", value_name = "IMAGE")]
    pub default_image: Option<String>,
    /// The pull policy of nodes' Pods; Kubernetes' own default when absent.
    #[arg(long, env = "OPERATOR_IMAGE_PULL_POLICY", value_enum, value_name = "POLICY")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Whether clusters get a NetworkPolicy that keeps others from their peer port.
    #[arg(long, env = "OPERATOR_NETWORK_POLICY", action = ArgAction::Set, default_value_t = true, value_name = "BOOL")]
    pub network_policy: bool,
    /// Where probes and metrics are served: a port, or ADDRESS:PORT.
    #[arg(long, env = "OPERATOR_HEALTH", default_value = "8080", value_parser = parse_endpoint, value_name = "PORT")]
    pub health: Endpoint,
    /// The address for `--health` when that names a port only.
    #[arg(long, env = "OPERATOR_BIND", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDRESS")]
    pub bind: IpAddr,
    #[command(flatten)]
    pub election: ElectionArgs,
    #[command(flatten)]
    pub logging: LogArgs,
    /// Abort right after the n-th write to the API succeeded: fault injection for tests.
    #[arg(long, env = "OPERATOR_CRASH_AFTER_WRITES", hide = true, value_name = "N")]
    pub crash_after_writes: Option<u64>,
}

/// Which of several operators acts.
#[derive(Debug, Clone, ClapArgs)]
pub struct ElectionArgs {
    /// Whether to act only while holding the Lease; off for a single operator started by hand.
    #[arg(long, env = "OPERATOR_LEADER_ELECT", action = ArgAction::Set, default_value_t = true, value_name = "BOOL")]
    pub leader_elect: bool,
    /// The Lease's namespace; the operator's own when absent.
    #[arg(long, env = "OPERATOR_LEASE_NAMESPACE", value_name = "NS")]
    pub lease_namespace: Option<String>,
    #[arg(long, env = "OPERATOR_LEASE_NAME", default_value = "distributed-counter-operator", value_name = "NAME")]
    pub lease_name: String,
    /// For how long a leader that is silent is believed to be alive.
    #[arg(long, env = "OPERATOR_LEASE_DURATION", default_value = "15s", value_parser = parse_duration, value_name = "TIME")]
    pub lease_duration: Duration,
    /// How old its last renewal may be before a leader stops itself; less than the lease's duration.
    #[arg(long, env = "OPERATOR_RENEW_DEADLINE", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub renew_deadline: Duration,
    /// The time between two tries to take or renew the Lease; less than the renew deadline.
    #[arg(long, env = "OPERATOR_RETRY_PERIOD", default_value = "2s", value_parser = parse_duration, value_name = "TIME")]
    pub retry_period: Duration,
}

/// `operator local FILE`.
#[derive(Debug, Clone, ClapArgs)]
pub struct LocalArgs {
    /// The YAML file with one or more DistributedCounters.
    pub file: PathBuf,
    /// The folder for the clusters' data and `endpoints.json`.
    #[arg(long, env = "OPERATOR_DATA", default_value = "./operator-data", value_name = "DIR")]
    pub data: PathBuf,
    /// The counter-node program; when absent, the one beside this program, then the one in PATH.
    #[arg(long, env = "OPERATOR_NODE_BINARY", value_name = "PATH")]
    pub node_binary: Option<PathBuf>,
    /// The first port for nodes; the clusters take as many from there as they need.
    #[arg(long, env = "OPERATOR_BASE_PORT", default_value_t = 18080, value_name = "PORT")]
    pub base_port: u16,
    #[command(flatten)]
    pub logging: LogArgs,
}

/// What is logged and how.
#[derive(Debug, Clone, ClapArgs)]
pub struct LogArgs {
    /// A tracing filter, such as `info` or `operator=debug`.
    #[arg(long, env = "OPERATOR_LOG", default_value = DEFAULT_FILTER, value_name = "FILTER")]
    pub log: String,
    #[arg(long, env = "OPERATOR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The way from the operator to a node's admin port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reach {
    /// By the Pod's address.
    Pod,
    /// Through the API server's Pod proxy.
    Proxy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// Its name in a Pod.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A port flag's value: the address is absent when only the port was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Endpoint {
    /// The socket address, on `bind` when the flag named a port only.
    #[must_use]
    pub fn on(self, bind: IpAddr) -> SocketAddr {
        SocketAddr::new(self.address.unwrap_or(bind), self.port)
    }
}

/// A command line that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Help or the version was asked for: its text is the answer, no failure.
    #[error("{0}")]
    Information(String),
    #[error("{0}")]
    Wrong(String),
}

impl Args {
    /// Reads the command line and checks how its values relate.
    ///
    /// # Errors
    /// One line that says what is wrong, or the help text where it was asked for.
    pub fn read(argv: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let args = Self::try_parse_from(argv).map_err(|error| {
            if error.use_stderr() {
                UsageError::Wrong(one_line(&error.to_string()))
            } else {
                UsageError::Information(error.to_string())
            }
        })?;
        if let Command::Run(run) = &args.command {
            run.election.check().map_err(UsageError::Wrong)?;
        }
        Ok(args)
    }
}

impl ElectionArgs {
    fn check(&self) -> Result<(), String> {
        let shown = |time: Duration| format!("{}ms", time.as_millis());
        if self.renew_deadline >= self.lease_duration {
            return Err(format!(
                "--renew-deadline ({}) must be less than --lease-duration ({})",
                shown(self.renew_deadline),
                shown(self.lease_duration)
            ));
        }
        if self.retry_period >= self.renew_deadline {
            return Err(format!(
                "--retry-period ({}) must be less than --renew-deadline ({})",
                shown(self.retry_period),
                shown(self.renew_deadline)
            ));
        }
        Ok(())
    }
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

/// Reads `500ms`, `15s` or `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused = || "expected a time such as 500ms, 15s or 2m, more than nothing".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(refused()),
    };
    let time_ms = number.checked_mul(unit_ms).filter(|ms| *ms > 0).ok_or_else(refused)?;
    Ok(Duration::from_millis(time_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Args, UsageError> {
        Args::read(line.split(' ').map(OsString::from))
    }

    fn run(line: &str) -> RunArgs {
        match read(line).unwrap().command {
            Command::Run(run) => *run,
            other => panic!("expected run, got {other:?}"),
        }
    }

    #[test]
    fn run_without_flags_watches_everything_and_elects_a_leader() {
        let args = run("operator run");
        assert!(args.namespaces.is_empty());
        assert!(args.election.leader_elect);
        assert_eq!(args.reach, Reach::Pod);
        assert_eq!(args.health.on(args.bind), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(args.election.lease_duration, Duration::from_secs(15));
    }

    #[test]
    fn flags_of_a_namespaced_install_are_read() {
        let args =
            run("operator run --namespace a,b --health 0.0.0.0:9 --leader-elect false --image-pull-policy Never --reach proxy");
        assert_eq!(args.namespaces, ["a", "b"]);
        assert_eq!(args.health.on(args.bind), "0.0.0.0:9".parse().unwrap());
        assert!(!args.election.leader_elect);
        assert_eq!(args.image_pull_policy.map(PullPolicy::as_str), Some("Never"));
        assert_eq!(args.reach, Reach::Proxy);
    }

    #[test]
    fn a_wrong_flag_is_explained_in_one_line() {
        for line in ["operator run --bogus", "operator run --health x", "operator", "operator run --lease-duration 15"] {
            let Err(UsageError::Wrong(message)) = read(line) else { panic!("{line} was accepted") };
            assert!(!message.contains('\n'), "{message}");
            assert!(!message.is_empty());
        }
    }

    #[test]
    fn a_leader_must_stop_before_its_lease_ends() {
        let Err(UsageError::Wrong(message)) = read("operator run --lease-duration 5s") else { panic!("accepted") };
        assert_eq!(message, "--renew-deadline (10000ms) must be less than --lease-duration (5000ms)");
        assert!(read("operator run --lease-duration 3s --renew-deadline 2s --retry-period 2s").is_err());
        assert!(read("operator run --lease-duration 3s --renew-deadline 2s --retry-period 500ms").is_ok());
    }

    #[test]
    fn help_is_no_mistake() {
        assert!(matches!(read("operator --help"), Err(UsageError::Information(_))));
        assert!(matches!(read("operator run --help"), Err(UsageError::Information(text)) if !text.contains("crash")));
    }
}
