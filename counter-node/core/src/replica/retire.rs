//! Retirement: closed actors are folded into the base, so that entries per counter stay bounded.
//!
//! The first node of the owning shard, by name, proposes; it folds only when, within one round and under one layout,
//! *every* sibling has answered that it has the same generation and the same final entries, durably, and that none of
//! the actors is its own. A sibling that cannot be reached therefore blocks retirement, as it must: it may hold more.
//!
//! Token records are forgotten in the same way: the proposal is a *floor*, and what is compared are the records below it.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::Part;
use super::saves::{Then, Unsaved};
use super::{Effect, Effects, Replica, Report, Step};
use crate::id::{ActorId, NodeName};
use crate::layout::LayoutVersion;
use crate::message::{Header, Message, RetireProposal};
use crate::slot::{Slot, to_ranges};
use crate::unread::REGISTER;
use crate::vector::SlotVector;

/// After a look at all slots that found nothing closed, and no news of any actor since, the next look comes this many
/// times later: an entry may still come in from a peer that was away.
const QUIET_FACTOR: u64 = 12;

/// The proposing side.
#[derive(Debug)]
pub(super) struct Retiring {
    due_ms: u64,
    /// The next slot to look at.
    cursor: u16,
    /// Whether this look through the slots has found anything, and whether actors have changed since it began.
    found: bool,
    stirred: bool,
    round: Option<Round>,
    next_round: u64,
    too_large: BTreeSet<Slot>,
}

#[derive(Debug)]
struct Round {
    number: u64,
    layout: LayoutVersion,
    until_ms: u64,
    proposals: BTreeMap<Slot, RetireProposal>,
    /// Siblings that have not answered.
    awaited: BTreeSet<NodeName>,
}

impl Retiring {
    /// `first_round` must be unlike that of an earlier process of this node.
    pub(super) fn new(first_round: u64) -> Self {
        Self {
            due_ms: 0,
            cursor: 0,
            found: false,
            stirred: true,
            round: None,
            next_round: first_round,
            too_large: BTreeSet::new(),
        }
    }

    /// An actor has changed somewhere: there may be a closed one.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// A new layout: what was agreed to under the old one counts no more.
    pub(super) fn abandon(&mut self) {
        self.round = None;
        self.stirred = true;
    }
}

impl Replica {
    /// Looks at some more slots and proposes what is closed in them.
    pub(super) fn advance_retirement(&mut self, step: &mut Step<'_>) {
        let now_ms = self.now.monotonic_ms;
        self.retiring.round.take_if(|round| round.until_ms <= now_ms);
        let coordinates = self.parts.named && self.parts.siblings.first().is_none_or(|first| self.me < *first);
        if self.retiring.round.is_some() || !coordinates || self.renewing || self.superseded {
            return;
        }
        let early = self.retiring.cursor == 0 && now_ms < self.retiring.due_ms;
        let stirred = self.retiring.stirred && now_ms >= self.retiring.due_ms.saturating_sub(self.quiet_ms());
        if early && !stirred {
            return;
        }
        let Some(current) = self.current_actors() else { return };
        let proposals = self.look_for_closed(step, &current);
        if !proposals.is_empty() {
            self.propose(step, proposals);
        }
    }

    fn quiet_ms(&self) -> u64 {
        self.config.retire_ms.saturating_mul(QUIET_FACTOR.saturating_sub(1))
    }

    /// The current actors of all of the shard's nodes; none while any is not known.
    fn current_actors(&self) -> Option<BTreeSet<ActorId>> {
        let of_siblings = self.parts.siblings.iter().map(|sibling| self.peers.get(sibling)?.actor);
        of_siblings.chain(std::iter::once(Some(self.actor))).collect()
    }

    fn look_for_closed(&mut self, step: &mut Step<'_>, current: &BTreeSet<ActorId>) -> BTreeMap<Slot, RetireProposal> {
        if self.retiring.cursor == 0 {
            (self.retiring.found, self.retiring.stirred) = (false, false);
        }
        let mut proposals = BTreeMap::new();
        let mut counters = 0_usize;
        while proposals.len() < self.config.retire_slots_max && counters < self.config.retire_counters_max {
            let Some(slot) = Slot::new(self.retiring.cursor) else {
                self.end_look();
                break;
            };
            self.retiring.cursor = self.retiring.cursor.saturating_add(1);
            if self.parts.part(slot) != Part::Owns {
                continue;
            }
            let vector = step.table.slot(slot);
            counters = counters.saturating_add(vector.len());
            let actors = closed(&vector, current);
            if actors.is_empty() {
                proposals.extend(self.propose_floor(slot, &vector).map(|proposal| (slot, proposal)));
                continue;
            }
            if vector.len() > self.config.retire_slot_counters_max {
                if self.retiring.too_large.insert(slot) {
                    step.effects.0.push(Effect::Report(Report::SlotTooLarge { slot, counters: vector.len() }));
                }
                continue;
            }
            self.retiring.found = true;
            if !self.saves.is_saving(slot) {
                let (generation, digest) = (vector.generation(), vector.digest_of(&actors));
                proposals.insert(slot, RetireProposal { slot, generation, actors, floor_ms: 0, digest });
            }
        }
        proposals
    }

    /// That the tokens be forgotten which no node takes any more, whatever its clock, if there are records of such.
    fn propose_floor(&self, slot: Slot, vector: &SlotVector) -> Option<RetireProposal> {
        let past_ms = self.config.token_window_ms.saturating_add(self.config.token_slack_ms);
        let grain_ms = self.config.token_floor_grain_ms.max(1);
        let latest_ms = self.now.wall_ms.checked_sub(past_ms)?;
        let floor_ms = latest_ms.saturating_sub(latest_ms.checked_rem(grain_ms)?);
        let is_due = vector.oldest_token_ms().is_some_and(|oldest_ms| oldest_ms < floor_ms);
        if !is_due || self.saves.is_saving(slot) {
            return None;
        }
        let digest = vector.digest_below(floor_ms);
        Some(RetireProposal { slot, generation: vector.generation(), actors: Vec::new(), floor_ms, digest })
    }

    /// Whether no token made before the floor would be taken here, not even by a clock that is behind.
    fn is_past(&self, floor_ms: u64) -> bool {
        self.now.wall_ms.saturating_sub(self.config.token_window_ms) > floor_ms
    }

    fn end_look(&mut self) {
        let factor = if self.retiring.found { 1 } else { QUIET_FACTOR };
        self.retiring.cursor = 0;
        self.retiring.due_ms = self.now.monotonic_ms.saturating_add(self.config.retire_ms.saturating_mul(factor));
    }

    fn propose(&mut self, step: &mut Step<'_>, proposals: BTreeMap<Slot, RetireProposal>) {
        let Some(layout) = self.layout_id.map(|id| id.version) else { return };
        let number = self.retiring.next_round;
        self.retiring.next_round = number.saturating_add(1);
        let slots: Vec<RetireProposal> = proposals.values().cloned().collect();
        for sibling in &self.parts.siblings {
            step.effects.send(sibling, Message::RetireAsk { round: number, layout, slots: slots.clone() });
        }
        let until_ms = self.now.monotonic_ms.saturating_add(self.config.retire_ms);
        let awaited = self.parts.siblings.iter().cloned().collect();
        self.retiring.round = Some(Round { number, layout, until_ms, proposals, awaited });
        self.conclude(step);
    }

    /// Another node's proposal: the slots that this node agrees to.
    pub(super) fn consider(
        &self,
        step: &mut Step<'_>,
        header: &Header,
        round: u64,
        layout: LayoutVersion,
        proposals: &[RetireProposal],
    ) {
        if !self.parts.is_sibling(&header.from) || self.layout_id.is_none_or(|id| id.version != layout) || self.renewing {
            return;
        }
        let agrees = |proposal: &&RetireProposal| {
            let vector = step.table.slot(proposal.slot);
            self.parts.part(proposal.slot) == Part::Owns
                && !proposal.actors.contains(&self.actor)
                && !self.saves.is_saving(proposal.slot)
                && (!proposal.actors.is_empty() || self.is_past(proposal.floor_ms))
                && is_still(&vector, proposal)
        };
        let agreed = proposals.iter().filter(agrees).map(|proposal| proposal.slot).collect();
        step.effects.send(&header.from, Message::RetireReply { round, layout, agreed });
    }

    /// A sibling's answer.
    pub(super) fn agreed(&mut self, step: &mut Step<'_>, header: &Header, round: u64, layout: LayoutVersion, agreed: &[Slot]) {
        let current = self.peers.get(&header.from).and_then(|peer| peer.actor);
        let Some(open) = self.retiring.round.as_mut().filter(|open| open.number == round && open.layout == layout) else {
            return;
        };
        // A process that another has followed has no say; and its follower's entries are not closed.
        if current != Some(header.actor) || !open.awaited.remove(&header.from) {
            return;
        }
        let agreed: BTreeSet<Slot> = agreed.iter().copied().collect();
        open.proposals.retain(|slot, proposal| agreed.contains(slot) && !proposal.actors.contains(&header.actor));
        self.conclude(step);
    }

    /// Folds, once nobody's answer is missing, what all have agreed to and what is still as it was proposed.
    fn conclude(&mut self, step: &mut Step<'_>) {
        let Some(round) = self.retiring.round.take_if(|round| round.awaited.is_empty()) else { return };
        let mut unsaved = Unsaved::default();
        for proposal in round.proposals.values().filter(|proposal| !proposal.actors.contains(&self.actor)) {
            let still = is_still(&step.table.slot(proposal.slot), proposal);
            if still && proposal.actors.is_empty() {
                unsaved.keys.extend(step.table.slot(proposal.slot).raise_floor(proposal.floor_ms));
                unsaved.floors.push(proposal.slot);
            } else if still {
                unsaved.keys.extend(step.table.slot(proposal.slot).retire(&proposal.actors));
                unsaved.generations.push(proposal.slot);
            }
        }
        let slots: Vec<Slot> = unsaved.generations.iter().chain(&unsaved.floors).copied().collect();
        step.effects.0.extend(self.saves.save(unsaved));
        if !slots.is_empty() {
            // The siblings hear of it when it is durable here.
            let due = self.saves.after(slots.iter().copied(), Then::Spread { slots: slots.clone() });
            self.follow(&mut step.effects, due);
        }
    }

    /// Has the siblings pull slots that have a new generation.
    pub(super) fn spread(&mut self, effects: &mut Effects, slots: Vec<Slot>) {
        let errand = self.random.start();
        let slots = to_ranges(slots);
        for sibling in &self.parts.siblings {
            effects.send(sibling, Message::PullAsk { errand, slots: slots.clone() });
        }
    }
}

/// The closed actors that may be retired. One that token records name has to wait until these are forgotten.
fn closed(vector: &SlotVector, current: &BTreeSet<ActorId>) -> Vec<ActorId> {
    let mut actors = vector.actors();
    actors.retain(|actor| !current.contains(actor) && *actor != REGISTER && vector.may_retire(&[*actor]));
    actors
}

fn is_still(vector: &SlotVector, proposal: &RetireProposal) -> bool {
    if vector.generation() != proposal.generation {
        return false;
    }
    if proposal.actors.is_empty() {
        return vector.digest_below(proposal.floor_ms) == proposal.digest;
    }
    vector.may_retire(&proposal.actors) && vector.digest_of(&proposal.actors) == proposal.digest
}
