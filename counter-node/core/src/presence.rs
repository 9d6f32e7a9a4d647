//! Presence: how many viewers each page has now, known at every replica of its shard, and told to whoever watches.
//!
//! A *gateway* is a node as the holder of sessions, one *start* of it: a process that starts anew is another gateway. It has a
//! [`Ledger`] for each shard, with absolute states of the pages there, and keeps a copy of it at each of the shard's replicas, under one
//! lease that it renews each second. A replica sums the copies up in [`Viewers`]. When a lease ends, all that stood under it is gone
//! at once. Replicas tell each other whom they have heard, so that they give one answer.
//!
//! **Invariants.**
//! - A page's viewers are the sum of the sessions in the shown copies of gateways whose lease runs; so never negative.
//! - A copy that has all changes up to a number is as good as the ledger was then: loss, repetition and reordering change nothing.
//! - Only a higher renewal prolongs a lease, and handing it on does not make it younger.
//! - The viewers of a slot are unknown, not fewer, until each node has told what it has there under the layout that brought the
//!   slot here, or has been silent for a lease.
//! - While a slot moves, both shards are told of its pages, until the move's receipt.
//! - Per gateway one message of changes and one of counts is under way; nothing waits in queues that grow.
//!
//! Deliberately absent: any order of the starts of a node, any clock but the own monotonic one (wall time only names the moment
//! of a change), any vote.
//!
//! **How the rim drives it.** One [`Presence`] behind a mutex; [`Viewers`] beside it, which requests read without that mutex.
//! - At start: [`Presence::new`], with a random `start`; then [`Presence::adopt_layout`] whenever the node routes by a new layout.
//! - Each 50 ms: [`Presence::handle_tick`].
//! - Sessions come and go: [`Presence::set_sessions`], [`Presence::set_watched`], [`Presence::name_came`], [`Presence::name_left`]; after a batch of these, once,
//!   [`Presence::flush`]: what may leave at once does, the rest with the next tick.
//! - A commit or a merge has changed tallies: for keys whose slot [`Viewers::is_watched`], [`Presence::changed`], then `flush`.
//! - An envelope has come, and its header is of this cluster: [`Presence::handle_messages`].
//! - A planned stop: when the sessions are handed over, [`Presence::farewell`], and ticks go on until [`Presence::has_left`].
//!   Beside it [`Orphans`], the viewers of gateways that stop, and [`Roster`], who lives: small machines of their own.
//!
//! Each of these answers with [`PresenceEffect`]s, to be performed in their order, under the mutex or in a queue.

mod awaited;
mod config;
mod copies;
mod ending;
mod feed;
mod feeder;
mod gateway;
mod ledger;
mod link;
mod messages;
mod orphans;
mod owner;
mod placement;
mod roster;
mod siblings;
mod step;
#[cfg(test)]
mod tests;
mod token;
mod unique;
mod viewers;

use std::collections::VecDeque;
use std::sync::Arc;

pub use self::config::PresenceConfig;
use self::gateway::Gateway;
pub use self::ledger::Ledger;
pub use self::messages::{
    Change, Delta, Feed, FeedReading, GatewayId, Heard, PageState, PresenceMessage, Reached, Renewal, RenewalAck,
};
pub use self::orphans::{Arrived, Bequeathed, Bequest, Orphan, Orphans, Resumed, Resumption, TooManyOrphans};
use self::owner::Owner;
pub use self::roster::{Roster, RosterTimes, subject};
pub use self::step::PresenceEffect;
use self::step::Step;
pub use self::token::{NoToken, ResumeKey, SessionToken};
pub use self::unique::{EXACT_MAX, Unique};
pub use self::viewers::{PageViewers, Viewers};
use crate::id::NodeName;
use crate::key::Key;
use crate::layout::Layout;
use crate::replica::Now;
use crate::table::Table;

/// One node's part in presence. See the module's text.
#[derive(Debug)]
pub struct Presence {
    me: NodeName,
    now: Now,
    gateway: Gateway,
    owner: Owner,
}

/// Presence's part of a node's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceStatus {
    /// Gateways under whose lease this replica counts, itself included.
    pub gateways: usize,
    /// Pages that this node has sessions on or watches.
    pub pages: usize,
    /// Whether the viewers of all slots of this node's shard are known here.
    pub complete: bool,
}

impl Presence {
    /// The presence of a process that has just started. `start` is random: no other start of this node may have had it.
    #[must_use]
    pub fn new(me: NodeName, start: u64, config: PresenceConfig, viewers: Arc<Viewers>) -> Self {
        let id = GatewayId { node: me.clone(), start };
        let gateway = Gateway::new(id, config.clone());
        Self { me, now: Now::default(), gateway, owner: Owner::new(start, config, viewers) }
    }

    /// This node as a gateway.
    #[must_use]
    pub fn id(&self) -> &GatewayId {
        &self.gateway.id
    }

    /// What the node says of it.
    #[must_use]
    pub fn status(&self) -> PresenceStatus {
        PresenceStatus { gateways: self.owner.alive(), pages: self.gateway.pages(), complete: self.owner.is_complete() }
    }

    /// This node acts by `layout` from now on, which is newer than the one before.
    pub fn adopt_layout(&mut self, table: &Table, now: Now, layout: &Layout) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| {
            presence.gateway.adopt_layout(layout, step.now_ms());
            presence.owner.adopt_layout(step, layout);
            presence.gateway.flush(step);
        })
    }

    /// So many sessions on this node count as viewers of the page. A page with sessions is watched, too.
    pub fn set_sessions(&mut self, key: &Key, sessions: u32, now: Now) {
        let changed_ms = now.wall_ms;
        self.gateway.change((key.slot(), key.clone()), |state| {
            if state.sessions != sessions {
                (state.sessions, state.changed_ms) = (sessions, changed_ms);
            }
            state.unique = state.unique.take().filter(|_| sessions > 0);
        });
    }

    /// How many sessions on this node count as viewers of the page.
    #[must_use]
    pub fn sessions(&self, key: &Key) -> u32 {
        self.gateway.state(&(key.slot(), key.clone())).sessions
    }

    /// One of the page's sessions on this node has this name: a hash of its user or, without one, of its own id, as good as random
    /// and the same at every node. Said after [`Self::set_sessions`]; unique viewers follow within a second.
    pub fn name_came(&mut self, key: &Key, name: u64, now: Now) {
        self.gateway.change_names((key.slot(), key.clone()), now.monotonic_ms, |audience| audience.came(name));
    }

    /// A session that had this name has ended.
    pub fn name_left(&mut self, key: &Key, name: u64, now: Now) {
        self.gateway.change_names((key.slot(), key.clone()), now.monotonic_ms, |audience| audience.left(name));
    }

    /// Whether this node wants the counts of this key, of any type, whenever they change: see [`PresenceEffect::Fed`]. The first one
    /// comes as soon as an owner knows it.
    pub fn set_watched(&mut self, key: &Key, watched: bool) {
        self.gateway.change((key.slot(), key.clone()), |state| state.watched = watched);
    }

    /// The tallies of these keys have changed on this replica. Does nothing for those that nobody watches.
    pub fn changed<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        self.owner.tallies_changed(keys);
    }

    /// Lets out what has changed and need not wait. What must, leaves with a tick.
    pub fn flush(&mut self, table: &Table, now: Now) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| presence.gateway.flush(step))
    }

    /// Takes in what a node has sent.
    pub fn handle_messages(
        &mut self,
        table: &Table,
        now: Now,
        from: &NodeName,
        messages: Vec<PresenceMessage>,
    ) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| {
            for message in messages {
                presence.take(step, from, message);
            }
        })
    }

    /// Does what is due. To be called each [`PresenceConfig::tick_ms`].
    pub fn handle_tick(&mut self, table: &Table, now: Now) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| {
            presence.owner.tick(step);
            presence.gateway.tick(step);
            presence.owner.exchange(step);
        })
    }

    /// Whether there is more to do than one step may: [`Self::go_on`] is to be called at once, after whoever else wants to.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        !self.owner.ending.is_empty()
    }

    /// Goes on with what [`Self::is_ending`] speaks of: taking off what stood under leases that have ended.
    pub fn go_on(&mut self, table: &Table, now: Now) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| presence.owner.end_some(step))
    }

    /// This node has no sessions any more and will not have any: all counts under its lease fall at once. Ticks repeat it until
    /// everyone has heard it. As a replica it goes on answering; others are told to get their counts elsewhere.
    pub fn farewell(&mut self, table: &Table, now: Now) -> Vec<PresenceEffect> {
        self.step(table, now, |presence, step| {
            presence.gateway.farewell(step);
            presence.owner.resign(step);
        })
    }

    /// Where this node is in what it has to say of its sessions.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.gateway.mark()
    }

    /// Whether every replica that answers knows what this node had when it was at `mark`.
    #[must_use]
    pub fn is_told(&self, mark: u64, now: Now) -> bool {
        self.gateway.is_told(mark, now.monotonic_ms)
    }

    /// Whether everyone has heard the farewell, or would not any more.
    #[must_use]
    pub fn has_left(&self, now: Now) -> bool {
        self.gateway.has_left(now.monotonic_ms)
    }

    fn step(&mut self, table: &Table, now: Now, take: impl FnOnce(&mut Self, &mut Step<'_>)) -> Vec<PresenceEffect> {
        self.now = Now { monotonic_ms: now.monotonic_ms.max(self.now.monotonic_ms), wall_ms: now.wall_ms };
        let mut step = Step { table, now: self.now, me: self.me.clone(), effects: Vec::new(), own: VecDeque::new() };
        take(self, &mut step);
        // A page's way from this gateway to this replica and back is a few turns, a long ledger's one for each of its parts.
        loop {
            let Some(message) = step.own.pop_front() else {
                self.owner.feed(&mut step);
                if step.own.is_empty() {
                    return step.effects;
                }
                continue;
            };
            let me = self.me.clone();
            self.take(&mut step, &me, message);
        }
    }

    fn take(&mut self, step: &mut Step<'_>, from: &NodeName, message: PresenceMessage) {
        match message {
            PresenceMessage::Renewal(renewal) => self.owner.take_renewal(step, from, renewal),
            PresenceMessage::RenewalAck(ack) => self.gateway.take_ack(step, from, &ack),
            PresenceMessage::Ask { start } => self.gateway.take_ask(step, from, start),
            PresenceMessage::Resign { start } => self.gateway.take_resign(step, from, start),
            PresenceMessage::Heard(heard) => self.owner.take_heard(step, from, heard),
            PresenceMessage::RelayAsk { gateway, reached } => self.owner.take_relay_ask(step, from, gateway, reached),
            PresenceMessage::Relay { gateway, layout, delta } => self.owner.take_relay(step, from, gateway, layout, delta),
            PresenceMessage::Feed(feed) => self.gateway.take_feed(step, from, feed),
            PresenceMessage::FeedAck { gateway, epoch, sequence } => self.owner.take_feed_ack(from, gateway, epoch, sequence),
        }
    }
}
