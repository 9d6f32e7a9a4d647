//! What nodes say to each other about presence. All of it is absolute and may be lost, repeated and reordered.

use serde::{Deserialize, Serialize};

pub use super::copies::{Delta, Reached};
pub use super::ledger::{Change, PageState};
use crate::hlc::Hlc;
use crate::id::{NodeName, ShardId};
use crate::key::Key;
use crate::layout::LayoutVersion;
use crate::unread::Epoch;

/// One start of a node, as the holder of sessions. Those of different starts are not ordered; each has a lease of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayId {
    pub node: NodeName,
    /// Random.
    pub start: u64,
}

/// One message, in an `Envelope<Vec<PresenceMessage>>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PresenceMessage {
    /// Gateway → each replica of each shard: each second, and on change.
    Renewal(Renewal),
    /// The answer to it.
    RenewalAck(RenewalAck),
    /// Replica → every node, when it has started or gets slots, and each second while it awaits that: tell me what you have, now.
    Ask {
        /// The replica's start.
        start: u64,
    },
    /// Replica → every node, when it is about to exit: get your counts from another one.
    Resign {
        /// The replica's start.
        start: u64,
    },
    /// Replica → sibling: whom it has heard.
    Heard(Vec<Heard>),
    /// Replica → sibling: you are ahead of me in this gateway's pages. I am as far as this, or have none.
    RelayAsk { gateway: GatewayId, reached: Option<Reached> },
    /// The answer to it.
    Relay { gateway: GatewayId, layout: LayoutVersion, delta: Delta },
    /// Replica → gateway: counts of pages that it watches.
    Feed(Feed),
    /// The answer to it.
    FeedAck {
        /// The gateway's start.
        gateway: u64,
        epoch: u64,
        sequence: u64,
    },
}

/// A gateway's lease at one shard, renewed, and what has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    pub gateway: GatewayId,
    pub shard: ShardId,
    /// Higher than that of each message which this gateway sent before.
    pub renewal: u64,
    /// The layout by which the gateway has its pages arranged.
    pub layout: LayoutVersion,
    pub delta: Delta,
    /// The sum of the gateway's ledger.
    pub digest: u64,
    /// Given to the one replica that the gateway wants counts from, under this number.
    pub feed: Option<u64>,
    /// The gateway is about to exit: it has nothing any more, and this is its last word.
    pub farewell: bool,
}

/// A replica has taken a renewal in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalAck {
    /// The gateway's start.
    pub gateway: u64,
    pub shard: ShardId,
    pub renewal: u64,
    /// The replica's start.
    pub start: u64,
    /// How far its copy is. None: it has none.
    pub reached: Option<Reached>,
    /// The copy is as far as the ledger was and yet another: it must begin anew.
    pub differs: bool,
    /// The replica knows the viewers of all of its slots.
    pub complete: bool,
}

/// What a replica knows of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    pub gateway: GatewayId,
    /// The highest renewal that has reached it.
    pub renewal: u64,
    /// How long ago that was sent, or heard first by a replica, in milliseconds.
    pub age_ms: u64,
    /// How far its copy is, once that has been whole.
    pub reached: Option<Reached>,
    /// The gateway has said farewell.
    pub gone: bool,
}

/// Counts of pages, as a replica has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    pub shard: ShardId,
    /// The gateway's start.
    pub gateway: u64,
    /// The number under which the gateway asked for it.
    pub epoch: u64,
    /// Rising as long as the replica runs.
    pub sequence: u64,
    pub readings: Vec<(Key, FeedReading)>,
}

/// A page's count, its two parts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedReading {
    pub tally: i128,
    pub viewers: u64,
    /// Of whichever part changed last; None for a page that nothing is known of.
    pub updated_at: Option<Hlc>,
    /// Of a page's modifications: that of their first one.
    pub epoch: Epoch,
}
