//! Sessions that bring an id: by socket or by heartbeats, through whichever node, one id is one viewer, since all who claim it do
//! so at one node. Which, rendezvous hashing says: of the nodes that live, the one with the highest hash of node and id.
//!
//! **Who holds a session changes** with who lives. The edges claim theirs at the new holder at once, and the old holder, if it
//! lives, hands over what it has: it counts a session until the new one has made known that it does. Heartbeats and ends go to
//! whoever holds the session by what their edge believes; when that changes, ends are told again, and the last heartbeats, too,
//! if a node has died and handed nothing over.

mod handing;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::id::NodeName;
use counter_core::presence::subject;
use futures::future::{join_all, join3};
use futures::stream::{self, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::clock::millis;
use crate::handover::{self, Answer, Handed};
use crate::live::claims::{Claimant, Claims, Full, Session, give_back};
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
/// Messages that are on their way to one holder at once. Of more, some would wait for longer than a holder may take.
const PARTS_AT_ONCE: usize = 8;
/// For how long a connection's claim stands, and how often it is renewed: what ends it is its end, or its node's lease. For so long, and
/// as long as a heartbeat stands, ends are kept to be told again.
const CLAIMED: Duration = Duration::from_secs(20);
const RENEWED: Duration = Duration::from_secs(5);
/// Ends that are kept. Of more, some claims stand until they are not renewed, if another node holds them than was told.
const ENDS_MAX: usize = 65_536;
/// Heartbeats that are kept. Of more, some sessions are missing from when their holder dies until their next one.
const BEATS_MAX: usize = 1_000_000;
/// For how long clients of a node that stops may take to be back, at most.
const GRACE_MAX: Duration = Duration::from_secs(120);

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
    /// How long ago its end was said, in milliseconds: a heartbeat since then stands.
    ago_ms: u64,
}

impl Claim {
    fn ended(self) -> Self {
        Self { for_ms: 0, ..self }
    }

    /// As it is to be told when so much time has passed since. What is left of a heartbeat's time says when it was.
    fn aged(&self, late_ms: u64) -> Self {
        let (for_ms, ago_ms) = match self.claimant {
            _ if self.for_ms == 0 => (0, self.ago_ms + late_ms),
            Claimant::Heartbeats => (self.for_ms.saturating_sub(late_ms).max(1), 0),
            Claimant::Connection { .. } | Claimant::Orphan { .. } => (self.for_ms, 0),
        };
        Self { for_ms, ago_ms, ..self.clone() }
    }
}

/// A heartbeat that this node was sent.
#[derive(Clone, Copy, Debug)]
struct Beat {
    said: Instant,
    user: Option<Name>,
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
    /// The last heartbeat of each session that had one through this node, for a heartbeat's time.
    beats: Mutex<HashMap<Session, Beat>>,
    /// The last ends, and when they were said: see [`Self::ends_kept`].
    ends: Mutex<VecDeque<(Instant, Claim)>>,
    /// It is time to claim what this node's connections have, and what it was sent heartbeats of.
    to_renew: Notify,
    /// It is time to look for what others are to hold.
    to_hand_over: Notify,
    handing: tokio::sync::Mutex<()>,
    /// What this node's connections have claimed, for whoever holds it now, until their clients are back.
    orphans: Mutex<Orphaned>,
}

/// Claims of clients whose connections this node is about to end.
#[derive(Debug, Default)]
struct Orphaned {
    /// Those that are to be handed on.
    claims: Vec<Claim>,
    /// The node is about to exit: until when they stand.
    until: Option<Instant>,
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
            beats: Mutex::default(),
            ends: Mutex::default(),
            to_renew: Notify::new(),
            to_hand_over: Notify::new(),
            handing: tokio::sync::Mutex::default(),
            orphans: Mutex::default(),
        })
    }

    /// A heartbeat: the session is a viewer of its page for one heartbeat's time from now.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub async fn beat(&self, session: Session, user: Option<Name>) -> Result<(), ClaimError> {
        if !self.members.is_alone() {
            let mut beats = lock(&self.beats);
            if beats.len() < BEATS_MAX || beats.contains_key(&session) {
                beats.insert(session.clone(), Beat { said: Instant::now(), user });
            }
        }
        self.tell(of_heartbeats(session, user, self.heartbeat)).await
    }

    /// Heartbeats will come no more. That there were none is no error.
    ///
    /// # Errors
    /// [`ClaimError::Unreachable`]: the session ends by itself.
    pub async fn end(&self, session: Session) -> Result<(), ClaimError> {
        lock(&self.beats).remove(&session);
        self.tell_end(of_heartbeats(session, None, Duration::ZERO)).await
    }

    /// A connection of this node has this session from now on, in the place of what its client has left behind, if it says so.
    pub fn connected(self: &Arc<Self>, session: Session, connection: u64, user: Option<Name>, resumes: Option<Claimant>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let own = Own { number, user, resumes, since: Instant::now() };
        {
            let mut orphans = lock(&self.orphans);
            if let Some(until) = orphans.until {
                // Its client is about to be told to go. It has not been claimed, so that there is nothing to end.
                let for_ms = millis(until.saturating_duration_since(Instant::now()));
                let claimant = Claimant::Orphan { gateway: self.start, connection };
                orphans.claims.push(Claim { claimant, for_ms, ..self.of_connection(session, own) });
                return self.to_hand_over.notify_one();
            }
            lock(&self.own).insert((session.clone(), connection), own);
        }
        let key = (session, connection);
        let this = self.clone();
        tokio::spawn(async move {
            let claim = this.of_connection(key.0.clone(), own);
            drop(this.tell(claim.clone()).await);
            // It may have ended meanwhile, and its end have gone to another holder. What became orphans has its end told with these.
            let is_over = lock(&this.own).get(&key).is_none_or(|now| now.number != own.number);
            if is_over && !this.leaves.load(Ordering::Relaxed) {
                drop(this.tell(claim.ended()).await);
            }
        });
    }

    /// It has it no more.
    pub fn disconnected(self: &Arc<Self>, session: Session, connection: u64) {
        let own = lock(&self.own).remove(&(session.clone(), connection));
        // Otherwise it was handed over.
        let Some(own) = own else { return };
        let this = self.clone();
        tokio::spawn(async move { drop(this.tell_end(this.of_connection(session, own).ended()).await) });
    }

    /// Tells an end, now and once more when it may have gone to the wrong holder.
    async fn tell_end(&self, claim: Claim) -> Result<(), ClaimError> {
        {
            let (mut ends, now) = (lock(&self.ends), Instant::now());
            self.forget_ends(&mut ends, now);
            if ends.len() >= ENDS_MAX {
                ends.pop_front();
            }
            ends.push_back((now, claim.clone()));
        }
        self.tell(claim).await
    }

    fn of_connection(&self, session: Session, Own { number, user, resumes, since }: Own) -> Claim {
        // Whoever has the orphan has heard of it by then, or is gone.
        let resumes = resumes.filter(|_| since.elapsed() < CLAIMED);
        let claimant = Claimant::Connection { gateway: self.start, number };
        Claim { session, user, claimant, resumes, for_ms: millis(CLAIMED), ago_ms: 0 }
    }

    /// How many sessions with ids this node holds.
    #[must_use]
    pub fn held(&self) -> usize {
        lock(&self.held).len()
    }

    /// Ends claims that are over, renews this node's and hands over what others are to hold, until it has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        // None of them waits for another: handing over a million sessions takes a while.
        let work = join3(self.look(), self.renew_in_time(), self.hand_over_in_time());
        stopped.run_until_cancelled(work).await;
    }

    async fn look(&self) {
        let seen = || (self.members.believed(), self.members.changes(), self.members.losses());
        let mut before = seen();
        loop {
            sleep(LOOK).await;
            self.expire(Instant::now());
            // Who was passed over between two looks, or has begun anew, has lost or not heard what was told others meanwhile.
            let now = seen();
            let others_hold = now != std::mem::replace(&mut before, now.clone());
            if others_hold {
                self.to_renew.notify_one();
            }
            if self.astray.swap(false, Ordering::Relaxed) || others_hold {
                self.to_hand_over.notify_one();
            }
        }
    }

    async fn renew_in_time(&self) {
        let (mut losses, mut beats_are_due) = (self.members.losses(), false);
        loop {
            let others_hold = timeout(RENEWED, self.to_renew.notified()).await.is_ok();
            let losses_before = std::mem::replace(&mut losses, self.members.losses());
            beats_are_due |= losses != losses_before;
            beats_are_due = !self.renew(others_hold || beats_are_due, beats_are_due).await;
        }
    }

    async fn hand_over_in_time(&self) {
        loop {
            self.to_hand_over.notified().await;
            if !self.hand_to_holders().await {
                // Whoever does not answer may just be starting: it is asked again with the next look, for as long as it is believed in.
                self.astray.store(true, Ordering::Relaxed);
            }
        }
    }

    fn ends_kept(&self) -> Duration {
        CLAIMED.max(self.heartbeat)
    }

    /// Forgets ends that nobody is to be told again, and gives back what a crowd of them took.
    fn forget_ends(&self, ends: &mut VecDeque<(Instant, Claim)>, now: Instant) {
        while ends.front().is_some_and(|(said, _)| now.saturating_duration_since(*said) >= self.ends_kept()) {
            ends.pop_front();
        }
        if ends.capacity() > 4 * ends.len().max(AT_ONCE) {
            ends.shrink_to(2 * ends.len());
        }
    }

    fn expire(&self, now: Instant) {
        self.forget_ends(&mut lock(&self.ends), now);
        let mut held = lock(&self.held);
        let ended = held.expire(now, self.heartbeat, |gateway| gateway == self.start || self.members.lives(gateway));
        ended.iter().for_each(|(session, name)| self.left(session, *name));
    }

    /// Claims what this node's connections have, for a holder that has lost it, or has become it, and with `beats` what heartbeats claim.
    /// Tells ends again: all of them first when others hold than before, so that a heartbeat of before an end finds it there; and last those
    /// that may have passed one of these claims. Returns whether all that heartbeats claim has been answered.
    async fn renew(&self, others_hold: bool, beats: bool) -> bool {
        let began = Instant::now();
        if others_hold {
            self.end_again(None).await;
        }
        let own: Vec<((Session, u64), Own)> = lock(&self.own).iter().map(|(key, own)| (key.clone(), *own)).collect();
        let claims = own.into_iter().map(|((session, _), own)| self.of_connection(session, own)).collect();
        drop(self.claim_all(claims, SESSIONS_PATH).await);
        let left = self.claim_all(self.last_beats(beats), SESSIONS_PATH).await;
        self.end_again(Some(began)).await;
        left.is_empty()
    }

    /// Tells ends again, but for those that were said before `since`.
    async fn end_again(&self, since: Option<Instant>) {
        let is_due = |said: &Instant| said.elapsed() < self.ends_kept() && since.is_none_or(|since| *said >= since);
        let aged = |(said, claim): &(Instant, Claim)| claim.aged(millis(said.elapsed()));
        let ends = lock(&self.ends).iter().filter(|(said, _)| is_due(said)).map(aged).collect();
        drop(self.claim_all(ends, SESSIONS_PATH).await);
    }

    /// What heartbeats claim that this node was sent, if it is asked for: for whoever is to hold it when a holder has died. Not when one
    /// has handed it over, since what has ended meanwhile would begin anew if who was sent the end has stopped, too.
    fn last_beats(&self, are_asked_for: bool) -> Vec<Claim> {
        let (mut beats, now) = (lock(&self.beats), Instant::now());
        let age = |beat: &Beat| now.saturating_duration_since(beat.said);
        beats.retain(|_, beat| age(beat) < self.heartbeat);
        give_back(&mut beats);
        let claim = |(session, beat): (&Session, &Beat)| {
            of_heartbeats(session.clone(), beat.user, self.heartbeat).aged(millis(age(beat)))
        };
        beats.iter().filter(|_| are_asked_for).map(claim).collect()
    }

    /// Has these taken by whoever holds their sessions; where one does not answer, by the next. Returns what nobody has taken.
    async fn claim_all(&self, mut claims: Vec<Claim>, path: &str) -> Vec<Claim> {
        // A node that is about to exit asks others even if it believes in none.
        let may_hold = |node: &NodeName| node != self.members.me() || !self.leaves.load(Ordering::Relaxed);
        let began = Instant::now();
        for _ in 0..TRIES {
            let mut by_holder: BTreeMap<NodeName, Vec<Claim>> = BTreeMap::new();
            for claim in claims {
                if let Some(holder) = self.holders(&claim.session).into_iter().find(may_hold) {
                    by_holder.entry(holder).or_default().push(claim);
                }
            }
            let asked = by_holder.iter().map(async |(holder, claims)| {
                let answers = AtomicBool::new(true);
                let ask = async |part: &[Claim]| {
                    let is_asked = answers.load(Ordering::Relaxed);
                    if is_asked && self.ask(holder, aged(part, began), path).await.is_some() {
                        return Vec::new();
                    }
                    answers.store(false, Ordering::Relaxed);
                    part.to_vec()
                };
                stream::iter(claims.chunks(AT_ONCE)).map(ask).buffer_unordered(PARTS_AT_ONCE).concat().await
            });
            claims = join_all(asked).await.concat();
            if claims.is_empty() {
                break;
            }
        }
        aged(&claims, began)
    }

    /// Has one claim taken by whoever holds the session.
    async fn tell(&self, claim: Claim) -> Result<(), ClaimError> {
        let began = Instant::now();
        for holder in self.holders(&claim.session).into_iter().take(TRIES) {
            match self.ask(&holder, aged(std::slice::from_ref(&claim), began), SESSIONS_PATH).await.as_deref() {
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
    /// to exit; what they end has ended here, too, unless they are handed over, when another claim comes in the place of what ends.
    /// `handed_over`: by a node that held them, and may not have heard of their end.
    pub fn take(&self, claims: &[Claim], handed_over: bool) -> Option<Vec<bool>> {
        let now = Instant::now();
        let leaves = self.leaves.load(Ordering::Relaxed);
        if leaves && handed_over {
            return None;
        }
        let taken = claims.iter().filter(|claim| !leaves || claim.for_ms == 0).map(|claim| self.take_one(claim, now));
        let taken: Vec<bool> = taken.collect();
        let nodes = self.members.believed();
        let is_astray =
            |claim: &Claim| self.members.first(rank(&claim.session), &nodes).is_some_and(|first| first != *self.members.me());
        if !leaves && claims.iter().any(|claim| claim.for_ms > 0 && is_astray(claim)) {
            self.astray.store(true, Ordering::Relaxed);
        }
        (!leaves).then_some(taken)
    }

    fn take_one(&self, claim: &Claim, now: Instant) -> bool {
        let Claim { session, claimant, resumes, for_ms, ago_ms, .. } = claim;
        // Under the lock, so that counts are changed in the order of what they follow from.
        let mut held = lock(&self.held);
        let said = now.checked_sub(Duration::from_millis(*ago_ms)).unwrap_or(now);
        let end = |held: &mut Claims, claimant| {
            let has_begun_anew = claimant == Claimant::Heartbeats && held.until(session, claimant) > Some(said + self.heartbeat);
            if !has_begun_anew && let Some(name) = held.end(session, claimant, said, now) {
                self.left(session, name);
            }
        };
        let taken = if *for_ms == 0 {
            end(&mut held, *claimant);
            true
        } else {
            self.stands(&mut held, claim, now)
        };
        // Afterwards, so that the session does not end in between.
        if let Some(resumed) = resumes.filter(|_| taken) {
            end(&mut held, resumed);
        }
        taken
    }

    /// Has a claim stand, unless it is over. Returns false when there is no room for it.
    fn stands(&self, held: &mut Claims, claim: &Claim, now: Instant) -> bool {
        let Claim { session, user, claimant, for_ms, .. } = claim;
        let longest = match claimant {
            Claimant::Heartbeats => self.heartbeat,
            Claimant::Connection { .. } => CLAIMED,
            Claimant::Orphan { .. } => GRACE_MAX,
        };
        let until = now + Duration::from_millis(*for_ms).min(longest);
        let is_over = held.ended(session, *claimant).is_some_and(|ended| match claimant {
            Claimant::Connection { .. } | Claimant::Orphan { .. } => true,
            // The last one that whoever tells it has heard of was before that.
            Claimant::Heartbeats => until < ended + self.heartbeat,
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

/// The claims as they are to be told now.
fn aged(claims: &[Claim], since: Instant) -> Vec<Claim> {
    let late_ms = millis(since.elapsed());
    claims.iter().map(|claim| claim.aged(late_ms)).collect()
}

fn of_heartbeats(session: Session, user: Option<Name>, time: Duration) -> Claim {
    Claim { session, user, claimant: Claimant::Heartbeats, resumes: None, for_ms: millis(time), ago_ms: 0 }
}

/// What its holder is found by.
fn rank(session: &Session) -> u64 {
    subject(session.page.as_bytes(), &session.id)
}

#[cfg(test)]
mod tests;
