//! The accept loop on real sockets.

mod plain;
mod watched;

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;

/// A port whose service answers `/slow` when it is told to, and everything else with the method's name at once.
struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    metrics: Arc<PortMetrics>,
    begun: Arc<Notify>,
    go: Arc<Notify>,
    ended: JoinHandle<Ended>,
}

const LIMITS: Limits = Limits { connections: 4, head_time: Duration::from_secs(5), head_bytes: 8192, streams: 4 };

async fn served(limits: Limits, grace: Duration) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, stop) = (PortMetrics::new("http"), CancellationToken::new());
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (Arc::clone(&begun), Arc::clone(&go));
    let service = service_fn(move |request: Request<Incoming>| {
        let (begins, waits) = (Arc::clone(&begins), Arc::clone(&waits));
        async move {
            if request.uri().path() == "/slow" {
                begins.notify_one();
                waits.notified().await;
            }
            let answer = Response::new(Full::new(Bytes::from(request.method().to_string())));
            Ok::<_, Infallible>(answer)
        }
    });
    let port = Port { listener, limits, metrics: Arc::clone(&metrics) };
    let ended = tokio::spawn(serve(port, (), move |_| service.clone(), Stop { begin: stop.clone(), grace }));
    Served { address, stop, metrics, begun, go, ended }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn until_open(&self, connections: u64) {
        while self.metrics.open.load(Ordering::Relaxed) != connections {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn ended(self) -> Ended {
        self.stop.cancel();
        self.ended.await.unwrap()
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// What comes until `end` is at the end of it, or the connection is closed.
async fn receive(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) || end.is_empty() {
        match stream.read(&mut byte).await {
            Ok(1) => text.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_kept_connection_serves_request_after_request_also_pipelined() {
    let served = served(LIMITS, Duration::ZERO).await;
    let mut stream = served.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\nPUT / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(receive(&mut stream, "\r\n\r\nGET").await.starts_with("HTTP/1.1 200 OK"));
    assert!(receive(&mut stream, "\r\n\r\nPUT").await.starts_with("HTTP/1.1 200 OK"));
    send(&mut stream, "HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let head = receive(&mut stream, "").await;
    assert!(head.contains("content-length: 4\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(served.metrics.accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_served_on_the_same_port() {
    let served = served(LIMITS, Duration::ZERO).await;
    let io = TokioIo::new(served.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::put(format!("http://{}/", served.address)).body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "PUT");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    let served = served(Limits { connections: 1, ..LIMITS }, Duration::ZERO).await;
    let mut first = served.connect().await;
    served.until_open(1).await;
    let mut second = served.connect().await;
    let refusal = receive(&mut second, "").await;
    let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{refusal}");
    assert!(body.contains("\"type\":\"/problems/overloaded\""), "{body}");
    assert_eq!(served.metrics.refused.load(Ordering::Relaxed), 1);
    send(&mut first, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(receive(&mut first, "").await.starts_with("HTTP/1.1 200"));
    served.until_open(0).await;
    let mut third = served.connect().await;
    send(&mut third, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(receive(&mut third, "").await.starts_with("HTTP/1.1 200"), "the place was not given back");
}

#[tokio::test]
async fn a_request_head_that_does_not_come_in_time_ends_the_connection() {
    let limits = Limits { head_time: Duration::from_millis(100), ..LIMITS };
    let served = served(limits, Duration::ZERO).await;
    // Nothing at all, what may become HTTP/2, half a head, and a second half of nothing after a whole request.
    for sent in ["", "PRI", "PRI * HTTP/2.0\r\n", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut stream = served.connect().await;
        let started = Instant::now();
        send(&mut stream, sent).await;
        let answer = receive(&mut stream, "").await;
        assert!(started.elapsed() >= limits.head_time, "{sent:?} was cut at once");
        assert_eq!(answer.contains("200 OK"), sent.ends_with("\r\n\r\n"), "{sent:?}: {answer}");
    }
}

#[tokio::test]
async fn a_connection_that_was_used_for_longer_than_a_head_may_take_ends_when_it_is_idle() {
    let limits = Limits { head_time: Duration::from_millis(300), ..LIMITS };
    let served = served(limits, Duration::ZERO).await;
    let mut stream = served.connect().await;
    let started = Instant::now();
    // The deadline is looked at more than once, and each time another head is awaited; if this machine is that slow, the last one.
    while started.elapsed() < limits.head_time * 3 {
        send(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        if !receive(&mut stream, "GET").await.ends_with("GET") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let idle = tokio::time::timeout(Duration::from_secs(60), receive(&mut stream, "")).await;
    assert_eq!(idle.as_deref(), Ok(""), "it stays open");
}

#[tokio::test]
async fn a_request_head_that_is_too_long_or_no_http_is_refused() {
    let served = served(LIMITS, Duration::ZERO).await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "a".repeat(100_000));
    for (sent, status) in [(long.as_str(), 431), ("GET / HTTP/1.1\r\nhost: x\r\n: bad\r\n\r\n", 400), ("nonsense\r\n\r\n", 400)] {
        let mut stream = served.connect().await;
        send(&mut stream, sent).await;
        stream.shutdown().await.unwrap();
        let answer = receive(&mut stream, "").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

#[tokio::test]
async fn a_stopping_port_lets_requests_end_and_takes_no_more() {
    let served = served(LIMITS, Duration::from_secs(10)).await;
    let (mut idle, mut busy) = (served.connect().await, served.connect().await);
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    send(&mut idle, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    receive(&mut idle, "GET").await;
    served.begun.notified().await;
    served.stop.cancel();
    assert_eq!(receive(&mut idle, "").await, "", "an idle connection is closed at once");
    while TcpStream::connect(served.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!served.ended.is_finished());
    served.go.notify_one();
    assert!(receive(&mut busy, "").await.starts_with("HTTP/1.1 200"));
    assert_eq!(served.ended().await, Ended { cut: 0 });
}

#[tokio::test]
async fn at_the_deadline_what_is_open_is_cut() {
    let served = served(LIMITS, Duration::from_millis(50)).await;
    let mut busy = served.connect().await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    served.begun.notified().await;
    assert_eq!(served.ended().await, Ended { cut: 1 });
    assert_eq!(receive(&mut busy, "").await, "");
}
