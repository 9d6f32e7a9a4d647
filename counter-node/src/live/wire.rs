//! A WebSocket's socket with two who write to it: the connection's own task, through tungstenite, and whoever tells a count to all
//! who look at a page. The second needs no turn of the task: ten thousand of them would take a third of the time that a change takes to
//! reach ten thousand viewers.
//!
//! **Invariants.**
//! - Frames are never mixed: a count goes out only while what the task wrote last has ended, and what the kernel did not take of a
//!   count goes out before anything of the task's.
//! - After a closing frame comes no count.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::lock::lock;

/// The first byte of a whole closing frame.
const CLOSING: u8 = 0x88;

/// See the module's text. The connection's task reads and writes by a [`Line`].
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    written: Mutex<Written>,
}

/// Where in the stream of frames the socket is.
#[derive(Debug, Default)]
struct Written {
    /// What the task has written last is a part of a frame.
    inside: bool,
    /// The task has written a closing frame.
    closing: bool,
    /// What is left of a count.
    left: Bytes,
}

/// What has become of a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It has gone out.
    Whole,
    /// There is none.
    Nothing,
    /// A part of it has: the rest goes out before whatever the task writes next.
    Begun,
    /// It has not: that is the task's to do.
    Later,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        Self { stream, written: Mutex::default() }
    }

    /// Sends a whole frame if that can be done at once. It is asked for when nobody else can write any more, so that of two the one that is
    /// newer comes later.
    pub(super) fn tell(&self, frame: impl FnOnce() -> Option<Bytes>) -> Told {
        let mut written = lock(&self.written);
        if written.inside || written.closing || !written.left.is_empty() {
            return Told::Later;
        }
        let Some(mut frame) = frame() else { return Told::Nothing };
        match self.stream.try_write(&frame) {
            Ok(bytes) if bytes == frame.len() => Told::Whole,
            Ok(bytes) => {
                frame.advance(bytes);
                written.left = frame;
                Told::Begun
            }
            // The task finds out what is wrong, or waits.
            Err(_) => Told::Later,
        }
    }

    /// Writes what the task has to write, and before that what is left of a count.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = lock(&self.written);
        while !written.left.is_empty() {
            let taken = self.stream.try_write(&written.left)?;
            written.left.advance(taken);
        }
        let taken = self.stream.try_write(bytes)?;
        // Tungstenite keeps whole frames and writes all that it keeps, again and again until nothing is left.
        written.closing |= !written.inside && bytes.first() == Some(&CLOSING);
        written.inside = taken < bytes.len();
        Ok(taken)
    }
}

/// A [`Wire`] as its task uses it.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Wire>);

impl Line {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Wire::new(stream)))
    }

    pub(super) fn wire(&self) -> Arc<Wire> {
        self.0.clone()
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.0.stream
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read(into.initialize_unfilled()) {
                Ok(bytes) => {
                    into.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream().poll_write_ready(cx))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(self.stream()).shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// More than a socket takes at once, whatever its buffers are.
    const MUCH: usize = 64 << 20;

    async fn connected() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let line = Line::new(listener.accept().await.unwrap().0);
        line.stream().writable().await.unwrap();
        (line, client)
    }

    fn frame(bytes: &'static [u8]) -> impl FnOnce() -> Option<Bytes> {
        move || Some(Bytes::from_static(bytes))
    }

    #[tokio::test]
    async fn a_count_goes_out_at_once_and_none_after_a_closing_frame() {
        let (mut line, mut client) = connected().await;
        assert_eq!(line.wire().tell(frame(b"count")), Told::Whole);
        assert_eq!(line.wire().tell(|| None), Told::Nothing);
        line.write_all(b"\x88\x00").await.unwrap();
        assert_eq!(line.wire().tell(frame(b"late")), Told::Later);
        line.shutdown().await.unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"count\x88\x00");
    }

    #[tokio::test]
    async fn a_count_waits_for_the_end_of_what_the_task_writes() {
        let (mut line, mut client) = connected().await;
        let long = vec![1; MUCH];
        let wrote = line.write(&long).await.unwrap();
        assert!(wrote < MUCH, "the kernel takes as much as that");
        assert_eq!(line.wire().tell(frame(b"count")), Told::Later);
        let wire = line.wire();
        let (rest, all) = tokio::join!(
            async {
                line.write_all(&long[wrote..]).await.unwrap();
                line.stream().writable().await.unwrap();
                let told = wire.tell(frame(b"count"));
                line.shutdown().await.unwrap();
                told
            },
            async {
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.unwrap();
                all
            }
        );
        assert_eq!((rest, all.len()), (Told::Whole, MUCH + 5));
        assert!(all[..MUCH].iter().all(|byte| *byte == 1) && all.ends_with(b"count"));
    }

    #[tokio::test]
    async fn what_is_left_of_a_count_goes_out_before_what_the_task_writes() {
        let (mut line, mut client) = connected().await;
        assert_eq!(line.wire().tell(|| Some(vec![1; MUCH].into())), Told::Begun);
        assert_eq!(line.wire().tell(frame(b"count")), Told::Later);
        let (_, all) = tokio::join!(
            async {
                line.write_all(b"said").await.unwrap();
                line.shutdown().await.unwrap();
            },
            async {
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.unwrap();
                all
            }
        );
        assert_eq!(all.len(), MUCH + 4);
        assert!(all[..MUCH].iter().all(|byte| *byte == 1) && all.ends_with(b"said"));
    }
}
