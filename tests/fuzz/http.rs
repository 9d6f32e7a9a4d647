//! Whatever clients write on a connection to the public port, through hyper and the API.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, ClusterId};
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::vector::Bounds;
use counter_node::http::cors::Cors;
use counter_node::http::{Api, Backend, Parts, RequestLimits, metrics};
use counter_node::live::{AdmissionLimits, Live, LiveConfig};
use counter_node::overview::ClusterOverview;
use counter_node::own_writes::OwnWrites;
use counter_node::router::{Detailed, Failure, Reading, Write};
use counter_node::server::{Peer, Plain as _};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::records::{is_cleared, limits};

const LIMITS: RequestLimits = RequestLimits { body_bytes: 4 << 10, in_flight: 8 };

/// Near the time in the idempotency keys of the requests that the search begins with.
const NOW: Hlc = Hlc(1_757_000_000_000 << 16);

/// One replica that owns everything.
struct OneTable {
    table: Arc<Table>,
    updated: Mutex<HashSet<Slot>>,
}

thread_local! {
    /// Tables in which nothing is, from one input to the next: making them takes many times what an input does.
    static EMPTY: RefCell<Vec<Arc<Table>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for OneTable {
    fn drop(&mut self) {
        let updated = std::mem::take(self.updated.get_mut().unwrap());
        if updated.into_iter().all(|slot| is_cleared(&self.table, slot)) {
            EMPTY.with_borrow_mut(|empty| empty.push(self.table.clone()));
        }
    }
}

impl OneTable {
    fn apply(&self, writes: &OwnWrites, key: &Key, write: Write) -> Result<Reading, Failure> {
        let Write { action, token } = write;
        self.updated.lock().unwrap().insert(key.slot());
        let applied = self.table.apply(key, Update::from(action), token.as_ref(), NOW)?;
        if let Some(mark) = self.table.mark(key, applied.actor, Update::from(action)) {
            writes.add(key, mark);
        }
        Ok(Reading { replayed: applied.replayed, ..applied.reading.into() })
    }
}

impl Backend for OneTable {
    async fn update_after(&self, writes: &OwnWrites, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        self.apply(writes, &key, write.into())
    }

    async fn read_after(&self, _: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        Ok(self.table.read(&key).into())
    }

    async fn read_detailed_after(&self, _: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        let reading = self.table.read(&key);
        let bounds = Some(Bounds::exactly(reading.tally));
        Ok(Detailed { reading: reading.into(), staleness_ms: 0, replicas: 1, bounds, unique: None })
    }

    async fn bounds(&self, _: Key, _: u32) -> Option<Bounds> {
        None
    }

    async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        updates.into_iter().map(|(key, write)| self.apply(writes, &key, write)).collect()
    }

    async fn read_many_after(&self, _: &OwnWrites, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        keys.iter().map(|key| Ok(self.table.read(key).into())).collect()
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        self.read_detailed(Key::new(b"site").unwrap()).await
    }

    async fn top(&self, _: &counter_node::top::Asked) -> Result<(counter_node::top::Busiest, std::time::Duration), Failure> {
        Ok(Default::default())
    }

    fn pages(&self, _: usize) -> Vec<Key> {
        Vec::new()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(ClusterId(7))
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        Arc::new(ClusterOverview { node: "fuzzed".into(), layout: None, nodes: Vec::new() })
    }
}

fn parts(keeper: Arc<Table>) -> Parts {
    let admission = AdmissionLimits { open: 8, per_address: None, per_second: 1_000 };
    let live = LiveConfig { heartbeat: Duration::from_secs(20), lease: Duration::from_secs(5), admission, unread_max: 8 };
    let stopping = CancellationToken::new();
    // A stream has no end but this.
    stopping.cancel();
    let (tokens, cors) = (None, Cors::new(vec!["*".to_owned()]));
    Parts { tokens, cors, limits: LIMITS, metrics: metrics(), live: Live::alone(live), stopping, echo: true, keeper }
}

/// Every byte gets an answer or the end of the connection; none is answered with a fault of ours. What is answered without hyper
/// is answered as by hyper.
pub(crate) fn requests(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (api, other) = (api(), api());
        let mut rest = bytes;
        while let Some((request, length)) = api.read(rest) {
            let mut answer = Vec::new();
            api.write(api.answer(request).await, false, &mut answer);
            let expected = through_hyper(&other, &rest[..length]).await;
            assert_eq!(parts_of(&answer), parts_of(&expected), "{}", String::from_utf8_lossy(&rest[..length]));
            rest = &rest[length..];
        }
        let answers = through_hyper(&api, rest).await;
        let text = String::from_utf8_lossy(&answers);
        assert!(answers.is_empty() || text.starts_with("HTTP/1."), "{text}");
        assert!(!text.contains("HTTP/1.1 500"), "{text}");
    });
}

fn api() -> Api<OneTable> {
    let table = EMPTY.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
        let table = Table::new(7, limits());
        table.set_writer(Slot::all(), Some(ActorId { origin: 1, incarnation: 1 }));
        Arc::new(table)
    });
    Api::new(OneTable { table: table.clone(), updated: Mutex::default() }, parts(table))
}

async fn through_hyper(api: &Api<OneTable>, bytes: &[u8]) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let service = api.clone().into_service(Peer::new(([127, 0, 0, 1], 50_000).into()));
    let connection = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let served = tokio::spawn(async move { drop(connection.await) });
    // Whoever is refused early may not be read from to the end.
    drop(client.write_all(bytes).await);
    drop(client.shutdown().await);
    let mut answers = Vec::new();
    drop(client.read_to_end(&mut answers).await);
    served.await.unwrap();
    answers
}

/// An answer's lines but for its moment, in order, and its content.
fn parts_of(answer: &[u8]) -> (Vec<String>, String) {
    let answer = String::from_utf8_lossy(answer);
    let (head, content) = answer.split_once("\r\n\r\n").expect("an answer has an end of its head");
    let mut lines: Vec<String> = head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect();
    lines.sort();
    (lines, content.to_owned())
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let with_body = |line: &str, body: &str| {
        format!("{line} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let plain = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let requests = [
        plain("GET /front-page/counter", ""),
        plain("GET /blog%2Fpost-1/counter?detail=true", "accept: text/html;q=0.9, application/json\r\n"),
        plain("GET /counter", "if-none-match: \"a\", W/\"b\"\r\n"),
        plain("GET /counters?page=a&page=b", ""),
        plain("DELETE /front-page/counter", ""),
        plain("HEAD /openapi.json", ""),
        plain("PUT /front-page/counter", "idempotency-key: 0198c5a0-0000-7000-8000-000000000000\r\n"),
        with_body("PUT /front-page/counter", r#"{"action":"decrement","by":3}"#),
        format!(
            "{}{}",
            with_body("PUT /front-page/counter", r#"{"action":"increment"}"#),
            plain("GET /front-page/counter", "accept: */*\r\nconnection: keep-alive\r\norigin: https://a.example\r\n")
        ),
        with_body("POST /counters", r#"{"updates":[{"page":"a","action":"increment","by":2},{"page":"b"}]}"#),
        format!("{}{}", plain("GET /a/counter", ""), plain("GET /b/counter", "connection: close\r\n")),
        "PUT /a/counter HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n".to_owned(),
    ];
    requests.into_iter().map(String::into_bytes).collect()
}
