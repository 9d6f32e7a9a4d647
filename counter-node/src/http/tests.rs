//! The API over a table of its own, request by request.

mod bad_input;
mod cluster;
mod failures;
mod forms;
mod plain;
mod sessions;
mod unread;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use counter_core::counter::{Key, KeyRef, Update};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, ClusterId, NodeName};
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};
use counter_core::unread::Modifications;
use counter_core::vector::Bounds;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::*;
use crate::lock::lock;
use crate::overview::ClusterOverview;
use crate::own_writes::OwnWrites;
use crate::pages::NodePages;
use crate::router::{Detailed, Failure, Reading, Write};
use crate::unread::{Standing, Subscribed};

/// 2030-10-10T12:11:42Z
const NOW: Hlc = Hlc(1_917_864_702_000 << 16);
const CLUSTER: ClusterId = ClusterId(7);
const ACTOR: ActorId = ActorId { origin: 1, incarnation: 1 };
const LIMITS: RequestLimits = RequestLimits { body_bytes: 1 << 20, in_flight: 8 };

/// One replica that owns everything, and fails when it is told to.
#[derive(Debug)]
struct OneTable {
    table: Table,
    failure: Mutex<Option<Failure>>,
    siblings: AtomicU32,
    overview: Mutex<ClusterOverview>,
    /// How often a user's subscriptions have been counted.
    counted: AtomicU32,
}

impl OneTable {
    fn detailed(&self, reading: Reading) -> Detailed {
        let siblings = self.siblings.load(Ordering::Relaxed);
        let bounds = (siblings == 0).then(|| Bounds::exactly(reading.tally));
        Detailed { reading, staleness_ms: u64::from(siblings) * 40, replicas: siblings + 1, bounds, unique: None }
    }

    fn apply(&self, writes: &OwnWrites, key: &Key, write: Write) -> Result<Reading, Failure> {
        self.sees(writes, key)?;
        let applied = self.table.apply(key, Update::from(write.action), write.token.as_ref(), NOW)?;
        if let Some(mark) = self.table.mark(key, applied.actor, Update::from(write.action)) {
            writes.add(key, mark);
        }
        Ok(Reading { replayed: applied.replayed, ..applied.reading.into() })
    }

    fn sees(&self, writes: &OwnWrites, key: &Key) -> Result<(), Failure> {
        let seen = self.table.has_seen(key, &writes.of(key).unwrap_or_default());
        seen.then_some(()).ok_or_else(|| Failure::Behind { reason: "behind".to_owned(), retry_after_s: 1 })
    }

    fn fails(&self) -> Result<(), Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

impl Backend for Arc<OneTable> {
    async fn update_after(&self, writes: &OwnWrites, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        let write = write.into();
        self.fails()?;
        self.apply(writes, &key, write)
    }

    async fn read_after(&self, writes: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        self.fails()?;
        self.sees(writes, &key)?;
        Ok(self.table.read(&key).into())
    }

    async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        updates.into_iter().map(|(key, write)| self.apply(writes, &key, write)).collect()
    }

    async fn read_many_after(&self, writes: &OwnWrites, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        futures::future::join_all(keys.into_iter().map(|key| self.read_after(writes, key))).await
    }

    async fn read_detailed_after(&self, writes: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        Ok(self.detailed(self.read_after(writes, key).await?))
    }

    async fn bounds(&self, _: Key, _: u32) -> Option<Bounds> {
        None
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        self.fails()?;
        let tally = Slot::all().map(|slot| self.table.slot(slot).tally()).sum();
        Ok(self.detailed(counter_core::vector::Reading { tally, updated_at: Some(NOW), exists: true, viewers: 0 }.into()))
    }

    async fn top(&self, _: &crate::top::Asked) -> Result<(crate::top::Busiest, std::time::Duration), Failure> {
        Ok(Default::default())
    }

    fn pages(&self, limit: usize) -> Vec<Key> {
        let keys = Slot::all().flat_map(|slot| self.table.slot(slot).keys().map(KeyRef::to_key).collect::<Vec<_>>());
        keys.take(limit).collect()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(CLUSTER)
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        Arc::new(lock(&self.overview).clone())
    }
}

impl Keeper for OneTable {
    fn modifications(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Modifications>, Failure>> {
        Box::pin(async { self.fails().map(|()| self.table.modifications(keys))?.await })
    }

    fn all_modifications(&self, key: Key) -> BoxFuture<'_, Result<Modifications, Failure>> {
        Box::pin(async { self.fails().map(|()| self.table.all_modifications(key))?.await })
    }

    fn subscriptions_at(&self, node: NodeName, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        self.table.subscriptions_at(node, user)
    }

    fn subscriptions(&self, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        Box::pin(async { self.fails().map(|()| self.table.subscriptions(user))?.await })
    }

    fn standing(&self, subscription: Key) -> BoxFuture<'_, Result<Standing, Failure>> {
        Box::pin(async { self.fails().map(|()| self.table.standing(subscription))?.await })
    }

    fn active(&self, user: Key) -> BoxFuture<'_, Result<usize, Failure>> {
        self.counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { self.fails().map(|()| self.table.active(user))?.await })
    }
}

fn parts(backend: Arc<OneTable>, tokens: Option<ApiTokens>, limits: RequestLimits, metrics: Arc<HttpMetrics>) -> Parts {
    let admission = crate::live::AdmissionLimits { open: 8, per_address: None, per_second: 1_000 };
    let (heartbeat, lease) = (std::time::Duration::from_secs(20), std::time::Duration::from_secs(5));
    Parts {
        tokens: tokens.map(Arc::new),
        cors: Cors::new(vec!["https://site.example".to_owned()]),
        limits,
        metrics,
        live: Live::alone(crate::live::LiveConfig { heartbeat, lease, admission, unread_max: 8 }),
        stopping: CancellationToken::new(),
        echo: false,
        keeper: backend,
    }
}

struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

struct Client {
    backend: Arc<OneTable>,
    api: Api<Arc<OneTable>>,
    metrics: Arc<HttpMetrics>,
    peer: Peer,
}

impl Client {
    fn new() -> Self {
        Self::with(None, LIMITS, 10_000)
    }

    fn with(tokens: Option<ApiTokens>, limits: RequestLimits, counters: u64) -> Self {
        let table = Table::new(7, TableLimits { counters, memory_bytes: u64::MAX, tokens: 4, token_window_ms: 600_000 });
        table.set_writer(Slot::all(), Some(ACTOR));
        let overview = ClusterOverview { node: "local".into(), layout: None, nodes: Vec::new() };
        let backend = Arc::new(OneTable {
            table,
            failure: Mutex::new(None),
            siblings: AtomicU32::new(0),
            overview: Mutex::new(overview),
            counted: AtomicU32::new(0),
        });
        let metrics = super::metrics();
        let api = Api::new(Arc::clone(&backend), parts(backend.clone(), tokens, limits, Arc::clone(&metrics)));
        Self { backend, api, metrics, peer: Peer::new(([127, 0, 0, 1], 50_000).into()) }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (mut head, body) = request.into_parts();
        let (head, body) = self.api.handle(&self.peer, &mut head, body).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Request::get(path).header("accept", accept).body(Full::default()).unwrap()).await
    }

    async fn put(&self, path: &str) -> Answer {
        self.send(Request::put(path).body(Full::default()).unwrap()).await
    }

    async fn put_json(&self, path: &str, body: impl ToString) -> Answer {
        self.with_json(Method::PUT, path, body).await
    }

    async fn with_json(&self, method: Method, path: &str, body: impl ToString) -> Answer {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        self.send(request.body(Full::from(body.to_string())).unwrap()).await
    }

    /// The request is a problem of this status that names this field, and no counter has changed.
    fn refused(&self, answer: &Answer, status: u16, field: Option<&str>) {
        let problem = answer.json();
        assert_eq!(answer.status, status, "{problem}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["status"], json!(status));
        assert_eq!(problem.get("field").and_then(Value::as_str), field, "{problem}");
        let explained = problem["type"].as_str().unwrap();
        assert!(explained.starts_with("/problems/"), "{problem}");
        assert_eq!(self.backend.table.counters(), 0, "a refused request made a counter");
    }
}

#[test]
fn the_future_of_a_request_is_small() {
    fn bytes<S: Service<Request<Incoming>>>(_: impl FnOnce(Api<Arc<NodePages>>, Peer) -> S) -> usize {
        size_of::<S::Future>()
    }
    // It is moved into its connection as it is made. What only few requests need is boxed.
    let bytes = bytes(Api::into_service);
    assert!(bytes <= 1_600, "{bytes} bytes");
}

#[tokio::test]
async fn a_page_is_counted_up_down_and_reset() {
    let client = Client::new();
    assert_eq!(client.get("/front-page/counter").await.text(), r#"{"count":0,"updated_at":null}"#);
    assert_eq!(client.put("/front-page/counter").await.text(), r#"{"count":1,"updated_at":"2030-10-10T12:11:42Z"}"#);
    for (body, count) in [
        (json!({"action": "increment", "by": 10}), 11),
        (json!({"action": "decrement", "by": 4}), 7),
        (json!({"action": "decrement"}), 6),
        (json!({"by": 2}), 8),
        (json!({}), 9),
        (json!({"action": "decrement", "by": 20}), -11),
    ] {
        let answer = client.put_json("/front-page/counter", &body).await;
        assert_eq!((answer.status, answer.json()["count"].clone()), (200, json!(count)), "{body}");
    }
    let reset = client.send(Request::delete("/front-page/counter").body(Full::default()).unwrap()).await;
    assert_eq!(reset.json()["count"], 0);
    assert_eq!(client.get("/front-page/counter").await.json()["count"], 0);
}

#[tokio::test]
async fn pages_are_told_apart_by_their_decoded_names() {
    let client = Client::new();
    client.put("/blog%2Fpost-1/counter").await;
    client.put("/blog%2fpost%2D1/counter").await;
    client.put("/%F0%9F%A6%80/counter").await;
    client.put("/counter/counter").await;
    assert_eq!(client.get("/blog%2Fpost-1/counter").await.json()["count"], 2);
    assert_eq!(client.get("/counters?page=blog/post-1&page=%F0%9F%A6%80").await.json()["results"][1]["count"], 1);
    assert_eq!(client.get("/counter/counter").await.json()["count"], 1);
    assert_eq!(client.get("/counter").await.json()["count"], 4);
}

#[tokio::test]
async fn many_counters_are_updated_and_read_at_once() {
    let client = Client::new();
    let updates = json!({"updates": [
        {"page": "a", "action": "increment", "by": 7},
        {"page": "b/c", "action": "decrement"},
        {"page": "a"},
    ]});
    let answer = client.with_json(Method::POST, "/counters", &updates).await;
    let at = "2030-10-10T12:11:42Z";
    let expected = json!({"results": [
        {"page": "a", "status": 200, "count": 7, "updated_at": at},
        {"page": "b/c", "status": 200, "count": -1, "updated_at": at},
        {"page": "a", "status": 200, "count": 8, "updated_at": at},
    ]});
    assert_eq!((answer.status, answer.json()), (200, expected));
    let read = client.get("/counters?page=a&page=none&page=b%2Fc").await.json();
    let expected = json!({"results": [
        {"page": "a", "status": 200, "count": 8, "updated_at": at},
        {"page": "none", "status": 200, "count": 0, "updated_at": null},
        {"page": "b/c", "status": 200, "count": -1, "updated_at": at},
    ]});
    assert_eq!(read, expected);
}

#[tokio::test]
async fn one_of_many_that_fails_stands_for_itself() {
    let client = Client::with(None, LIMITS, 1);
    let updates = json!({"updates": [{"page": "a", "by": i64::MAX}, {"page": "a"}, {"page": "b"}]});
    let answer = client.with_json(Method::POST, "/counters", &updates).await;
    let results = &answer.json()["results"];
    assert_eq!((answer.status, &results[0]["count"]), (200, &json!(i64::MAX)));
    assert_eq!((&results[1]["status"], &results[1]["problem"]["type"]), (&json!(422), &json!("/problems/range")));
    assert_eq!((&results[2]["status"], &results[2]["problem"]["type"]), (&json!(429), &json!("/problems/too-many-counters")));
    assert_eq!(results[2].get("count"), None);
}

#[tokio::test]
async fn a_thousand_counters_at_once_are_the_most() {
    let client = Client::new();
    let updates = |count: usize| json!({"updates": (0..count).map(|page| json!({"page": page.to_string()})).collect::<Vec<_>>()});
    let query = |count: usize| format!("/counters?{}", (0..count).map(|page| format!("page={page}&")).collect::<String>());
    client.refused(&client.with_json(Method::POST, "/counters", updates(1_001)).await, 400, Some("updates"));
    client.refused(&client.get(&query(1_001)).await, 400, Some("page"));
    let answer = client.with_json(Method::POST, "/counters", updates(1_000)).await;
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 1_000);
    assert_eq!(client.get(&query(1_000)).await.json()["results"][999]["count"], 1);
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_class() {
    let client = Client::new();
    client.get("/a/counter").await;
    client.put("/a/counter").await;
    client.get("/nowhere").await;
    client.send(Request::patch("/a/counter").body(Full::default()).unwrap()).await;
    let text = crate::telemetry::Metrics::new(vec![Box::new(client.metrics)]).encode().unwrap();
    for line in [
        r#"counter_http_requests_total{route="counter",method="GET",status="2xx"} 1"#,
        r#"counter_http_requests_total{route="counter",method="PUT",status="2xx"} 1"#,
        r#"counter_http_requests_total{route="none",method="GET",status="4xx"} 1"#,
        r#"counter_http_requests_total{route="counter",method="other",status="4xx"} 1"#,
        "counter_http_requests_in_flight 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
