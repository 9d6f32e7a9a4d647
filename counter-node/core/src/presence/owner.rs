//! The owner half: what every gateway has on the pages of this node's shard, each under its lease.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::awaited::Awaited;
use super::config::PresenceConfig;
use super::copies::{Copies, Delta, Reached, Taken};
use super::ending::Ending;
use super::feed::{FeedOut, Watchers};
use super::ledger::{PageState, Place};
use super::messages::{GatewayId, PresenceMessage, Renewal, RenewalAck};
use super::step::Step;
use super::viewers::{GatewayNumber, Viewers};
use crate::id::{NodeName, ShardId};
use crate::layout::{Layout, LayoutVersion};
use crate::slot::Slot;

/// This node as a replica of its shard.
#[derive(Debug)]
pub(super) struct Owner {
    /// This process's number.
    pub(super) start: u64,
    pub(super) config: PresenceConfig,
    pub(super) viewers: Arc<Viewers>,
    /// None while no layout names this node.
    pub(super) shard: Option<ShardId>,
    pub(super) siblings: Vec<NodeName>,
    nodes: Vec<NodeName>,
    pub(super) gateways: BTreeMap<GatewayNumber, Gateway>,
    numbers: BTreeMap<GatewayId, GatewayNumber>,
    last_number: GatewayNumber,
    awaited: Awaited,
    /// When those are asked once more who have not told what is awaited.
    ask_at_ms: u64,
    pub(super) watchers: Watchers,
    /// Of the last message of counts to anyone: so they rise, also for a gateway whose lease has ended and begun again.
    pub(super) feed_sequence: u64,
    /// Gateways with counts to be sent.
    pub(super) hungry: BTreeSet<GatewayNumber>,
    /// Of whom the siblings are to be told.
    pub(super) news: BTreeSet<GatewayNumber>,
    pub(super) exchange_at_ms: u64,
    pub(super) exchange_all_at_ms: u64,
    /// Pages that the last viewer has left, and when they may be forgotten.
    pub(super) left: VecDeque<(u64, Place)>,
    /// What stood under leases that have ended, as far as it is not off yet.
    pub(super) ending: VecDeque<Ending>,
    ticked_ms: Option<u64>,
}

/// A gateway, as this replica knows it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) id: GatewayId,
    /// The highest renewal, and when it was sent or first heard of by any replica.
    pub(super) renewal: u64,
    pub(super) heard_ms: u64,
    /// The highest one that came from the gateway itself, and when.
    direct: u64,
    pub(super) direct_ms: Option<u64>,
    /// When the lease ends, or, once it has, when that may be forgotten.
    pub(super) until_ms: u64,
    pub(super) lease: Lease,
    pub(super) copies: Copies,
    pub(super) feed: Option<FeedOut>,
    /// A sibling that was ahead, how far it was, and since when.
    pub(super) behind: Option<(NodeName, Reached, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lease {
    Running,
    Ended,
    /// Ended by the gateway itself: nothing begins it again.
    Gone,
}

impl Gateway {
    pub(super) fn is_alive(&self) -> bool {
        self.lease == Lease::Running
    }

    /// The gateway itself renews a lease that runs. Returns whether it has said nothing later before.
    fn speaks(&mut self, renewal: u64, now_ms: u64) -> bool {
        let newer = self.is_alive() && renewal > self.direct;
        if newer {
            (self.direct, self.direct_ms) = (renewal, Some(now_ms));
        }
        newer
    }
}

impl Owner {
    pub(super) fn new(start: u64, config: PresenceConfig, viewers: Arc<Viewers>) -> Self {
        Self {
            start,
            config,
            viewers,
            shard: None,
            siblings: Vec::new(),
            nodes: Vec::new(),
            gateways: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last_number: 0,
            awaited: Awaited::default(),
            ask_at_ms: 0,
            watchers: Watchers::default(),
            feed_sequence: 0,
            hungry: BTreeSet::new(),
            news: BTreeSet::new(),
            exchange_at_ms: 0,
            exchange_all_at_ms: 0,
            left: VecDeque::new(),
            ending: VecDeque::new(),
            ticked_ms: None,
        }
    }

    /// Whether the viewers of all slots of this node are known.
    pub(super) fn is_complete(&self) -> bool {
        self.shard.is_some() && self.awaited.is_empty()
    }

    pub(super) fn alive(&self) -> usize {
        self.gateways.values().filter(|gateway| gateway.is_alive()).count()
    }

    pub(super) fn adopt_layout(&mut self, step: &mut Step<'_>, layout: &Layout) {
        let mine = layout.shard_of(&step.me);
        self.shard = mine.map(|shard| shard.shard);
        self.nodes = layout.nodes().map(|node| node.name.clone()).collect();
        let fellows = mine.into_iter().flat_map(|shard| &shard.nodes).map(|node| node.name.clone());
        self.siblings = fellows.filter(|name| *name != step.me).collect();
        if self.take_slots(layout, step.now_ms()) {
            self.ask_all(step);
        }
    }

    /// Asks every node what it has.
    fn ask_all(&mut self, step: &mut Step<'_>) {
        self.ask_at_ms = step.now_ms().saturating_add(self.config.renew_ms);
        for node in &self.nodes {
            step.send(node, PresenceMessage::Ask { start: self.start });
        }
    }

    /// Asks once more whom nothing is known of, while that is awaited: the question may have been lost, and others may not find the way here
    /// by themselves, as long as this node's name leads them to where its process before was.
    fn ask_again(&mut self, step: &mut Step<'_>) {
        let now_ms = step.now_ms();
        if self.awaited.is_empty() || now_ms < self.ask_at_ms {
            return;
        }
        self.ask_at_ms = now_ms.saturating_add(self.config.renew_ms);
        let has_told = |node: &NodeName| self.starts(node).any(|gateway| gateway.is_alive() && gateway.copies.shown().is_some());
        for node in self.nodes.iter().filter(|node| !has_told(node)) {
            step.send(node, PresenceMessage::Ask { start: self.start });
        }
    }

    /// This process is about to exit: nobody is to wait for counts from it.
    pub(super) fn resign(&self, step: &mut Step<'_>) {
        for node in self.nodes.iter().filter(|_| self.shard.is_some()) {
            step.send(node, PresenceMessage::Resign { start: self.start });
        }
    }

    /// Notes which slots are this shard's. Returns whether there are any whose viewers are to be found out.
    fn take_slots(&mut self, layout: &Layout, now_ms: u64) -> bool {
        let mut owned = vec![false; Slot::all().count()];
        let mut held = owned.clone();
        for slot in self.shard.and_then(|shard| layout.shard(shard)).into_iter().flat_map(|shard| &shard.slots) {
            for slot in slot.iter() {
                (owned[slot.index()], held[slot.index()]) = (true, true);
            }
        }
        let receiving = layout.moves.iter().filter(|slot_move| Some(slot_move.to) == self.shard);
        for slot in receiving.flat_map(|slot_move| &slot_move.slots).flat_map(|range| range.iter()) {
            held[slot.index()] = true;
        }
        let mut gained = Vec::new();
        for slot in Slot::all() {
            let (owned, held) = (owned[slot.index()], held[slot.index()]);
            let came = owned && !self.viewers.is_owned(slot);
            self.viewers.set_owned(slot, owned);
            if !held {
                self.viewers.set_known(slot, false);
                self.awaited.remove(slot);
            } else if !self.viewers.is_known(slot) && !self.awaited.has(slot) {
                gained.push(slot);
            }
            if came {
                self.feed_slot(slot);
            }
        }
        let has_gained = !gained.is_empty();
        self.awaited.add(gained, layout.version, now_ms);
        has_gained
    }

    pub(super) fn known(&self, id: &GatewayId) -> Option<GatewayNumber> {
        self.numbers.get(id).copied()
    }

    /// What is known of a node's starts.
    fn starts(&self, node: &NodeName) -> impl Iterator<Item = &Gateway> {
        let first = GatewayId { node: node.clone(), start: 0 };
        let starts = self.numbers.range(first..).take_while(move |(id, _)| id.node == *node);
        starts.filter_map(|(_, number)| self.gateways.get(number))
    }

    /// A gateway's number; a new one's, if so many starts of its node may be heard. Its lease does not run yet.
    pub(super) fn number_of(&mut self, id: &GatewayId, now_ms: u64) -> Option<GatewayNumber> {
        if let Some(number) = self.known(id) {
            return Some(number);
        }
        if self.starts(&id.node).filter(|gateway| gateway.is_alive()).count() >= self.config.starts_max {
            return None;
        }
        self.last_number = self.last_number.wrapping_add(1);
        let gateway = Gateway {
            id: id.clone(),
            renewal: 0,
            heard_ms: now_ms,
            direct: 0,
            direct_ms: None,
            until_ms: now_ms.saturating_add(self.config.grave_ms()),
            lease: Lease::Ended,
            copies: Copies::default(),
            feed: None,
            behind: None,
        };
        self.gateways.insert(self.last_number, gateway);
        self.numbers.insert(id.clone(), self.last_number);
        Some(self.last_number)
    }

    pub(super) fn take_renewal(&mut self, step: &mut Step<'_>, from: &NodeName, renewal: Renewal) {
        if renewal.gateway.node != *from || Some(renewal.shard) != self.shard {
            return;
        }
        let Some(number) = self.number_of(&renewal.gateway, step.now_ms()) else { return };
        let Renewal { gateway: id, shard, renewal, layout, delta, digest, feed, farewell } = renewal;
        self.renew(number, renewal, step.now_ms(), step.now_ms());
        // A sibling may have told of the renewal before, but not what is in it.
        let newer = self.gateways.get_mut(&number).is_some_and(|gateway| gateway.speaks(renewal, step.now_ms()));
        if newer {
            self.set_feed(number, feed);
        }
        let mut differs = false;
        if farewell {
            self.end(step, number, Lease::Gone);
        } else {
            let head = delta.head;
            self.take_delta(step, number, delta, layout);
            differs = newer && self.differs(number, head, digest);
        }
        let reached = self.gateways.get(&number).and_then(|gateway| gateway.copies.reached());
        let complete = self.is_complete();
        let ack = RenewalAck { gateway: id.start, shard, renewal, start: self.start, reached, differs, complete };
        step.send(from, PresenceMessage::RenewalAck(ack));
    }

    /// Restarts the lease's timer, if the renewal is higher than any before.
    pub(super) fn renew(&mut self, number: GatewayNumber, renewal: u64, heard_ms: u64, now_ms: u64) {
        let Some(gateway) = self.gateways.get_mut(&number) else { return };
        let until_ms = heard_ms.saturating_add(self.config.lease_ms);
        if renewal <= gateway.renewal || gateway.lease == Lease::Gone {
            return;
        }
        gateway.renewal = renewal;
        if until_ms <= now_ms {
            // It has taken longer to get here than the lease lasts.
            return;
        }
        gateway.heard_ms = heard_ms;
        gateway.until_ms = if gateway.is_alive() { gateway.until_ms.max(until_ms) } else { until_ms };
        gateway.lease = Lease::Running;
        self.news.insert(number);
    }

    pub(super) fn take_delta(&mut self, step: &mut Step<'_>, number: GatewayNumber, delta: Delta, layout: LayoutVersion) {
        if self.is_ending(number) {
            return;
        }
        let Some(gateway) = self.gateways.get_mut(&number).filter(|gateway| gateway.is_alive()) else { return };
        let Taken { changed, whole } = gateway.copies.take(delta, layout, self.config.absent_max);
        if whole {
            self.news.insert(number);
        }
        for (place, before, now) in changed {
            self.changed_page(step.now_ms(), number, place, &before, &now);
        }
    }

    /// Whether the copy is as far as the gateway's ledger and not equal to it.
    fn differs(&self, number: GatewayNumber, head: u64, digest: u64) -> bool {
        let Some(gateway) = self.gateways.get(&number) else { return false };
        let Some((ledger, reached)) = gateway.copies.shown() else { return false };
        gateway.copies.reached() == Some(reached) && reached.upto == head && ledger.digest() != digest
    }

    /// A gateway's part of a page has changed.
    pub(super) fn changed_page(&mut self, now_ms: u64, number: GatewayNumber, place: Place, before: &PageState, now: &PageState) {
        let fed = self.gateways.get(&number).is_some_and(|gateway| gateway.feed.is_some());
        if fed {
            self.watch(number, &place, now);
        }
        let adjusted = self.viewers.adjust(&place, number, before, now);
        if adjusted.changed {
            self.mark(&place);
        }
        if adjusted.left {
            self.left.push_back((now_ms.saturating_add(self.config.left_ms), place));
        }
    }

    /// All of a gateway's counts fall: at once, or as soon as one step after the other can take them off.
    pub(super) fn end(&mut self, step: &mut Step<'_>, number: GatewayNumber, lease: Lease) {
        let Some(gateway) = self.gateways.get_mut(&number).filter(|gateway| gateway.lease != Lease::Gone) else { return };
        if lease == Lease::Gone {
            self.news.insert(number);
        }
        gateway.lease = lease;
        gateway.behind = None;
        gateway.until_ms = step.now_ms().saturating_add(self.config.grave_ms());
        let (fed, copies) = (gateway.feed.take().is_some(), std::mem::take(&mut gateway.copies));
        self.ending.push_back(Ending::new(number, fed, copies));
        self.end_some(step);
    }

    pub(super) fn tick(&mut self, step: &mut Step<'_>) {
        let now_ms = step.now_ms();
        self.outlast_stall(now_ms);
        self.end_some(step);
        self.end_leases(step);
        self.advance_awaited(now_ms);
        self.ask_again(step);
        while self.left.len() > self.config.left_max || self.left.front().is_some_and(|(until_ms, _)| *until_ms <= now_ms) {
            let Some((_, place)) = self.left.pop_front() else { return };
            self.viewers.forget(&place);
        }
    }

    /// While this process stood still, renewals may have come that it has not seen yet.
    fn outlast_stall(&mut self, now_ms: u64) {
        let Some(before_ms) = self.ticked_ms.replace(now_ms) else { return };
        let gap_ms = now_ms.saturating_sub(before_ms);
        if gap_ms <= self.config.tick_ms.saturating_mul(2) {
            return;
        }
        let stall_ms = gap_ms.saturating_sub(self.config.tick_ms);
        let heard_before =
            |gateway: &&mut Gateway| gateway.is_alive() && gateway.heard_ms <= before_ms.saturating_add(self.config.tick_ms);
        for gateway in self.gateways.values_mut().filter(heard_before) {
            gateway.until_ms = gateway.until_ms.saturating_add(stall_ms);
        }
        self.awaited.extend(stall_ms);
    }

    fn end_leases(&mut self, step: &mut Step<'_>) {
        let now_ms = step.now_ms();
        let due = |(number, gateway): (&GatewayNumber, &Gateway)| (gateway.until_ms <= now_ms).then_some(*number);
        let due: Vec<GatewayNumber> = self.gateways.iter().filter_map(due).collect();
        for number in due {
            let Some(gateway) = self.gateways.get(&number) else { continue };
            if gateway.is_alive() {
                self.end(step, number, Lease::Ended);
            } else {
                self.numbers.remove(&gateway.id);
                self.gateways.remove(&number);
                self.news.remove(&number);
            }
        }
    }

    /// Whether all is known of what a node has on slots that came with the layout `since`, or nothing has been heard of it for
    /// a whole lease since then.
    fn has_told(&self, node: &NodeName, since: LayoutVersion, since_ms: u64, now_ms: u64) -> bool {
        let mut alive = self.starts(node).filter(|gateway| gateway.is_alive()).peekable();
        if alive.peek().is_none() {
            return now_ms >= since_ms.saturating_add(self.config.lease_ms);
        }
        alive.all(|gateway| gateway.copies.shown().is_some() && gateway.copies.arranged() >= since)
    }

    /// Finds out of which slots all viewers are known by now.
    fn advance_awaited(&mut self, now_ms: u64) {
        if self.awaited.is_empty() {
            return;
        }
        let mut awaited = std::mem::take(&mut self.awaited);
        let told = awaited.take(|since, since_ms| self.nodes.iter().all(|node| self.has_told(node, since, since_ms, now_ms)));
        self.awaited = awaited;
        for slot in told {
            self.viewers.set_known(slot, true);
            self.feed_slot(slot);
        }
    }
}
