//! Users who are followed live: the product's own `Followed`, and the presence protocol by which owners tell it what has changed, in each
//! process of a plan that has them. Whatever a follower is told is looked at, and the last of it must be the total.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::key::KeyKind;
use counter_core::layout::LayoutVersion;
use counter_core::presence::{FeedReading, Presence, PresenceConfig, PresenceEffect, PresenceMessage, Viewers};
use counter_core::replica::Now;
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::unread::{Epoch, Modifications, Subscription};
use counter_node::live::unread::{AGAIN, Audience, Followed, Rewatch};
use counter_node::live::{Count, LiveMetrics};
use counter_node::router::Failure;
use counter_node::unread::{self, Subscribed};
use futures::FutureExt as _;

use crate::bugs::Bug;
use crate::events::Event;
use crate::process::Node;
use crate::unread::{About, Done, Pair};
use crate::world::World;

const TICK_MS: u64 = 50;
/// How long one follows, at most.
const FOLLOWS_MS: u64 = 6_000;
/// By then followers must have been told the totals.
const TOLD_MS: u64 = 30_000;
const LOOK_MS: u64 = 250;
const HELD_MAX: usize = 1_000;

/// What followers at one process have been told.
#[derive(Debug, Default)]
pub(crate) struct Lookers {
    /// By user: the counts that were told since this was last looked at.
    told: Mutex<BTreeMap<Key, Vec<i64>>>,
    metrics: LiveMetrics,
}

/// A process's part in presence.
#[derive(Debug)]
pub(crate) struct Gateway {
    presence: Presence,
    viewers: Arc<Viewers>,
    followed: Followed<Lookers>,
    lookers: Arc<Lookers>,
    layout: Option<LayoutVersion>,
    changed_keys: Vec<Key>,
    changed_slots: Vec<Slot>,
    /// By user.
    seen: BTreeMap<Key, Seen>,
    /// By the keys of modifications: the epochs that were heard of last.
    epochs: BTreeMap<Key, Epoch>,
    /// Another one is being taken in: where replicas have counted the first modifications apart, it becomes an earlier one.
    epoch_changes: bool,
}

/// What a follower knows.
#[derive(Debug, Default)]
struct Seen {
    last: Option<i64>,
    subscriptions: Vec<(Key, Subscription)>,
    /// Other subscriptions are being taken in.
    changes: bool,
}

impl Audience for Lookers {
    fn follows(&self, user: &Key) -> bool {
        self.told.lock().unwrap().contains_key(user)
    }

    fn unread(&self, user: &Key, count: Count) {
        if let Some(told) = self.told.lock().unwrap().get_mut(user) {
            told.push(count.count);
        }
    }

    fn metrics(&self) -> &LiveMetrics {
        &self.metrics
    }
}

impl Gateway {
    pub(crate) fn new(me: NodeName, start: u64) -> Self {
        let (viewers, lookers) = (Arc::new(Viewers::new(start)), Arc::new(Lookers::default()));
        Self {
            presence: Presence::new(me, start, PresenceConfig::default(), viewers.clone()),
            viewers,
            followed: Followed::new(lookers.clone(), HELD_MAX),
            lookers,
            layout: None,
            changed_keys: Vec::new(),
            changed_slots: Vec::new(),
            seen: BTreeMap::new(),
            epochs: BTreeMap::new(),
            epoch_changes: false,
        }
    }

    fn hear_epochs<'k>(&mut self, heard: impl IntoIterator<Item = (&'k Key, Epoch)>) {
        self.epoch_changes = false;
        for (key, epoch) in heard {
            let before = self.epochs.insert(key.clone(), epoch);
            self.epoch_changes |= before.is_some_and(|before| before != epoch);
        }
    }

    /// These have changed, by own updates or by what was merged.
    pub(crate) fn changed<'k>(&mut self, keys: impl IntoIterator<Item = &'k Key>, slots: impl IntoIterator<Item = Slot>) {
        let viewers = &self.viewers;
        self.changed_keys.extend(keys.into_iter().filter(|key| viewers.is_watched(key.slot())).cloned());
        self.changed_slots.extend(slots.into_iter().filter(|slot| viewers.is_watched(*slot)));
    }
}

impl World {
    /// Begins to follow, or stops.
    pub(crate) fn follower_acts(&mut self) {
        if self.healed || !self.plan.followers {
            return;
        }
        self.events.at(self.now_ms + self.rng.range(1, 800), Event::Follow);
        let Some(node) = self.any_running() else { return };
        let user = self.rng.index(self.users.names.len());
        if self.follow(node, user) && self.rng.per_mille(700) {
            let process = self.nodes[node].process.as_ref().map_or(0, |process| process.number);
            let at_ms = self.now_ms + self.rng.range(1, FOLLOWS_MS);
            self.events.at(at_ms, Event::Unfollow { node, process, user });
        }
    }

    /// Someone looks at a user at a node. Returns whether nobody did there.
    pub(crate) fn follow(&mut self, node: usize, user: usize) -> bool {
        let user = self.users.names[user].clone();
        let Some(gateway) = self.gateway(node) else { return false };
        let is_new = gateway.lookers.told.lock().unwrap().insert(user.clone(), Vec::new()).is_none();
        gateway.seen.entry(user.clone()).or_default();
        self.rewatch(node, |followed| followed.refresh(&user));
        is_new
    }

    pub(crate) fn unfollow(&mut self, node: usize, process: u64, user: usize) {
        // Who has come in the faults' time stays for the end.
        if self.healed || self.process(node, process).is_none() {
            return;
        }
        let user = self.users.names[user].clone();
        let Some(gateway) = self.gateway(node) else { return };
        gateway.lookers.told.lock().unwrap().remove(&user);
        gateway.seen.remove(&user);
        self.note("follower gone");
        self.rewatch(node, |followed| followed.refresh(&user));
    }

    fn gateway(&mut self, node: usize) -> Option<&mut Gateway> {
        self.nodes[node].process.as_mut()?.gateway.as_deref_mut()
    }

    pub(crate) fn presence_tick(&mut self, node: usize, number: u64) {
        if self.process(node, number).is_none() {
            return;
        }
        self.events.at(self.now_ms + TICK_MS, Event::PresenceTick { node, process: number });
        self.presence_step(node, |gateway, table, now| gateway.presence.handle_tick(table, now));
    }

    pub(crate) fn presence_arrives(&mut self, from: &NodeName, to: usize, messages: Vec<PresenceMessage>) {
        self.presence_step(to, |gateway, table, now| gateway.presence.handle_messages(table, now, from, messages));
    }

    /// Tells presence what the replica has come to.
    pub(crate) fn refresh_presence(&mut self, node: usize) {
        let bug = self.bug;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(gateway) = &mut process.gateway else { return };
        let layout = process.replica.layout().cloned();
        let version = layout.as_ref().map(|layout| layout.version);
        let is_heard = bug != Some(Bug::MovesUnheard) || gateway.layout.is_none();
        if version != gateway.layout && is_heard {
            gateway.layout = version;
            if let Some(layout) = layout {
                self.presence_step(node, |gateway, table, now| gateway.presence.adopt_layout(table, now, &layout));
            }
        }
        let Some(gateway) = self.gateway(node) else { return };
        let (mut keys, slots) = (std::mem::take(&mut gateway.changed_keys), std::mem::take(&mut gateway.changed_slots));
        if keys.is_empty() && slots.is_empty() {
            return;
        }
        self.presence_step(node, |gateway, table, now| {
            for slot in slots {
                keys.extend(table.slot(slot).keys().map(counter_core::counter::KeyRef::to_key));
            }
            gateway.presence.changed(&keys);
            gateway.presence.flush(table, now)
        });
    }

    /// One step, and its effects.
    fn presence_step(&mut self, node: usize, act: impl FnOnce(&mut Gateway, &Table, Now) -> Vec<PresenceEffect>) {
        let Node { process: Some(process), wall_offset_ms, name, .. } = &mut self.nodes[node] else { return };
        let (now, name) = (process.now(self.now_ms, *wall_offset_ms), name.clone());
        let Some(gateway) = &mut process.gateway else { return };
        let mut mail: BTreeMap<NodeName, Vec<PresenceMessage>> = BTreeMap::new();
        let mut fed = BTreeMap::<NodeName, Vec<(Key, FeedReading)>>::new();
        let mut effects = act(gateway, &process.table, now);
        while gateway.presence.is_ending() {
            effects.extend(gateway.presence.go_on(&process.table, now));
        }
        for effect in effects {
            match effect {
                PresenceEffect::Send { to, message } => mail.entry(to).or_default().push(message),
                PresenceEffect::Fed { by, readings } => fed.entry(by).or_default().extend(readings),
            }
        }
        for (to, messages) in mail {
            self.send_presence(node, &name, self.names.get(&to).copied(), messages);
        }
        for (by, readings) in fed {
            self.feed(node, &by, &readings);
        }
    }

    fn send_presence(&mut self, from: usize, name: &NodeName, to: Option<usize>, messages: Vec<PresenceMessage>) {
        let Some(to) = to else { return };
        self.carry(from, to, || Event::PresenceArrives { from: name.clone(), to, messages: messages.clone() });
    }

    fn feed(&mut self, node: usize, by: &NodeName, fed: &[(Key, FeedReading)]) {
        let Some(gateway) = self.nodes[node].process.as_mut().and_then(|process| process.gateway.as_mut()) else { return };
        for (key, reading) in fed {
            gateway.followed.fed(by, key, *reading);
        }
        let pages = fed.iter().filter(|(key, _)| key.kind() == KeyKind::Modifications);
        gateway.hear_epochs(pages.map(|(key, reading)| (key, reading.epoch)));
        self.trace(|| {
            let tallies: Vec<(&Key, i128)> = fed.iter().map(|(key, reading)| (key, reading.tally)).collect();
            format!("node {node} is fed {tallies:?} by {by}")
        });
        self.check_told(node);
        self.fetch_due(node);
    }

    /// Watches what is to be watched for users' sake.
    fn rewatch(&mut self, node: usize, change: impl FnOnce(&Followed<Lookers>) -> Rewatch) {
        self.presence_step(node, |gateway, table, now| {
            let Rewatch { begin, end } = change(&gateway.followed);
            begin.iter().for_each(|key| gateway.presence.set_watched(key, true));
            end.iter().for_each(|key| gateway.presence.set_watched(key, false));
            gateway.presence.flush(table, now)
        });
        self.fetch_due(node);
    }

    fn fetch_due(&mut self, node: usize) {
        while let Some((user, of)) = self.gateway(node).and_then(|gateway| gateway.followed.take_due()) {
            let of = of.filter(|_| self.bug != Some(Bug::FetchedOfAny));
            self.trace(|| format!("node {node} begins to fetch of {user:?}, from {of:?}"));
            let about = About::Fetch { user: self.users.names.iter().position(|name| *name == user).unwrap() };
            self.begin_task(node, about, |shards, _| {
                async move { unread::subscriptions(&shards, user, of).await }.map(Done::Fetched).boxed()
            });
        }
    }

    pub(crate) fn fetched(&mut self, node: usize, user: usize, result: Result<Vec<(Subscribed, Modifications)>, Failure>) {
        let name = self.users.names[user].clone();
        let Some(process) = self.nodes[node].process.as_ref().map(|process| process.number) else { return };
        match result {
            Ok(subscribed) => {
                let now: Vec<(Key, Subscription)> =
                    subscribed.iter().map(|(held, _)| (held.page.clone(), held.subscription)).collect();
                self.trace(|| format!("node {node} fetches of user {user} {subscribed:?}"));
                self.set_fetched(node, &name, |seen| {
                    seen.changes = seen.subscriptions != now;
                    seen.subscriptions = now;
                });
                let pages: Vec<(Key, Epoch)> =
                    subscribed.iter().map(|(held, known)| (held.page.modifications(), known.epoch)).collect();
                self.rewatch(node, |followed| followed.fetched(&name, subscribed));
                if let Some(gateway) = self.gateway(node) {
                    gateway.hear_epochs(pages.iter().map(|(key, epoch)| (key, *epoch)));
                }
                self.check_told(node);
                self.set_fetched(node, &name, |seen| seen.changes = false);
                self.fetch_ended(node, process, user, false);
            }
            Err(_) => {
                self.note("fetch failed");
                self.trace(|| format!("node {node} cannot fetch of user {user}"));
                let again = u64::try_from(AGAIN.as_millis()).unwrap();
                self.events.at(self.now_ms + again, Event::FetchFailed { node, process, user });
            }
        }
    }

    fn set_fetched(&mut self, node: usize, user: &Key, set: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.gateway(node).and_then(|gateway| gateway.seen.get_mut(user)) {
            set(seen);
        }
    }

    pub(crate) fn fetch_ended(&mut self, node: usize, process: u64, user: usize, failed: bool) {
        if self.process(node, process).is_none() {
            return;
        }
        let failed = failed && self.bug != Some(Bug::FetchNotRepeated);
        let name = self.users.names[user].clone();
        if let Some(gateway) = self.gateway(node) {
            gateway.followed.end_fetch(&name, failed);
        }
        self.fetch_due(node);
    }

    /// What followers were told just now: it falls only where a subscription or an epoch has changed, or something was lost.
    fn check_told(&mut self, node: usize) {
        let lost: Vec<u64> = (0..self.users.names.len()).map(|user| self.lost_of(user)).collect();
        let names = self.users.names.clone();
        let Some(gateway) = self.gateway(node) else { return };
        let mut lines = Vec::new();
        let mut violation = None;
        for (user, told) in &mut *gateway.lookers.told.lock().unwrap() {
            let seen = gateway.seen.entry(user.clone()).or_default();
            let may_lose = names.iter().position(|name| name == user).is_some_and(|number| lost[number] > 0);
            for count in told.drain(..) {
                lines.push((user.clone(), count));
                let falls = seen.last.is_some_and(|last| count < last);
                if count < 0 || (falls && !seen.changes && !gateway.epoch_changes && !may_lose) {
                    violation = Some(format!("node {node} tells of {user:?} {count} after {:?}", seen.last));
                }
                seen.last = Some(count);
            }
        }
        for (user, count) in lines {
            self.note("count told to a follower");
            self.trace(|| format!("node {node} tells of {user:?}: {count}"));
        }
        self.violation = self.violation.take().or(violation);
    }

    /// Once all is quiet: who follows has been told the total, by every node that someone follows at.
    pub(crate) fn check_followers(&mut self) -> Result<(), String> {
        let until_ms = self.now_ms + TOLD_MS;
        loop {
            match self.are_followers_right() {
                Ok(followers) => {
                    (0..followers).for_each(|_| self.note("follower told the total"));
                    return Ok(());
                }
                Err(wrong) if self.now_ms >= until_ms => return Err(wrong),
                Err(_) => self.run_until(self.now_ms + LOOK_MS)?,
            }
        }
    }

    /// How many changes of what a user has not read may have been lost.
    fn lost_of(&self, user: usize) -> u64 {
        let of = |pair: Pair| self.ledger.lost_of(pair.modifications) + self.ledger.lost_of(pair.subscription);
        self.users.pairs_of(user).map(of).sum::<usize>() as u64
    }

    fn are_followers_right(&self) -> Result<usize, String> {
        let mut followers = 0;
        for node in self.operator.layout.nodes() {
            let process = self.nodes[self.names[&node.name]].process.as_ref().ok_or("a node that does not run")?;
            let Some(gateway) = &process.gateway else { continue };
            for (user, seen) in &gateway.seen {
                let number = self.users.names.iter().position(|name| name == user).unwrap();
                let total = self.final_total(number)?;
                // Who has told of modifications goes on telling of them when the last of a page are lost: see `Page::seems_lost`.
                let may_be = total..=total + self.lost_of(number);
                if !seen.last.and_then(|last| u64::try_from(last).ok()).is_some_and(|last| may_be.contains(&last)) {
                    return Err(format!("{} has told of {user:?} {seen:?}, though {may_be:?} are unread", node.name));
                }
                followers += 1;
            }
        }
        Ok(followers)
    }
}
