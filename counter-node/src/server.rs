//! The accept loop that all ports share: TCP_NODELAY, a connection limit, and a stop that lets requests end, up to a
//! deadline. For the ports that speak HTTP a time-out for request heads, HTTP/1 and HTTP/2 (prior knowledge) on one port, and
//! a way past hyper for the plainest requests.
//!
//! `axum::serve` has none of these, and leaves Nagle's algorithm on, which costs tens of milliseconds to pipelined clients.

mod head_time;
mod peer;
mod plain;
mod refusal;
mod seldom;
mod watched;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::head_time::HeadTimer;
use self::seldom::Seldom;
use self::watched::Watched;
use crate::telemetry::PortMetrics;
pub use peer::{Peer, TakenOver, Watch};
pub use plain::Plain;

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

/// A connection that was accepted, and how it learns of the port's end.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    /// The other end.
    pub from: SocketAddr,
    /// Cancelled: begin nothing more.
    pub begin: CancellationToken,
    /// Cancelled: end at once.
    pub cut: CancellationToken,
}

/// Serves HTTP until `stop`, then until the last connection has ended or the grace is over. Each connection has a service of
/// its own, which `service` makes; what `plain` can answer does not get there.
pub async fn serve<P, S, B>(port: Port, plain: P, service: impl Fn(Peer) -> S, stop: Stop) -> Ended
where
    P: Plain,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let speaking = Arc::new(Speaking { plain, builders: Builders::new(&port.limits) });
    accept_all(port, stop, refusal::TOO_MANY.text(), move |Accepted { stream, from, begin, cut }| {
        let peer = Peer::new(from);
        let service = service(peer.clone());
        Connection { stream, peer, speaking: Arc::clone(&speaking), begin, cut }.run(service)
    })
    .await
}

/// Has every connection spoken to by `speak` until `stop`, then until the last one has ended or the grace is over. One
/// connection too many is told `too_many` and closed.
pub async fn accept_all<F>(port: Port, stop: Stop, too_many: String, speak: impl Fn(Accepted) -> F) -> Ended
where
    F: Future<Output = ()> + Send + 'static,
{
    let Port { listener, limits, metrics } = port;
    let too_many: Arc<str> = too_many.into();
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(refusal::AT_ONCE));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((stream, from)) = accept(&listener, &stop.begin).await {
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            metrics.refused.fetch_add(1, Ordering::Relaxed);
            refusal::too_many(stream, &refusals, too_many.clone());
            continue;
        };
        metrics.accepted.fetch_add(1, Ordering::Relaxed);
        let open = metrics.open();
        let connection = speak(Accepted { stream, from, begin: stop.begin.clone(), cut: cut.clone() });
        connections.spawn(async move {
            connection.await;
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
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection ended before it was served");
                    continue;
                }
                return Some((stream, from));
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

/// How to speak each version of HTTP.
struct Builders {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    head_time: Duration,
}

impl Builders {
    fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        // Without `half_close` hyper reads beside each request that is served, in case its client goes.
        http1
            .half_close(true)
            .header_read_timeout(limits.head_time)
            .max_buf_size(usize::try_from(limits.head_bytes).unwrap_or(usize::MAX))
            .pipeline_flush(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(limits.head_bytes)
            .keep_alive_interval(limits.head_time)
            .keep_alive_timeout(Duration::from_secs(10));
        Self { http1, http2, head_time: limits.head_time }
    }
}

/// How a port speaks.
struct Speaking<P> {
    plain: P,
    builders: Builders,
}

struct Connection<P> {
    stream: TcpStream,
    peer: Peer,
    speaking: Arc<Speaking<P>>,
    begin: CancellationToken,
    cut: CancellationToken,
}

impl<P: Plain> Connection<P> {
    /// Speaks HTTP, then whatever has taken the connection over. What is polled for as long as the connection lives is two pointers:
    /// HTTP's buffers and states are gone when it ends.
    fn run<S, B>(self, service: S) -> impl Future<Output = ()> + Send + 'static
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let http = Box::pin(self.http(service));
        async move {
            let taken_over = http.await;
            if let Some(taken_over) = taken_over {
                taken_over.await;
            }
        }
    }

    /// Speaks HTTP to the end. What is returned has taken the connection over.
    async fn http<S, B>(self, service: S) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>>
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Self { mut stream, peer, speaking, begin, cut } = self;
        let Speaking { plain, builders } = &*speaking;
        let begun = tokio::select! {
            () = begin.cancelled() => return None,
            begun = tokio::time::timeout(builders.head_time, first_bytes(&stream)) => begun,
        };
        let (ended, early) = match begun {
            Ok(Ok(Version::One)) => {
                let early = Box::pin(plain::answer(plain, &mut stream, builders.head_time, (&begin, &cut))).await;
                let Some(early) = early else {
                    let _ = stream.shutdown().await;
                    return None;
                };
                let timer = HeadTimer::new();
                let mut builder = builders.http1.clone();
                builder.timer(timer.clone());
                let mut connection = builder.serve_connection(Watched::new(&mut stream, early, &peer), service);
                let overdue = || timer.overdue(builders.head_time);
                let ended = drive(Pin::new(&mut connection), overdue, &begin, &cut, http1::Connection::graceful_shutdown).await;
                (ended, connection.into_parts().read_buf)
            }
            Ok(Ok(Version::Two)) => {
                let connection = pin!(builders.http2.serve_connection(TokioIo::new(stream), service));
                // HTTP/2 has timers of its own.
                let _ = drive(connection, std::future::pending, &begin, &cut, http2::Connection::graceful_shutdown).await;
                return None;
            }
            Ok(Err(_)) | Err(_) => return None,
        };
        match (ended, peer.successor()) {
            (Ok(()), Some(successor)) => return Some(successor(TakenOver { stream, early, begin, cut })),
            (Err(error), _) if error.is_parse() => {
                // hyper has an answer ready, but with `pipeline_flush` never sends it while unread bytes are there.
                let refusal = if error.is_parse_too_large() { refusal::HEAD_TOO_LONG } else { refusal::NO_HTTP };
                let _ = tokio::time::timeout(refusal::TIME, refusal::send(&mut stream, &refusal.text())).await;
            }
            _ => drop(stream.shutdown().await),
        }
        None
    }
}

/// The versions that a connection can speak; which, its client's first bytes say.
enum Version {
    One,
    Two,
}

/// HTTP/2 begins with a line that is no request of HTTP/1 (RFC 9113 §3.4). All of it is awaited here, where there is a
/// time-out.
async fn first_bytes(stream: &TcpStream) -> io::Result<Version> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut first).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[..length] != PREFACE[..length] {
            return Ok(Version::One);
        }
        if length == PREFACE.len() {
            return Ok(Version::Two);
        }
        // A part of it: the socket is readable already and would not tell when the rest comes.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What may come while a connection is driven.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    End,
    Again,
}

/// Drives a connection to its end: its own, the one that it is asked for, or being cut. It is polled again whenever `again`
/// is over.
async fn drive<C, F>(
    mut connection: Pin<&mut C>,
    again: impl Fn() -> F,
    begin: &CancellationToken,
    cut: &CancellationToken,
    end: fn(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
    F: Future<Output = ()>,
{
    loop {
        let signal = pin!(async {
            tokio::select! {
                biased;
                () = begin.cancelled() => Signal::End,
                () = again() => Signal::Again,
            }
        });
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            signal = Seldom::new(signal) => if signal == Signal::End { break },
        }
    }
    end(connection.as_mut());
    tokio::select! {
        ended = connection => ended,
        () = cut.cancelled() => Ok(()),
    }
}

#[cfg(test)]
mod tests;
