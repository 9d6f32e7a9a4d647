//! Requests of clients that are wrong.

use bytes::Bytes;
use counter_tests::http::{Answer, Http};
use counter_tests::node::TestNode;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::seen::Seen;

const PAGE: &str = "front-page";

/// A request, and the refusal that is expected.
struct Case {
    method: Method,
    path: String,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    kind: &'static str,
    field: Option<&'static str>,
    /// A part of the message.
    says: &'static str,
}

impl Case {
    fn put(body: &'static str, field: &'static str, says: &'static str) -> Self {
        Self {
            method: Method::PUT,
            path: format!("/{PAGE}/counter"),
            headers: &[("content-type", "application/json")],
            body,
            status: 400,
            kind: "bad-input",
            field: Some(field),
            says,
        }
    }

    async fn send(&self, base: &str) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(self.method.clone()).uri(format!("{base}{}", self.path));
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        Http::default().request(request.body(Bytes::from_static(self.body.as_bytes()))?).await
    }

    fn check(&self, answer: &Answer) {
        let text = String::from_utf8_lossy(&answer.body);
        let what = format!("{} {} {}: {text}", self.method, &self.path[..self.path.len().min(40)], self.body);
        assert_eq!(answer.status, StatusCode::from_u16(self.status).unwrap(), "{what}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(problem["type"], format!("/problems/{}", self.kind), "{what}");
        assert_eq!(problem["status"], self.status, "{what}");
        assert_eq!(problem["field"].as_str(), self.field, "{what}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(self.says), "{what}");
    }
}

fn cases() -> Vec<Case> {
    let long = "a".repeat(513);
    let too_long = || Case::put("", "page", "`page` must be at most 512 bytes long, and is 513.");
    vec![
        Case { path: format!("/{long}/counter"), headers: &[], ..too_long() },
        Case { path: format!("/{long}/counter"), headers: &[], method: Method::GET, ..too_long() },
        Case { path: format!("/{long}/counter"), headers: &[], method: Method::DELETE, ..too_long() },
        Case { path: "/%FF/counter".to_owned(), headers: &[], ..Case::put("", "page", "is not UTF-8 after percent-decoding") },
        Case::put("no json", "body", "The body is not valid JSON: "),
        Case::put("{\"action\":", "body", "The body is not valid JSON: "),
        Case::put("[]", "body", "expected an object, not an array"),
        Case::put("{\"action\":\"explode\"}", "action", "unknown variant `explode`, expected `increment` or `decrement`"),
        Case::put("{\"actoin\":\"increment\"}", "actoin", "unknown field `actoin`"),
        Case::put("{\"by\":0}", "by", "a whole number of at least 1"),
        Case::put("{\"by\":-1}", "by", "`-1`"),
        Case::put("{\"by\":1.5}", "by", "1.5"),
        Case {
            status: 422,
            kind: "range",
            field: None,
            ..Case::put(
                "{\"by\":9223372036854775807}",
                "by",
                "the counter is at 7, and the update would take it past the range of a signed 64-bit number",
            )
        },
        Case {
            status: 422,
            kind: "range",
            field: None,
            ..Case::put(
                "{\"by\":18446744073709551615}",
                "by",
                "the counter is at 7, and the update would take it past the range of a signed 64-bit number",
            )
        },
        Case {
            status: 415,
            kind: "unsupported-media-type",
            field: None,
            headers: &[("content-type", "text/plain")],
            ..Case::put("{}", "body", "The body needs Content-Type: application/json, and has text/plain.")
        },
        Case {
            headers: &[("idempotency-key", "47 11")],
            ..Case::put("", "Idempotency-Key", "must consist of visible ASCII characters")
        },
        Case::put(
            "{\"idempotency_key\":\"4711\"}",
            "idempotency_key",
            "the key of a single update is sent as the header Idempotency-Key",
        ),
        Case {
            method: Method::POST,
            path: "/counters".to_owned(),
            ..Case::put(
                "{\"updates\":[{\"page\":\"front-page\"},{\"page\":\"new\",\"action\":\"explode\"}]}",
                "updates[1].action",
                "unknown variant `explode`",
            )
        },
        Case {
            method: Method::POST,
            path: "/counters".to_owned(),
            ..Case::put("{\"updates\":[]}", "updates", "must name at least one counter")
        },
        Case {
            method: Method::POST,
            path: format!("/{PAGE}/counter"),
            status: 405,
            kind: "method-not-allowed",
            field: None,
            ..Case::put("{}", "", "The path does not know POST")
        },
        Case {
            path: "/blog/post-1/counter".to_owned(),
            status: 404,
            kind: "not-found",
            field: None,
            ..Case::put("{}", "", "a slash in PAGE is written %2F")
        },
    ]
}

#[tokio::test]
async fn a_wrong_request_is_refused_by_name_and_changes_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let (http, base) = (Http::default(), node.http());
    let counted = http.send(Method::PUT, &format!("{base}/{PAGE}/counter"), Some(json!({"by": 7}))).await?;
    assert_eq!(counted.json_of(StatusCode::OK)?["count"], 7);
    let pages = [PAGE, "new"];
    let before = Seen::of(&node, &pages).await?;
    for case in cases() {
        case.check(&case.send(&base).await?);
        assert_eq!(Seen::of(&node, &pages).await?, before, "after {} {}", case.method, case.body);
    }
    let counted = http.send(Method::PUT, &format!("{base}/{PAGE}/counter"), None).await?;
    assert_eq!(counted.json_of(StatusCode::OK)?["count"], 8);
    Ok(())
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-body", "1Ki"])?;
    node.start_ready().await?;
    let before = Seen::of(&node, &[PAGE]).await?;
    let long = json!({"by": 1, "more": "a".repeat(1_024)});
    let answer = Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", node.http()), Some(long)).await?;
    let problem = answer.json_of(StatusCode::PAYLOAD_TOO_LARGE)?;
    assert_eq!(problem["detail"], "The body is longer than 1024 bytes.");
    assert_eq!(Seen::of(&node, &[PAGE]).await?, before);
    Ok(())
}

#[tokio::test]
async fn an_update_without_the_api_token_is_refused_and_changes_nothing() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let tokens = folder.path().join("api-tokens");
    std::fs::write(&tokens, "open-sesame\n")?;
    let mut node = TestNode::alone(folder.path(), &["--api-token-file", &tokens.display().to_string()])?;
    node.start_ready().await?;
    let (url, before) = (format!("{}/{PAGE}/counter", node.http()), Seen::of(&node, &[PAGE]).await?);
    let send = async |method: Method, url: &str, authorization: Option<&str>| {
        let request = Request::builder().method(method).uri(url);
        let request = authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
        Http::default().request(request.body(Bytes::new())?).await
    };
    for authorization in [None, Some("Bearer open-sesam"), Some("Basic open-sesame")] {
        for (method, url) in [(Method::PUT, &url), (Method::DELETE, &url), (Method::POST, &format!("{}/counters", node.http()))] {
            let answer = send(method, url, authorization).await?;
            assert!(answer.headers["www-authenticate"].to_str()?.starts_with("Bearer "));
            assert_eq!(answer.json_of(StatusCode::UNAUTHORIZED)?["type"], "/problems/unauthorized");
            assert_eq!(Seen::of(&node, &[PAGE]).await?, before, "after {authorization:?}");
        }
    }
    assert_eq!(send(Method::PUT, &url, Some("Bearer open-sesame")).await?.json_of(StatusCode::OK)?["count"], 1);
    Ok(())
}

#[tokio::test]
async fn a_token_file_that_cannot_be_used_is_named_and_the_node_does_not_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (missing, empty) = (folder.path().join("missing").display().to_string(), folder.path().join("empty"));
    std::fs::write(&empty, "\n")?;
    let empty = empty.display().to_string();
    for flag in ["--api-token-file", "--cluster-token-file"] {
        for (path, says) in [(&missing, "cannot read"), (&empty, "empty")] {
            let (code, said) = TestNode::alone(folder.path(), &[flag, path])?.refused().await?;
            assert_eq!(code, Some(78), "{flag} {path}: {said}");
            assert!(said.contains(path), "{flag} {path}: {said}");
            assert!(said.contains(says) || said.contains("has no token in it"), "{flag} {path}: {said}");
        }
    }
    Ok(())
}
