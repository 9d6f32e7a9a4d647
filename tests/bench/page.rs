//! What the tool has measured, kept as JSON beside the page that is made of it: a run of some groups takes the place of theirs,
//! and leaves the others as they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::curve::Curve;
use crate::experiments::Group;
use crate::figures::{FIELDS, Figures, number};
use crate::machine::Run;
use crate::plot::plot;

/// Sections by their groups' names.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Document {
    pub(crate) sections: BTreeMap<String, Section>,
}

/// What one run has measured of a group.
#[derive(Debug, Deserialize)]
pub(crate) struct Section {
    pub(crate) run: Run,
    #[serde(default)]
    pub(crate) rows: Vec<Line>,
    #[serde(default)]
    pub(crate) curves: Vec<Curve>,
}

/// A row as it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) row: String,
    #[serde(flatten)]
    pub(crate) medians: Figures,
    /// The least and the most operations per second of any round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per_second_range: Option<(f64, f64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) throughput_ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ratio: Option<f64>,
    /// What it should come to, and whether it does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aims: Vec<(String, bool)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_run: Option<String>,
}

impl Document {
    /// What is kept beside the page; nothing when there is none yet.
    pub(crate) fn beside(page: &Path) -> anyhow::Result<Self> {
        let path = page.with_extension("json");
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} is of another form", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the page, its JSON beside it, and its plots in the same folder.
    pub(crate) fn write(&self, page: &Path) -> anyhow::Result<()> {
        let folder = page.parent().unwrap_or(Path::new("."));
        let write =
            |path: &Path, text: &str| std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()));
        for section in self.sections.values().filter(|section| !section.curves.is_empty()) {
            for (name, title, of) in PLOTS {
                write(&folder.join(plot_file(name)), &plot(title, &section.curves, of))?;
            }
        }
        write(&page.with_extension("json"), &self.json()?)?;
        write(page, &self.markdown())
    }

    /// One line for each row, so that a difference can be read.
    fn json(&self) -> anyhow::Result<String> {
        let mut text = "{".to_owned();
        for (index, (group, section)) in self.sections.iter().enumerate() {
            let between = if index == 0 { "" } else { "," };
            let run = serde_json::to_string(&section.run)?;
            write!(text, "{between}\n\"{group}\": {{\"run\": {run}")?;
            for (name, items) in [("rows", lines(&section.rows)?), ("curves", lines(&section.curves)?)] {
                if !items.is_empty() {
                    write!(text, ",\n\"{name}\": [\n{items}\n]")?;
                }
            }
            text.push('}');
        }
        text.push_str("\n}\n");
        Ok(text)
    }

    pub(crate) fn markdown(&self) -> String {
        let intro = "# Benchmarks\n\nMade by `make bench`, which writes this page and `benchmarks.json` beside it; with `--only` it replaces the sections \
             that it has measured, and says so. `docs/performance.md` says where the limits are. Ratios are to the peer of the row, measured in turn \
             with it on the same machine; absolute figures are this machine's.\n\n";
        format!("{intro}{}", self.tables())
    }

    pub(crate) fn tables(&self) -> String {
        let most = self.most();
        let mut text = most.map(|run| format!("{run}.\n")).unwrap_or_default();
        for (group, section) in Group::ALL.into_iter().filter_map(|group| Some((group, self.sections.get(&group.to_string())?))) {
            text.push_str(&format!("\n## {}\n\n", group.title()));
            if let Some(most) = most.filter(|most| **most != section.run) {
                text.push_str(&format!("Measured by itself: {}.\n\n", section.run.against(most)));
            }
            if !section.rows.is_empty() {
                text.push_str(&format!("{}\n", table(&section.rows).trim_end()));
            }
            if !section.curves.is_empty() {
                PLOTS.iter().for_each(|(name, title, _)| text.push_str(&format!("![{title}]({})\n", plot_file(name))));
            }
        }
        text
    }

    /// The run of most sections: what the page says once.
    fn most(&self) -> Option<&Run> {
        let of = |run: &Run| self.sections.values().filter(|section| section.run == *run).count();
        self.sections.values().map(|section| &section.run).max_by_key(|run| of(run))
    }
}

type Of = fn(&Figures) -> Option<f64>;

const PLOTS: [(&str, &str, Of); 4] = [
    ("throughput", "Operations per second", |figures| figures.per_second),
    ("p50", "Latency, median, ms", |figures| figures.p50_ms),
    ("p99", "Latency, 99th percentile, ms", |figures| figures.p99_ms),
    ("p999", "Latency, 99.9th percentile, ms", |figures| figures.p999_ms),
];

fn plot_file(name: &str) -> String {
    format!("benchmarks-{name}.svg")
}

fn lines(items: &[impl Serialize]) -> anyhow::Result<String> {
    let lines: Vec<String> = items.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    Ok(lines.join(",\n"))
}

fn table(lines: &[Line]) -> String {
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
