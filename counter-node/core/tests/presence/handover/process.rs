//! One node's process: the viewers of its connections, its orphans, and whom it believes to live.

use std::collections::BTreeMap;

use counter_core::id::NodeName;
use counter_core::key::Key;
use counter_core::presence::{Bequest, Orphan, Orphans, ResumeKey, Resumed, Resumption, Roster, RosterTimes, SessionToken};

use super::Bug;
use super::world::LEASE_MS;

/// Bytes of a part, few: so that a hand-over takes several.
const PART_BYTES: usize = 60;

pub(super) struct Process {
    pub(super) start: u64,
    key: ResumeKey,
    pub(super) roster: Roster,
    pub(super) orphans: Orphans,
    /// The viewers of open connections, by their numbers.
    pub(super) viewers: BTreeMap<u64, Key>,
    last: u64,
    /// What it tells the cluster.
    pub(super) counted: BTreeMap<Key, i64>,
    pub(super) leaves: bool,
    /// There was nobody to hand something over to.
    pub(super) gave_up: bool,
}

/// What a node says to a session that has resumed elsewhere.
#[derive(Debug)]
pub(super) enum Answer {
    No,
    Yes,
    At(Vec<NodeName>),
}

impl Process {
    pub(super) fn new(me: NodeName, start: u64, now_ms: u64) -> Self {
        let times = RosterTimes { lease_ms: LEASE_MS, doubt_ms: LEASE_MS * 4 / 5, silence_ms: 2_000 };
        Self {
            start,
            key: ResumeKey::new([u8::try_from(start % 251).unwrap(); 32]),
            roster: Roster::new(me, times, now_ms),
            orphans: Orphans::default(),
            viewers: BTreeMap::new(),
            last: 0,
            counted: BTreeMap::new(),
            leaves: false,
            gave_up: false,
        }
    }

    /// A client opens a connection, and views the page. Returns the token of its session.
    pub(super) fn open(&mut self, page: &Key) -> SessionToken {
        self.last += 1;
        self.viewers.insert(self.last, page.clone());
        self.count([(page.clone(), None)], 1);
        self.key.token(self.start, self.last)
    }

    /// The connection is not a viewer any more.
    pub(super) fn close(&mut self, number: u64) {
        if let Some(page) = self.viewers.remove(&number) {
            self.count([(page, None)], -1);
        }
    }

    pub(super) fn count(&mut self, orphans: impl IntoIterator<Item = Orphan>, change: i64) {
        for (page, _) in orphans {
            *self.counted.entry(page).or_default() += change;
        }
    }

    /// It is about to exit: its viewers are its own orphans.
    pub(super) fn begin(&mut self, grace_ms: u64, bug: Option<Bug>, now_ms: u64) {
        self.leaves = true;
        self.roster.leave();
        if bug == Some(Bug::SentAwayFirst) {
            let numbers: Vec<u64> = self.viewers.keys().copied().collect();
            numbers.into_iter().for_each(|number| self.close(number));
        }
        let pages = std::mem::take(&mut self.viewers).into_iter().map(|(number, page)| (page, vec![(number, None)])).collect();
        let bequest = Bequest { gateway: self.start, key: self.key.clone(), grace_ms, pages };
        // They count already.
        self.orphans.inherit(bequest, now_ms).unwrap();
    }

    /// The next part to be handed over.
    pub(super) fn set_out(&mut self, bug: Option<Bug>, now_ms: u64) -> Option<Bequest> {
        let gateways = self.orphans.gateways();
        let part = gateways.into_iter().find_map(|gateway| self.orphans.set_out(gateway, PART_BYTES, now_ms))?;
        if bug == Some(Bug::GoneWhenSent) {
            let gone = part.pages.iter().flat_map(|(page, viewers)| viewers.iter().map(|(_, name)| (page.clone(), *name)));
            self.count(gone, -1);
        }
        Some(part)
    }

    pub(super) fn arrived(&mut self, gateway: u64, heir: &NodeName, bug: Option<Bug>) -> Vec<Resumption> {
        let arrived = self.orphans.arrived(gateway, heir);
        if bug != Some(Bug::GoneWhenSent) {
            self.count(arrived.gone, -1);
        }
        arrived.resumed
    }

    pub(super) fn returned(&mut self, gateway: u64) {
        let gone = self.orphans.returned(gateway);
        self.count(gone, -1);
    }

    /// Whether it counts them from now on.
    pub(super) fn inherit(&mut self, bequest: Bequest, bug: Option<Bug>, now_ms: u64) -> bool {
        if bequest.gateway == self.start || (self.leaves && bug != Some(Bug::LeavingHeir)) {
            return false;
        }
        let came = self.orphans.inherit(bequest, now_ms).unwrap();
        self.count(came, 1);
        true
    }

    /// A session that this process may have counts elsewhere.
    pub(super) fn end_resumed(&mut self, resumption: &Resumption) -> Answer {
        let (token, page) = resumption;
        if token.gateway == self.start && !self.leaves {
            assert!(self.key.admits(token));
            if self.viewers.get(&token.number) == Some(page) {
                self.close(token.number);
            }
            return Answer::Yes;
        }
        match self.orphans.resume(resumption) {
            Resumed::Unknown => return Answer::No,
            Resumed::Known => {}
            Resumed::Ended(name) => self.count([(page.clone(), name)], -1),
            Resumed::At(heirs) => return Answer::At(heirs),
        }
        Answer::Yes
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        let gone = self.orphans.expire(now_ms);
        self.count(gone, -1);
    }
}
