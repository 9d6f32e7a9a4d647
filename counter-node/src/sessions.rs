//! Sessions that bring an id: by socket or by heartbeats, through whichever node, one id is one viewer, since all who claim it do
//! so at one node. Which, rendezvous hashing says: of the nodes that live, the one with the highest hash of node and id.
//!
//! **Who holds a session changes** with who lives. The edges claim theirs at the new holder at once, and the old holder, if it
//! lives, hands over what it has: it counts a session until the new one has made known that it does.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::id::NodeName;
use counter_core::presence::subject;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::millis;
use crate::handover::{self, Answer, Handed};
use crate::live::claims::{Claimant, Claims, Full, Session};
use crate::live::{Hub, Name, Registrar};
use crate::lock::lock;
use crate::members::{Members, Reach};
use crate::peers::{HANDOVER_PATH, Peers, SESSIONS_PATH};

/// How often claims are looked through for those that are over.
const LOOK: Duration = Duration::from_millis(250);
/// How long a holder may take to answer.
const TIMEOUT: Duration = Duration::from_millis(700);
/// How many nodes are tried, one after the other.
const TRIES: usize = 3;
/// Claims of one message.
const AT_ONCE: usize = 1_024;

/// What an edge tells a holder. A list of them is one request; its answer is a list of whether each was taken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    session: Session,
    /// Whose it is, if that is said.
    user: Option<Name>,
    claimant: Claimant,
    /// In whose place this one is: that has ended.
    resumes: Option<Claimant>,
    /// For how long it stands, in milliseconds; 0 ends it.
    for_ms: u64,
}

/// What a connection claims.
#[derive(Clone, Copy, Debug)]
struct Own {
    number: u64,
    user: Option<Name>,
    resumes: Option<Claimant>,
    since: Instant,
}

/// Why a session could not be claimed; it does not count.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Full(#[from] Full),
    #[error("no node that could hold the session answers")]
    Unreachable,
}

/// This node as a holder of sessions with ids, and as the edge through which others are claimed.
pub struct Sessions<R = Peers> {
    hub: Arc<Hub>,
    registrar: Arc<dyn Registrar>,
    members: Arc<Members<R>>,
    /// This process, as claims name it.
    start: u64,
    heartbeat: Duration,
    held: Mutex<Claims>,
    /// What connections of this node claim, by their numbers, renewed until they end.
    own: Mutex<HashMap<(Session, u64), Own>>,
    /// Of the last of them. None is used twice: a claim that comes after its end is not one anew.
    number: AtomicU64,
    /// This node is about to exit: it takes no claims any more.
    leaves: AtomicBool,
    /// Something was claimed here that another node should hold, by someone who believes in others than this node does.
    astray: AtomicBool,
    handing: tokio::sync::Mutex<()>,
    /// What this node's connections have claimed, for whoever holds it now, until their clients are back.
    orphans: Mutex<Vec<Claim>>,
}

impl<R: Reach> Sessions<R> {
    /// No sessions yet. Those held count in `hub`, which `registrar` makes known.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        registrar: Arc<dyn Registrar>,
        members: Arc<Members<R>>,
        start: u64,
        heartbeat: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            hub,
            registrar,
            members,
            start,
            heartbeat,
            held: Mutex::default(),
            own: Mutex::default(),
            number: AtomicU64::new(0),
            leaves: AtomicBool::new(false),
            astray: AtomicBool::new(false),
            handing: tokio::sync::Mutex::default(),
            orphans: Mutex::default(),
        })
    }

    /// A heartbeat: the session is a viewer of its page for one heartbeat's time from now.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn beat(&self, session: Session, user: Option<Name>) -> Result<(), ClaimError> {
        self.tell(of_heartbeats(session, user, self.heartbeat)).await
    }

    /// Heartbeats will come no more. That there were none is no error.
    ///
    /// # Errors
    /// [`ClaimError::Unreachable`]: the session ends by itself.
    pub async fn end(&self, session: Session) -> Result<(), ClaimError> {
        self.tell(of_heartbeats(session, None, Duration::ZERO)).await
    }

    /// A connection of this node has this session from now on, in the place of what its client has left behind, if it says so.
    pub fn connected(self: &Arc<Self>, session: Session, connection: u64, user: Option<Name>, resumes: Option<Claimant>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let own = Own { number, user, resumes, since: Instant::now() };
        let key = (session, connection);
        lock(&self.own).insert(key.clone(), own);
        let this = self.clone();
        tokio::spawn(async move {
            drop(this.tell(this.of_connection(key.0.clone(), own, this.heartbeat)).await);
            if this.has_ended(&key, own) {
                drop(this.tell(this.of_connection(key.0, own, Duration::ZERO)).await);
            }
        });
    }

    /// Whether what was just told of a connection is over, and its end may have gone to another holder. What became orphans has its
    /// end told with these.
    fn has_ended(&self, key: &(Session, u64), own: Own) -> bool {
        let is_over = lock(&self.own).get(key).is_none_or(|now| now.number != own.number);
        is_over && !self.leaves.load(Ordering::Relaxed)
    }

    /// It has it no more.
    pub fn disconnected(self: &Arc<Self>, session: Session, connection: u64) {
        let own = lock(&self.own).remove(&(session.clone(), connection));
        // Otherwise it was handed over.
        let Some(own) = own else { return };
        let this = self.clone();
        tokio::spawn(async move { drop(this.tell(this.of_connection(session, own, Duration::ZERO)).await) });
    }

    fn of_connection(&self, session: Session, Own { number, user, resumes, since }: Own, time: Duration) -> Claim {
        // An orphan stands no longer.
        let resumes = resumes.filter(|_| since.elapsed() < self.heartbeat);
        Claim { session, user, claimant: Claimant::Connection { gateway: self.start, number }, resumes, for_ms: millis(time) }
    }

    /// How many sessions with ids this node holds.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// Ends claims that are over and renews this node's, until it has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut renewed = Instant::now();
        let mut believed = self.members.believed();
        let mut changes = self.members.changes();
        while stopped.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            self.expire(Instant::now());
            let believed_now = self.members.believed();
            let others_hold = believed_now != believed;
            believed = believed_now;
            // Who was passed over between two looks may be back: what was claimed here meanwhile is another's.
            let changes_before = std::mem::replace(&mut changes, self.members.changes());
            let may_be_back = changes != changes_before;
            let work = async {
                if others_hold || renewed.elapsed() >= self.heartbeat / 4 {
                    renewed = Instant::now();
                    self.renew().await;
                }
                if self.astray.swap(false, Ordering::Relaxed) || others_hold || may_be_back {
                    self.hand_to_holders().await;
                }
            };
            if stopped.run_until_cancelled(work).await.is_none() {
                return;
            }
        }
    }

    fn expire(&self, now: Instant) {
        let mut held = lock(&self.held);
        let ended = held.expire(now, |gateway| gateway == self.start || self.members.lives(gateway));
        ended.iter().for_each(|(session, name)| self.left(session, *name));
    }

    /// Claims what this node's connections have, for a holder that has lost it, or has become it.
    async fn renew(&self) {
        let mut own: Vec<((Session, u64), Own)> = lock(&self.own).iter().map(|(key, own)| (key.clone(), *own)).collect();
        let claims = |own: &[((Session, u64), Own)], time| {
            own.iter().map(|((session, _), own)| self.of_connection(session.clone(), *own, time)).collect::<Vec<Claim>>()
        };
        self.claim_all(claims(&own, self.heartbeat), SESSIONS_PATH).await;
        own.retain(|(key, own)| self.has_ended(key, *own));
        self.claim_all(claims(&own, Duration::ZERO), SESSIONS_PATH).await;
    }

    /// Has these taken by whoever holds their sessions; where one does not answer, by the next.
    async fn claim_all(&self, mut claims: Vec<Claim>, path: &str) {
        // A node that is about to exit asks others even if it believes in none.
        let may_hold = |node: &NodeName| node != self.members.me() || !self.leaves.load(Ordering::Relaxed);
        for _ in 0..TRIES {
            let mut by_holder: BTreeMap<NodeName, Vec<Claim>> = BTreeMap::new();
            for claim in claims {
                if let Some(holder) = self.holders(&claim.session).into_iter().find(may_hold) {
                    by_holder.entry(holder).or_default().push(claim);
                }
            }
            let parts = by_holder.iter().flat_map(|(holder, claims)| claims.chunks(AT_ONCE).map(move |part| (holder, part)));
            let asked = parts.map(async |(holder, part)| match self.ask(holder, part.to_vec(), path).await {
                Some(_) => Vec::new(),
                None => part.to_vec(),
            });
            claims = join_all(asked).await.into_iter().flatten().collect();
            if claims.is_empty() {
                return;
            }
        }
    }

    /// Hands sessions that others are to hold from now on to those.
    async fn hand_to_holders(&self) {
        // What another turn of this has handed over would look like what has ended meanwhile.
        let _alone = self.handing.lock().await;
        // They go ahead: a session that nothing else claims is given up with the rest.
        let orphans = std::mem::take(&mut *lock(&self.orphans));
        self.claim_all(orphans, HANDOVER_PATH).await;
        let nodes = self.members.believed();
        let held = lock(&self.held).sessions();
        let mut by_holder: BTreeMap<NodeName, Vec<Session>> = BTreeMap::new();
        for part in held.chunks(AT_ONCE) {
            for session in part {
                let holder = self.members.first(rank(session), &nodes).filter(|holder| holder != self.members.me());
                if let Some(holder) = holder {
                    by_holder.entry(holder).or_default().push(session.clone());
                }
            }
            // They may be a million.
            tokio::task::yield_now().await;
        }
        let handed = by_holder.iter().map(async |(holder, sessions)| {
            for part in sessions.chunks(AT_ONCE / 4) {
                if !self.hand_to(holder, part).await {
                    // It may just be starting: it is asked again with the next look, for as long as it is believed in.
                    self.astray.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        join_all(handed).await;
    }

    /// Hands sessions to their new holder. Returns whether it answers; what it has taken counts here no more.
    async fn hand_to(&self, holder: &NodeName, sessions: &[Session]) -> bool {
        let (claims, numbers) = self.claims_on(sessions);
        let Some(stand) = self.hand(holder, claims.clone()).await else { return false };
        let refused: Vec<&Session> =
            claims.iter().zip(&stand).filter(|(_, stands)| !**stands).map(|(claim, _)| &claim.session).collect();
        let mut over = Vec::new();
        {
            let mut held = lock(&self.held);
            // What has ended here meanwhile has to end there.
            over.extend(claims.iter().filter(|claim| held.ended(&claim.session, claim.claimant).is_some()));
            for (session, number) in sessions.iter().zip(numbers).filter(|(session, _)| !refused.contains(session)) {
                match number.and_then(|number| held.remove(session, number)) {
                    Some(name) => self.left(session, name),
                    // It was claimed here again, perhaps by the new holder, which had to give it back.
                    None => self.astray.store(true, Ordering::Relaxed),
                }
            }
        }
        let ends: Vec<Claim> = over.into_iter().map(|claim| Claim { for_ms: 0, ..claim.clone() }).collect();
        if !ends.is_empty() {
            drop(self.ask(holder, ends, SESSIONS_PATH).await);
        }
        true
    }

    /// What is claimed of these sessions here, but for what this node's own connections claim when that has gone ahead as orphans; and
    /// by session the number of the last claim.
    fn claims_on(&self, sessions: &[Session]) -> (Vec<Claim>, Vec<Option<u64>>) {
        let (held, now) = (lock(&self.held), Instant::now());
        let have_gone = self.leaves.load(Ordering::Relaxed) && lock(&self.orphans).is_empty();
        let mut claims = Vec::new();
        for session in sessions {
            let Some((name, claimants)) = held.get(session) else { continue };
            for (claimant, until) in claimants {
                let is_own = matches!(claimant, Claimant::Connection { gateway, .. } if *gateway == self.start);
                let for_ms = millis(until.saturating_duration_since(now));
                if for_ms > 0 && !(is_own && have_gone) {
                    claims.push(Claim { session: session.clone(), user: Some(name), claimant: *claimant, resumes: None, for_ms });
                }
            }
        }
        (claims, sessions.iter().map(|session| held.number(session)).collect())
    }

    /// This node is about to exit. What its connections claim stands for so long, if their clients do not come back.
    pub(crate) fn begin_leaving(&self, grace: Duration) {
        // Whoever sees that it leaves finds all of them there.
        let mut orphans = lock(&self.orphans);
        self.leaves.store(true, Ordering::Relaxed);
        let own = std::mem::take(&mut *lock(&self.own));
        orphans.extend(own.into_iter().flat_map(|((session, connection), own)| {
            let ended = self.of_connection(session, own, Duration::ZERO);
            let orphan = Claimant::Orphan { gateway: self.start, connection };
            [Claim { claimant: orphan, for_ms: millis(grace), ..ended.clone() }, ended]
        }));
    }

    /// Hands all that is claimed here, and by this node's connections elsewhere, to those who hold it from now on.
    pub(crate) async fn hand_on(&self) {
        self.hand_to_holders().await;
    }

    /// Has one claim taken by whoever holds the session.
    async fn tell(&self, claim: Claim) -> Result<(), ClaimError> {
        for holder in self.holders(&claim.session).into_iter().take(TRIES) {
            match self.ask(&holder, vec![claim.clone()], SESSIONS_PATH).await.as_deref() {
                Some([true]) => return Ok(()),
                Some(_) => return Err(Full.into()),
                None => {}
            }
        }
        Err(ClaimError::Unreachable)
    }

    /// The nodes that may hold the session, the one that should first.
    fn holders(&self, session: &Session) -> Vec<NodeName> {
        self.members.rank(rank(session))
    }

    /// Tells a holder. None: it did not answer.
    async fn ask(&self, holder: &NodeName, claims: Vec<Claim>, path: &str) -> Option<Vec<bool>> {
        if holder == self.members.me() {
            return self.take(&claims, path == HANDOVER_PATH);
        }
        if path == HANDOVER_PATH {
            self.hand(holder, claims).await
        } else {
            self.members.ask(holder, path, claims, TIMEOUT).await
        }
    }

    /// The same, and it answers when it has made known what it took.
    async fn hand(&self, holder: &NodeName, claims: Vec<Claim>) -> Option<Vec<bool>> {
        let answers: Vec<Answer> = self.members.ask(holder, HANDOVER_PATH, Handed::Claims(claims), handover::TIMEOUT).await?;
        Some(answers.into_iter().map(|answer| answer == Answer::Yes).collect())
    }

    /// Takes claims in, as their holder. Says of each whether it stands. None: another node is to hold them, since this one is about
    /// to exit; what they end has ended here, too. `handed_over`: by a node that held them, and may not have heard of their end.
    pub fn take(&self, claims: &[Claim], handed_over: bool) -> Option<Vec<bool>> {
        let now = Instant::now();
        let leaves = self.leaves.load(Ordering::Relaxed);
        let taken =
            claims.iter().filter(|claim| !leaves || claim.for_ms == 0).map(|claim| self.take_one(claim, now, handed_over));
        let taken: Vec<bool> = taken.collect();
        let nodes = self.members.believed();
        let is_astray =
            |claim: &Claim| self.members.first(rank(&claim.session), &nodes).is_some_and(|first| first != *self.members.me());
        if !leaves && claims.iter().any(|claim| claim.for_ms > 0 && is_astray(claim)) {
            self.astray.store(true, Ordering::Relaxed);
        }
        (!leaves).then_some(taken)
    }

    fn take_one(&self, claim: &Claim, now: Instant, handed_over: bool) -> bool {
        let Claim { session, claimant, resumes, for_ms, .. } = claim;
        // Under the lock, so that counts are changed in the order of what they follow from.
        let mut held = lock(&self.held);
        let end = |held: &mut Claims, claimant| {
            if let Some(name) = held.end(session, claimant, now) {
                self.left(session, name);
            }
        };
        let taken = if *for_ms == 0 {
            end(&mut held, *claimant);
            true
        } else {
            self.stands(&mut held, claim, now, handed_over)
        };
        // Afterwards, so that the session does not end in between.
        if let Some(resumed) = resumes.filter(|_| taken) {
            end(&mut held, resumed);
        }
        taken
    }

    /// Has a claim stand, unless it is over. Returns false when there is no room for it.
    fn stands(&self, held: &mut Claims, claim: &Claim, now: Instant, handed_over: bool) -> bool {
        let Claim { session, user, claimant, for_ms, .. } = claim;
        let until = now + Duration::from_millis(*for_ms).min(self.heartbeat);
        let is_over = held.ended(session, *claimant).is_some_and(|ended| match claimant {
            Claimant::Connection { .. } | Claimant::Orphan { .. } => true,
            // What is left of its time says when the last heartbeat was.
            Claimant::Heartbeats => handed_over && until < ended + self.heartbeat,
        });
        if is_over {
            // Who has it lets go of it.
            return true;
        }
        if let Claimant::Connection { gateway, .. } = claimant {
            self.members.heard_of(*gateway);
        }
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

impl<R: Reach> std::fmt::Debug for Sessions<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("held", &self.held()).finish_non_exhaustive()
    }
}

fn of_heartbeats(session: Session, user: Option<Name>, time: Duration) -> Claim {
    Claim { session, user, claimant: Claimant::Heartbeats, resumes: None, for_ms: millis(time) }
}

/// What its holder is found by.
fn rank(session: &Session) -> u64 {
    subject(session.page.as_bytes(), &session.id)
}

#[cfg(test)]
mod tests;
