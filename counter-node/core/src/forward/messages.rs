//! The forwarder's messages: sending them, and settling what they carried by the rule of [`crate::forward`].

use super::forwarder::Forwarder;
use super::lane::{Content, LaneKind, Message, Opening, Pending, Phase};
use super::routes::TargetIndex;
use super::{
    Answer, Ask, Attempt, Failure, ForwardEffect, ForwardReply, ForwardRequest, ItemResult, MessageId, NotApplied, Operation,
    Outcome, ReadItem, Session, UpdateItem,
};

impl Forwarder {
    /// Sends what waits for `target`, as far as may be under way at once.
    pub(super) fn send_queued(&mut self, now_ms: u64, target: TargetIndex) {
        for kind in [LaneKind::Updates, LaneKind::Reads] {
            while self.next_turn_ms(target, kind).is_some_and(|turn_ms| turn_ms <= now_ms) {
                let content = match (kind, self.targets[target].session) {
                    (LaneKind::Reads, _) => Content::Reads { items: self.take_batch(target, kind) },
                    (LaneKind::Updates, Opening::Open(session)) => self.next_updates(target, session),
                    (LaneKind::Updates, Opening::Asked) => break,
                    (LaneKind::Updates, Opening::Closed) => {
                        self.targets[target].session = Opening::Asked;
                        Content::Open
                    }
                };
                self.send_new(now_ms, target, content);
            }
        }
    }

    /// When something is to be sent to the target in this lane.
    pub(super) fn next_turn_ms(&self, target: TargetIndex, kind: LaneKind) -> Option<u64> {
        let target = &self.targets[target];
        let is_opening = kind == LaneKind::Updates && target.session == Opening::Asked;
        if is_opening { None } else { target.lane(kind).next_turn_ms(&self.config) }
    }

    fn take_batch(&mut self, target: TargetIndex, kind: LaneKind) -> Vec<Pending> {
        let config = self.config;
        self.targets[target].lane_mut(kind).take_batch(&config)
    }

    fn next_updates(&mut self, target: TargetIndex, session: Session) -> Content {
        let items = self.take_batch(target, LaneKind::Updates);
        let updates = items.iter().filter_map(update_of).collect();
        Content::Updates { session, updates, items: items.into_iter().map(Some).collect() }
    }

    fn send_new(&mut self, now_ms: u64, target: TargetIndex, content: Content) {
        self.last_message = MessageId(self.last_message.0.saturating_add(1));
        let id = self.last_message;
        let lane = self.targets[target].lane_mut(content.lane());
        lane.in_flight.push(id);
        lane.last_sent = (now_ms, content.items());
        self.send(now_ms, id, Message { target, content, attempts: 0, copies: 0, due_ms: now_ms, phase: Phase::Waiting });
    }

    fn send(&mut self, now_ms: u64, id: MessageId, mut message: Message) {
        message.attempts = message.attempts.saturating_add(1);
        message.copies = message.copies.saturating_add(1);
        message.due_ms = now_ms.saturating_add(self.config.attempt_timeout_ms.max(1));
        message.phase = Phase::Sent;
        let target = &self.targets[message.target];
        let ask = match &message.content {
            Content::Open => Ask::Open,
            Content::Reads { items } => Ask::Read { reads: items.iter().map(read_of).collect() },
            Content::Updates { session, updates, .. } => {
                let floor = target.updates.in_flight.iter().min().copied().unwrap_or(id);
                Ask::Apply { session: *session, floor, updates: updates.clone() }
            }
        };
        let request = ForwardRequest { forwarder: self.identity, message: id, layout: self.layout_version(), ask };
        self.effects.push(ForwardEffect::Send { to: target.name.clone(), request });
        self.messages.insert(id, message);
    }

    /// Takes a reply in. One to a message that is settled already is ignored.
    pub fn handle_reply(&mut self, now_ms: u64, reply: ForwardReply) {
        let Some(message) = self.messages.get(&reply.message) else { return };
        match (reply.answer, &message.content) {
            (Answer::Opened(session), Content::Open) => self.opened(reply.message, session),
            (Answer::Results(results), Content::Updates { .. } | Content::Reads { .. }) => {
                self.settle(now_ms, reply.message, &results);
            }
            (Answer::InProgress, Content::Updates { .. }) => self.wait(now_ms, reply.message),
            (Answer::Forgotten, Content::Updates { .. }) => self.forgotten(now_ms, reply.message),
            // No answer to what was asked: as good as none.
            (Answer::Opened(_) | Answer::Results(_) | Answer::InProgress | Answer::Forgotten, _) => {
                self.handle_failure(now_ms, reply.message, Failure::Lost);
            }
        }
    }

    /// Takes in that a request has brought no reply. Of a message that is settled already it is ignored.
    pub fn handle_failure(&mut self, now_ms: u64, id: MessageId, failure: Failure) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        if failure == Failure::NotSent {
            message.copies = message.copies.saturating_sub(1);
        }
        let (target, kind, copies) = (message.target, message.content.lane(), message.copies);
        let repeatable = copies > 0 && matches!(message.content, Content::Updates { .. });
        if repeatable {
            self.repeat(now_ms, id);
        } else {
            self.withdraw(now_ms, id, NotApplied::Unreachable);
        }
        self.avoid(now_ms, target, kind);
    }

    /// Sends again what has gone unanswered, and repeats what is due.
    pub(super) fn poll_messages(&mut self, now_ms: u64) {
        let due = |(id, message): (&MessageId, &Message)| (message.due_ms <= now_ms).then_some((*id, message.phase));
        let due: Vec<(MessageId, Phase)> = self.messages.iter().filter_map(due).collect();
        for (id, phase) in due {
            match phase {
                Phase::Sent => self.handle_failure(now_ms, id, Failure::Lost),
                Phase::Waiting => {
                    if let Some(message) = self.messages.remove(&id) {
                        self.send(now_ms, id, message);
                    }
                }
            }
        }
    }

    /// An update may have arrived: only the same process may be asked again, under the same id.
    fn repeat(&mut self, now_ms: u64, id: MessageId) {
        match self.messages.get_mut(&id) {
            Some(message) if message.attempts < self.config.attempts_max => {
                message.phase = Phase::Waiting;
                message.due_ms = now_ms.saturating_add(self.config.retry_ms.max(1));
            }
            _ => self.give_up(now_ms, id),
        }
    }

    /// Being worked on is no failure: the question costs no attempt, only time.
    fn wait(&mut self, now_ms: u64, id: MessageId) {
        if let Some(message) = self.messages.get_mut(&id) {
            message.attempts = message.attempts.saturating_sub(1);
            message.phase = Phase::Waiting;
            message.due_ms = now_ms.saturating_add(self.config.retry_ms.max(1));
        }
    }

    fn opened(&mut self, id: MessageId, session: Session) {
        if let Some(message) = self.take(id) {
            self.targets[message.target].session = Opening::Open(session);
        }
    }

    /// The process there is another one, or has forgotten us. If this was the only copy, nothing has been applied.
    fn forgotten(&mut self, now_ms: u64, id: MessageId) {
        let Some(Message { target, content: Content::Updates { session, .. }, copies, .. }) = self.messages.get(&id) else {
            return;
        };
        let (target, only_copy) = (*target, *copies <= 1);
        if self.targets[target].session == Opening::Open(*session) {
            self.targets[target].session = Opening::Closed;
        }
        if !only_copy {
            return self.give_up(now_ms, id);
        }
        let Some(message) = self.take(id) else { return };
        for mut item in message.into_items() {
            item.reason = NotApplied::NotReady;
            self.route(now_ms, item);
        }
    }

    /// Nothing of the message has been applied, or all of it are reads: each item goes to another replica.
    fn withdraw(&mut self, now_ms: u64, id: MessageId, reason: NotApplied) {
        let Some(message) = self.take(id) else { return };
        let target = message.target;
        if matches!(message.content, Content::Open) {
            self.targets[target].session = Opening::Closed;
            // It was asked for what is queued: that is what must go elsewhere.
            for item in std::mem::take(&mut self.targets[target].updates.queue) {
                self.route_past(now_ms, target, reason, item);
            }
        }
        for item in message.into_items() {
            self.route_past(now_ms, target, reason, item);
        }
    }

    fn give_up(&mut self, now_ms: u64, id: MessageId) {
        let Some(message) = self.take(id) else { return };
        let target = message.target;
        for item in message.into_items() {
            self.route_unknown(now_ms, target, item);
        }
    }

    fn settle(&mut self, now_ms: u64, id: MessageId, results: &[ItemResult]) {
        let Some(message) = self.take(id) else { return };
        let (target, kind) = (message.target, message.content.lane());
        let mut refusing = false;
        for (index, item) in message.into_indexed_items() {
            // A reply that is too short is a fault over there, and what became of the rest cannot be known.
            match results.get(index).copied().unwrap_or(ItemResult::Unknown) {
                ItemResult::Done(reading) => self.finish(&item, Outcome::Done(reading)),
                ItemResult::Replayed(reading) => self.finish(&item, Outcome::Replayed(reading)),
                ItemResult::Marked { reading, replayed, mark } => {
                    self.finish(&item, Outcome::Marked { reading, replayed, mark });
                }
                ItemResult::Refused(refusal) => self.finish(&item, Outcome::Refused(refusal)),
                ItemResult::Unknown if item.operation == Operation::Read => {
                    self.route_past(now_ms, target, NotApplied::NotReady, item);
                }
                ItemResult::Unknown => self.route_unknown(now_ms, target, item),
                ItemResult::NotApplied(reason) => {
                    // One that has not seen a client's marks serves everyone else.
                    refusing |= !matches!(reason, NotApplied::NotOwner | NotApplied::Behind);
                    self.route_past(now_ms, target, reason, item);
                }
            }
        }
        if refusing {
            self.avoid(now_ms, target, kind);
        }
    }

    /// Gives each client its outcome when its time is over, though its message may be repeated for others.
    pub(super) fn expire_sent(&mut self, now_ms: u64) {
        let mut late = Vec::new();
        let mut done = Vec::new();
        for (id, message) in &mut self.messages {
            // What has not arrived, or is a read, is routed again when its attempt is over, and ends there.
            let Content::Updates { items, .. } = &mut message.content else { continue };
            late.extend(items.iter_mut().filter_map(|item| item.take_if(|item| item.deadline_ms <= now_ms)));
            if items.iter().all(Option::is_none) {
                done.push(*id);
            }
        }
        for item in late {
            self.finish(&item, Outcome::Unknown);
        }
        for id in done {
            self.take(id);
        }
    }

    /// The message is settled: its place is free for the next.
    fn take(&mut self, id: MessageId) -> Option<Message> {
        let message = self.messages.remove(&id)?;
        self.targets[message.target].lane_mut(message.content.lane()).in_flight.retain(|held| *held != id);
        self.ready.insert(message.target);
        Some(message)
    }
}

impl Message {
    fn into_items(self) -> impl Iterator<Item = Pending> {
        self.into_indexed_items().map(|(_, item)| item)
    }

    /// What has not been answered, with its place in the message.
    fn into_indexed_items(self) -> impl Iterator<Item = (usize, Pending)> {
        let items: Vec<Option<Pending>> = match self.content {
            Content::Open => Vec::new(),
            Content::Updates { items, .. } => items,
            Content::Reads { items } => items.into_iter().map(Some).collect(),
        };
        items.into_iter().enumerate().filter_map(|(index, item)| Some((index, item?)))
    }
}

fn read_of(item: &Pending) -> ReadItem {
    ReadItem { key: item.key.clone(), marks: item.marks.clone().unwrap_or_default() }
}

fn update_of(item: &Pending) -> Option<UpdateItem> {
    match item.operation {
        Operation::Update(Attempt { update, token, .. }) => {
            Some(UpdateItem { key: item.key.clone(), update, token, marks: item.marks.clone() })
        }
        Operation::Read => None,
    }
}
