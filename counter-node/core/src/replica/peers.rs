//! What is known of the other nodes, and what every message says by its header alone.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::links::Link;
use super::pull::Puller;
use super::slots::SlotSet;
use super::{Now, Replica, Report, Step};
use crate::id::{ActorId, NodeName};
use crate::layout::LayoutVersion;
use crate::message::{Header, LayoutId, Message};
use crate::slot::Slot;

/// So many greetings may be missing before a replica counts as silent.
const GREETINGS_MISSED: u64 = 3;
/// Between two reports of one kind about one peer, and two gifts of a layout to it.
const REPORT_MS: u64 = 10_000;
const LAYOUT_MS: u64 = 200;
/// Kinds of reports by peer that are kept in mind, so that strangers cannot fill the memory.
const REPORTED_MAX: usize = 1_024;
/// Earlier actors kept in mind per peer.
const PAST_MAX: usize = 16;
const ERRANDS_MAX: usize = 4;

/// Another node of the layout.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) actor: Option<ActorId>,
    /// When that actor itself was heard last.
    actor_heard_ms: u64,
    past: VecDeque<ActorId>,
    pub(super) heard_ms: Option<u64>,
    pub(super) layout: Option<LayoutId>,
    layout_talk_ms: Option<u64>,
    /// While own changes are pushed to it.
    pub(super) link: Option<Link>,
    pub(super) puller: Puller,
    errands: Vec<Errand>,
    done: VecDeque<u64>,
}

/// A peer's wish that this node pull from it.
#[derive(Debug)]
struct Errand {
    number: u64,
    /// Pulls that began earlier do not count.
    since_round: u64,
    left: SlotSet,
}

impl Peer {
    pub(super) fn new(name: NodeName, first_round: u64) -> Self {
        Self {
            actor: None,
            actor_heard_ms: 0,
            past: VecDeque::new(),
            heard_ms: None,
            layout: None,
            layout_talk_ms: None,
            link: None,
            puller: Puller::new(name, first_round),
            errands: Vec::new(),
            done: VecDeque::new(),
        }
    }

    fn may_talk_of_layouts(&mut self, now_ms: u64) -> bool {
        let due = self.layout_talk_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= LAYOUT_MS);
        if due {
            self.layout_talk_ms = Some(now_ms);
        }
        due
    }

    /// Takes an errand on. Returns whether there is nothing to do for it (any more).
    pub(super) fn take_errand(&mut self, number: u64, slots: SlotSet) -> bool {
        if self.done.contains(&number) || slots.is_empty() {
            return true;
        }
        if !self.errands.iter().any(|errand| errand.number == number) {
            self.puller.want(slots.iter());
            if self.errands.len() >= ERRANDS_MAX {
                self.errands.remove(0);
            }
            self.errands.push(Errand { number, since_round: self.puller.next_round(), left: slots });
        }
        false
    }

    /// A slot has been pulled, durably, in a pull that began in this round: the errands that are done with it.
    pub(super) fn errands_done(&mut self, slot: Slot, began: u64) -> Vec<u64> {
        for errand in self.errands.iter_mut().filter(|errand| began >= errand.since_round) {
            errand.left.remove(slot);
        }
        let done: Vec<u64> = self.errands.iter().filter(|errand| errand.left.is_empty()).map(|errand| errand.number).collect();
        self.errands.retain(|errand| !errand.left.is_empty());
        self.done.extend(&done);
        while self.done.len() > ERRANDS_MAX {
            self.done.pop_front();
        }
        done
    }

    /// A new layout: errands for slots that are no longer shared go on without them.
    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        self.puller.retain(&keep);
        for errand in &mut self.errands {
            errand.left.retain(&keep);
        }
        // One that is empty now has not been done; whoever asked asks again if it still matters.
        self.errands.retain(|errand| !errand.left.is_empty());
    }
}

/// How fresh what a replica knows of the slots that it owns is, as far as it can tell by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freshness {
    /// The replicas of the shard that were heard from just now, this one included.
    pub replicas: u32,
    /// How long the one has been silent, in milliseconds, that has been so longest: what it has counted since is not known
    /// here. Of those that speak, what they count follows within a tick.
    pub silent_ms: u64,
    /// Nobody else counts in these slots.
    pub alone: bool,
}

impl Replica {
    /// How fresh this replica is.
    #[must_use]
    pub fn freshness(&self, now: Now) -> Freshness {
        // Until a move has ended, the shard that the slots come from may have changes that have not arrived.
        let sources = self.parts.moves.iter().filter(|slot_move| slot_move.incoming).flat_map(|slot_move| &slot_move.others);
        let silent_ms = |name: &NodeName| {
            // One that was never heard has been silent since this process started.
            let heard_ms = self.peers.get(name).and_then(|peer| peer.heard_ms).unwrap_or_default();
            now.monotonic_ms.saturating_sub(heard_ms)
        };
        let lately_ms = self.config.hello_ms.saturating_mul(GREETINGS_MISSED);
        let heard = self.parts.siblings.iter().filter(|name| silent_ms(name) <= lately_ms).count();
        let others = self.parts.siblings.iter().chain(sources);
        Freshness {
            replicas: u32::try_from(heard).unwrap_or(u32::MAX).saturating_add(1),
            silent_ms: others.clone().map(silent_ms).max().unwrap_or(0),
            alone: others.count() == 0,
        }
    }

    /// Takes in what a header says. Returns whether its messages may be taken in at all.
    pub(super) fn admit(&mut self, step: &mut Step<'_>, header: &Header) -> bool {
        let peer = &header.from;
        if *peer == self.me {
            self.heard_own_name(step, header.actor);
            return false;
        }
        if header.to.as_ref().is_some_and(|to| *to != self.me) {
            return false;
        }
        let ours = self.layout.as_ref().map(|layout| layout.cluster);
        if let (Some(ours), Some(theirs)) = (ours, header.cluster)
            && ours != theirs
        {
            self.report(step, peer, Report::OtherCluster { peer: peer.clone(), cluster: theirs });
            return false;
        }
        match self.clock.heard(header.clock, self.now.wall_ms) {
            Ok(clock) => self.clock = clock,
            Err(drift) => {
                self.report(step, peer, Report::ClockDrift { peer: peer.clone(), ahead_ms: drift.ahead_ms });
                return false;
            }
        }
        if let (Some(ours), Some(theirs)) = (self.layout_id, header.layout)
            && ours.version == theirs.version
            && ours.hash != theirs.hash
        {
            self.report(step, peer, Report::ConflictingLayout { peer: peer.clone(), version: theirs.version });
            return false;
        }
        self.heard(step, header);
        true
    }

    fn heard_own_name(&mut self, step: &mut Step<'_>, other: ActorId) {
        let me = self.me.clone();
        if other.origin != self.actor.origin {
            let report = Report::NameContested { peer: me.clone(), one: self.actor, other };
            self.report(step, &me, report);
        } else if other > self.actor {
            // It speaks now.
            self.give_way(step, &me, other);
        }
    }

    fn heard(&mut self, step: &mut Step<'_>, header: &Header) {
        let now_ms = self.now.monotonic_ms;
        let Some(peer) = self.peers.get_mut(&header.from) else { return };
        peer.heard_ms = Some(now_ms);
        peer.layout = header.layout;
        peer.puller.heard();
        if let Some(link) = &mut peer.link {
            link.heard();
        }
        let Some(known) = peer.actor.replace(header.actor).filter(|known| *known != header.actor) else {
            peer.actor_heard_ms = now_ms;
            return;
        };
        if known.origin == header.actor.origin && known > header.actor {
            peer.actor = Some(known);
            let silent_ms = now_ms.saturating_sub(peer.actor_heard_ms);
            step.effects.send(&header.from, Message::Superseded { by: known, silent_ms });
            return;
        }
        peer.actor_heard_ms = now_ms;
        let contested = peer.past.contains(&header.actor);
        peer.past.push_back(known);
        if peer.past.len() > PAST_MAX {
            peer.past.pop_front();
        }
        self.retiring.stir();
        if known.origin != header.actor.origin {
            self.begin_arrivals_from(&header.from);
        }
        if contested {
            // Starts on different volumes have no order: a person must say which one is to go.
            let report = Report::NameContested { peer: header.from.clone(), one: known, other: header.actor };
            self.report(step, &header.from, report);
        }
    }

    /// Brings the older of two layouts up to date: whoever has the newer gives it, whoever has the older asks.
    pub(super) fn compare_layouts(&mut self, step: &mut Step<'_>, header: &Header) {
        let version = |id: Option<LayoutId>| id.map_or(LayoutVersion(0), |id| id.version);
        let (ours, theirs) = (version(self.layout_id), version(header.layout));
        if ours == theirs {
            return;
        }
        let now_ms = self.now.monotonic_ms;
        if self.peers.get_mut(&header.from).is_some_and(|peer| !peer.may_talk_of_layouts(now_ms)) {
            return;
        }
        match &self.layout {
            Some(layout) if ours > theirs => step.effects.send(&header.from, Message::layout(layout)),
            _ => step.effects.send(&header.from, Message::LayoutAsk),
        }
    }

    /// Reports, unless the same was reported of the same peer just now.
    pub(super) fn report(&mut self, step: &mut Step<'_>, peer: &NodeName, report: Report) {
        let now_ms = self.now.monotonic_ms;
        let due = |last_ms: &u64| now_ms.saturating_sub(*last_ms) >= REPORT_MS;
        let about = (peer.clone(), report.category());
        if !self.reported.get(&about).is_none_or(due) {
            return;
        }
        if self.reported.len() >= REPORTED_MAX {
            self.reported.clear();
        }
        self.reported.insert(about, now_ms);
        step.effects.0.push(super::Effect::Report(report));
    }
}
