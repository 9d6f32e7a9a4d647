//! Which other sites' pages may use the API from a browser (the Fetch standard's CORS protocol), and open live connections.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};

use super::Reply;

/// Headers that pages may send.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("content-type, authorization, idempotency-key, if-none-match, counter-session, last-event-id");
/// Headers of answers that pages may read.
const ANSWER_HEADERS: HeaderValue =
    HeaderValue::from_static("etag, retry-after, idempotency-replayed, counter-session, counter-clamped");
/// For how long a browser may remember what it was told, in seconds.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");

/// The origins whose pages may use the API; none: only this node's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors(Vec<String>);

/// What is said to a page's origin.
enum Answer {
    Any,
    This(HeaderValue),
}

impl Cors {
    /// These origins, as browsers write them (`https://example.org`); `*` is any.
    #[must_use]
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Whether a live connection may be opened: by what is no browser, by a page of the own host, or by one that is allowed.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(ORIGIN) else { return true };
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let origin_host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        (host.is_some() && origin_host == host) || self.answer(origin).is_some()
    }

    /// Whether any other site's pages may use the API.
    pub(super) fn is_open(&self) -> bool {
        !self.0.is_empty()
    }

    /// The origin of the page that asks, where that matters.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.0.is_empty() { None } else { headers.get(ORIGIN).cloned() }
    }

    fn answer(&self, origin: &HeaderValue) -> Option<Answer> {
        if self.0.iter().any(|allowed| allowed == "*") {
            return Some(Answer::Any);
        }
        self.0.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| Answer::This(origin.clone()))
    }

    /// The answer to a browser that asks before it sends a page's request; none when `head` is not such a question.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Reply> {
        if self.0.is_empty() || head.method != Method::OPTIONS || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut reply = Reply::default();
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT, POST, DELETE"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
        Some(reply)
    }

    /// Lets the asking page read the answer, if it may.
    pub(super) fn finish(&self, origin: Option<&HeaderValue>, reply: &mut Reply) {
        if self.0.is_empty() {
            return;
        }
        let headers = reply.headers_mut();
        match origin.and_then(|origin| self.answer(origin)) {
            Some(Answer::Any) => drop(headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"))),
            Some(Answer::This(origin)) => drop(headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin)),
            None => {}
        }
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        // What a cache keeps for one page must not be given to another's.
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::openapi;

    fn headers(origin: Option<&str>, host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        headers
    }

    #[test]
    fn live_connections_are_for_the_own_pages_and_those_that_are_allowed() {
        for (allowed, origin, admitted) in [
            (vec![], None, true),
            (vec![], Some("http://counter:8080"), true),
            (vec![], Some("https://counter"), false),
            (vec![], Some("null"), false),
            (vec!["https://a.example"], Some("https://a.example"), true),
            (vec!["https://a.example"], Some("http://a.example"), false),
            (vec!["https://a.example"], Some("https://a.example.evil"), false),
            (vec!["*"], Some("https://evil"), true),
        ] {
            let cors = Cors::new(allowed.iter().map(|origin| (*origin).to_owned()).collect());
            assert_eq!(cors.admits(&headers(origin, "counter:8080")), admitted, "{allowed:?} {origin:?}");
        }
    }
    /// The names in a list of headers.
    fn names(list: &HeaderValue) -> Vec<&str> {
        list.to_str().unwrap().split(", ").collect()
    }

    #[test]
    fn pages_may_send_and_read_every_header_of_the_documented_api() {
        let document: serde_json::Value = serde_json::from_str(openapi::text()).unwrap();
        let (mut sent, mut read) = (BTreeSet::from(["content-type".to_owned(), "authorization".to_owned()]), BTreeSet::new());
        for operation in document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values()) {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let headers = parameters.filter(|parameter| parameter["in"] == "header");
            sent.extend(headers.map(|header| header["name"].as_str().unwrap().to_lowercase()));
            let answers = operation["responses"].as_object().unwrap().values();
            let headers = answers.filter_map(|answer| answer["headers"].as_object()).flat_map(|headers| headers.keys());
            read.extend(headers.map(|name| name.to_lowercase()));
        }
        for name in ["idempotency-key", "if-none-match", "counter-session", "last-event-id"] {
            assert!(sent.contains(name), "{name} is not documented");
        }
        for name in ["etag", "idempotency-replayed", "counter-session"] {
            assert!(read.contains(name), "{name} is not documented");
        }
        assert_eq!(sent, names(&REQUEST_HEADERS).into_iter().map(str::to_owned).collect());
        // Headers that any answer may have are not in the document's lists.
        read.extend(["retry-after", "counter-clamped"].map(str::to_owned));
        assert_eq!(read, names(&ANSWER_HEADERS).into_iter().map(str::to_owned).collect());
    }
}
