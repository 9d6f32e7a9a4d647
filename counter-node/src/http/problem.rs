//! Errors as clients get them: RFC 9457 problem details. Each type is a page of this node, which says what to do.

mod kind;

use std::fmt::Display;

use hyper::Method;
use hyper::header::{CACHE_CONTROL, CONNECTION, HeaderValue, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Reply, html, reply};
use crate::live::Refused;
use crate::router::Failure;
use crate::sessions::ClaimError;
use kind::{Explained, Kind};

/// How long a client should wait when nothing better is known, in seconds.
const RETRY_S: u32 = 1;

/// What went wrong, and what a client can do about it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Which kind of problem it is: a path on this node, where it is explained.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "/problems/not-applied")]
    kind: Kind,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(example = 503)]
    status: u16,
    /// What went wrong this time.
    detail: String,
    /// What of the request is wrong: a parameter, a header, or a field, as `updates[3].by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// When to try again, in seconds from now, as in the header Retry-After; in a batch, where there is no such header for each counter, too.
    /// Absent where that is not known to help.
    #[serde(rename = "retry_after_seconds", skip_serializing_if = "Option::is_none")]
    #[schema(example = 1)]
    retry_after_s: Option<u32>,
}

impl Problem {
    fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let Explained { title, status, .. } = kind.explained();
        Self { kind, title, status: status.as_u16(), detail: detail.into(), field: None, retry_after_s: None }
    }

    fn retry_after(self, retry_after_s: u32) -> Self {
        Self { retry_after_s: Some(retry_after_s), ..self }
    }

    /// A parameter, header or field that is at fault, and why: a sentence without its subject, which is the field.
    pub(super) fn bad_field(field: &str, reason: impl Display) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(Kind::BadInput, format!("`{field}` {reason}.")) }
    }

    /// A body that is no JSON.
    pub(super) fn bad_json(reason: &dyn Display) -> Self {
        Self { field: Some("body".to_owned()), ..Self::new(Kind::BadInput, format!("The body is not valid JSON: {reason}.")) }
    }

    pub(super) fn body_lost(reason: &dyn Display) -> Self {
        Self { field: Some("body".to_owned()), ..Self::new(Kind::BadInput, format!("The body could not be read: {reason}.")) }
    }

    pub(super) fn unauthorized(detail: &str) -> Self {
        Self::new(Kind::Unauthorized, detail)
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(
            Kind::NotFound,
            format!("There is nothing at {path}. A counter is at /PAGE/counter, a slash in PAGE is written %2F."),
        )
    }

    pub(super) fn method_not_allowed(method: &Method, allowed: &str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("The path does not know {method}; it knows {allowed}."))
    }

    pub(super) fn request_timeout(seconds: u64) -> Self {
        Self::new(Kind::RequestTimeout, format!("The body did not come within {seconds} s."))
    }

    pub(super) fn too_large(limit_bytes: usize) -> Self {
        Self::new(Kind::TooLarge, format!("The body is longer than {limit_bytes} bytes."))
    }

    pub(super) fn unsupported_media_type(found: &str) -> Self {
        Self::new(Kind::UnsupportedMediaType, format!("The body needs Content-Type: application/json, and has {found}."))
    }

    pub(super) fn overloaded(what: &str, limit: impl Display) -> Self {
        Self::new(Kind::Overloaded, format!("The limit of {limit} {what} is reached; nothing was changed.")).retry_after(RETRY_S)
    }

    pub(super) fn foreign_origin() -> Self {
        Self::new(Kind::ForeignOrigin, "Pages of this origin may not follow counters of this node.")
    }

    pub(super) fn upgrade_required() -> Self {
        Self::new(Kind::UpgradeRequired, "Ask for a WebSocket of version 13, or with `Accept: text/event-stream` for events.")
    }

    /// What came on a WebSocket is no message.
    pub(crate) fn bad_message(reason: &dyn Display) -> Self {
        Self::new(Kind::BadInput, format!("The message is not understood: {reason}."))
    }

    pub(crate) fn too_many_pages(limit: usize) -> Self {
        Self::new(Kind::TooManyPages, format!("A connection follows at most {limit} pages at once."))
    }

    pub(super) fn too_many_subscriptions(limit: usize) -> Self {
        Self::new(Kind::TooManySubscriptions, format!("The user subscribes to {limit} pages, the limit."))
    }

    pub(super) fn not_subscribed() -> Self {
        Self::new(Kind::NotSubscribed, "The user does not subscribe to the page.")
    }

    pub(super) fn internal(error: &dyn Display) -> Self {
        tracing::error!(%error, "an answer could not be made");
        Self::new(Kind::Internal, "The answer could not be made.")
    }

    pub(super) fn status(&self) -> u16 {
        self.status
    }

    pub(super) fn into_reply(self) -> Reply {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let status = self.kind.explained().status;
        let mut answer = reply(status, "application/problem+json", body);
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(retry_after_s) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        if self.kind == Kind::UpgradeRequired {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"counter\""));
        }
        answer
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Open { limit } => Self::overloaded("live connections", limit),
            Refused::Address { limit } => {
                let detail = format!("There are {limit} live connections from this address, the limit.");
                Self::new(Kind::TooManyConnections, detail).retry_after(RETRY_S)
            }
            Refused::Unread { limit } => Self::overloaded("subscriptions of users whose unread counts are followed", limit),
            Refused::Stopping => {
                Self::new(Kind::Overloaded, "This node stops: another one takes live connections.").retry_after(RETRY_S)
            }
            Refused::Rate { limit, after_s } => Self::overloaded("new live connections a second", limit).retry_after(after_s),
        }
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Full(full) => {
                Self::new(Kind::Overloaded, format!("The session does not count: {full}.")).retry_after(RETRY_S)
            }
            ClaimError::Unreachable => Self::new(Kind::NotApplied, format!("{error}.")).retry_after(RETRY_S),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotApplied { reason, retry_after_s } | Failure::ReadOnly { reason, retry_after_s } => {
                Self::new(Kind::NotApplied, reason).retry_after(retry_after_s.max(1))
            }
            Failure::Behind { reason, retry_after_s } => {
                Self::new(Kind::SessionNotReached, reason).retry_after(retry_after_s.max(1))
            }
            Failure::TooManyMarks { counters, limit } => Self::bad_field(
                "Counter-Session",
                format_args!("is for requests that change at most {limit} counters, and the page is spread over {counters}"),
            ),
            // No Retry-After: clients that heed it by themselves would count twice.
            Failure::OutcomeUnknown { reason } => Self::new(Kind::OutcomeUnknown, reason),
            Failure::Range { message } => Self::new(Kind::Range, message),
            Failure::TooManyCounters { limit } => {
                Self::new(Kind::TooManyCounters, format!("The page is new, and the node holds {limit} counters, its limit."))
                    .retry_after(FULL_RETRY_S)
            }
            Failure::TooMuchMemory { limit_bytes } => {
                let detail = format!("The page is new, and the node's counters take {limit_bytes} bytes, their limit.");
                Self::new(Kind::TooManyCounters, detail).retry_after(FULL_RETRY_S)
            }
            Failure::TokenReused => {
                Self::new(Kind::TokenReused, "The idempotency key has been used for another update of this counter.")
            }
            Failure::TokenExpired { message } => Self::new(Kind::TokenExpired, message),
            Failure::TokenFromFuture { message } => Self::new(Kind::TokenFromFuture, message),
            Failure::TooManyTokens { limit } => {
                Self::new(Kind::TooManyTokens, format!("The node remembers {limit} idempotency keys, its limit."))
                    .retry_after(TOKENS_RETRY_S)
            }
            Failure::Overloaded { what, limit } => Self::overloaded(what, limit),
        }
    }
}

/// How long to wait for a full node, in seconds: it takes a person to make room.
const FULL_RETRY_S: u32 = 60;

/// How long to wait for room for tokens, in seconds: some are forgotten about that often.
const TOKENS_RETRY_S: u32 = 10;

/// The page of a problem type.
pub(super) fn explain(name: &str) -> Result<Reply, Problem> {
    let known = Kind::ALL.into_iter().map(Kind::explained).find(|explained| explained.name == name);
    let Explained { status, title, explanation, .. } = known.ok_or_else(|| Problem::not_found(&format!("/problems/{name}")))?;
    Ok(html::problem(status, title, explanation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_in_the_list_under_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.explained().name).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().zip(0_isize..).all(|(kind, index)| *kind as isize == index));
    }

    #[test]
    fn an_unknown_outcome_invites_no_retry() {
        let reply = Problem::from(Failure::OutcomeUnknown { reason: "lost".to_owned() }).into_reply();
        assert!(!reply.headers().contains_key(RETRY_AFTER));
        let reply = Problem::from(Failure::NotApplied { reason: "none".to_owned(), retry_after_s: 3 }).into_reply();
        assert_eq!(reply.headers()[RETRY_AFTER], "3");
    }
}
