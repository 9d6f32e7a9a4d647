//! The node's clocks: the wall behind `updated_at`, and the monotonic one that the protocols' time-outs run on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use counter_core::hlc::{ClockDrift, Hlc};
use counter_core::replica::Now;

/// The hybrid logical clock of this process; every moment it gives is later than all before.
#[derive(Debug)]
pub struct Clock {
    started: Instant,
    last: AtomicU64,
}

impl Clock {
    /// A clock that starts at the wall's time.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0) }
    }

    /// The next moment.
    #[must_use]
    pub fn tick(&self) -> Hlc {
        let now_ms = wall_ms();
        let next = |last: u64| Some(Hlc(last).next(now_ms).0);
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_else(|last| last);
        Hlc(last).next(now_ms)
    }

    /// The last moment given or heard of.
    #[must_use]
    pub fn last(&self) -> Hlc {
        Hlc(self.last.load(Ordering::Relaxed))
    }

    /// Follows a peer's clock.
    ///
    /// # Errors
    /// [`ClockDrift`] when it is too far ahead; this clock stays as it was.
    pub fn hear(&self, peer: Hlc) -> Result<(), ClockDrift> {
        let heard = self.last().heard(peer, wall_ms())?;
        self.last.fetch_max(heard.0, Ordering::Relaxed);
        Ok(())
    }

    /// What the protocols are told.
    #[must_use]
    pub fn now(&self) -> Now {
        let monotonic_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic_ms, wall_ms: wall_ms() }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn wall_ms() -> u64 {
    // A wall clock before 1970 counts as 1970: only `updated_at` shows it.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_never_repeat_and_follow_what_was_heard() {
        let clock = Clock::new();
        let first = clock.tick();
        assert!(clock.tick() > first);
        let ahead = Hlc::from_wall_ms(wall_ms() + 10_000);
        clock.hear(ahead).unwrap();
        assert!(clock.tick() > ahead);
    }

    #[test]
    fn a_peer_far_ahead_does_not_drag_the_clock_along() {
        let clock = Clock::new();
        let before = clock.tick();
        assert!(clock.hear(Hlc::from_wall_ms(wall_ms() + 10_000_000)).is_err());
        assert!(clock.tick().wall_ms() < before.wall_ms() + 1_000_000);
    }
}
