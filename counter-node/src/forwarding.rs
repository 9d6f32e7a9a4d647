//! Drives the forwarding protocol: what this node does not own goes to a replica that does, and what others forward is
//! applied here, once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::forward::{
    Answer, Failure, ForwardEffect, ForwardInbox, ForwardReply, ForwardRequest, Forwarder, ItemResult, Marked, NotApplied,
    Operation, Outcome, ReadItem, Received, Ticket, UpdateItem,
};
use counter_core::id::NodeName;
use counter_core::marks::Mark;
use foldhash::fast::RandomState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::lock::lock;
use crate::owner::Owner;
use crate::peers::{FORWARD_PATH, Peers, PostError};
use crate::protocol::Protocol;

/// How often the forwarder is told the time while something waits.
const TICK: Duration = Duration::from_millis(10);

/// What became of something submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    Outcome(Outcome),
    /// The slot has come to this node: do it here. What has become of it so far goes along.
    Here(Operation),
}

/// What forwarding stands on.
pub struct Parts {
    pub protocol: Arc<Protocol>,
    pub owner: Arc<Owner>,
    pub clock: Arc<Clock>,
    pub peers: Peers,
    pub forwarder: Forwarder,
    pub inbox: ForwardInbox,
}

/// Both sides of forwarding.
pub struct Forwarding {
    protocol: Arc<Protocol>,
    owner: Arc<Owner>,
    clock: Arc<Clock>,
    peers: Peers,
    myself: Weak<Self>,
    forwarder: Mutex<Forwarder>,
    inbox: Mutex<ForwardInbox>,
    waiting: Mutex<HashMap<Ticket, oneshot::Sender<Forwarded>, RandomState>>,
    tickets: AtomicU64,
    /// What is being applied for others, each message in a task of its own.
    applying: TaskTracker,
    closed: AtomicBool,
}

impl Forwarding {
    /// Forwarding that has nothing to do yet.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { protocol, owner, clock, peers, forwarder, inbox } = parts;
        Arc::new_cyclic(|myself| Self {
            protocol,
            owner,
            clock,
            peers,
            myself: myself.clone(),
            forwarder: Mutex::new(forwarder),
            inbox: Mutex::new(inbox),
            waiting: Mutex::default(),
            tickets: AtomicU64::new(0),
            applying: TaskTracker::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Has a counter updated or read by another node. Its limits of queue and time are the forwarder's.
    /// `marks`: of a client that keeps them.
    pub async fn submit(&self, key: Key, operation: Operation, marks: Option<Vec<Mark>>) -> Forwarded {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(ticket, sender);
        self.drive(|forwarder, now_ms| match (marks, operation) {
            (Some(marks), operation) => forwarder.submit_marked(now_ms, Marked { key, operation, marks }, ticket),
            (None, Operation::Update(attempt)) => forwarder.submit(now_ms, key, attempt, ticket),
            (None, Operation::Read) => forwarder.submit_read(now_ms, key, ticket),
        });
        // The sender goes only when the process ends, and then nobody is told anything any more.
        answer.await.unwrap_or(Forwarded::Outcome(Outcome::Unknown))
    }

    /// Applies nothing more for others, whose forwarders turn to another replica then, and waits for what it has begun. A
    /// node that stops must do so before it sees to it that its siblings have all of its changes.
    pub async fn close(&self, timeout: Duration) {
        self.closed.store(true, Ordering::SeqCst);
        self.applying.close();
        if tokio::time::timeout(timeout, self.applying.wait()).await.is_err() {
            tracing::warn!("stopping while forwarded updates are being applied");
        }
    }

    /// How many updates and reads wait for other nodes.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.waiting).len()
    }

    /// Tells the forwarder the time and new layouts until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stopped.run_until_cancelled(interval.tick()).await.is_some() {
            self.drive(|_, _| ());
        }
    }

    /// Answers a forwarded request.
    pub async fn answer(&self, request: ForwardRequest) -> ForwardReply {
        let (message, asked_under, forwarder) = (request.message, request.layout, request.forwarder);
        let received = lock(&self.inbox).receive(request);
        let answer = match received {
            Received::Answer(answer) => answer,
            Received::Read { reads } => Answer::Results(reads.iter().map(|read| self.read_here(read)).collect()),
            Received::Apply { session, message, updates } => {
                let (this, waits) = (self.myself.upgrade(), updates.len());
                // In a task of its own: should the connection break, what was begun still ends, and is remembered.
                let applied = self.applying.spawn(async move {
                    let this = this?;
                    let results = this.apply_here(updates).await;
                    Some(lock(&this.inbox).finish(forwarder, session, message, results))
                });
                let unknown = || Answer::Results(vec![ItemResult::Unknown; waits]);
                applied.await.ok().flatten().unwrap_or_else(unknown)
            }
        };
        let newer = self.protocol.view().routes.as_ref().map(|routes| routes.layout.clone());
        let layout = newer.filter(|layout| layout.version > asked_under).map(|layout| Box::new((*layout).clone()));
        ForwardReply { message, layout, answer }
    }

    async fn apply_here(&self, updates: Vec<UpdateItem>) -> Vec<ItemResult> {
        if self.closed.load(Ordering::SeqCst) || !self.protocol.is_serving() {
            return vec![ItemResult::NotApplied(NotApplied::NotReady); updates.len()];
        }
        self.owner.update_many(updates).await
    }

    /// At once: who has to wait for what a client has written would hold up all that came in the same message.
    fn read_here(&self, ReadItem { key, marks }: &ReadItem) -> ItemResult {
        if !self.protocol.is_serving() {
            return ItemResult::NotApplied(NotApplied::NotReady);
        }
        if !self.protocol.serves(key.slot()) {
            return ItemResult::NotApplied(NotApplied::NotOwner);
        }
        if !marks.is_empty() && !self.owner.table.has_seen(key, marks) {
            return ItemResult::NotApplied(NotApplied::Behind);
        }
        self.owner.read(key)
    }

    /// One step of the forwarder, and its effects.
    fn drive(&self, step: impl FnOnce(&mut Forwarder, u64)) {
        let now_ms = self.clock.now().monotonic_ms;
        let effects = {
            let mut forwarder = lock(&self.forwarder);
            if let Some(routes) = &self.protocol.view().routes {
                forwarder.handle_layout(now_ms, &routes.layout);
            }
            step(&mut forwarder, now_ms);
            forwarder.poll(now_ms)
        };
        for effect in effects {
            match effect {
                ForwardEffect::Send { to, request } => self.send(to, request),
                ForwardEffect::Complete { ticket, outcome } => self.complete(ticket, Forwarded::Outcome(outcome)),
                ForwardEffect::Local { ticket, operation, .. } => self.complete(ticket, Forwarded::Here(operation)),
            }
        }
    }

    fn complete(&self, ticket: Ticket, outcome: Forwarded) {
        let waits = lock(&self.waiting).remove(&ticket);
        if let Some(waits) = waits {
            // A client that has gone away does not want to know.
            let _ = waits.send(outcome);
        }
    }

    fn send(&self, to: NodeName, request: ForwardRequest) {
        let Some(this) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            let message = request.message;
            match this.post(&to, request).await {
                Ok(reply) => this.settle(&to, reply),
                Err(failure) => this.drive(|forwarder, now_ms| forwarder.handle_failure(now_ms, message, failure)),
            }
        });
    }

    fn settle(&self, to: &NodeName, reply: ForwardReply) {
        if let Some(layout) = &reply.layout
            && let Err(refused) = self.protocol.offer_layout((**layout).clone())
        {
            tracing::debug!(peer = %to, %refused, "a layout that came with a reply was not taken over");
        }
        self.drive(|forwarder, now_ms| forwarder.handle_reply(now_ms, reply));
    }

    async fn post(&self, to: &NodeName, request: ForwardRequest) -> Result<ForwardReply, Failure> {
        let view = self.protocol.view();
        let address = view.routes.as_ref().and_then(|routes| routes.layout.node(to)).map(|node| node.peer.clone());
        let Some(address) = address else { return Err(Failure::NotSent) };
        let answer = self.peers.post(&address, Some(to), FORWARD_PATH, request).await;
        answer.map(|envelope| envelope.body).map_err(|error| {
            tracing::debug!(peer = %to, %error, "a forwarded request was not answered");
            match error {
                // A refusal comes before the request is looked into.
                PostError::NotSent(_) | PostError::Refused(_) => Failure::NotSent,
                PostError::Lost(_) => Failure::Lost,
            }
        })
    }
}
