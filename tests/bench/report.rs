//! Medians and ratios, as a table, as JSON and as a Markdown page with plots.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::Args;
use crate::curve::Curve;
use crate::experiments::Group;
use crate::figures::{FIELDS, Figures, number};
use crate::machine::Machine;
use crate::plot::plot;
use crate::row::{Aim, Row};

pub(crate) struct Report {
    machine: Machine,
    lines: Vec<Measured>,
    pub(crate) curves: Vec<Curve>,
}

/// A row and all of its measurements; or why there are none.
struct Measured {
    group: Group,
    row: Row,
    figures: Vec<Figures>,
    not_run: Option<String>,
}

/// A row as it is told.
#[derive(Serialize)]
struct Line {
    group: String,
    row: String,
    #[serde(flatten)]
    medians: Figures,
    /// The least and the most operations per second of any round.
    per_second_range: Option<(f64, f64)>,
    peer: Option<String>,
    throughput_ratio: Option<f64>,
    cpu_ratio: Option<f64>,
    /// What it should come to, and whether it does.
    aims: Vec<(String, bool)>,
    not_run: Option<String>,
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    // A reader that has gone away is no error here.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self { machine: Machine::of(args), lines: Vec::new(), curves: Vec::new() }
    }

    pub(crate) fn add(&mut self, group: Group, row: &Row, figures: Figures) {
        self.entry(group, row).figures.push(figures);
    }

    pub(crate) fn not_run(&mut self, group: Group, row: &Row, reason: String) {
        line(&format!("{group}: {row}: NOT RUN: {reason}"));
        self.entry(group, row).not_run = Some(reason);
    }

    fn entry(&mut self, group: Group, row: &Row) -> &mut Measured {
        let known = self.lines.iter().position(|line| line.group == group && line.row.name == row.name);
        let index = known.unwrap_or_else(|| {
            self.lines.push(Measured { group, row: row.clone(), figures: Vec::new(), not_run: None });
            self.lines.len() - 1
        });
        &mut self.lines[index]
    }

    pub(crate) fn print(&self) {
        line(&format!("\n{}", self.tables()));
    }

    pub(crate) fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let document = serde_json::json!({ "machine": self.machine, "rows": self.told(), "curves": self.curves });
        std::fs::write(path, serde_json::to_vec_pretty(&document)?).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The page, and its plots in the same folder.
    pub(crate) fn write_markdown(&self, path: &Path) -> anyhow::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut page = format!(
            "# Benchmarks\n\nMade by `make bench`, which writes this page anew; `docs/performance.md` says where the limits are. Ratios are to the peer of the row, measured in turn \
             with it on the same machine; absolute figures are this machine's.\n\n{}",
            self.tables()
        );
        type Of = fn(&Figures) -> Option<f64>;
        let plots: [(&str, &str, Of); 4] = [
            ("throughput", "Operations per second", |figures| figures.per_second),
            ("p50", "Latency, median, ms", |figures| figures.p50_ms),
            ("p99", "Latency, 99th percentile, ms", |figures| figures.p99_ms),
            ("p999", "Latency, 99.9th percentile, ms", |figures| figures.p999_ms),
        ];
        if !self.curves.is_empty() {
            page.push_str(&format!("\n## {}\n\n", Group::Curve.title()));
            for (name, title, of) in plots {
                let file = format!("benchmarks-{name}.svg");
                std::fs::write(folder.join(&file), plot(title, &self.curves, of))?;
                page.push_str(&format!("![{title}]({file})\n"));
            }
        }
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
    }

    fn tables(&self) -> String {
        let mut text = format!("{}.\n", self.machine);
        let told = self.told();
        for group in Group::ALL {
            let lines: Vec<&Line> = told.iter().filter(|line| line.group == group.to_string()).collect();
            if !lines.is_empty() {
                text.push_str(&format!("\n## {}\n\n{}\n", group.title(), table(&lines).trim_end()));
            }
        }
        text
    }

    fn told(&self) -> Vec<Line> {
        self.lines.iter().map(|measured| self.tell(measured)).collect()
    }

    fn tell(&self, measured: &Measured) -> Line {
        let medians = Figures::medians(&measured.figures);
        let row = &measured.row;
        let peer = row.peer.as_ref().and_then(|peer| {
            let of_peer = self.lines.iter().find(|line| line.group == measured.group && line.row.name == *peer)?;
            Some(Figures::medians(&of_peer.figures))
        });
        let ratio = |of: fn(&Figures) -> Option<f64>| Some(of(&medians)? / of(&peer?)?);
        let (throughput_ratio, cpu_ratio) = (ratio(|figures| figures.per_second), ratio(|figures| figures.cpu_us));
        let all: Vec<f64> = measured.figures.iter().filter_map(|figures| figures.per_second).collect();
        let range = (!all.is_empty())
            .then(|| (all.iter().copied().fold(f64::INFINITY, f64::min), all.iter().copied().fold(0.0, f64::max)));
        let met = |aim: &Aim| match aim {
            Aim::Throughput(least) => (format!("≥{least}×"), throughput_ratio.is_some_and(|ratio| ratio >= *least)),
            Aim::Cpu(most) => (format!("CPU ≤{most}×"), cpu_ratio.is_some_and(|ratio| ratio <= *most)),
            Aim::Bytes(most) => (format!("≤{most} B"), medians.bytes_per_counter.is_some_and(|bytes| bytes <= *most)),
            Aim::Start(most) => (format!("≤{most} s"), medians.start_s.is_some_and(|start| start <= *most)),
            Aim::ViewerBytes(most) => (format!("≤{most} B"), medians.bytes_per_viewer.is_some_and(|bytes| bytes <= *most)),
            Aim::All(most) => (format!("all ≤{most} ms"), medians.all_ms.is_some_and(|all| all <= *most)),
            Aim::PerSecond(least) => (format!("≥{least}/s"), medians.per_second.is_some_and(|number| number >= *least)),
            Aim::P99(most) => (format!("p99 ≤{most} ms"), medians.p99_ms.is_some_and(|p99| p99 <= *most)),
        };
        Line {
            group: measured.group.to_string(),
            row: row.name.clone(),
            medians,
            per_second_range: range,
            peer: row.peer.clone(),
            throughput_ratio,
            cpu_ratio,
            aims: row.aims.iter().map(met).collect(),
            not_run: measured.not_run.clone(),
        }
    }
}

fn table(lines: &[&Line]) -> String {
    let value = |line: &Line, (_, field): (&str, fn(&mut Figures) -> &mut Option<f64>)| *field(&mut { line.medians });
    let columns: Vec<_> = FIELDS.into_iter().filter(|field| lines.iter().any(|line| value(line, *field).is_some())).collect();
    let mut text = "| row |".to_owned();
    columns.iter().for_each(|(name, _)| text.push_str(&format!(" {name} |")));
    text.push_str(" min–max ops/s | ÷ peer | CPU ÷ peer | aim |\n|---|");
    (0..columns.len() + 3).for_each(|_| text.push_str("--:|"));
    text.push_str("---|\n");
    let told = |value: Option<f64>| value.map(number).unwrap_or_default();
    for line in lines {
        text.push_str(&format!("| {} |", line.row));
        columns.iter().for_each(|column| text.push_str(&format!(" {} |", told(value(line, *column)))));
        let range = line.per_second_range.map(|(least, most)| format!("{}–{}", number(least), number(most))).unwrap_or_default();
        let aims: Vec<String> =
            line.aims.iter().map(|(aim, met)| format!("{aim} {}", if *met { "met" } else { "**missed**" })).collect();
        let last = line.not_run.as_ref().map_or_else(|| aims.join(", "), |reason| format!("NOT RUN: {reason}"));
        text.push_str(&format!(" {range} | {} | {} | {last} |\n", told(line.throughput_ratio), told(line.cpu_ratio)));
    }
    text
}
