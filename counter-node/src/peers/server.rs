//! Requests from other nodes: checked for proof and size before anything is read, for format and cluster before anything
//! looks into them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::forward::{ForwardRequest, ReadItem};
use counter_core::message::{Envelope, EnvelopeError, Header};
use counter_core::proof::{BODY_HEADER, BodyDigest, ClusterToken, PROOF_HEADER};
use counter_core::table::Table;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::outbox::fitting;
use super::{
    Conversation, DETAIL_PATH, FORWARD_PATH, HANDOVER_PATH, MESSAGE_BYTES_MAX, MESSAGES_PATH, OVERVIEW_PATH, PRESENCE_PATH,
    SESSIONS_PATH, TOP_PATH, TOTALS_PATH, UNREAD_PATH, answer_to,
};
use crate::details::Details;
use crate::forwarding::Forwarding;
use crate::handover::Handed;
use crate::live::Live;
use crate::overview::Overviews;
use crate::presence::PresenceProtocol;
use crate::protocol::Protocol;
use crate::sessions::Claim;
use crate::tokens::ClusterTokens;
use crate::top::{Asked, Top};
use crate::totals::SlotTotals;
use crate::unread::shards::{Ask, Shards};

const PATHS: [&str; 10] = [
    MESSAGES_PATH,
    FORWARD_PATH,
    DETAIL_PATH,
    TOTALS_PATH,
    OVERVIEW_PATH,
    PRESENCE_PATH,
    SESSIONS_PATH,
    HANDOVER_PATH,
    TOP_PATH,
    UNREAD_PATH,
];
/// How long a peer may take to send a body.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What all bodies that are being read may take together, in KiB. Whoever has recorded requests can send their heads
/// again: this bounds what that makes the node hold. Bodies are mostly below 300 KiB, and are read in milliseconds.
const BODIES_KIB: usize = 128 << 10;

/// Answers on the peer port.
#[derive(Clone)]
pub struct PeerService {
    pub protocol: Arc<Protocol>,
    pub forwarding: Arc<Forwarding>,
    pub details: Arc<Details>,
    pub overviews: Arc<Overviews>,
    pub presence: Arc<PresenceProtocol>,
    pub live: Arc<Live>,
    pub top: Arc<Top>,
    pub unread: Arc<Shards>,
    pub table: Arc<Table>,
    pub tokens: Arc<ClusterTokens>,
    pub bodies: Bodies,
}

/// The memory that bodies may take while they are read.
#[derive(Clone, Debug)]
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_KIB)))
    }
}

/// Why a request from a peer is refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is nothing at {0}")]
    NotFound(String),
    #[error("the request carries no valid proof of the cluster token")]
    Proof,
    #[error("the body is announced with {0} bytes, more than {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    #[error("as many bodies are being read as this node has memory for")]
    Busy,
    #[error("the body was cut off, or came too slowly")]
    CutOff,
    #[error("the body is not the one that was announced")]
    OtherBody,
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("this is {here}, and the request is meant for {to}")]
    OtherNode { here: String, to: String },
    #[error("the request is of another cluster than this node")]
    OtherCluster,
    #[error("this node is about to exit, and holds no sessions any more")]
    Leaves,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Proof => StatusCode::UNAUTHORIZED,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy | Self::Leaves => StatusCode::SERVICE_UNAVAILABLE,
            Self::CutOff => StatusCode::REQUEST_TIMEOUT,
            Self::OtherBody | Self::Envelope(_) => StatusCode::BAD_REQUEST,
            Self::OtherNode { .. } | Self::OtherCluster => StatusCode::MISDIRECTED_REQUEST,
        }
    }
}

impl PeerService {
    /// As what [`crate::server::serve`] serves.
    pub fn into_service(
        self,
    ) -> impl Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static {
        service_fn(move |request| {
            let service = self.clone();
            async move {
                Ok(service.handle(request).await.unwrap_or_else(|refused| {
                    tracing::warn!(%refused, "a peer's request was refused");
                    let mut response = Response::new(Full::from(refused.to_string()));
                    *response.status_mut() = refused.status();
                    response
                }))
            }
        })
    }

    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refused> {
        let path = request.uri().path().to_owned();
        if request.method() != Method::POST || !PATHS.contains(&path.as_str()) {
            return Err(Refused::NotFound(path));
        }
        let Proved { token, proof, announced } = self.prove(&path, request.headers())?;
        let body = self.bodies.read(request.into_body(), announced).await?;
        let answer = match path.as_str() {
            MESSAGES_PATH => self.messages(&self.protocol, &body, Strictness::AnyCluster)?,
            PRESENCE_PATH => self.messages(&self.presence, &body, Strictness::SameCluster)?,
            SESSIONS_PATH => self.sessions(&body)?,
            HANDOVER_PATH => self.hand_over(&body).await?,
            TOP_PATH => self.top(&body)?,
            UNREAD_PATH => self.unread(&body)?,
            FORWARD_PATH => self.forward(&body).await?,
            DETAIL_PATH => self.detail(&body)?,
            OVERVIEW_PATH => self.overview(&body)?,
            _ => self.totals(&body)?,
        };
        let answer_proof = token.prove_peer(&path, &answer_to(&proof), &BodyDigest::of(&answer));
        Ok(with_proof(answer, &answer_proof))
    }

    /// Finds out whom a request is from by its head alone.
    fn prove(&self, path: &str, headers: &HeaderMap) -> Result<Proved, Refused> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let proof = text(PROOF_HEADER).to_owned();
        let announced: BodyDigest = text(BODY_HEADER).parse().map_err(|_| Refused::Proof)?;
        // A seed is asked before its name is known.
        let mut meant = [self.protocol.me().0.as_str(), ""].into_iter();
        let token = meant.find_map(|to| self.tokens.admitting_peer(path, to, &announced, &proof)).ok_or(Refused::Proof)?;
        Ok(Proved { token, proof, announced })
    }

    fn messages<C: Conversation>(&self, with: &C, body: &[u8], strictness: Strictness) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Vec<C::Message>> = self.open(body, strictness)?;
        let from = envelope.header.from.clone();
        let mut replies = with.receive(envelope);
        for later in replies.split_off(fitting(&replies)) {
            with.send(&from, later);
        }
        Ok(Envelope { header: self.protocol.header(Some(from)), body: replies }.encode())
    }

    async fn forward(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<ForwardRequest> = self.open(body, Strictness::SameCluster)?;
        let reply = self.forwarding.answer(envelope.body).await;
        Ok(self.reply(envelope.header, reply))
    }

    fn detail(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<ReadItem> = self.open(body, Strictness::SameCluster)?;
        Ok(self.reply(envelope.header, self.details.here(&envelope.body)))
    }

    fn overview(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<()> = self.open(body, Strictness::SameCluster)?;
        Ok(self.reply(envelope.header, self.overviews.here()))
    }

    fn totals(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<()> = self.open(body, Strictness::SameCluster)?;
        // While it still merges what its siblings hold, its totals are of the past, or of nothing at all.
        let freshness = self.protocol.freshness();
        let nothing = || SlotTotals { owned: Vec::new(), totals: Vec::new(), freshness };
        let totals =
            if self.protocol.is_serving() { SlotTotals::of(&self.table, self.presence.viewers(), freshness) } else { nothing() };
        Ok(self.reply(envelope.header, totals))
    }

    fn sessions(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Vec<Claim>> = self.open(body, Strictness::SameCluster)?;
        let stand = self.live.sessions.take(&envelope.body, false).ok_or(Refused::Leaves)?;
        Ok(self.reply(envelope.header, stand))
    }

    async fn hand_over(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Handed> = self.open(body, Strictness::SameCluster)?;
        let taken = self.live.take_over(envelope.body).await.ok_or(Refused::Leaves)?;
        Ok(self.reply(envelope.header, taken))
    }

    fn top(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Asked> = self.open(body, Strictness::SameCluster)?;
        Ok(self.reply(envelope.header, self.top.here(&envelope.body)))
    }

    fn unread(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Ask> = self.open(body, Strictness::SameCluster)?;
        Ok(self.reply(envelope.header, self.unread.here(&envelope.body)))
    }

    fn open<Body: DeserializeOwned>(&self, bytes: &[u8], strictness: Strictness) -> Result<Envelope<Body>, Refused> {
        let envelope = Envelope::decode(bytes)?;
        let here = self.protocol.me();
        if let Some(to) = envelope.header.to.as_ref().filter(|to| *to != here) {
            return Err(Refused::OtherNode { here: here.0.clone(), to: to.0.clone() });
        }
        let ours = self.protocol.view().routes.as_ref().map(|routes| routes.layout.cluster);
        // The replica itself tells what it thinks of messages from elsewhere.
        if strictness == Strictness::SameCluster && (ours.is_none() || envelope.header.cluster != ours) {
            return Err(Refused::OtherCluster);
        }
        Ok(envelope)
    }

    fn reply(&self, to: Header, body: impl Serialize) -> Vec<u8> {
        Envelope { header: self.protocol.header(Some(to.from)), body }.encode()
    }
}

/// A head whose proof holds.
struct Proved {
    /// The answer is proved with it, too: the peer may not have read a newer one yet.
    token: ClusterToken,
    proof: String,
    announced: BodyDigest,
}

impl Bodies {
    /// Reads the body that was announced, and no other.
    async fn read(&self, body: Incoming, announced: BodyDigest) -> Result<Bytes, Refused> {
        let bytes = announced.bytes();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(Refused::TooLong(bytes));
        }
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let _place = self.0.try_acquire_many(kib).map_err(|_| Refused::Busy)?;
        let body = tokio::time::timeout(BODY_TIME, Limited::new(body, bytes).collect()).await.map_err(|_| Refused::CutOff)?;
        let body = match body {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(Refused::OtherBody),
            Err(_) => return Err(Refused::CutOff),
        };
        if BodyDigest::of(&body) == announced { Ok(body) } else { Err(Refused::OtherBody) }
    }
}

fn with_proof(body: Vec<u8>, proof: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    if let Ok(value) = proof.parse() {
        response.headers_mut().insert(PROOF_HEADER, value);
    }
    response
}

/// Whether a request may come from a node of no or another cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    AnyCluster,
    SameCluster,
}
