use super::*;

const TIMING: Timing = Timing {
    lease_duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

fn held_by(holder: &str, renewed_s: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        renew_time: Some(MicroTime(Timestamp::from_second(renewed_s).unwrap())),
        ..LeaseSpec::default()
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_lease_that_nobody_holds_is_taken() {
    let now = Instant::now();
    for spec in [None, Some(LeaseSpec::default()), Some(held_by("", 0))] {
        let sight = Sight::update(None, spec, now);
        assert_eq!(sight.decide("me", &TIMING, now), Decision::Take);
    }
}

#[test]
fn a_holder_that_was_just_seen_is_waited_for_however_old_its_renew_time_is() {
    let now = Instant::now();
    let sight = Sight::update(None, Some(held_by("other", 0)), now);
    assert_eq!(sight.decide("me", &TIMING, now), Decision::Wait);
    assert_eq!(sight.decide("me", &TIMING, now + seconds(15)), Decision::Wait);
    assert_eq!(sight.decide("me", &TIMING, now + seconds(16)), Decision::Take);
}

#[test]
fn a_renewal_restarts_the_wait() {
    let start = Instant::now();
    let sight = Sight::update(None, Some(held_by("other", 0)), start);
    let sight = Sight::update(Some(sight), Some(held_by("other", 1)), start + seconds(14));
    assert_eq!(sight.decide("me", &TIMING, start + seconds(20)), Decision::Wait);
    let sight = Sight::update(Some(sight), Some(held_by("other", 1)), start + seconds(29));
    assert_eq!(sight.decide("me", &TIMING, start + seconds(30)), Decision::Take);
}

#[test]
fn the_holders_own_duration_counts_not_ours() {
    let now = Instant::now();
    let spec = LeaseSpec { lease_duration_seconds: Some(60), ..held_by("other", 0) };
    let sight = Sight::update(None, Some(spec), now);
    assert_eq!(sight.decide("me", &TIMING, now + seconds(59)), Decision::Wait);
    assert_eq!(sight.decide("me", &TIMING, now + seconds(61)), Decision::Take);
}

#[test]
fn a_lease_that_an_unanswered_request_of_ours_took_is_ours() {
    let now = Instant::now();
    assert_eq!(Sight::update(None, Some(held_by("me", 0)), now).decide("me", &TIMING, now), Decision::Take);
}

#[test]
fn a_fence_closes_by_time_alone() {
    let now = Instant::now();
    let fence = Fence::default();
    assert!(!fence.admits(now));
    fence.set(Until::Open(now + seconds(10)));
    assert!(fence.admits(now + seconds(9)));
    assert!(!fence.admits(now + seconds(10)));
    fence.set(Until::Closed);
    assert!(!fence.admits(now));
    assert!(Fence::open().admits(now));
}
