//! The receiving side: applies each message once, whatever the network does to it.

use std::collections::BTreeMap;

use super::{Answer, Ask, ForwardRequest, ItemResult, MessageId, ReadItem, Session, UpdateItem};
use crate::id::ActorId;

/// An inbox's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxConfig {
    /// Forwarders remembered; above that the one idle for longest is forgotten. More than a cluster has nodes.
    pub sessions_max: usize,
    /// Messages remembered of one forwarder; above that the oldest is forgotten. More than
    /// [`super::ForwardConfig::in_flight_max`].
    pub messages_max: usize,
}

impl Default for InboxConfig {
    fn default() -> Self {
        // A cluster has at most 256 × 7 nodes, each of which may start anew a few times before it is forgotten.
        Self { sessions_max: 8_192, messages_max: 128 }
    }
}

/// What the rim has to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Send this answer.
    Answer(Answer),
    /// Apply the updates, wait until they are durable, then call [`ForwardInbox::finish`] and send its answer. A refusal too
    /// is finished here: another copy of the message may still be on its way, and must meet the same answer.
    Apply { session: Session, message: MessageId, updates: Vec<UpdateItem> },
    /// Read these and answer.
    Read { reads: Vec<ReadItem> },
}

/// Remembers what forwarders have sent, and what they were answered.
#[derive(Debug)]
pub struct ForwardInbox {
    identity: ActorId,
    config: InboxConfig,
    sessions: BTreeMap<ActorId, Remembered>,
    /// Numbers of sessions and of uses, counted up.
    clock: u64,
}

#[derive(Debug)]
struct Remembered {
    number: u64,
    last_use: u64,
    floor: MessageId,
    messages: BTreeMap<MessageId, Progress>,
}

#[derive(Debug)]
enum Progress {
    Applying,
    Answered(Vec<ItemResult>),
}

impl ForwardInbox {
    /// The inbox of a process that started as `identity`.
    #[must_use]
    pub fn new(identity: ActorId, config: InboxConfig) -> Self {
        Self { identity, config, sessions: BTreeMap::new(), clock: 0 }
    }

    /// What to do with a request.
    pub fn receive(&mut self, request: ForwardRequest) -> Received {
        match request.ask {
            Ask::Open => Received::Answer(Answer::Opened(self.open(request.forwarder))),
            Ask::Read { reads } => Received::Read { reads },
            Ask::Apply { session, floor, updates } => match self.admit(request.forwarder, session, floor, request.message) {
                Some(answer) => Received::Answer(answer),
                None => Received::Apply { session, message: request.message, updates },
            },
        }
    }

    /// What came of a message that [`Self::receive`] said to apply: kept for its repetitions. `forwarder` is the request's.
    pub fn finish(&mut self, forwarder: ActorId, session: Session, message: MessageId, results: Vec<ItemResult>) -> Answer {
        let held = self.sessions.get_mut(&forwarder).filter(|held| held.number == session.number);
        if let Some(progress) = held.and_then(|held| held.messages.get_mut(&message)) {
            *progress = Progress::Answered(results.clone());
        }
        Answer::Results(results)
    }

    /// Opening twice gives the same session: a repeated request must not end one that is in use.
    fn open(&mut self, forwarder: ActorId) -> Session {
        self.clock = self.clock.saturating_add(1);
        let (identity, now) = (self.identity, self.clock);
        let held = self.sessions.entry(forwarder).or_insert_with(|| Remembered {
            number: now,
            last_use: now,
            floor: MessageId::default(),
            messages: BTreeMap::new(),
        });
        held.last_use = now;
        let session = Session { inbox: identity, number: held.number };
        self.forget_idle();
        session
    }

    /// The answer to give at once, or none when the message is new and now counts as being applied.
    fn admit(&mut self, forwarder: ActorId, session: Session, floor: MessageId, message: MessageId) -> Option<Answer> {
        let known = session.inbox == self.identity;
        let held = self.sessions.get_mut(&forwarder).filter(|held| known && held.number == session.number);
        let Some(held) = held else { return Some(Answer::Forgotten) };
        self.clock = self.clock.saturating_add(1);
        held.last_use = self.clock;
        held.raise_floor(floor);
        held.admit(message, self.config.messages_max)
    }

    /// A forgotten session's number is never given again, so its messages are refused, not applied anew.
    fn forget_idle(&mut self) {
        while self.sessions.len() > self.config.sessions_max.max(1) {
            let idle = self.sessions.iter().min_by_key(|(_, held)| held.last_use).map(|(forwarder, _)| *forwarder);
            let Some(idle) = idle else { return };
            self.sessions.remove(&idle);
        }
    }
}

impl Remembered {
    fn raise_floor(&mut self, floor: MessageId) {
        if floor > self.floor {
            self.floor = floor;
            self.messages = self.messages.split_off(&floor);
        }
    }

    fn admit(&mut self, message: MessageId, messages_max: usize) -> Option<Answer> {
        if message < self.floor {
            return Some(Answer::Forgotten);
        }
        match self.messages.get(&message) {
            Some(Progress::Applying) => return Some(Answer::InProgress),
            Some(Progress::Answered(results)) => return Some(Answer::Results(results.clone())),
            None => {}
        }
        self.messages.insert(message, Progress::Applying);
        while self.messages.len() > messages_max.max(1) {
            let Some((oldest, _)) = self.messages.pop_first() else { break };
            self.floor = MessageId(oldest.0.saturating_add(1)).max(self.floor);
        }
        (!self.messages.contains_key(&message)).then_some(Answer::Forgotten)
    }
}
