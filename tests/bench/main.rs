//! `make bench`: counter-node against bare servers of hyper and of WebSockets, and against Redis, interleaved on this machine.
//!
//! Each round runs every row of a group once, so that what the machine does meanwhile hits all of them alike; what is
//! printed are medians over the rounds and ratios of them. Servers run on the first core, load generators on the second.

mod bare;
mod broadcast;
mod cluster;
mod curve;
mod experiments;
mod figures;
mod http;
mod live;
mod load;
mod machine;
mod page;
mod plot;
mod report;
mod row;
mod server;
mod unread;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::experiments::Group;
use crate::report::Report;
use crate::row::Row;

/// Measures counter-node against bare hyper and Redis, interleaved, and prints medians and ratios.
#[derive(Parser, Debug)]
pub(crate) struct Args {
    /// The counter-node binary, a release build.
    #[arg(long, default_value = "target/release/counter-node")]
    node: PathBuf,
    /// Groups of rows to measure, separated by commas; all when absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Group>,
    /// Measure only rows whose names contain this, and print them; no page is written then, which has whole groups.
    #[arg(long, default_value = "")]
    rows: String,
    /// How often each row is measured. 0 writes the page anew from the JSON beside it.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load for each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Counters in the largest rows of memory and start.
    #[arg(long, default_value_t = 10_000_000)]
    counters: u64,
    /// A Markdown page in which the results take the place of their groups' earlier ones, with all figures as JSON and its plots
    /// beside it.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Serve the bare peer on this address instead of measuring; used by the bench itself.
    #[arg(long, hide = true)]
    serve_bare: Option<std::net::SocketAddr>,
    /// The same for the peer that broadcasts on WebSockets.
    #[arg(long, hide = true)]
    serve_broadcast: Option<std::net::SocketAddr>,
}

impl Args {
    fn groups(&self) -> impl Iterator<Item = Group> {
        Group::ALL.into_iter().filter(|group| self.only.is_empty() || self.only.contains(group))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (args.serve_bare, args.serve_broadcast) {
        (Some(address), _) => bare::serve(address),
        (None, Some(address)) => broadcast::serve(address),
        (None, None) => measure(&args),
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
    for group in args.groups() {
        let rows: Vec<Row> = group.rows(args).into_iter().filter(|row| row.name.contains(&args.rows)).collect();
        let rounds = rows.iter().map(|row| row.rounds(args)).max().unwrap_or(0);
        for round in 1..=rounds {
            for row in rows.iter().filter(|row| round <= row.rounds(args)) {
                match row.measure(args).with_context(|| format!("{row} in round {round}"))? {
                    Ok(figures) => {
                        report::line(&format!("{group} {round}/{rounds}  {row:<44} {figures}"));
                        report.add(group, row, figures);
                    }
                    Err(reason) => report.not_run(group, row, reason),
                }
            }
        }
    }
    if args.rounds > 0 && args.rows.is_empty() && args.groups().any(|group| group == Group::Curve) {
        report.curves = curve::measure(args)?;
    }
    report.tell(args.markdown.as_deref().filter(|_| args.rows.is_empty()))
}
