//! What takes a node several steps, by the product's own code: `counter_node::unread` and `Shards`, by which it asks the shards. Each is a
//! task. It orders what is to be sent or applied, goes on when that has come to something, and ends with its process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use counter_core::counter::{Key, Update};
use counter_core::forward::{Attempt, NotApplied};
use counter_core::id::{ClusterId, NodeName};
use counter_core::vector::Bounds;
use counter_node::http::Backend;
use counter_node::members::Reach;
use counter_node::overview::ClusterOverview;
use counter_node::own_writes::OwnWrites;
use counter_node::peers::Question;
use counter_node::protocol::View;
use counter_node::router::{Detailed, Failure, Reading, Write};
use counter_node::top;
use counter_node::unread::shards::{Answer, Ask, Shards, Way};
use futures::channel::oneshot;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bugs::Bug;
use crate::events::Event;
use crate::ledger::Told;
use crate::unread::{About, Done};
use crate::world::World;

/// What a task wants of the world.
enum Order {
    Ask { to: NodeName, body: Vec<u8>, time_ms: u64, answer: oneshot::Sender<Option<Vec<u8>>> },
    Update { key: Key, update: Update, told: oneshot::Sender<Told> },
}

/// Where a task leaves its orders; what is applied for it, it orders here.
#[derive(Clone, Default)]
pub(crate) struct Desk(Arc<Mutex<Vec<Order>>>);

/// A process's way to the other nodes, for one task.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) me: NodeName,
    pub(crate) view: Arc<Mutex<Arc<View>>>,
    pub(crate) desk: Desk,
}

struct Task {
    node: usize,
    process: u64,
    about: About,
    desk: Desk,
    future: BoxFuture<'static, Done>,
}

/// A question that has no answer yet.
struct Asked {
    task: u64,
    /// All that may know something are asked.
    is_for_all: bool,
    answer: oneshot::Sender<Option<Vec<u8>>>,
}

/// All tasks.
#[derive(Default)]
pub(crate) struct Tasks {
    running: BTreeMap<u64, Task>,
    asked: BTreeMap<u64, Asked>,
    /// By the numbers of requests.
    updates: BTreeMap<u64, (u64, oneshot::Sender<Told>)>,
    /// Of tasks and questions.
    numbers: u64,
}

impl Tasks {
    pub(crate) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
}

impl World {
    /// Begins a task at a node, if its process runs.
    pub(crate) fn begin_task(
        &mut self,
        node: usize,
        about: About,
        task: impl FnOnce(Shards<Port>, Desk) -> BoxFuture<'static, Done>,
    ) {
        let held = &self.nodes[node];
        let Some(process) = &held.process else { return self.task_dropped(about) };
        let desk = Desk::default();
        let future = task(process.shards(&held.name, desk.clone()), desk.clone());
        let number = self.tasks.number();
        let process = process.number;
        self.tasks.running.insert(number, Task { node, process, about, desk, future });
        self.go_on(number);
    }

    /// What a task waits for may have come.
    pub(crate) fn go_on(&mut self, number: u64) {
        let Some(task) = self.tasks.running.get_mut(&number) else { return };
        let (node, about) = (task.node, task.about);
        let held = &self.nodes[node];
        if let Some(process) = &held.process {
            process.see(&held.name);
        }
        let polled = task.future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let orders = std::mem::take(&mut *task.desk.0.lock().unwrap());
        if polled.is_ready() {
            self.tasks.running.remove(&number);
        }
        self.take_heard(node, about);
        for order in orders {
            self.fill(number, (node, about), order);
        }
        if let Poll::Ready(done) = polled {
            self.task_done(node, about, done);
        }
    }

    /// The tasks of a process end with it.
    pub(crate) fn drop_tasks(&mut self, process: u64) {
        let (of_process, others) =
            std::mem::take(&mut self.tasks.running).into_iter().partition(|(_, task)| task.process == process);
        self.tasks.running = others;
        let of_process: BTreeMap<u64, Task> = of_process;
        for task in of_process.into_values() {
            self.task_dropped(task.about);
        }
    }

    fn fill(&mut self, task: u64, (node, about): (usize, About), order: Order) {
        match order {
            Order::Ask { to, body, time_ms, answer } => {
                let ask: Ask = postcard::from_bytes(&body).unwrap();
                let is_left_out = self.is_left_out(node, (task, &ask));
                let is_for_all = matches!(ask, Ask::Copy(_) | Ask::Standing(_)) && !is_left_out;
                let question = self.tasks.number();
                self.tasks.asked.insert(question, Asked { task, is_for_all, answer });
                if is_left_out {
                    return self.events.at(self.now_ms, Event::Answered { question, answer: None });
                }
                self.events.at(self.now_ms + time_ms, Event::Answered { question, answer: None });
                let to = self.names[&to];
                self.carry(node, to, || Event::Asked { from: node, to, question, ask: ask.clone() });
            }
            Order::Update { key, update, told } => {
                if self.raises_nothing(about, update) {
                    let _ = told.send(Told::Acknowledged);
                    self.events.at(self.now_ms, Event::GoOn { task });
                } else {
                    let key = self.ledger.number_of(&key);
                    let request = self.ledger.ask(self.now_ms, key, update, None);
                    self.raised(about, update, request);
                    self.tasks.updates.insert(request, (task, told));
                    self.ask(node, request, key, Attempt::new(update, None));
                }
            }
        }
    }

    /// The planted bugs of who hears one replica only: itself, or the first that is asked.
    fn is_left_out(&self, node: usize, (task, ask): (u64, &Ask)) -> bool {
        let key = match (ask, self.bug) {
            (Ask::Standing(key), Some(Bug::OneOfUserHeard)) | (Ask::Copy(key), Some(Bug::OneOfPageHeard)) => key,
            _ => return false,
        };
        self.is_replica(node, key.slot()) || self.tasks.asked.values().any(|asked| asked.task == task && asked.is_for_all)
    }

    /// Has something arrive once, twice, or not at all.
    pub(crate) fn carry(&mut self, from: usize, to: usize, event: impl Fn() -> Event) {
        let repeats = 1 + u64::from(self.rng.per_mille(self.network.repeat));
        for _ in 0..repeats {
            if self.network.cut.contains(&(from, to)) || self.rng.per_mille(self.network.loss) {
                continue;
            }
            let at_ms = self.now_ms + self.delay_ms();
            self.events.at(at_ms, event());
        }
    }

    /// A node is asked something. One that does not run refuses the connection.
    pub(crate) fn asked(&mut self, (from, to): (usize, usize), question: u64, ask: &Ask) {
        let held = &self.nodes[to];
        let answer = held.process.as_ref().map(|process| {
            process.see(&held.name);
            postcard::to_stdvec(&process.shards(&held.name, Desk::default()).here(ask)).unwrap()
        });
        if self.network.cut.contains(&(to, from)) || self.rng.per_mille(self.network.loss) {
            return;
        }
        let at_ms = self.now_ms + self.delay_ms();
        self.events.at(at_ms, Event::Answered { question, answer });
    }

    pub(crate) fn question_answered(&mut self, question: u64, answer: Option<Vec<u8>>) {
        let Some(Asked { task, is_for_all, answer: waiting }) = self.tasks.asked.remove(&question) else { return };
        let said = answer.as_ref().map(|bytes| postcard::from_bytes::<Result<Answer, NotApplied>>(bytes).unwrap());
        if let Some(about) = self.tasks.running.get(&task).map(|task| task.about).filter(|_| is_for_all) {
            match said {
                Some(Ok(Answer::Copy(copy))) => self.copy_heard(about, copy.generation),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => self.not_all_heard(about),
            }
        }
        drop(waiting.send(answer));
        self.go_on(task);
    }

    /// A client's request has been answered: a task's, perhaps.
    pub(crate) fn update_told(&mut self, request: u64, told: Told) {
        if let Some((task, waiting)) = self.tasks.updates.remove(&request) {
            let _ = waiting.send(told);
            self.events.at(self.now_ms, Event::GoOn { task });
        }
    }
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Reach for Port {
    fn me(&self) -> &NodeName {
        &self.me
    }

    fn nodes(&self) -> Option<Vec<NodeName>> {
        let view = self.view();
        view.routes.as_ref().map(|routes| routes.layout.nodes().map(|node| node.name.clone()).collect())
    }

    async fn reach<B, A>(&self, to: &NodeName, Question { body, time, .. }: Question<'_, B>) -> Option<A>
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send,
    {
        let (answer, answered) = oneshot::channel();
        let body = postcard::to_stdvec(&body).unwrap();
        let time_ms = u64::try_from(time.as_millis()).unwrap();
        self.desk.0.lock().unwrap().push(Order::Ask { to: to.clone(), body, time_ms, answer });
        postcard::from_bytes(&answered.await.ok().flatten()?).ok()
    }
}

impl Way for Port {
    fn view(&self) -> Arc<View> {
        self.view.lock().unwrap().clone()
    }
}

impl Backend for Desk {
    async fn update_after(&self, _: &OwnWrites, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        let update = Update::from(write.into().action);
        let (told, answered) = oneshot::channel();
        self.0.lock().unwrap().push(Order::Update { key, update, told });
        match answered.await {
            Ok(Told::Acknowledged) => Ok(Reading::default()),
            Ok(Told::NotApplied) => Err(Failure::NotApplied { reason: "not applied".to_owned(), retry_after_s: 1 }),
            _ => Err(Failure::OutcomeUnknown { reason: "no answer".to_owned() }),
        }
    }

    async fn read_after(&self, _: &OwnWrites, _: Key) -> Result<Reading, Failure> {
        unreachable!("no counter is read for a user")
    }

    async fn read_detailed_after(&self, _: &OwnWrites, _: Key) -> Result<Detailed, Failure> {
        unreachable!("no counter is read for a user")
    }

    async fn bounds(&self, _: Key, _: u32) -> Option<Bounds> {
        None
    }

    async fn update_many_after(&self, _: &OwnWrites, _: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        unreachable!("a user's changes come one by one")
    }

    async fn read_many_after(&self, _: &OwnWrites, _: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        unreachable!("no counter is read for a user")
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        unreachable!("no counter is read for a user")
    }

    async fn top(&self, _: &top::Asked) -> Result<(top::Busiest, Duration), Failure> {
        unreachable!("no counter is read for a user")
    }

    fn pages(&self, _: usize) -> Vec<Key> {
        Vec::new()
    }

    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        unreachable!("nobody looks at the cluster")
    }
}
