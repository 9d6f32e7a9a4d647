//! What a run measures: medians and ratios, and which aims they meet.

use std::io::Write as _;
use std::path::Path;

use crate::Args;
use crate::curve::Curve;
use crate::experiments::Group;
use crate::figures::Figures;
use crate::machine::Run;
use crate::page::{Document, Line, Section};
use crate::row::{Aim, Row};

pub(crate) struct Report {
    run: Run,
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

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    // A reader that has gone away is no error here.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self { run: Run::of(args), lines: Vec::new(), curves: Vec::new() }
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

    /// Prints what was measured, and has it take the place of its groups' sections in a page, if there is one.
    pub(crate) fn tell(self, page: Option<&Path>) -> anyhow::Result<()> {
        let measured = self.document();
        line(&format!("\n{}", measured.tables()));
        let Some(page) = page else { return Ok(()) };
        let mut document = Document::beside(page)?;
        document.sections.extend(measured.sections);
        document.write(page)
    }

    fn document(&self) -> Document {
        let mut document = Document::default();
        for group in Group::ALL {
            let rows: Vec<Line> =
                self.lines.iter().filter(|line| line.group == group).map(|measured| self.told(measured)).collect();
            let curves = if group == Group::Curve { self.curves.clone() } else { Vec::new() };
            if !rows.is_empty() || !curves.is_empty() {
                document.sections.insert(group.to_string(), Section { run: self.run.clone(), rows, curves });
            }
        }
        document
    }

    fn told(&self, measured: &Measured) -> Line {
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
