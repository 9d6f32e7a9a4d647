//! Forwarding: how a node that does not own a counter's slot has a replica of the owner apply an update, at most once.
//!
//! **The rule.** A forwarder tries an update again only when nothing was sent, when the replica said that it did not
//! apply it, or with the same replica process under the same message id, or when the update carries a token, by which
//! any replica recognises it. In every other case the client is told that the outcome is unknown.
//!
//! *The same replica process* is what a [`Session`] stands for. A forwarder opens one with an [`Ask::Open`], which
//! applies nothing, and addresses every [`Ask::Apply`] to it. A [`ForwardInbox`] applies only what is addressed to a session
//! that it has opened and still remembers; so a process that has started anew, or has forgotten, refuses instead of
//! counting twice. Within a session an inbox remembers the answer to each message id from the forwarder's floor on,
//! below which the forwarder sends nothing again.
//!
//! Two things are assumed of the transport: it does not itself repeat a request to another process (a connection ends
//! with its process), and it reports `NotSent` only when no byte of the request can have arrived. Loss, delay,
//! reordering, and repetition to the same process are harmless.
//!
//! Both sides are told messages and the time, in milliseconds of a monotonic clock, and answer with effects.

mod forwarder;
mod inbox;
mod lane;
mod messages;
mod routes;

use serde::{Deserialize, Serialize};

use crate::counter::{Key, Update};
use crate::id::{ActorId, NodeName};
use crate::layout::{Layout, LayoutVersion};
use crate::marks::Mark;
use crate::token::Token;
use crate::vector::{Reading, Refusal};

pub use forwarder::Forwarder;
pub use inbox::{ForwardInbox, InboxConfig, Received};

/// A forwarder's number for one message. Increasing, never used for another message, and the same in each repetition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub u64);

/// One forwarder's standing with one inbox, for as long as the inbox remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Session {
    /// The actor under which the inbox's process started. It stays, whatever incarnation the process takes later.
    pub inbox: ActorId,
    /// Counted up by the inbox.
    pub number: u64,
}

/// What a forwarder sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardRequest {
    /// The actor under which the forwarder's process started.
    pub forwarder: ActorId,
    pub message: MessageId,
    /// The layout by which the forwarder chose the replica.
    pub layout: LayoutVersion,
    pub ask: Ask,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Open a session, or name the one that is open.
    Open,
    /// Apply these updates, each by itself.
    Apply {
        session: Session,
        /// The lowest message id that this forwarder may still send in the session.
        floor: MessageId,
        updates: Vec<UpdateItem>,
    },
    /// Read these counters.
    Read { reads: Vec<ReadItem> },
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardReply {
    /// The request's id.
    pub message: MessageId,
    /// The replica's layout, when it is newer than the request's.
    #[serde(with = "crate::layout::document")]
    pub layout: Option<Box<Layout>>,
    pub answer: Answer,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Opened(Session),
    /// One per update or key, in the request's order.
    Results(Vec<ItemResult>),
    /// An earlier copy of this message is being worked on.
    InProgress,
    /// The session is not known here, or the id lies below its floor. This copy was not applied; an earlier one may have been.
    Forgotten,
}

/// What became of one update or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemResult {
    /// Read, or applied and as durable as the cluster promises.
    Done(Reading),
    /// Applied earlier, under the same token, and as durable as the cluster promises.
    Replayed(Reading),
    /// Against the counter's range or the node's limits: no replica would do otherwise. Nothing changed.
    Refused(Refusal),
    /// Nothing changed, for a reason of this replica's own.
    NotApplied(NotApplied),
    /// Applied in memory, but not known to be durable.
    Unknown,
    /// Applied, now or earlier under the same token, for a client that asks for a mark.
    Marked { reading: Reading, replayed: Replayed, mark: Mark },
}

/// Whether an update had been applied before, under its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replayed {
    No,
    Yes,
}

impl From<Refusal> for ItemResult {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOwner => Self::NotApplied(NotApplied::NotOwner),
            Refusal::OutOfRange(_)
            | Refusal::TooManyCounters { .. }
            | Refusal::TooMuchMemory { .. }
            | Refusal::TokenReused
            | Refusal::TokenExpired { .. }
            | Refusal::TokenFromFuture { .. }
            | Refusal::TooManyTokens { .. } => Self::Refused(refusal),
        }
    }
}

/// Why nobody has applied an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum NotApplied {
    #[error("no replica of the counter's owner could be reached")]
    Unreachable,
    #[error("the counter's slot is on its way to another owner")]
    NotOwner,
    #[error("the replica is starting or stopping")]
    NotReady,
    #[error("the replica's storage cannot write")]
    ReadOnly,
    #[error("too many requests are waiting")]
    Overloaded,
    #[error("no replica that could be reached has merged the client's earlier updates yet")]
    Behind,
}

/// The caller's name for one submitted update or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What is to be done with a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Update(Attempt),
    Read,
}

/// An update on its way to a replica that applies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub update: Update,
    pub token: Option<Token>,
    /// Some replica may have applied it already. Only under a token is it tried again then.
    pub maybe_applied: bool,
}

impl Attempt {
    /// The first attempt.
    #[must_use]
    pub fn new(update: Update, token: Option<Token>) -> Self {
        Self { update, token, maybe_applied: false }
    }

    /// What the client is told: an earlier attempt may have come through where a later one was refused.
    #[must_use]
    pub fn told(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Refused(_) | Outcome::NotApplied(_) if self.maybe_applied => Outcome::Unknown,
            Outcome::Done(_)
            | Outcome::Replayed(_)
            | Outcome::Marked { .. }
            | Outcome::Refused(_)
            | Outcome::NotApplied(_)
            | Outcome::Unknown => outcome,
        }
    }
}

/// One update of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateItem {
    pub key: Key,
    pub update: Update,
    pub token: Option<Token>,
    /// Of a client that keeps marks: those of this counter, which must have been seen before; it gets another one. None: of any other.
    pub marks: Option<Vec<Mark>>,
}

/// One read of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadItem {
    pub key: Key,
    /// These must have been seen.
    pub marks: Vec<Mark>,
}

/// What is submitted for a client that keeps marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    pub key: Key,
    pub operation: Operation,
    /// Those of the counter: they must have been seen by whoever does it.
    pub marks: Vec<Mark>,
}

/// What became of what was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Read, or applied and as durable as the cluster promises.
    Done(Reading),
    /// Applied earlier, under the same token, and as durable as the cluster promises.
    Replayed(Reading),
    /// Refused for good; nothing changed.
    Refused(Refusal),
    /// Certainly not applied.
    NotApplied(NotApplied),
    /// Perhaps applied. Never said of a read.
    Unknown,
    /// Applied, now or earlier under the same token, with the mark that the client asked for.
    Marked { reading: Reading, replayed: Replayed, mark: Mark },
}

impl From<ItemResult> for Outcome {
    fn from(result: ItemResult) -> Self {
        match result {
            ItemResult::Done(reading) => Self::Done(reading),
            ItemResult::Replayed(reading) => Self::Replayed(reading),
            ItemResult::Refused(refusal) => Self::Refused(refusal),
            ItemResult::NotApplied(reason) => Self::NotApplied(reason),
            ItemResult::Unknown => Self::Unknown,
            ItemResult::Marked { reading, replayed, mark } => Self::Marked { reading, replayed, mark },
        }
    }
}

/// What the rim has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardEffect {
    /// Send the request, and report exactly one reply or failure for it.
    Send { to: NodeName, request: ForwardRequest },
    /// Answer the client.
    Complete { ticket: Ticket, outcome: Outcome },
    /// The slot has come to this node: apply or read here, and answer the client, or submit it again.
    Local { ticket: Ticket, key: Key, operation: Operation },
}

/// What became of a request that brought no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Certainly no byte of it has arrived.
    NotSent,
    /// It may have arrived, and may still arrive.
    Lost,
}

/// A forwarder's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardConfig {
    /// Messages under way to one replica, updates and reads each. More makes messages smaller and hides delay; with
    /// this many under way, what comes in is collected until one is answered. 1 to 64.
    pub in_flight_max: usize,
    /// After a message of more items than this, many are on their way: the next is sent when it is answered, or has been under way
    /// for `gather_ms`, and carries many, too. A message costs as much as some ten items.
    pub few_items: usize,
    pub gather_ms: u64,
    /// Updates or reads in one message.
    pub items_max: usize,
    /// Bytes of keys in one message; one key always fits.
    pub key_bytes_max: usize,
    /// Updates or reads that wait for one replica, and in all those that wait to be tried again: more are refused.
    pub queue_max: usize,
    /// How long a request may go unanswered before it counts as lost.
    pub attempt_timeout_ms: u64,
    /// How long an update or read may take in all.
    pub total_timeout_ms: u64,
    /// For how long replicas are asked again that have not seen a client's marks.
    pub seen_timeout_ms: u64,
    /// How often one message is sent, at most.
    pub attempts_max: u32,
    /// How long to wait before something is tried again where it has failed.
    pub retry_ms: u64,
    /// How long a replica that did not answer, or cannot serve, is passed over while another can.
    pub avoid_ms: u64,
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            in_flight_max: 2,
            few_items: 8,
            gather_ms: 2,
            items_max: 1_000,
            key_bytes_max: 256 << 10,
            queue_max: 16_384,
            attempt_timeout_ms: 1_000,
            total_timeout_ms: 5_000,
            seen_timeout_ms: 1_000,
            attempts_max: 4,
            retry_ms: 50,
            avoid_ms: 1_000,
        }
    }
}

#[cfg(test)]
mod tests;
