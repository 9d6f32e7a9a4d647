//! `operator local FILE`: the clusters in a YAML file as processes on the loopback address, through the same validation,
//! plan and layout publication as on Kubernetes. For a first look, for development and for demonstrations.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::args::LocalArgs;
use crate::nodes::NodeClient;
use crate::telemetry::Metrics;
use binary::BinaryError;
use cluster::Host;
use document::Reading;
use folder::{Folder, FolderError};
use screen::Screen;
use stop::Stop;
use supervisor::{Parts, Refusal, Supervisor};
use table::Frame;

mod accept;
mod binary;
mod cluster;
mod document;
mod endpoints;
mod folder;
mod follow;
mod log;
mod member;
mod ports;
mod process;
mod round;
mod schema;
mod screen;
mod stop;
mod supervisor;
mod table;
mod view;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error("{} cannot be run, and nothing was started:\n  {}", file.display(), problems.join("\n  "))]
    File { file: PathBuf, problems: Vec<String> },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Binary(#[from] BinaryError),
}

impl LocalError {
    /// The exit code that says what kind of error it is, as in sysexits.h.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::Folder(FolderError::Damaged { .. }) => 65,
            Self::Binary(_) => 69,
            Self::Folder(FolderError::Locked { .. }) => 75,
            Self::Folder(_) => 74,
        }
    }
}

/// Runs the clusters until it is asked to stop.
///
/// # Errors
/// [`LocalError`], when nothing was started; or when the system refuses signal handlers.
pub async fn run(args: LocalArgs) -> anyhow::Result<()> {
    let stop = Stop::catch().context("the signals that end the operator cannot be caught")?;
    let supervisor = supervisor(&args)?;
    supervisor.run(stop).await;
    Ok(())
}

fn supervisor(args: &LocalArgs) -> Result<Supervisor, LocalError> {
    let refused = |problems| LocalError::File { file: args.file.clone(), problems };
    let text = follow::read(&args.file).map_err(|problem| refused(vec![problem]))?;
    // Before anything is made on disk, so that a mistyped file leaves no trace.
    check(&text).map_err(refused)?;
    let program = find_program(args)?;
    let folder = Folder::open(&args.data)?;
    let frame = Frame { file: args.file.display().to_string(), data: folder.path().display().to_string() };
    let host = Host { ports: folder.ports()?, folder, base_port: args.base_port, program };
    let client = NodeClient::new(None, Metrics::default());
    let mut supervisor =
        Supervisor::new(Parts { file: args.file.clone(), text: text.clone(), host, client, screen: Screen::new(frame) });
    match supervisor.take_over(&text) {
        Ok(()) => Ok(supervisor),
        Err(Refusal::Text(problems)) => Err(refused(problems)),
        Err(Refusal::Folder(error)) => Err(error.into()),
    }
}

/// Checks a text by itself; what an earlier run accepted may still speak against it.
///
/// # Errors
/// All that is wrong with it, a line each.
pub fn check(text: &str) -> Result<(), Vec<String>> {
    let Reading { objects, secrets, mut problems } = document::read(text);
    problems.extend(objects.into_iter().filter_map(|object| accept::accept(object, None, &secrets).err()).flatten());
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

fn find_program(args: &LocalArgs) -> Result<PathBuf, BinaryError> {
    let own = std::env::current_exe().unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = own.parent().unwrap_or_else(|| std::path::Path::new("."));
    binary::find(&binary::Search { named: args.node_binary.as_deref(), beside, path: &path })
}
