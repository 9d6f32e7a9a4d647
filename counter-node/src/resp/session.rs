//! What a connection is between its requests.

use std::net::SocketAddr;
use std::time::Instant;

/// Which of its replies a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// All but the next one's.
    SkipNext,
    /// All but this one.
    SkipThis,
    None,
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    /// Where the client reached this node.
    pub(super) local: SocketAddr,
    pub(super) since: Instant,
    pub(super) name: Vec<u8>,
    pub(super) library: Vec<u8>,
    pub(super) library_version: Vec<u8>,
    /// The token that it gave. None where none is needed, or none was given yet.
    pub(super) password: Option<Vec<u8>>,
    pub(super) wanted: Wanted,
}

impl Session {
    pub(super) fn new(id: u64, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            id,
            peer,
            local,
            since: Instant::now(),
            name: Vec::new(),
            library: Vec::new(),
            library_version: Vec::new(),
            password: None,
            wanted: Wanted::All,
        }
    }

    /// As it was when it came.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.id, self.peer, self.local);
    }
}
