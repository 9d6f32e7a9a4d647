//! One client on a WebSocket. A task, a socket and some marks each: what an idle one takes is what `make bench` measures.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use counter_core::counter::Key;
use futures::future::poll_fn;
use futures::{Sink as _, Stream as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::mailbox::Marks;
use super::messages::{self, MESSAGE_BYTES_MAX, Reply};
use super::metrics::Counted;
use super::wire::{Line, Wire};
use super::{Opening, Subject, Subscriptions};
use crate::server::TakenOver;

/// What is read at once. Clients say little, and the buffer stays for as long as they do; a longer message gets a buffer of its
/// own for as long as it is looked at.
const READ_BYTES: usize = 128;
/// What is gathered before it is written.
const WRITE_BYTES: usize = 4 << 10;
/// How long a client may take to answer a closing frame.
const CLOSE_TIME: Duration = Duration::from_secs(1);

pub(super) type Socket = WebSocketStream<Line>;

/// Speaks with one client until it or the node ends.
///
/// What lives as long as the connection is held here once; what is rare, such as a goodbye, is boxed, since a future is as large
/// as whatever it may ever wait for.
pub async fn serve(connection: TakenOver, opening: Opening) {
    let TakenOver { stream, early, begin, cut } = connection;
    if let Err(error) = give_up_after(&stream, opening.live.config.heartbeat) {
        tracing::debug!(%error, "a connection ended before it was served");
        return;
    }
    let (socket, wire) = accept(stream, early, MESSAGE_BYTES_MAX).await;
    let Opening { live, place, subject, mode, who, unread, .. } = opening;
    let _counted = Counted::new(live.metrics.clone(), |metrics| &metrics.websockets);
    let mut client = Client { socket, subscriptions: Subscriptions::on_wire(wire, live, who), cut };
    let ended = client.converse(subject, mode, unread, &begin).await;
    if let Err(Ended::Cut) = ended {
        client.subscriptions.live().metrics.cut.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    // Its viewers are gone at once, not when the client has said goodbye.
    let Client { socket, subscriptions, cut } = client;
    drop((subscriptions, place));
    if let Err(Ended::Close(code, reason)) = ended {
        Box::pin(async move { cut.run_until_cancelled(close(socket, code, reason)).await }).await;
    }
}

/// A connection as a WebSocket on which a message may have so many bytes, and what counts are sent on. The conformance tests' echo is
/// accepted here, too, and only the longest message differs.
pub(super) async fn accept(stream: TcpStream, early: Bytes, message_bytes_max: usize) -> (Socket, Arc<Wire>) {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(4 * message_bytes_max)
        .max_message_size(Some(message_bytes_max))
        .max_frame_size(Some(message_bytes_max));
    let line = Line::new(stream);
    let wire = line.wire();
    // It is a part of HTTP's buffer, all of which it holds: it is not kept.
    (Socket::from_partially_read(line, early.to_vec(), Role::Server, Some(config)).await, wire)
}

/// Has the kernel end a connection whose other end acknowledges nothing for so long.
pub(crate) fn give_up_after(stream: &TcpStream, time: Duration) -> io::Result<()> {
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(time))
}

/// Says why the connection ends, and reads on for a moment, since closing on unread bytes would take the reason back.
pub(super) async fn close(mut socket: Socket, code: CloseCode, reason: &'static str) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let farewell = async {
        socket.close(Some(frame)).await.map_err(io::Error::other)?;
        let line = socket.get_mut();
        line.shutdown().await?;
        let stream = line.stream();
        loop {
            stream.readable().await?;
            // Nothing is held for what is thrown away: a node that stops says goodbye to all at once.
            match stream.try_read(&mut [0; 4096]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIME, farewell).await;
}

pub(super) async fn next(socket: &mut Socket) -> Option<Result<Message, Error>> {
    poll_fn(|cx| Pin::new(&mut *socket).poll_next(cx)).await
}

/// Why a conversation is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The client has closed, or its connection broke.
    Gone,
    /// The client was not heard, or took nothing, for a heartbeat.
    Cut,
    /// The node stops and can wait no longer.
    Stopped,
    Close(CloseCode, &'static str),
}

struct Client {
    socket: Socket,
    subscriptions: Subscriptions,
    cut: CancellationToken,
}

/// What a client waits for.
enum Event {
    Said(Message),
    Ended(Ended),
    Counts(Marks),
    /// It is time to ping, or to give up.
    Time,
}

/// When a client is to be pinged, and when it is given up.
struct Pulse {
    heard: Instant,
    pinged: Instant,
}

impl Client {
    async fn converse(
        &mut self,
        subject: Subject,
        mode: super::Mode,
        unread: Option<Key>,
        begin: &CancellationToken,
    ) -> Result<(), Ended> {
        let live = self.subscriptions.live().clone();
        let resume = live.resume_token(self.subscriptions.connection);
        let hello = Reply::hello(resume, live.config.heartbeat.as_secs(), live.retry_ms());
        self.send([Message::text(hello.to_text())]).await?;
        self.subscriptions.begin(subject, mode, unread);
        let (mut stopping, mut stopped) = (pin!(begin.cancelled()), pin!(self.cut.clone().cancelled_owned()));
        let now = Instant::now();
        let mut pulse = Pulse { heard: now, pinged: now };
        let mut timer = pin!(tokio::time::sleep_until(now + live.ping_interval()));
        let mut last = None::<Message>;
        loop {
            let event = poll_fn(|cx| {
                if stopped.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Ended(Ended::Stopped));
                }
                let event = self.poll(cx, stopping.as_mut(), timer.as_mut());
                // It holds the buffer that it came in, so that the next has been read into another, a small one: what a long message
                // took is given back.
                last = None;
                event
            });
            match event.await {
                Event::Said(message) => {
                    pulse.heard = Instant::now();
                    last = (message.len() > READ_BYTES).then(|| message.clone());
                    self.answer(message).await?;
                }
                Event::Ended(Ended::Close(CloseCode::Restart, reason)) => {
                    let reconnect = Reply::Reconnect { after_ms: live.reconnect_after_ms() };
                    self.send([Message::text(reconnect.to_text())]).await?;
                    return Err(Ended::Close(CloseCode::Restart, reason));
                }
                Event::Ended(ended) => return Err(ended),
                Event::Counts(marks) => {
                    self.subscriptions.begin_sending();
                    let counts = marks.filter_map(|place| self.subscriptions.value(place)).collect::<Vec<_>>();
                    self.send(counts.into_iter().map(|value| Message::Text(value.text.clone()))).await?;
                    self.subscriptions.end_sending();
                }
                Event::Time => {
                    let now = Instant::now();
                    if now >= pulse.heard + live.config.heartbeat {
                        return Err(Ended::Cut);
                    }
                    if now >= pulse.pinged + live.ping_interval() {
                        pulse.pinged = now;
                        self.send([Message::Ping(Bytes::new())]).await?;
                    }
                    timer.as_mut().reset((pulse.pinged + live.ping_interval()).min(pulse.heard + live.config.heartbeat));
                }
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stopping: Pin<&mut WaitForCancellationFuture<'_>>,
        timer: Pin<&mut Sleep>,
    ) -> Poll<Event> {
        // First: a client that talks without end is sent away, too.
        if stopping.poll(cx).is_ready() {
            return Poll::Ready(Event::Ended(Ended::Close(CloseCode::Restart, "the node stops")));
        }
        if let Poll::Ready(said) = Pin::new(&mut self.socket).poll_next(cx) {
            return Poll::Ready(match said {
                Some(Ok(Message::Close(_))) | None => Event::Ended(Ended::Gone),
                Some(Ok(message)) => Event::Said(message),
                Some(Err(error)) => Event::Ended(ended(&error)),
            });
        }
        if let Poll::Ready(marks) = self.subscriptions.poll_marks(cx) {
            return Poll::Ready(Event::Counts(marks));
        }
        timer.poll(cx).map(|()| Event::Time)
    }

    async fn answer(&mut self, message: Message) -> Result<(), Ended> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Ended::Close(CloseCode::Unsupported, "only text is understood")),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return Ok(()),
        };
        let reply = messages::answer(&mut self.subscriptions, &text);
        self.send([Message::text(reply)]).await
    }

    /// Sends these. Whoever takes nothing for a heartbeat is cut off.
    async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<(), Ended> {
        let mut messages = messages.into_iter();
        // Nearly always the kernel takes all of it at once. What waiting takes is held by those who wait.
        match poll_fn(|cx| Poll::Ready(poll_send(&mut self.socket, &mut messages, cx))).await {
            Poll::Ready(sent) => sent.map_err(|_| Ended::Gone),
            Poll::Pending => Box::pin(self.send_slowly(messages)).await,
        }
    }

    async fn send_slowly(&mut self, mut messages: impl Iterator<Item = Message>) -> Result<(), Ended> {
        let heartbeat = self.subscriptions.live().config.heartbeat;
        let sending = poll_fn(|cx| poll_send(&mut self.socket, &mut messages, cx));
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Ended::Stopped),
            sent = tokio::time::timeout(heartbeat, sending) => match sent {
                Ok(sent) => sent.map_err(|_| Ended::Gone),
                Err(_) => Err(Ended::Cut),
            },
        }
    }
}

/// Has the kernel take these, and all that was to be sent before them.
pub(super) fn poll_send(
    socket: &mut Socket,
    messages: &mut impl Iterator<Item = Message>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Error>> {
    let mut socket = Pin::new(socket);
    loop {
        ready!(socket.as_mut().poll_ready(cx))?;
        match messages.next() {
            Some(message) => socket.as_mut().start_send(message)?,
            None => return socket.poll_flush(cx),
        }
    }
}

/// What becomes of a connection on which this has been read (RFC 6455 §7.4.1).
pub(super) fn ended(error: &Error) -> Ended {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Ended::Close(CloseCode::Size, "the message is too long"),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ended::Gone,
        Error::Protocol(_) => Ended::Close(CloseCode::Protocol, "the frame is not valid"),
        Error::Utf8(_) => Ended::Close(CloseCode::Invalid, "the text is not UTF-8"),
        _ => Ended::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<F: Future<Output = ()>>(_: fn(TakenOver, Opening) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_an_idle_connection_holds_is_small() {
        let bytes = bytes_of(serve);
        assert!(bytes <= 2_048, "{bytes} bytes: is something in it that is seldom needed? Box it where it is");
    }
}
