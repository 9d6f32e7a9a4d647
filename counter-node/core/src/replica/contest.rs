//! A later start of this node is known to its peers. Either it lives, and this process must give way; or this process
//! runs on a volume that was restored from an earlier time, and the later start is gone for good.
//!
//! Nothing can tell these apart for certain, so the rule errs on the side of giving way. Taken over is only by a process
//! that has just opened its volume, which nobody else can have open then, and only from a start that none of the peers
//! who know of it has heard for a while. Until that is settled, this process writes and serves nothing. An old process,
//! whose volume may have been given to another, never takes over.

use std::collections::BTreeMap;

use super::{Effect, Replica, Report, Step};
use crate::id::{ActorId, NodeName};
use crate::message::Message;

/// A process is new for so long after its start.
const NEW_MS: u64 = 60_000;
/// A start that lives greets every second; one that was not heard for so long is taken to be gone.
const GONE_MS: u64 = 10_000;
/// How long the other peers have to say what they know.
const HEARING_MS: u64 = 3_000;
/// How long a contest may take before this process gives way.
const CONTEST_MS_MAX: u64 = 30_000;

#[derive(Debug)]
pub(super) struct Contest {
    since_ms: u64,
    /// By peer: the later start that it knows, and for how long it had not heard that when it last said so.
    known: BTreeMap<NodeName, (ActorId, u64)>,
}

impl Replica {
    /// `peer` says that `by` speaks in this node's name, and was last heard by it so long ago.
    pub(super) fn superseded(&mut self, step: &mut Step<'_>, peer: &NodeName, by: ActorId, silent_ms: u64) {
        // One of another origin has no order to this one: it is of an earlier process whose memory is gone, or of a name that
        // is contested, and that is reported.
        if by.origin != self.actor.origin || by <= self.actor || self.superseded {
            return;
        }
        let now_ms = self.now.monotonic_ms;
        let is_new = now_ms.saturating_sub(self.began_ms.unwrap_or(now_ms)) < NEW_MS;
        if self.contest.is_none() && !is_new {
            return self.give_way(step, peer, by);
        }
        let contest = self.contest.get_or_insert_with(|| Contest { since_ms: now_ms, known: BTreeMap::new() });
        contest.known.insert(peer.clone(), (by, silent_ms));
        self.assign_writers(step);
    }

    /// A later start lives: this process must stop writing.
    pub(super) fn give_way(&mut self, step: &mut Step<'_>, peer: &NodeName, by: ActorId) {
        self.superseded = true;
        self.assign_writers(step);
        self.report(step, peer, Report::Superseded { peer: peer.clone(), by });
    }

    /// Settles a contest, if it is time.
    pub(super) fn advance_contest(&mut self, step: &mut Step<'_>) {
        let Some(Contest { since_ms, known }) = &self.contest else { return };
        let Some((peer, (by, _))) = known.iter().max_by_key(|(_, (by, _))| *by) else { return };
        let (peer, by) = (peer.clone(), *by);
        let lasted_ms = self.now.monotonic_ms.saturating_sub(*since_ms);
        let is_gone = known.values().all(|(_, silent_ms)| *silent_ms >= GONE_MS);
        if is_gone && lasted_ms >= HEARING_MS {
            if !self.renewing {
                self.renewing = true;
                step.effects.0.push(Effect::RenewActor { above: Some(by) });
            }
        } else if lasted_ms >= CONTEST_MS_MAX && !self.superseded {
            self.give_way(step, &peer, by);
        }
    }

    /// Has those who know of a later start say again for how long they have not heard it.
    pub(super) fn ask_on(&self, step: &mut Step<'_>) {
        for peer in self.contest.iter().flat_map(|contest| contest.known.keys()) {
            step.effects.send(peer, Message::Hello);
        }
    }

    /// The actor has been renewed: is it the latest that anyone knows of?
    pub(super) fn end_contest(&mut self) {
        let actor = self.actor;
        self.contest.take_if(|contest| contest.known.values().all(|(by, _)| *by < actor));
    }
}
