//! What presence answers with.

use std::collections::VecDeque;

use super::messages::{FeedReading, PresenceMessage};
use crate::id::NodeName;
use crate::key::Key;
use crate::replica::Now;
use crate::table::Table;

/// What the rim is to do, in the order in which it was returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceEffect {
    /// Send once; when it fails, nothing is to be done. Messages to one node should stay in their order, or else cost more.
    Send { to: NodeName, message: PresenceMessage },
    /// Counts of watched pages, each the newest that this replica has: tell the page's subscribers.
    Fed { by: NodeName, readings: Vec<(Key, FeedReading)> },
}

/// What an input works on, and what is to come of it. What this node says to itself does not leave it.
pub(super) struct Step<'a> {
    pub(super) table: &'a Table,
    pub(super) now: Now,
    pub(super) me: NodeName,
    pub(super) effects: Vec<PresenceEffect>,
    pub(super) own: VecDeque<PresenceMessage>,
}

impl Step<'_> {
    pub(super) fn now_ms(&self) -> u64 {
        self.now.monotonic_ms
    }

    pub(super) fn send(&mut self, to: &NodeName, message: PresenceMessage) {
        if *to == self.me {
            self.own.push_back(message);
        } else {
            self.effects.push(PresenceEffect::Send { to: to.clone(), message });
        }
    }
}
