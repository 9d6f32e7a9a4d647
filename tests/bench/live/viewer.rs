//! A client on a WebSocket that does as little as it can: it understands what these servers say, and no more.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// Clients of one address. Each has a port of its own there.
const PER_ADDRESS: usize = 2_000;
/// Any key is as good as another.
const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";

pub(super) struct Viewer {
    stream: TcpStream,
    /// What has come and was not looked at.
    unread: Vec<u8>,
}

impl Viewer {
    /// Connects from an address that clients of numbers near this one share.
    pub(super) async fn open(server: SocketAddr, path: &str, number: usize) -> anyhow::Result<Self> {
        let address = Ipv4Addr::new(127, 0, u8::try_from(1 + number / PER_ADDRESS)?, 1);
        let socket = TcpSocket::new_v4()?;
        socket.bind((IpAddr::V4(address), 0).into())?;
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, unread: Vec::new() };
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {server}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n\r\n"
        );
        this.stream.write_all(head.as_bytes()).await?;
        let end = loop {
            if let Some(at) = this.unread.windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
            this.read().await?;
        };
        ensure!(this.unread.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&this.unread));
        this.unread.drain(..end);
        Ok(this)
    }

    /// The next text. Pings are answered on the way.
    pub(super) async fn next(&mut self) -> anyhow::Result<String> {
        loop {
            match take_frame(&mut self.unread) {
                Some((0x81, text)) => return Ok(String::from_utf8(text)?),
                Some((0x89, payload)) => self.send(0x8A, &payload).await?,
                Some((other, _)) => bail!("the server sends a frame that begins with {other:#x}"),
                None => self.read().await?,
            }
        }
    }

    /// The next count; whatever else comes is passed over.
    pub(super) async fn count(&mut self) -> anyhow::Result<i64> {
        loop {
            if let Some(count) = count_in(&self.next().await?) {
                return Ok(count);
            }
        }
    }

    /// Waits for this count, however many others come before.
    pub(super) async fn until(&mut self, count: i64) -> anyhow::Result<()> {
        while self.count().await? != count {}
        Ok(())
    }

    /// Says something.
    pub(super) async fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.send(0x81, text.as_bytes()).await
    }

    /// Looks on, until the connection ends or this is dropped.
    pub(super) async fn stay(mut self) -> anyhow::Result<()> {
        loop {
            self.next().await?;
        }
    }

    async fn read(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.unread).await?;
        ensure!(read > 0, "the server has closed a connection");
        Ok(())
    }

    /// Sends a frame, masked by nothing.
    async fn send(&mut self, first: u8, payload: &[u8]) -> anyhow::Result<()> {
        let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).context("a frame is too long")?;
        Ok(self.stream.write_all(&[&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()).await?)
    }
}

/// Takes a whole frame of less than 64 KiB out: its first byte, and its payload.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (begin, length) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        length => (2, usize::from(length)),
    };
    let payload = bytes.get(begin..begin + length)?.to_vec();
    let first = bytes[0];
    bytes.drain(..begin + length);
    Some((first, payload))
}

/// The count that a message tells, if it tells one.
fn count_in(text: &str) -> Option<i64> {
    let (_, rest) = text.split_once("\"count\":")?;
    rest.split([',', '}']).next()?.parse().ok()
}
