//! Who may open a live connection: so many at once, so many from one address, so many a second. Whoever may not is told when to
//! come again, later the more there are, so that a herd comes back spread.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rand::Rng as _;
use tokio::sync::Notify;

use super::metrics::LiveMetrics;
use crate::lock::lock;

/// The longest that anyone is told to wait, in seconds.
const WAIT_S_MAX: u32 = 60;

/// Bounds on live connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// At once.
    pub open: usize,
    /// At once from one address; none: as many as from all.
    pub per_address: Option<usize>,
    /// New ones a second, and as many in a burst.
    pub per_second: u32,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Open {
        limit: usize,
    },
    Address {
        limit: usize,
    },
    /// Try again after so many seconds.
    Rate {
        limit: u32,
        after_s: u32,
    },
    /// So many subscriptions of users are followed: said of one user more, by [`super::Live::admit_follower`].
    Unread {
        limit: usize,
    },
    /// The node is about to exit.
    Stopping,
}

/// The doorkeeper.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    state: Mutex<State>,
    /// The node is about to exit, and the last connection has ended.
    ended: Notify,
    metrics: Arc<LiveMetrics>,
}

#[derive(Debug)]
struct State {
    open: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections that may come now, as far as the rate goes, in thousandths.
    allowance: u64,
    /// Until when the allowance is reckoned.
    reckoned: Instant,
    /// Refused for the rate since there was allowance left over.
    turned_away: u64,
    /// The node is about to exit.
    closed: bool,
}

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(super) fn new(limits: AdmissionLimits, metrics: Arc<LiveMetrics>) -> Arc<Self> {
        let state = State {
            open: 0,
            by_address: HashMap::new(),
            allowance: u64::from(limits.per_second) * 1_000,
            reckoned: Instant::now(),
            turned_away: 0,
            closed: false,
        };
        Arc::new(Self { limits, state: Mutex::new(state), ended: Notify::new(), metrics })
    }

    /// Takes a connection from this address, or says why not.
    ///
    /// # Errors
    /// [`Refused`], which has been counted.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now: Instant) -> Result<Place, Refused> {
        let refused = lock(&self.state).refusal(&self.limits, address, now);
        let Some(refused) = refused else {
            return Ok(Place { admission: self.clone(), address });
        };
        let figure = match refused {
            Refused::Open { .. } => &self.metrics.refused_open,
            Refused::Address { .. } => &self.metrics.refused_address,
            Refused::Rate { .. } => &self.metrics.refused_rate,
            Refused::Unread { .. } => &self.metrics.refused_unread,
            Refused::Stopping => &self.metrics.refused_stopping,
        };
        figure.fetch_add(1, Ordering::Relaxed);
        Err(refused)
    }

    /// Why a connection from this address would have to wait now; none: it would not. For clients that cannot see why theirs was refused:
    /// it takes no place, and is not counted.
    #[must_use]
    pub fn advice(&self, address: IpAddr, now: Instant) -> Option<Refused> {
        let mut state = lock(&self.state);
        state.no_room(&self.limits, address).or_else(|| {
            state.reckon(self.limits.per_second, now);
            (state.turned_away > 0).then(|| state.in_its_turn(self.limits.per_second))
        })
    }

    /// Takes no connection any more.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
    }

    /// Waits until no connection is open, once it has been closed.
    pub(super) async fn ended(&self) {
        if self.open() > 0 {
            self.ended.notified().await;
        }
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> u64 {
        lock(&self.state).open as u64
    }
}

impl State {
    /// Why there is no place; none: it has been taken.
    fn refusal(&mut self, limits: &AdmissionLimits, address: IpAddr, now: Instant) -> Option<Refused> {
        if let Some(refused) = self.no_room(limits, address) {
            return Some(refused);
        }
        self.reckon(limits.per_second, now);
        let Some(rest) = self.allowance.checked_sub(1_000) else {
            self.turned_away += 1;
            return Some(self.in_its_turn(limits.per_second));
        };
        self.allowance = rest;
        self.open += 1;
        *self.by_address.entry(address).or_default() += 1;
        None
    }

    /// Why there would be no place even at the lowest rate.
    fn no_room(&self, limits: &AdmissionLimits, address: IpAddr) -> Option<Refused> {
        if self.closed {
            return Some(Refused::Stopping);
        }
        if self.open >= limits.open {
            return Some(Refused::Open { limit: limits.open });
        }
        let from_address = self.by_address.get(&address).copied().unwrap_or(0);
        limits.per_address.filter(|limit| from_address >= *limit).map(|limit| Refused::Address { limit })
    }

    /// Those who were turned away come back over the time in which they can be taken.
    fn in_its_turn(&self, limit: u32) -> Refused {
        let queue_s = u32::try_from(self.turned_away / u64::from(limit.max(1))).unwrap_or(u32::MAX);
        let after_s = rand::rng().random_range(1..=queue_s.saturating_add(1).min(WAIT_S_MAX));
        Refused::Rate { limit, after_s }
    }

    /// Reckons until now how many may come.
    fn reckon(&mut self, per_second: u32, now: Instant) {
        let passed_ms = u64::try_from(now.saturating_duration_since(self.reckoned).as_millis()).unwrap_or(u64::MAX);
        if passed_ms == 0 {
            return;
        }
        let full = u64::from(per_second) * 1_000;
        self.allowance = self.allowance.saturating_add(passed_ms.saturating_mul(per_second.into())).min(full);
        self.reckoned = now;
        if self.allowance == full {
            self.turned_away = 0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = lock(&self.admission.state);
        state.open = state.open.saturating_sub(1);
        if state.closed && state.open == 0 {
            self.admission.ended.notify_one();
        }
        if let Some(from_address) = state.by_address.get_mut(&self.address) {
            *from_address = from_address.saturating_sub(1);
            if *from_address == 0 {
                state.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn admission(open: usize, per_address: Option<usize>, per_second: u32) -> Arc<Admission> {
        Admission::new(AdmissionLimits { open, per_address, per_second }, Arc::default())
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let (admission, now) = (admission(2, Some(1), 100), Instant::now());
        let first = admission.admit(HERE, now).unwrap();
        assert_eq!(admission.admit(HERE, now).unwrap_err(), Refused::Address { limit: 1 });
        let _second = admission.admit(THERE, now).unwrap();
        assert_eq!(admission.admit(THERE, now).unwrap_err(), Refused::Open { limit: 2 });
        assert_eq!(admission.advice(THERE, now), Some(Refused::Open { limit: 2 }));
        drop(first);
        assert_eq!(admission.open(), 1);
        drop(admission.admit(HERE, now).unwrap());
        assert_eq!(lock(&admission.state).by_address.len(), 1, "an address without connections is remembered");
    }

    #[tokio::test]
    async fn a_node_that_stops_takes_nobody_and_knows_when_the_last_one_has_gone() {
        let (admission, now) = (admission(2, None, 100), Instant::now());
        let places = [admission.admit(HERE, now).unwrap(), admission.admit(THERE, now).unwrap()];
        admission.close();
        assert_eq!(admission.admit(HERE, now).unwrap_err(), Refused::Stopping);
        let waits = tokio::spawn({
            let admission = admission.clone();
            async move { admission.ended().await }
        });
        let [first, second] = places;
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waits.is_finished(), "one is open");
        drop(second);
        waits.await.unwrap();
        admission.ended().await;
    }

    #[test]
    fn a_herd_is_told_to_come_back_spread_and_no_later_than_a_minute() {
        let (admission, now) = (admission(1_000, None, 10), Instant::now());
        let places: Vec<_> = (0..10).map(|_| admission.admit(HERE, now).unwrap()).collect();
        let mut latest = 0;
        for turned_away in 1..2_000_u32 {
            let Err(Refused::Rate { limit: 10, after_s }) = admission.admit(HERE, now) else { panic!("{turned_away}") };
            assert!((1..=turned_away / 10 + 1).contains(&after_s), "{turned_away}: {after_s}");
            latest = latest.max(after_s);
        }
        assert!((30..=WAIT_S_MAX).contains(&latest), "{latest}");
        // Who asks when to come is told as they are, takes nothing, and makes nobody wait longer.
        for _ in 0..1_000 {
            assert!(matches!(admission.advice(HERE, now), Some(Refused::Rate { after_s: 1..=WAIT_S_MAX, .. })));
        }
        assert_eq!(lock(&admission.state).turned_away, 1_999);
        // A tenth of a second brings one place, and no more.
        let later = now + Duration::from_millis(100);
        let _next = admission.admit(HERE, later).unwrap();
        assert!(admission.admit(HERE, later).is_err());
        assert_eq!(admission.open(), 11);
        drop(places);
        assert_eq!(admission.advice(HERE, later + Duration::from_secs(1)), None, "the herd has passed");
    }
}
