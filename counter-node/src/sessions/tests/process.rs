//! One start of a node: the product's sessions, members and hub, driven as the node drives them.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::presence::GatewayId;
use futures::future::{BoxFuture, join};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::{Claim, Sessions, TIMEOUT};
use super::Bug;
use super::network::{Network, Port};
use crate::clock::millis;
use crate::handover::{Answer, Handed};
use crate::live::claims::{Claimant, Session};
use crate::live::{Hub, Name, Registrar};
use crate::lock::lock;
use crate::members::Members;
use crate::peers::{HANDOVER_PATH, SESSIONS_PATH};

/// How often a node says that it lives: five times a lease.
const RENEWALS: u32 = 5;
/// How long a stopping node gives others its viewers, and says farewell, as nodes do.
const HAND_OVER: Duration = Duration::from_secs(5);
const FAREWELL: Duration = Duration::from_millis(500);

/// The intervals of a cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) heartbeat: Duration,
    pub(super) lease: Duration,
}

/// What the cluster is told of a process's viewers.
pub(super) struct Names {
    network: Arc<Network>,
    known: Mutex<BTreeMap<(Key, u64), u32>>,
    /// Someone has left who was not there.
    is_wrong: AtomicBool,
}

impl Registrar for Names {
    fn refresh(&self, _: &Key) {}

    fn refresh_user(&self, _: &Key) {}

    fn may_follow(&self, _: &Key) -> bool {
        true
    }

    fn name_came(&self, page: &Key, Name(name): Name) {
        *lock(&self.known).entry((page.clone(), name)).or_default() += 1;
    }

    fn name_left(&self, page: &Key, Name(name): Name) {
        let mut known = lock(&self.known);
        match known.get_mut(&(page.clone(), name)) {
            Some(1) => drop(known.remove(&(page.clone(), name))),
            Some(times) => *times -= 1,
            None => self.is_wrong.store(true, Ordering::Relaxed),
        }
    }

    fn told(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { sleep(self.network.random_ms(1, 100)).await })
    }
}

/// See the module's text.
pub(super) struct Process {
    pub(super) node: NodeName,
    pub(super) start: u64,
    pub(super) sessions: Arc<Sessions<Port>>,
    network: Arc<Network>,
    times: Times,
    hub: Arc<Hub>,
    names: Arc<Names>,
    members: Arc<Members<Port>>,
    leaves: AtomicBool,
    stopped: CancellationToken,
    /// For [`Bug::RenewalsIgnored`].
    claimed: Mutex<HashSet<(Session, Claimant)>>,
}

impl Process {
    /// A process that has begun, under a number that no other has.
    pub(super) fn begin(network: &Arc<Network>, node: &NodeName, start: u64, times: Times) {
        let hub = Arc::new(Hub::new(Arc::default()));
        let names = Arc::new(Names { network: network.clone(), known: Mutex::default(), is_wrong: AtomicBool::new(false) });
        let port = Port { network: network.clone(), me: node.clone(), start };
        let members = Arc::new(Members::new(Some(port), times.lease));
        let process = Arc::new(Self {
            node: node.clone(),
            start,
            sessions: Sessions::new(hub.clone(), names.clone(), members.clone(), start, times.heartbeat),
            network: network.clone(),
            times,
            hub,
            names,
            members,
            leaves: AtomicBool::new(false),
            stopped: CancellationToken::new(),
            claimed: Mutex::default(),
        });
        network.begins(&process);
        tokio::spawn(async move {
            let run = process.sessions.clone().run(process.stopped.clone());
            let renewals = async {
                loop {
                    process.say(false);
                    sleep(times.lease / RENEWALS).await;
                }
            };
            let work = async {
                join(run, renewals).await;
            };
            process.stopped.run_until_cancelled(process.network.live(start, work)).await;
        });
    }

    /// Says to all others that this process lives, or farewell.
    fn say(&self, farewell: bool) {
        let gateway = GatewayId { node: self.node.clone(), start: self.start };
        for to in self.network.nodes.iter().filter(|to| **to != self.node) {
            let (network, gateway, to) = (self.network.clone(), gateway.clone(), to.clone());
            tokio::spawn(async move {
                if !network.carry(&gateway.node, &to).await {
                    return;
                }
                let Some(process) = network.process(&to) else { return };
                network.awake(process.start).await;
                process.hear(&gateway, farewell);
            });
        }
    }

    pub(super) fn hear(&self, gateway: &GatewayId, farewell: bool) {
        match farewell {
            true => self.members.left(gateway),
            false if self.network.bug == Some(Bug::OthersUnheard) => {}
            false => self.members.heard(gateway),
        }
    }

    /// What a peer is answered; None: nothing of use, at once.
    pub(super) async fn answer(&self, from: u64, path: &str, body: &[u8]) -> Option<Vec<u8>> {
        match path {
            SESSIONS_PATH => {
                let claims: Vec<Claim> = postcard::from_bytes(body).ok()?;
                let stand = self.take_by(from, &claims)?;
                postcard::to_stdvec(&stand).ok()
            }
            HANDOVER_PATH => {
                let Handed::Claims(claims) = postcard::from_bytes(body).ok()? else { return None };
                self.network.note(|| format!("{} is handed {claims:?}", self.node));
                let stand = match self.network.bug {
                    Some(Bug::TakenUnseen) => Some(vec![true; claims.len()]),
                    _ => self.sessions.take(&claims, true),
                };
                self.names.told().await;
                self.network.met("sessions are handed over");
                let answers: Vec<Answer> = stand?.into_iter().map(Answer::from).collect();
                postcard::to_stdvec(&answers).ok()
            }
            _ => None,
        }
    }

    fn take_by(&self, from: u64, claims: &[Claim]) -> Option<Vec<bool>> {
        self.network.note(|| format!("{} is told by {from} {claims:?}", self.node));
        // At once, or after some holders have not answered.
        let fresh_ms = millis(self.times.heartbeat.saturating_sub(3 * TIMEOUT));
        let is_told_again = |claim: &Claim| claim.claimant == Claimant::Heartbeats && (1..fresh_ms).contains(&claim.for_ms);
        if claims.iter().any(is_told_again) {
            self.network.met("heartbeats are told a new holder");
        }
        let is_heard = |claim: &&Claim| match self.network.bug {
            Some(Bug::RenewalsIgnored) => {
                let is_connection = matches!(claim.claimant, Claimant::Connection { .. });
                let mut claimed = lock(&self.claimed);
                claim.for_ms == 0 || !is_connection || claimed.insert((claim.session.clone(), claim.claimant))
            }
            Some(Bug::BeatsToldOnce) => !is_told_again(claim),
            Some(Bug::EndsToldOnce) => claim.for_ms > 0 || claim.ago_ms == 0,
            _ => true,
        };
        let heard: Vec<Claim> = claims.iter().filter(is_heard).cloned().collect();
        let stand = self.sessions.take(&heard, false)?;
        Some(if heard.len() == claims.len() { stand } else { vec![true; claims.len()] })
    }

    pub(super) fn leaves(&self) -> bool {
        self.leaves.load(Ordering::Relaxed)
    }

    /// It is about to exit. To be called before its clients are told to go.
    pub(super) fn begin_leaving(&self, grace: Duration) {
        self.network.note(|| format!("{} leaves", self.node));
        self.leaves.store(true, Ordering::Relaxed);
        if self.network.bug == Some(Bug::NothingHandedOn) {
            return;
        }
        self.members.leave();
        self.sessions.begin_leaving(grace);
    }

    /// Hands over, says farewell, and ends.
    pub(super) async fn leave(&self) {
        if self.network.bug != Some(Bug::NothingHandedOn) {
            let _ = timeout(HAND_OVER, self.sessions.hand_on()).await;
        }
        self.say(true);
        sleep(FAREWELL).await;
        self.end();
    }

    /// It is there no more.
    pub(super) fn end(&self) {
        if !self.stopped.is_cancelled() {
            self.stopped.cancel();
            self.network.ends(self);
        }
    }

    /// The sessions that this process holds, which are those that it counts.
    pub(super) fn held(&self) -> Result<Vec<Session>, String> {
        let held = lock(&self.sessions.held);
        let sessions = held.sessions();
        let mut names: BTreeMap<(Key, u64), u32> = BTreeMap::new();
        let mut pages: BTreeMap<Key, u32> = self.hub.pages().into_iter().map(|page| (page, 0)).collect();
        for session in &sessions {
            let Name(name) = held.get(session).ok_or("held, and not there")?.0;
            *names.entry((session.page.clone(), name)).or_default() += 1;
            *pages.entry(session.page.clone()).or_default() += 1;
        }
        for (page, viewers) in pages {
            let counted = self.hub.attendance(&page).sessions;
            if counted != viewers {
                return Err(format!("{} counts {counted} on {page:?} and holds {viewers}", self.node));
            }
        }
        if self.names.is_wrong.load(Ordering::Relaxed) || *lock(&self.names.known) != names {
            return Err(format!("{} has told names that are not of those whom it holds", self.node));
        }
        Ok(sessions)
    }

    /// What is claimed of the session here, and how long that stands, for an error.
    pub(super) fn claims_on(&self, session: &Session) -> String {
        let (held, now) = (lock(&self.sessions.held), Instant::now());
        let claimants = held.get(session).map_or(&[][..], |(_, claimants)| claimants);
        let claims = claimants.iter().map(|(claimant, until)| format!(" {claimant:?} for {:?}", *until - now));
        format!("{} has{}", self.node, claims.collect::<String>())
    }
}
