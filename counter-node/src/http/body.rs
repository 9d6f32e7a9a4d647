//! Request bodies: bounded in length and time, declared as JSON, and refused by the name of the field that is wrong.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
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
    let collected = in_time(Duration::from_secs(BODY_TIME_S), collect(body, limit_bytes)).await;
    collected.unwrap_or_else(|| Err(Problem::request_timeout(BODY_TIME_S)))
}

/// Nearly always the body is one piece, and stays where it was read.
async fn collect<R>(body: R, limit_bytes: usize) -> Result<Bytes, Problem>
where
    R: Body<Data = Bytes> + Send,
    R::Error: Display,
{
    let mut body = pin!(body);
    let mut whole = Bytes::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        // Trailers say nothing to us.
        let Ok(data) = frame.map_err(|error| Problem::body_lost(&error))?.into_data() else { continue };
        if whole.len() + data.len() > limit_bytes {
            return Err(Problem::too_large(limit_bytes));
        }
        whole = if whole.is_empty() { data } else { joined(whole, &data) };
    }
    Ok(whole)
}

/// In place, where the first piece has been joined before.
fn joined(whole: Bytes, data: &[u8]) -> Bytes {
    let mut whole = BytesMut::from(whole);
    whole.extend_from_slice(data);
    whole.freeze()
}

/// What becomes of `future`; none when that is not known in time. It is asked twice before there is a timer: of a body that came
/// with its head, hyper has nothing yet at the first time and all at the second.
async fn in_time<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut asked = false;
    let at_once = poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if asked => Poll::Ready(None),
        Poll::Pending => {
            asked = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match at_once.await {
        Some(output) => Some(output),
        None => Box::pin(tokio::time::timeout(limit, future)).await.ok(),
    }
}

/// What a head says that the body is.
pub(super) enum Declared {
    Json,
    /// Of this type, or none.
    Other(Box<str>),
}

impl Declared {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let declared = headers.get(CONTENT_TYPE);
        if declared.is_some_and(|declared| declared == "application/json") {
            return Self::Json;
        }
        let declared = declared.map(|value| value.to_str().unwrap_or("one that is no text"));
        let media = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/json") { Self::Json } else { Self::Other(declared.unwrap_or("none").into()) }
    }
}

/// The document in the JSON body of a request with these headers.
pub(super) fn parse<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    parse_declared(Declared::of(headers), bytes)
}

/// The document in a JSON body. A body without the declaration is refused: browsers send such bodies to other sites without
/// asking these first.
pub(super) fn parse_declared<T: DeserializeOwned>(declared: Declared, bytes: &[u8]) -> Result<T, Problem> {
    if let Declared::Other(declared) = declared {
        return Err(Problem::unsupported_media_type(&declared));
    }
    // serde would take an array's items for an object's fields.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        return Err(Problem::bad_json(&"expected an object, not an array"));
    }
    match serde_json::from_slice(bytes) {
        Ok(document) => Ok(document),
        Err(_) => refused(bytes),
    }
}

/// Reads once more what is no such document, to say where it is wrong: keeping the path in mind costs more than all the rest.
#[cold]
fn refused<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
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

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_waited_for_and_what_does_not_come_is_given_up() {
        let moment = Duration::from_millis(1);
        assert_eq!(in_time(moment, std::future::ready(7)).await, Some(7));
        assert_eq!(in_time(moment, std::future::pending::<u8>()).await, None);
        for turns in 1..5 {
            let late = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                turns
            };
            assert_eq!(in_time(Duration::from_secs(60), late).await, Some(turns));
        }
        let later = async { tokio::time::sleep(moment).await };
        assert_eq!(in_time(Duration::from_secs(60), later).await, Some(()));
    }

    #[tokio::test]
    async fn a_body_is_its_pieces_put_together_up_to_the_limit() {
        for cut in [1, 2, 3, 7, 22] {
            let text = br#"{"action":"decrement"}"#;
            let pieces = || text.chunks(cut).map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(piece))));
            let body = || {
                StreamBody::new(
                    futures::stream::iter(pieces())
                        .then(|piece| async move {
                            tokio::task::yield_now().await;
                            piece
                        })
                        .boxed(),
                )
            };
            assert_eq!(collect(body(), text.len()).await.unwrap(), &text[..], "in pieces of {cut}");
            assert_eq!(collect(body(), text.len() - 1).await.unwrap_err().status(), 413, "in pieces of {cut}");
        }
        assert_eq!(collect(Full::new(Bytes::new()), 0).await.unwrap(), "");
        let broken = futures::stream::iter([Ok(Frame::data(Bytes::from_static(b"{"))), Err(std::io::Error::other("cut off"))]);
        assert_eq!(collect(StreamBody::new(broken), 9).await.unwrap_err().status(), 400);
    }
}
