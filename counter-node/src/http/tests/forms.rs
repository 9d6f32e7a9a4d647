//! The forms of an answer: JSON, text, HTML, details, documentation.

use super::*;

#[tokio::test]
async fn a_counter_comes_in_the_form_that_the_client_likes_best() {
    let client = Client::new();
    client.put("/p/counter").await;
    for (accept, content_type, body) in [
        ("text/plain", "text/plain; charset=utf-8", "1\n"),
        ("*/*", "application/json", r#"{"count":1,"updated_at":"2030-10-10T12:11:42Z"}"#),
        ("text/plain;q=0.1, application/json", "application/json", r#"{"count":1,"updated_at":"2030-10-10T12:11:42Z"}"#),
    ] {
        let answer = client.get_as("/p/counter", accept).await;
        assert_eq!((answer.header("content-type"), answer.text()), (content_type, body), "{accept}");
        assert_eq!((answer.header("vary"), answer.header("cache-control")), ("accept, counter-session", "no-cache"));
    }
    let html = client.get_as("/p/counter", "text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
    assert!(html.text().contains("<live-count page=\"p\" id=\"count\">1</live-count>"), "{}", html.text());
    assert!(client.get_as("/counter", "text/html").await.text().contains("src=\"ui/counter.js\""));
    let update = Request::put("/p/counter").header("accept", "text/plain").body(Full::default()).unwrap();
    assert_eq!(client.send(update).await.text(), "2\n");
}

#[tokio::test]
async fn detail_adds_what_is_known_and_without_it_there_are_two_fields() {
    let client = Client::new();
    client.put("/p/counter").await;
    let alone = json!({
        "count": 1, "updated_at": "2030-10-10T12:11:42Z", "tally": 1, "viewers": 0, "min": 1, "max": 1,
        "staleness_ms": 0, "replicas": 1, "consistency": "Eventual", "clamped": false,
    });
    let replicated = json!({
        "count": 1, "updated_at": "2030-10-10T12:11:42Z", "tally": 1, "viewers": 0,
        "staleness_ms": 80, "replicas": 3, "consistency": "Eventual", "clamped": false,
    });
    for (siblings, expected) in [(0, alone), (2, replicated)] {
        client.backend.siblings.store(siblings, Ordering::Relaxed);
        for path in ["/p/counter?detail=true", "/counter?detail=true"] {
            let answer = client.get(path).await;
            assert_eq!(answer.json(), expected, "{path}");
            assert_eq!((answer.header("etag"), answer.header("cache-control")), ("", "no-store"));
        }
    }
    let plain = client.get("/p/counter?detail=false").await.json();
    assert_eq!(plain.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_client_that_has_the_number_is_told_so_until_it_changes() {
    let client = Client::new();
    client.put("/p/counter").await;
    let ask = async |path: &str, accept: &str, tag: &str| {
        let request = Request::get(path).header("accept", accept).header("if-none-match", tag);
        client.send(request.body(Full::default()).unwrap()).await
    };
    for path in ["/p/counter", "/counter"] {
        for accept in ["application/json", "text/plain", "text/html"] {
            let whole = client.get_as(path, accept).await;
            let tag = whole.header("etag");
            assert!(tag.ends_with('"') && tag.starts_with("W/") == (accept == "text/html"), "{tag}");
            let short = ask(path, accept, tag).await;
            assert_eq!((short.status, short.text()), (304, ""), "{path} as {accept}");
            for header in ["etag", "vary", "cache-control"] {
                assert_eq!(short.header(header), whole.header(header), "{header}");
            }
            let other = if accept == "text/plain" { "application/json" } else { "text/plain" };
            assert_eq!(ask(path, other, tag).await.status, 200, "a tag stands for one form");
        }
    }
    let before = client.get("/p/counter").await;
    let updated = client.put("/p/counter").await;
    assert_eq!((updated.header("etag"), updated.header("cache-control")), ("", "no-store"));
    let after = ask("/p/counter", "*/*", before.header("etag")).await;
    assert_eq!((after.status, after.json()["count"].clone()), (200, json!(2)));
}

#[tokio::test]
async fn a_number_past_the_range_is_clamped_and_flagged() {
    let client = Client::new();
    for page in ["a", "b"] {
        client.put_json(&format!("/{page}/counter"), json!({"by": i64::MAX})).await;
    }
    let site = client.get("/counter?detail=true").await;
    assert_eq!(site.header("counter-clamped"), "true");
    let detail = site.json();
    assert_eq!((&detail["count"], &detail["clamped"]), (&json!(i64::MAX), &json!(true)));
    assert!(site.text().contains("\"tally\":18446744073709551614"), "{}", site.text());
    assert_eq!(client.get("/a/counter").await.header("counter-clamped"), "");
}

#[tokio::test]
async fn pages_for_people_carry_a_strict_policy_and_escape_names() {
    let client = Client::new();
    client.put("/%3Cscript%3Ealert(1)%3C%2Fscript%3E/counter").await;
    let evil = "/%3Cscript%3Ealert(1)%3C%2Fscript%3E/counter";
    for (path, accept) in [("/", "text/html"), (evil, "text/html"), ("/problems/range", "*/*")] {
        let answer = client.get_as(path, accept).await;
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8", "{path}");
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert!(!answer.text().contains("<script>"), "{}", answer.text());
    }
    let list = client.get("/").await;
    assert!(list.text().contains("href=\"./%3Cscript%3Ealert%281%29%3C%2Fscript%3E/counter\""), "{}", list.text());
}

#[tokio::test]
async fn the_front_page_lists_pages_and_documentation_up_to_a_bound() {
    let client = Client::new();
    assert!(client.get("/").await.text().contains("counts no page yet"));
    for page in 0..101 {
        client.put(&format!("/page-{page}/counter")).await;
    }
    let list = client.get("/").await;
    assert_eq!(list.text().matches("<li><a href=\"./page-").count(), 100);
    for found in ["and more", "docs/", "openapi.json"] {
        assert!(list.text().contains(found), "{found}");
    }
}

#[tokio::test]
async fn documentation_is_served_without_the_internet() {
    let client = Client::new();
    let docs = client.get("/docs").await;
    assert_eq!((docs.status, docs.header("location")), (308, "docs/"));
    let viewer = client.get("/docs/").await;
    assert_eq!((viewer.status, viewer.header("content-type")), (200, "text/html"));
    assert!(!viewer.text().contains("https://") && !viewer.text().contains("<script>"), "{}", viewer.text());
    let start = client.get("/docs/swagger-initializer.js").await;
    assert!(start.text().contains("../openapi.json") && start.text().contains("\"validatorUrl\": \"none\""), "{}", start.text());
    let document = client.get("/openapi.json").await.json();
    for path in ["/{page}/counter", "/counter", "/counters"] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
    for (path, content_type) in
        [("/ui/counter.js", "text/javascript; charset=utf-8"), ("/ui/style.css", "text/css; charset=utf-8")]
    {
        assert_eq!(client.get(path).await.header("content-type"), content_type);
    }
}
