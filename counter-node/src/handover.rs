//! Sessions that go on elsewhere: those of this node when it stops, and those of others that it has inherited
//! ([`Orphans`]); and telling others that a session of theirs has resumed here.
//!
//! **What happens when.** A stop begins with [`HandOver::begin`]: all viewers of open connections become orphans that this node
//! itself counts, before any client is told to go. [`HandOver::hand_on`] then gives them to the heir part by part, and counts a part no
//! more when the heir has made known that it does. Who becomes a viewer of a connection after the beginning is made an orphan at once
//! ([`HandOver::came`]), and is handed on when the last connection has ended. Meanwhile clients come back anywhere; where one is counted again, the node
//! makes that known first, and then tells whoever has the orphan. So a page never shows too few, and for a moment too many.
//!
//! Locks are taken in this order: [`HandOver::state`], the presence protocol, the hub.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::presence::{Bequest, Orphan, Orphans, ResumeKey, Resumed, Resumption, SessionToken};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::millis;
use crate::live::{Hub, Name, Registrar};
use crate::lock::lock;
use crate::members::Members;
use crate::peers::HANDOVER_PATH;
use crate::sessions::Claim;

/// How often orphans are looked through for those whose grace is over.
const LOOK: Duration = Duration::from_millis(250);
/// How long a node may take to answer: it makes known what it takes over first.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(1_500);
/// How many nodes are asked whether they have a session, one after the other.
const TRIES: usize = 3;
/// How often a session is looked for at an heir of an heir.
const HOPS_MAX: usize = 8;
/// Orphans of one message, in bytes.
const PART_BYTES: usize = 128 << 10;
/// Resumed sessions that wait to be told. Of more nobody is told: the old ones end by themselves.
const WAITING_MAX: usize = 65_536;
/// Resumed sessions of one message.
const AT_ONCE: usize = 1_024;

/// What a node hands to another one. There is an [`Answer`] to each part of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Handed {
    /// Viewers, to be counted by the receiver.
    Orphans(Bequest),
    /// Sessions with ids, to be held by the receiver.
    Claims(Vec<Claim>),
    /// Sessions that the receiver may have, and that are counted elsewhere now.
    Resumed(Vec<Resumption>),
}

/// What becomes of a part of what was handed to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is not taken, or not known here.
    No,
    Yes,
    /// One of these has what has resumed.
    At(Vec<NodeName>),
}

impl From<bool> for Answer {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

/// See the module's text.
pub struct HandOver {
    start: u64,
    key: ResumeKey,
    hub: Arc<Hub>,
    registrar: Arc<dyn Registrar>,
    members: Arc<Members>,
    state: Mutex<State>,
    /// What has resumed here and was not told yet.
    resumed: Mutex<Vec<Resumption>>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    orphans: Orphans,
    /// This node is about to exit: until when its own viewers count on.
    leaves_until_ms: Option<u64>,
}

/// A resumption, and the nodes that are still to be asked for the session that it replaces.
struct Search {
    resumption: Resumption,
    nodes: std::vec::IntoIter<NodeName>,
    /// How often others have named more of them.
    hops: usize,
}

impl HandOver {
    /// Nobody has left yet. `start` is this process's number.
    #[must_use]
    pub fn new(hub: Arc<Hub>, registrar: Arc<dyn Registrar>, members: Arc<Members>, start: u64) -> Arc<Self> {
        Arc::new(Self {
            start,
            key: ResumeKey::new(rand::random()),
            hub,
            registrar,
            members,
            state: Mutex::default(),
            resumed: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// By what the client of this connection names its session when it comes back.
    #[must_use]
    pub fn token(&self, connection: u64) -> SessionToken {
        self.key.token(self.start, connection)
    }

    /// A connection of this node is a viewer of the page in place of the session that the token names.
    pub fn resumed(&self, token: SessionToken, page: &Key) {
        let mut resumed = lock(&self.resumed);
        if resumed.len() < WAITING_MAX {
            resumed.push((token, page.clone()));
            self.wake.notify_one();
        }
    }

    /// This node is about to exit: the viewers of its connections are orphans from now on, for so long if their clients do not come
    /// back. Returns whether this was the first to say so.
    pub fn begin(&self, grace: Duration) -> bool {
        let mut state = lock(&self.state);
        if state.leaves() {
            return false;
        }
        let now_ms = self.members.now_ms();
        state.leaves_until_ms = Some(now_ms.saturating_add(millis(grace)));
        self.members.leave();
        let viewers = self.hub.take_viewers().into_iter();
        let hash = |(number, name): (u64, Option<Name>)| (number, name.map(|Name(hash)| hash));
        let pages = viewers.map(|(page, viewers)| (page, viewers.into_iter().map(hash).collect()));
        let bequest = Bequest { gateway: self.start, key: self.key.clone(), grace_ms: millis(grace), pages: pages.collect() };
        // They count already. If they are too many, they end with this node's farewell.
        drop(state.orphans.inherit(bequest, now_ms));
        true
    }

    /// A connection of this node has become a viewer of the page, and its name, if it has one, is known. Where the node is about to exit,
    /// that is an orphan from the start: its client is about to be told to go.
    pub fn came(&self, page: &Key, connection: u64) {
        let mut state = lock(&self.state);
        let Some(until_ms) = state.leaves_until_ms else { return };
        // Unless it was there when the others became orphans.
        let Some(name) = self.hub.take_viewer(page, connection) else { return };
        let now_ms = self.members.now_ms();
        let viewers = vec![(connection, name.map(|Name(hash)| hash))];
        let grace_ms = until_ms.saturating_sub(now_ms);
        let bequest =
            Bequest { gateway: self.start, key: self.key.clone(), grace_ms, pages: vec![(page.clone(), viewers.clone())] };
        if state.orphans.inherit(bequest, now_ms).is_ok_and(|came| came.is_empty()) {
            // It has been one before, and has only watched in between.
            self.count(&state, viewers.into_iter().map(|(_, name)| (page.clone(), name)).collect(), -1);
        }
    }

    /// Gives all orphans to their heirs. What no node takes stays here, and ends with this node's farewell.
    pub async fn hand_on(&self) {
        let gateways = lock(&self.state).orphans.gateways();
        for gateway in gateways {
            // As many as there are: others may stop, too, and say no at once.
            let mut heirs = self.members.heirs(gateway).into_iter();
            let mut heir = heirs.next();
            while let Some(to) = &heir {
                let part = lock(&self.state).orphans.set_out(gateway, PART_BYTES, self.members.now_ms());
                let Some(part) = part else { break };
                if self.hand(to, Handed::Orphans(part)).await == [Answer::Yes] {
                    let resumed = self.arrived(gateway, to);
                    if !resumed.is_empty() {
                        self.hand(to, Handed::Resumed(resumed)).await;
                    }
                } else {
                    self.returned(gateway);
                    heir = heirs.next();
                }
            }
        }
    }

    /// The answers of a node; none when it does not answer.
    async fn hand(&self, to: &NodeName, what: Handed) -> Vec<Answer> {
        self.members.ask(to, HANDOVER_PATH, what, TIMEOUT).await.unwrap_or_default()
    }

    /// The heir counts a part. Returns what of it has resumed meanwhile.
    fn arrived(&self, gateway: u64, heir: &NodeName) -> Vec<Resumption> {
        let mut state = lock(&self.state);
        let arrived = state.orphans.arrived(gateway, heir);
        self.count(&state, arrived.gone, -1);
        arrived.resumed
    }

    fn returned(&self, gateway: u64) {
        let mut state = lock(&self.state);
        let gone = state.orphans.returned(gateway);
        self.count(&state, gone, -1);
    }

    /// Counts orphans of a gateway from now on. Returns whether it does.
    pub fn inherit(&self, bequest: Bequest) -> bool {
        let mut state = lock(&self.state);
        if state.leaves() || bequest.gateway == self.start {
            return false;
        }
        match state.orphans.inherit(bequest, self.members.now_ms()) {
            Ok(came) => {
                self.count(&state, came, 1);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "orphans are refused");
                false
            }
        }
    }

    /// Sessions that this node may have are counted elsewhere now.
    pub fn end_resumed(&self, resumptions: &[Resumption]) -> Vec<Answer> {
        resumptions.iter().map(|resumption| self.end_one(resumption)).collect()
    }

    fn end_one(&self, resumption: &Resumption) -> Answer {
        let mut state = lock(&self.state);
        let (token, page) = resumption;
        if token.gateway == self.start && !state.leaves() {
            // Its connection is still open here, or looks so.
            let is_own = self.key.admits(token);
            if let Some(name) = is_own.then(|| self.hub.end_viewer(page, token.number)).flatten() {
                self.registrar.refresh(page);
                name.into_iter().for_each(|name| self.registrar.name_left(page, name));
            }
            return is_own.into();
        }
        match state.orphans.resume(resumption) {
            Resumed::Unknown => return Answer::No,
            Resumed::Known => {}
            Resumed::Ended(name) => self.count(&state, vec![(page.clone(), name)], -1),
            Resumed::At(heirs) => return Answer::At(heirs),
        }
        Answer::Yes
    }

    /// Counts these viewers (1), or does so no more (-1). The lock is held, so that counts change in the order of what they
    /// follow from.
    fn count(&self, state: &State, orphans: Vec<Orphan>, change: i32) {
        self.hub.metrics().orphans.store(state.orphans.len() as u64, Ordering::Relaxed);
        let mut pages: BTreeMap<Key, Vec<Option<u64>>> = BTreeMap::new();
        for (page, name) in orphans {
            pages.entry(page).or_default().push(name);
        }
        for (page, names) in pages {
            let viewers = i32::try_from(names.len()).unwrap_or(i32::MAX);
            self.hub.count_viewer(&page, viewers.saturating_mul(change));
            self.registrar.refresh(&page);
            for name in names.into_iter().flatten().map(Name) {
                if change > 0 {
                    self.registrar.name_came(&page, name);
                } else {
                    self.registrar.name_left(&page, name);
                }
            }
        }
    }

    /// Ends orphans whose grace is over, and tells others what has resumed here, until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let (mut looks, this) = (tokio::time::interval(LOOK), &self);
        loop {
            tokio::select! {
                biased;
                () = stopped.cancelled() => return,
                _ = looks.tick() => {
                    let mut state = lock(&this.state);
                    let gone = state.orphans.expire(this.members.now_ms());
                    this.hub.metrics().orphans_lost.fetch_add(gone.len() as u64, Ordering::Relaxed);
                    this.count(&state, gone, -1);
                }
                () = this.wake.notified() => {
                    let round = async {
                        let resumed = std::mem::take(&mut *lock(&this.resumed));
                        // Whoever resumes is counted here before it is counted there no more.
                        this.registrar.told().await;
                        this.tell_whoever_has(resumed).await;
                    };
                    if stopped.run_until_cancelled(round).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn tell_whoever_has(&self, resumed: Vec<Resumption>) {
        let mut left: Vec<Search> = resumed.into_iter().map(|resumption| self.search(resumption)).collect();
        while !left.is_empty() {
            let mut by_node: BTreeMap<NodeName, Vec<Search>> = BTreeMap::new();
            for mut search in left {
                if let Some(node) = search.nodes.next() {
                    by_node.entry(node).or_default().push(search);
                }
            }
            let asked = by_node.into_iter().map(async |(node, searches)| self.tell_one(&node, searches).await);
            left = join_all(asked).await.into_iter().flatten().collect();
        }
    }

    /// Whoever may have the session, the likeliest first.
    fn search(&self, resumption: Resumption) -> Search {
        let start = resumption.0.gateway;
        let gateway = if start == self.start { Some(self.members.me().clone()) } else { self.members.node_of(start) };
        // The heir was chosen by another node, which may have believed in others, and may be gone.
        let heirs = self.members.heirs(start).into_iter().filter(|heir| Some(heir) != gateway.as_ref()).take(TRIES);
        let nodes: Vec<NodeName> = gateway.iter().cloned().chain(heirs).collect();
        Search { resumption, nodes: nodes.into_iter(), hops: 0 }
    }

    /// Tells one node. Returns what it does not know of, or knows another to have.
    async fn tell_one(&self, node: &NodeName, searches: Vec<Search>) -> Vec<Search> {
        let mut left = Vec::new();
        let mut searches = searches.into_iter().peekable();
        while searches.peek().is_some() {
            let part: Vec<Search> = searches.by_ref().take(AT_ONCE).collect();
            let resumptions: Vec<Resumption> = part.iter().map(|search| search.resumption.clone()).collect();
            let answers = if node == self.members.me() {
                self.end_resumed(&resumptions)
            } else {
                self.hand(node, Handed::Resumed(resumptions)).await
            };
            let answers = answers.into_iter().chain(std::iter::repeat(Answer::No));
            left.extend(part.into_iter().zip(answers).filter_map(|(search, answer)| search.after(answer)));
        }
        left
    }
}

impl State {
    fn leaves(&self) -> bool {
        self.leaves_until_ms.is_some()
    }
}

impl Search {
    /// Goes on after an answer; none: there is no need to.
    fn after(self, answer: Answer) -> Option<Self> {
        match answer {
            Answer::Yes => None,
            Answer::No => Some(self),
            Answer::At(_) if self.hops >= HOPS_MAX => None,
            Answer::At(heirs) => {
                let nodes: Vec<NodeName> = heirs.into_iter().take(TRIES).chain(self.nodes).collect();
                Some(Self { nodes: nodes.into_iter(), hops: self.hops + 1, resumption: self.resumption })
            }
        }
    }
}

impl std::fmt::Debug for HandOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOver").field("orphans", &lock(&self.state).orphans.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
