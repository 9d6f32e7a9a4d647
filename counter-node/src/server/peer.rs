//! The other end of a connection, as those see it who answer its requests: whence it comes, and how it leaves HTTP.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
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
    successor: Arc<Mutex<Option<Successor>>>,
}

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
        Self { from, successor: Arc::default() }
    }

    /// Has `successor` go on with the connection once the answer to the present request, which must be a 101, is sent.
    pub fn take_over<F>(&self, successor: impl FnOnce(TakenOver) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        *lock(&self.successor) = Some(Box::new(move |connection| Box::pin(successor(connection))));
    }

    pub(super) fn successor(&self) -> Option<Successor> {
        lock(&self.successor).take()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("from", &self.from).finish_non_exhaustive()
    }
}
