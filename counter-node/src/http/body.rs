//! Request bodies: bounded in length and time, declared as JSON, and refused by the name of the field that is wrong.

use std::fmt::Display;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// How long a client may take to send a body, in seconds.
const BODY_TIME_S: u64 = 30;

/// The whole body.
pub(super) async fn read<R>(body: R, limit_bytes: usize) -> Result<Bytes, Problem>
where
    R: Body<Data = Bytes> + Send,
    R::Error: Display,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > u64::try_from(limit_bytes).unwrap_or(u64::MAX) {
        return Err(Problem::too_large(limit_bytes));
    }
    let body = Limited::new(body.map_err(|error| error.to_string()), limit_bytes);
    match tokio::time::timeout(Duration::from_secs(BODY_TIME_S), body.collect()).await {
        Err(_) => Err(Problem::request_timeout(BODY_TIME_S)),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::too_large(limit_bytes)),
        Ok(Err(error)) => Err(Problem::body_lost(&error)),
    }
}

/// The document in a JSON body.
pub(super) fn parse<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    declared_as_json(headers)?;
    // serde would take an array's items for an object's fields.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        return Err(Problem::bad_json(&"expected an object, not an array"));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let document = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() && field != "." {
            Problem::bad_field(&field, reason(&error))
        } else {
            Problem::bad_json(&reason(&error))
        }
    })?;
    json.end().map_err(|error| Problem::bad_json(&error))?;
    Ok(document)
}

/// serde's message; the line and column in it help nobody who has the field's name.
fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    format!("is wrong: {}", &message[..end])
}

/// A body without the declaration is refused: browsers send such bodies to other sites without asking these first.
fn declared_as_json(headers: &HeaderMap) -> Result<(), Problem> {
    let declared = headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("one that is no text"));
    let media = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::unsupported_media_type(declared.unwrap_or("none")))
}
