//! `/{page}/sessions/{id}`: viewers without a connection of their own. Each heartbeat keeps one for some seconds more.

use bytes::Bytes;
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;

use super::live::id;
use super::negotiate::Form;
use super::problem::Problem;
use super::{Backend, Reply, Shared, body, page, query, reply};
use crate::live::Name;
use crate::live::claims::Session;

/// The longest body of a beacon, which says nothing.
const BEACON_BYTES_MAX: usize = 1 << 10;

/// Who it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Heartbeat {
    /// The viewer, for the number of unique viewers; at most 128 bytes.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128)]
    user: Option<String>,
}

/// Say that a viewer is there. It counts until heartbeats have stayed out for the node's `--presence-heartbeat`, or its end.
#[utoipa::path(
    put, path = "/{page}/sessions/{id}", tag = "live", operation_id = "beatSession",
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("id" = String, Path, min_length = 1, max_length = 128, description = "The client's own name for its session, at most 128 bytes"),
    ),
    request_body(content = Option<Heartbeat>, description = "None: nobody in particular"),
    responses(
        (status = 200, description = "The counter, which this may not show for some hundredths of a second", body = super::reply::Counter),
        (status = 400, description = "A bad page, id or body", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No node takes the session", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn put<B, R>(shared: &Shared<B>, (page, id): (&str, &str), head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let session = session(page, id, head)?;
    let bytes = body::read(body, shared.limits.body_bytes).await?;
    let Heartbeat { user } = if bytes.is_empty() { Heartbeat::default() } else { body::parse(&head.headers, &bytes)? };
    let user = user.map(|user| super::live::id("user", user)).transpose()?;
    let key = session.page.clone();
    shared.live.sessions.beat(session, user.as_deref().map(Name::of_user)).await?;
    count(shared, key).await
}

/// End a session. One that is not there, or not any more, is no error.
#[utoipa::path(
    delete, path = "/{page}/sessions/{id}", tag = "live", operation_id = "endSession",
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("id" = String, Path, min_length = 1, max_length = 128, description = "The session, at most 128 bytes"),
    ),
    responses(
        (status = 200, description = "The counter, which this may not show for some hundredths of a second", body = super::reply::Counter),
        (status = 400, description = "A bad page or id", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No node that could hold the session answers; it ends by itself", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn delete<B: Backend>(shared: &Shared<B>, (page, id): (&str, &str), head: &Parts) -> Result<Reply, Problem> {
    let session = session(page, id, head)?;
    let key = session.page.clone();
    shared.live.sessions.end(session).await?;
    count(shared, key).await
}

/// End a session, for `navigator.sendBeacon`: whatever the body is, it is ignored.
#[utoipa::path(
    post, path = "/{page}/sessions/{id}/end", tag = "live", operation_id = "endSessionByBeacon",
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("id" = String, Path, min_length = 1, max_length = 128, description = "The session, at most 128 bytes"),
    ),
    responses(
        (status = 204, description = "It is over"),
        (status = 400, description = "A bad page or id", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No node that could hold the session answers; it ends by itself", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn end<B, R>(shared: &Shared<B>, (page, id): (&str, &str), head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let session = session(page, id, head)?;
    body::read(body, BEACON_BYTES_MAX).await?;
    shared.live.sessions.end(session).await?;
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Ok(reply)
}

fn session(page: &str, segment: &str, head: &Parts) -> Result<Session, Problem> {
    query::none(head.uri.query())?;
    let page = page::key(page)?;
    let decoded = page::decode(segment).map_err(|reason| Problem::bad_field("id", reason))?;
    Ok(Session { page, id: id("id", decoded.into_owned())?.into() })
}

async fn count<B: Backend>(shared: &Shared<B>, key: counter_core::counter::Key) -> Result<Reply, Problem> {
    let reading = shared.backend.read(key).await?;
    Ok(reply::counter(&reading, Form::Json, None, HeaderMap::new()))
}
