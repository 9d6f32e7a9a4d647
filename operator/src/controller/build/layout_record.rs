//! The record of the layout, which is also the record of the cluster's identity.

use std::collections::BTreeMap;

use counter_core::layout::Layout;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::controller::validate::ClusterSpec;
use crate::crd::Retain;

use super::BuildError;
use super::metadata::{owned, unowned};
use super::names::Names;

/// The key of the layout's JSON.
pub const LAYOUT_KEY: &str = "layout.json";

/// The ConfigMap that records `layout`. Where volumes outlive the cluster's object, so does the record: without it
/// nobody would know whose counts they hold.
///
/// # Errors
/// When the layout cannot be written down.
pub fn layout_record(spec: &ClusterSpec, layout: &Layout) -> Result<ConfigMap, BuildError> {
    let name = Names::from(&spec.identity).layout();
    let metadata = match spec.storage.retention().when_deleted {
        Retain::Retain => unowned(spec, name),
        Retain::Delete => owned(spec, name),
    };
    let text = serde_json::to_string(layout).map_err(BuildError::Layout)?;
    Ok(ConfigMap { metadata, data: Some(BTreeMap::from([(LAYOUT_KEY.to_owned(), text)])), ..ConfigMap::default() })
}

/// The layout that a ConfigMap records; None when it records none.
///
/// # Errors
/// When what it records is no layout.
pub fn read_layout(record: &ConfigMap) -> Result<Option<Layout>, serde_json::Error> {
    record.data.as_ref().and_then(|data| data.get(LAYOUT_KEY)).map(|text| serde_json::from_str(text)).transpose()
}
