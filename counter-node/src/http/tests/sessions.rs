//! The header `Counter-Session`: begun, carried on, and refused where it is none.

use super::*;

async fn ask(client: &Client, method: Method, path: &str, sessions: &[&str]) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for session in sessions {
        request = request.header("counter-session", *session);
    }
    client.send(request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn a_session_begins_with_an_update_and_every_answer_to_an_update_carries_it_on() {
    let client = Client::new();
    let first = ask(&client, Method::PUT, "/p/counter", &["new"]).await;
    let second = ask(&client, Method::PUT, "/q/counter", &[first.header("counter-session")]).await;
    let third = ask(&client, Method::DELETE, "/p/counter", &[second.header("counter-session")]).await;
    let sessions = [&first, &second, &third].map(|answer| answer.header("counter-session").to_owned());
    assert!(sessions.iter().all(|session| !session.is_empty() && session.len() < 100), "{sessions:?}");
    assert!(sessions[0] != sessions[1] && sessions[1] != sessions[2], "{sessions:?}");
    for (path, count) in [("/p/counter", 0), ("/q/counter", 1), ("/p/counter?detail=true", 0)] {
        let read = ask(&client, Method::GET, path, &[&sessions[2]]).await;
        assert_eq!((read.status, &read.json()["count"]), (200, &json!(count)));
        assert_eq!(read.header("counter-session"), "", "reading changes no session");
    }
    let empty = ask(&client, Method::PUT, "/p/counter", &[""]).await;
    assert!(!empty.header("counter-session").is_empty());
    assert_eq!(client.put("/p/counter").await.header("counter-session"), "", "nobody asked");
}

#[tokio::test]
async fn what_the_session_has_written_elsewhere_is_waited_for() {
    let (written, client) = (Client::new(), Client::new());
    let session = ask(&written, Method::PUT, "/p/counter", &["new"]).await.header("counter-session").to_owned();
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = ask(&client, method, "/p/counter", &[&session]).await;
        assert_eq!((answer.status, answer.header("retry-after"), answer.header("cache-control")), (503, "1", "no-store"));
        assert_eq!(answer.json()["type"], "/problems/session-not-reached");
    }
    assert_eq!(ask(&client, Method::GET, "/q/counter", &[&session]).await.status, 200, "another page");
    assert_eq!(client.get("/p/counter").await.json()["count"], 0, "another client");
    let batch = ask(&client, Method::GET, "/counters?page=p&page=q", &[&session]).await.json();
    assert_eq!((&batch["results"][0]["status"], &batch["results"][1]["status"]), (&json!(503), &json!(200)));
}

#[tokio::test]
async fn a_tag_is_compared_with_what_the_session_may_see() {
    let (written, client) = (Client::new(), Client::new());
    let tag = client.get("/p/counter").await.header("etag").to_owned();
    let session = ask(&written, Method::PUT, "/p/counter", &["new"]).await.header("counter-session").to_owned();
    let request = Request::get("/p/counter").header("if-none-match", &tag).header("counter-session", &session);
    assert_eq!(client.send(request.body(Full::default()).unwrap()).await.status, 503, "not 304: the number is an old one");
    let request = Request::get("/p/counter").header("if-none-match", &tag).header("counter-session", "new");
    let answer = client.send(request.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status, answer.header("vary")), (304, "accept, counter-session"));
}

#[tokio::test]
async fn what_is_no_session_is_refused_and_changes_nothing() {
    let client = Client::new();
    let other = counter_core::marks::Marks::new().encode(ClusterId(8));
    let (long, other) = ("A".repeat(100_000), base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, other));
    for session in ["x", "AAAA", "a b", "====", "AQ", "new,new", long.as_str(), other.as_str()] {
        for (method, path) in [(Method::GET, "/p/counter"), (Method::PUT, "/p/counter"), (Method::DELETE, "/p/counter")] {
            client.refused(&ask(&client, method, path, &[session]).await, 400, Some("Counter-Session"));
        }
        for (method, path) in [(Method::GET, "/counters?page=p"), (Method::POST, "/counters")] {
            client.refused(&ask(&client, method, path, &[session]).await, 400, Some("Counter-Session"));
        }
    }
    client.refused(&ask(&client, Method::GET, "/p/counter", &["new", "new"]).await, 400, Some("Counter-Session"));
    client.refused(&ask(&client, Method::GET, "/counter", &["new"]).await, 400, Some("Counter-Session"));
}

#[tokio::test]
async fn a_batch_in_a_session_is_no_longer_than_a_session_remembers() {
    let client = Client::new();
    let batch = async |updates: usize| {
        let updates: Vec<Value> = (0..updates).map(|number| json!({"page": format!("p{number}")})).collect();
        let body = json!({ "updates": updates }).to_string();
        let request = Request::post("/counters").header("counter-session", "").header("content-type", "application/json");
        client.send(request.body(Full::from(body)).unwrap()).await
    };
    client.refused(&batch(65).await, 400, Some("Counter-Session"));
    let answer = batch(64).await;
    assert_eq!(answer.status, 200);
    let session = answer.header("counter-session");
    assert!(session.len() > 64 * 10 && session.len() < 64 * 30, "{}", session.len());
    assert_eq!(ask(&client, Method::GET, "/p0/counter", &[session]).await.status, 200);
    assert_eq!(ask(&Client::new(), Method::GET, "/p0/counter", &[session]).await.status, 503);
}
