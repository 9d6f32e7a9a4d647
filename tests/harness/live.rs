//! Clients of live connections: a WebSocket, of another library than the server's; bytes on a WebSocket as they are; and
//! server-sent events.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use fastwebsockets::{FragmentCollector, Frame, OpCode, Payload, WebSocket, WebSocketError, handshake};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::http::Http;
use crate::node::TestNode;
use crate::wait::PATIENCE;

/// A client on a WebSocket. It is closed when it is dropped.
pub struct Follower {
    socket: FragmentCollector<TokioIo<Upgraded>>,
    /// The first message.
    pub hello: Value,
}

impl Follower {
    /// Opens a connection to `path` of the node at `base`.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(base: &str, path: &str) -> anyhow::Result<Self> {
        let address = base.strip_prefix("http://").context("no HTTP address")?;
        let request = Request::get(path)
            .header("host", address)
            .header("upgrade", "websocket")
            .header("connection", "upgrade")
            .header("sec-websocket-key", handshake::generate_key())
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())?;
        let stream = TcpStream::connect(address).await?;
        let executor = TokioExecutor::new();
        let opening = tokio::time::timeout(PATIENCE, handshake::client(&executor, request, stream));
        let (mut socket, _): (WebSocket<_>, Response<Incoming>) = opening.await??;
        socket.set_auto_close(true);
        let mut this = Self { socket: FragmentCollector::new(socket), hello: Value::Null };
        this.hello = this.next().await?;
        ensure!(this.hello["type"] == "hello", "the first message is {}", this.hello);
        Ok(this)
    }

    /// Says something.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn say(&mut self, message: &Value) -> anyhow::Result<()> {
        self.send(Frame::text(Payload::Owned(message.to_string().into_bytes()))).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, frame: Frame<'_>) -> anyhow::Result<()> {
        Ok(self.socket.write_frame(frame).await?)
    }

    /// The next message.
    ///
    /// # Errors
    /// When the connection is closed, or none comes.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        let frame = tokio::time::timeout(PATIENCE, self.socket.read_frame()).await.context("no message comes")??;
        match frame.opcode {
            OpCode::Text => Ok(serde_json::from_slice(&frame.payload)?),
            other => bail!("a frame of type {other:?}"),
        }
    }

    /// The next message of this type; others are passed over.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_of(&mut self, kind: &str) -> anyhow::Result<Value> {
        loop {
            let message = self.next().await?;
            if message["type"] == kind {
                return Ok(message);
            }
        }
    }

    /// Waits until the page counts so many, and returns the counts on the way there.
    ///
    /// # Errors
    /// As [`Self::next`], with what has come.
    pub async fn until(&mut self, page: &str, count: i64) -> anyhow::Result<Vec<i64>> {
        let mut counts = Vec::new();
        while counts.last() != Some(&count) {
            let message = self.next().await.with_context(|| format!("{page} counts {counts:?}, and not {count}"))?;
            if message["type"] == "count" && message["page"] == page {
                counts.push(message["count"].as_i64().context("a count is no number")?);
            }
        }
        Ok(counts)
    }

    /// The code with which the node closes; messages before it are passed over. None: the connection just ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn closed(&mut self) -> anyhow::Result<Option<u16>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.read_frame()).await.context("it is not closed")? {
                Ok(frame) if frame.opcode == OpCode::Close => {
                    return Ok(frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code)));
                }
                Ok(_) => {}
                Err(WebSocketError::UnexpectedEOF | WebSocketError::ConnectionClosed | WebSocketError::IoError(_)) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A WebSocket on which every byte is the test's. Small frames only.
pub struct RawSocket {
    stream: TcpStream,
    read: VecDeque<u8>,
}

impl RawSocket {
    /// Opens a connection, with further lines in the request's head. Nothing is read but the answer's head.
    ///
    /// # Errors
    /// When it is refused; with the answer.
    pub async fn open(base: &str, path: &str, lines: &str) -> anyhow::Result<Self> {
        let address = base.strip_prefix("http://").context("no HTTP address")?;
        let mut stream = TcpStream::connect(address).await?;
        let key = handshake::generate_key();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nupgrade: websocket\r\nconnection: keep-alive, Upgrade\r\n\
             sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\n{lines}\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(tokio::time::timeout(PATIENCE, stream.read_u8()).await??);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        Ok(Self { stream, read: VecDeque::new() })
    }

    /// Sends these bytes.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    /// The next frame: its first byte, and its payload.
    ///
    /// # Errors
    /// When none comes.
    pub async fn frame(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let first = self.byte().await?;
        let length = match self.byte().await? {
            126 => usize::from(u16::from_be_bytes([self.byte().await?, self.byte().await?])),
            length => usize::from(length),
        };
        let mut payload = Vec::with_capacity(length);
        for _ in 0..length {
            payload.push(self.byte().await?);
        }
        Ok((first, payload))
    }

    async fn byte(&mut self) -> anyhow::Result<u8> {
        if self.read.is_empty() {
            let mut room = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut room)).await.context("nothing comes")??;
            ensure!(read > 0, "the connection is closed");
            self.read.extend(&room[..read]);
        }
        self.read.pop_front().context("nothing was read")
    }

    /// The code with which the node closes.
    ///
    /// # Errors
    /// When it does not.
    pub async fn close_code(&mut self) -> anyhow::Result<u16> {
        loop {
            let (first, payload) = self.frame().await?;
            if first == 0x88 {
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code)).context("a close without a code");
            }
        }
    }

    /// Waits until the node has ended the connection.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ends(&mut self) -> anyhow::Result<()> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.context("it goes on")?;
        Ok(())
    }
}

/// A frame as clients send them: masked, by a mask that changes nothing.
#[must_use]
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..=125) => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A client on server-sent events.
pub struct Events {
    body: Incoming,
    text: String,
}

/// One event: its fields by their names.
pub type Event = BTreeMap<String, String>;

impl Events {
    /// Follows `path` of the node at `base`, with further headers.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn open(base: &str, path: &str, headers: &[(&str, &str)]) -> anyhow::Result<Self> {
        let address = base.strip_prefix("http://").context("no HTTP address")?;
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", address).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        ensure!(answer.status() == StatusCode::OK, "status {}", answer.status());
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        ensure!(kind.starts_with("text/event-stream"), "{kind}");
        Ok(Self { body: answer.into_body(), text: String::new() })
    }

    /// The next event; comments are passed over. None: the stream has ended.
    ///
    /// # Errors
    /// When none comes.
    pub async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let fields = event.lines().filter_map(|line| line.split_once(": "));
                let fields: Event = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                if !fields.is_empty() {
                    return Ok(Some(fields));
                }
            }
            let Some(frame) = tokio::time::timeout(PATIENCE, self.body.frame()).await.context("no event comes")? else {
                return Ok(None);
            };
            if let Ok(data) = frame?.into_data() {
                self.text.push_str(std::str::from_utf8(&data)?);
            }
        }
    }

    /// The next count, with its id.
    ///
    /// # Errors
    /// When none comes.
    pub async fn count(&mut self) -> anyhow::Result<(i64, String)> {
        loop {
            let event = self.next().await?.context("the stream has ended")?;
            if event.contains_key("event") {
                continue;
            }
            let data: Value = serde_json::from_str(event.get("data").context("an event without data")?)?;
            let id = event.get("id").context("an event without id")?.clone();
            return Ok((data["count"].as_i64().context("a count is no number")?, id));
        }
    }
}

/// What a node says of its live part, by the names of its metrics without `counter_live_`, labels included.
///
/// # Errors
/// When it does not answer.
pub async fn figures(node: &TestNode) -> anyhow::Result<BTreeMap<String, u64>> {
    let metrics = metrics(node).await?.into_iter();
    Ok(metrics.filter_map(|(name, value)| Some((name.strip_prefix("counter_live_")?.to_owned(), value))).collect())
}

/// Those of its metrics that are whole numbers.
async fn metrics(node: &TestNode) -> anyhow::Result<BTreeMap<String, u64>> {
    let answer = Http::default().send(Method::GET, &format!("{}/metrics", node.admin()), None).await?;
    let text = String::from_utf8(answer.body.to_vec())?;
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Waits until nothing of any live connection is left at the node.
///
/// # Errors
/// When something stays.
pub async fn nothing_left(node: &TestNode) -> anyhow::Result<()> {
    crate::wait::until("nothing is left of live connections", async || {
        let figures = figures(node).await?;
        let gauges = [
            "connections_open{kind=\"websocket\"}",
            "connections_open{kind=\"stream\"}",
            "subscriptions",
            "pages",
            "sessions",
            "unread_users",
            "unread_subscriptions",
        ];
        let left: Vec<_> = gauges.iter().filter(|name| figures.get(**name) != Some(&0)).collect();
        ensure!(left.is_empty(), "{left:?} of {figures:?}");
        Ok(())
    })
    .await
}

/// What a node's process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub tasks: u64,
    /// Files that are open, connections among them.
    pub files: usize,
    /// Resident memory that is no file's, in KiB.
    pub memory_kib: u64,
}

/// What it holds now.
///
/// # Errors
/// When it does not answer.
pub async fn held(node: &TestNode) -> anyhow::Result<Held> {
    let tasks = metrics(node).await?.get("counter_tasks").copied().context("it does not say how many tasks there are")?;
    let process = format!("/proc/{}", node.pid().context("it is not running")?);
    let files = std::fs::read_dir(format!("{process}/fd"))?.count();
    let status = std::fs::read_to_string(format!("{process}/status"))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
    Ok(Held { tasks, files, memory_kib: memory.context("/proc tells no RssAnon")?.parse()? })
}
