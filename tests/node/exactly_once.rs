//! Updates under idempotency keys, by each way that HTTP has for them: each counts once at any node, and what is refused is refused in so
//! many words.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use counter_tests::exact::token;
use counter_tests::http::{Answer, Http};
use counter_tests::node::{Cluster, TestNode};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

/// How an update is sent.
#[derive(Clone, Copy, Debug)]
enum Way {
    Put,
    Delete,
    Batch,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Count { count: i64, replayed: bool },
    Refused { status: u16, problem: String },
}

fn refused(status: u16, problem: &str) -> Told {
    Told::Refused { status, problem: format!("/problems/{problem}") }
}

impl Way {
    const ALL: [Self; 3] = [Self::Put, Self::Delete, Self::Batch];

    /// What a page that counts 10 comes to by an update of 5.
    fn first(self) -> i64 {
        if matches!(self, Self::Delete) { 0 } else { 15 }
    }

    async fn send(self, base: &str, page: &str, key: &str, by: u64) -> anyhow::Result<(Told, Answer)> {
        let (method, path, body) = match self {
            Self::Put => (Method::PUT, format!("/{page}/counter"), json!({"by": by})),
            Self::Delete => (Method::DELETE, format!("/{page}/counter"), Value::Null),
            Self::Batch => {
                let page = page.replace("%7B", "{").replace("%7D", "}");
                let update = json!({"page": page, "by": by, "idempotency_key": key});
                (Method::POST, "/counters".to_owned(), json!({"updates": [update]}))
            }
        };
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        if !matches!(self, Self::Batch) {
            request = request.header("idempotency-key", key);
        }
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let answer = Http::default().request(request.header("content-type", "application/json").body(body)?).await?;
        Ok((self.read(&answer)?, answer))
    }

    fn read(self, answer: &Answer) -> anyhow::Result<Told> {
        let document: Value = serde_json::from_slice(&answer.body)?;
        let in_head = answer.headers.get("idempotency-replayed").is_some_and(|replayed| replayed == "true");
        let (result, replayed, problem, status) = match self {
            Self::Batch if answer.status == StatusCode::OK => {
                let result = &document["results"][0];
                (result, result["replayed"] == true, &result["problem"], result["status"].as_u64())
            }
            _ => (&document, in_head, &document, Some(answer.status.as_u16().into())),
        };
        Ok(match (result["count"].as_i64(), problem["type"].as_str(), status) {
            (Some(count), None, Some(200)) => Told::Count { count, replayed },
            (None, Some(problem), Some(status)) => Told::Refused { status: u16::try_from(status)?, problem: problem.to_owned() },
            _ => anyhow::bail!("{document}"),
        })
    }
}

/// A key made so many seconds from now.
fn made_in(seconds: i64) -> anyhow::Result<String> {
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    Ok(format!("{}-x", now_ms + seconds * 1_000))
}

#[tokio::test]
async fn by_each_way_and_through_any_node_an_update_counts_once_and_a_wrong_key_changes_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &[]).await?;
    let (http, [one, other]) = (Http::default(), [0, 1].map(|node| cluster.nodes[node].http()));
    for way in Way::ALL {
        for shard in 0..2 {
            // Of one slot with the shard's page, so of its shard.
            let (page, key) = (format!("%7B{}%7D-{way:?}", cluster.page_of(shard)?), token()?);
            let counter = format!("{one}/{page}/counter");
            let put = |by: u64| http.send(Method::PUT, &counter, Some(json!({"by": by})));
            put(10).await?.json_of(StatusCode::OK)?;
            let told = way.send(&one, &page, &key, 5).await?.0;
            assert_eq!(told, Told::Count { count: way.first(), replayed: false }, "{way:?}");
            put(2).await?.json_of(StatusCode::OK)?;
            let now = way.first() + 2;
            for base in [&one, &other] {
                let told = way.send(base, &page, &key, 5).await?.0;
                assert_eq!(told, Told::Count { count: now, replayed: true }, "the number now: {way:?} at {base}");
                let different = if matches!(way, Way::Delete) { Way::Put } else { way };
                let told = different.send(base, &page, &key, 6).await?.0;
                assert_eq!(told, refused(422, "token-reused"), "{way:?} at {base}");
                for (key, expected) in [
                    (made_in(-3_600)?, refused(422, "token-expired")),
                    (made_in(3_600)?, refused(422, "token-from-future")),
                    ("x".repeat(256), refused(400, "bad-input")),
                    ("a b".to_owned(), refused(400, "bad-input")),
                ] {
                    assert_eq!(way.send(base, &page, &key, 5).await?.0, expected, "{way:?} under {key} at {base}");
                }
                assert_eq!(http.count(base, &page).await?, now, "{way:?} at {base}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn at_the_limit_new_keys_are_told_when_to_come_again_and_known_ones_are_recognised() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-tokens", "2"])?;
    node.start_ready().await?;
    let (base, known) = (node.http(), [token()?, token()?]);
    for key in &known {
        assert!(matches!(Way::Put.send(&base, "page", key, 1).await?.0, Told::Count { replayed: false, .. }));
    }
    for way in Way::ALL {
        let (told, answer) = way.send(&base, "page", &token()?, 1).await?;
        assert_eq!(told, refused(429, "too-many-tokens"), "{way:?}");
        if !matches!(way, Way::Batch) {
            assert!(answer.headers["retry-after"].to_str()?.parse::<u32>()? > 0, "{way:?}");
        }
    }
    for key in &known {
        assert_eq!(Way::Put.send(&base, "page", key, 1).await?.0, Told::Count { count: 2, replayed: true });
    }
    let plain = Http::default().send(Method::PUT, &format!("{base}/page/counter"), None).await?;
    assert_eq!(plain.json_of(StatusCode::OK)?["count"], 3, "updates without a key count on");
    Ok(())
}

#[tokio::test]
async fn how_old_a_key_may_be_is_a_setting() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    // Minutes lie between what is taken and what is refused: this machine may be slow.
    for (window, taken_s, expired_s) in [(None, 300, 900), (Some("1800"), 900, 2_700)] {
        node.add_flags(window.into_iter().flat_map(|window| ["--token-window".to_owned(), window.to_owned()]));
        node.start_ready().await?;
        let base = node.http();
        let before = Http::default().count(&base, "page").await?;
        let taken = Way::Put.send(&base, "page", &made_in(-taken_s)?, 1).await?.0;
        assert_eq!(taken, Told::Count { count: before + 1, replayed: false }, "{window:?}");
        assert_eq!(Way::Put.send(&base, "page", &made_in(-expired_s)?, 1).await?.0, refused(422, "token-expired"), "{window:?}");
        assert_eq!(Http::default().count(&base, "page").await?, before + 1, "{window:?}");
        assert!(node.stop().await?.success());
    }
    Ok(())
}
