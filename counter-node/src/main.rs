//! Reads the command line, starts the node, and turns how it ended into an exit code.

use std::process::ExitCode;

use counter_node::args::{Command, Config, EXIT_CONFIG, EXIT_DATA, EXIT_IN_USE, EXIT_USAGE, UsageError};
use counter_node::node::{Ended, Node, StartError};
use counter_node::storage::StoreError;
use counter_node::{http, signals, telemetry};

/// Another start of this node is alive, and this one gave way (EX_SOFTWARE).
const EXIT_SUPERSEDED: u8 = 70;

fn main() -> ExitCode {
    match Command::read(std::env::args_os()) {
        Ok(Command::Run(config)) => run(*config),
        Ok(Command::Openapi) => say(&mut std::io::stdout(), http::openapi::text(), ExitCode::SUCCESS),
        Err(UsageError::Information(text)) => say(&mut std::io::stdout(), &text, ExitCode::SUCCESS),
        Err(UsageError::Wrong(text)) => say(&mut std::io::stderr(), &format!("counter-node: {text}"), EXIT_USAGE.into()),
    }
}

fn run(config: Config) -> ExitCode {
    if let Err(reason) = telemetry::start_logging(&config.log, config.log_format) {
        return say(&mut std::io::stderr(), &format!("counter-node: {reason}"), EXIT_USAGE.into());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&mut std::io::stderr(), &format!("counter-node: {error}"), ExitCode::FAILURE),
    };
    runtime.block_on(async {
        let stop = match signals::stop(config.exit_on_stdin_close) {
            Ok(stop) => stop,
            Err(error) => return say(&mut std::io::stderr(), &format!("counter-node: {error}"), ExitCode::FAILURE),
        };
        let started = tokio::select! {
            started = Node::start(config) => started,
            // It may wait long for its storage; nothing has been served yet.
            () = stop.cancelled() => return ExitCode::SUCCESS,
        };
        match started {
            Err(error) => say(&mut std::io::stderr(), &format!("counter-node: {}", in_full(&error)), exit_code(&error)),
            Ok(node) => match node.run(stop).await {
                Ended::Stopped => ExitCode::SUCCESS,
                Ended::Superseded => EXIT_SUPERSEDED.into(),
            },
        }
    })
}

/// An error with its causes, those left out that its text names already.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let causes = std::iter::successors(error.source(), |cause| cause.source()).map(ToString::to_string);
    for cause in causes {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn exit_code(error: &StartError) -> ExitCode {
    match error {
        StartError::Storage(StoreError::InUse { .. }) => EXIT_IN_USE.into(),
        StartError::Storage(error) if error.is_data_error() => EXIT_DATA.into(),
        StartError::Layout(_) => EXIT_DATA.into(),
        StartError::Token(_) | StartError::ApiToken(_) => EXIT_CONFIG.into(),
        StartError::Storage(_) | StartError::Listen { .. } | StartError::Wait(_) | StartError::Thread(_) => ExitCode::FAILURE,
    }
}

fn say(to: &mut impl std::io::Write, text: &str, code: ExitCode) -> ExitCode {
    // Nobody is left to tell when the stream is closed.
    let _ = writeln!(to, "{}", text.trim_end());
    code
}
