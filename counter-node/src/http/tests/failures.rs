//! What the node cannot do now, by its problem type; limits; tokens.

use super::*;

#[tokio::test]
async fn each_failure_has_its_type_status_and_retry_time() {
    let client = Client::new();
    let reason = || "why".to_owned();
    for (failure, status, kind, retry_after) in [
        (Failure::NotApplied { reason: reason(), retry_after_s: 3 }, 503, "not-applied", "3"),
        (Failure::OutcomeUnknown { reason: reason() }, 503, "outcome-unknown", ""),
        (Failure::Overloaded { what: "forwards in flight", limit: 9 }, 503, "overloaded", "1"),
        (Failure::Range { message: reason() }, 422, "range", ""),
        (Failure::TooManyCounters { limit: 9 }, 429, "too-many-counters", "60"),
        (Failure::TooMuchMemory { limit_bytes: 9 }, 429, "too-many-counters", "60"),
    ] {
        *client.backend.failure.lock().unwrap() = Some(failure);
        let answer = client.put("/p/counter").await;
        client.refused(&answer, status, None);
        let problem = answer.json();
        assert_eq!(problem["type"], format!("/problems/{kind}"));
        assert_eq!(answer.header("retry-after"), retry_after, "{problem}");
        assert_eq!(problem["retry_after_seconds"].as_u64(), retry_after.parse().ok(), "{problem}");
        let explained = client.get(problem["type"].as_str().unwrap()).await;
        assert_eq!((explained.status, explained.header("content-type")), (200, "text/html; charset=utf-8"));
        assert!(explained.text().contains(problem["title"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn an_update_past_the_range_is_refused_and_changes_nothing() {
    let client = Client::new();
    client.refused(&client.put_json("/p/counter", json!({"by": u64::MAX})).await, 422, None);
    client.put_json("/p/counter", json!({"by": i64::MAX})).await;
    let answer = client.put("/p/counter").await;
    assert_eq!((answer.status, answer.json()["type"].clone()), (422, json!("/problems/range")));
    assert_eq!(client.get("/p/counter").await.json()["count"], i64::MAX);
}

#[tokio::test]
async fn a_full_node_refuses_new_pages_and_counts_the_known_ones_on() {
    let client = Client::with(None, LIMITS, 1);
    client.put("/known/counter").await;
    let answer = client.put("/new/counter").await;
    assert_eq!((answer.status, answer.json()["type"].clone()), (429, json!("/problems/too-many-counters")));
    assert_eq!(client.get("/new/counter").await.json()["count"], 0);
    assert_eq!(client.put("/known/counter").await.json()["count"], 2);
    let updates = json!({"updates": [{"page": "known"}, {"page": "new"}]});
    let both = client.with_json(Method::POST, "/counters", &updates).await.json();
    let of_new = &both["results"][1];
    assert_eq!((&both["results"][0]["count"], &of_new["status"]), (&json!(3), &json!(429)));
    assert_eq!(of_new["problem"]["retry_after_seconds"], 60, "{of_new}");
}

#[tokio::test]
async fn a_request_past_the_limit_of_those_at_once_is_refused() {
    let client = Client::with(None, RequestLimits { in_flight: 1, ..LIMITS }, 10);
    let never = http_body_util::StreamBody::new(futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::io::Error>>());
    let (api, peer) = (client.api.clone(), client.peer.clone());
    let (mut head, body) = Request::put("/p/counter").body(never).unwrap().into_parts();
    let slow = tokio::spawn(async move { api.handle(&peer, &mut head, body).await.status() });
    while client.api.0.metrics.begin(1).is_some() {
        tokio::task::yield_now().await;
    }
    let answer = client.put("/p/counter").await;
    client.refused(&answer, 503, None);
    assert_eq!((answer.header("retry-after"), &answer.json()["type"]), ("1", &json!("/problems/overloaded")));
    // A client that goes away gives its place back.
    slow.abort();
    assert!(slow.await.unwrap_err().is_cancelled());
    assert_eq!(client.put("/p/counter").await.status, 200);
}

#[tokio::test]
async fn with_a_token_file_updates_need_a_token_and_reads_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, "secret").unwrap();
    let client = Client::with(Some(ApiTokens::open(&path).unwrap()), LIMITS, 10);
    for (method, path) in [(Method::PUT, "/p/counter"), (Method::DELETE, "/p/counter"), (Method::POST, "/counters")] {
        for authorization in [None, Some("Bearer wrong"), Some("Basic secret")] {
            let mut request = Request::builder().method(&method).uri(path);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let answer = client.send(request.body(Full::default()).unwrap()).await;
            client.refused(&answer, 401, None);
            assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"counter\"");
        }
    }
    let request = Request::put("/p/counter").header("authorization", "Bearer secret");
    assert_eq!(client.send(request.body(Full::default()).unwrap()).await.json()["count"], 1);
    assert_eq!(client.get("/p/counter").await.json()["count"], 1);
}
