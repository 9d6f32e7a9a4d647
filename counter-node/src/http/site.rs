//! The whole site: its total, and the page at `/` that lists pages and documentation.

use hyper::http::request::Parts;

use super::negotiate::{Form, form};
use super::problem::Problem;
use super::{Backend, Reply, Shared, html, own_writes, query, reply};

/// How many pages `/` lists.
const LISTED_MAX: usize = 100;

/// Read the sum of all pages.
#[utoipa::path(
    get, path = "/counter", tag = "counters", operation_id = "getSite",
    params(
        ("detail" = Option<bool>, Query, description = "With all that is known of the total; JSON only"),
        ("If-None-Match" = Option<String>, Header, description = "Tags of answers that the client has; not with `detail`"),
    ),
    responses(
        (status = 200, description = "The total", content(
            (super::openapi::CounterAnswer = "application/json"),
            (String = "text/plain", example = "90210"),
            (String = "text/html"),
        ), headers(("ETag" = String, description = "Stands for this answer in `If-None-Match`; none with `detail`"))),
        (status = 304, description = "The client has it already"),
        (status = 400, description = "A bad parameter, or a session, which is not offered here", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No total can be given", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn get<B: Backend>(shared: &Shared<B>, head: &mut Parts) -> Result<Reply, Problem> {
    let detail = query::detail(head.uri.query())?;
    own_writes::refuse(&head.headers)?;
    let site = shared.backend.site().await?;
    match form(&head.headers, &[Form::Json, Form::Text, Form::Html]) {
        Form::Json if detail => reply::detailed(&site),
        form => Ok(reply::read(&site.reading, form, None, &mut head.headers)),
    }
}

pub(super) fn index<B: Backend>(shared: &Shared<B>) -> Reply {
    let mut pages = shared.backend.pages(LISTED_MAX + 1);
    let more = pages.len() > LISTED_MAX;
    pages.truncate(LISTED_MAX);
    pages.sort();
    html::index(&pages, more)
}
