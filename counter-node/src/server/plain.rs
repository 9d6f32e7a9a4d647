//! Requests that are answered from their bytes, before hyper is asked.
//!
//! A connection begins here. It stays for as long as its client sends nothing but requests that the port's [`Plain`] reads; from the
//! first one on that it does not, hyper has the connection, and whatever has been received of it.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::head_time::HeadTimer;
use super::seldom::Seldom;

/// What reads and answers the plainest requests of a port.
pub trait Plain: Send + Sync + 'static {
    /// A request that was read.
    type Request: Send;

    /// The request at the beginning of `received`, and how many bytes it takes. None: hyper is to see it, be it that its end has
    /// not come yet.
    fn read(&self, received: &[u8]) -> Option<(Self::Request, usize)>;

    /// Appends the answer, head and all, to `answers`. `last`: the connection ends with it, and the answer says so.
    fn answer(&self, request: Self::Request, last: bool, answers: &mut Vec<u8>) -> impl Future<Output = ()> + Send;
}

/// For ports without: hyper sees everything.
impl Plain for () {
    type Request = std::convert::Infallible;

    fn read(&self, _: &[u8]) -> Option<(Self::Request, usize)> {
        None
    }

    async fn answer(&self, request: Self::Request, _: bool, _: &mut Vec<u8>) {
        match request {}
    }
}

/// As much as is received at once. A plain request is far shorter.
const RECEIVED_BYTES_MAX: usize = 4096;
/// Answers to so many bytes of pipelined requests are sent together at most: as many as came at once.
const ANSWERS_KEPT_BYTES: usize = 1024;

/// What has been received.
enum Received<R> {
    /// A plain request, and what came after it.
    Plain(R, Bytes),
    Other(Bytes),
    End,
}

/// Answers plain requests until another one comes, whose bytes, all that are there of it, are returned. None: the connection is over, by
/// its client's end, an error, or the port's.
pub(super) async fn answer<P: Plain>(
    plain: &P,
    stream: &mut TcpStream,
    head_time: Duration,
    (begin, cut): (&CancellationToken, &CancellationToken),
) -> Option<Bytes> {
    let timer = HeadTimer::new();
    let over = pin!(async {
        tokio::select! {
            biased;
            () = begin.cancelled() => {}
            () = timer.overdue(head_time) => {}
        }
    });
    let mut over = pin!(Seldom::new(over));
    let mut answers = Vec::new();
    loop {
        timer.await_head(head_time);
        let (request, mut rest) = tokio::select! {
            biased;
            received = receive(plain, stream) => match received {
                Received::Plain(request, rest) => (request, rest),
                Received::Other(bytes) => return Some(bytes),
                Received::End => return None,
            },
            () = over.as_mut() => return None,
        };
        timer.has_come();
        // The port may have stopped since it was last looked at.
        let last = is_ready(over.as_mut()).await;
        let mut next = Some(request);
        let under_way = async {
            while let Some(request) = next.take() {
                plain.answer(request, last, &mut answers).await;
                if last || rest.is_empty() {
                    break;
                }
                if let Some((request, length)) = plain.read(&rest) {
                    rest.advance(length);
                    next = Some(request);
                }
            }
            stream.write_all(&answers).await
        };
        tokio::select! {
            biased;
            sent = under_way => sent.ok()?,
            () = cut.cancelled() => return None,
        }
        if last {
            return None;
        }
        if !rest.is_empty() {
            return Some(rest);
        }
        answers.clear();
        answers.shrink_to(ANSWERS_KEPT_BYTES);
    }
}

/// What comes next. Nothing is kept while it is waited for, so that whoever stops waiting loses nothing.
async fn receive<P: Plain>(plain: &P, stream: &mut TcpStream) -> Received<P::Request> {
    poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); RECEIVED_BYTES_MAX];
        let mut room = ReadBuf::uninit(&mut room);
        let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(context, &mut room) else { return Poll::Pending };
        Poll::Ready(received(plain, read, room.filled()))
    })
    .await
}

fn received<P: Plain>(plain: &P, read: io::Result<()>, bytes: &[u8]) -> Received<P::Request> {
    if read.is_err() || bytes.is_empty() {
        return Received::End;
    }
    match plain.read(bytes) {
        Some((request, length)) if length == bytes.len() => Received::Plain(request, Bytes::new()),
        Some((request, length)) => Received::Plain(request, Bytes::copy_from_slice(&bytes[length..])),
        None => Received::Other(Bytes::copy_from_slice(bytes)),
    }
}

/// Whether a future has ended, without waiting for that.
async fn is_ready(mut future: Pin<&mut impl Future<Output = ()>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}
