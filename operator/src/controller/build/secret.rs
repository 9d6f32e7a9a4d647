//! The token that the nodes and the operator of a cluster share. Created once; whoever rotates it edits it by hand.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use crate::controller::validate::ClusterSpec;

use super::metadata::owned;
use super::names::Names;

/// The key of the token in force.
pub const TOKEN_KEY: &str = "token";
/// The key of the one before it, accepted for ten minutes after a rotation. Optional.
pub const TOKEN_PREVIOUS_KEY: &str = "previous";

/// The Secret of a cluster that has none yet.
#[must_use]
pub fn secret(spec: &ClusterSpec, token: &str) -> Secret {
    Secret {
        metadata: owned(spec, Names::from(&spec.identity).token()),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(TOKEN_KEY.to_owned(), ByteString(token.as_bytes().to_vec()))])),
        ..Secret::default()
    }
}
