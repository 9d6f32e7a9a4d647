//! What clients of live connections do wrong: each gets the documented answer, and nothing of it is left.

use counter_tests::http::Http;
use counter_tests::live::{Follower, RawSocket, masked, nothing_left};
use counter_tests::node::TestNode;
use fastwebsockets::{Frame, Payload};
use hyper::{Method, Request, StatusCode};
use serde_json::json;

async fn alone(flags: &[&str]) -> anyhow::Result<(TestNode, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), flags)?;
    node.start_ready().await?;
    Ok((node, folder))
}

#[tokio::test]
async fn malformed_frames_are_closed_on_by_the_documented_code() -> anyhow::Result<()> {
    let (node, _folder) = alone(&[]).await?;
    let too_long = masked(0x81, &vec![b'a'; (16 << 10) + 1]);
    let long_begin = masked(0x01, &vec![b'a'; 12 << 10]);
    let long_rest = masked(0x80, &vec![b'a'; 12 << 10]);
    for (what, bytes, code) in [
        ("without a mask", b"\x81\x02{}".to_vec(), 1002),
        ("a reserved bit", masked(0xC1, b"{}"), 1002),
        ("a reserved opcode", masked(0x83, b"{}"), 1002),
        ("a ping in two", masked(0x09, b"a"), 1002),
        ("a ping that is too long", masked(0x89, &[b'a'; 126]), 1002),
        ("a continuation of nothing", masked(0x80, b"{}"), 1002),
        ("no UTF-8", masked(0x81, b"\xff\xfe"), 1007),
        ("binary", masked(0x82, b"{}"), 1003),
        ("too long", too_long, 1009),
        ("too long in parts", [long_begin, long_rest].concat(), 1009),
    ] {
        let mut socket = RawSocket::open(&node.http(), "/p/live", "").await?;
        socket.send(&bytes).await?;
        assert_eq!(socket.close_code().await?, code, "{what}");
        socket.send(&masked(0x88, &code.to_be_bytes())).await?;
        socket.ends().await?;
    }
    nothing_left(&node).await
}

#[tokio::test]
async fn messages_that_are_none_are_answered_and_the_connection_stays() -> anyhow::Result<()> {
    let (node, _folder) = alone(&[]).await?;
    let mut client = Follower::open(&node.http(), "/p/live?observe=true").await?;
    let many: Vec<String> = (0..10_000).map(|number| number.to_string()).collect();
    let (few, long) = (many[..101].to_vec(), "x".repeat(513));
    for message in [
        json!({"type": "shout"}),
        json!({"pages": ["a"]}),
        json!({"type": "subscribe"}),
        json!({"type": "subscribe", "pages": few}),
        json!({"type": "subscribe", "pages": ["fine", long]}),
        json!({"type": "subscribe", "pages": ["fine", ""]}),
        json!([]),
        json!(7),
    ] {
        client.say(&message).await?;
        let answer = client.next_of("error").await?;
        assert!(answer["problem"]["type"].as_str().unwrap().starts_with("/problems/"), "{message}: {answer}");
        assert!(answer["problem"]["status"].as_u64().unwrap() >= 400, "{message}: {answer}");
    }
    client.send(Frame::text(Payload::Borrowed(b"{"))).await?;
    client.next_of("error").await?;
    // Ten thousand, a few at a time: a hundred are taken, the page of the address is one of them.
    let mut taken = 1;
    for part in many.chunks(9) {
        client.say(&json!({"type": "subscribe", "pages": part, "observe": true})).await?;
        let answer = loop {
            let message = client.next().await?;
            if message["type"] != "count" {
                break message;
            }
        };
        match answer["type"].as_str() {
            Some("subscribed") => taken += part.len(),
            _ => assert_eq!(answer["problem"]["type"], "/problems/too-many-pages"),
        }
    }
    assert_eq!(taken, 100);
    client.say(&json!({"type": "ping"})).await?;
    client.next_of("pong").await?;
    drop(client);
    nothing_left(&node).await
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_refused_by_their_reason() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--cors-origin", "https://site.example"]).await?;
    let (http, base) = (Http::default(), node.http());
    let (kilobyte, page) = ("s".repeat(1024), "p".repeat(513));
    for (method, path, status, field) in [
        (Method::GET, "/p/live".to_owned(), 426, None),
        (Method::GET, "/live".to_owned(), 426, None),
        (Method::GET, "/p/live?observe=perhaps".to_owned(), 400, Some("observe")),
        (Method::GET, "/live?observe=false".to_owned(), 400, Some("observe")),
        (Method::GET, "/p/live?color=red".to_owned(), 400, Some("color")),
        (Method::GET, format!("/p/live?session={kilobyte}"), 400, Some("session")),
        (Method::GET, format!("/{page}/live"), 400, Some("page")),
        (Method::PUT, format!("/p/sessions/{kilobyte}"), 400, Some("id")),
        (Method::PUT, format!("/{page}/sessions/s"), 400, Some("page")),
        (Method::DELETE, "/p/sessions/%FF".to_owned(), 400, Some("id")),
        (Method::GET, "/p/sessions/s".to_owned(), 405, None),
        (Method::PUT, "/p/live".to_owned(), 405, None),
    ] {
        let answer = http.send(method.clone(), &format!("{base}{path}"), None).await?;
        let problem = answer.json_of(StatusCode::from_u16(status)?)?;
        assert_eq!(problem.get("field").and_then(|field| field.as_str()), field, "{method} {path}: {problem}");
    }
    let heartbeat = format!("{base}/p/sessions/s");
    for body in [json!({"user": ""}), json!({"user": kilobyte}), json!({"usr": "a"}), json!([])] {
        http.send(Method::PUT, &heartbeat, Some(body)).await?.json_of(StatusCode::BAD_REQUEST)?;
    }
    let beacon = Request::post(format!("{heartbeat}/end")).body(vec![b'x'; 1025].into())?;
    http.request(beacon).await?.json_of(StatusCode::PAYLOAD_TOO_LARGE)?;

    for origin in ["https://evil.example", "null", "http://site.example"] {
        let refused = RawSocket::open(&base, "/p/live", &format!("origin: {origin}\r\n")).await.err().unwrap().to_string();
        assert!(refused.starts_with("HTTP/1.1 403 "), "{origin}: {refused}");
    }
    for origin in ["https://site.example", base.as_str()] {
        RawSocket::open(&base, "/p/live", &format!("origin: {origin}\r\n")).await?;
    }
    // Pages of the allowed site may read answers, and be asked beforehand.
    let preflight = Request::options(&heartbeat).header("origin", "https://site.example");
    let answer = http.request(preflight.header("access-control-request-method", "PUT").body(bytes::Bytes::new())?).await?;
    assert_eq!(
        (answer.status, &answer.headers["access-control-allow-origin"]),
        (StatusCode::NO_CONTENT, &"https://site.example".parse()?)
    );
    nothing_left(&node).await
}

/// What a client can do wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    Frames,
    Messages,
    TenThousandPages,
    LongSession,
    PageNeverSeen,
    EndedSession,
    EndsAnyhow,
}

impl Wrong {
    pub(crate) const ALL: [Self; 7] = [
        Self::Frames,
        Self::Messages,
        Self::TenThousandPages,
        Self::LongSession,
        Self::PageNeverSeen,
        Self::EndedSession,
        Self::EndsAnyhow,
    ];

    /// Does it once, and checks the answer.
    pub(crate) async fn happen(self, node: &TestNode, http: &Http, round: u32) -> anyhow::Result<()> {
        let base = node.http();
        match self {
            Self::Frames => {
                let mut socket = RawSocket::open(&base, "/p/live", "").await?;
                socket.send(&[masked(0x01, &[b'a'; 12 << 10]), masked(0xC0, b"a")].concat()).await?;
                assert_eq!(socket.close_code().await?, 1002);
            }
            Self::Messages => {
                let mut client = Follower::open(&base, "/p/live").await?;
                client.say(&json!({"type": "shout", "loud": "a".repeat(10 << 10)})).await?;
                client.next_of("error").await?;
            }
            Self::TenThousandPages => {
                let mut client = Follower::open(&base, "/p/live").await?;
                for part in 0..100 {
                    let pages: Vec<String> = (0..100).map(|page| format!("{round}-{part}-{page}")).collect();
                    client.say(&json!({"type": "subscribe", "pages": pages})).await?;
                    assert_eq!(client.next_of("error").await?["problem"]["type"], "/problems/too-many-pages");
                }
            }
            Self::LongSession => {
                let id = "s".repeat(1024);
                let refused = RawSocket::open(&base, &format!("/p/live?session={id}"), "").await.err().unwrap().to_string();
                assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
                http.send(Method::PUT, &format!("{base}/p/sessions/{id}"), None).await?.json_of(StatusCode::BAD_REQUEST)?;
            }
            Self::PageNeverSeen => {
                let page = format!("never-seen-{round}");
                let mut client = Follower::open(&base, &format!("/{page}/live?observe=true")).await?;
                client.until(&page, 0).await?;
                let counter = http.send(Method::GET, &format!("{base}/{page}/counter"), None).await?.json_of(StatusCode::OK)?;
                assert_eq!(counter["count"], 0);
            }
            Self::EndedSession => {
                let session = format!("{base}/p/sessions/{round}");
                for (method, url) in [(Method::DELETE, &session), (Method::PUT, &session), (Method::DELETE, &session)] {
                    http.send(method.clone(), url, None).await?.json_of(StatusCode::OK)?;
                }
                // It begins anew, and is a viewer until it ends once more.
                http.send(Method::PUT, &session, None).await?.json_of(StatusCode::OK)?;
                let end = Request::post(format!("{session}/end")).body(bytes::Bytes::new())?;
                assert_eq!(http.request(end).await?.status, StatusCode::NO_CONTENT);
            }
            Self::EndsAnyhow => {
                let mut socket = RawSocket::open(&base, &format!("/page-{round}/live"), "").await?;
                match round % 4 {
                    0 => socket.send(&masked(0x88, &1000_u16.to_be_bytes())).await?,
                    1 => socket.send(b"\x81\x7f").await?,
                    2 => socket.send(&masked(0x81, b"{\"type\":\"ping\"}")).await?,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
