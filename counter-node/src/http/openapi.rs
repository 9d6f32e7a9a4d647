//! The API's description, made from the types and handlers themselves, and the viewer for it at `/docs`.

mod links;

use std::sync::{Arc, LazyLock};

use counter_core::counter::KEY_BYTES_MAX;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, HeaderValue, LOCATION};
use serde::Serialize;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayItems, OneOf, SchemaFormat};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_swagger_ui::{Config, SwaggerFile};

use self::links::Links;
use super::batch::COUNTERS_MAX;
use super::problem::Problem;
use super::reply::{Counter, DetailedCounter};
use super::{Reply, html, reply};

/// A counter; with `?detail=true` all that is known of it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what two handlers write in two ways")]
pub(super) enum CounterAnswer {
    Counter(Counter),
    Detailed(DetailedCounter),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Distributed counter",
        description = "Counts, live: the number of a page, of many pages, of the whole site. Errors are RFC 9457 problem details.",
    ),
    servers((url = "/")),
    tags(
        (name = "counters", description = "Counters of pages"),
        (name = "live", description = "Viewers, and counts as they change"),
        (name = "unread", description = "What users have not read of the pages that they subscribe to"),
        (name = "cluster", description = "The nodes that count"),
    ),
    paths(
        super::counter::get,
        super::counter::put,
        super::counter::delete,
        super::site::get,
        super::batch::get,
        super::batch::post,
        super::cluster::get,
        super::live::page,
        super::live::site,
        super::sessions::put,
        super::sessions::delete,
        super::sessions::end,
        super::top::get,
        super::unread::modify,
        super::unread::get,
        super::unread::read,
        super::live::unread,
        super::unread::list,
        super::unread::show,
        super::unread::subscribe,
        super::unread::unsubscribe,
    ),
    modifiers(&Token, &Exact, &Links),
)]
struct Document;

/// The bearer token, which only nodes with `--api-token-file` ask for.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// What the macros cannot say.
struct Exact;

/// Numbers that are sent here have no sign, and one bit more: schema, field, format, and the most that there is.
const UNSIGNED: [(&str, &str, &str, u64); 3] = [
    ("Update", "by", "uint64", u64::MAX),
    ("PageUpdate", "by", "uint64", u64::MAX),
    ("ReadUpTo", "version", "uint32", u32::MAX as u64),
];

impl Modify for Exact {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        // All that is known of a counter is a counter, too.
        let schemas = &mut document.components.get_or_insert_default().schemas;
        if let Some(answer) = schemas.get_mut("CounterAnswer")
            && let RefOr::T(Schema::OneOf(OneOf { items, description, .. })) = answer
        {
            let any = items.drain(..).fold(AnyOfBuilder::new(), AnyOfBuilder::item);
            *answer = RefOr::T(any.description(description.take()).build().into());
        }
        for (schema, field, format, most) in UNSIGNED {
            if let Some(RefOr::T(Schema::Object(schema))) = schemas.get_mut(schema)
                && let Some(RefOr::T(Schema::Object(number))) = schema.properties.get_mut(field)
            {
                number.format = Some(SchemaFormat::Custom(format.to_owned()));
                number.maximum = Some(most.into());
            }
        }
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.put, &mut item.post].into_iter().flatten() {
                if let Some(RefOr::T(body)) = &mut operation.request_body {
                    never_null(body);
                }
                operation.parameters.iter_mut().flatten().for_each(never_empty);
            }
        }
    }
}

/// A body that may be absent is no null when it is there.
fn never_null(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content
            && let Some(RefOr::T(Schema::OneOf(OneOf { items, .. }))) = &mut content.schema
        {
            items.retain(|item| matches!(item, RefOr::Ref(_)));
            content.schema = items.pop();
        }
    }
}

/// Of several pages none is empty, nor too long.
fn never_empty(parameter: &mut RefOr<Parameter>) {
    if let RefOr::T(parameter) = parameter
        && let Some(RefOr::T(Schema::Array(array))) = &mut parameter.schema
        && let ArrayItems::RefOrSchema(item) = &mut array.items
        && let RefOr::T(Schema::Object(text)) = &mut **item
    {
        (text.min_length, text.max_length) = (Some(1), Some(KEY_BYTES_MAX));
        (array.min_items, array.max_items) = (Some(1), Some(COUNTERS_MAX));
    }
}

static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
});

/// The OpenAPI document as JSON.
#[must_use]
pub fn text() -> &'static str {
    &TEXT
}

pub(super) fn document() -> Reply {
    reply(StatusCode::OK, "application/json", text())
}

/// The viewer styles itself inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the viewer. `/docs` itself leads on to `/docs/`, below which the viewer's relative links hold.
pub(super) fn docs(file: Option<&str>) -> Result<Reply, Problem> {
    let Some(file) = file else {
        let mut answer = reply(StatusCode::PERMANENT_REDIRECT, "text/plain; charset=utf-8", "See docs/\n");
        answer.headers_mut().insert(LOCATION, HeaderValue::from_static("docs/"));
        return Ok(answer);
    };
    // The viewer would show the document to a validator on the Internet.
    let config = Arc::new(Config::from("../openapi.json").validator_url("none"));
    let found = utoipa_swagger_ui::serve(file, config).map_err(|error| Problem::internal(&error))?;
    let SwaggerFile { bytes, content_type, gzpipped, .. } = found.ok_or_else(|| Problem::not_found(&format!("/docs/{file}")))?;
    let mut answer = reply(StatusCode::OK, "application/octet-stream", bytes.into_owned());
    if let Ok(content_type) = HeaderValue::from_str(&content_type) {
        answer.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    }
    if gzpipped {
        answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    html::secure(&mut answer, POLICY);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_the_repository_is_the_one_that_the_code_makes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let kept = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            kept == text(),
            "docs/openapi.json is not current: run `cargo run -p counter-node -- openapi > docs/openapi.json`"
        );
    }

    #[test]
    fn every_problem_of_the_document_is_declared_as_one() {
        let document: serde_json::Value = serde_json::from_str(text()).unwrap();
        let mut problems = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let is_problem = response["content"].get("application/problem+json").is_some();
                    assert_eq!(is_problem, !["101", "200", "204", "304"].contains(&status.as_str()), "{method} {path} {status}");
                    problems += usize::from(is_problem);
                }
            }
        }
        assert!(problems > 10);
    }
}
