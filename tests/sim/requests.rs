//! From a client's request to its outcome: here, or by forwarding.

use counter_core::counter::{Key, Update};
use counter_core::forward::{
    Answer, Ask, Attempt, Failure, ForwardEffect, ForwardReply, ForwardRequest, ItemResult, MessageId, NotApplied, Operation,
    Outcome, ReadItem, Received, Ticket, UpdateItem,
};
use counter_core::id::NodeName;

use crate::bugs::Bug;
use crate::events::Event;
use crate::ledger::amount;
use crate::process::{ForwardWaiter, Waiter};
use crate::world::{FIRST_READ, World};

/// What applying one update has come to so far.
enum Applied {
    Queued,
    Result(ItemResult),
}

impl World {
    /// A client's update.
    pub(crate) fn ask(&mut self, node: usize, request: u64, key: usize, attempt: Attempt) {
        let key = self.ledger.keys[key].clone();
        let Some(process) = &mut self.nodes[node].process else { return };
        process.pending.insert(request);
        if process.stopping_ms.is_some() {
            return self.not_ready(node, request);
        }
        self.route(node, request, key, attempt);
        self.step(node, |_, _| Vec::new());
    }

    fn route(&mut self, node: usize, request: u64, key: Key, attempt: Attempt) {
        let held = &self.nodes[node];
        let serves = held.process.as_ref().is_some_and(|process| process.serves(&held.name, key.slot()));
        if serves {
            match self.apply(node, &key, attempt) {
                (result, Applied::Queued) => {
                    return self.await_commit(node, Waiter::Client { request }, vec![result]);
                }
                // A sibling may be able to, or the slot has just moved.
                (_, Applied::Result(ItemResult::NotApplied(_))) => {}
                (_, Applied::Result(result)) => return self.complete(node, request, attempt.told(Outcome::from(result))),
            }
        }
        let now_ms = self.now_ms;
        let Some(process) = &mut self.nodes[node].process else { return };
        process.forwarder.submit(process.monotonic_ms(now_ms), key, attempt, Ticket(request));
    }

    /// Applies in memory, and queues what is to be written.
    fn apply(&mut self, node: usize, key: &Key, attempt: Attempt) -> (ItemResult, Applied) {
        let Attempt { update, token, .. } = attempt;
        let number = self.ledger.number_of(key);
        let held = &mut self.nodes[node];
        let Some(process) = &mut held.process else { return refused(NotApplied::NotReady) };
        if !process.writable {
            return refused(NotApplied::ReadOnly);
        }
        let now = process.now(self.now_ms, held.wall_offset_ms);
        let clock = process.tick_clock(now);
        match process.table.apply(key, update, token.as_ref(), clock) {
            Ok(applied) if applied.replayed && self.bug == Some(Bug::ReplayBeforeDurable) => {
                let result = ItemResult::Replayed(applied.reading);
                (result, Applied::Result(result))
            }
            Ok(applied) if applied.changed => {
                process.queued.keys.insert(key.clone());
                process.queued.own.push(key.clone());
                if applied.replayed {
                    self.note(if update == Update::Reset { "reset replayed" } else { "update replayed" });
                    return (ItemResult::Replayed(applied.reading), Applied::Queued);
                }
                process.queued.applied.extend(amount(update).map(|added| (number, added)));
                let by = process.table.slot(key.slot()).writer();
                self.trace(|| format!("node {node} applies {update:?} to page-{number} as {by:?}"));
                (ItemResult::Done(applied.reading), Applied::Queued)
            }
            Ok(applied) => (ItemResult::Done(applied.reading), Applied::Result(ItemResult::Done(applied.reading))),
            Err(refusal) => (refusal.into(), Applied::Result(refusal.into())),
        }
    }

    fn await_commit(&mut self, node: usize, waiter: Waiter, results: Vec<ItemResult>) {
        let waiter = match waiter {
            Waiter::Client { .. } => waiter,
            Waiter::Forward(forward) => Waiter::Forward(ForwardWaiter { results, ..forward }),
        };
        if self.bug == Some(Bug::AckBeforeDurable) {
            return self.answer(node, waiter, true);
        }
        if let Some(process) = &mut self.nodes[node].process {
            process.queued.waiters.push(waiter);
        }
    }

    /// The commit is over.
    pub(crate) fn answer(&mut self, node: usize, waiter: Waiter, durable: bool) {
        match waiter {
            Waiter::Client { request } => {
                let reading = counter_core::vector::Reading::UNKNOWN;
                self.complete(node, request, if durable { Outcome::Done(reading) } else { Outcome::Unknown });
            }
            Waiter::Forward(mut waiter) => {
                if !durable {
                    let done = |result: &&mut ItemResult| matches!(result, ItemResult::Done(_) | ItemResult::Replayed(_));
                    waiter.results.iter_mut().filter(done).for_each(|result| *result = ItemResult::Unknown);
                }
                let Some(process) = &mut self.nodes[node].process else { return };
                let answer = process.inbox.finish(waiter.forwarder, waiter.session, waiter.message, waiter.results.clone());
                self.reply(node, &waiter, answer);
            }
        }
    }

    fn reply(&mut self, node: usize, waiter: &ForwardWaiter, answer: Answer) {
        let Some(process) = &self.nodes[node].process else { return };
        let layout = process.replica.layout().filter(|layout| layout.version > waiter.newer_than);
        let layout = layout.map(|layout| Box::new(layout.as_ref().clone()));
        let reply = ForwardReply { message: waiter.message, layout, answer };
        let (to, process) = (waiter.from, waiter.from_process);
        if self.network.cut.contains(&(node, to)) || self.rng.per_mille(self.network.loss) {
            return self.lose(to, process, waiter.message);
        }
        let at_ms = self.now_ms + self.delay_ms();
        self.events.at(at_ms, Event::ForwardReplies { to, process, reply });
    }

    /// Some losses are noticed, as a connection that ends; of others only time tells.
    fn lose(&mut self, to: usize, process: u64, message: MessageId) {
        if self.rng.per_mille(600) {
            let failure = if self.bug == Some(Bug::UnknownRetriedElsewhere) { Failure::NotSent } else { Failure::Lost };
            let at_ms = self.now_ms + self.rng.range(1, 300);
            self.events.at(at_ms, Event::ForwardFails { to, process, message, failure });
        }
    }

    pub(crate) fn pump_forwarder(&mut self, node: usize) {
        // Each round may submit again what could not be done here; that then waits for its time.
        for _ in 0..4 {
            let now_ms = self.now_ms;
            let Some(process) = &mut self.nodes[node].process else { return };
            let number = process.number;
            let effects = process.forwarder.poll(process.monotonic_ms(now_ms));
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    ForwardEffect::Send { to, request } => self.forward((node, number), &to, request),
                    ForwardEffect::Complete { ticket, outcome } => self.complete(node, ticket.0, outcome),
                    ForwardEffect::Local { ticket, key, operation } => self.locally(node, ticket, key, operation),
                }
            }
        }
        self.begin_commit(node);
    }

    fn locally(&mut self, node: usize, ticket: Ticket, key: Key, operation: Operation) {
        let Some(process) = &self.nodes[node].process else { return };
        match operation {
            Operation::Update(attempt) => self.route(node, ticket.0, key, attempt),
            Operation::Read => {
                let reading = process.table.read(&key);
                self.complete(node, ticket.0, Outcome::Done(reading));
            }
        }
    }

    fn forward(&mut self, (from, from_process): (usize, u64), to: &NodeName, request: ForwardRequest) {
        let target = self.names[to];
        let message = request.message;
        let unsent = match &self.nodes[target].process {
            None => true,
            Some(_) => self.network.cut.contains(&(from, target)) && self.rng.per_mille(500),
        };
        if unsent {
            let at_ms = self.now_ms + self.rng.range(1, 50);
            let failure = Failure::NotSent;
            return self.events.at(at_ms, Event::ForwardFails { to: from, process: from_process, message, failure });
        }
        if self.network.cut.contains(&(from, target)) || self.rng.per_mille(self.network.loss) {
            return self.lose(from, from_process, message);
        }
        let Some(process) = self.nodes[target].process.as_ref().map(|process| process.number) else { return };
        let repeats = 1 + u64::from(self.rng.per_mille(self.network.repeat));
        for _ in 0..repeats {
            let at_ms = self.now_ms + self.delay_ms();
            let request = request.clone();
            self.events.at(at_ms, Event::ForwardArrives { to: target, process, from, from_process, request });
        }
    }

    pub(crate) fn forward_arrives(
        &mut self,
        to: usize,
        number: u64,
        (from, from_process): (usize, u64),
        request: ForwardRequest,
    ) {
        if self.process(to, number).is_none() {
            // The connection ended with the process.
            return self.lose(from, from_process, request.message);
        }
        let asked = request.clone();
        let Some(process) = &mut self.nodes[to].process else { return };
        let received = match process.inbox.receive(request) {
            Received::Answer(Answer::InProgress | Answer::Results(_)) if self.bug == Some(Bug::InboxForgets) => {
                apply_again(&asked)
            }
            received => received,
        };
        let session = match &asked.ask {
            Ask::Apply { session, .. } => *session,
            Ask::Open | Ask::Read { .. } => counter_core::forward::Session { inbox: asked.forwarder, number: 0 },
        };
        let waiter = ForwardWaiter {
            from,
            from_process,
            forwarder: asked.forwarder,
            session,
            message: asked.message,
            newer_than: asked.layout,
            results: Vec::new(),
        };
        match received {
            Received::Answer(answer) => {
                self.note(match &answer {
                    Answer::Opened(_) => "session opened",
                    Answer::InProgress => "repeated message in progress",
                    Answer::Results(_) => "repeated message answered again",
                    Answer::Forgotten => "message of a forgotten session or below the floor",
                });
                self.reply(to, &waiter, answer);
            }
            Received::Read { reads } => {
                let results = reads.iter().map(|read| self.read(to, read)).collect();
                self.reply(to, &waiter, Answer::Results(results));
            }
            Received::Apply { updates, .. } => {
                let (mut results, mut queued) = (Vec::new(), false);
                for UpdateItem { key, update, token, .. } in &updates {
                    let (result, applied) = self.apply_forwarded(to, key, Attempt::new(*update, *token));
                    results.push(result);
                    queued |= matches!(applied, Applied::Queued);
                }
                if queued {
                    self.await_commit(to, Waiter::Forward(waiter), results);
                } else {
                    self.answer(to, Waiter::Forward(ForwardWaiter { results, ..waiter }), true);
                }
            }
        }
        self.step(to, |_, _| Vec::new());
    }

    fn apply_forwarded(&mut self, node: usize, key: &Key, attempt: Attempt) -> (ItemResult, Applied) {
        let held = &self.nodes[node];
        match &held.process {
            Some(process) if process.serves(&held.name, key.slot()) => self.apply(node, key, attempt),
            Some(process) if process.is_ready() => refused(NotApplied::NotOwner),
            Some(_) | None => refused(NotApplied::NotReady),
        }
    }

    fn read(&self, node: usize, ReadItem { key, marks }: &ReadItem) -> ItemResult {
        let held = &self.nodes[node];
        match &held.process {
            Some(process) if process.serves(&held.name, key.slot()) && !process.table.has_seen(key, marks) => {
                ItemResult::NotApplied(NotApplied::Behind)
            }
            Some(process) if process.serves(&held.name, key.slot()) => ItemResult::Done(process.table.read(key)),
            Some(_) | None => ItemResult::NotApplied(NotApplied::NotOwner),
        }
    }

    pub(crate) fn forward_replies(&mut self, to: usize, number: u64, mut reply: ForwardReply) {
        if self.process(to, number).is_none() {
            return;
        }
        if let Some(layout) = reply.layout.take() {
            self.layout_arrives(to, *layout);
        }
        let now_ms = self.now_ms;
        self.step(to, |process, _| {
            process.forwarder.handle_reply(process.monotonic_ms(now_ms), reply);
            Vec::new()
        });
    }

    pub(crate) fn forward_fails(&mut self, to: usize, number: u64, message: MessageId, failure: Failure) {
        if self.process(to, number).is_none() {
            return;
        }
        let now_ms = self.now_ms;
        self.step(to, |process, _| {
            process.forwarder.handle_failure(process.monotonic_ms(now_ms), message, failure);
            Vec::new()
        });
    }

    /// Has each node read each key, its own from its table. Returns the tickets.
    pub(crate) fn read_everywhere(&mut self) -> Vec<(u64, usize, usize)> {
        let mut asked = Vec::new();
        for node in 0..self.nodes.len() {
            for key in 0..self.ledger.keys.len() {
                let counter = self.ledger.keys[key].clone();
                let Node { name, process: Some(process), .. } = &mut self.nodes[node] else { continue };
                if !process.is_ready() {
                    continue;
                }
                let ticket = FIRST_READ + u64::try_from(asked.len()).unwrap();
                asked.push((ticket, node, key));
                if process.serves(name, counter.slot()) {
                    let reading = process.table.read(&counter);
                    self.complete(node, ticket, Outcome::Done(reading));
                } else {
                    process.forwarder.submit_read(process.monotonic_ms(self.now_ms), counter, Ticket(ticket));
                }
            }
            self.step(node, |_, _| Vec::new());
        }
        asked
    }
}

use crate::process::Node;

fn refused(reason: NotApplied) -> (ItemResult, Applied) {
    let result = ItemResult::NotApplied(reason);
    (result, Applied::Result(result))
}

fn apply_again(request: &ForwardRequest) -> Received {
    match &request.ask {
        Ask::Apply { session, updates, .. } => {
            Received::Apply { session: *session, message: request.message, updates: updates.clone() }
        }
        Ask::Open | Ask::Read { .. } => Received::Answer(Answer::InProgress),
    }
}
