//! The other end of a connection, as those see it who answer its requests: whence it comes, how it leaves HTTP,
//! and that it is to be watched while an answer goes on.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// One client's connection. Cheap to clone.
#[derive(Clone)]
pub struct Peer {
    /// Its address, as this machine sees it: behind a proxy, the proxy's.
    pub from: SocketAddr,
    wishes: Arc<Wishes>,
}

/// What those who answer want of the connection.
#[derive(Default)]
struct Wishes {
    successor: Mutex<Option<Successor>>,
    state: AtomicU8,
    give_up_ms: AtomicU32,
    /// Whoever waits until the client takes more.
    waiting: AtomicWaker,
}

/// The client is looked at while an answer goes on.
const WATCHED: u8 = 1;
/// It has not taken all that was written.
const BEHIND: u8 = 2;
/// It is not waited for any longer.
const GIVEN_UP: u8 = 4;

/// For as long as this is there, the connection ends when its client goes, whatever is being answered.
#[must_use]
pub struct Watch(Arc<Wishes>);

/// What speaks on a connection after HTTP.
pub(super) type Successor = Box<dyn FnOnce(TakenOver) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// A connection on which HTTP has ended with an upgrade.
#[derive(Debug)]
pub struct TakenOver {
    pub stream: TcpStream,
    /// What the client has sent already.
    pub early: Bytes,
    /// Cancelled: end in good order.
    pub begin: CancellationToken,
    /// Cancelled: end at once.
    pub cut: CancellationToken,
}

impl Peer {
    /// A connection from this address.
    #[must_use]
    pub fn new(from: SocketAddr) -> Self {
        Self { from, wishes: Arc::default() }
    }

    /// Has `successor` go on with the connection once the answer to the present request, which must be a 101, is sent.
    pub fn take_over<F>(&self, successor: impl FnOnce(TakenOver) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *lock(&self.wishes.successor) = Some(Box::new(move |connection| Box::pin(successor(connection))));
    }

    /// Has the connection end when its client goes, be it only that it says no more, though the present request is not answered to
    /// its end. Other answers go on to theirs; and so does this one when the client sends something more before it goes: then a write
    /// that fails ends it. One whose machine acknowledges nothing for `give_up_after` has gone. Over HTTP/2 all answers end with the
    /// connection.
    pub fn watch(&self, give_up_after: Duration) -> Watch {
        self.wishes.give_up_ms.store(u32::try_from(give_up_after.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.wishes.set(WATCHED, true);
        Watch(Arc::clone(&self.wishes))
    }

    /// Whether there is nothing that a connection has to look after.
    pub(super) fn wants_nothing(&self) -> bool {
        self.wishes.state.load(Ordering::Relaxed) == 0
    }

    /// How long the client's machine may acknowledge nothing, if it is watched.
    pub(super) fn watched(&self) -> Option<Duration> {
        let give_up_ms = self.wishes.give_up_ms.load(Ordering::Relaxed);
        self.wishes.is(WATCHED).then(|| Duration::from_millis(give_up_ms.into()))
    }

    pub(super) fn end_watch(&self) {
        self.wishes.set(WATCHED, false);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.wishes.is(GIVEN_UP)
    }

    /// The client does, or does not, take what is written.
    pub(super) fn set_behind(&self, behind: bool) {
        if self.wishes.is(BEHIND) != behind {
            self.wishes.set(BEHIND, behind);
            self.wishes.waiting.wake();
        }
    }

    pub(super) fn successor(&self) -> Option<Successor> {
        lock(&self.wishes.successor).take()
    }
}

impl Wishes {
    fn is(&self, bit: u8) -> bool {
        self.state.load(Ordering::Acquire) & bit != 0
    }

    fn set(&self, bit: u8, on: bool) {
        if on {
            self.state.fetch_or(bit, Ordering::AcqRel);
        } else {
            self.state.fetch_and(!bit, Ordering::AcqRel);
        }
    }
}

impl Watch {
    /// Ready while the client takes what is sent. hyper would keep whatever it is given.
    pub fn poll_taking(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.is(BEHIND) {
            self.0.waiting.register(cx.waker());
        }
        // Looked at again: it may have changed before there was anyone to wake.
        if self.0.is(BEHIND) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Has the connection end at the end of this turn, whatever has not been sent.
    pub fn give_up(&self) {
        self.0.set(GIVEN_UP, true);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.set(WATCHED, false);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("from", &self.from).finish_non_exhaustive()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
