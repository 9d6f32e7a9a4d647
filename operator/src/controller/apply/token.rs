//! The cluster's token: minted once, and never written again, so that whoever rotates it has the last word.

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;

use super::super::build;
use super::super::validate::ClusterSpec;
use super::{ApplyError, Change, Desk, FIELD_MANAGER};

/// Sees to it that there is a token. The operator may only get and create Secrets, by name.
///
/// # Errors
/// When the name is somebody else's, or the API server refuses.
pub(super) async fn ensure(desk: &Desk<'_>, spec: &ClusterSpec, live: Option<&Secret>) -> Result<Change, ApplyError> {
    let name = build::Names::from(&spec.identity).token();
    match live {
        Some(secret) if desk.owns(secret) => return Ok(Change::None),
        Some(secret) => return Err(ApplyError::refusal(secret, desk.cluster)),
        None => {}
    }
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let created = desk.api::<Secret>().create(&params, &build::secret(spec, &mint())).await;
    created.map(|_| Change::Created).map_err(|source| ApplyError::write::<Secret>("created", &name, source))
}

/// 256 random bits as text, which survives editors and shells.
fn mint() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_64_digits_and_never_the_same() {
        let (one, two) = (mint(), mint());
        assert_eq!(one.len(), 64);
        assert_ne!(one, two);
    }
}
