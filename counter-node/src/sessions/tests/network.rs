//! What is between the nodes of a simulation: it carries bytes, late, out of order, or not at all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::id::NodeName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Bug;
use super::process::Process;
use crate::clock::millis;
use crate::lock::lock;
use crate::members::Reach;
use crate::peers::Question;
use counter_seeds::{Rng, Seen};

/// Lines of a trace that are kept.
const TRACE: usize = 400;

/// How messages fare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// How long the others take at most, in milliseconds.
    pub(super) delay_ms: u64,
    /// Lost, in a thousand.
    pub(super) loss: u64,
    /// Very late, in a thousand.
    pub(super) slow: u64,
}

/// See the module's text.
pub(super) struct Network {
    began: Instant,
    pub(super) bug: Option<Bug>,
    pub(super) nodes: Vec<NodeName>,
    state: Mutex<State>,
}

struct State {
    rng: Rng,
    weather: Weather,
    /// The processes that are there, by the names of their nodes.
    up: BTreeMap<NodeName, Arc<Process>>,
    /// The starts of those that are there no more.
    dead: BTreeSet<u64>,
    /// Starts that stand still, and until when.
    stalled: BTreeMap<u64, Instant>,
    /// Ways on which nothing arrives, and until when.
    cut: BTreeMap<(NodeName, NodeName), Instant>,
    seen: Seen,
    trace: Option<VecDeque<String>>,
}

impl Network {
    pub(super) fn new(seed: u64, nodes: usize, bug: Option<Bug>, traced: bool) -> Arc<Self> {
        let state = State {
            rng: Rng::new(seed ^ 0x4E45_5457),
            weather: Weather { delay_ms: 1, loss: 0, slow: 0 },
            up: BTreeMap::new(),
            dead: BTreeSet::new(),
            stalled: BTreeMap::new(),
            cut: BTreeMap::new(),
            seen: Seen::new(),
            trace: traced.then(VecDeque::new),
        };
        let nodes = (0..nodes).map(|node| NodeName::from(format!("n{node}").as_str())).collect();
        Arc::new(Self { began: Instant::now(), bug, nodes, state: Mutex::new(state) })
    }

    pub(super) fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    pub(super) fn note(&self, line: impl FnOnce() -> String) {
        let now_ms = self.now_ms();
        if let Some(trace) = &mut lock(&self.state).trace {
            if trace.len() == TRACE {
                trace.pop_front();
            }
            trace.push_back(format!("{now_ms:>6} {}", line()));
        }
    }

    pub(super) fn trace(&self) -> String {
        let state = lock(&self.state);
        state.trace.iter().flatten().map(|line| format!("{line}\n")).collect()
    }

    pub(super) fn met(&self, what: &'static str) {
        *lock(&self.state).seen.entry(what).or_default() += 1;
    }

    pub(super) fn seen(&self) -> Seen {
        lock(&self.state).seen.clone()
    }

    pub(super) fn random_ms(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(lock(&self.state).rng.range(low, high))
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        lock(&self.state).weather = weather;
    }

    pub(super) fn begins(&self, process: &Arc<Process>) {
        self.note(|| format!("{} begins as {}", process.node, process.start));
        lock(&self.state).up.insert(process.node.clone(), process.clone());
    }

    pub(super) fn ends(&self, process: &Process) {
        self.note(|| format!("{} has ended as {}", process.node, process.start));
        let mut state = lock(&self.state);
        state.up.retain(|_, other| other.start != process.start);
        state.dead.insert(process.start);
    }

    pub(super) fn up(&self) -> Vec<Arc<Process>> {
        lock(&self.state).up.values().cloned().collect()
    }

    pub(super) fn process(&self, node: &NodeName) -> Option<Arc<Process>> {
        lock(&self.state).up.get(node).cloned()
    }

    pub(super) fn stall(&self, start: u64, time: Duration) {
        self.note(|| format!("{start} stands still for {time:?}"));
        lock(&self.state).stalled.insert(start, Instant::now() + time);
    }

    pub(super) fn cut(&self, from: &NodeName, to: &NodeName, time: Duration) {
        self.note(|| format!("nothing arrives from {from} at {to} for {time:?}"));
        lock(&self.state).cut.insert((from.clone(), to.clone()), Instant::now() + time);
    }

    /// All faults are over, but for what they have left behind.
    pub(super) fn heal(&self) {
        self.note(|| "all faults end".to_owned());
        let mut state = lock(&self.state);
        (state.weather.loss, state.weather.slow) = (0, 0);
        state.cut.clear();
        // Whoever stands still wakes up by itself, soon.
        let soon = Instant::now() + Duration::from_millis(10);
        state.stalled.values_mut().for_each(|until| *until = soon.min(*until));
    }

    pub(super) fn is_awake(&self, start: u64) -> bool {
        let state = lock(&self.state);
        !state.dead.contains(&start) && state.stalled.get(&start).is_none_or(|until| *until <= Instant::now())
    }

    /// Waits until the process runs; for ever if it runs no more.
    pub(super) async fn awake(&self, start: u64) {
        while !self.is_awake(start) {
            let (is_dead, until) = {
                let state = lock(&self.state);
                (state.dead.contains(&start), state.stalled.get(&start).copied())
            };
            match until.filter(|_| !is_dead) {
                // A heal ends it earlier.
                Some(until) => sleep_until(until.min(Instant::now() + Duration::from_millis(100))).await,
                None => std::future::pending().await,
            }
        }
    }

    /// What comes of a client's wait for a process; none when that has ended, which breaks the client's connection.
    pub(super) async fn while_alive<T>(&self, start: u64, work: impl Future<Output = T>) -> Option<T> {
        let ended = async {
            while !lock(&self.state).dead.contains(&start) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = ended => None,
        }
    }

    /// Runs a process's work while the process runs.
    pub(super) async fn live(&self, start: u64, work: impl Future<Output = ()>) {
        let mut work = std::pin::pin!(work);
        loop {
            self.awake(start).await;
            let step = std::future::poll_fn(|cx| match self.is_awake(start) {
                true => work.as_mut().poll(cx).map(|()| true),
                false => std::task::Poll::Ready(false),
            });
            if step.await {
                return;
            }
        }
    }

    /// Waits until what is sent now has arrived. Returns whether it has.
    pub(super) async fn carry(&self, from: &NodeName, to: &NodeName) -> bool {
        let delay = {
            let State { rng, weather, .. } = &mut *lock(&self.state);
            let high_ms = if rng.per_mille(weather.slow) { 3_000 } else { weather.delay_ms };
            (!rng.per_mille(weather.loss)).then(|| Duration::from_millis(rng.range(1, high_ms)))
        };
        let Some(delay) = delay else {
            self.met("a message is lost");
            return false;
        };
        sleep(delay).await;
        let cut = lock(&self.state).cut.get(&(from.clone(), to.clone())).copied();
        cut.is_none_or(|until| until <= Instant::now())
    }

    /// Asks a node. What is dropped is no answer ever; None is one at once.
    async fn ask(
        self: Arc<Self>,
        from: (NodeName, u64),
        to: NodeName,
        what: (String, Vec<u8>),
        answer: oneshot::Sender<Option<Vec<u8>>>,
    ) {
        let ((node, start), (path, body)) = (from, what);
        if !self.carry(&node, &to).await {
            return;
        }
        let mut said = None;
        if let Some(process) = self.process(&to) {
            self.awake(process.start).await;
            said = process.answer(start, &path, &body).await;
            self.awake(process.start).await;
        }
        if self.carry(&to, &node).await && answer.send(said).is_err() {
            self.note(|| format!("an answer of {to} comes too late for {start}"));
            self.met("an answer comes too late");
        }
    }
}

/// The way of one process to the others.
pub(super) struct Port {
    pub(super) network: Arc<Network>,
    pub(super) me: NodeName,
    pub(super) start: u64,
}

impl Reach for Port {
    fn me(&self) -> &NodeName {
        &self.me
    }

    fn nodes(&self) -> Option<Vec<NodeName>> {
        Some(self.network.nodes.clone())
    }

    async fn reach<B, A>(&self, to: &NodeName, Question { path, body, time }: Question<'_, B>) -> Option<A>
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send,
    {
        let body = postcard::to_stdvec(&body).ok()?;
        self.network.awake(self.start).await;
        let (answer, answered) = oneshot::channel();
        let from = (self.me.clone(), self.start);
        tokio::spawn(self.network.clone().ask(from, to.clone(), (path.to_owned(), body), answer));
        let answered = async {
            match answered.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        };
        let answer = timeout(time, answered).await.ok().flatten();
        self.network.awake(self.start).await;
        postcard::from_bytes(&answer?).ok()
    }
}
