//! Requests that are answered from their bytes are answered as the handlers answer them, and are told from all others.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::server::Plain as _;

const TOKEN: &str = "idempotency-key: 1917864702000-a";

/// What the API makes of the plain request at the beginning of `raw`, if there is one: how long it is, and the answer.
async fn plainly(client: &Client, raw: &[u8], last: bool) -> Option<(usize, Vec<u8>)> {
    let (request, length) = client.api.read(raw)?;
    let mut answer = Vec::new();
    client.api.write(client.api.answer(request).await, last, &mut answer);
    Some((length, answer))
}

/// What the handlers answer to the same bytes.
async fn handled(client: &Client, raw: &[u8]) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(raw).unwrap() else { panic!("it is not all there") };
    let mut request = Request::builder().method(head.method.unwrap()).uri(head.path.unwrap());
    for header in head.headers {
        request = request.header(header.name, header.value);
    }
    client.send(request.body(Full::from(raw[length..].to_vec())).unwrap()).await
}

/// An answer in its parts, without what hyper adds to it.
fn parts_of(raw: &[u8]) -> (u16, BTreeMap<String, Vec<String>>, Vec<u8>) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(raw).unwrap() else { panic!("it is not all there") };
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in head.headers {
        named.entry(header.name.to_owned()).or_default().push(String::from_utf8(header.value.to_vec()).unwrap());
    }
    let body = raw[length..].to_vec();
    assert_eq!(named.remove("content-length"), Some(vec![body.len().to_string()]));
    let date = named.remove("date").unwrap().remove(0);
    assert!(httpdate::parse_http_date(&date).is_ok(), "{date}");
    (head.code.unwrap(), named, body)
}

fn parts_of_handled(answer: &Answer) -> (u16, BTreeMap<String, Vec<String>>, Vec<u8>) {
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        named.entry(name.to_string()).or_default().push(value.to_str().unwrap().to_owned());
    }
    (answer.status, named, answer.body.to_vec())
}

fn update(headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "PUT /p/counter HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn read(headers: &str) -> String {
    format!("GET /p/counter HTTP/1.1\r\nhost: x\r\n{headers}\r\n")
}

#[tokio::test]
async fn plain_requests_are_answered_as_by_the_handlers() {
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "secret\n").unwrap();
    for is_protected in [false, true] {
        let client = || Client::with(is_protected.then(|| ApiTokens::open(tokens.path()).unwrap()), LIMITS, 10_000);
        let (plain, other) = (client(), client());
        let admitted = if is_protected { "authorization: bearer secret\r\n" } else { "" };
        for request in [
            read(""),
            update(admitted, ""),
            update(admitted, r#"{"action":"increment"}"#),
            update(admitted, r#"{ "action": "decrement", "by": 3 }"#),
            update(&format!("{admitted}Accept: */*\r\nUser-Agent: a\r\nX-Any: b\r\nconnection: Keep-Alive\r\n"), "{}"),
            update(&format!("{admitted}{TOKEN}\r\n"), "{}"),
            update(&format!("{admitted}{TOKEN}\r\n"), "{}"),
            // A problem of the backend's: the key was used for something else.
            update(&format!("{admitted}{TOKEN}\r\n"), r#"{"by":2}"#),
            update(admitted, &format!(r#"{{"by":{}}}"#, i64::MAX)),
            update(&format!("{admitted}origin: https://site.example\r\n"), "{}"),
            update(&format!("{admitted}origin: https://evil.example\r\n"), "{}"),
            format!("PUT /p/counter HTTP/1.1\r\n{admitted}\r\n"),
            read("accept: application/json\r\norigin: https://site.example\r\n"),
            read(""),
            read("").replace("/p/", "/blog%2Fpost%20@1/"),
        ] {
            let (length, answer) = plainly(&plain, request.as_bytes(), false).await.unwrap_or_else(|| panic!("{request}"));
            assert_eq!(length, request.len(), "{request}");
            let expected = handled(&other, request.as_bytes()).await;
            assert_eq!(parts_of(&answer), parts_of_handled(&expected), "{request}");
        }
        let metrics = |client: Client| crate::telemetry::Metrics::new(vec![Box::new(client.metrics)]).encode().unwrap();
        assert_eq!(metrics(plain), metrics(other));
    }
}

#[tokio::test]
async fn at_the_limit_and_at_the_end_of_the_connection_the_answer_says_so() {
    let busy = Client::with(None, RequestLimits { in_flight: 0, ..LIMITS }, 10);
    let (_, answer) = plainly(&busy, read("").as_bytes(), false).await.unwrap();
    assert_eq!(parts_of(&answer), parts_of_handled(&busy.get("/p/counter").await));
    assert!(answer.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
    let (_, answer) = plainly(&Client::new(), read("").as_bytes(), true).await.unwrap();
    assert_eq!(parts_of(&answer).1["connection"], ["close"]);
}

#[tokio::test]
async fn whatever_is_not_plain_is_left_to_hyper() {
    let client = Client::new();
    let long = "x: y\r\n".repeat(64);
    let others = [
        read("").replace("1.1", "1.0"),
        read("").replace("GET", "HEAD"),
        read("").replace("GET", "DELETE"),
        read("").replace("/counter", "/counter?detail=true"),
        read("").replace("/p/", "/a/b/"),
        read("").replace("/p/", "//"),
        read("").replace("/p/", "/%C3/"),
        read("").replace("/p/", &format!("/{}/", "a".repeat(513))),
        read("").replace("/p/counter", "/counter"),
        read("").replace("/p/counter", "http://x/p/counter"),
        read("content-length: 0\r\n"),
        read("connection: close\r\n"),
        read("Connection: upgrade\r\nUpgrade: h2c\r\n"),
        read("accept: text/html\r\n"),
        read("if-none-match: *\r\n"),
        read("Counter-Session: new\r\n"),
        read("transfer-encoding: chunked\r\n"),
        read(&long),
        read("a b: c\r\n"),
        update("expect: 100-continue\r\n", ""),
        update("content-length: 0\r\n", ""),
        update("transfer-encoding: chunked\r\n", ""),
        update("", "no JSON"),
        update("", "[1]"),
        update("", r#"{"by":0}"#),
        update("idempotency-key: a\r\nidempotency-key: a\r\n", ""),
        update("idempotency-key: \u{e9}\r\n", ""),
        update("", "{}").replace("application/json", "text/plain"),
        update("", "{}").replace("content-type", "x"),
        update("", &" ".repeat(LIMITS.body_bytes + 1)),
        update("", "").replace("content-length: 0", "content-length: +0"),
        update("", "").replace("content-length: 0", &format!("content-length: {}", usize::MAX)),
        "nonsense\r\n\r\n".to_owned(),
    ];
    for request in others {
        assert!(client.api.read(request.as_bytes()).is_none(), "{request}");
    }
    let tokens = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(tokens.path(), "secret\n").unwrap();
    let protected = Client::with(Some(ApiTokens::open(tokens.path()).unwrap()), LIMITS, 10);
    for header in ["", "authorization: Bearer other\r\n", "authorization: Basic secret\r\n"] {
        assert!(protected.api.read(update(header, "").as_bytes()).is_none(), "{header}");
    }
    assert!(protected.api.read(read("").as_bytes()).is_some(), "reads need no token");
}

#[tokio::test]
async fn a_request_is_not_read_before_its_last_byte_nor_past_it() {
    let client = Client::new();
    for request in [read(""), update(TOKEN, "").replace(TOKEN, &format!("{TOKEN}\r\n")), update("", r#"{"action":"increment"}"#)]
    {
        for cut in 0..request.len() {
            assert!(client.api.read(&request.as_bytes()[..cut]).is_none(), "{}", &request[..cut]);
        }
        for next in ["G", &read(""), "nonsense", "\r\n"] {
            let (_, length) = client.api.read([&request, next].concat().as_bytes()).unwrap();
            assert_eq!(length, request.len());
        }
    }
}

#[test]
fn every_header_of_the_documented_requests_is_known_here() {
    let document: Value = serde_json::from_str(openapi::text()).unwrap();
    let client = Client::new();
    for (method, request) in [("get", read("")), ("put", update("", ""))] {
        let parameters = document["paths"]["/{page}/counter"][method]["parameters"].as_array().unwrap();
        let headers: Vec<&str> =
            parameters.iter().filter(|own| own["in"] == "header").map(|own| own["name"].as_str().unwrap()).collect();
        assert!(!headers.is_empty());
        for name in headers {
            // A value that means nothing: wherever it is looked at, the request is left to the handlers or refused in their words.
            let request = request.replacen("host: x\r\n", &format!("host: x\r\n{name}: \u{e9}\r\n"), 1);
            assert!(client.api.read(request.as_bytes()).is_none(), "{name} is not heeded");
        }
    }
}

/// Requests made of pieces that matter, most of them plain.
fn requests() -> impl Strategy<Value = String> {
    let some = |pieces: &'static [&'static str]| prop::sample::select(pieces);
    let headers = some(&[
        "host: x\r\n",
        "accept: */*\r\n",
        "accept: text/plain\r\n",
        "Origin: https://site.example\r\n",
        "idempotency-key: 1917864702000-a\r\n",
        "Idempotency-Key: \"1917864702001-b\"\r\n",
        "idempotency-key: timeless\r\n",
        "idempotency-key: 1-too-old\r\n",
        "if-none-match: \"j-0-0000000000000000\"\r\n",
        "counter-session: new\r\n",
        "x-forwarded-for: 10.0.0.1\r\n",
        "authorization: Bearer any\r\n",
    ]);
    let bodies = some(&[
        "",
        "{}",
        r#"{"action":"increment"}"#,
        r#"{"action":"decrement","by":2}"#,
        r#"{"by":9223372036854775807}"#,
        r#"{"by":-1}"#,
        "[]",
        " ",
    ]);
    let (methods, pages) = (some(&["GET", "PUT", "PUT", "PUT"]), some(&["p", "p", "q", "%70", "%zz", "a+b", ""]));
    let types = some(&["application/json", "application/json", "text/plain"]);
    (methods, pages, prop::collection::vec(headers, 0..4), types, bodies).prop_map(|(method, page, headers, kind, body)| {
        let body = if method == "GET" { String::new() } else { body.to_owned() };
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        format!("{method} /{page}/counter HTTP/1.1\r\ncontent-type: {kind}\r\n{length}{}\r\n{body}", headers.concat())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_here_is_answered_as_by_the_handlers(requests in prop::collection::vec(requests(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (plain, other) = (Client::new(), Client::new());
            for request in &requests {
                let expected = handled(&other, request.as_bytes()).await;
                match plainly(&plain, request.as_bytes(), false).await {
                    Some((length, answer)) => {
                        prop_assert_eq!(length, request.len());
                        prop_assert_eq!(parts_of(&answer), parts_of_handled(&expected), "{}", request);
                    }
                    None => drop(handled(&plain, request.as_bytes()).await),
                }
            }
            Ok(())
        })?;
    }
}
