//! What a node shows of what it holds: compared before and after something that must change nothing.

use std::collections::BTreeMap;
use std::path::Path;

use counter_core::layout::LayoutVersion;
use counter_tests::http::Http;
use counter_tests::node::TestNode;
use serde_json::Value;

/// All that a node holds, as far as it can be seen from outside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    counters: u64,
    tally: i128,
    layout: Option<(LayoutVersion, u64)>,
    /// The answers to reads of some pages, times of the last change included.
    pages: BTreeMap<String, Value>,
}

impl Seen {
    /// What `node` holds, and what it says of `pages`.
    pub(crate) async fn of(node: &TestNode, pages: &[&str]) -> anyhow::Result<Self> {
        let (status, http) = (node.status().await?, Http::default());
        let mut read = BTreeMap::new();
        for page in pages {
            let mut detail = http.get_json(&format!("{}/{page}/counter?detail=true", node.http())).await?;
            // How fresh it is differs from one look to the next.
            for fresh in ["staleness_ms", "replicas"] {
                detail.as_object_mut().and_then(|detail| detail.remove(fresh));
            }
            read.insert((*page).to_owned(), detail);
        }
        Ok(Self {
            counters: status.storage.counters,
            tally: status.slots.iter().map(|range| range.tally).sum(),
            layout: status.layout.map(|layout| (layout.version, layout.hash)),
            pages: read,
        })
    }
}

/// Every file below a folder, with its bytes.
pub(crate) fn files(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.insert(path.display().to_string(), std::fs::read(path)?);
        }
    }
    Ok(found)
}
