//! The accept loop that all three ports share: TCP_NODELAY, a connection limit, a time-out for request heads, HTTP/1
//! and HTTP/2 (prior knowledge) on one port, and a stop that lets requests end, up to a deadline.
//!
//! `axum::serve` has none of these, and leaves Nagle's algorithm on, which costs tens of milliseconds to pipelined clients.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::PortMetrics;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Bounds on what clients can make a port hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; one more is answered 503 and closed.
    pub connections: usize,
    /// How long a client may take to send a request's head, and how long a kept connection may stay idle.
    pub head_time: Duration,
    /// The longest request head; a longer one is answered 431.
    pub head_bytes: u32,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
}

impl Limits {
    /// The limits of a port with this many connections.
    ///
    /// 60 s of idleness outlast the pools of common clients and proxies less often than they hold a dead peer's place.
    /// 64 KiB of head let a batch read name a thousand pages of ordinary length.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self { connections, head_time: Duration::from_secs(60), head_bytes: 64 * 1024, streams: 256 }
    }
}

/// One port: where it listens, and within which bounds.
#[derive(Debug)]
pub struct Port {
    pub listener: TcpListener,
    pub limits: Limits,
    pub metrics: Arc<PortMetrics>,
}

/// How a stopping port ends.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Cancelled: accept no more, end each connection after the requests that it has begun.
    pub begin: CancellationToken,
    /// How long these requests may take; what is open then is cut.
    pub grace: Duration,
}

/// How a port ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut at the deadline.
    pub cut: usize,
}

/// Serves until `stop`, then until the last connection has ended or the grace is over.
pub async fn serve<S, B>(port: Port, service: S, stop: Stop) -> Ended
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let Port { listener, limits, metrics } = port;
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let builder = Arc::new(builder(&limits));
    while let Some(stream) = accept(&listener, &stop.begin).await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics.refused.fetch_add(1, Ordering::Relaxed);
            refuse(stream, &refusals);
            continue;
        };
        metrics.accepted.fetch_add(1, Ordering::Relaxed);
        let open = metrics.open();
        let connection = Connection { stream, builder: Arc::clone(&builder), head_time: limits.head_time };
        let (service, begin, cut) = (service.clone(), stop.begin.clone(), cut.clone());
        connections.spawn(async move {
            connection.run(service, begin, cut).await;
            drop((place, open));
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(stop.grace, connections.wait()).await.is_ok() {
        return Ended { cut: 0 };
    }
    let left = connections.len();
    cut.cancel();
    connections.wait().await;
    Ended { cut: left }
}

/// The next connection; none once the port stops.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection ended before it was served");
                    continue;
                }
                return Some(stream);
            }
            Err(error) if is_of_the_connection(&error) => tracing::debug!(%error, "a connection ended before it was accepted"),
            Err(error) => {
                // Out of file descriptors or memory: the kernel goes on queueing, and trying again at once would spin.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(usize::try_from(limits.head_bytes).unwrap_or(usize::MAX))
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.head_bytes)
        .keep_alive_interval(limits.head_time)
        .keep_alive_timeout(Duration::from_secs(10));
    builder
}

struct Connection {
    stream: TcpStream,
    builder: Arc<auto::Builder<TokioExecutor>>,
    head_time: Duration,
}

impl Connection {
    async fn run<S, B>(self, service: S, begin: CancellationToken, cut: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let heard = Arc::new(AtomicBool::new(false));
        let service = Heard { inner: service, heard: Arc::clone(&heard) };
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(self.stream), service));
        // hyper's own time-out starts when it knows the protocol: a client that sends nothing at all never gets there.
        let mut silence = pin!(tokio::time::sleep(self.head_time));
        let mut ending = false;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = begin.cancelled(), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = cut.cancelled(), if ending => return,
                () = silence.as_mut(), if !heard.load(Ordering::Relaxed) => {
                    tracing::debug!("a connection sent no request in time");
                    return;
                }
            }
        }
    }
}

/// Notes that a request has come.
struct Heard<S> {
    inner: S,
    heard: Arc<AtomicBool>,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Heard<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
        self.inner.call(request)
    }
}

/// How many clients are told at once that they are too many; more are closed without a word.
const REFUSALS: usize = 64;
/// How long a refused client may go on sending before it is closed on.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 152\r\n\r\n\
    {\"type\":\"/problems/overloaded\",\"title\":\"The node has too much to do\",\"status\":503,\
    \"detail\":\"The port has as many connections open as it may. Try again.\"}";

fn refuse(mut stream: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else { return };
    let say = async move {
        stream.write_all(REFUSAL.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes resets the connection, and the client might never see the answer.
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    tokio::spawn(in_time(say, place));
}

async fn in_time<T, P: Send>(work: impl Future<Output = T> + Send, place: P) {
    let _ = tokio::time::timeout(REFUSAL_TIME, work).await;
    drop(place);
}

#[cfg(test)]
mod tests;
