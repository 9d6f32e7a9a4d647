//! Answers that go on, and clients that go: how each ends, and whether anyone waits in vain or turns in circles.

use std::task::{Context, Poll};

use http_body_util::Either;
use hyper::body::Frame;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio_util::sync::{DropGuard, WaitForCancellationFutureOwned};

use super::*;

/// A port that answers `/events` with a stream, the first time, and everything else with the method's name once it is told to.
struct Streaming {
    address: SocketAddr,
    begun: Arc<Notify>,
    go: Arc<Notify>,
    events: mpsc::UnboundedSender<Bytes>,
    /// How often the stream was asked for more.
    asked: Arc<AtomicUsize>,
    /// How many events it has given.
    given: Arc<AtomicUsize>,
    /// Has the stream give its client up.
    give_up: CancellationToken,
    /// The stream is no more.
    ended: CancellationToken,
}

/// What is sent through `events`, until that is dropped.
struct Stream {
    events: mpsc::UnboundedReceiver<Bytes>,
    asked: Arc<AtomicUsize>,
    given: Arc<AtomicUsize>,
    give_up: Pin<Box<WaitForCancellationFutureOwned>>,
    watch: Option<Watch>,
    _ended: DropGuard,
}

impl Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.give_up.as_mut().poll(cx).is_ready() {
            self.watch.as_ref().unwrap().give_up();
            return Poll::Pending;
        }
        if self.watch.as_ref().is_some_and(|watch| watch.poll_taking(cx).is_pending()) {
            return Poll::Pending;
        }
        let event = self.events.poll_recv(cx);
        self.given.fetch_add(usize::from(matches!(event, Poll::Ready(Some(_)))), Ordering::SeqCst);
        event.map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

async fn streaming() -> Streaming {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, go, asked, ended) = <(Arc<Notify>, Arc<Notify>, Arc<AtomicUsize>, CancellationToken)>::default();
    let (given, give_up) = <(Arc<AtomicUsize>, CancellationToken)>::default();
    let (events, receiver) = mpsc::unbounded_channel();
    let stream = Stream {
        events: receiver,
        asked: Arc::clone(&asked),
        given: Arc::clone(&given),
        give_up: Box::pin(give_up.clone().cancelled_owned()),
        watch: None,
        _ended: ended.clone().drop_guard(),
    };
    let stream = Arc::new(std::sync::Mutex::new(Some(stream)));
    let (begins, waits) = (Arc::clone(&begun), Arc::clone(&go));
    let service = move |peer: Peer| {
        let (begins, waits, stream) = (Arc::clone(&begins), Arc::clone(&waits), Arc::clone(&stream));
        service_fn(move |request: Request<Incoming>| {
            let (begins, waits, stream, peer) = (Arc::clone(&begins), Arc::clone(&waits), Arc::clone(&stream), peer.clone());
            async move {
                if request.uri().path() == "/events" {
                    let stream = stream.lock().unwrap().take().unwrap();
                    return Ok::<_, Infallible>(Response::new(Either::Left(Stream {
                        watch: Some(peer.watch(Duration::from_secs(60))),
                        ..stream
                    })));
                }
                let method = request.method().to_string();
                request.into_body().collect().await.unwrap();
                begins.notify_one();
                waits.notified().await;
                Ok(Response::new(Either::Right(Full::new(Bytes::from(method)))))
            }
        })
    };
    let port = Port { listener, limits: LIMITS, metrics: PortMetrics::new("http") };
    tokio::spawn(serve(port, (), service, Stop { begin: CancellationToken::new(), grace: Duration::ZERO }));
    Streaming { address, begun, go, events, asked, given, give_up, ended }
}

impl Streaming {
    /// A client that has the head of the stream.
    async fn follower(&self) -> TcpStream {
        self.follower_on(TcpSocket::new_v4().unwrap()).await
    }

    async fn follower_on(&self, socket: TcpSocket) -> TcpStream {
        let mut client = socket.connect(self.address).await.unwrap();
        send(&mut client, "GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let head = receive(&mut client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        client
    }

    /// The client gets an event that is sent now.
    async fn tells(&self, client: &mut TcpStream, event: &'static str) {
        self.events.send(Bytes::from_static(event.as_bytes())).unwrap();
        assert!(receive(client, event).await.ends_with(event), "the stream has ended");
    }

    async fn has_ended(&self, why: &str) {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.ended.cancelled()).await;
        assert_eq!(ended, Ok(()), "nobody has seen that the client {why}");
    }

    /// The answer to a request whose client says that it says no more while the node is at work on it.
    async fn answer_after_half_close(&self, mut client: TcpStream, request: &str) -> String {
        send(&mut client, request).await;
        self.begun.notified().await;
        client.shutdown().await.unwrap();
        turns().await;
        self.go.notify_one();
        receive(&mut client, "").await
    }
}

/// So many turns of the runtime, which is one thread, that whoever had anything to do has done it. Who turns in circles has done it
/// about as often.
const TURNS: usize = 1_000;

async fn turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_says_no_more_gets_the_answer_to_what_it_said() {
    for request in ["GET / HTTP/1.1\r\nhost: x\r\n\r\n", "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"] {
        let streaming = streaming().await;
        let client = TcpStream::connect(streaming.address).await.unwrap();
        let answer = streaming.answer_after_half_close(client, request).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(&request[..3]), "{request:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_client_goes_though_there_is_nothing_to_send() {
    for why in ["has closed", "has reset", "says no more"] {
        let streaming = streaming().await;
        let mut client = streaming.follower().await;
        streaming.tells(&mut client, "one event").await;
        turns().await;
        assert!(!streaming.ended.is_cancelled(), "it has ended by itself");
        let mut still_reads = None;
        match why {
            "has closed" => drop(client),
            "has reset" => {
                client.set_zero_linger().unwrap();
                drop(client);
            }
            _ => {
                client.shutdown().await.unwrap();
                still_reads = Some(client);
            }
        }
        streaming.has_ended(why).await;
        drop(still_reads);
    }
}

#[tokio::test]
async fn a_stream_that_waits_for_its_client_to_read_ends_when_that_goes() {
    let streaming = streaming().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client = streaming.follower_on(socket).await;
    // More than sockets hold.
    for _ in 0..512 {
        streaming.events.send(Bytes::from_static(&[b'a'; 64 << 10])).unwrap();
    }
    turns().await;
    assert!(!streaming.ended.is_cancelled(), "it has ended by itself");
    client.shutdown().await.unwrap();
    streaming.has_ended("says no more").await;
}

#[tokio::test]
async fn a_stream_gives_a_client_that_reads_nothing_no_more_than_sockets_hold_and_all_the_rest_later() {
    const EVENTS: usize = 512;
    const BYTES: usize = 64 << 10;
    let streaming = streaming().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    let mut client = streaming.follower_on(socket).await;
    for _ in 0..EVENTS {
        streaming.events.send(Bytes::from_static(&[b'a'; BYTES])).unwrap();
    }
    turns().await;
    let given = streaming.given.load(Ordering::SeqCst);
    assert!(given < EVENTS / 2, "{given} of {EVENTS} events were given for nobody to read");
    let Streaming { events, given, .. } = streaming;
    drop(events);
    let rest = receive(&mut client, "0\r\n\r\n").await;
    assert_eq!(given.load(Ordering::SeqCst), EVENTS);
    assert!(rest.matches('a').count() == EVENTS * BYTES, "{} bytes came", rest.len());
}

#[tokio::test]
async fn a_client_that_is_given_up_is_not_written_to_any_more() {
    let streaming = streaming().await;
    let mut client = streaming.follower().await;
    streaming.tells(&mut client, "one event").await;
    streaming.give_up.cancel();
    streaming.has_ended("is given up").await;
}

#[tokio::test]
async fn a_client_that_says_more_during_a_stream_is_heard_after_it_and_costs_nothing_until_then() {
    let streaming = streaming().await;
    let mut client = streaming.follower().await;
    turns().await;
    let asked = streaming.asked.load(Ordering::SeqCst);
    send(&mut client, "PUT / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    turns().await;
    let more = streaming.asked.load(Ordering::SeqCst) - asked;
    assert!(more < TURNS / 100, "the stream was asked {more} times in {TURNS} turns");
    streaming.tells(&mut client, "first event").await;
    streaming.tells(&mut client, "second event").await;
    // Only a write tells now that it has gone, or the end of the stream.
    let Streaming { events, go, .. } = streaming;
    drop(events);
    go.notify_one();
    let rest = receive(&mut client, "PUT").await;
    assert!(rest.contains("HTTP/1.1 200") && rest.ends_with("PUT"), "{rest:?}");
}

#[tokio::test]
async fn a_client_that_has_said_more_and_gone_ends_its_stream_by_the_next_events() {
    let streaming = streaming().await;
    let mut client = streaming.follower().await;
    send(&mut client, "PUT /").await;
    turns().await;
    drop(client);
    // The first makes the other end say that nobody is there.
    for _ in 0..2 {
        let _ = streaming.events.send(Bytes::from_static(b"event"));
        turns().await;
    }
    assert!(streaming.ended.is_cancelled(), "it goes on for nobody");
}

#[tokio::test]
async fn a_watch_is_over_with_its_stream() {
    let mut streaming = streaming().await;
    let mut client = streaming.follower().await;
    drop(std::mem::replace(&mut streaming.events, mpsc::unbounded_channel().0));
    receive(&mut client, "0\r\n\r\n").await;
    let answer = streaming.answer_after_half_close(client, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("GET"), "{answer:?}");
}
