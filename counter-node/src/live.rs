//! Live counts: who is connected, which pages they look at, and what they are sent. Two ways in, WebSocket ([`socket`]) and
//! server-sent events ([`stream`]), on one [`hub`]; `docs/live.md` has the protocol as clients see it.
//!
//! **Invariants.**
//! - Whatever a client opens (place, subscription, session) ends with its connection, however that ends: by `Drop`.
//! - Nothing queues per client but marks: whoever is slow gets the newest count of each page, and is cut off when it takes
//!   nothing for a heartbeat.
//! - A count is written as text once, however many get it.

pub mod admission;
pub mod claims;
pub mod echo;
pub mod hub;
mod mailbox;
pub mod messages;
mod metrics;
mod opening;
mod pace;
pub mod site;
pub mod socket;
pub mod stream;
pub mod subscriptions;
pub mod unread;
mod value;
mod wire;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use counter_core::counter::Key;
use futures::future::BoxFuture;
use rand::Rng as _;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::handover::{Answer, HandOver, Handed};
use crate::members::Members;
use crate::peers::Peers;
use crate::sessions::Sessions;

pub use admission::{Admission, AdmissionLimits, Place, Refused};
pub use hub::{Attendance, Hub, Subject};
pub use metrics::LiveMetrics;
pub use opening::{Opening, Who};
pub use subscriptions::{Mode, Subscriptions, TooManyPages};
pub use value::{Count, Value};

/// Pages that one connection may look at.
pub const PAGES_MAX: usize = 100;
/// How long clients are to wait, at least and at most, before they connect anew, in milliseconds; longer where they are more than another
/// node takes in that time.
const RETRY_MS: [u64; 2] = [200, 3_000];
/// The longest time over which the clients of a stopping node are spread, in milliseconds.
const SPREAD_MS_MAX: u64 = 30_000;

/// What the live part is told at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    /// A client that is not heard for so long is gone.
    pub heartbeat: Duration,
    /// A node that is not heard for so long is gone, and its viewers with it.
    pub lease: Duration,
    pub admission: AdmissionLimits,
    /// Subscriptions of the users whose unread counts are followed, all together: then nobody else is followed.
    pub unread_max: usize,
}

/// Who a viewer is, as a hash that is the same on every node: of the user or, where that is not said, of the session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name(pub u64);

impl Name {
    /// The name of a user.
    #[must_use]
    pub fn of_user(user: &str) -> Self {
        Self(xxh3_64_with_seed(user.as_bytes(), 1))
    }

    /// The name of a session that does not say whose it is.
    #[must_use]
    pub fn of_session(id: &str) -> Self {
        Self(xxh3_64_with_seed(id.as_bytes(), 2))
    }
}

/// Where a page's attendance is made known to the cluster: the presence protocol.
pub trait Registrar: Send + Sync + 'static {
    /// What [`Hub::attendance`] says of the page has changed.
    fn refresh(&self, page: &Key);
    /// Whether anyone here follows what a user has not read, as [`Hub::follows`] says, has changed.
    fn refresh_user(&self, user: &Key);
    /// Whether there is room to follow what the user has not read.
    fn may_follow(&self, user: &Key) -> bool;
    /// One of the page's viewers has this name; said after [`Self::refresh`].
    fn name_came(&self, page: &Key, name: Name);
    /// A viewer of this name has left.
    fn name_left(&self, page: &Key, name: Name);
    /// Waits until all that was said before is known to whoever counts, for a moment at most.
    fn told(&self) -> BoxFuture<'_, ()>;
}

/// The live part of a node.
pub struct Live {
    pub config: LiveConfig,
    pub hub: Arc<Hub>,
    pub admission: Arc<Admission>,
    pub metrics: Arc<LiveMetrics>,
    pub sessions: Arc<Sessions>,
    pub hand_over: Arc<HandOver>,
    pub members: Arc<Members>,
    registrar: Arc<dyn Registrar>,
    connections: AtomicU64,
}

impl Live {
    /// The live part over `hub`, whose attendance `registrar` makes known. `start` is this process's number.
    #[must_use]
    pub fn new(config: LiveConfig, hub: Arc<Hub>, registrar: Arc<dyn Registrar>, peers: Option<Peers>, start: u64) -> Arc<Self> {
        let metrics = hub.metrics().clone();
        let admission = Admission::new(config.admission, metrics.clone());
        let members = Arc::new(Members::new(peers, config.lease));
        let sessions = Sessions::new(hub.clone(), registrar.clone(), members.clone(), start, config.heartbeat);
        let hand_over = HandOver::new(hub.clone(), registrar.clone(), members.clone(), start);
        let connections = AtomicU64::new(0);
        Arc::new(Self { config, hub, admission, metrics, sessions, hand_over, members, registrar, connections })
    }

    /// For an API whose pages nobody watches: the command line's, and tests'.
    #[must_use]
    pub fn alone(config: LiveConfig) -> Arc<Self> {
        struct Nobody;
        impl Registrar for Nobody {
            fn refresh(&self, _: &Key) {}
            fn refresh_user(&self, _: &Key) {}
            fn may_follow(&self, _: &Key) -> bool {
                true
            }
            fn name_came(&self, _: &Key, _: Name) {}
            fn name_left(&self, _: &Key, _: Name) {}
            fn told(&self) -> BoxFuture<'_, ()> {
                Box::pin(std::future::ready(()))
            }
        }
        Self::new(config, Arc::new(Hub::new(Arc::default())), Arc::new(Nobody), None, 0)
    }

    /// Whether what the user has not read can be followed here now.
    ///
    /// # Errors
    /// [`Refused::Unread`], which has been counted.
    pub fn admit_follower(&self, user: &Key) -> Result<(), Refused> {
        let refused = self.refuses_follower(user);
        if refused.is_some() {
            self.metrics.refused_unread.fetch_add(1, Ordering::Relaxed);
        }
        refused.map_or(Ok(()), Err)
    }

    fn refuses_follower(&self, user: &Key) -> Option<Refused> {
        (!self.registrar.may_follow(user)).then_some(Refused::Unread { limit: self.config.unread_max })
    }

    /// Why a connection from this address, which would follow this user, would have to wait now; none: it would not. Takes no place.
    #[must_use]
    pub fn advice(&self, user: Option<&Key>, address: IpAddr, now: Instant) -> Option<Refused> {
        user.and_then(|user| self.refuses_follower(user)).or_else(|| self.admission.advice(address, now))
    }

    fn refresh(&self, subject: &Subject) {
        match subject {
            Subject::Page(page) => self.registrar.refresh(page),
            Subject::User(user) => self.registrar.refresh_user(user),
            Subject::Site => {}
        }
    }

    /// A number that no other connection of this process has.
    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// By what a client that connects anew names its session here.
    fn resume_token(&self, connection: u64) -> String {
        self.hand_over.token(connection).to_string()
    }

    /// After how many milliseconds a client of this node, which is stopping, should connect anew: its clients are spread over the
    /// time in which one other node would take them.
    fn reconnect_after_ms(&self) -> u64 {
        rand::rng().random_range(0..=self.spread_ms())
    }

    /// How long a client is to wait, at least and at most, if this node is gone all at once.
    fn retry_ms(&self) -> [u64; 2] {
        [RETRY_MS[0], self.spread_ms().max(RETRY_MS[1])]
    }

    fn spread_ms(&self) -> u64 {
        spread_ms(self.admission.open(), self.config.admission.per_second)
    }

    /// This node is about to exit. Its viewers count on, for as long as their clients may take to come back elsewhere: until the last
    /// one may try, and as long as a dead node's would. To be called before any client is told to go.
    pub fn begin_leaving(&self) {
        let grace = Duration::from_millis(self.spread_ms()) + self.config.lease;
        self.admission.close();
        if self.hand_over.begin(grace) {
            self.sessions.begin_leaving(grace);
        }
    }

    /// Hands over what [`Self::begin_leaving`] has kept, and what has come since when the last client has gone, for so long at most.
    pub async fn hand_over(&self, timeout: Duration) {
        let began = Instant::now();
        let hand_on = async || {
            futures::future::join(self.hand_over.hand_on(), self.sessions.hand_on()).await;
        };
        let handed = async {
            hand_on().await;
            // A client that takes nothing is no reason to wait longer; nor to have no time left for those who came.
            let left = timeout.saturating_sub(began.elapsed());
            let _ = tokio::time::timeout(left / 2, self.admission.ended()).await;
            hand_on().await;
        };
        if tokio::time::timeout(timeout, handed).await.is_err() {
            tracing::warn!("not all viewers could be handed over in time; they count again when their clients are back");
        }
    }

    /// Takes over what another node hands to this one, and makes it known before it says so. None: this node is about to exit.
    pub async fn take_over(&self, handed: Handed) -> Option<Vec<Answer>> {
        let taken = match handed {
            Handed::Orphans(bequest) => Some(vec![self.hand_over.inherit(bequest).into()]),
            Handed::Claims(claims) => {
                self.sessions.take(&claims, true).map(|stand| stand.into_iter().map(Answer::from).collect())
            }
            Handed::Resumed(resumptions) => return Some(self.hand_over.end_resumed(&resumptions)),
        };
        self.registrar.told().await;
        taken
    }

    /// How often clients are pinged.
    fn ping_interval(&self) -> Duration {
        self.config.heartbeat / 2
    }
}

/// The time in which a node that takes so many new clients a second takes these.
fn spread_ms(clients: u64, per_second: u32) -> u64 {
    (clients.saturating_mul(1_000) / u64::from(per_second.max(1))).clamp(RETRY_MS[0], SPREAD_MS_MAX)
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_the_time_in_which_another_node_takes_them() {
        for (clients, per_second, ms) in
            [(0, 5_000, 200), (10_000, 5_000, 2_000), (100_000, 5_000, 20_000), (u64::MAX, 0, 30_000)]
        {
            assert_eq!(spread_ms(clients, per_second), ms, "{clients}");
        }
    }
}
