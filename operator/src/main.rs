//! The operator's entry: reads the command line and hands over.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use operator::args::{Args, Command, EXIT_USAGE, UsageError};
use operator::local::{self, LocalError};
use operator::{crd, run, telemetry};

fn main() -> ExitCode {
    let args = match Args::read(std::env::args_os()) {
        Ok(args) => args,
        Err(UsageError::Information(text)) => return say(&text),
        Err(UsageError::Wrong(message)) => return complain(&message),
    };
    let logging = match &args.command {
        Command::Run(run) => Some(&run.logging),
        Command::Local(local) => Some(&local.logging),
        Command::Crd => None,
    };
    if let Some(Err(message)) = logging.map(telemetry::start) {
        return complain(&message);
    }
    match start(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "operator: {error:#}");
            error.downcast_ref::<LocalError>().map_or(ExitCode::FAILURE, |error| error.exit_code().into())
        }
    }
}

#[tokio::main]
async fn start(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(*args).await,
        Command::Local(args) => local::run(args).await,
        Command::Crd => std::io::stdout().lock().write_all(crd::yaml().as_bytes()).context("the resource cannot be printed"),
    }
}

fn say(text: &str) -> ExitCode {
    let _ = write!(std::io::stdout().lock(), "{text}");
    ExitCode::SUCCESS
}

fn complain(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr().lock(), "operator: {message}");
    ExitCode::from(EXIT_USAGE)
}
