//! Who is believed to live, as one node has heard; and which of those is to do something: rendezvous hashing.
//!
//! Whoever asks two nodes' rosters about one subject mostly hears the same name, and at the latest does so when both have heard
//! of what has changed. Nothing that must not be done twice rests on it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::id::NodeName;

/// What one node has heard of the others, and of itself. Times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub struct Roster {
    me: NodeName,
    times: RosterTimes,
    began_ms: u64,
    /// This node is about to exit.
    leaves: bool,
    starts: BTreeMap<u64, Heard>,
    /// The start of each node that was heard last.
    newest: BTreeMap<NodeName, u64>,
    /// Nodes that have not answered, and until when they are passed over.
    silent: BTreeMap<NodeName, u64>,
    changes: u64,
    losses: u64,
}

/// How long things are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RosterTimes {
    /// A start that is not heard for so long is gone, and what it had with it.
    pub lease_ms: u64,
    /// A node that is not heard for so long is passed over.
    pub doubt_ms: u64,
    /// For how long one is passed over that has not answered.
    pub silence_ms: u64,
}

#[derive(Debug)]
struct Heard {
    node: Option<NodeName>,
    at_ms: u64,
    /// It has said farewell.
    has_left: bool,
    /// It was not heard for so long that it is passed over, or another start of its node was heard since.
    is_missed: bool,
}

impl Heard {
    fn at(now_ms: u64) -> Self {
        Self { node: None, at_ms: now_ms, has_left: false, is_missed: false }
    }

    /// Is missed from now on, if it was ever heard itself and has not said farewell. Returns whether that is new.
    fn miss(&mut self) -> bool {
        self.node.is_some() && !self.has_left && !std::mem::replace(&mut self.is_missed, true)
    }
}

impl Roster {
    /// The roster of a node that has just begun. For a lease it believes in everyone of whom it has heard nothing.
    #[must_use]
    pub fn new(me: NodeName, times: RosterTimes, now_ms: u64) -> Self {
        let (starts, newest, silent) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { me, times, began_ms: now_ms, leaves: false, starts, newest, silent, changes: 0, losses: 0 }
    }

    /// This node is about to exit: it is passed over.
    pub fn leave(&mut self) {
        self.leaves = true;
    }

    /// A node's start has said that it lives.
    pub fn heard(&mut self, node: &NodeName, start: u64, now_ms: u64) {
        let heard = self.starts.entry(start).or_insert_with(|| Heard::at(now_ms));
        if heard.has_left {
            return;
        }
        (heard.at_ms, heard.is_missed) = (now_ms, false);
        heard.node.get_or_insert_with(|| node.clone());
        // Messages overtake each other: of two starts, the one that goes on to be heard lives.
        if self.newest.get(node) != Some(&start) {
            let before = self.newest.insert(node.clone(), start);
            if let Some(heard) = before.and_then(|before| self.starts.get_mut(&before)) {
                self.losses = self.losses.wrapping_add(u64::from(heard.miss()));
            }
            self.silent.remove(node);
            self.changes = self.changes.wrapping_add(1);
        }
    }

    /// So often it was heard that a node begins, leaves or does not answer. Who looks at whom is believed in now and then does not
    /// see what is changed and changed back in between; by this it does.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// So often a node was missed that had not said farewell, or had begun anew without: what it has is lost, or will be.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// Others have to do with this start; whether it lives is heard at the latest within a lease.
    pub fn heard_of(&mut self, start: u64, now_ms: u64) {
        self.starts.entry(start).or_insert_with(|| Heard::at(now_ms));
    }

    /// A node's start has said farewell.
    pub fn left(&mut self, node: &NodeName, start: u64, now_ms: u64) {
        self.heard(node, start, now_ms);
        self.starts.entry(start).and_modify(|heard| heard.has_left = true);
        self.changes = self.changes.wrapping_add(1);
    }

    /// A node has not answered.
    pub fn is_silent(&mut self, node: &NodeName, now_ms: u64) {
        self.silent.insert(node.clone(), now_ms.saturating_add(self.times.silence_ms));
        self.changes = self.changes.wrapping_add(1);
    }

    /// Sees who is missed, and forgets what does not matter any more.
    pub fn forget(&mut self, now_ms: u64) {
        let RosterTimes { lease_ms, doubt_ms, .. } = self.times;
        for heard in self.starts.values_mut().filter(|heard| now_ms >= heard.at_ms.saturating_add(doubt_ms)) {
            self.losses = self.losses.wrapping_add(u64::from(heard.miss()));
        }
        self.starts.retain(|_, heard| now_ms < heard.at_ms.saturating_add(lease_ms));
        self.newest.retain(|_, start| self.starts.contains_key(start));
        self.silent.retain(|_, until_ms| now_ms < *until_ms);
    }

    /// Whether what this start has still counts.
    #[must_use]
    pub fn lives(&self, start: u64, now_ms: u64) -> bool {
        let lease_ms = self.times.lease_ms;
        self.starts.get(&start).is_some_and(|heard| now_ms < heard.at_ms.saturating_add(lease_ms))
    }

    /// The node of a start that has not said farewell.
    #[must_use]
    pub fn node_of(&self, start: u64, now_ms: u64) -> Option<&NodeName> {
        let heard = self.starts.get(&start).filter(|heard| !heard.has_left && self.lives(start, now_ms))?;
        heard.node.as_ref()
    }

    /// Whether the node is not passed over.
    #[must_use]
    pub fn believes_in(&self, node: &NodeName, now_ms: u64) -> bool {
        if *node == self.me {
            return !self.leaves;
        }
        if self.silent.get(node).is_some_and(|until_ms| now_ms < *until_ms) {
            return false;
        }
        match self.newest.get(node).and_then(|start| self.starts.get(start)) {
            Some(heard) => !heard.has_left && now_ms < heard.at_ms.saturating_add(self.times.doubt_ms),
            None => now_ms < self.began_ms.saturating_add(self.times.lease_ms),
        }
    }

    /// These nodes in the order in which they are to be asked about a subject: those that are passed over last.
    #[must_use]
    pub fn rank<'a>(&self, subject: u64, nodes: impl IntoIterator<Item = &'a NodeName>, now_ms: u64) -> Vec<&'a NodeName> {
        let mut ranked: Vec<&NodeName> = nodes.into_iter().collect();
        ranked.sort_by_cached_key(|node| (!self.believes_in(node, now_ms), Reverse(weight(subject, node))));
        ranked
    }
}

/// A text as a subject of rendezvous, on a page or on none.
#[must_use]
pub fn subject(page: &[u8], text: &str) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), xxh3_64(page))
}

/// A node's weight in a subject.
fn weight(subject: u64, node: &NodeName) -> u64 {
    xxh3_64_with_seed(node.0.as_bytes(), subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: RosterTimes = RosterTimes { lease_ms: 5_000, doubt_ms: 2_500, silence_ms: 2_000 };

    fn names() -> Vec<NodeName> {
        ["a", "b", "c", "d"].map(NodeName::from).to_vec()
    }

    fn roster() -> Roster {
        Roster::new("a".into(), TIMES, 10_000)
    }

    #[test]
    fn a_new_node_believes_in_everyone_for_a_lease_and_then_in_whom_it_hears() {
        let mut roster = roster();
        let [b, c] = ["b", "c"].map(NodeName::from);
        assert!(roster.believes_in(&b, 14_999) && roster.believes_in(&"a".into(), 14_999));
        roster.heard(&b, 1, 14_000);
        assert!(roster.believes_in(&b, 16_499) && !roster.believes_in(&c, 16_499));
        assert!(!roster.believes_in(&b, 16_500), "it has not been heard for a while");
        assert!(roster.lives(1, 18_999) && !roster.lives(1, 19_000), "what it has counts for a lease");
        roster.forget(19_000);
        assert!(!roster.believes_in(&b, 19_000));
    }

    #[test]
    fn a_farewell_is_of_one_start_and_silence_ends_with_another() {
        let mut roster = roster();
        let b = NodeName::from("b");
        roster.heard(&b, 1, 20_000);
        assert_eq!(roster.node_of(1, 20_000), Some(&b));
        roster.left(&b, 1, 20_100);
        roster.heard(&b, 1, 20_200);
        assert!(!roster.believes_in(&b, 20_200), "a late message takes no farewell back");
        assert_eq!(roster.node_of(1, 20_200), None);
        assert!(roster.lives(1, 20_200));
        roster.is_silent(&b, 20_300);
        roster.heard(&b, 2, 20_400);
        assert!(roster.believes_in(&b, 20_400));
        assert_eq!((roster.node_of(2, 20_400), roster.node_of(3, 20_400)), (Some(&b), None));
        roster.is_silent(&b, 20_500);
        assert!(!roster.believes_in(&b, 22_499));
        roster.heard_of(7, 22_500);
        assert!(roster.lives(7, 27_499) && !roster.lives(7, 27_500));
    }

    #[test]
    fn a_late_word_of_an_older_start_hides_the_newer_one_only_until_that_is_heard_again() {
        let mut roster = roster();
        let b = NodeName::from("b");
        roster.heard(&b, 2, 20_000);
        roster.left(&b, 1, 20_100);
        roster.heard(&b, 2, 20_500);
        assert!(roster.believes_in(&b, 20_500) && roster.node_of(2, 20_500) == Some(&b));
        roster.heard(&b, 2, 24_000);
        roster.forget(25_100);
        assert!(roster.believes_in(&b, 25_100), "the older one is forgotten, and not the newer one with it");
    }

    #[test]
    fn what_has_changed_and_changed_back_is_told_from_what_has_not_changed() {
        let mut roster = roster();
        let b = NodeName::from("b");
        roster.heard(&b, 1, 20_000);
        let before = roster.changes();
        roster.heard(&b, 1, 20_100);
        assert_eq!(roster.changes(), before);
        roster.left(&b, 1, 20_200);
        roster.heard(&b, 2, 20_300);
        assert!(roster.believes_in(&b, 20_300) && roster.changes() > before);
    }

    #[test]
    fn a_node_is_lost_once_when_it_is_missed_or_begins_anew_and_not_when_it_has_said_farewell() {
        let mut roster = roster();
        let b = NodeName::from("b");
        roster.heard(&b, 1, 20_000);
        roster.left(&b, 1, 20_100);
        roster.heard(&b, 2, 20_200);
        roster.forget(20_300);
        assert_eq!(roster.losses(), 0, "it stopped in order");
        roster.heard(&b, 3, 20_400);
        assert_eq!(roster.losses(), 1, "it was not missed before it began anew");
        roster.forget(22_900);
        roster.forget(23_000);
        assert_eq!(roster.losses(), 2, "of the second start it was known before");
        roster.heard(&b, 4, 23_100);
        assert_eq!(roster.losses(), 2, "it had been missed");
        roster.is_silent(&b, 23_200);
        roster.forget(23_300);
        assert_eq!(roster.losses(), 2, "it may be slow");
    }

    #[test]
    fn subjects_are_spread_and_only_those_of_a_node_that_is_passed_over_move() {
        let (mut roster, names) = (roster(), names());
        let firsts = |roster: &Roster| -> Vec<NodeName> {
            (0..4_000).map(|subject| roster.rank(subject, &names, 10_000)[0].clone()).collect()
        };
        let before = firsts(&roster);
        for name in &names {
            let share = before.iter().filter(|first| *first == name).count();
            assert!((800..1_200).contains(&share), "{name} has {share}");
        }
        roster.leave();
        let after = firsts(&roster);
        for (before, after) in before.iter().zip(&after) {
            assert!(if before.0 == "a" { after.0 != "a" } else { before == after }, "{before} {after}");
        }
        assert_eq!(roster.rank(1, &names, 10_000).len(), 4, "the others come last, and are not left out");
    }
}
