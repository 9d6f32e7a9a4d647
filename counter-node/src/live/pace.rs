//! How often a page's subscribers are told: at once after a rest, then at most ten times a second, and less often the more
//! there are.

use std::time::Duration;

/// Between two counts of a page, at the least.
const LEAST: Duration = Duration::from_millis(100);
/// Each subscriber's share of the time between two counts: so many messages a second leave for one page, whatever its audience.
const EACH: Duration = Duration::from_micros(100);
/// Between two counts, at the most.
const MOST: Duration = Duration::from_secs(5);

/// The time between two counts for an audience of this size.
pub(super) fn interval(subscribers: usize) -> Duration {
    EACH.saturating_mul(u32::try_from(subscribers).unwrap_or(u32::MAX)).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_an_audience_is_the_more_seldom_it_is_told() {
        let millis = |subscribers| interval(subscribers).as_millis();
        assert_eq!([0, 1, 1_000, 10_000, 1_000_000].map(millis), [100, 100, 100, 1_000, 5_000]);
    }
}
