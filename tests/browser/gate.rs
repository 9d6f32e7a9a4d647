//! What stands between browsers and nodes elsewhere: it gives each connection to the first node that takes it, as a load
//! balancer does, and may keep out WebSockets or streams, as some proxies do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const REFUSAL: &[u8] = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A gate in front of some nodes; it lets nobody through any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Gate {
    address: SocketAddr,
    rules: Arc<Rules>,
    accepting: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Rules {
    /// Ends the connections that are open.
    cut: tokio::sync::Notify,
    nodes: Mutex<Vec<String>>,
    no_sockets: AtomicBool,
    no_streams: AtomicBool,
    sockets: AtomicUsize,
    streams: AtomicUsize,
}

impl Gate {
    /// A gate to these nodes, the first that takes connections first.
    ///
    /// # Errors
    /// When there is no port.
    pub(crate) async fn to(nodes: &[&str]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let rules = Arc::new(Rules {
            cut: tokio::sync::Notify::new(),
            nodes: Mutex::new(nodes.iter().map(|&node| node.to_owned()).collect()),
            no_sockets: AtomicBool::new(false),
            no_streams: AtomicBool::new(false),
            sockets: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
        });
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, rules.clone()));
        Ok(Self { address, rules, accepting })
    }

    /// The base of URLs through it.
    #[must_use]
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keeps out WebSockets from now on.
    pub(crate) fn keep_out_sockets(&self) {
        self.rules.no_sockets.store(true, Ordering::Relaxed);
    }

    /// Keeps out streams of events from now on.
    pub(crate) fn keep_out_streams(&self) {
        self.rules.no_streams.store(true, Ordering::Relaxed);
    }

    /// How many WebSockets were let through, and how many streams.
    #[must_use]
    pub(crate) fn passed(&self) -> (usize, usize) {
        (self.rules.sockets.load(Ordering::Relaxed), self.rules.streams.load(Ordering::Relaxed))
    }

    /// Ends all connections that are open.
    pub(crate) fn cut(&self) {
        self.rules.cut.notify_waiters();
    }

    /// Leads elsewhere from now on; nowhere, if there is no node.
    pub(crate) fn lead_to(&self, nodes: &[&str]) {
        *self.rules.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes.iter().map(|&node| node.to_owned()).collect();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, rules: Arc<Rules>) {
    // They end with the gate.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(pass(client, rules.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn pass(mut client: TcpStream, rules: Arc<Rules>) -> std::io::Result<()> {
    let Some(node) = rules.connect().await else { return Ok(()) };
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let (mut from_node, mut to_node) = node.into_split();
    let (mut from_client, mut to_client) = client.split();
    let there = async {
        let mut room = vec![0; 16 << 10];
        loop {
            let bytes = from_client.read(&mut room).await?;
            if bytes == 0 {
                return to_node.shutdown().await;
            }
            // A head comes in one piece: it is short, and this is one machine.
            if rules.keep_out(&room[..bytes]) {
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
            to_node.write_all(&room[..bytes]).await?;
        }
    };
    let back = async { tokio::io::copy(&mut from_node, &mut to_client).await.map(drop) };
    // Whoever ends it ends both ways: HTTP and WebSocket clients have nothing more to say then.
    let ended = tokio::select! { ended = there => ended, ended = back => ended, () = rules.cut.notified() => Ok(()) };
    if ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionAborted) {
        to_client.write_all(REFUSAL).await?;
    }
    to_client.shutdown().await
}

impl Rules {
    async fn connect(&self) -> Option<TcpStream> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for node in nodes {
            if let Ok(stream) = TcpStream::connect(&node).await {
                return Some(stream);
            }
        }
        None
    }

    fn keep_out(&self, sent: &[u8]) -> bool {
        let sent = String::from_utf8_lossy(sent).to_ascii_lowercase();
        let is = |what: &str, counter: &AtomicUsize, kept_out: &AtomicBool| {
            let found = sent.contains(what);
            let refused = found && kept_out.load(Ordering::Relaxed);
            counter.fetch_add(usize::from(found && !refused), Ordering::Relaxed);
            refused
        };
        is("upgrade: websocket", &self.sockets, &self.no_sockets)
            || is("accept: text/event-stream", &self.streams, &self.no_streams)
    }
}
