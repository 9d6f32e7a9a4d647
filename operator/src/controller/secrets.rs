//! The user's Secrets: without what the spec refers to, Pods could not start, or not again.

use k8s_openapi::api::core::v1::Secret;

use super::gather::Live;
use super::plan::Notice;
use super::validate::{ClusterSpec, Storage};
use crate::crd::SecretKeyRef;

/// What a person has to put right before Pods can be made, if something is.
pub(super) fn missing(spec: &ClusterSpec, live: &Live) -> Option<Notice> {
    let redis_url = match &spec.storage {
        Storage::Redis(reference) => {
            wrong("spec.storage.redis.urlSecretRef", reference, live.redis_url.as_ref(), "there is no URL under that key")
        }
        Storage::Volume(_) | Storage::Memory => None,
    };
    let api_token = spec.api_token.as_ref().and_then(|reference| {
        wrong("spec.apiTokenSecretRef", reference, live.api_token.as_ref(), "there is no token under that key")
    });
    let redis_url = redis_url.map(|message| Notice::new("RedisUrlMissing", message));
    redis_url.or_else(|| api_token.map(|message| Notice::new("ApiTokenMissing", message)))
}

/// What is wrong with a Secret, seen from the reference to it.
fn wrong(field: &str, reference: &SecretKeyRef, secret: Option<&Secret>, nothing: &str) -> Option<String> {
    let data = secret.map(|secret| secret.data.clone().unwrap_or_default());
    let blank = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_whitespace);
    let wrong = match data.as_ref().map(|data| data.get(&reference.key)) {
        None => "there is no such Secret",
        Some(None) => "it has no such key",
        Some(Some(bytes)) if blank(&bytes.0) => nothing,
        Some(Some(_)) => return None,
    };
    Some(format!("{field} names the Secret `{}` with the key `{}`: {wrong}", reference.name, reference.key))
}
