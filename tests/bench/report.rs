//! Medians and ratios, and the machine that they are of.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::Args;
use crate::row::Row;
use crate::wrk::Measured;

pub(crate) struct Report {
    environment: Environment,
    rows: Vec<(Row, Vec<Measured>)>,
}

#[derive(Serialize)]
struct Environment {
    processor: String,
    cores: usize,
    kernel: String,
    rounds: usize,
    seconds: u64,
    connections: usize,
}

#[derive(Serialize)]
struct Line {
    row: String,
    per_second: f64,
    per_second_min: f64,
    per_second_max: f64,
    p50_ms: f64,
    p99_ms: f64,
    ratio_to_bare_hyper: f64,
}

/// Writes a line to standard output; a reader that has gone away is no error here.
pub(crate) fn line(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':']).to_owned()));
        let environment = Environment {
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            rounds: args.rounds,
            seconds: args.seconds,
            connections: args.connections,
        };
        Self { environment, rows: Row::all().map(|row| (row, Vec::new())).collect() }
    }

    pub(crate) fn add(&mut self, row: Row, measured: Measured) {
        if let Some((_, all)) = self.rows.iter_mut().find(|(known, _)| *known == row) {
            all.push(measured);
        }
    }

    pub(crate) fn print(&self) {
        let Environment { processor, cores, kernel, rounds, seconds, connections } = &self.environment;
        line("");
        line(&format!(
            "{processor}, {cores} cores, Linux {kernel}; {rounds} rounds of {seconds} s, {connections} connections, not pipelined; server on core 0, wrk on core 1"
        ));
        line("");
        line("| row | requests/s (median) | min–max | p50 ms | p99 ms | ÷ bare hyper |");
        line("|---|--:|--:|--:|--:|--:|");
        for Line { row, per_second, per_second_min, per_second_max, p50_ms, p99_ms, ratio_to_bare_hyper } in self.lines() {
            line(&format!(
                "| {row} | {per_second:.0} | {per_second_min:.0}–{per_second_max:.0} | {p50_ms:.2} | {p99_ms:.2} | {ratio_to_bare_hyper:.2} |"
            ));
        }
    }

    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let document = serde_json::json!({ "environment": self.environment, "rows": self.lines() });
        Ok(std::fs::write(path, serde_json::to_vec_pretty(&document)?)?)
    }

    fn lines(&self) -> Vec<Line> {
        self.rows
            .iter()
            .map(|(row, measured)| Line {
                row: row.to_string(),
                per_second: median(measured, |one| one.per_second),
                per_second_min: measured.iter().map(|one| one.per_second).fold(f64::INFINITY, f64::min),
                per_second_max: measured.iter().map(|one| one.per_second).fold(0.0, f64::max),
                p50_ms: median(measured, |one| one.p50_ms),
                p99_ms: median(measured, |one| one.p99_ms),
                ratio_to_bare_hyper: median(measured, |one| one.per_second) / self.median_of(row.peer()),
            })
            .collect()
    }

    fn median_of(&self, row: Row) -> f64 {
        self.rows.iter().find(|(known, _)| *known == row).map_or(f64::NAN, |(_, all)| median(all, |one| one.per_second))
    }
}

fn median(measured: &[Measured], of: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = measured.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
