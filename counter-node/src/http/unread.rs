//! `/users/{user}/subscriptions`, `/users/{user}/unread` and `/{page}/modifications`: what users have not read of the pages that
//! they subscribe to.

use bytes::Bytes;
use counter_core::counter::Key;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::live::id;
use super::problem::Problem;
use super::reply::{moment, to_json};
use super::whole::whole;
use super::{Backend, Reply, Shared, body, idempotency, page, query, reply};
use crate::unread::{self, Refused, SUBSCRIPTIONS_MAX, Standing, Unread};

/// The longest body of a request that says nothing in it.
const EMPTY_BODY_BYTES_MAX: usize = 1 << 10;

/// A page that a user subscribes to, or does not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subscription {
    #[schema(example = "blog/post-1")]
    page: String,
    subscribed: bool,
    /// How many of the page's modifications the user has read.
    #[schema(example = 17)]
    read: u32,
    /// When that last changed, RFC 3339 in UTC; null when the user never subscribed.
    #[schema(format = DateTime, example = "2030-10-10T12:11:42Z")]
    updated_at: Option<String>,
}

/// The pages that a user subscribes to, by their names.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subscriptions {
    subscriptions: Vec<Subscription>,
}

/// A page's modifications.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Modified {
    /// How many there have been, this one included: what to say was read.
    #[schema(example = 17)]
    version: u64,
    /// When this one was counted, RFC 3339 in UTC.
    #[schema(format = DateTime, example = "2030-10-10T12:11:42Z")]
    updated_at: Option<String>,
}

/// What a user has not read.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UnreadCount {
    /// Modifications that the user has not read, of all pages together.
    #[schema(example = 3)]
    count: u64,
    /// The latest modification, or change of a subscription, RFC 3339 in UTC; null when there never was any.
    #[schema(format = DateTime, example = "2030-10-10T12:11:42Z")]
    updated_at: Option<String>,
    /// The pages with modifications that the user has not read, by their names.
    pages: Vec<UnreadPage>,
}

/// A page with modifications that a user has not read.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UnreadPage {
    #[schema(example = "blog/post-1")]
    page: String,
    #[schema(example = 3)]
    unread: u32,
    /// How many modifications there have been: what to say was read.
    #[schema(example = 17)]
    version: u32,
}

/// What has been read of a page.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct ReadUpTo {
    /// The version of the page that the user has seen, as a modification or the unread count gave it.
    #[schema(example = 17)]
    #[serde(deserialize_with = "whole")]
    version: u32,
}

/// The request says nothing in its body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Nothing {}

/// Say that a page was modified. Whoever subscribes to it has one more modification to read. It costs the same for ten subscribers
/// and for ten million.
#[utoipa::path(
    post, path = "/{page}/modifications", tag = "unread", operation_id = "modifyPage", security((), ("token" = [])),
    params(
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
        ("Idempotency-Key" = Option<String>, Header, description = "The client's name for this modification: sent again under it, it counts once. A UUID of version 7, or `<milliseconds since 1970, 13 digits>-<anything>`; 1 to 255 visible ASCII characters, with or without quotes around them", pattern = r#"^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$"#),
    ),
    responses(
        (status = 200, description = "The page's version after it", body = Modified, headers(
            ("Idempotency-Replayed" = bool, description = "`true`: the modification had been counted before, under its key"),
        )),
        (status = 400, description = "A bad page, key or body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "By its type: the page has been modified as often as can be counted; or the key was used for another update, is too old, or is of the future", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The page, or the key, is new, and the node is full", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, outcome unknown, or overloaded", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn modify<B, R>(shared: &Shared<B>, segment: &str, head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let page = page::key(segment)?;
    query::none(head.uri.query())?;
    let token = idempotency::token(&head.headers)?;
    nothing(head, body).await?;
    let reading = unread::modify(&shared.backend, &page, token).await?;
    let version = u64::try_from(reading.tally).unwrap_or_default();
    let answer = json(&Modified { version, updated_at: moment(reading.updated_at) })?;
    Ok(idempotency::mark(answer, &reading))
}

/// Read what a user has not read yet.
#[utoipa::path(
    get, path = "/users/{user}/unread", tag = "unread", operation_id = "getUnread",
    params(("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F")),
    responses(
        (status = 200, description = "The count, and the pages that it is of", body = UnreadCount),
        (status = 400, description = "A bad user", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Some shard does not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>, user: &str, head: &Parts) -> Result<Reply, Problem> {
    query::none(head.uri.query())?;
    let Unread { count, updated_at, pages } = unread::unread(&*shared.keeper, self::user(user)?).await?;
    let pages = pages.into_iter().map(|unread::UnreadPage { page, unread, version }| UnreadPage {
        page: page::text(&page),
        unread,
        version,
    });
    json(&UnreadCount { count, updated_at: moment(updated_at), pages: pages.collect() })
}

/// Say that a user has read a page, as far as the version that the user has seen. What was read before stays read, and a version
/// that the page has not come to counts as the one that it has.
#[utoipa::path(
    put, path = "/users/{user}/unread/{page}", tag = "unread", operation_id = "markRead", security((), ("token" = [])),
    params(
        ("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F"),
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
    ),
    request_body(content = ReadUpTo),
    responses(
        (status = 200, description = "What is left to read of the page", body = UnreadPage),
        (status = 400, description = "A bad user, page or body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The user does not subscribe to the page", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, outcome unknown, or overloaded; it can be sent again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn read<B, R>(shared: &Shared<B>, of: (&str, &str), head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let (user, page) = subscription(of, head)?;
    let bytes = body::read(body, shared.limits.body_bytes).await?;
    let ReadUpTo { version } = body::parse(&head.headers, &bytes)?;
    let (standing, modifications) = unread::read(&shared.backend, &*shared.keeper, (&user, &page), version).await?;
    let unread = standing.subscription.unread(modifications);
    json(&UnreadPage { page: page::text(&page), unread, version: modifications.number })
}

/// Read the pages that a user subscribes to.
#[utoipa::path(
    get, path = "/users/{user}/subscriptions", tag = "unread", operation_id = "getSubscriptions",
    params(("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F")),
    responses(
        (status = 200, description = "The pages", body = Subscriptions),
        (status = 400, description = "A bad user", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The user's shard does not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list<B: Backend>(shared: &Shared<B>, user: &str, head: &Parts) -> Result<Reply, Problem> {
    query::none(head.uri.query())?;
    let subscribed = shared.keeper.subscriptions(self::user(user)?).await?;
    let subscriptions = subscribed.into_iter().map(|subscribed| Subscription {
        page: page::text(&subscribed.page),
        subscribed: true,
        read: subscribed.subscription.cursor.number(),
        updated_at: moment(subscribed.updated_at),
    });
    json(&Subscriptions { subscriptions: subscriptions.collect() })
}

/// Read whether a user subscribes to a page.
#[utoipa::path(
    get, path = "/users/{user}/subscriptions/{page}", tag = "unread", operation_id = "getSubscription",
    params(
        ("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F"),
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
    ),
    responses(
        (status = 200, description = "The subscription, or that there is none", body = Subscription),
        (status = 400, description = "A bad user or page", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The user's shard does not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show<B: Backend>(shared: &Shared<B>, of: (&str, &str), head: &Parts) -> Result<Reply, Problem> {
    let (user, page) = subscription(of, head)?;
    let key = user.subscription(&page).ok_or_else(|| Problem::bad_field("user", "is none"))?;
    json(&told(&page, &shared.keeper.standing(key).await?))
}

/// Subscribe a user to a page: from now on its modifications are the user's to read. Subscribing again changes nothing.
#[utoipa::path(
    put, path = "/users/{user}/subscriptions/{page}", tag = "unread", operation_id = "subscribe", security((), ("token" = [])),
    params(
        ("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F"),
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
    ),
    responses(
        (status = 200, description = "The subscription", body = Subscription),
        (status = 400, description = "A bad user, page or body", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The user subscribes to 1,000 pages already", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The subscription is new, and the node is full", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, outcome unknown, or overloaded; it can be sent again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn subscribe<B, R>(shared: &Shared<B>, of: (&str, &str), head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let (user, page) = subscription(of, head)?;
    nothing(head, body).await?;
    let standing = unread::subscribe(&shared.backend, &*shared.keeper, (&user, &page)).await?;
    json(&told(&page, &standing))
}

/// End a user's subscription to a page, which takes its share off the unread count. One that is not there is no error.
#[utoipa::path(
    delete, path = "/users/{user}/subscriptions/{page}", tag = "unread", operation_id = "unsubscribe", security((), ("token" = [])),
    params(
        ("user" = String, Path, min_length = 1, max_length = 128, description = "The user, at most 128 bytes; a slash in it is written %2F"),
        ("page" = String, Path, min_length = 1, max_length = 512, description = "The page, at most 512 bytes; a slash in it is written %2F"),
    ),
    responses(
        (status = 204, description = "The user does not subscribe to the page"),
        (status = 400, description = "A bad user or page", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "By its type: not applied, outcome unknown, or overloaded; it can be sent again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn unsubscribe<B: Backend>(shared: &Shared<B>, of: (&str, &str), head: &Parts) -> Result<Reply, Problem> {
    let (user, page) = subscription(of, head)?;
    unread::unsubscribe(&shared.backend, &*shared.keeper, (&user, &page)).await?;
    let mut reply = Reply::default();
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Ok(reply)
}

/// The key of a user as the name stands, percent-encoded, in a path.
pub(super) fn user(segment: &str) -> Result<Key, Problem> {
    let decoded = page::decode(segment).map_err(|reason| Problem::bad_field("user", reason))?;
    let name = id("user", decoded.into_owned())?;
    Key::user(name.as_bytes()).map_err(|error| Problem::bad_field("user", error))
}

fn subscription((user, page): (&str, &str), head: &Parts) -> Result<(Key, Key), Problem> {
    query::none(head.uri.query())?;
    Ok((self::user(user)?, page::key(page)?))
}

fn told(page: &Key, Standing { subscription, updated_at, .. }: &Standing) -> Subscription {
    Subscription {
        page: page::text(page),
        subscribed: subscription.is_active(),
        read: subscription.cursor.number(),
        updated_at: moment(*updated_at),
    }
}

/// Reads a body that has nothing to say: none, or an empty object.
async fn nothing<R>(head: &Parts, body: R) -> Result<(), Problem>
where
    R: Body<Data = Bytes> + Send,
    R::Error: std::fmt::Display,
{
    let bytes = body::read(body, EMPTY_BODY_BYTES_MAX).await?;
    let Nothing {} = if bytes.is_empty() { Nothing {} } else { body::parse(&head.headers, &bytes)? };
    Ok(())
}

fn json(document: &impl Serialize) -> Result<Reply, Problem> {
    let mut answer = reply(StatusCode::OK, "application/json", to_json(document)?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooMany => Self::too_many_subscriptions(SUBSCRIPTIONS_MAX),
            Refused::NotSubscribed => Self::not_subscribed(),
            Refused::Failed(failure) => Self::from(failure),
        }
    }
}
