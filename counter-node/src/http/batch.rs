//! `/counters`: many counters in one request. The whole request is checked before anything is applied; after that each
//! counter stands for itself.

use std::fmt::Display;

use bytes::Bytes;
use counter_core::counter::Key;
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::counter::{By, Direction};
use super::problem::Problem;
use super::reply::{Counter, to_json};
use super::{Backend, Reply, Shared, body, idempotency, own_writes, page, query, reply};
use crate::router::{Failure, Reading, Write};

/// The most counters of one request.
pub(super) const COUNTERS_MAX: usize = 1_000;
/// The field that names an update.
pub(super) const KEY_FIELD: &str = "idempotency_key";

/// Many updates.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct Updates {
    #[schema(min_items = 1, max_items = 1000)]
    updates: Vec<PageUpdate>,
}

/// One of many updates.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct PageUpdate {
    /// The page, as it is: not percent-encoded, at most 512 bytes.
    #[schema(min_length = 1, max_length = 512)]
    page: String,
    #[serde(default)]
    action: Direction,
    /// By how much.
    #[serde(default)]
    #[schema(value_type = u64, minimum = 1, default = 1)]
    by: By,
    /// The client's name for this update: sent again under it, the update counts once. As the header Idempotency-Key of
    /// a single update.
    #[serde(default)]
    #[schema(pattern = r#"^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$"#)]
    idempotency_key: Option<String>,
}

/// What came of each counter, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Results {
    results: Vec<PageResult>,
}

/// What came of one of many counters: a counter with status 200, or a problem.
#[derive(Debug, Serialize, ToSchema)]
struct PageResult {
    page: String,
    /// What the HTTP status would be if the counter had been asked for alone.
    #[schema(example = 200)]
    status: u16,
    /// True: the update had been counted before, under its idempotency key. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Outcome {
    Counter(Counter),
    Problem { problem: Problem },
}

/// Read many counters.
#[utoipa::path(
    get, path = "/counters", tag = "counters", operation_id = "getCounters",
    params(
        ("page" = Vec<String>, Query, explode = true, style = Form, description = "1 to 1,000 pages"),
        ("Counter-Session" = Option<String>, Header, description = "What the client has written in its session: a result shows that, or is a problem, `session-not-reached`"),
    ),
    responses(
        (status = 200, description = "A result for each page", body = Results),
        (status = 400, description = "A bad page or parameter; nothing was read", body = Problem, content_type = "application/problem+json"),
        (status = 431, description = "The pages are too long for a request's head, together more than 64 KiB", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>, head: &Parts) -> Result<Reply, Problem> {
    let parameters = query::parameters(head.uri.query())?;
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name != "page") {
        return Err(Problem::bad_field(name, "is not a parameter of this request, which knows `page` only"));
    }
    check_count("page", parameters.len())?;
    let pages: Vec<String> = parameters.into_iter().map(|(_, page)| page).collect();
    let keys = pages.iter().map(|page| page::named(page)).collect::<Result<Vec<Key>, _>>()?;
    let writes = own_writes::told(&head.headers, &shared.backend)?;
    let readings = shared.backend.read_many_after(&writes, keys).await;
    answer(pages, readings)
}

/// Update many counters. The request is checked as a whole before anything is applied; then each update stands for itself.
#[utoipa::path(
    post, path = "/counters", tag = "counters", operation_id = "updateCounters", security((), ("token" = [])),
    params(
        ("Counter-Session" = Option<String>, Header, description = "What the client has written in its session, of which this becomes a part; then at most 64 updates"),
    ),
    request_body = Updates,
    responses(
        (status = 200, description = "A result for each update, in their order", body = Results, headers(
            ("Counter-Session" = String, description = "Only where the request had one: what to send with the next request of the session"),
        )),
        (status = 400, description = "A bad body; nothing was applied", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No token, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not come in time", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared as JSON", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn post<B, R>(shared: &Shared<B>, head: &Parts, body: R) -> Result<Reply, Problem>
where
    B: Backend,
    R: Body<Data = Bytes> + Send,
    R::Error: Display,
{
    query::none(head.uri.query())?;
    idempotency::refuse_one_for_many(&head.headers)?;
    let writes = own_writes::told(&head.headers, &shared.backend)?;
    let bytes = body::read(body, shared.limits.body_bytes).await?;
    let Updates { updates } = body::parse(&head.headers, &bytes)?;
    check_count("updates", updates.len())?;
    let mut pages = Vec::with_capacity(updates.len());
    let mut actions = Vec::with_capacity(updates.len());
    for (index, update) in updates.into_iter().enumerate() {
        let key =
            Key::new(update.page.as_bytes()).map_err(|error| Problem::bad_field(&format!("updates[{index}].page"), error))?;
        let field = || format!("updates[{index}].{KEY_FIELD}");
        let token = update.idempotency_key.map(|text| idempotency::named(&text, &field())).transpose()?;
        actions.push((key, Write { action: update.action.action(update.by), token }));
        pages.push(update.page);
    }
    own_writes::check_batch(&writes, &actions)?;
    let readings = shared.backend.update_many_after(&writes, actions).await;
    answer(pages, readings).map(|answer| own_writes::tell(answer, &writes, &shared.backend))
}

fn check_count(field: &str, count: usize) -> Result<(), Problem> {
    match count {
        0 => Err(Problem::bad_field(field, "must name at least one counter")),
        1..=COUNTERS_MAX => Ok(()),
        _ => Err(Problem::bad_field(field, format_args!("must name at most {COUNTERS_MAX} counters, and names {count}"))),
    }
}

fn answer(pages: Vec<String>, readings: Vec<Result<Reading, Failure>>) -> Result<Reply, Problem> {
    let results = pages.into_iter().zip(readings).map(|(page, reading)| match reading {
        Ok(reading) => PageResult {
            page,
            status: StatusCode::OK.as_u16(),
            replayed: reading.replayed,
            outcome: Outcome::Counter(Counter::from(&reading)),
        },
        Err(failure) => {
            let problem = Problem::from(failure);
            PageResult { page, status: problem.status(), replayed: false, outcome: Outcome::Problem { problem } }
        }
    });
    let document = Results { results: results.collect() };
    let mut answer = reply(StatusCode::OK, "application/json", to_json(&document)?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}
