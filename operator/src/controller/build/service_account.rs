//! The identity of the nodes' Pods. They never talk to the Kubernetes API, so no token is mounted.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::controller::validate::ClusterSpec;

use super::metadata::owned;
use super::names::Names;

pub(super) fn service_account(spec: &ClusterSpec) -> ServiceAccount {
    ServiceAccount {
        metadata: owned(spec, Names::from(&spec.identity).clients()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
