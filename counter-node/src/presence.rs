//! Drives the presence protocol: tells [`Presence`] who is here, what came and what time it is, and performs its effects in order.
//!
//! Effects are performed while it is locked: messages go to outboxes of their own, so that leases never wait behind bulk, and counts
//! to the [`Hub`]. Whoever changes a tally or an attendance waits for neither.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::layout::{Layout, LayoutVersion};
use counter_core::message::Envelope;
use counter_core::presence::{Feed, FeedReading, Presence, PresenceConfig, PresenceEffect, PresenceMessage, Renewal, Viewers};
use counter_core::replica::Now;
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::unread::Modifications;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::live::hub::Part;
use crate::live::unread::{Followed, Rewatch};
use crate::live::{Attendance, Hub, Live, Name, Registrar};
use crate::lock::lock;
use crate::peers::{Conversation, Outboxes, PRESENCE_PATH};
use crate::protocol::{Observer, Protocol};
use crate::unread::Subscribed;

/// How often the protocol is told the time.
const TICK: Duration = Duration::from_millis(50);
/// Between two rounds of telling it changed tallies: a hot counter's come by the thousand.
const ROUND: Duration = Duration::from_millis(5);
/// Changed keys that wait to be told. More are told as their slots.
const WAITING_MAX: usize = 65_536;
/// How long whoever waits until a change is known waits at most.
const TOLD: Duration = Duration::from_millis(500);

/// What presence stands on.
pub struct Parts {
    pub me: NodeName,
    /// This process's number.
    pub start: u64,
    pub config: PresenceConfig,
    pub table: Arc<Table>,
    pub clock: Arc<Clock>,
    pub viewers: Arc<Viewers>,
    pub hub: Arc<Hub>,
    pub followed: Arc<Followed>,
    pub outboxes: Outboxes<PresenceMessage>,
    pub protocol: Weak<Protocol>,
}

/// This node's presence, running.
pub struct PresenceProtocol {
    presence: Mutex<Driven>,
    table: Arc<Table>,
    clock: Arc<Clock>,
    viewers: Arc<Viewers>,
    hub: Arc<Hub>,
    followed: Arc<Followed>,
    outboxes: Outboxes<PresenceMessage>,
    protocol: Weak<Protocol>,
    live: OnceLock<Weak<Live>>,
    changed: Mutex<Changed>,
    wake: Notify,
    /// Once the viewers of all slots that this node began with were known. Those that come later are looked for while it serves.
    settled: AtomicBool,
}

struct Driven {
    presence: Presence,
    layout: Option<LayoutVersion>,
}

/// What has changed and was not told yet.
#[derive(Debug, Default)]
struct Changed {
    keys: Vec<Key>,
    slots: Vec<Slot>,
}

impl PresenceProtocol {
    /// Presence at its start: nobody is here, and of nobody is known.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { me, start, config, table, clock, viewers, hub, followed, outboxes, protocol } = parts;
        let presence = Presence::new(me, start, config, viewers.clone());
        Arc::new(Self {
            presence: Mutex::new(Driven { presence, layout: None }),
            table,
            clock,
            viewers,
            hub,
            followed,
            outboxes,
            protocol,
            live: OnceLock::new(),
            changed: Mutex::default(),
            wake: Notify::new(),
            settled: AtomicBool::new(false),
        })
    }

    /// Who is to be told which nodes live. To be called once.
    pub fn set_live(&self, live: &Arc<Live>) {
        drop(self.live.set(Arc::downgrade(live)));
    }

    /// What requests read.
    #[must_use]
    pub fn viewers(&self) -> &Arc<Viewers> {
        &self.viewers
    }

    /// Tells presence the time and what has changed, until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopped.cancelled() => return,
                _ = interval.tick() => {
                    drop(self.drive(None, |presence, table, now| presence.handle_tick(table, now)));
                    while lock(&self.presence).presence.is_ending() {
                        // Whoever waits for the lock comes in between.
                        tokio::task::yield_now().await;
                        drop(self.drive(None, |presence, table, now| presence.go_on(table, now)));
                    }
                }
                () = self.wake.notified() => {
                    self.tell_changes();
                    tokio::time::sleep(ROUND).await;
                }
            }
        }
    }

    /// Whether this node has known the viewers of all of its slots since it started.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        if self.settled.load(Ordering::Relaxed) {
            return true;
        }
        let complete = lock(&self.presence).presence.status().complete;
        self.settled.fetch_or(complete, Ordering::Relaxed);
        complete
    }

    fn follow(&self, layout: &Layout) {
        if lock(&self.presence).layout.replace(layout.version) == Some(layout.version) {
            return;
        }
        self.outboxes.retain(layout);
        drop(self.drive(None, |presence, table, now| presence.adopt_layout(table, now, layout)));
        // Pages may be spread over other keys than before.
        for page in self.hub.pages() {
            self.refresh(&page);
        }
    }

    fn tell_changes(&self) {
        let Changed { mut keys, mut slots } = std::mem::take(&mut *lock(&self.changed));
        slots.sort_unstable();
        slots.dedup();
        for slot in slots {
            keys.extend(self.table.slot(slot).keys().map(counter_core::counter::KeyRef::to_key));
        }
        drop(self.drive(None, |presence, table, now| {
            presence.changed(&keys);
            presence.flush(table, now)
        }));
    }

    /// This node is about to exit: its viewers are gone, and everyone is told so. Returns when they have heard it, at the latest
    /// after `timeout`.
    pub async fn leave(&self, timeout: Duration) {
        drop(self.drive(None, |presence, table, now| presence.farewell(table, now)));
        let left = async {
            while !lock(&self.presence).presence.has_left(self.clock.now()) {
                tokio::time::sleep(TICK / 5).await;
            }
        };
        let _ = tokio::time::timeout(timeout, left).await;
    }

    /// One step, and its effects. What is for `direct` is returned, not put into an outbox.
    fn drive(
        &self,
        direct: Option<&NodeName>,
        step: impl FnOnce(&mut Presence, &Table, Now) -> Vec<PresenceEffect>,
    ) -> Vec<PresenceMessage> {
        let mut driven = lock(&self.presence);
        let mut replies = Vec::new();
        for effect in step(&mut driven.presence, &self.table, self.clock.now()) {
            if let PresenceEffect::Send { message: PresenceMessage::Feed(Feed { readings, .. }), .. } = &effect {
                self.hub.metrics().fed_sent.fetch_add(readings.len() as u64, Ordering::Relaxed);
            }
            match effect {
                PresenceEffect::Send { to, message } if Some(&to) == direct => replies.push(message),
                PresenceEffect::Send { to, message } => self.outboxes.push(&to, message),
                PresenceEffect::Fed { by, readings } => self.fed(&by, readings),
            }
        }
        replies
    }

    fn fed(&self, by: &NodeName, readings: Vec<(Key, FeedReading)>) {
        let (counts, unread): (Vec<_>, Vec<_>) = readings.into_iter().partition(|(key, _)| key.kind().is_counted());
        self.hub.fed(counts.into_iter().map(|(key, reading)| (key, part(reading))));
        unread.into_iter().for_each(|(key, reading)| self.followed.fed(by, &key, reading));
    }

    /// The users that are followed here.
    #[must_use]
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Takes in the subscriptions of a user that is followed, with what is known of their pages.
    pub fn fetched(&self, user: &Key, subscribed: Vec<(Subscribed, Modifications)>) {
        self.rewatch(|followed| followed.fetched(user, subscribed));
    }

    /// Watches what is to be watched for users' sake. Decided under presence's lock, so that the last word is the latest.
    fn rewatch(&self, change: impl FnOnce(&Followed) -> Rewatch) {
        drop(self.drive(None, |presence, table, now| {
            let Rewatch { begin, end } = change(&self.followed);
            begin.iter().for_each(|key| presence.set_watched(key, true));
            end.iter().for_each(|key| presence.set_watched(key, false));
            presence.flush(table, now)
        }));
    }

    /// The keys that a page is counted under.
    fn keys_of(&self, page: &Key) -> Vec<Key> {
        let spread = self.protocol.upgrade().map(|protocol| protocol.spread(page)).unwrap_or_default();
        std::iter::once(page.clone()).chain((0..spread.ever_count).map(|index| page.virtual_shard(index))).collect()
    }
}

fn part(FeedReading { tally, viewers, updated_at, .. }: FeedReading) -> Part {
    Part { tally, viewers, updated_at }
}

impl Registrar for PresenceProtocol {
    fn refresh(&self, page: &Key) {
        let keys = self.keys_of(page);
        drop(self.drive(None, |presence, table, now| {
            // Read under presence's lock: whoever changed it last is here last.
            let Attendance { sessions, watched } = self.hub.attendance(page);
            if watched {
                self.hub.set_parts(page, &keys);
            }
            presence.set_sessions(page, sessions, now);
            keys.iter().for_each(|key| presence.set_watched(key, watched));
            presence.flush(table, now)
        }));
    }

    fn refresh_user(&self, user: &Key) {
        self.rewatch(|followed| followed.refresh(user));
    }

    fn may_follow(&self, user: &Key) -> bool {
        self.followed.may_follow(user)
    }

    fn name_came(&self, page: &Key, Name(name): Name) {
        drop(self.drive(None, |presence, table, now| {
            presence.name_came(page, name, now);
            presence.flush(table, now)
        }));
    }

    fn name_left(&self, page: &Key, Name(name): Name) {
        drop(self.drive(None, |presence, table, now| {
            presence.name_left(page, name, now);
            presence.flush(table, now)
        }));
    }

    fn told(&self) -> BoxFuture<'_, ()> {
        let told = async {
            let mark = lock(&self.presence).presence.mark();
            while !lock(&self.presence).presence.is_told(mark, self.clock.now()) {
                tokio::time::sleep(TICK / 5).await;
            }
        };
        Box::pin(async { drop(tokio::time::timeout(TOLD, told).await) })
    }
}

impl Observer for PresenceProtocol {
    fn adopt(&self, layout: &Layout) {
        self.follow(layout);
    }

    fn watches(&self, slot: Slot) -> bool {
        self.viewers.is_watched(slot)
    }

    fn changed(&self, keys: &mut dyn Iterator<Item = Key>, slots: &mut dyn Iterator<Item = Slot>) {
        let mut changed = lock(&self.changed);
        changed.slots.extend(slots.filter(|slot| self.viewers.is_watched(*slot)));
        for key in keys {
            if changed.keys.last() == Some(&key) {
                continue;
            }
            if changed.keys.len() < WAITING_MAX {
                changed.keys.push(key);
            } else {
                let slots: Vec<Slot> = std::mem::take(&mut changed.keys).iter().map(Key::slot).chain([key.slot()]).collect();
                changed.slots.extend(slots);
            }
        }
        if !changed.keys.is_empty() || !changed.slots.is_empty() {
            self.wake.notify_one();
        }
    }
}

impl Conversation for Arc<PresenceProtocol> {
    type Message = PresenceMessage;
    const PATH: &'static str = PRESENCE_PATH;

    fn receive(&self, envelope: Envelope<Vec<PresenceMessage>>) -> Vec<PresenceMessage> {
        let from = envelope.header.from;
        if let Some(live) = self.live.get().and_then(Weak::upgrade) {
            for message in &envelope.body {
                match message {
                    PresenceMessage::Renewal(Renewal { gateway, farewell: false, .. }) => live.members.heard(gateway),
                    PresenceMessage::Renewal(Renewal { gateway, farewell: true, .. }) => live.members.left(gateway),
                    PresenceMessage::Feed(Feed { readings, .. }) => {
                        live.metrics.fed_received.fetch_add(readings.len() as u64, Ordering::Relaxed);
                    }
                    _ => {}
                }
            }
        }
        self.drive(Some(&from), |presence, table, now| presence.handle_messages(table, now, &from, envelope.body))
    }

    fn send(&self, to: &NodeName, message: PresenceMessage) {
        self.outboxes.push(to, message);
    }
}
