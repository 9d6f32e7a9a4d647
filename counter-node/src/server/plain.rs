//! Requests that are answered from their bytes, before hyper is asked.
//!
//! A connection begins here. It stays for as long as its client sends nothing but requests that the port's [`Plain`] reads; from the
//! first one on that it does not, hyper has the connection, and whatever has been received of it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::future::poll_immediate;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::head_time::HeadTimer;
use super::seldom::Seldom;

/// What reads and answers the plainest requests of a port.
pub trait Plain: Send + Sync + 'static {
    /// A request that was read.
    type Request: Send;
    /// What it is answered.
    type Answer: Send;

    /// The request at the beginning of `received`, and how many bytes it takes. None: hyper is to see it, be it that its end has
    /// not come yet.
    fn read(&self, received: &[u8]) -> Option<(Self::Request, usize)>;

    /// What the request is answered.
    fn answer(&self, request: Self::Request) -> impl Future<Output = Self::Answer> + Send;

    /// Appends the answer, head and all, to `answers`. `last`: the connection ends with it, and the answer says so.
    fn write(&self, answer: Self::Answer, last: bool, answers: &mut Vec<u8>);
}

/// For ports without: hyper sees everything.
impl Plain for () {
    type Request = Infallible;
    type Answer = Infallible;

    fn read(&self, _: &[u8]) -> Option<(Self::Request, usize)> {
        None
    }

    async fn answer(&self, request: Infallible) -> Infallible {
        request
    }

    fn write(&self, answer: Infallible, _: bool, _: &mut Vec<u8>) {
        match answer {}
    }
}

/// As much as is received at once. A plain request is far shorter; and hyper, which has room for 8 KiB, takes all of it with its first
/// read, so that nothing is left behind where a connection is handed over next.
const RECEIVED_BYTES_MAX: usize = 4096;
/// An idle connection keeps room for answers of so many bytes.
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
    let cut = pin!(cut.cancelled());
    let mut cut = pin!(Seldom::new(cut));
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
        let (mut next, mut last) = (Some(request), false);
        while let Some(request) = next.take() {
            let answering = pin!(plain.answer(request));
            let answer = answered(answering, stream, (&mut answers, rest.is_empty()), (head_time, cut.as_mut())).await?;
            // Looked at after the request: the port may have stopped meanwhile, and begins no other then.
            last = poll_immediate(over.as_mut()).await.is_some();
            plain.write(answer, last, &mut answers);
            if !last
                && !rest.is_empty()
                && let Some((request, length)) = plain.read(&rest)
            {
                rest.advance(length);
                next = Some(request);
            }
        }
        send(stream, &answers, (head_time, cut.as_mut())).await?;
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

/// What is answered after `answers`, which are sent, as hyper does it, before the last request that came is waited for. None: the
/// connection is over.
async fn answered<A>(
    mut answering: Pin<&mut impl Future<Output = A>>,
    stream: &mut TcpStream,
    (answers, is_last): (&mut Vec<u8>, bool),
    (head_time, mut cut): (Duration, Pin<&mut impl Future<Output = ()>>),
) -> Option<A> {
    if is_last && !answers.is_empty() {
        if let Some(answer) = poll_immediate(answering.as_mut()).await {
            return Some(answer);
        }
        send(stream, answers, (head_time, cut.as_mut())).await?;
        answers.clear();
    }
    tokio::select! {
        biased;
        answer = answering => Some(answer),
        () = cut => {
            // As much as the socket takes.
            let _ = stream.try_write(answers);
            None
        }
    }
}

/// Sends the answers, for which a client has as long as for a request's head. None: the connection is over.
async fn send(
    stream: &mut TcpStream,
    answers: &[u8],
    (head_time, cut): (Duration, Pin<&mut impl Future<Output = ()>>),
) -> Option<()> {
    tokio::select! {
        biased;
        sent = stream.write_all(answers) => sent.ok(),
        () = cut => None,
        // Hardly ever asked, and no timer before that.
        () = async { tokio::time::sleep(head_time).await } => None,
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
