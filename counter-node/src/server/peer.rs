//! The other end of a connection, as those see it who answer its requests: whence it comes, how it leaves HTTP,
//! and that it is to be watched while an answer goes on.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
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
    watched: AtomicBool,
}

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
    /// that fails ends it. Over HTTP/2 all answers end with the connection.
    pub fn watch(&self) -> Watch {
        self.wishes.watched.store(true, Ordering::Relaxed);
        Watch(Arc::clone(&self.wishes))
    }

    pub(super) fn is_watched(&self) -> bool {
        self.wishes.watched.load(Ordering::Relaxed)
    }

    pub(super) fn end_watch(&self) {
        self.wishes.watched.store(false, Ordering::Relaxed);
    }

    pub(super) fn successor(&self) -> Option<Successor> {
        lock(&self.wishes.successor).take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.watched.store(false, Ordering::Relaxed);
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
