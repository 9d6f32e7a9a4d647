//! Node to node: HTTP/2 on the peer port, postcard in an envelope, each request and answer with its proof.
//!
//! A request announces its body by length and hash, and its proof covers the announcement: nothing is read from whoever
//! does not know the token. The `v2` in the paths is of this; `v1` proved bodies, which had to be taken in first.

mod client;
mod outbox;
mod server;

pub use client::{PeerClient, Peers, PostError, Question};
pub use outbox::{Announced, Conversation, Outbox, Outboxes, Sending, ask_seeds, deliver};
pub use server::{Bodies, PeerService};

use counter_core::message::ENVELOPE_BYTES_MAX;

/// The longest body that is read from a peer, in bytes.
pub const MESSAGE_BYTES_MAX: usize = ENVELOPE_BYTES_MAX;
/// One-way messages; the answer carries what the receiver has to say at once.
pub const MESSAGES_PATH: &str = "/peer/v2/messages";
/// One request of the forwarding protocol; the answer carries its reply.
pub const FORWARD_PATH: &str = "/peer/v2/forward";
/// What the receiver, an owner, says of one counter.
pub const DETAIL_PATH: &str = "/peer/v2/detail";
/// The totals of the slots that the receiver owns.
pub const TOTALS_PATH: &str = "/peer/v2/totals";
/// What the receiver says of itself, for people.
pub const OVERVIEW_PATH: &str = "/peer/v2/overview";
/// Leases, counts of viewers, and what those who watch are fed; one-way messages.
pub const PRESENCE_PATH: &str = "/peer/v2/presence";
/// The pages of the receiver's shard that most look at.
pub const TOP_PATH: &str = "/peer/v2/top";
/// Claims of sessions with ids, for the receiver to hold.
pub const SESSIONS_PATH: &str = "/peer/v2/sessions";
/// Where a node is asked for what unread counts are made of.
pub const UNREAD_PATH: &str = "/peer/v2/unread";
/// Sessions of a node that stops, for the receiver to go on with; and such that have gone on elsewhere.
pub const HANDOVER_PATH: &str = "/peer/v2/handover";

/// Whom the proof of an answer names: the request, by its proof. So an answer is none to another request, and no request.
fn answer_to(request_proof: &str) -> String {
    format!("answer to {request_proof}")
}
