//! Requests from other nodes: checked for size, proof, format and cluster before anything looks into them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::forward::ForwardRequest;
use counter_core::message::{Envelope, EnvelopeError, Header, Message};
use counter_core::proof::PROOF_HEADER;
use counter_core::table::Table;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::outbox::fitting;
use super::{FORWARD_PATH, MESSAGE_BYTES_MAX, MESSAGES_PATH, TOTALS_PATH, answer_to};
use crate::forwarding::Forwarding;
use crate::protocol::Protocol;
use crate::tokens::ClusterTokens;
use crate::totals::SlotTotals;

/// How long a peer may take to send a body: until it is whole, nothing proves that it comes from one.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Answers on the peer port.
#[derive(Clone)]
pub struct PeerService {
    pub protocol: Arc<Protocol>,
    pub forwarding: Arc<Forwarding>,
    pub table: Arc<Table>,
    pub tokens: Arc<ClusterTokens>,
}

/// Why a request from a peer is refused; nothing has changed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is nothing at {0}")]
    NotFound(String),
    #[error("the body is longer than {MESSAGE_BYTES_MAX} bytes, was cut off, or came too slowly")]
    Body,
    #[error("the request carries no valid proof of the cluster token")]
    Proof,
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("this is {here}, and the request is meant for {to}")]
    OtherNode { here: String, to: String },
    #[error("the request is of another cluster than this node")]
    OtherCluster,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Body => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Proof => StatusCode::UNAUTHORIZED,
            Self::Envelope(_) => StatusCode::BAD_REQUEST,
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
        if request.method() != Method::POST || ![MESSAGES_PATH, FORWARD_PATH, TOTALS_PATH].contains(&path.as_str()) {
            return Err(Refused::NotFound(path));
        }
        let proof = request.headers().get(PROOF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let body = tokio::time::timeout(BODY_TIME, Limited::new(request.into_body(), MESSAGE_BYTES_MAX).collect()).await;
        let body = body.map_err(|_| Refused::Body)?.map_err(|_| Refused::Body)?.to_bytes();
        // A seed is asked before its name is known.
        let mut meant = [self.protocol.me().0.as_str(), ""].into_iter();
        let token = meant.find_map(|to| self.tokens.admitting_peer(&path, to, &body, &proof)).ok_or(Refused::Proof)?;
        let answer = match path.as_str() {
            MESSAGES_PATH => self.messages(&body)?,
            FORWARD_PATH => self.forward(&body).await?,
            _ => self.totals(&body)?,
        };
        let answer_proof = token.prove_peer(&path, &answer_to(&proof), &answer);
        Ok(proved(answer, &answer_proof))
    }

    fn messages(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<Vec<Message>> = self.open(body, Strictness::AnyCluster)?;
        let from = envelope.header.from.clone();
        let mut replies = self.protocol.receive(envelope);
        for later in replies.split_off(fitting(&replies)) {
            self.protocol.send(&from, later);
        }
        Ok(Envelope { header: self.protocol.header(Some(from)), body: replies }.encode())
    }

    async fn forward(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<ForwardRequest> = self.open(body, Strictness::SameCluster)?;
        let reply = self.forwarding.answer(envelope.body).await;
        Ok(self.reply(envelope.header, reply))
    }

    fn totals(&self, body: &[u8]) -> Result<Vec<u8>, Refused> {
        let envelope: Envelope<()> = self.open(body, Strictness::SameCluster)?;
        // While it still merges what its siblings hold, its totals are of the past, or of nothing at all.
        let nothing = || SlotTotals { owned: Vec::new(), totals: Vec::new() };
        let totals = if self.protocol.is_serving() { SlotTotals::of(&self.table) } else { nothing() };
        Ok(self.reply(envelope.header, totals))
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

fn proved(body: Vec<u8>, proof: &str) -> Response<Full<Bytes>> {
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
