//! `/{page}/counter`: read, count up or down, reset.

use std::fmt::Display;

use bytes::Bytes;
use counter_core::counter::Key;
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Uri};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, Unexpected, Visitor};
use utoipa::ToSchema;

use super::body::Declared;
use super::negotiate::{Form, form};
use super::problem::Problem;
use super::whole::whole;
use super::{Backend, Reply, Shared, body, idempotency, own_writes, page, query, reply};
use crate::own_writes::OwnWrites;
use crate::router::{Action, Reading, Write};

/// An update. Without a body it counts one up.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Update {
    #[serde(default)]
    action: Direction,
    /// By how much.
    #[serde(default)]
    #[schema(value_type = u64, minimum = 1, default = 1)]
    by: By,
    #[serde(default, deserialize_with = "refuse_key")]
    #[schema(ignore)]
    #[expect(dead_code, reason = "there to be refused by name")]
    idempotency_key: (),
}

/// Whether an update counts up or down.
#[derive(Clone, Copy, Debug, Default, ToSchema)]
#[schema(rename_all = "lowercase")]
pub(super) enum Direction {
    #[default]
    Increment,
    Decrement,
}

/// A step of at least 1: one of 0 would change nothing but the time of the last change.
#[derive(Clone, Copy, Debug)]
pub(super) struct By(u64);

impl Default for By {
    fn default() -> Self {
        Self(1)
    }
}

impl<'de> Deserialize<'de> for By {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match whole(deserializer)? {
            0 => Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"a whole number of at least 1")),
            by => Ok(Self(by)),
        }
    }
}

// By hand, since serde_json reports what is no text here as a mistake in the document, not in the field.
impl<'de> Deserialize<'de> for Direction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Named)
    }
}

/// Of a direction's name nothing is kept.
struct Named;

impl Visitor<'_> for Named {
    type Value = Direction;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Direction, E> {
        match name {
            "increment" => Ok(Direction::Increment),
            "decrement" => Ok(Direction::Decrement),
            other => Err(E::unknown_variant(other, &["increment", "decrement"])),
        }
    }
}

/// A key that is taken and then ignored would let a retry count twice.
pub(super) fn refuse_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom("the key of a single update is sent as the header Idempotency-Key"))
}

impl Direction {
    pub(super) fn action(self, By(by): By) -> Action {
        match self {
            Self::Increment => Action::Increment(by),
            Self::Decrement => Action::Decrement(by),
        }
    }
}

/// Read a page's counter. A page that nobody has counted is at 0.
#[utoipa::path(
    get, path = "/{page}/counter", tag = "counters", operation_id = "getCounter",
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("detail" = Option<bool>, Query, description = "With all that is known of the counter; JSON only"),
        ("If-None-Match" = Option<String>, Header, description = "Tags of answers that the client has; not with `detail`"),
        ("Counter-Session" = Option<String>, Header, description = "What the client has written in its session, as the last answer to an update gave it; empty or `new` begins one. The answer then shows all of that, or is 503, `session-not-reached`"),
    ),
    responses(
        (status = 200, description = "The counter", content(
            (super::openapi::CounterAnswer = "application/json"),
            (String = "text/plain", example = "715"),
            (String = "text/html"),
        ), headers(("ETag" = String, description = "Stands for this answer in `If-None-Match`; none with `detail`"))),
        (status = 304, description = "The client has it already"),
        (status = 400, description = "A bad page, parameter or session", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: no owner answers, or the session is not reached", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>, key: Key, head: &mut Parts) -> Result<Reply, Problem> {
    let detail = query::detail(head.uri.query())?;
    let writes = own_writes::told(&head.headers, &shared.backend)?;
    match form(&head.headers, &[Form::Json, Form::Text, Form::Html]) {
        Form::Json if detail => reply::detailed(&Box::pin(shared.backend.read_detailed_after(&writes, key)).await?),
        form => {
            let reading = shared.backend.read_after(&writes, key.clone()).await?;
            Ok(reply::read(&reading, form, Some(&String::from_utf8_lossy(key.as_bytes())), &mut head.headers))
        }
    }
}

/// Count a page up, or as the body says.
#[utoipa::path(
    put, path = "/{page}/counter", tag = "counters", operation_id = "updateCounter", security((), ("token" = [])),
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's name for this update: sent again under it, the update counts once. A UUID of version 7, or `<milliseconds since 1970, 13 digits>-<anything>`; 1 to 255 visible ASCII characters, with or without quotes around them", pattern = r#"^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$"#),
        ("Counter-Session" = Option<String>, Header, description = "What the client has written in its session, as the last answer to an update gave it; empty or `new` begins one. The answer then shows all of that, or is 503, `session-not-reached`"),
    ),
    request_body(content = Option<Update>, description = "None: increment by 1"),
    responses(
        (status = 200, description = "The counter after the update", headers(
            ("Idempotency-Replayed" = bool, description = "`true`: the update had been counted before, under its key"),
            ("Counter-Session" = String, description = "Only where the request had one: what to send with the next request of the session"),
        ), content(
            (super::reply::Counter = "application/json"),
            (String = "text/plain", example = "716"),
        )),
        (status = 400, description = "A bad page, session or body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "By its type: the counter would leave the range of a signed 64-bit number; or the key was used for another update, is too old, or is of the future", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The page, or the key, is new, and the node is full", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, session not reached, outcome unknown, or overloaded", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put<B, R>(shared: &Shared<B>, key: Key, head: &mut Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: Display,
{
    query::none(head.uri.query())?;
    let token = idempotency::token(&head.headers)?;
    let writes = own_writes::told(&head.headers, &shared.backend)?;
    let form = form(&head.headers, &UPDATED_FORMS);
    let declared = Declared::of(&head.headers);
    // The head lies in the buffer that the connection reads into: as long as anything holds it, each look for more takes a new one.
    head.uri = Uri::default();
    let mut room = std::mem::take(&mut head.headers);
    room.clear();
    let update = read_update(declared, body, shared.limits.body_bytes).await?;
    let write = Write { action: update.action.action(update.by), token };
    let reading = shared.backend.update_after(&writes, key, write).await?;
    Ok(updated(shared, &writes, (form, room), &reading))
}

/// What nearly every body is, byte for byte. It need not be parsed.
const ONE_UP: &[u8] = br#"{"action":"increment"}"#;

async fn read_update<R>(declared: Declared, body: R, limit_bytes: usize) -> Result<Update, Problem>
where
    R: Body<Data = Bytes> + Send,
    R::Error: Display,
{
    let bytes = body::read(body, limit_bytes).await?;
    update_in(declared, &bytes)
}

fn update_in(declared: Declared, bytes: &[u8]) -> Result<Update, Problem> {
    match bytes {
        b"" => Ok(Update::default()),
        ONE_UP if matches!(declared, Declared::Json) => Ok(Update::default()),
        bytes => body::parse_declared(declared, bytes),
    }
}

/// What an update with this body, declared as JSON if there is one, does.
pub(super) fn json_action(body: &[u8]) -> Result<Action, Problem> {
    update_in(Declared::Json, body).map(|update| update.action.action(update.by))
}

/// Reset a page's counter: what has been counted so far is cleared, what others count at the same time survives.
#[utoipa::path(
    delete, path = "/{page}/counter", tag = "counters", operation_id = "resetCounter", security((), ("token" = [])),
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's name for this update: sent again under it, the update counts once. A UUID of version 7, or `<milliseconds since 1970, 13 digits>-<anything>`; 1 to 255 visible ASCII characters, with or without quotes around them", pattern = r#"^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$"#),
        ("Counter-Session" = Option<String>, Header, description = "What the client has written in its session, as the last answer to an update gave it; empty or `new` begins one. The answer then shows all of that, or is 503, `session-not-reached`"),
    ),
    responses(
        (status = 200, description = "The counter after the reset", headers(
            ("Idempotency-Replayed" = bool, description = "`true`: the update had been counted before, under its key"),
            ("Counter-Session" = String, description = "Only where the request had one: what to send with the next request of the session"),
        ), content(
            (super::reply::Counter = "application/json"),
            (String = "text/plain", example = "0"),
        )),
        (status = 400, description = "A bad page, session or key", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The key was used for another update, is too old, or is of the future", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The key is new, and the node remembers as many as it may", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, session not reached, outcome unknown, or overloaded", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete<B: Backend>(shared: &Shared<B>, segment: &str, head: &Parts) -> Result<Reply, Problem> {
    let key = page::key(segment)?;
    query::none(head.uri.query())?;
    let token = idempotency::token(&head.headers)?;
    let writes = own_writes::told(&head.headers, &shared.backend)?;
    let reading = shared.backend.update_after(&writes, key, Write { action: Action::Reset, token }).await?;
    Ok(updated(shared, &writes, (form(&head.headers, &UPDATED_FORMS), HeaderMap::new()), &reading))
}

/// The forms of the answer to an update.
const UPDATED_FORMS: [Form; 2] = [Form::Json, Form::Text];

/// The answer to an update, in this form and with this room for headers.
pub(super) fn updated<B: Backend>(
    shared: &Shared<B>,
    writes: &OwnWrites,
    (form, room): (Form, HeaderMap),
    reading: &Reading,
) -> Reply {
    let answer = reply::counter(reading, form, None, room);
    own_writes::tell(idempotency::mark(answer, reading), writes, &shared.backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_that_is_not_parsed_means_what_it_says() {
        let Ok(parsed) = body::parse_declared::<Update>(Declared::Json, ONE_UP) else { panic!("it is refused") };
        let Update { action, by: By(by), .. } = parsed;
        assert!(matches!((action, by), (Direction::Increment, 1)));
        let Update { action, by: By(by), .. } = Update::default();
        assert!(matches!((action, by), (Direction::Increment, 1)));
    }
}
