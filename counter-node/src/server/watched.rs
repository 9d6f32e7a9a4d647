//! A connection as HTTP/1 reads and writes it: never closed, and looked at for its client's end where an answer asks for that.
//!
//! hyper itself looks beside every request, which takes a read and a buffer each time. Only streams of events have to know: any other
//! answer comes soon, and writing it shows whether anyone is there.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::rt;
use hyper_util::rt::TokioIo;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::Peer;

/// A stream that hyper does not close, so that there is a last word after it. While its peer is watched, flushing it fails once the
/// client has gone.
pub(super) struct Watched<'a> {
    stream: TokioIo<&'a mut TcpStream>,
    peer: &'a Peer,
    /// What was received before, and is read first.
    early: Bytes,
    /// The kernel has been told how long to wait for the client.
    told: bool,
}

impl<'a> Watched<'a> {
    pub(super) fn new(stream: &'a mut TcpStream, early: Bytes, peer: &'a Peer) -> Self {
        Self { stream: TokioIo::new(stream), peer, early, told: false }
    }

    /// Looks whether the client has gone, if anyone wants to know, and has the task woken when it goes. hyper does not read meanwhile, so
    /// that nobody else waits in the reader's place. A client that says more has not gone: what it says stays where it is, and
    /// would hide its end, so that this look is the last.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.peer.wants_nothing() && !self.told {
            return Ok(());
        }
        if self.peer.is_given_up() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let watched = self.peer.watched();
        if watched.is_some() != self.told {
            socket2::SockRef::from(&**self.stream.inner()).set_tcp_user_timeout(watched)?;
            self.told = watched.is_some();
        }
        if watched.is_none() {
            return Ok(());
        }
        match self.stream.inner().poll_peek(cx, &mut ReadBuf::new(&mut [0])) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(Ok(_)) => {
                self.peer.end_watch();
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// What a write came to. One that waits is followed by no flush: a client that has gone must not be waited for.
    fn after(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.peer.set_behind(true);
            self.look(cx)?;
        } else if !self.peer.wants_nothing() {
            self.peer.set_behind(false);
        }
        written
    }
}

impl rt::Read for Watched<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: rt::ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl rt::Write for Watched<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.after(written, cx)
    }

    /// hyper flushes at each turn of the connection, also when it has nothing to send.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.after(written, cx)
    }
}
