//! What happens, and when: a queue in the order of time, and of making within one moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use counter_core::forward::{Failure, ForwardReply, ForwardRequest, MessageId};
use counter_core::id::{ActorId, NodeName};
use counter_core::layout::Layout;
use counter_core::message::Envelope;
use counter_core::presence::PresenceMessage;
use counter_node::unread::shards::Ask;

use crate::disk::Write;
use crate::faults::Fault;
use crate::operator::Said;
use crate::process::Work;

#[derive(Debug)]
pub(crate) enum Event {
    Tick {
        node: usize,
        process: u64,
    },
    Deliver {
        to: usize,
        envelope: Envelope,
    },
    ForwardArrives {
        to: usize,
        process: u64,
        from: usize,
        from_process: u64,
        request: ForwardRequest,
    },
    ForwardReplies {
        to: usize,
        process: u64,
        reply: ForwardReply,
    },
    ForwardFails {
        to: usize,
        process: u64,
        message: MessageId,
        failure: Failure,
    },
    Committed {
        node: usize,
        process: u64,
        work: Work,
        writes: Vec<Write>,
    },
    LayoutSaved {
        node: usize,
        process: u64,
        layout: Box<Layout>,
    },
    ActorSaved {
        node: usize,
        process: u64,
        actor: ActorId,
        reopened: bool,
    },
    Reopen {
        node: usize,
        process: u64,
    },
    Start {
        node: usize,
    },
    Sync,
    Client,
    /// A user does something.
    User,
    /// A user tries again what has failed.
    WishAgain {
        wish: usize,
    },
    /// A node is asked something for a user.
    Asked {
        from: usize,
        to: usize,
        question: u64,
        ask: Ask,
    },
    /// None: there will be no answer, or none has come in time.
    Answered {
        question: u64,
        answer: Option<Vec<u8>>,
    },
    GoOn {
        task: u64,
    },
    /// Someone begins to follow a user.
    Follow,
    Unfollow {
        node: usize,
        process: u64,
        user: usize,
    },
    FetchFailed {
        node: usize,
        process: u64,
        user: usize,
    },
    PresenceTick {
        node: usize,
        process: u64,
    },
    PresenceArrives {
        from: NodeName,
        to: usize,
        messages: Vec<PresenceMessage>,
    },
    Again {
        request: u64,
    },
    Operate,
    LayoutArrives {
        to: usize,
        layout: Box<Layout>,
    },
    SaidArrives {
        node: NodeName,
        said: Said,
    },
    Fault(Fault),
    /// A process that was followed by another still greets.
    Ghost {
        node: usize,
        actor: ActorId,
        until_ms: u64,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    order: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    made: u64,
}

impl Events {
    pub(crate) fn at(&mut self, time_ms: u64, event: Event) {
        self.made += 1;
        self.order.push(Reverse((time_ms, self.made)));
        self.events.insert(self.made, event);
    }

    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        let Reverse((time_ms, number)) = self.order.pop()?;
        Some((time_ms, self.events.remove(&number)?))
    }
}
