//! The record of the layout, which is also the record of the cluster's identity.

use std::collections::BTreeMap;

use counter_core::layout::{Layout, LayoutError};
use k8s_openapi::api::core::v1::ConfigMap;
use serde::de::DeserializeOwned;

use crate::controller::plan::{VOLUMES_FORMAT, Volumes};
use crate::controller::validate::ClusterSpec;
use crate::crd::Retain;

use super::BuildError;
use super::metadata::{owned, unowned};
use super::names::Names;

/// The key of the layout's JSON.
pub const LAYOUT_KEY: &str = "layout.json";

/// The key of what is recorded of the cluster's storage.
pub const VOLUMES_KEY: &str = "volumes.json";

/// Why a record cannot be read; it is left alone.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("`{key}` is no document of a form that this release knows")]
    Json { key: &'static str, source: serde_json::Error },
    #[error("the format {found} of `volumes.json` is newer than {VOLUMES_FORMAT}, the newest that this release knows")]
    NewerVolumes { found: u32 },
    #[error("the layout is not valid: {0}")]
    Layout(#[from] LayoutError),
}

/// The ConfigMap that records `layout`. Where volumes outlive the cluster's object, so does the record: without it
/// nobody would know whose counts they hold.
///
/// # Errors
/// When the layout cannot be written down.
pub fn layout_record(spec: &ClusterSpec, layout: &Layout, volumes: Option<&Volumes>) -> Result<ConfigMap, BuildError> {
    let name = Names::from(&spec.identity).layout();
    let metadata = match spec.storage.retention().when_deleted {
        Retain::Retain => unowned(spec, name),
        Retain::Delete => owned(spec, name),
    };
    let mut data = BTreeMap::from([(LAYOUT_KEY.to_owned(), serde_json::to_string(layout).map_err(BuildError::Layout)?)]);
    if let Some(volumes) = volumes {
        data.insert(VOLUMES_KEY.to_owned(), serde_json::to_string(volumes).map_err(BuildError::Layout)?);
    }
    Ok(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

/// The layout that a ConfigMap records; None when it records none.
///
/// # Errors
/// When what it records is no layout, or not a valid one.
pub fn read_layout(record: &ConfigMap) -> Result<Option<Layout>, RecordError> {
    let Some(layout) = read::<Layout>(record, LAYOUT_KEY)? else { return Ok(None) };
    layout.validate()?;
    Ok(Some(layout))
}

/// What a ConfigMap records of the cluster's storage; None when it records nothing of it.
///
/// # Errors
/// When what it records is nothing that this release knows.
pub fn read_volumes(record: &ConfigMap) -> Result<Option<Volumes>, RecordError> {
    let volumes: Option<Volumes> = read(record, VOLUMES_KEY)?;
    match volumes {
        Some(Volumes { format, .. }) if format > VOLUMES_FORMAT => Err(RecordError::NewerVolumes { found: format }),
        volumes => Ok(volumes),
    }
}

fn read<T: DeserializeOwned>(record: &ConfigMap, key: &'static str) -> Result<Option<T>, RecordError> {
    let text = record.data.as_ref().and_then(|data| data.get(key));
    text.map(|text| serde_json::from_str(text)).transpose().map_err(|source| RecordError::Json { key, source })
}
