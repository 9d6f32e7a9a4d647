//! A layout inside a peer message is its JSON document, since postcard knows no optional fields: a field that a layout
//! gains changes no message.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Layout;

/// For `#[serde(with = …)]`.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(layout: &Option<Box<Layout>>, serializer: S) -> Result<S::Ok, S::Error> {
    // See Layout::hash on why this cannot fail.
    layout.as_ref().map(|layout| serde_json::to_vec(layout).unwrap_or_default()).serialize(serializer)
}

/// For `#[serde(with = …)]`.
///
/// # Errors
/// When the bytes are no layout's document.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Layout>>, D::Error> {
    let bytes = Option::<Vec<u8>>::deserialize(deserializer)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(D::Error::custom)
}
