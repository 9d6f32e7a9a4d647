//! How the operator is asked to stop: Ctrl-C and SIGTERM, once for an orderly end, twice for a quick one.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for the end.
pub(super) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// When the system does not let them be caught.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // The terminal's window was closed.
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
