//! Handing sessions with ids to others: to those who are to hold them from now on, and all of them when this node stops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use counter_core::id::NodeName;
use futures::future::{join, join_all};
use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::{AT_ONCE, Claim, PARTS_AT_ONCE, Sessions, rank};
use crate::clock::millis;
use crate::live::claims::{Claimant, Session};
use crate::lock::lock;
use crate::members::Reach;
use crate::peers::{HANDOVER_PATH, SESSIONS_PATH};

impl<R: Reach> Sessions<R> {
    /// Hands sessions that others are to hold from now on to those. Returns whether all who are to hold some have answered; who has not
    /// is passed over for a while.
    pub(super) async fn hand_to_holders(&self) -> bool {
        // What another turn of this has handed over would look like what has ended meanwhile.
        let _alone = self.handing.lock().await;
        // They go ahead: a session that nothing else claims is given up with the rest.
        let orphans = std::mem::take(&mut lock(&self.orphans).claims);
        let left = self.claim_all(orphans, HANDOVER_PATH).await;
        let all_answer = left.is_empty();
        lock(&self.orphans).claims.extend(left);
        let nodes = self.members.believed();
        let held = lock(&self.held).sessions();
        let mut by_holder: BTreeMap<NodeName, Vec<Session>> = BTreeMap::new();
        for part in held.chunks(AT_ONCE) {
            for session in part {
                if let Some(holder) = self.holder_of(session, &nodes) {
                    by_holder.entry(holder).or_default().push(session.clone());
                }
            }
            // They may be a million.
            tokio::task::yield_now().await;
        }
        let handed = by_holder.iter().map(async |(holder, sessions)| {
            // What is on its way is waited for: its holder may have taken it.
            let answers = AtomicBool::new(true);
            let hand = async |part| {
                if answers.load(Ordering::Relaxed) && !self.hand_to(holder, part).await {
                    answers.store(false, Ordering::Relaxed);
                }
            };
            stream::iter(sessions.chunks(AT_ONCE / 4)).for_each_concurrent(PARTS_AT_ONCE, hand).await;
            answers.into_inner()
        });
        // At the same time: neither may wait for the other while nodes do not answer.
        let (handed, ends) = join(join_all(handed), self.claim_all(self.ends_of_others(&nodes), SESSIONS_PATH)).await;
        all_answer && ends.is_empty() && handed.into_iter().all(|answers| answers)
    }

    /// The other node that is to hold a session from now on, of those that are believed in. If there is none, a node that is about to exit
    /// asks one all the same: it may just not have answered in time.
    fn holder_of(&self, session: &Session, believed: &[NodeName]) -> Option<NodeName> {
        let is_other = |node: &NodeName| node != self.members.me();
        let first = self.members.first(rank(session), believed).filter(is_other);
        if first.is_some() || !self.leaves.load(Ordering::Relaxed) {
            return first;
        }
        self.holders(session).into_iter().find(is_other)
    }

    /// What has ended here lately of sessions that others are to hold: whoever held them before may have to hand them over yet, and who
    /// said that they end may be gone.
    fn ends_of_others(&self, nodes: &[NodeName]) -> Vec<Claim> {
        let ended = |(session, claimant, said): (&Session, Claimant, Instant)| Claim {
            session: session.clone(),
            user: None,
            claimant,
            resumes: None,
            for_ms: 0,
            ago_ms: millis(said.elapsed()),
        };
        // Who is to hold them is reckoned when the lock is given back: they may be many.
        let mut ends: Vec<Claim> = lock(&self.held).ends().map(ended).collect();
        ends.retain(|claim| self.holder_of(&claim.session, nodes).is_some());
        ends
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
            over.extend(claims.iter().filter_map(|claim| {
                let ended = held.ended(&claim.session, claim.claimant)?;
                Some(Claim { ago_ms: millis(ended.elapsed()), ..claim.clone().ended() })
            }));
            for (session, number) in sessions.iter().zip(numbers).filter(|(session, _)| !refused.contains(session)) {
                match number.and_then(|number| held.remove(session, number)) {
                    Some(name) => self.left(session, name),
                    // It was claimed here again, perhaps by the new holder, which had to give it back.
                    None => self.astray.store(true, Ordering::Relaxed),
                }
            }
        }
        if !over.is_empty() {
            drop(self.ask(holder, over, SESSIONS_PATH).await);
        }
        true
    }

    /// What is claimed of these sessions here, but for what this node's own connections claim when that has gone ahead as orphans; and
    /// by session the number of the last claim.
    fn claims_on(&self, sessions: &[Session]) -> (Vec<Claim>, Vec<Option<u64>>) {
        let (held, now) = (lock(&self.held), Instant::now());
        let have_gone = self.leaves.load(Ordering::Relaxed) && lock(&self.orphans).claims.is_empty();
        let mut claims = Vec::new();
        for session in sessions {
            let Some((name, claimants)) = held.get(session) else { continue };
            for (claimant, until) in claimants {
                let is_own = matches!(claimant, Claimant::Connection { gateway, .. } if *gateway == self.start);
                let for_ms = millis(until.saturating_duration_since(now));
                if for_ms > 0 && !(is_own && have_gone) {
                    claims.push(Claim {
                        session: session.clone(),
                        user: Some(name),
                        claimant: *claimant,
                        resumes: None,
                        for_ms,
                        ago_ms: 0,
                    });
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
        orphans.until = Some(Instant::now() + grace);
        let own = std::mem::take(&mut *lock(&self.own));
        orphans.claims.extend(own.into_iter().flat_map(|((session, connection), own)| {
            let claim = self.of_connection(session, own);
            let claimant = Claimant::Orphan { gateway: self.start, connection };
            [Claim { claimant, for_ms: millis(grace), ..claim.clone() }, claim.ended()]
        }));
    }

    /// Hands all that is claimed here, and by this node's connections elsewhere, to those who hold it from now on. Where one does not
    /// take it, since it is gone or about to exit, too, the next one is to.
    pub(crate) async fn hand_on(&self) {
        while !self.hand_to_holders().await && self.members.believed().iter().any(|node| node != self.members.me()) {}
    }
}
