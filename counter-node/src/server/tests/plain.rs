//! Requests that are answered without hyper, and connections that go over to it.

use super::*;

/// What a [`Plain`] of these tests reads.
const PLAIN: &str = "GET /plain HTTP/1.1\r\n\r\n";

/// Answers with how many it has answered, some of them after a while.
#[derive(Default)]
struct Counting {
    answered: AtomicUsize,
    slow: Option<Arc<Notify>>,
    /// Told of each request that is begun.
    begun: Arc<Notify>,
    /// By so much answers are longer than they need to be.
    padding: usize,
}

impl Plain for Counting {
    type Request = ();
    type Answer = usize;

    fn read(&self, received: &[u8]) -> Option<((), usize)> {
        received.starts_with(PLAIN.as_bytes()).then_some(((), PLAIN.len()))
    }

    async fn answer(&self, (): ()) -> usize {
        self.begun.notify_one();
        if let Some(slow) = &self.slow {
            slow.notified().await;
        }
        self.answered.fetch_add(1, Ordering::Relaxed)
    }

    fn write(&self, number: usize, last: bool, answers: &mut Vec<u8>) {
        let padding = " ".repeat(self.padding);
        answers.extend_from_slice(format!("plain {number}{}{padding}\n", if last { " last" } else { "" }).as_bytes());
    }
}

/// A port of the plain, of which hyper answers the rest with their paths.
async fn listening(plain: Counting, limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<Ended>) {
    listening_as(plain, limits, Duration::from_secs(60), PortMetrics::new("http")).await
}

async fn listening_as(
    plain: Counting,
    limits: Limits,
    grace: Duration,
    metrics: Arc<PortMetrics>,
) -> (SocketAddr, CancellationToken, JoinHandle<Ended>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let service = service_fn(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from([head.uri.path().as_bytes(), &body, b"\n"].concat()))))
    });
    let port = Port { listener, limits, metrics };
    let stopping = Stop { begin: stop.clone(), grace };
    (address, stop, tokio::spawn(serve(port, plain, move |_| service, stopping)))
}

/// The lines that are no headers.
async fn contents(stream: &mut TcpStream) -> Vec<String> {
    let text = receive(stream, "").await;
    let is_content = |line: &&str| line.starts_with("plain") || line.starts_with('/');
    text.lines().filter(is_content).map(str::to_owned).collect()
}

#[tokio::test]
async fn wherever_a_connection_is_cut_into_pieces_every_request_is_answered_once_and_in_order() {
    let other = "PUT /other HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n body";
    let end = "GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    // Once hyper has the connection it keeps it.
    let sent = [PLAIN, PLAIN, other, PLAIN, end].concat();
    let (address, ..) = listening(Counting::default(), LIMITS).await;
    let mut answered = 0;
    for cut in 1..sent.len() {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        send(&mut stream, &sent[..cut]).await;
        // Whatever is whole has been answered before the rest comes, if the machine is quick.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        send(&mut stream, &sent[cut..]).await;
        let contents = contents(&mut stream).await;
        let plain = contents.iter().take_while(|line| line.starts_with("plain")).count();
        let expected: Vec<String> = (answered..answered + plain).map(|number| format!("plain {number}")).collect();
        assert_eq!(contents[..plain], expected, "cut at {cut}");
        let rest = ["/plain", "/plain", "/other body", "/plain", "/end"];
        assert_eq!(contents[plain..], rest[plain..], "cut at {cut}");
        assert!(plain <= 2, "cut at {cut}");
        answered += plain;
    }
    assert!(answered > sent.len(), "hardly any was answered without hyper");
}

#[tokio::test]
async fn more_than_is_received_at_once_is_answered_too() {
    let (address, ..) = listening(Counting::default(), LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let many = 1_000;
    send(&mut stream, &PLAIN.repeat(many)).await;
    stream.shutdown().await.unwrap();
    let contents = contents(&mut stream).await;
    assert_eq!(contents.len(), many, "{:?}", contents.last());
}

#[tokio::test]
async fn a_client_that_says_that_it_says_no_more_has_its_answer() {
    let (address, ..) = listening(Counting::default(), LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, PLAIN).await;
    stream.shutdown().await.unwrap();
    assert_eq!(contents(&mut stream).await, ["plain 0"]);
}

#[tokio::test]
async fn a_stopping_port_lets_plain_requests_end_and_closes_on_who_is_idle() {
    let (slow, begun) = <(Arc<Notify>, Arc<Notify>)>::default();
    let (address, stop, ended) =
        listening(Counting { slow: Some(Arc::clone(&slow)), begun: Arc::clone(&begun), ..Counting::default() }, LIMITS).await;
    let (mut idle, mut busy) = (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    send(&mut idle, PLAIN).await;
    begun.notified().await;
    slow.notify_one();
    assert_eq!(receive(&mut idle, "\n").await, "plain 0\n");
    send(&mut busy, PLAIN).await;
    begun.notified().await;
    stop.cancel();
    assert_eq!(receive(&mut idle, "").await, "", "an idle connection is closed at once");
    assert!(!ended.is_finished());
    slow.notify_one();
    assert!(receive(&mut busy, "").await.starts_with("plain 1"), "a request that had begun is answered");
    assert_eq!(ended.await.unwrap(), Ended { cut: 0 });
}

#[tokio::test]
async fn at_the_deadline_a_plain_request_is_cut_and_what_was_answered_before_it_is_sent() {
    let (slow, begun) = <(Arc<Notify>, Arc<Notify>)>::default();
    let plain = Counting { slow: Some(Arc::clone(&slow)), begun: Arc::clone(&begun), ..Counting::default() };
    let (address, stop, ended) = listening_as(plain, LIMITS, Duration::from_millis(50), PortMetrics::new("http")).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, &PLAIN.repeat(3)).await;
    begun.notified().await;
    slow.notify_one();
    begun.notified().await;
    stop.cancel();
    assert_eq!(ended.await.unwrap(), Ended { cut: 1 });
    assert_eq!(contents(&mut stream).await, ["plain 0"]);
}

#[tokio::test]
async fn an_answer_says_that_it_is_the_last_though_the_port_stopped_after_its_request_and_no_other_is_begun() {
    let (slow, begun) = <(Arc<Notify>, Arc<Notify>)>::default();
    let plain = Counting { slow: Some(Arc::clone(&slow)), begun: Arc::clone(&begun), ..Counting::default() };
    let (address, stop, ended) = listening(plain, LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, &PLAIN.repeat(3)).await;
    begun.notified().await;
    stop.cancel();
    // Two more would find this once each.
    let more = tokio::spawn(async move {
        slow.notify_one();
        while tokio::time::timeout(Duration::from_millis(500), begun.notified()).await.is_ok() {
            slow.notify_one();
        }
    });
    assert_eq!(contents(&mut stream).await, ["plain 0 last"]);
    assert_eq!(ended.await.unwrap(), Ended { cut: 0 });
    more.await.unwrap();
}

#[tokio::test]
async fn what_is_answered_is_sent_before_the_last_request_is_waited_for_as_by_hyper() {
    let (slow, begun) = <(Arc<Notify>, Arc<Notify>)>::default();
    let plain = Counting { slow: Some(Arc::clone(&slow)), begun: Arc::clone(&begun), ..Counting::default() };
    let (address, ..) = listening(plain, LIMITS).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, &PLAIN.repeat(2)).await;
    begun.notified().await;
    slow.notify_one();
    let first = tokio::time::timeout(Duration::from_secs(10), receive(&mut stream, "\n")).await;
    assert_eq!(first.as_deref(), Ok("plain 0\n"), "it is kept until the next is answered");
    slow.notify_one();
    assert_eq!(receive(&mut stream, "\n").await, "plain 1\n");

    let other = served(LIMITS, Duration::ZERO).await;
    let mut stream = other.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let first = tokio::time::timeout(Duration::from_secs(10), receive(&mut stream, "\r\n\r\nGET")).await;
    assert!(first.unwrap().ends_with("GET"));
}

#[tokio::test]
async fn a_client_that_never_reads_its_answers_is_not_waited_for_longer_than_for_a_head() {
    let (metrics, limits) = (PortMetrics::new("http"), Limits { head_time: Duration::from_millis(100), ..LIMITS });
    let plain = Counting { padding: 1 << 20, ..Counting::default() };
    let (address, ..) = listening_as(plain, limits, Duration::ZERO, Arc::clone(&metrics)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // More than sockets hold; each comes by itself.
    for _ in 0..32 {
        if stream.write_all(PLAIN.as_bytes()).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let is_over = async {
        while metrics.accepted.load(Ordering::Relaxed) == 0 || metrics.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), is_over).await, Ok(()), "it stays open");
}

#[tokio::test]
async fn a_connection_that_is_idle_after_a_plain_request_ends() {
    let limits = Limits { head_time: Duration::from_millis(500), ..LIMITS };
    let (address, ..) = listening(Counting::default(), limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    send(&mut stream, PLAIN).await;
    assert_eq!(receive(&mut stream, "\n").await, "plain 0\n");
    let idle = tokio::time::timeout(Duration::from_secs(60), receive(&mut stream, "")).await;
    assert_eq!(idle.as_deref(), Ok(""), "it stays open");
    assert!(started.elapsed() >= limits.head_time, "it was cut at once");
    // Half of one is hyper's to wait for, no longer.
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, &PLAIN[..10]).await;
    let idle = tokio::time::timeout(Duration::from_secs(60), receive(&mut stream, "")).await;
    assert_eq!(idle.as_deref(), Ok(""), "it stays open");
}
