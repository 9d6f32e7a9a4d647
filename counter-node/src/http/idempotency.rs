//! Idempotency keys: under one an update counts once, however often it is sent. See `docs/exactly-once.md`.

use counter_core::token::Token;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::problem::Problem;
use super::{Reply, batch};
use crate::router::Reading;

static KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The header as problems name it.
const FIELD: &str = "Idempotency-Key";

/// Whether a request has this header. To look at the few names that most requests have is faster than to look one up.
pub(super) fn is_among(headers: &HeaderMap, name: &HeaderName) -> bool {
    if headers.len() > FEW { headers.contains_key(name) } else { headers.keys().any(|known| known == name) }
}

/// So many names are few.
const FEW: usize = 8;

/// The token that a request's header names.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<Token>, Problem> {
    if !is_among(headers, &KEY) {
        return Ok(None);
    }
    let mut values = headers.get_all(&KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_field(FIELD, "must be sent once"));
    }
    of(value.as_bytes()).map(Some)
}

/// The token that this value of the header names.
pub(super) fn of(value: &[u8]) -> Result<Token, Problem> {
    let visible = |value: &&str| value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let text = std::str::from_utf8(value).ok().filter(visible);
    named(text.ok_or_else(|| Problem::bad_field(FIELD, "must consist of visible ASCII characters"))?.trim(), FIELD)
}

/// The token of this text, from the header or field of this name. The header's draft puts quotes around the key; they are
/// no part of it.
pub(super) fn named(text: &str, field: &str) -> Result<Token, Problem> {
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    bare.parse().map_err(|error| Problem::bad_field(field, error))
}

/// A request of many updates has a key for each, not one for all.
pub(super) fn refuse_one_for_many(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(&KEY) {
        return Err(Problem::bad_field(FIELD, format_args!("is for one update: here each has a field `{}`", batch::KEY_FIELD)));
    }
    Ok(())
}

/// Says so where the update had been counted before.
pub(super) fn mark(mut answer: Reply, reading: &Reading) -> Reply {
    if reading.replayed {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    answer
}
