//! `make bench`: counter-node's HTTP against a bare hyper server that answers a constant, interleaved on this machine.
//!
//! Each round runs every row once, so that what the machine does meanwhile hits all rows alike; what is printed are
//! medians over the rounds and ratios of them. Server and load generator (wrk) are pinned to a core each.

mod bare;
mod report;
mod row;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::report::Report;
use crate::row::Row;

/// Measures HTTP PUT and GET against a bare hyper server, interleaved, and prints medians and ratios.
#[derive(Parser, Debug)]
pub(crate) struct Args {
    /// The counter-node binary, a release build.
    #[arg(long, default_value = "target/release/counter-node")]
    node: PathBuf,
    /// How often each row is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where to write the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Serve the bare peer on this address instead of measuring; used by the bench itself.
    #[arg(long, hide = true)]
    serve_bare: Option<std::net::SocketAddr>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.serve_bare {
        Some(address) => bare::serve(address),
        None => measure(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::line(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::new(args);
    for round in 1..=args.rounds {
        for row in Row::all() {
            let measured = row.measure(args).with_context(|| format!("{row} in round {round}"))?;
            report::line(&format!(
                "round {round}/{}  {row:<28} {:>9.0}/s  p99 {:>7.2} ms",
                args.rounds, measured.per_second, measured.p99_ms
            ));
            report.add(row, measured);
        }
    }
    report.print();
    match &args.json {
        Some(path) => report.write_json(path),
        None => Ok(()),
    }
}
