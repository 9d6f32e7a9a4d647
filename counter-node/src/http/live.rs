//! `/{page}/live` and `/live`: counts as they change, by WebSocket or as server-sent events.

use std::time::Instant;

use counter_core::counter::Key;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::negotiate::accepts_events;
use super::problem::Problem;
use super::{Backend, Content, Reply, Shared, page, query};
use crate::live::stream::Events;
use crate::live::{Mode, Name, Opening, Subject, Who, echo, socket};
use crate::server::Peer;

/// The longest id or token that a live connection may bring, in bytes.
pub(super) const ID_BYTES_MAX: usize = 128;
/// How browsers name the last event that they have.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Follow a page's counter, as one of its viewers for as long as the connection is open.
#[utoipa::path(
    get, path = "/{page}/live", tag = "live", operation_id = "followCounter",
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("observe" = Option<bool>, Query, description = "Without being counted as a viewer"),
        ("session" = Option<String>, Query, min_length = 1, max_length = 128, description = "The client's own name for its session: under it, it counts once however many connections it has, at most 128 bytes"),
        ("resume" = Option<String>, Query, min_length = 1, max_length = 128, description = "The token of the connection that this one replaces, from its `hello`"),
        ("user" = Option<String>, Query, min_length = 1, max_length = 128, description = "Who the viewer is, at most 128 bytes: for the number of unique viewers, and what this user has not read is sent along"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has: it is not sent again"),
    ),
    responses(
        (status = 101, description = "With `Upgrade: websocket`: the messages that docs/live.md describes"),
        (status = 200, description = "With `Accept: text/event-stream`: an event for each new count, without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A bad page or parameter", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site, which is not allowed", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "Neither a WebSocket nor events were asked for; the node would take them now", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many connections from this address", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many connections, or unread counts that are followed, or the node stops; Retry-After says when to try again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn page<B: Backend>(shared: &Shared<B>, peer: &Peer, segment: &str, head: &Parts) -> Result<Reply, Problem> {
    let key = page::key(segment)?;
    open(shared, peer, Subject::Page(key), head)
}

/// Follow the whole site's counter. On a WebSocket pages can be followed, too.
#[utoipa::path(
    get, path = "/live", tag = "live", operation_id = "followSite",
    params(
        ("session" = Option<String>, Query, min_length = 1, max_length = 128, description = "As for a page; for pages that are subscribed to later"),
        ("resume" = Option<String>, Query, min_length = 1, max_length = 128, description = "The token of the connection that this one replaces, from its `hello`"),
        ("user" = Option<String>, Query, min_length = 1, max_length = 128, description = "As for a page"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has: it is not sent again"),
    ),
    responses(
        (status = 101, description = "With `Upgrade: websocket`: the messages that docs/live.md describes"),
        (status = 200, description = "With `Accept: text/event-stream`: an event for each new count, without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A bad parameter", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site, which is not allowed", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "Neither a WebSocket nor events were asked for; the node would take them now", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many connections from this address", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many connections, or unread counts that are followed, or the node stops; Retry-After says when to try again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn site<B: Backend>(shared: &Shared<B>, peer: &Peer, head: &Parts) -> Result<Reply, Problem> {
    open(shared, peer, Subject::Site, head)
}

/// Follow what a user has not read.
#[utoipa::path(
    get, path = "/users/{user}/unread/live", tag = "unread", operation_id = "followUnread",
    params(
        ("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F"),
        ("resume" = Option<String>, Query, min_length = 1, max_length = 128, description = "The token of the connection that this one replaces, from its `hello`"),
    ),
    responses(
        (status = 101, description = "With `Upgrade: websocket`: the messages that docs/live.md describes"),
        (status = 200, description = "With `Accept: text/event-stream`: an event for each new count, without end", body = String, content_type = "text/event-stream"),
        (status = 400, description = "A bad user or parameter", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "A page of another site, which is not allowed", body = Problem, content_type = "application/problem+json"),
        (status = 426, description = "Neither a WebSocket nor events were asked for; the node would take them now", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many connections from this address", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many connections, or unread counts that are followed, or the node stops; Retry-After says when to try again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn unread<B: Backend>(shared: &Shared<B>, peer: &Peer, user: &str, head: &Parts) -> Result<Reply, Problem> {
    open(shared, peer, Subject::User(super::unread::user(user)?), head)
}

/// The echo that the WebSocket conformance tests speak to.
pub(super) fn echo<B: Backend>(shared: &Shared<B>, peer: &Peer, head: &Parts) -> Result<Reply, Problem> {
    if !shared.echo {
        return Err(Problem::not_found(head.uri.path()));
    }
    let accept = handshake(head)?.ok_or_else(Problem::upgrade_required)?;
    peer.take_over(echo::serve);
    Ok(switch(accept))
}

fn open<B: Backend>(shared: &Shared<B>, peer: &Peer, subject: Subject, head: &Parts) -> Result<Reply, Problem> {
    let Asked { observe, who, unread } = Asked::read(head.uri.query(), &subject)?;
    let accept = handshake(head)?;
    let live = shared.live.clone();
    let user = if let Subject::User(user) = &subject { Some(user) } else { unread.as_ref() };
    if accept.is_none() && !accepts_events(&head.headers) {
        // Browsers tell scripts neither why a connection was refused nor when to come again: these ask so.
        let refused = live.advice(user, peer.from.ip(), Instant::now());
        return Err(refused.map_or_else(Problem::upgrade_required, Problem::from));
    }
    if !shared.cors.admits(&head.headers) {
        live.metrics.refused_origin.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        return Err(Problem::foreign_origin());
    }
    user.map_or(Ok(()), |user| live.admit_follower(user))?;
    let place = live.admission.admit(peer.from.ip(), Instant::now())?;
    let mode = if observe { Mode::Observe } else { Mode::View };
    let last_id = head.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let opening = Opening { live, place, subject, mode, who, unread, last_id };
    match accept {
        Some(accept) => {
            peer.take_over(move |connection| socket::serve(connection, opening));
            Ok(switch(accept))
        }
        None => Ok(events(Events::new(opening, peer, shared.stopping.clone()))),
    }
}

fn events(events: Events) -> Reply {
    let mut reply = Reply::new(Content::stream(events));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Some proxies gather what streams unless they are told not to.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}

fn switch(accept: HeaderValue) -> Reply {
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    reply
}

/// The answer to a client's half of the handshake (RFC 6455 §4.2.1); none when it asks for no WebSocket.
fn handshake(head: &Parts) -> Result<Option<HeaderValue>, Problem> {
    let headers = &head.headers;
    if head.version != Version::HTTP_11 || !names(headers, &UPGRADE, "websocket") || !names(headers, &CONNECTION, "upgrade") {
        return Ok(None);
    }
    if !names(headers, &SEC_WEBSOCKET_VERSION, "13") {
        return Err(Problem::upgrade_required());
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let key = key.ok_or_else(|| Problem::bad_field("Sec-WebSocket-Key", "must be 16 bytes in base64"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(|error| Problem::internal(&error))?;
    Ok(Some(accept))
}

/// Whether a header's list has this word.
fn names(headers: &HeaderMap, header: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(header).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// The parameters of a live connection.
#[derive(Debug, Default)]
struct Asked {
    observe: bool,
    who: Who,
    /// The key of the user whose unread count is sent along.
    unread: Option<Key>,
}

impl Asked {
    fn read(query: Option<&str>, subject: &Subject) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in query::parameters(query)? {
            match (name.as_str(), value.as_str()) {
                ("observe", "true") if !matches!(subject, Subject::User(_)) => asked.observe = true,
                _ if matches!(subject, Subject::User(_)) && name != "resume" => {
                    return Err(Problem::bad_field(&name, "is not a parameter of this request, which knows `resume` only"));
                }
                ("observe", "false") if *subject != Subject::Site => asked.observe = false,
                ("observe", _) => return Err(Problem::bad_field("observe", "must be true or false")),
                ("session", _) => asked.who.session = Some(id("session", value)?),
                ("user", _) => {
                    let user = id("user", value)?;
                    asked.who.user = Some(Name::of_user(&user));
                    asked.unread = Some(Key::user(user.as_bytes()).map_err(|error| Problem::bad_field("user", error))?);
                }
                // What no node has given, or one of another release, means nothing.
                ("resume", _) => asked.who.resumes = id("resume", value)?.parse().ok(),
                _ => return Err(Problem::bad_field(&name, "is not a parameter of this request")),
            }
        }
        Ok(asked)
    }
}

/// A name that a client has made up.
pub(super) fn id(field: &str, value: String) -> Result<String, Problem> {
    match value.len() {
        1..=ID_BYTES_MAX => Ok(value),
        bytes => Err(Problem::bad_field(field, format_args!("must be 1 to {ID_BYTES_MAX} bytes long, and is {bytes}"))),
    }
}
