//! The Redis protocol: counters as Redis clients know them, in RESP2 and RESP3.
//!
//! A connection's way: [`codec`] finds the requests that have come whole, [`commands`] knows what each of them asks,
//! [`batch`] has them applied together with one commit, and all replies leave in one write. `docs/redis.md` says what is
//! supported, and how it differs from Redis.

mod away;
mod batch;
mod cluster;
mod codec;
mod commands;
mod connection;
mod glob;
mod inline;
mod number;
#[cfg(test)]
mod oracle;
mod reply;
mod session;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::args::Redirect;
use crate::http::auth::ApiTokens;
use crate::pages::NodePages;
use crate::router::Router;
use crate::server::{self, Port, Stop};
use crate::storage::Fsync;
use crate::telemetry::{Kind, PortMetrics, Sample, Source};
use session::Session;

/// What the port needs of the node.
#[derive(Clone)]
pub struct Parts {
    pub router: Arc<Router>,
    pub pages: Arc<NodePages>,
    /// The public API's tokens; none: everyone may do everything.
    pub tokens: Option<Arc<ApiTokens>>,
    pub redirect: Redirect,
    /// Whether FLUSHALL and FLUSHDB are served.
    pub flush: bool,
    /// Where the port listens.
    pub address: SocketAddr,
    pub connections_max: usize,
    pub memory_bytes_max: u64,
    /// None: counters are kept in memory only.
    pub durability: Option<Fsync>,
    pub port_metrics: Arc<PortMetrics>,
    pub metrics: Arc<RespMetrics>,
}

/// What all connections share.
struct Resp {
    router: Arc<Router>,
    pages: Arc<NodePages>,
    tokens: Option<Arc<ApiTokens>>,
    redirect: Redirect,
    flush: bool,
    address: SocketAddr,
    connections_max: usize,
    memory_bytes_max: u64,
    durability: Option<Fsync>,
    port_metrics: Arc<PortMetrics>,
    metrics: Arc<RespMetrics>,
    clients: AtomicU64,
    since: Instant,
}

/// Requests, each of its arguments; and what is wrong with what follows them, if anything is.
pub type Requests = (Vec<Vec<Vec<u8>>>, Option<String>);

/// The requests in a stream that comes in pieces of so many bytes, read as a connection reads them.
#[must_use]
pub fn read_requests(stream: &[u8], piece: usize) -> Requests {
    let (mut parser, mut buffer, mut requests) = (codec::Parser::default(), Vec::new(), Vec::new());
    for bytes in stream.chunks(piece.max(1)) {
        buffer.extend_from_slice(bytes);
        let parsed = parser.parse(&mut buffer, &codec::CAPS, usize::MAX);
        let whole = parser.len();
        let of = |index| parser.request(index).iter().map(|arg| buffer[arg.clone()].to_vec()).collect();
        requests.extend((0..whole).map(of));
        if let Err(error) = parsed {
            return (requests, Some(error.to_string()));
        }
        let done = parser.forget(whole);
        buffer.drain(..done);
    }
    (requests, None)
}

/// Speaks the Redis protocol on a port until `stop`.
pub async fn serve(parts: Parts, port: Port, stop: Stop) -> server::Ended {
    let resp = Arc::new(Resp::new(parts));
    let too_many = "-ERR max number of clients reached\r\n".to_owned();
    server::accept_all(port, stop, too_many, move |accepted| connection::run(resp.clone(), accepted)).await
}

impl Resp {
    fn new(parts: Parts) -> Self {
        Self {
            router: parts.router,
            pages: parts.pages,
            tokens: parts.tokens,
            redirect: parts.redirect,
            flush: parts.flush,
            address: parts.address,
            connections_max: parts.connections_max,
            memory_bytes_max: parts.memory_bytes_max,
            durability: parts.durability,
            port_metrics: parts.port_metrics,
            metrics: parts.metrics,
            clients: AtomicU64::new(0),
            since: Instant::now(),
        }
    }

    fn next_client(&self) -> u64 {
        self.clients.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether the client may do more than authenticate. A token that is taken back counts no more.
    fn is_authenticated(&self, session: &Session) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        session.password.as_ref().is_some_and(|password| tokens.accepts(password))
    }
}

/// What one connection has done and not added to the metrics.
#[derive(Debug, Default)]
struct Figures {
    requests: u64,
    errors: u64,
}

/// What the port counts.
#[derive(Debug, Default)]
pub struct RespMetrics {
    requests: AtomicU64,
    errors: AtomicU64,
    batches: AtomicU64,
}

impl RespMetrics {
    fn add(&self, figures: &mut Figures) {
        let Figures { requests, errors } = std::mem::take(figures);
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        if errors > 0 {
            self.errors.fetch_add(errors, Ordering::Relaxed);
        }
    }
}

impl Source for RespMetrics {
    fn samples(&self) -> Vec<Sample> {
        let one = |name, help, figure: &AtomicU64| Sample::one(name, help, Kind::Counter, figure.load(Ordering::Relaxed));
        vec![
            one("resp_requests", "Requests of Redis clients", &self.requests),
            one("resp_errors", "Requests of Redis clients that were refused", &self.errors),
            one("resp_batches", "Reads from Redis clients whose requests were executed together", &self.batches),
        ]
    }
}
