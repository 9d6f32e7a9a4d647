//! Sessions that bring an id: by socket or by heartbeats, through whichever node, one id is one viewer, since all who claim it do
//! so at one node. Which, rendezvous hashing says: of the nodes that answer, the one with the highest hash of node and id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use counter_core::id::NodeName;
use counter_core::message::Envelope;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::live::claims::{Claimant, Claims, Full, Session};
use crate::live::{Hub, Name, Registrar};
use crate::lock::lock;
use crate::peers::{PeerClient, SESSIONS_PATH};
use crate::protocol::Protocol;
use crate::tokens::ClusterTokens;

/// How often claims are looked through for those that are over.
const LOOK: Duration = Duration::from_millis(250);
/// How long a holder may take to answer.
const TIMEOUT: Duration = Duration::from_millis(700);
/// How many nodes are tried, one after the other.
const TRIES: usize = 3;
/// For how long a node that did not answer is left out.
const LEFT_OUT: Duration = Duration::from_secs(2);
/// Claims of one message.
const AT_ONCE: usize = 1_024;

/// What an edge tells a holder. A list of them is one request; its answer is a list of whether each was taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    session: Session,
    /// Whose it is, if that is said.
    user: Option<Name>,
    claimant: Claimant,
    /// For how long it stands, in milliseconds; 0 ends it.
    for_ms: u64,
}

/// Why a session could not be claimed; it does not count.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("no node that could hold the session answers")]
    Unreachable,
}

/// The way to other nodes.
pub struct Cluster {
    pub protocol: Arc<Protocol>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
}

/// This node as a holder of sessions with ids, and as the edge through which others are claimed.
pub struct Sessions {
    hub: Arc<Hub>,
    registrar: Arc<dyn Registrar>,
    /// None: this node is all there is.
    cluster: Option<Cluster>,
    /// This process, as claims name it.
    start: u64,
    heartbeat: Duration,
    lease: Duration,
    held: Mutex<Claims>,
    /// What connections of this node claim, renewed until they end.
    own: Mutex<HashMap<(Session, u64), Option<Name>>>,
    /// When each start of a node was last heard.
    heard: Mutex<HashMap<u64, Instant>>,
    /// Nodes that did not answer, and until when they are left out.
    left_out: Mutex<HashMap<NodeName, Instant>>,
}

/// How long things stand.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    pub heartbeat: Duration,
    pub lease: Duration,
}

impl Sessions {
    /// No sessions yet. Those held count in `hub`, which `registrar` makes known.
    #[must_use]
    pub fn new(hub: Arc<Hub>, registrar: Arc<dyn Registrar>, cluster: Option<Cluster>, start: u64, times: Times) -> Arc<Self> {
        Arc::new(Self {
            hub,
            registrar,
            cluster,
            start,
            heartbeat: times.heartbeat,
            lease: times.lease,
            held: Mutex::default(),
            own: Mutex::default(),
            heard: Mutex::default(),
            left_out: Mutex::default(),
        })
    }

    /// A heartbeat: the session is a viewer of its page for one heartbeat's time from now.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn beat(&self, session: Session, user: Option<Name>) -> Result<(), ClaimError> {
        self.tell(Claim { session, user, claimant: Claimant::Heartbeats, for_ms: millis(self.heartbeat) }).await
    }

    /// Heartbeats will come no more. That there were none is no error.
    ///
    /// # Errors
    /// [`ClaimError::Unreachable`]: the session ends by itself.
    pub async fn end(&self, session: Session) -> Result<(), ClaimError> {
        self.tell(Claim { session, user: None, claimant: Claimant::Heartbeats, for_ms: 0 }).await
    }

    /// A connection of this node has this session from now on.
    pub fn connected(self: &Arc<Self>, session: Session, number: u64, user: Option<Name>) {
        lock(&self.own).insert((session.clone(), number), user);
        let this = self.clone();
        tokio::spawn(async move {
            let claim = this.of_connection(session.clone(), number, this.heartbeat);
            let _ = this.tell(Claim { user, ..claim }).await;
            // It may have ended meanwhile, and its end overtaken its beginning.
            if !lock(&this.own).contains_key(&(session.clone(), number)) {
                let _ = this.tell(this.of_connection(session, number, Duration::ZERO)).await;
            }
        });
    }

    /// It has it no more.
    pub fn disconnected(self: &Arc<Self>, session: Session, number: u64) {
        lock(&self.own).remove(&(session.clone(), number));
        let this = self.clone();
        tokio::spawn(async move {
            let _ = this.tell(this.of_connection(session, number, Duration::ZERO)).await;
        });
    }

    fn of_connection(&self, session: Session, number: u64, time: Duration) -> Claim {
        Claim { session, user: None, claimant: Claimant::Connection { gateway: self.start, number }, for_ms: millis(time) }
    }

    /// A node's start has said that it lives.
    pub fn heard(&self, start: u64) {
        lock(&self.heard).insert(start, Instant::now());
    }

    /// How many sessions with ids this node holds.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// Ends claims that are over and renews this node's, until it has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut renewed = Instant::now();
        while stopped.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            self.expire(Instant::now());
            if renewed.elapsed() >= self.heartbeat / 4 {
                renewed = Instant::now();
                self.renew().await;
            }
        }
    }

    fn expire(&self, now: Instant) {
        let alive: HashSet<u64> = {
            let mut heard = lock(&self.heard);
            heard.retain(|_, heard| now.saturating_duration_since(*heard) < self.lease);
            heard.keys().copied().collect()
        };
        let mut held = lock(&self.held);
        let ended = held.expire(now, |gateway| gateway == self.start || alive.contains(&gateway));
        ended.iter().for_each(|(session, name)| self.left(session, *name));
    }

    /// Says again what this node's connections claim: to a holder that has lost it, or has become it.
    async fn renew(&self) {
        let mut by_holder: HashMap<NodeName, Vec<Claim>> = HashMap::new();
        let own: Vec<_> = lock(&self.own).iter().map(|(claimed, user)| (claimed.clone(), *user)).collect();
        for ((session, number), user) in own {
            if let Some(holder) = self.candidates(&session).into_iter().next() {
                let claim = self.of_connection(session, number, self.heartbeat);
                by_holder.entry(holder).or_default().push(Claim { user, ..claim });
            }
        }
        let renewals = by_holder.iter().flat_map(|(holder, claims)| claims.chunks(AT_ONCE).map(move |part| (holder, part)));
        join_all(renewals.map(|(holder, part)| self.ask(holder, part.to_vec()))).await;
    }

    /// Has one claim taken by whoever holds the session.
    async fn tell(&self, claim: Claim) -> Result<(), ClaimError> {
        for holder in self.candidates(&claim.session).into_iter().take(TRIES) {
            match self.ask(&holder, vec![claim.clone()]).await.as_deref() {
                Some([true]) => return Ok(()),
                Some(_) => return Err(Full.into()),
                None => {}
            }
        }
        Err(ClaimError::Unreachable)
    }

    /// The nodes that may hold the session, the one that should first; those that lately did not answer last.
    fn candidates(&self, session: &Session) -> Vec<NodeName> {
        let Some(cluster) = &self.cluster else { return vec![NodeName::from("")] };
        let view = cluster.protocol.view();
        let Some(routes) = view.routes.as_ref() else { return vec![cluster.protocol.me().clone()] };
        let seed = session.page.as_bytes().iter().fold(0_u64, |seed, byte| seed.rotate_left(5) ^ u64::from(*byte));
        let now = Instant::now();
        let mut left_out = lock(&self.left_out);
        left_out.retain(|_, until| now < *until);
        let rank = |node: &NodeName| {
            let hash = xxh3_64_with_seed(format!("{node}\0{}", session.id).as_bytes(), seed);
            (left_out.contains_key(node), std::cmp::Reverse(hash))
        };
        let mut nodes: Vec<NodeName> = routes.layout.nodes().map(|node| node.name.clone()).collect();
        nodes.sort_by_cached_key(rank);
        nodes
    }

    /// Tells a holder. None: it did not answer.
    async fn ask(&self, holder: &NodeName, claims: Vec<Claim>) -> Option<Vec<bool>> {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.protocol.me() != holder) else {
            return Some(self.take(&claims));
        };
        let answer = tokio::time::timeout(TIMEOUT, cluster.ask(holder, claims)).await.ok().flatten();
        if answer.is_none() {
            tracing::debug!(peer = %holder, "a holder of sessions does not answer");
            lock(&self.left_out).insert(holder.clone(), Instant::now() + LEFT_OUT);
        }
        answer
    }

    /// Takes claims in, as their holder. Says of each whether it stands.
    pub fn take(&self, claims: &[Claim]) -> Vec<bool> {
        let now = Instant::now();
        claims.iter().map(|claim| self.take_one(claim, now)).collect()
    }

    fn take_one(&self, Claim { session, user, claimant, for_ms }: &Claim, now: Instant) -> bool {
        // Under the lock, so that counts are changed in the order of what they follow from.
        let mut held = lock(&self.held);
        if *for_ms == 0 {
            if let Some(name) = held.end(session, *claimant) {
                self.left(session, name);
            }
            return true;
        }
        if let Claimant::Connection { gateway, .. } = claimant {
            self.heard(*gateway);
        }
        let until = now + Duration::from_millis(*for_ms).min(self.heartbeat);
        let claimed = held.claim(session, *user, *claimant, until);
        if let Ok(Some(name)) = claimed {
            self.count(session, 1);
            self.registrar.name_came(&session.page, name);
        }
        claimed.is_ok()
    }

    fn left(&self, session: &Session, name: Name) {
        self.count(session, -1);
        self.registrar.name_left(&session.page, name);
    }

    fn count(&self, session: &Session, change: i32) {
        self.hub.count_viewer(&session.page, change);
        self.registrar.refresh(&session.page);
    }
}

impl Cluster {
    async fn ask(&self, holder: &NodeName, claims: Vec<Claim>) -> Option<Vec<bool>> {
        let view = self.protocol.view();
        let address = view.routes.as_ref()?.layout.node(holder)?.peer.clone();
        let envelope = Envelope { header: self.protocol.header(Some(holder.clone())), body: claims };
        let body = Bytes::from(envelope.encode());
        let answer = self.client.post(&self.tokens, &address, SESSIONS_PATH, &holder.0, body).await.ok()?;
        Envelope::<Vec<bool>>::decode(&answer).ok().map(|envelope| envelope.body)
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("held", &self.held()).finish_non_exhaustive()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
