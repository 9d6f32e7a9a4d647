//! What has become of updates under tokens, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::vector::{Applied, Refusal};

/// Updates under tokens that a table was asked for since it was made, by what became of them, but for those that simply counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Answered from the record of an earlier time.
    pub replayed: u64,
    /// This replica's own updates that it took back because another replica had counted the token, too.
    pub refunded: u64,
    /// Refused: the token has been used for another update.
    pub reused: u64,
    /// Refused: made before the window.
    pub expired: u64,
    /// Refused: made in the future.
    pub from_future: u64,
    /// Refused: as many tokens are remembered as may be.
    pub full: u64,
}

/// The same, while it is counted; what is refunded is counted by the slots.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    replayed: AtomicU64,
    reused: AtomicU64,
    expired: AtomicU64,
    from_future: AtomicU64,
    full: AtomicU64,
}

impl Outcomes {
    /// Counts what an update under a token came to.
    pub(super) fn note(&self, outcome: &Result<Applied, Refusal>) {
        let figure = match outcome {
            Ok(applied) if applied.replayed => &self.replayed,
            Err(Refusal::TokenReused) => &self.reused,
            Err(Refusal::TokenExpired { .. }) => &self.expired,
            Err(Refusal::TokenFromFuture { .. }) => &self.from_future,
            Err(Refusal::TooManyTokens { .. }) => &self.full,
            Ok(_)
            | Err(Refusal::NotOwner | Refusal::OutOfRange(_) | Refusal::TooManyCounters { .. } | Refusal::TooMuchMemory { .. }) =>
            {
                return;
            }
        };
        figure.fetch_add(1, Ordering::Relaxed);
    }

    /// As of now.
    pub(super) fn counts(&self, refunded: u64) -> TokenCounts {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        TokenCounts {
            replayed: read(&self.replayed),
            refunded,
            reused: read(&self.reused),
            expired: read(&self.expired),
            from_future: read(&self.from_future),
            full: read(&self.full),
        }
    }
}
