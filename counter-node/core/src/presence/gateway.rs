//! The gateway half: what this node's sessions are, and telling it to the replicas of each shard.

use std::collections::{BTreeMap, BTreeSet};

use super::config::PresenceConfig;
use super::copies::Delta;
use super::feeder::Feeder;
use super::ledger::{Ledger, PageState, Place};
use super::link::Link;
use super::messages::{Feed, GatewayId, PresenceMessage, Renewal, RenewalAck};
use super::placement::{Placement, Told};
use super::step::{PresenceEffect, Step};
use super::unique::Audience;
use crate::id::{NodeName, ShardId};
use crate::layout::{Layout, LayoutVersion};
use crate::slot::{Slot, SlotRange, to_ranges};

/// This node as a gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    config: PresenceConfig,
    /// Of the last change of any ledger, so that a shard's second ledger begins above its first.
    sequence: u64,
    renewal: u64,
    layout: LayoutVersion,
    placement: Placement,
    shards: BTreeMap<ShardId, Outgoing>,
    /// Pages for which there is no layout yet.
    unplaced: BTreeMap<Place, PageState>,
    /// By page, whose sessions they are, and when what has changed of that may be told.
    audiences: BTreeMap<Place, Audience>,
    names_due: BTreeSet<(u64, Place)>,
    /// Shards with something to tell.
    stirred: BTreeSet<ShardId>,
    /// Since when this is saying farewell.
    leaving_ms: Option<u64>,
}

/// What one shard is told.
#[derive(Debug)]
struct Outgoing {
    ledger: Ledger,
    links: BTreeMap<NodeName, Link>,
    feeder: Feeder,
}

impl Gateway {
    pub(super) fn new(id: GatewayId, config: PresenceConfig) -> Self {
        Self {
            id,
            config,
            sequence: 0,
            renewal: 0,
            layout: LayoutVersion::default(),
            placement: Placement::none(),
            shards: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            audiences: BTreeMap::new(),
            names_due: BTreeSet::new(),
            stirred: BTreeSet::new(),
            leaving_ms: None,
        }
    }

    /// What this node has on a page.
    pub(super) fn state(&self, place: &Place) -> PageState {
        let state = match self.placement.told(place.0) {
            Some(told) => self.shards.get(&told.owner).and_then(|outgoing| outgoing.ledger.get(place)),
            None => self.unplaced.get(place),
        };
        state.cloned().unwrap_or_default()
    }

    /// How many pages this node has something on, those on the move twice.
    pub(super) fn pages(&self) -> usize {
        self.shards.values().fold(self.unplaced.len(), |sum, outgoing| sum.saturating_add(outgoing.ledger.len()))
    }

    /// Changes what this node has on a page.
    pub(super) fn change(&mut self, place: Place, change: impl FnOnce(&mut PageState)) {
        let before = self.state(&place);
        let mut state = before.clone();
        change(&mut state);
        if state == before || self.leaving_ms.is_some() {
            return;
        }
        match self.placement.told(place.0) {
            Some(told) => told.iter().for_each(|shard| self.enter(shard, place.clone(), state.clone())),
            None if state.is_absent() => drop(self.unplaced.remove(&place)),
            None => drop(self.unplaced.insert(place, state)),
        }
    }

    /// The names of a page's sessions change.
    pub(super) fn change_names(&mut self, place: Place, now_ms: u64, change: impl FnOnce(&mut Audience)) {
        let audience = self.audiences.entry(place.clone()).or_default();
        change(audience);
        if let Some(due_ms) = audience.due(now_ms, self.config.unique_ms) {
            self.names_due.insert((due_ms, place));
        }
    }

    fn enter_names(&mut self, now_ms: u64) {
        while self.names_due.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            let Some((_, place)) = self.names_due.pop_first() else { return };
            let Some(audience) = self.audiences.get_mut(&place) else { continue };
            let unique = audience.tell(now_ms);
            if audience.is_empty() {
                self.audiences.remove(&place);
            }
            self.change(place, |state| state.unique = unique.filter(|_| state.sessions > 0));
        }
    }

    fn enter(&mut self, shard: ShardId, place: Place, state: PageState) {
        let Some(outgoing) = self.shards.get_mut(&shard) else { return };
        self.sequence = self.sequence.saturating_add(1);
        outgoing.ledger.enter(self.sequence, place, state);
        outgoing.ledger.forget(self.config.absent_max);
        self.stirred.insert(shard);
    }

    pub(super) fn adopt_layout(&mut self, layout: &Layout, now_ms: u64) {
        let before = std::mem::replace(&mut self.placement, Placement::of(layout));
        self.layout = layout.version;
        for shard in &layout.shards {
            self.sequence = self.sequence.saturating_add(1);
            let fresh = || Outgoing { ledger: Ledger::new(self.sequence), links: BTreeMap::new(), feeder: Feeder::default() };
            let outgoing = self.shards.entry(shard.shard).or_insert_with(fresh);
            outgoing.links.retain(|name, _| shard.nodes.iter().any(|node| node.name == *name));
            outgoing.feeder.keep(|name| outgoing.links.contains_key(name));
            for node in &shard.nodes {
                let link = || Link::new(now_ms, self.config.renew_ms, &self.id.node, &node.name);
                outgoing.links.entry(node.name.clone()).or_insert_with(link);
            }
        }
        self.rearrange(&before);
        // Only now: a node that has missed versions may find pages nowhere else.
        self.shards.retain(|shard, _| layout.shard(*shard).is_some());
    }

    /// Enters pages where they are to stand from now on, and takes them out elsewhere.
    fn rearrange(&mut self, before: &Placement) {
        let mut moved: BTreeMap<(Told, Told), Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            let (Some(old), Some(new)) = (before.told(slot), self.placement.told(slot)) else { continue };
            if old != new {
                moved.entry((old, new)).or_default().push(slot);
            }
        }
        for ((old, new), slots) in moved {
            let pages = self.pages_in(old, &to_ranges(slots));
            for (place, state) in pages {
                // Also where they stand already, as the new owner's: it is then asked for their counts again.
                let entered = new.iter().filter(|shard| !old.has(*shard) || (*shard == new.owner && old.owner != new.owner));
                entered.for_each(|shard| self.enter(shard, place.clone(), state.clone()));
                let left = old.iter().filter(|shard| !new.has(*shard));
                left.for_each(|shard| self.enter(shard, place.clone(), PageState::default()));
            }
            // Even where there are no pages, the receiver waits to hear that.
            new.iter().for_each(|shard| self.stir(shard));
        }
        for (place, state) in std::mem::take(&mut self.unplaced) {
            self.change(place, |entered| *entered = state);
        }
    }

    fn pages_in(&self, told: Told, slots: &[SlotRange]) -> Vec<(Place, PageState)> {
        let Some(outgoing) = told.iter().find_map(|shard| self.shards.get(&shard)) else { return Vec::new() };
        let pages = slots.iter().flat_map(|range| outgoing.ledger.in_slots(*range));
        pages.map(|(place, state)| (place.clone(), state.clone())).collect()
    }

    /// All replicas of the shard are to hear of this node, also when no page has changed.
    fn stir(&mut self, shard: ShardId) {
        if let Some(outgoing) = self.shards.get_mut(&shard) {
            outgoing.links.values_mut().for_each(Link::stir);
            self.stirred.insert(shard);
        }
    }

    /// Sends changes that have waited long enough.
    pub(super) fn flush(&mut self, step: &mut Step<'_>) {
        self.enter_names(step.now_ms());
        for shard in std::mem::take(&mut self.stirred) {
            self.tell(step, shard, None);
        }
    }

    /// Sends what is due.
    pub(super) fn tick(&mut self, step: &mut Step<'_>) {
        self.enter_names(step.now_ms());
        self.stirred.clear();
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.choose_feed(step, shard);
            self.tell(step, shard, None);
        }
    }

    fn choose_feed(&mut self, step: &mut Step<'_>, shard: ShardId) {
        let Some(outgoing) = self.shards.get_mut(&shard).filter(|_| self.leaving_ms.is_none()) else { return };
        let silence_ms = self.config.feed_silence_ms();
        let Some(node) = outgoing.feeder.better(&self.id.node, &outgoing.links, step.now_ms(), silence_ms) else { return };
        self.sequence = self.sequence.saturating_add(1);
        let before = outgoing.feeder.name(&node, self.sequence);
        for name in before.iter().chain([&node]) {
            outgoing.links.get_mut(name).into_iter().for_each(Link::stir);
        }
    }

    /// Sends to the shard's replicas, or to one of them, what is due to them.
    fn tell(&mut self, step: &mut Step<'_>, shard: ShardId, only: Option<&NodeName>) {
        let Some(outgoing) = self.shards.get_mut(&shard) else { return };
        // One number for all that is sent now: replicas compare theirs with each other's.
        self.renewal = self.renewal.saturating_add(1);
        let leaving = self.leaving_ms.is_some();
        let mut waits = false;
        for (name, link) in outgoing.links.iter_mut().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            if !link.is_due(&outgoing.ledger, step.now_ms(), &self.config, leaving) {
                waits |= link.is_behind(&outgoing.ledger);
                continue;
            }
            let reached = link.next_from(&outgoing.ledger, &mut self.sequence);
            let head = outgoing.ledger.head();
            let empty = Delta { base: reached.base, after: reached.upto, upto: reached.upto, head, changes: Vec::new() };
            let delta = || Delta::of(&outgoing.ledger, head, reached, self.config.message_bytes_max);
            let renewal = Renewal {
                gateway: self.id.clone(),
                shard,
                renewal: self.renewal,
                layout: self.layout,
                delta: if leaving { empty } else { delta() },
                digest: outgoing.ledger.digest(),
                feed: outgoing.feeder.epoch_of(name),
                farewell: leaving,
            };
            link.sent(self.renewal, head, step.now_ms(), self.config.renew_ms);
            step.send(name, PresenceMessage::Renewal(renewal));
        }
        if waits {
            self.stirred.insert(shard);
        }
    }

    pub(super) fn take_ack(&mut self, step: &mut Step<'_>, from: &NodeName, ack: &RenewalAck) {
        if ack.gateway != self.id.start {
            return;
        }
        let Some(outgoing) = self.shards.get_mut(&ack.shard) else { return };
        let Some(link) = outgoing.links.get_mut(from) else { return };
        let Some(restarted) = link.take_ack(ack, &mut self.sequence, step.now_ms(), &self.config) else { return };
        if restarted && outgoing.feeder.is(from) {
            // What an earlier start of it has sent may still come.
            self.sequence = self.sequence.saturating_add(1);
            outgoing.feeder.name(from, self.sequence);
            link.stir();
        }
        self.tell(step, ack.shard, Some(from));
    }

    /// A replica has started, or gets slots.
    pub(super) fn take_ask(&mut self, step: &mut Step<'_>, from: &NodeName, start: u64) {
        let asked: Vec<ShardId> = self
            .shards
            .iter_mut()
            .filter_map(|(shard, outgoing)| {
                let link = outgoing.links.get_mut(from)?;
                link.asked(start);
                Some(*shard)
            })
            .collect();
        asked.into_iter().for_each(|shard| self.tell(step, shard, Some(from)));
    }

    /// A replica is about to exit.
    pub(super) fn take_resign(&mut self, step: &mut Step<'_>, from: &NodeName, start: u64) {
        let left = self.shards.iter_mut().filter_map(|(shard, outgoing)| {
            outgoing.links.get_mut(from)?.resign(start);
            Some(*shard)
        });
        let left: Vec<ShardId> = left.collect();
        for shard in left {
            self.choose_feed(step, shard);
            self.tell(step, shard, None);
        }
    }

    pub(super) fn take_feed(&mut self, step: &mut Step<'_>, from: &NodeName, feed: Feed) {
        let Feed { shard, gateway, epoch, sequence, mut readings } = feed;
        if gateway != self.id.start {
            return;
        }
        let Some(outgoing) = self.shards.get_mut(&shard) else { return };
        if outgoing.feeder.epoch_of(from) != Some(epoch) {
            return;
        }
        step.send(from, PresenceMessage::FeedAck { gateway, epoch, sequence });
        if !outgoing.feeder.take(sequence) {
            return;
        }
        // What has moved meanwhile is the new owner's to tell.
        readings.retain(|(key, _)| {
            let place = (key.slot(), key.clone());
            self.placement.told(place.0).is_some_and(|told| told.owner == shard) && outgoing.ledger.get(&place).is_some()
        });
        if !readings.is_empty() {
            step.effects.push(PresenceEffect::Fed { by: from.clone(), readings });
        }
    }

    /// The number of the last change.
    pub(super) fn mark(&self) -> u64 {
        self.sequence
    }

    /// Whether every replica that answers has all changes up to this one.
    pub(super) fn is_told(&self, mark: u64, now_ms: u64) -> bool {
        let silence_ms = self.config.feed_silence_ms();
        let is_told = |outgoing: &Outgoing| {
            let ledger = &outgoing.ledger;
            outgoing.links.values().all(|link| !link.answers(now_ms, silence_ms) || link.has(ledger, mark))
        };
        self.shards.values().all(is_told)
    }

    /// From now on this node has no sessions, and says so to everyone.
    pub(super) fn farewell(&mut self, step: &mut Step<'_>) {
        self.leaving_ms.get_or_insert(step.now_ms());
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for shard in shards {
            self.stir(shard);
            self.tell(step, shard, None);
        }
    }

    /// Whether everyone has heard the farewell, or this node's lease has ended by itself.
    pub(super) fn has_left(&self, now_ms: u64) -> bool {
        let Some(since_ms) = self.leaving_ms else { return false };
        let ended = now_ms >= since_ms.saturating_add(self.config.lease_ms);
        ended || self.shards.values().flat_map(|outgoing| outgoing.links.values()).all(Link::is_settled)
    }
}
