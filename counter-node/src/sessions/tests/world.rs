//! The whole of a simulation: nodes, visitors, faults; and what must be true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use tokio::time::sleep;

use super::Bug;
use super::network::{Network, Weather};
use super::process::{Process, Times};
use super::visitor::Visitor;
use crate::clock::millis;
use crate::live::Name;
use crate::live::claims::Session;
use counter_seeds::Rng;

/// How often visitors do something, and after how many times everything is looked at.
const TURN: Duration = Duration::from_millis(50);
const TURNS_A_LOOK: u64 = 4;
/// The time of faults, and that of stops in order.
const FAULTS_MS: u64 = 30_000;
const STOPS_MS: u64 = 20_000;
/// What hand-overs may take besides the times of claims and leases.
const SLACK_MS: u64 = 6_000;
/// How soon a change is known while nothing fails: a node that is missing is asked in vain first, and sessions go on elsewhere.
const KNOWN_MS: u64 = 3_000;

/// How soon a process that has begun is heard by all.
const READY_MS: u64 = 1_500;
/// For how long sessions move when a node comes or goes.
const BUSY_MS: u64 = 400;

/// The nodes that hold each session, by its page and id.
type Holders = BTreeMap<(Key, Arc<str>), Vec<NodeName>>;

/// Of whose heartbeats a holder knows the last one, or their end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beats {
    /// Of those who are there, if the process lives that was sent it, and it was not just after their end. What is late, having waited in front
    /// of a process that stood still, may be taken for later than it was.
    Standing,
    /// Of all, if the process lives that was sent it.
    Witnessed,
    All,
}

/// See the module's text.
pub(super) struct World {
    pub(super) network: Arc<Network>,
    rng: Rng,
    times: Times,
    /// How long clients of a node that stops may take to be back.
    spread_ms: u64,
    visitors: Vec<Visitor>,
    turns: u64,
    /// Nodes that are down, and when they begin.
    down_ms: BTreeMap<NodeName, u64>,
    next_start: u64,
    next_number: u64,
    next_fault_ms: u64,
    /// How many more nodes are to stop before the first of them is back, as when machines are drained.
    more_stops: usize,
    /// When the last process began.
    began_ms: u64,
    /// Until when visitors do more than else, since sessions are on their way.
    busy_ms: u64,
}

impl World {
    pub(super) fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = 2 + rng.index(4);
        let (low, high) = *rng.pick(&[(1_000, 3_000), (6_000, 20_000), (6_000, 20_000), (60_000, 60_000)]);
        let times = Times {
            heartbeat: Duration::from_millis(rng.range(low, high)),
            lease: Duration::from_millis(rng.range(3_000, 5_000)),
        };
        // A heartbeat that one node does not answer comes too late for the next.
        let may_beat = low >= 6_000;
        let network = Network::new(seed, nodes, bug, traced);
        let visitor = |number: u64| {
            let page = Key::new(format!("p{}", number % 3).as_bytes()).unwrap();
            let user = number.is_multiple_of(4).then(|| Name::of_user(&format!("u{}", number % 8)));
            Visitor::new(Session { page, id: format!("v{number}").into() }, user, may_beat)
        };
        let visitors = (0..rng.range(3, 16)).map(visitor).collect();
        let spread_ms = *rng.pick(&[1_500, 1_500, 12_000]);
        let down_ms = network.nodes.iter().map(|node| (node.clone(), 0)).collect();
        Self {
            network,
            rng,
            times,
            spread_ms,
            visitors,
            turns: 0,
            down_ms,
            next_start: 0,
            next_number: 0,
            next_fault_ms: 1_000,
            more_stops: 0,
            began_ms: 0,
            busy_ms: 0,
        }
    }

    /// Runs all of it. An error is what is not as it must be.
    pub(super) async fn prove(&mut self) -> Result<(), String> {
        let (delay_ms, loss) = (*self.rng.pick(&[20, 100, 300]), self.rng.below(200));
        self.network.set_weather(Weather { delay_ms, loss, slow: self.rng.below(100) });
        let (heartbeat_ms, lease_ms) = (millis(self.times.heartbeat), millis(self.times.lease));
        while self.network.now_ms() < FAULTS_MS {
            self.faults();
            self.turn(true).await?;
        }
        self.network.heal();
        self.down_ms.values_mut().for_each(|at_ms| *at_ms = 0);
        self.rest(lease_ms + self.spread_ms + SLACK_MS).await?;
        self.comes_to_what_is(Beats::Standing)?;
        self.rest(heartbeat_ms).await?;
        self.comes_to_what_is(Beats::All)?;
        self.loses_no_heartbeats().await?;

        let until_ms = self.network.now_ms() + STOPS_MS;
        self.next_fault_ms = 0;
        while self.network.now_ms() < until_ms {
            self.stops();
            self.turn(true).await?;
            if self.is_time_to_look() {
                self.hides_nobody()?;
            }
        }
        self.rest(self.grace_ms() + SLACK_MS).await?;
        self.comes_to_what_is(Beats::All)
    }

    /// People come and go, and one node crashes; when that is known, and its clients are back, who took heartbeats and their ends has told
    /// them whoever holds their sessions now. Some go on to come and go when it has crashed, and ask it in vain.
    async fn loses_no_heartbeats(&mut self) -> Result<(), String> {
        let time_ms = self.rng.range(1_000, 30_000);
        self.pass(time_ms, true).await?;
        let up = self.network.up();
        let process = self.rng.pick(&up).clone();
        let again_ms = self.network.now_ms() + *self.rng.pick(&[100, 60_000]);
        self.crash(&process, again_ms);
        let time_ms = *self.rng.pick(&[0, millis(self.times.lease)]);
        self.pass(time_ms, true).await?;
        self.rest(millis(self.times.lease) + SLACK_MS).await?;
        self.comes_to_what_is(Beats::Witnessed)?;
        self.down_ms.values_mut().for_each(|at_ms| *at_ms = 0);
        self.rest(millis(self.times.heartbeat) + SLACK_MS).await?;
        self.comes_to_what_is(Beats::All)
    }

    /// Ends what refers to itself.
    pub(super) fn end(&self) {
        self.network.up().iter().for_each(|process| process.end());
    }

    /// Nobody comes or goes but those who are on their way.
    async fn rest(&mut self, time_ms: u64) -> Result<(), String> {
        self.pass(time_ms, false).await
    }

    /// So much time passes.
    async fn pass(&mut self, time_ms: u64, acts: bool) -> Result<(), String> {
        let until_ms = self.network.now_ms() + time_ms;
        while self.network.now_ms() < until_ms {
            self.turn(acts).await?;
        }
        Ok(())
    }

    async fn turn(&mut self, acts: bool) -> Result<(), String> {
        sleep(TURN).await;
        self.turns += 1;
        let Self { network, rng, next_number, times, .. } = self;
        let now_ms = network.now_ms();
        let may_begin = |node: &NodeName, at_ms: u64| at_ms <= now_ms && network.process(node).is_none();
        let begin: Vec<_> = self.down_ms.extract_if(.., |node, at_ms| may_begin(node, *at_ms)).map(|(node, _)| node).collect();
        for node in begin {
            self.next_start += 1;
            Process::begin(network, &node, self.next_start, *times);
            (self.began_ms, self.busy_ms) = (now_ms, now_ms + BUSY_MS);
        }
        let acting = if now_ms < self.busy_ms { 150 } else { 20 };
        for visitor in &mut self.visitors {
            if acts && rng.per_mille(acting) {
                visitor.act(network, rng, next_number);
            }
            visitor.go_on(network, rng, millis(times.heartbeat), next_number);
        }
        if self.is_time_to_look() { self.holders().map(drop) } else { Ok(()) }
    }

    fn is_time_to_look(&self) -> bool {
        self.turns.is_multiple_of(TURNS_A_LOOK)
    }

    /// Which nodes hold which sessions.
    fn holders(&self) -> Result<Holders, String> {
        let mut holders = Holders::new();
        for process in self.network.up() {
            for Session { page, id } in process.held()? {
                holders.entry((page, id)).or_default().push(process.node.clone());
            }
        }
        Ok(holders)
    }

    /// What every node knows of a session, for an error.
    fn claims_on(&self, session: &Session) -> Vec<String> {
        self.network.up().iter().map(|process| process.claims_on(session)).collect()
    }

    /// Every session that is there is held by one node, and no other is held.
    fn comes_to_what_is(&self, beats: Beats) -> Result<(), String> {
        let holders = self.holders()?;
        for visitor in &self.visitors {
            let Session { page, id } = &visitor.session;
            let nodes = holders.get(&(page.clone(), id.clone())).map_or(0, Vec::len);
            let is_known = match beats {
                Beats::Standing => visitor.is_there && visitor.edge_lives(&self.network) && !visitor.has_just_begun_anew(),
                Beats::Witnessed => visitor.edge_lives(&self.network),
                Beats::All => true,
            };
            let is_unsure = visitor.only_beats() && !is_known && nodes < 2;
            if nodes != usize::from(visitor.is_there) && !is_unsure {
                let Visitor { is_there, since_ms, .. } = visitor;
                let claims = self.claims_on(&visitor.session);
                return Err(format!(
                    "{id} is held by {nodes} nodes at rest; it is there: {is_there}, since {since_ms} ms: {claims:?}"
                ));
            }
        }
        Ok(())
    }

    /// While nodes only stop in order, everyone who is there is held, and who has left is not for long.
    fn hides_nobody(&self) -> Result<(), String> {
        let (holders, now_ms) = (self.holders()?, self.network.now_ms());
        for visitor in self.visitors.iter().filter(|visitor| visitor.since_ms + KNOWN_MS <= now_ms) {
            let Session { page, id } = &visitor.session;
            let nodes = holders.get(&(page.clone(), id.clone()));
            let since_ms = visitor.since_ms;
            if visitor.is_there && nodes.is_none() {
                return Err(format!("{id}, there since {since_ms} ms, is missing at {now_ms} ms"));
            }
            if let Some(nodes) = nodes.filter(|_| !visitor.is_there && visitor.excused_ms + KNOWN_MS <= now_ms) {
                let claims = self.claims_on(&visitor.session);
                return Err(format!("{id}, away since {since_ms} ms, is held by {nodes:?} at {now_ms} ms: {claims:?}"));
            }
        }
        Ok(())
    }

    fn faults(&mut self) {
        let now_ms = self.network.now_ms();
        if now_ms < self.next_fault_ms {
            return;
        }
        self.next_fault_ms = now_ms + self.rng.range(200, 4_000);
        let up = self.network.up();
        let Some(process) = (!up.is_empty()).then(|| self.rng.pick(&up).clone()) else { return };
        let time = Duration::from_millis(self.rng.range(300, 9_000));
        match self.rng.below(5) {
            0 => self.crash(&process, now_ms + millis(time)),
            1 => self.stop(&process, now_ms + millis(time)),
            2 => {
                self.network.met("a stall");
                self.network.stall(process.start, time);
            }
            3 => {
                self.network.met("a cut");
                let to = self.rng.pick(&self.network.nodes).clone();
                self.network.cut(&process.node, &to, time);
                if self.rng.per_mille(500) {
                    self.network.cut(&to, &process.node, time);
                }
            }
            _ => {
                self.network.met("a node is cut off");
                for other in &self.network.nodes {
                    self.network.cut(&process.node, other, time);
                    self.network.cut(other, &process.node, time);
                }
            }
        }
    }

    fn crash(&mut self, process: &Arc<Process>, again_ms: u64) {
        self.network.met("a crash");
        process.end();
        let Self { visitors, network, rng, .. } = self;
        visitors.iter_mut().for_each(|visitor| visitor.crashed(process.start, network, rng));
        self.down_ms.insert(process.node.clone(), again_ms);
    }

    /// A stop in order. The next one not before the one before is heard again, as the operator waits until it is ready; but sometimes several
    /// nodes at once, of which one goes on.
    fn stops(&mut self) {
        let (now_ms, up) = (self.network.now_ms(), self.network.up());
        let staying: Vec<_> = up.iter().filter(|process| !process.leaves()).cloned().collect();
        let all_up = staying.len() == self.network.nodes.len() && now_ms >= self.began_ms + READY_MS;
        let goes_on = self.more_stops > 0 && staying.len() > 1;
        if now_ms < self.next_fault_ms || !(all_up || goes_on) {
            return;
        }
        if goes_on {
            self.network.met("several stop at once");
            self.more_stops -= 1;
        } else if self.rng.per_mille(300) {
            self.more_stops = self.rng.index(staying.len());
        }
        let (low_ms, high_ms) = if self.more_stops > 0 { (0, 600) } else { (2_000, 9_000) };
        self.next_fault_ms = now_ms + self.rng.range(low_ms, high_ms);
        let process = self.rng.pick(&staying).clone();
        let again_ms = now_ms + self.rng.range(1_000, 6_000);
        self.stop(&process, again_ms);
    }

    fn stop(&mut self, process: &Arc<Process>, again_ms: u64) {
        if process.leaves() || !self.network.is_awake(process.start) {
            return;
        }
        self.network.met("a stop");
        let (grace_ms, now_ms) = (self.grace_ms(), self.network.now_ms());
        self.busy_ms = now_ms + BUSY_MS;
        process.begin_leaving(Duration::from_millis(grace_ms));
        let Self { visitors, network, rng, spread_ms, next_number, .. } = self;
        visitors.iter_mut().for_each(|visitor| visitor.comes_late(process, network, rng, next_number));
        visitors.iter_mut().for_each(|visitor| visitor.sent_away(process.start, (*spread_ms, grace_ms), network, rng));
        self.down_ms.insert(process.node.clone(), again_ms);
        let (process, network) = (process.clone(), network.clone());
        tokio::spawn(async move { network.live(process.start, process.leave()).await });
    }

    /// For how long sessions of a stopping node count on: until its clients may be back, and a lease.
    fn grace_ms(&self) -> u64 {
        millis(self.times.lease) + self.spread_ms + 500
    }
}
