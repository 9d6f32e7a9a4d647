//! What is on its way to one replica: a queue, and the few messages that are under way.

use std::collections::VecDeque;

use super::routes::TargetIndex;
use super::{ForwardConfig, MessageId, NotApplied, Operation, Outcome, Session, Ticket, UpdateItem};
use crate::counter::Key;
use crate::id::NodeName;
use crate::marks::Mark;

/// An update or read that has not been answered.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) key: Key,
    pub(super) operation: Operation,
    /// Of a client that keeps marks.
    pub(super) marks: Option<Vec<Mark>>,
    pub(super) deadline_ms: u64,
    /// Until when replicas are asked again that have not seen the marks.
    pub(super) seen_by_ms: u64,
    /// This node could not do it, until a new layout says more. Of nearly all items so, which then need no list.
    pub(super) refused_here: bool,
    /// Other replicas that have not applied it in this round.
    pub(super) refused_by: Vec<TargetIndex>,
    /// Why it has not been applied so far.
    pub(super) reason: NotApplied,
}

impl Pending {
    /// Whether its time will be over then.
    pub(super) fn is_late(&self, at_ms: u64) -> bool {
        at_ms >= self.deadline_ms || (self.reason == NotApplied::Behind && at_ms >= self.seen_by_ms)
    }

    pub(super) fn is_refused_by(&self, target: TargetIndex, here: TargetIndex) -> bool {
        (target == here && self.refused_here) || self.refused_by.contains(&target)
    }

    /// About what it takes in a message.
    fn bytes(&self) -> usize {
        let marks = self.marks.as_ref().map_or(0, Vec::len);
        self.key.as_bytes().len().saturating_add(marks.saturating_mul(size_of::<Mark>()))
    }

    pub(super) fn lane(&self) -> LaneKind {
        match self.operation {
            Operation::Update(_) => LaneKind::Updates,
            Operation::Read => LaneKind::Reads,
        }
    }

    /// What the client is told.
    pub(super) fn told(&self, outcome: Outcome) -> Outcome {
        match self.operation {
            Operation::Update(attempt) => attempt.told(outcome),
            Operation::Read => outcome,
        }
    }

    /// Whether it may be tried again though it may have been applied. It is known from now on that it may have been.
    pub(super) fn may_repeat(&mut self) -> bool {
        match &mut self.operation {
            Operation::Update(attempt) => {
                attempt.maybe_applied = true;
                attempt.token.is_some()
            }
            Operation::Read => true,
        }
    }
}

/// Updates wait for storage and reads do not, so neither waits behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneKind {
    Updates,
    Reads,
}

/// A replica that is forwarded to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: NodeName,
    pub(super) updates: Lane,
    pub(super) reads: Lane,
    pub(super) session: Opening,
}

/// How far the forwarder is with its session at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Closed,
    Asked,
    Open(Session),
}

/// One replica's updates, or its reads.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Pending>,
    pub(super) in_flight: Vec<MessageId>,
    /// When the last message was sent, and how many items it had.
    pub(super) last_sent: (u64, usize),
    /// Passed over until then, while another replica can serve.
    pub(super) avoid_until_ms: u64,
}

impl Target {
    pub(super) fn new(name: NodeName) -> Self {
        Self { name, updates: Lane::default(), reads: Lane::default(), session: Opening::Closed }
    }

    pub(super) fn lane(&self, kind: LaneKind) -> &Lane {
        match kind {
            LaneKind::Updates => &self.updates,
            LaneKind::Reads => &self.reads,
        }
    }

    pub(super) fn lane_mut(&mut self, kind: LaneKind) -> &mut Lane {
        match kind {
            LaneKind::Updates => &mut self.updates,
            LaneKind::Reads => &mut self.reads,
        }
    }
}

impl Lane {
    /// When the next message is to be sent, unless one is answered earlier; none when nothing waits, or not until then.
    pub(super) fn next_turn_ms(&self, config: &ForwardConfig) -> Option<u64> {
        let (sent_ms, items) = self.last_sent;
        match self.in_flight.len() {
            _ if self.queue.is_empty() => None,
            0 => Some(0),
            under_way if under_way >= config.in_flight_max.max(1) => None,
            _ if items <= config.few_items => Some(0),
            _ => Some(sent_ms.saturating_add(config.gather_ms)),
        }
    }

    /// Takes the next message's items from the queue, within the limits of one message.
    pub(super) fn take_batch(&mut self, config: &ForwardConfig) -> Vec<Pending> {
        let mut bytes = 0_usize;
        let fitting = self.queue.iter().take(config.items_max.max(1)).take_while(|item| {
            bytes = bytes.saturating_add(item.bytes());
            bytes <= config.key_bytes_max
        });
        let count = fitting.count().max(1).min(self.queue.len());
        self.queue.drain(..count).collect()
    }

    /// Takes what has run out of time from the queue. Items that were routed again stand among younger ones.
    pub(super) fn take_late(&mut self, now_ms: u64) -> Vec<Pending> {
        if self.queue.iter().all(|item| item.deadline_ms > now_ms) {
            return Vec::new();
        }
        let (late, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|item| item.deadline_ms <= now_ms);
        self.queue = kept.into();
        late
    }
}

/// A message that has been sent and not settled.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) target: TargetIndex,
    pub(super) content: Content,
    /// How often it was sent.
    pub(super) attempts: u32,
    /// How many of its copies may have arrived.
    pub(super) copies: u32,
    /// When to give the present attempt up, or, once that is done, when to send the next.
    pub(super) due_ms: u64,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A copy is under way.
    Sent,
    /// The next copy goes out when it is due.
    Waiting,
}

/// What a message carries.
#[derive(Debug)]
pub(super) enum Content {
    Open,
    /// `updates` stays as it was sent first; an item that has been answered meanwhile is none.
    Updates {
        session: Session,
        updates: Vec<UpdateItem>,
        items: Vec<Option<Pending>>,
    },
    Reads {
        items: Vec<Pending>,
    },
}

impl Content {
    /// How many updates or reads it has.
    pub(super) fn items(&self) -> usize {
        match self {
            Self::Open => 0,
            Self::Updates { items, .. } => items.len(),
            Self::Reads { items } => items.len(),
        }
    }

    pub(super) fn lane(&self) -> LaneKind {
        match self {
            Self::Open | Self::Updates { .. } => LaneKind::Updates,
            Self::Reads { .. } => LaneKind::Reads,
        }
    }
}
