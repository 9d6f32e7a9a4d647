//! What is wrong is refused by its name, and nothing changes.

use super::*;

#[tokio::test]
async fn a_page_that_is_none_is_refused() {
    let client = Client::new();
    let long = "a".repeat(513);
    for page in [long.as_str(), "", "%", "%4", "%zz", "%FF", "a%C3"] {
        let path = format!("/{page}/counter");
        client.refused(&client.put(&path).await, 400, Some("page"));
        client.refused(&client.get(&path).await, 400, Some("page"));
        let delete = Request::delete(&path).body(Full::default()).unwrap();
        client.refused(&client.send(delete).await, 400, Some("page"));
    }
    let detail = client.put(&format!("/{long}/counter")).await.json()["detail"].clone();
    assert_eq!(detail, "`page` must be at most 512 bytes long, and is 513.");
    assert_eq!(client.put(&format!("/{}/counter", "a".repeat(512))).await.status, 200);
}

#[tokio::test]
async fn a_body_that_is_no_update_is_refused_by_its_field() {
    let client = Client::new();
    for (body, field) in [
        ("x", "body"),
        ("{", "body"),
        ("{} {}", "body"),
        ("\"increment\"", "body"),
        ("[]", "body"),
        (" ", "body"),
        (r#"{"action": "set"}"#, "action"),
        (r#"{"action": 1}"#, "action"),
        (r#"{"action": null}"#, "action"),
        (r#"{"by": -1}"#, "by"),
        (r#"{"by": 0}"#, "by"),
        (r#"{"by": 1.5}"#, "by"),
        (r#"{"by": "1"}"#, "by"),
        (r#"{"by": null}"#, "by"),
        (r#"{"by": 18446744073709551616}"#, "by"),
        (r#"{"bye": 1}"#, "bye"),
        (r#"{"by": 1, "by": 2}"#, "body"),
        (r#"{"idempotency_key": "k"}"#, "idempotency_key"),
    ] {
        let answer = client.put_json("/p/counter", body).await;
        let problem = answer.json();
        assert!(problem["detail"].as_str().unwrap().contains(if field == "body" { "body" } else { field }), "{body}: {problem}");
        client.refused(&answer, 400, Some(field));
    }
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_refused() {
    let client = Client::new();
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")] {
        let mut request = Request::put("/p/counter");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        client.refused(&client.send(request.body(Full::from("{}")).unwrap()).await, 415, None);
    }
    let request = Request::put("/p/counter").header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(client.send(request.body(Full::from("{}")).unwrap()).await.status, 200);
}

#[tokio::test]
async fn a_bad_idempotency_key_is_refused_and_one_for_many_updates_too() {
    let client = Client::new();
    let (long, quoted) = ("k".repeat(256), "\"\"");
    for key in ["", "a b", &long, quoted] {
        for method in [Method::PUT, Method::DELETE] {
            let request = Request::builder().method(method).uri("/p/counter").header("idempotency-key", key);
            client.refused(&client.send(request.body(Full::default()).unwrap()).await, 400, Some("Idempotency-Key"));
        }
    }
    let request = Request::put("/p/counter").header("idempotency-key", "a").header("idempotency-key", "b");
    client.refused(&client.send(request.body(Full::default()).unwrap()).await, 400, Some("Idempotency-Key"));
    let request = Request::post("/counters").header("idempotency-key", "k");
    let answer = client.send(request.body(Full::default()).unwrap()).await;
    assert!(answer.text().contains("idempotency_key"), "{}", answer.text());
    client.refused(&answer, 400, Some("Idempotency-Key"));
}

#[tokio::test]
async fn a_bad_item_of_many_refuses_all_of_them_by_its_place() {
    let client = Client::new();
    for (body, field) in [
        (json!({"updates": [{"page": "a"}, {"page": "b", "by": -1}]}), "updates[1].by"),
        (json!({"updates": [{"page": "a"}, {"page": ""}]}), "updates[1].page"),
        (json!({"updates": [{"page": "a".repeat(513)}]}), "updates[0].page"),
        (json!({"updates": [{"page": "a"}, {"page": "b", "idempotency_key": "a b"}]}), "updates[1].idempotency_key"),
        (json!({"updates": [{"page": "a", "actoin": "increment"}]}), "updates[0].actoin"),
        (json!({"updates": [{"by": 1}]}), "updates[0]"),
        (json!({"updates": []}), "updates"),
        (json!({"updates": 7}), "updates"),
        (json!({"update": []}), "update"),
        (json!({}), "body"),
    ] {
        client.refused(&client.with_json(Method::POST, "/counters", &body).await, 400, Some(field));
    }
}

#[tokio::test]
async fn a_parameter_that_would_do_nothing_is_refused() {
    let client = Client::new();
    for (path, field) in [
        ("/p/counter?detail=yes", "detail"),
        ("/p/counter?detial=true", "detial"),
        ("/counter?page=p", "page"),
        ("/counters?page=p&detail=true", "detail"),
        ("/counters?page=%FF", "page"),
        ("/counters?page=", "page"),
        ("/counters", "page"),
    ] {
        client.refused(&client.get(path).await, 400, Some(field));
    }
    client.refused(&client.put("/p/counter?by=2").await, 400, Some("by"));
}

#[tokio::test]
async fn an_unknown_path_and_an_unknown_method_are_told_apart() {
    let client = Client::new();
    for path in ["/nowhere", "/a/b/counter", "/p/counter/", "/p/count", "/problems/none", "/ui/none", "/docs/none"] {
        client.refused(&client.get(path).await, 404, None);
    }
    for (method, path, allow) in [
        (Method::POST, "/p/counter", "GET, HEAD, PUT, DELETE"),
        (Method::PATCH, "/p/counter", "GET, HEAD, PUT, DELETE"),
        (Method::PUT, "/counter", "GET, HEAD"),
        (Method::DELETE, "/counters", "GET, HEAD, POST"),
        (Method::OPTIONS, "/", "GET, HEAD"),
    ] {
        let answer = client.send(Request::builder().method(method).uri(path).body(Full::default()).unwrap()).await;
        client.refused(&answer, 405, None);
        assert_eq!(answer.header("allow"), allow, "{path}");
    }
}

#[tokio::test]
async fn a_body_past_the_limit_is_refused_with_and_without_a_declared_length() {
    let client = Client::with(None, RequestLimits { body_bytes: 64, ..LIMITS }, 10);
    let padded = format!("{{{}}}", " ".repeat(63));
    client.refused(&client.put_json("/p/counter", &padded).await, 413, None);
    let parts = futures::stream::iter(
        padded
            .into_bytes()
            .into_iter()
            .map(|byte| Ok::<_, std::io::Error>(hyper::body::Frame::data(Bytes::copy_from_slice(&[byte])))),
    );
    let request = Request::put("/p/counter").header("content-type", "application/json");
    let (mut head, body) = request.body(http_body_util::StreamBody::new(parts)).unwrap().into_parts();
    let reply = client.api.handle(&client.peer, &mut head, body).await;
    assert_eq!(reply.status(), 413);
    assert_eq!(client.put_json("/p/counter", format!("{{{}}}", " ".repeat(62))).await.status, 200);
}
