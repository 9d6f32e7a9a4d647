//! Requests to other nodes' peer ports, each with its proof, over connections that are kept; and asking nodes, in envelopes.
//!
//! Mostly over HTTP/2, of which one connection to a node is enough and which finds out by itself that the node is gone. A forwarded message
//! goes by HTTP/1, in which it costs a third: there may be thousands a second, and only a few are under way to one node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::id::NodeName;
use counter_core::layout::Node;
use counter_core::message::Envelope;
use counter_core::proof::{BODY_HEADER, BodyDigest, PROOF_HEADER};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FORWARD_PATH, MESSAGE_BYTES_MAX, answer_to};
use crate::hosts::Hosts;
use crate::protocol::Protocol;
use crate::tokens::ClusterTokens;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection on which nothing comes back for an interval and a time-out is dead: its node or network is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// By HTTP/1, how long an answer is awaited. Longer than an owner waits for a majority, as its forwarder asks again in between.
const FORWARD_TIME: Duration = Duration::from_secs(5);
/// By HTTP/1, connections to one node that are kept while nothing is under way, and for how long: shorter than the node keeps them.
const FORWARD_IDLE_MAX: usize = 2;
const FORWARD_IDLE_TIME: Duration = Duration::from_secs(30);

/// Why a request to a peer brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// No byte of it has arrived.
    #[error("could not connect: {0}")]
    NotSent(String),
    /// The peer refused it before looking into it.
    #[error("refused with status {0}")]
    Refused(StatusCode),
    /// It may have arrived.
    #[error("no answer: {0}")]
    Lost(String),
}

/// Posts bodies to peers.
#[derive(Clone, Debug)]
pub struct PeerClient {
    http2: Client<HttpConnector<Hosts>, Full<Bytes>>,
    http1: Client<HttpConnector<Hosts>, Full<Bytes>>,
}

impl PeerClient {
    /// A client that finds nodes by `hosts`.
    #[must_use]
    pub fn new(hosts: Hosts) -> Self {
        let mut connector = HttpConnector::new_with_resolver(hosts);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            // The forwarder decides what may be repeated; the transport never does by itself.
            builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).retry_canceled_requests(false);
            builder
        };
        let http2 = builder()
            .http2_only(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_initial_stream_window_size(1 << 20)
            .http2_initial_connection_window_size(8 << 20)
            .build(connector.clone());
        let http1 = builder().pool_max_idle_per_host(FORWARD_IDLE_MAX).pool_idle_timeout(FORWARD_IDLE_TIME).build(connector);
        Self { http2, http1 }
    }

    /// Posts `body` to the node `to` at `address` (`host:port`), and returns the body of its answer, the proof of which
    /// has been checked. A peer that has not read the newest token yet is tried with the one before.
    ///
    /// # Errors
    /// [`PostError`], which says whether the request may have arrived.
    pub async fn post(
        &self,
        tokens: &ClusterTokens,
        address: &str,
        path: &str,
        to: &str,
        body: Bytes,
    ) -> Result<Bytes, PostError> {
        let mut refused = PostError::Refused(StatusCode::UNAUTHORIZED);
        let announced = BodyDigest::of(&body);
        for token in tokens.to_prove_with() {
            let proof = token.prove_peer(path, to, &announced);
            match self.attempt((address, path), announced, &proof, body.clone()).await {
                Err(PostError::Refused(StatusCode::UNAUTHORIZED)) => refused = PostError::Refused(StatusCode::UNAUTHORIZED),
                Err(error) => return Err(error),
                Ok((answer_proof, answer))
                    if token.admits_peer(path, &answer_to(&proof), &BodyDigest::of(&answer), &answer_proof) =>
                {
                    return Ok(answer);
                }
                Ok(_) => return Err(PostError::Lost("the answer carries no valid proof".to_owned())),
            }
        }
        Err(refused)
    }

    async fn attempt(
        &self,
        (address, path): (&str, &str),
        announced: BodyDigest,
        proof: &str,
        body: Bytes,
    ) -> Result<(String, Bytes), PostError> {
        let request = Request::post(format!("http://{address}{path}"))
            .header(BODY_HEADER, announced.to_string())
            .header(PROOF_HEADER, proof)
            .body(Full::new(body))
            .map_err(|error| PostError::NotSent(error.to_string()))?;
        if path != FORWARD_PATH {
            return answer(&self.http2, request).await;
        }
        let answered = tokio::time::timeout(FORWARD_TIME, answer(&self.http1, request)).await;
        answered.unwrap_or_else(|_| Err(PostError::Lost("it has not come in time".to_owned())))
    }
}

/// The way to other nodes.
#[derive(Clone)]
pub struct Peers {
    pub protocol: Arc<Protocol>,
    pub client: PeerClient,
    pub tokens: Arc<ClusterTokens>,
}

/// What a node is asked.
#[derive(Debug)]
pub struct Question<'l, B> {
    pub path: &'l str,
    pub body: B,
    /// How long it may take to answer; of several that are asked one after another, all together.
    pub time: Duration,
}

impl Peers {
    /// What a node says. None: it has not answered in time, or something that cannot be read.
    pub async fn ask<B: Serialize, A: DeserializeOwned>(&self, node: &Node, question: &Question<'_, B>) -> Option<A> {
        let posted = self.post(&node.peer, Some(&node.name), question.path, &question.body);
        tokio::time::timeout(question.time, posted).await.ok()?.ok().map(|answer| answer.body)
    }

    /// Posts an envelope, and returns the one that comes back. `to` is not known of a seed.
    ///
    /// # Errors
    /// As [`PeerClient::post`]; an answer that cannot be read is lost.
    pub async fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        address: &str,
        to: Option<&NodeName>,
        path: &str,
        body: B,
    ) -> Result<Envelope<A>, PostError> {
        let envelope = Envelope { header: self.protocol.header(to.cloned()), body }.encode();
        let to = to.map_or("", |name| &name.0);
        let answer = self.client.post(&self.tokens, address, path, to, envelope.into()).await?;
        Envelope::decode(&answer).map_err(|error| PostError::Lost(error.to_string()))
    }
}

/// What is answered, with its proof.
async fn answer(
    http: &Client<HttpConnector<Hosts>, Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(String, Bytes), PostError> {
    let answer = http.request(request).await.map_err(|error| {
        let text = chain(&error);
        if error.is_connect() { PostError::NotSent(text) } else { PostError::Lost(text) }
    })?;
    read(answer).await
}

async fn read(answer: Response<hyper::body::Incoming>) -> Result<(String, Bytes), PostError> {
    if answer.status() != StatusCode::OK {
        return Err(PostError::Refused(answer.status()));
    }
    let proof = answer.headers().get(PROOF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = Limited::new(answer.into_body(), MESSAGE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| PostError::Lost(error.to_string()))?;
    Ok((proof, body.to_bytes()))
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use counter_core::proof::ClusterToken;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const TOKEN: &str = "token";

    /// Posts a forwarded message there.
    fn post(address: &str) -> impl Future<Output = Result<Bytes, PostError>> + use<> {
        let (file, address) = (tempfile::NamedTempFile::new().unwrap(), address.to_owned());
        std::fs::write(file.path(), TOKEN).unwrap();
        let tokens = ClusterTokens::open(Some(file.path())).unwrap();
        let client = PeerClient::new(Hosts::new(None));
        async move {
            client.post(&tokens, &address, FORWARD_PATH, "a-0-1", Bytes::from_static(b"one")).await?;
            client.post(&tokens, &address, FORWARD_PATH, "a-0-1", Bytes::from_static(b"two")).await
        }
    }

    /// The proof of the request that ends with this.
    async fn request(stream: &mut TcpStream, body: &str) -> String {
        let (mut text, mut byte) = (String::new(), [0]);
        while !text.ends_with(body) {
            stream.read_exact(&mut byte).await.unwrap();
            text.push(char::from(byte[0]));
        }
        assert!(text.starts_with(&format!("POST {FORWARD_PATH} HTTP/1.1\r\n")), "{text}");
        let prefix = format!("{PROOF_HEADER}: ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    }

    #[tokio::test]
    async fn forwarded_messages_share_a_connection_and_one_that_nobody_answers_ends_it_and_is_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let posted = tokio::spawn(post(&listener.local_addr().unwrap().to_string()));
        let mut stream = listener.accept().await.unwrap().0;
        let proof = request(&mut stream, "one").await;
        let proof = ClusterToken::new(TOKEN.as_bytes()).prove_peer(FORWARD_PATH, &answer_to(&proof), &BodyDigest::of(b"done"));
        let answer = format!("HTTP/1.1 200 OK\r\n{PROOF_HEADER}: {proof}\r\ncontent-length: 4\r\n\r\ndone");
        stream.write_all(answer.as_bytes()).await.unwrap();
        request(&mut stream, "two").await;
        // From here on time passes as soon as nothing else happens.
        tokio::time::pause();
        let lost = posted.await.unwrap();
        assert!(matches!(lost, Err(PostError::Lost(_))), "{lost:?}");
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection is kept");
    }

    #[tokio::test]
    async fn what_finds_nobody_is_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let refused = post(&address).await;
        assert!(matches!(refused, Err(PostError::NotSent(_))), "{refused:?}");
    }
}
