//! `/pages`: the pages that most look at now.

use std::time::Instant;

use counter_core::counter::KEY_BYTES_MAX;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::http::request::Parts;
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Backend, Reply, Shared, page, query, reply};
use crate::top::{Asked, TOP_MAX};

/// Pages that are asked for when the request does not say.
const LIMIT: usize = 10;

/// The busiest pages, most viewers first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopPages {
    pages: Vec<TopPage>,
    /// How old the oldest part of the answer is, in milliseconds.
    staleness_ms: u64,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TopPage {
    #[schema(example = "front-page")]
    page: String,
    #[schema(example = 12)]
    viewers: u64,
    /// The page's counter, viewers included.
    #[schema(example = 15)]
    count: i64,
}

/// Read which pages most look at, over the whole cluster. Pages that nobody looks at are not in it.
#[utoipa::path(
    get, path = "/pages", tag = "live", operation_id = "getTopPages",
    params(
        ("sort" = String, Query, pattern = "^viewers$", description = "`viewers`: by how many look at them, most first"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "How many at most; 10 when absent"),
        ("prefix" = Option<String>, Query, max_length = 512, description = "Only pages whose names begin so"),
    ),
    responses(
        (status = 200, description = "The pages", body = TopPages),
        (status = 400, description = "A bad parameter", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Some shard does not answer", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>, head: &Parts) -> Result<Reply, Problem> {
    let asked = asked(head.uri.query())?;
    let (busiest, age) = shared.backend.top(&asked).await?;
    let read = Instant::now();
    let keys = busiest.iter().map(|(key, _)| key.clone()).collect();
    let readings = shared.backend.read_many(keys).await;
    let mut pages = Vec::with_capacity(busiest.len());
    for ((key, viewers), reading) in busiest.into_iter().zip(readings) {
        pages.push(TopPage { page: page::text(&key), viewers, count: reading?.count });
    }
    let staleness_ms = u64::try_from((age + read.elapsed()).as_millis()).unwrap_or(u64::MAX);
    let mut answer = reply(StatusCode::OK, "application/json", reply::to_json(&TopPages { pages, staleness_ms })?);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn asked(query: Option<&str>) -> Result<Asked, Problem> {
    let (mut asked, mut sorted) = (Asked { limit: LIMIT, prefix: Vec::new() }, false);
    for (name, value) in query::parameters(query)? {
        match name.as_str() {
            "sort" if value == "viewers" => sorted = true,
            "sort" => return Err(Problem::bad_field("sort", "must be viewers")),
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=TOP_MAX).contains(limit));
                asked.limit = limit
                    .ok_or_else(|| Problem::bad_field("limit", format_args!("must be a whole number from 1 to {TOP_MAX}")))?;
            }
            "prefix" if value.len() > KEY_BYTES_MAX => {
                return Err(Problem::bad_field(
                    "prefix",
                    format_args!("must be at most {KEY_BYTES_MAX} bytes, as pages' names are"),
                ));
            }
            "prefix" => asked.prefix = value.into_bytes(),
            _ => {
                return Err(Problem::bad_field(
                    &name,
                    "is not a parameter of this request, which knows `sort`, `limit` and `prefix`",
                ));
            }
        }
    }
    if sorted { Ok(asked) } else { Err(Problem::bad_field("sort", "is missing; it must be viewers")) }
}
