//! The header `Counter-Session`: what a client has written, in words that only nodes understand. See `docs/consistency.md`.

use std::ops::Deref;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use counter_core::counter::Key;
use counter_core::marks::{MARKS_BYTES_MAX, MARKS_MAX, Marks, MarksError};
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::problem::Problem;
use super::{Backend, Reply, idempotency};
use crate::own_writes::{OwnWrites, UNTOLD};
use crate::router::{Failure, Write};

static SESSION: HeaderName = HeaderName::from_static("counter-session");
/// The header as problems name it.
const FIELD: &str = "Counter-Session";
/// What begins a session; so does an empty header.
const NEW: &str = "new";
/// The longest header that a node gives out.
const TEXT_BYTES_MAX: usize = MARKS_BYTES_MAX.div_ceil(3) * 4;

/// What a request says of what its client has written; of most requests nothing, which takes no room here.
pub(super) struct Told(Option<Box<OwnWrites>>);

impl Deref for Told {
    type Target = OwnWrites;

    fn deref(&self) -> &OwnWrites {
        self.0.as_deref().unwrap_or(&UNTOLD)
    }
}

impl Told {
    fn after(marks: Marks) -> Self {
        Self(Some(Box::new(OwnWrites::after(marks))))
    }
}

/// What the client has written, if it says so.
pub(super) fn told<B: Backend>(headers: &HeaderMap, backend: &B) -> Result<Told, Problem> {
    if !idempotency::is_among(headers, &SESSION) {
        return Ok(Told(None));
    }
    let mut values = headers.get_all(&SESSION).iter();
    let Some(value) = values.next() else { return Ok(Told(None)) };
    if values.next().is_some() {
        return Err(Problem::bad_field(FIELD, "must be sent once"));
    }
    let text = value.to_str().map_err(|_| Problem::bad_field(FIELD, "must consist of visible ASCII characters"))?.trim();
    if text.is_empty() || text == NEW {
        return Ok(Told::after(Marks::new()));
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(Problem::bad_field(FIELD, format_args!("must have at most {TEXT_BYTES_MAX} characters")));
    }
    let cluster = backend.cluster().ok_or_else(no_cluster)?;
    let malformed = |_| Problem::bad_field(FIELD, MarksError::Malformed);
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(malformed)?;
    let marks = Marks::decode(&bytes, cluster).map_err(|error| Problem::bad_field(FIELD, error))?;
    Ok(Told::after(marks))
}

/// Gives the client what it has written by now, if it wants to know.
pub(super) fn tell<B: Backend>(mut answer: Reply, writes: &OwnWrites, backend: &B) -> Reply {
    if let Some((marks, cluster)) = writes.all().zip(backend.cluster())
        && let Ok(value) = HeaderValue::from_str(&BASE64_URL_SAFE_NO_PAD.encode(marks.encode(cluster)))
    {
        answer.headers_mut().insert(&SESSION, value);
    }
    answer
}

/// The node has just started: it serves nothing yet.
fn no_cluster() -> Problem {
    Failure::NotApplied { reason: "the node waits for its layout".to_owned(), retry_after_s: 1 }.into()
}

/// For requests that no session is offered for: one that is not heeded would be a promise that is not kept.
pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(&SESSION) {
        return Err(Problem::bad_field(FIELD, "is not offered here: the site's total says how old it is with `?detail=true`"));
    }
    Ok(())
}

/// A batch must not write more than a session remembers.
pub(super) fn check_batch(writes: &OwnWrites, updates: &[(Key, Write)]) -> Result<(), Problem> {
    if writes.are_told() && updates.len() > MARKS_MAX {
        let count = updates.len();
        return Err(Problem::bad_field(
            FIELD,
            format_args!("is for batches of at most {MARKS_MAX} updates, and this one has {count}"),
        ));
    }
    Ok(())
}
