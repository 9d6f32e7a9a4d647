//! A session as its client knows it: heartbeats through any node, and tabs, which come back elsewhere when their node stops.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::network::Network;
use super::process::Process;
use crate::live::Name;
use crate::live::claims::{Claimant, Session};
use counter_seeds::Rng;

/// How long a client waits for the answer to a heartbeat.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client beats no more once it has said that it does not.
const AGAIN_MS: u64 = 2_500;
/// How soon a tab that was opened is known to whoever holds its session.
const OPENED_MS: u64 = 800;
/// How long after a heartbeat was taken its client may say that it has left: one that is handed over seems to be later than it was by as
/// long as that takes.
const BEATEN_MS: u64 = 500;
/// How late an end may come, which has waited in front of a process that stood still, and by how much later it then seems to be.
const LATE_MS: u64 = 12_000;
/// How often the end of heartbeats is tried.
const ENDS: usize = 3;

/// See the module's text.
pub(super) struct Visitor {
    pub(super) session: Session,
    user: Option<Name>,
    may_beat: bool,
    beats: Option<Beats>,
    has_beaten: bool,
    /// When its heartbeats were ended last.
    ended_ms: Option<u64>,
    /// Through which process that was, once it was answered.
    ended_through: Arc<OnceLock<u64>>,
    /// Its client's saying so.
    ending: Option<JoinHandle<()>>,
    /// When it may beat again: an end that is on its way, or is handed on, may overtake what begins anew at once.
    again_ms: u64,
    tabs: Vec<Tab>,
    /// When the last one was opened.
    opened_ms: u64,
    /// Tabs that were sent away, or cut off, and will be back.
    returning: Vec<Returning>,
    /// Since when it is there, or is not, for all that it knows.
    pub(super) is_there: bool,
    pub(super) since_ms: u64,
    /// Until when it may count although it has left.
    pub(super) excused_ms: u64,
}

struct Beats {
    next_ms: u64,
    flying: Option<JoinHandle<bool>>,
    /// Through which process the one that flies, or else the last one, went.
    through: u64,
    /// When the last one was answered.
    answered_ms: u64,
    /// Through which process the last one that was taken went.
    stand: Option<u64>,
}

struct Tab {
    process: Arc<Process>,
    number: u64,
}

/// A tab on its way back.
struct Returning {
    at_ms: u64,
    /// What it has left behind.
    resumes: Option<Claimant>,
}

impl Visitor {
    pub(super) fn new(session: Session, user: Option<Name>, may_beat: bool) -> Self {
        let (tabs, returning) = (Vec::new(), Vec::new());
        Self {
            session,
            user,
            may_beat,
            beats: None,
            has_beaten: false,
            ended_ms: None,
            ended_through: Arc::default(),
            ending: None,
            again_ms: 0,
            tabs,
            opened_ms: 0,
            returning,
            is_there: false,
            since_ms: 0,
            excused_ms: 0,
        }
    }

    /// Begins something, or ends it.
    pub(super) fn act(&mut self, network: &Arc<Network>, rng: &mut Rng, next_number: &mut u64) {
        match rng.below(6) {
            0 if self.may_beat && self.beats.is_none() && self.may_begin_anew(network.now_ms()) => {
                self.beats = Some(Beats { next_ms: 0, flying: None, through: 0, answered_ms: 0, stand: None })
            }
            1 | 2 if self.tabs.len() < 3 => self.open(None, network, rng, next_number),
            3 if self.tabs.is_empty() => self.end_beats(network, rng),
            4 | 5 => self.close(network, rng),
            _ => {}
        }
    }

    /// Whether the end of its heartbeats has been answered, and what that has set going has arrived.
    fn may_begin_anew(&self, now_ms: u64) -> bool {
        self.again_ms <= now_ms && self.ending.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn open(&mut self, resumes: Option<Claimant>, network: &Arc<Network>, rng: &mut Rng, next_number: &mut u64) {
        let up = network.up();
        let ready: Vec<&Arc<Process>> =
            up.iter().filter(|process| !process.leaves() && network.is_awake(process.start)).collect();
        if ready.is_empty() {
            self.returning.push(Returning { at_ms: network.now_ms() + 300, resumes });
            return;
        }
        let process = (*rng.pick(&ready)).clone();
        self.open_at(process, resumes, network, next_number);
        if self.tabs.len() > 1 {
            network.met("a session has several tabs");
        }
    }

    /// Opens a tab, or comes back with one, at a process that has just begun to stop, and has not told its clients.
    pub(super) fn comes_late(&mut self, process: &Arc<Process>, network: &Arc<Network>, rng: &mut Rng, next_number: &mut u64) {
        if !rng.per_mille(250) || self.tabs.len() >= 3 {
            return;
        }
        network.met("a tab is opened at a node that stops");
        let resumes = self.returning.pop().and_then(|returning| returning.resumes);
        self.open_at(process.clone(), resumes, network, next_number);
    }

    fn open_at(&mut self, process: Arc<Process>, resumes: Option<Claimant>, network: &Arc<Network>, next_number: &mut u64) {
        *next_number += 1;
        self.opened_ms = network.now_ms();
        let tab = Tab { process, number: *next_number };
        network.note(|| format!("{} opens {} at {} for {resumes:?}", self.session.id, tab.number, tab.process.node));
        tab.process.sessions.connected(self.session.clone(), tab.number, self.user, resumes);
        self.tabs.push(tab);
    }

    /// Whether the tab that was opened last is known. The end of something else may overtake its beginning.
    fn is_known(&self, network: &Network) -> bool {
        network.now_ms() >= self.opened_ms + OPENED_MS
    }

    fn close(&mut self, network: &Arc<Network>, rng: &mut Rng) {
        if self.tabs.is_empty() || !self.is_known(network) {
            return;
        }
        let Tab { process, number } = self.tabs.swap_remove(rng.index(self.tabs.len()));
        network.note(|| format!("{} closes {number} at {}", self.session.id, process.node));
        disconnect(network, process, self.session.clone(), number);
    }

    fn end_beats(&mut self, network: &Arc<Network>, rng: &mut Rng) {
        // What is under way would begin it anew, if it came later than the end.
        let now_ms = network.now_ms();
        let flies = |beats: &Beats| beats.flying.is_some() || now_ms < beats.answered_ms + BEATEN_MS;
        if self.beats.as_ref().is_none_or(flies) || !self.is_known(network) {
            return;
        }
        (self.beats, self.again_ms) = (None, network.now_ms() + AGAIN_MS);
        (self.ended_ms, self.ended_through) = (Some(now_ms), Arc::default());
        let ended_through = self.ended_through.clone();
        network.note(|| format!("{} beats no more", self.session.id));
        let up = network.up();
        let through: Vec<Arc<Process>> = (0..ENDS).filter(|_| !up.is_empty()).map(|_| rng.pick(&up).clone()).collect();
        let (network, session) = (network.clone(), self.session.clone());
        self.ending = Some(tokio::spawn(async move {
            for process in through {
                let end = async {
                    network.awake(process.start).await;
                    process.sessions.end(session.clone()).await.is_ok()
                };
                if network.while_alive(process.start, end).await == Some(true) {
                    return ended_through.set(process.start).unwrap();
                }
            }
        }));
    }

    /// Whether it counts, or has counted, by heartbeats alone.
    pub(super) fn only_beats(&self) -> bool {
        self.tabs.is_empty() && self.returning.is_empty() && self.has_beaten
    }

    /// Whether the process lives through which its last heartbeat went, or their end.
    pub(super) fn edge_lives(&self, network: &Network) -> bool {
        let edge = match &self.beats {
            Some(beats) => beats.stand,
            None => self.ended_through.get().copied(),
        };
        edge.is_some_and(|edge| network.up().iter().any(|process| process.start == edge))
    }

    /// Whether its last heartbeat came so soon after the end of those before that this one, if it is late, may seem to be of it.
    pub(super) fn has_just_begun_anew(&self) -> bool {
        let last_ms = self.beats.as_ref().map(|beats| beats.answered_ms);
        last_ms.zip(self.ended_ms).is_some_and(|(last_ms, ended_ms)| last_ms < ended_ms + LATE_MS)
    }

    /// Goes on with what it does.
    pub(super) fn go_on(&mut self, network: &Arc<Network>, rng: &mut Rng, heartbeat_ms: u64, next_number: &mut u64) {
        let now_ms = network.now_ms();
        let back: Vec<Returning> = self.returning.extract_if(.., |tab| tab.at_ms <= now_ms).collect();
        for Returning { resumes, .. } in back {
            network.met("a tab is back");
            self.open(resumes, network, rng, next_number);
        }
        self.beat(network, rng, heartbeat_ms);
        let stand = self.beats.as_ref().is_some_and(|beats| beats.stand.is_some());
        if self.beats.is_some() && !stand {
            // A heartbeat may have been taken by a node that has not lived to say so.
            self.excused_ms = self.excused_ms.max(now_ms);
        }
        let is_there = stand || !self.tabs.is_empty() || !self.returning.is_empty();
        if self.is_there != is_there {
            (self.is_there, self.since_ms) = (is_there, now_ms);
        }
    }

    fn beat(&mut self, network: &Arc<Network>, rng: &mut Rng, heartbeat_ms: u64) {
        let (now_ms, up) = (network.now_ms(), network.up());
        let Some(beats) = &mut self.beats else { return };
        if let Some(flying) = beats.flying.take_if(|flying| flying.is_finished()) {
            let taken = futures::FutureExt::now_or_never(flying).is_some_and(|taken| taken.unwrap());
            (beats.stand, beats.answered_ms) = (taken.then_some(beats.through).or(beats.stand), now_ms);
            beats.next_ms = now_ms + if taken { rng.range(heartbeat_ms / 3, heartbeat_ms / 2) } else { 200 };
        }
        if now_ms < beats.next_ms || beats.flying.is_some() || up.is_empty() {
            return;
        }
        let (process, network) = (rng.pick(&up).clone(), network.clone());
        let (session, user) = (self.session.clone(), self.user);
        self.has_beaten = true;
        beats.through = process.start;
        beats.flying = Some(tokio::spawn(async move {
            let beat = async {
                network.awake(process.start).await;
                process.sessions.beat(session, user).await.is_ok()
            };
            let answered = timeout(PATIENCE, network.while_alive(process.start, beat)).await;
            answered.ok().flatten().unwrap_or(false)
        }));
    }

    /// Whether it has a tab at the process.
    fn tabs_at(&mut self, start: u64) -> Vec<Tab> {
        self.tabs.extract_if(.., |tab| tab.process.start == start).collect()
    }

    /// A process has ended all at once, and so have its connections. Most clients come back.
    pub(super) fn crashed(&mut self, start: u64, network: &Arc<Network>, rng: &mut Rng) {
        for tab in self.tabs_at(start) {
            if rng.per_mille(700) {
                self.returning.push(tab.back_at(network.now_ms() + rng.range(100, 5_000)));
            }
        }
    }

    /// A process is about to exit, and sends its clients elsewhere. Its orphans may count for a grace.
    pub(super) fn sent_away(&mut self, start: u64, (spread_ms, grace_ms): (u64, u64), network: &Arc<Network>, rng: &mut Rng) {
        let now_ms = network.now_ms();
        for tab in self.tabs_at(start) {
            disconnect(network, tab.process.clone(), self.session.clone(), tab.number);
            if rng.per_mille(900) {
                self.returning.push(tab.back_at(now_ms + rng.range(0, spread_ms)));
            } else {
                self.excused_ms = self.excused_ms.max(now_ms + grace_ms);
            }
        }
    }
}

impl Tab {
    fn back_at(&self, at_ms: u64) -> Returning {
        Returning { at_ms, resumes: Some(Claimant::Orphan { gateway: self.process.start, connection: self.number }) }
    }
}

/// The node sees that a connection is closed, as soon as it runs.
fn disconnect(network: &Arc<Network>, process: Arc<Process>, session: Session, number: u64) {
    if network.is_awake(process.start) {
        return process.sessions.disconnected(session, number);
    }
    let network = network.clone();
    tokio::spawn(async move {
        network.awake(process.start).await;
        process.sessions.disconnected(session, number);
    });
}
