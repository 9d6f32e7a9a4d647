//! What one measurement gives.

use serde::{Deserialize, Serialize};

/// Figures of one measurement, or medians of several; what a row does not measure is absent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Operations that were answered, per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p99_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) p999_ms: Option<f64>,
    /// The longest that any request took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_ms: Option<f64>,
    /// Processor time of the server, user and kernel, for each operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_us: Option<f64>,
    /// Resident memory for each counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_counter: Option<f64>,
    /// Resident memory for each token that is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_token: Option<f64>,
    /// Resident memory for each idle viewer, the kernel's apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_viewer: Option<f64>,
    /// Processor time of the server for all idle viewers in ten seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rest_ms: Option<f64>,
    /// Until the last viewer has a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) all_ms: Option<f64>,
    /// From the start of the process to its first right answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_s: Option<f64>,
    /// Log segments folded meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folds: Option<f64>,
}

/// The fields, so that medians and tables treat them alike.
pub(crate) const FIELDS: [(&str, Field); 13] = [
    ("ops/s", |figures| &mut figures.per_second),
    ("p50 ms", |figures| &mut figures.p50_ms),
    ("p99 ms", |figures| &mut figures.p99_ms),
    ("p99.9 ms", |figures| &mut figures.p999_ms),
    ("max ms", |figures| &mut figures.max_ms),
    ("CPU µs/op", |figures| &mut figures.cpu_us),
    ("bytes/counter", |figures| &mut figures.bytes_per_counter),
    ("bytes/token", |figures| &mut figures.bytes_per_token),
    ("bytes/viewer", |figures| &mut figures.bytes_per_viewer),
    ("CPU ms in 10 s", |figures| &mut figures.rest_ms),
    ("all have it, ms", |figures| &mut figures.all_ms),
    ("start s", |figures| &mut figures.start_s),
    ("folds", |figures| &mut figures.folds),
];

type Field = fn(&mut Figures) -> &mut Option<f64>;

impl Figures {
    /// The medians, field by field.
    pub(crate) fn medians(all: &[Self]) -> Self {
        let mut medians = Self::default();
        for (_, field) in FIELDS {
            *field(&mut medians) = median(all.iter().filter_map(|one| *field(&mut { *one })).collect());
        }
        medians
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, field) in FIELDS {
            if let Some(value) = *field(&mut { *self }) {
                write!(f, "  {} {name}", number(value))?;
            }
        }
        Ok(())
    }
}

/// A number with about three digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
