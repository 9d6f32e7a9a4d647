//! The feed: counts of watched pages, to the gateways that want them from this replica.
//!
//! One message per gateway at a time, and in it the newest count of each page that has changed: so a slow gateway gets fewer
//! messages, not a longer queue. What is not answered is read and sent anew.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{PageState, Place};
use super::messages::{Feed, FeedReading, GatewayId, PresenceMessage};
use super::owner::Owner;
use super::step::Step;
use super::viewers::{GatewayNumber, PageViewers};
use crate::id::NodeName;
use crate::key::{Key, KeyKind, KeyRef};
use crate::slot::Slot;
use crate::table::Table;
use crate::unread::Epoch;
use crate::vector::Reading;

/// The counts that one gateway is to get.
#[derive(Debug)]
pub(super) struct FeedOut {
    epoch: u64,
    sequence: u64,
    due: BTreeSet<Place>,
    under_way: Vec<Place>,
    /// When the last message left; None once there has been time enough for the next.
    sent_ms: Option<u64>,
    answered: bool,
}

/// By page, the gateways that are fed with it.
#[derive(Debug, Default)]
pub(super) struct Watchers(BTreeMap<Place, Vec<GatewayNumber>>);

impl FeedOut {
    fn new(epoch: u64) -> Self {
        Self { epoch, sequence: 0, due: BTreeSet::new(), under_way: Vec::new(), sent_ms: None, answered: true }
    }
}

pub(super) fn is_watched(state: &PageState) -> bool {
    state.watched || state.sessions > 0
}

impl Owner {
    /// The gateway wants to be fed from here, under this number, or no more.
    pub(super) fn set_feed(&mut self, number: GatewayNumber, epoch: Option<u64>) {
        let Some(gateway) = self.gateways.get_mut(&number) else { return };
        if gateway.feed.as_ref().map(|feed| feed.epoch) == epoch {
            return;
        }
        let was_fed = gateway.feed.is_some();
        gateway.feed = epoch.map(FeedOut::new);
        let shown = gateway.copies.shown().map(|(ledger, _)| ledger);
        let watched = shown.into_iter().flat_map(|ledger| ledger.iter()).filter(|(_, state)| is_watched(state));
        let places: Vec<Place> = watched.map(|(place, _)| place.clone()).collect();
        if let Some(feed) = &mut gateway.feed {
            feed.due.extend(places.iter().cloned());
            self.hungry.insert(number);
        }
        for place in places {
            match (was_fed, epoch) {
                (false, Some(_)) => self.watchers.add(&place, number, &self.viewers),
                (true, None) => self.watchers.remove(&place, number, &self.viewers),
                (true, Some(_)) | (false, None) => {}
            }
        }
    }

    /// A gateway that is fed has said something of a page: whatever it was, it gets the count.
    pub(super) fn watch(&mut self, number: GatewayNumber, place: &Place, now: &PageState) {
        let Some(feed) = self.gateways.get_mut(&number).and_then(|gateway| gateway.feed.as_mut()) else { return };
        if is_watched(now) {
            self.watchers.add(place, number, &self.viewers);
            feed.due.insert(place.clone());
            self.hungry.insert(number);
        } else {
            self.watchers.remove(place, number, &self.viewers);
            feed.due.remove(place);
        }
    }

    /// The page's count has changed.
    pub(super) fn mark(&mut self, place: &Place) {
        for number in self.watchers.of(place) {
            if let Some(feed) = self.gateways.get_mut(number).and_then(|gateway| gateway.feed.as_mut()) {
                feed.due.insert(place.clone());
                self.hungry.insert(*number);
            }
        }
    }

    /// The counts of a whole slot are to be told, since this replica can by now.
    pub(super) fn feed_slot(&mut self, slot: Slot) {
        if !self.viewers.is_watched(slot) {
            return;
        }
        let places: Vec<Place> = self.watchers.in_slot(slot);
        places.iter().for_each(|place| self.mark(place));
    }

    /// Sends counts to whoever may get them by now.
    pub(super) fn feed(&mut self, step: &mut Step<'_>) {
        for number in std::mem::take(&mut self.hungry) {
            if self.feed_one(step, number) {
                self.hungry.insert(number);
            }
        }
    }

    /// Returns whether there will be more to send.
    fn feed_one(&mut self, step: &mut Step<'_>, number: GatewayNumber) -> bool {
        let (Some(shard), Some(gateway)) = (self.shard, self.gateways.get_mut(&number)) else { return false };
        let Some(feed) = &mut gateway.feed else { return false };
        let waits_ms = if feed.answered { self.config.flush_ms } else { self.config.retry_ms };
        if feed.sent_ms.is_some_and(|sent_ms| step.now_ms() < sent_ms.saturating_add(waits_ms)) {
            return true;
        }
        feed.due.extend(std::mem::take(&mut feed.under_way));
        let mut readings = Vec::new();
        let mut bytes: usize = 0;
        while let Some(place) = feed.due.pop_first() {
            // What cannot be told now is told when it can be, see `feed_slot`.
            let Some(viewers) = self.viewers.read(&place.1).filter(|_| self.viewers.is_owned(place.0)) else { continue };
            let reading = reading(step.table, &place, viewers);
            bytes = bytes.saturating_add(place.1.as_bytes().len()).saturating_add(40);
            readings.push((place.1.clone(), reading));
            feed.under_way.push(place);
            if bytes >= self.config.message_bytes_max {
                break;
            }
        }
        if readings.is_empty() {
            feed.answered = true;
            return false;
        }
        self.feed_sequence = self.feed_sequence.saturating_add(1);
        feed.sequence = self.feed_sequence;
        (feed.sent_ms, feed.answered) = (Some(step.now_ms()), false);
        let (node, start) = (gateway.id.node.clone(), gateway.id.start);
        let message = Feed { shard, gateway: start, epoch: feed.epoch, sequence: feed.sequence, readings };
        step.send(&node, PresenceMessage::Feed(message));
        true
    }

    pub(super) fn take_feed_ack(&mut self, from: &NodeName, start: u64, epoch: u64, sequence: u64) {
        let Some(number) = self.known(&GatewayId { node: from.clone(), start }) else { return };
        let Some(feed) = self.gateways.get_mut(&number).and_then(|gateway| gateway.feed.as_mut()) else { return };
        if feed.epoch == epoch && feed.sequence == sequence {
            feed.answered = true;
            feed.under_way.clear();
            self.hungry.insert(number);
        }
    }

    /// The tallies of these keys have changed.
    pub(super) fn tallies_changed<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys {
            let slot = key.slot();
            if self.viewers.is_watched(slot) {
                self.mark(&(slot, key.clone()));
                // Who follows a user follows all of the subscriptions.
                if let Some(user) = KeyRef::from(key).user_key() {
                    self.mark(&(slot, user.to_key()));
                }
            }
        }
    }
}

/// Of a user, under whose key nothing is kept, it says nothing but that some subscription may have changed.
fn reading(table: &Table, (_, key): &Place, PageViewers { viewers, changed_at }: PageViewers) -> FeedReading {
    let Reading { tally, updated_at, .. } = table.read(key);
    let is_modified = key.kind() == KeyKind::Modifications;
    let epoch = if is_modified { table.slot(key.slot()).modifications(key).epoch } else { Epoch::default() };
    FeedReading { tally, viewers, updated_at: updated_at.max(changed_at), epoch }
}

impl Watchers {
    fn of(&self, place: &Place) -> &[GatewayNumber] {
        self.0.get(place).map_or(&[], Vec::as_slice)
    }

    pub(super) fn in_slot(&self, slot: Slot) -> Vec<Place> {
        let pages = self.0.range((slot, Key::least())..).take_while(|((other, _), _)| *other == slot);
        pages.map(|(place, _)| place.clone()).collect()
    }

    fn add(&mut self, place: &Place, number: GatewayNumber, viewers: &super::Viewers) {
        let watchers = self.0.entry(place.clone()).or_default();
        if watchers.is_empty() {
            viewers.watch(place.0);
        }
        if !watchers.contains(&number) {
            watchers.push(number);
        }
    }

    pub(super) fn remove(&mut self, place: &Place, number: GatewayNumber, viewers: &super::Viewers) {
        let Some(watchers) = self.0.get_mut(place) else { return };
        watchers.retain(|watcher| *watcher != number);
        if watchers.is_empty() {
            self.0.remove(place);
            viewers.unwatch(place.0);
        }
    }
}
