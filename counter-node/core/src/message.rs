//! What nodes say to each other on the peer port, and the envelope that it travels in.
//!
//! Every message is absolute: loss, repetition and reordering change nothing in the end. Encoding: postcard, behind a
//! format number that is read first, so that a newer format is refused by name and not misread.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hlc::Hlc;
use crate::id::{ActorId, ClusterId, NodeName};
use crate::layout::{Layout, LayoutVersion};
use crate::slot::{Slot, SlotRange};
use crate::vector::{Generation, SlotDelta};

/// The newest format of the envelope and its messages that this release reads and writes.
pub const MESSAGE_FORMAT: u16 = 6;
/// The oldest one that it reads: no release has ever written another.
const MESSAGE_FORMAT_OLDEST: u16 = 6;

/// The longest encoded envelope that a node takes, in bytes. Messages are cut at about 256 KiB; only the retirement
/// record of a large slot, which must stay whole, comes near this.
pub const ENVELOPE_BYTES_MAX: usize = 16 << 20;

/// A layout's identity, as messages carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutId {
    pub version: LayoutVersion,
    /// [`Layout::hash`].
    pub hash: u64,
}

impl LayoutId {
    /// The identity of this layout.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        Self { version: layout.version, hash: layout.hash() }
    }
}

/// Who speaks, and as of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// None while the sender waits for its first layout.
    pub cluster: Option<ClusterId>,
    pub from: NodeName,
    /// None in a request to a seed, whose name is not known yet: whoever hears it is meant.
    pub to: Option<NodeName>,
    /// The sender's current actor.
    pub actor: ActorId,
    /// The layout that the sender acts by.
    pub layout: Option<LayoutId>,
    /// The sender's hybrid logical clock.
    pub clock: Hlc,
}

/// A header and what follows it: messages, or one request or reply of the forwarding protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<Body = Vec<Message>> {
    pub header: Header,
    pub body: Body,
}

/// Why bytes are no envelope of ours; nothing was taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("peer messages of format {found} are newer than {MESSAGE_FORMAT}, the newest that this release knows")]
    NewerFormat { found: u16 },
    #[error("peer messages of format {found} are older than {MESSAGE_FORMAT_OLDEST}, the oldest that this release knows")]
    OlderFormat { found: u16 },
    #[error("this is no peer message: {0}")]
    Malformed(#[from] postcard::Error),
}

impl<Body: Serialize> Envelope<Body> {
    /// The envelope's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Encoding into memory has no way to fail for these types; an empty body is refused by its reader.
        postcard::to_stdvec(&(MESSAGE_FORMAT, self)).unwrap_or_default()
    }
}

impl<Body: DeserializeOwned> Envelope<Body> {
    /// Reads an envelope back.
    ///
    /// # Errors
    /// [`EnvelopeError`], which names a newer format as such.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let (found, rest) = postcard::take_from_bytes::<u16>(bytes)?;
        match found {
            MESSAGE_FORMAT_OLDEST..=MESSAGE_FORMAT => Ok(postcard::from_bytes(rest)?),
            0 => Err(EnvelopeError::Malformed(postcard::Error::SerdeDeCustom)),
            found if found < MESSAGE_FORMAT_OLDEST => Err(EnvelopeError::OlderFormat { found }),
            found => Err(EnvelopeError::NewerFormat { found }),
        }
    }
}

/// One message. Each names what it answers, and none needs the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The header is all there is to say: I live, as this actor, under this layout.
    Hello,
    /// Your layout is newer than mine: send it.
    LayoutAsk,
    /// A layout, as its JSON document, which has a format of its own.
    Layout(Vec<u8>),
    /// You speak in this node's name, but a later start of it is known here.
    Superseded {
        by: ActorId,
        /// How long ago the sender last heard it, in milliseconds.
        silent_ms: u64,
    },
    /// The sender's own changes, as absolute values.
    Delta {
        sequence: u64,
        slots: Vec<SlotDelta>,
    },
    /// All of that delta is durable here.
    DeltaAck {
        sequence: u64,
    },
    /// A pull's first step: what the puller has. At most some thousand slots.
    DigestAsk {
        round: u64,
        digests: Vec<(Slot, u64)>,
    },
    DigestReply(DigestReply),
    DetailAsk(DetailAsk),
    DetailReply(DetailReply),
    /// Pull these slots from me, and say when what I have now is durable at yours.
    PullAsk {
        errand: u64,
        slots: Vec<SlotRange>,
    },
    PullDone {
        errand: u64,
    },
    RetireAsk {
        round: u64,
        layout: LayoutVersion,
        slots: Vec<RetireProposal>,
    },
    /// To these slots' retirement the sibling agrees.
    RetireReply {
        round: u64,
        layout: LayoutVersion,
        agreed: Vec<Slot>,
    },
}

impl Message {
    /// The message that carries this layout.
    #[must_use]
    pub fn layout(layout: &Layout) -> Self {
        // See Layout::hash on why this cannot fail.
        Self::Layout(serde_json::to_vec(layout).unwrap_or_default())
    }
}

/// How the asked slots compare at the replier, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestReply {
    /// The question's.
    pub round: u64,
    /// The layout that the replier acted by at that moment.
    pub layout: LayoutVersion,
    /// The slots that differ; of the others, both have the same.
    pub differing: Vec<Slot>,
    /// The slots that the replier has nothing to do with, under its layout.
    pub unheld: Vec<SlotRange>,
    /// The slots in which the replier, under its durable layout, will never apply an update again: what it has is its last.
    pub last: Vec<SlotRange>,
}

/// A place in the order in which a pull goes through a slot: a counter, by the hash of its key, then its token records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub key_hash: u64,
    /// Of a record its token; zero for the counter.
    pub token: u128,
}

impl Position {
    pub const FIRST: Self = Self { key_hash: 0, token: 0 };
    pub const LAST: Self = Self { key_hash: u64::MAX, token: u128::MAX };

    /// The place after this one; none after the last.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        let Self { key_hash, token } = self;
        match token.checked_add(1) {
            Some(token) => Some(Self { key_hash, token }),
            None => Some(Self { key_hash: key_hash.checked_add(1)?, token: 0 }),
        }
    }
}

/// A pull's second step: what the puller has of one slot, item by item, in a range of its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetailAsk {
    pub round: u64,
    pub slot: Slot,
    pub generation: Generation,
    /// The range, both ends included, that the summary is complete for.
    pub from: Position,
    pub to: Position,
    /// The counters in the range: the hash of the key, the hash of the counter.
    pub counters: Vec<(u64, u64)>,
    /// The hashes of the token records in the range.
    pub tokens: Vec<u64>,
}

/// What the replier has otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetailReply {
    /// The question's.
    pub round: u64,
    pub layout: LayoutVersion,
    /// See [`DigestReply::last`].
    pub last: bool,
    /// How far the reply goes: less far than was asked when that would have made it too long.
    pub upto: Position,
    /// With the slot's retirement when the puller's generation is older. None when the slot is not held.
    pub delta: Option<SlotDelta>,
}

/// What a slot is to forget, and what that came to at the proposer: closed actors, or token records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireProposal {
    pub slot: Slot,
    pub generation: Generation,
    /// The actors to be retired, sorted.
    pub actors: Vec<ActorId>,
    /// When there are none: the floor to be taken, in milliseconds since the Unix epoch.
    pub floor_ms: u64,
    /// [`crate::vector::SlotVector::digest_of`] the actors, or [`crate::vector::SlotVector::digest_below`] the floor.
    pub digest: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let header = Header {
            cluster: Some(ClusterId(7)),
            from: "c-0-0".into(),
            to: None,
            actor: ActorId::new(1, 1, 1),
            layout: Some(LayoutId { version: LayoutVersion(3), hash: 9 }),
            clock: Hlc(5),
        };
        let slots = vec!["0-9".parse().unwrap()];
        Envelope { header, body: vec![Message::Hello, Message::PullAsk { errand: 1, slots }] }
    }

    #[test]
    fn an_envelope_reads_back_from_its_bytes() {
        assert_eq!(Envelope::decode(&envelope().encode()), Ok(envelope()));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let bytes = postcard::to_stdvec(&(MESSAGE_FORMAT + 1, "whatever it holds")).unwrap();
        let refused = Envelope::<Vec<Message>>::decode(&bytes).unwrap_err();
        assert_eq!(refused.to_string(), "peer messages of format 7 are newer than 6, the newest that this release knows");
    }

    #[test]
    fn garbage_is_refused() {
        let older = Envelope::<Vec<Message>>::decode(&[1]).unwrap_err();
        assert_eq!(older, EnvelopeError::OlderFormat { found: 1 });
        for bytes in [&b""[..], &[0], &[6], &[6, 255, 255, 255]] {
            assert!(matches!(Envelope::<Vec<Message>>::decode(bytes), Err(EnvelopeError::Malformed(_))), "{bytes:?}");
        }
    }
}
