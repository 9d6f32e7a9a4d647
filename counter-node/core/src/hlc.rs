//! The hybrid logical clock behind `updated_at`: wall time when clocks agree, causal order when they do not. No merge
//! of counts depends on it.

use serde::{Deserialize, Serialize};

/// How far, in milliseconds, a peer's clock may run ahead of ours before its messages are refused.
pub const DRIFT_MAX_MS: u64 = 60_000;

/// A moment: milliseconds since the Unix epoch (48 bits), then a logical counter (16 bits) that orders what one
/// millisecond holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hlc(pub u64);

/// A peer's clock is too far ahead of ours; nothing was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer's clock is {ahead_ms} ms ahead of ours, over the limit of {DRIFT_MAX_MS} ms")]
pub struct ClockDrift {
    /// How far ahead it is, in milliseconds.
    pub ahead_ms: u64,
}

impl Hlc {
    /// The first moment of a millisecond since the Unix epoch.
    #[must_use]
    pub fn from_wall_ms(wall_ms: u64) -> Self {
        Self(wall_ms.min(u64::MAX >> 16) << 16)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn wall_ms(self) -> u64 {
        self.0 >> 16
    }

    /// The next moment of a clock that last said `self`, at wall time `now_ms`: later than both, whatever the wall does.
    #[must_use]
    pub fn next(self, now_ms: u64) -> Self {
        Self(self.0.saturating_add(1)).max(Self::from_wall_ms(now_ms))
    }

    /// This clock after it has heard of `peer`'s moment.
    ///
    /// # Errors
    /// [`ClockDrift`] when the peer is more than [`DRIFT_MAX_MS`] ahead of our wall clock and of what we know already.
    pub fn heard(self, peer: Self, now_ms: u64) -> Result<Self, ClockDrift> {
        let ahead_ms = peer.wall_ms().saturating_sub(now_ms.max(self.wall_ms()));
        if ahead_ms > DRIFT_MAX_MS {
            return Err(ClockDrift { ahead_ms });
        }
        Ok(self.max(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_never_goes_back_even_when_the_wall_does() {
        let noon = Hlc::from_wall_ms(1_000);
        let after = noon.next(500);
        assert!(after > noon);
        assert_eq!(after.wall_ms(), 1_000);
        assert_eq!(after.next(2_000), Hlc::from_wall_ms(2_000));
    }

    #[test]
    fn a_peer_too_far_ahead_is_refused_and_one_within_the_bound_is_followed() {
        let clock = Hlc::from_wall_ms(1_000);
        let near = Hlc::from_wall_ms(1_000 + DRIFT_MAX_MS);
        assert_eq!(clock.heard(near, 1_000), Ok(near));
        let far = Hlc::from_wall_ms(1_002 + DRIFT_MAX_MS);
        assert_eq!(clock.heard(far, 1_001), Err(ClockDrift { ahead_ms: DRIFT_MAX_MS + 1 }));
    }
}
