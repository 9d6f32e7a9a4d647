//! Subscriptions, modifications and what is left to read.

use super::*;

impl Client {
    async fn modify(&self, page: &str) -> Value {
        let answer = self.send(Request::post(format!("/{page}/modifications")).body(Full::default()).unwrap()).await;
        assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{}", answer.text());
        answer.json()
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Full::default()).unwrap()).await
    }

    async fn unread(&self, user: &str) -> Value {
        let answer = self.get(&format!("/users/{user}/unread")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

const AT: &str = "2030-10-10T12:11:42Z";

#[tokio::test]
async fn a_subscriber_has_to_read_what_was_modified_since_and_nothing_else() {
    let client = Client::new();
    assert_eq!(client.unread("ann").await, json!({"count": 0, "updated_at": null, "pages": []}));
    assert_eq!(client.modify("a").await, json!({"version": 1, "updated_at": AT}));
    let subscribed = client.put("/users/ann/subscriptions/a").await;
    let subscription = json!({"page": "a", "subscribed": true, "read": 1, "updated_at": AT});
    assert_eq!((subscribed.status, subscribed.json()), (200, subscription.clone()));
    client.put("/users/ann/subscriptions/b%2Fc").await;
    assert_eq!(client.unread("ann").await["count"], 0, "all is read at first");
    for _ in 0..3 {
        client.modify("a").await;
    }
    client.modify("b%2Fc").await;
    client.modify("d").await;
    let pages = json!([{"page": "a", "unread": 3, "version": 4}, {"page": "b/c", "unread": 1, "version": 1}]);
    assert_eq!(client.unread("ann").await, json!({"count": 4, "updated_at": AT, "pages": pages}));
    assert_eq!(client.unread("bob").await["count"], 0);
    // Subscribing again changes nothing.
    assert_eq!(client.put("/users/ann/subscriptions/a").await.json(), subscription);
    assert_eq!(client.unread("ann").await["count"], 4);
    let listed = client.get("/users/ann/subscriptions").await.json();
    let other = json!({"page": "b/c", "subscribed": true, "read": 0, "updated_at": AT});
    assert_eq!(listed, json!({"subscriptions": [subscription, other]}));
}

#[tokio::test]
async fn what_was_read_stays_read_and_a_version_that_is_not_there_yet_counts_as_the_last() {
    let client = Client::new();
    client.put("/users/ann/subscriptions/a").await;
    for _ in 0..5 {
        client.modify("a").await;
    }
    for (version, unread) in [(2, 3), (1, 3), (2, 3), (4, 1), (99, 0)] {
        let answer = client.put_json("/users/ann/unread/a", json!({"version": version})).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"page": "a", "unread": unread, "version": 5})), "{version}");
        assert_eq!(client.unread("ann").await["count"], unread, "{version}");
    }
    client.modify("a").await;
    assert_eq!(client.unread("ann").await["count"], 1, "a version of the future hides nothing");
}

#[tokio::test]
async fn who_unsubscribes_has_nothing_to_read_of_the_page_and_who_subscribes_anew_has_read_it() {
    let client = Client::new();
    for page in ["a", "b"] {
        client.put(&format!("/users/ann/subscriptions/{page}")).await;
        client.modify(page).await;
    }
    for _ in 0..2 {
        let answer = client.delete("/users/ann/subscriptions/a").await;
        assert_eq!((answer.status, answer.text()), (204, ""));
    }
    assert_eq!(client.unread("ann").await["pages"], json!([{"page": "b", "unread": 1, "version": 1}]));
    let ended = client.get("/users/ann/subscriptions/a").await.json();
    assert_eq!((&ended["subscribed"], &ended["read"]), (&json!(false), &json!(0)));
    let refused = client.put_json("/users/ann/unread/a", json!({"version": 1})).await;
    assert_eq!((refused.status, refused.json()["type"].as_str()), (404, Some("/problems/not-subscribed")));
    client.modify("a").await;
    client.put("/users/ann/subscriptions/a").await;
    assert_eq!(client.unread("ann").await["count"], 1);
    let never = client.get("/users/bob/subscriptions/a").await.json();
    assert_eq!(never, json!({"page": "a", "subscribed": false, "read": 0, "updated_at": null}));
    assert_eq!(client.delete("/users/bob/subscriptions/a").await.status, 204);
}

#[tokio::test]
async fn a_users_subscriptions_are_counted_only_for_one_more() {
    let client = Client::new();
    let counted = || client.backend.counted.load(std::sync::atomic::Ordering::Relaxed);
    client.put("/users/ann/subscriptions/a").await;
    assert_eq!(counted(), 1);
    client.put("/users/ann/subscriptions/a").await;
    client.modify("a").await;
    client.put_json("/users/ann/unread/a", json!({"version": 1})).await;
    client.get("/users/ann/subscriptions/a").await;
    client.unread("ann").await;
    client.delete("/users/ann/subscriptions/a").await;
    assert_eq!(counted(), 1);
    client.put("/users/ann/subscriptions/a").await;
    assert_eq!(counted(), 2);
}

#[tokio::test]
async fn a_modification_that_is_sent_again_under_its_key_is_one() {
    let client = Client::new();
    client.put("/users/ann/subscriptions/a").await;
    let key = format!("{:013}-1", NOW.wall_ms());
    for replayed in ["", "true"] {
        let request = Request::post("/a/modifications").header("idempotency-key", &key);
        let answer = client.send(request.body(Full::default()).unwrap()).await;
        assert_eq!((answer.json()["version"].clone(), answer.header("idempotency-replayed")), (json!(1), replayed));
    }
    assert_eq!(client.unread("ann").await["count"], 1);
}

#[tokio::test]
async fn a_thousand_subscriptions_are_the_most_and_one_that_ends_makes_room() {
    let client = Client::new();
    for page in 0..1_000 {
        assert_eq!(client.put(&format!("/users/ann/subscriptions/p{page}")).await.status, 200);
    }
    let refused = client.put("/users/ann/subscriptions/more").await;
    assert_eq!((refused.status, refused.json()["type"].as_str()), (422, Some("/problems/too-many-subscriptions")));
    assert!(refused.text().contains("subscribes to 1000 pages, the limit"), "{}", refused.text());
    assert_eq!(client.put("/users/ann/subscriptions/p7").await.status, 200, "it is there already");
    assert_eq!(client.put("/users/bob/subscriptions/more").await.status, 200);
    client.delete("/users/ann/subscriptions/p7").await;
    assert_eq!(client.put("/users/ann/subscriptions/more").await.status, 200);
}

#[tokio::test]
async fn neither_modifications_nor_subscriptions_show_in_counters() {
    let client = Client::new();
    client.put("/users/ann/subscriptions/a").await;
    client.modify("a").await;
    client.modify("users").await;
    assert_eq!(client.get("/a/counter").await.json()["count"], 0);
    assert_eq!(client.get("/users/counter").await.json()["count"], 0);
    assert_eq!(client.get("/counter").await.json()["count"], 0);
}

#[tokio::test]
async fn bad_users_pages_versions_and_bodies_are_named() {
    let client = Client::new();
    let long = "u".repeat(129);
    for (path, field) in [
        ("/users//unread".to_owned(), "user"),
        (format!("/users/{long}/unread"), "user"),
        ("/users/%FF/unread".to_owned(), "user"),
        ("/users/ann/unread?detail=true".to_owned(), "detail"),
        (format!("/users/{long}/subscriptions"), "user"),
        ("/users/ann/subscriptions/".to_owned(), "page"),
        (format!("/users/ann/subscriptions/{}", "p".repeat(513)), "page"),
    ] {
        client.refused(&client.get(&path).await, 400, Some(field));
    }
    for (body, field) in [
        (json!({}), "version"),
        (json!({"version": -1}), "version"),
        (json!({"version": "1"}), "version"),
        (json!({"version": 1.5}), "version"),
        (json!({"version": 4_294_967_296_u64}), "version"),
        (json!({"version": 1, "page": "a"}), "page"),
        (json!([1]), "body"),
    ] {
        let answer = client.put_json("/users/ann/unread/a", &body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(field), "{}", answer.text());
        assert_eq!(client.backend.table.counters(), 0);
    }
    client.refused(&client.put("/users/ann/unread/a").await, 415, None);
    client.refused(&client.with_json(Method::POST, "/a/modifications", json!({"by": 2})).await, 400, Some("by"));
    client.refused(&client.put_json("/users/ann/subscriptions/a", json!({"read": 2})).await, 400, Some("read"));
    let beside = client.with_json(Method::POST, "/users/ann/unread", json!({})).await;
    assert_eq!((beside.status, beside.header("allow")), (405, "GET, HEAD"));
    assert_eq!(client.get("/users/ann/unread/live").await.status, 426);
    client.refused(&client.get("/users/ann/unread/live?observe=true").await, 400, Some("observe"));
}

#[tokio::test]
async fn who_has_no_token_reads_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    std::fs::write(&file, "secret\n").unwrap();
    let client = Client::with(Some(ApiTokens::open(&file).unwrap()), LIMITS, 10);
    for (method, path) in [
        (Method::PUT, "/users/ann/subscriptions/a"),
        (Method::DELETE, "/users/ann/subscriptions/a"),
        (Method::PUT, "/users/ann/unread/a"),
        (Method::POST, "/a/modifications"),
    ] {
        client.refused(&client.with_json(method, path, json!({})).await, 401, None);
    }
    for path in ["/users/ann/subscriptions/a", "/users/ann/subscriptions", "/users/ann/unread"] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_shard_that_does_not_answer_makes_no_count_up() {
    let client = Client::new();
    client.put("/users/ann/subscriptions/a").await;
    *lock(&client.backend.failure) = Some(Failure::NotApplied { reason: "nobody is there".to_owned(), retry_after_s: 2 });
    for path in ["/users/ann/unread", "/users/ann/subscriptions", "/users/ann/subscriptions/a"] {
        let answer = client.get(path).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "2"), "{path}");
    }
    assert_eq!(client.put("/users/ann/subscriptions/b").await.status, 503);
    assert_eq!(client.put_json("/users/ann/unread/a", json!({"version": 0})).await.status, 503);
}

/// What a replica says need not be durable yet: an answer rests on an update of its own, also one that changes nothing.
#[tokio::test]
async fn what_is_as_it_should_be_is_no_success_where_it_cannot_be_put_down() {
    let client = Client::new();
    client.modify("a").await;
    client.put("/users/ann/subscriptions/a").await;
    client.put("/users/bob/subscriptions/a").await;
    assert_eq!(client.delete("/users/bob/subscriptions/a").await.status, 204);
    client.backend.table.set_writer(Slot::all(), None);
    assert_eq!(client.put("/users/ann/subscriptions/a").await.status, 503);
    assert_eq!(client.put_json("/users/ann/unread/a", json!({"version": 1})).await.status, 503);
    assert_eq!(client.delete("/users/bob/subscriptions/a").await.status, 503);
    assert_eq!(client.delete("/users/nobody/subscriptions/a").await.status, 204, "there is nothing to put down");
    client.backend.table.set_writer(Slot::all(), Some(ACTOR));
    assert_eq!(client.put("/users/ann/subscriptions/a").await.status, 200);
    assert_eq!(client.delete("/users/bob/subscriptions/a").await.status, 204);
}
