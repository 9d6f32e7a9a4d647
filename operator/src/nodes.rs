//! Calls of nodes' admin API: what a node says of itself, and the layout that it is to act by.
//!
//! Each call names the cluster, the node and, on Kubernetes, the Pod's UID, and proves the cluster token without sending
//! it. Calls are few at a time and short: a node that does not answer is an observation, not a failure.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use counter_core::id::{ClusterId, NodeName};
use counter_core::layout::Layout;
use counter_core::proof::{AdminRequest, CLUSTER_HEADER, ClusterToken, NODE_HEADER, POD_UID_HEADER, PROOF_HEADER};
use counter_core::status::NodeStatus;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::telemetry::Metrics;

/// The most calls at a time, over all clusters: enough to ask a large cluster in a second, few enough for a small machine.
const CALLS_MAX: usize = 64;
/// The time of one call, the connection's included. A node answers from memory; a layout is small.
const CALL_TIME_MAX: Duration = Duration::from_secs(3);
/// The most bytes of an answer: the status of a node that owns thousands of ranges has some 100 KiB.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// How much of a refusal is kept for messages.
const REFUSAL_CHARS_MAX: usize = 300;

/// The way to one node's admin port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Direct(String),
    /// Through the API server: the Pod's namespace, name and admin port.
    Proxy { namespace: String, pod: String, port: u16 },
}

/// One node, as a call names it.
#[derive(Debug, Clone)]
pub struct Target {
    pub node: NodeName,
    pub address: Address,
    /// None before the cluster has an identity.
    pub cluster: Option<ClusterId>,
    /// None for processes that have no Pod.
    pub pod_uid: Option<String>,
    /// The cluster's tokens, the current one first. With none, the node must take requests without proof.
    pub tokens: Arc<[ClusterToken]>,
}

/// Why a call has no result. A push that failed for any reason but a refusal may have been taken all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no answer: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", CALL_TIME_MAX.as_secs())]
    Late,
    #[error("refused with {status}: {detail}")]
    Refused { status: u16, detail: String },
    /// The API server, through which the node is to be reached, has answered in its place.
    #[error("the API server did not pass it on ({status}): {detail}")]
    NotPassedOn { status: u16, detail: String },
    #[error("the answer could not be read: {0}")]
    Malformed(String),
    #[error("the address `{0}` is none")]
    Address(String),
}

impl CallError {
    /// A bounded name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotPassedOn { status: 401 | 403, .. } => "forbidden",
            Self::Unreachable(_) | Self::NotPassedOn { .. } => "unreachable",
            Self::Late => "late",
            Self::Refused { status: 409, .. } => "conflict",
            Self::Refused { status: 401, .. } => "unauthorized",
            Self::Refused { status: 421, .. } => "misdirected",
            Self::Refused { .. } => "refused",
            Self::Malformed(_) => "malformed",
            Self::Address(_) => "address",
        }
    }
}

/// A client for the admin ports of all nodes. Cheap to clone; clones share its limits.
#[derive(Clone)]
pub struct NodeClient {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    proxy: Option<kube::Client>,
    calls: Arc<Semaphore>,
    metrics: Metrics,
}

struct Call<'a> {
    name: &'static str,
    method: &'static str,
    path: &'static str,
    target: &'a Target,
    body: Bytes,
}

impl NodeClient {
    /// A client; `proxy` is needed for nodes that are reached through the API server.
    #[must_use]
    pub fn new(proxy: Option<kube::Client>, metrics: Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CALL_TIME_MAX));
        // Pods come and go with their addresses, so a connection is kept only for the passes of a move.
        let http = HttpClient::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { http, proxy, calls: Arc::new(Semaphore::new(CALLS_MAX)), metrics }
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// When it does not answer in time, refuses, or answers something else.
    pub async fn status(&self, target: &Target) -> Result<NodeStatus, CallError> {
        let call = Call { name: "status", method: "GET", path: "/status", target, body: Bytes::new() };
        let answer = self.call(&call).await?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Malformed(error.to_string()))
    }

    /// Hands the node a layout. Handing it the same one again changes nothing.
    ///
    /// # Errors
    /// When it does not answer in time, or refuses the layout.
    pub async fn put_layout(&self, target: &Target, layout: &Layout) -> Result<(), CallError> {
        let body = serde_json::to_vec(layout).map_err(|error| CallError::Malformed(error.to_string()))?;
        let call = Call { name: "layout", method: "PUT", path: "/layout", target, body: body.into() };
        self.call(&call).await.map(drop)
    }

    async fn call(&self, call: &Call<'_>) -> Result<Bytes, CallError> {
        // The semaphore is never closed, so a permit always comes.
        let _permit = self.calls.acquire().await.map_err(|error| CallError::Unreachable(error.to_string()))?;
        let result = self.try_tokens(call).await;
        self.metrics.called(call.name, result.as_ref().map_or_else(CallError::category, |_| "ok"));
        result
    }

    /// A node whose token file is older than ours, or newer, takes one of the other tokens.
    async fn try_tokens(&self, call: &Call<'_>) -> Result<Bytes, CallError> {
        let mut tokens = call.target.tokens.iter();
        let mut result = self.once(call, tokens.next()).await;
        for token in tokens {
            if !matches!(result, Err(CallError::Refused { status: 401, .. })) {
                break;
            }
            result = self.once(call, Some(token)).await;
        }
        result
    }

    async fn once(&self, call: &Call<'_>, token: Option<&ClusterToken>) -> Result<Bytes, CallError> {
        let request = request(call, token)?;
        let sent = async {
            match &call.target.address {
                Address::Direct(_) => self.send_direct(request).await,
                Address::Proxy { .. } => self.send_by_proxy(request).await,
            }
        };
        let (status, body) = tokio::time::timeout(CALL_TIME_MAX, sent).await.map_err(|_| CallError::Late)??;
        if status.is_success() {
            return Ok(body);
        }
        let by_proxy = matches!(call.target.address, Address::Proxy { .. });
        Err(failure(status.as_u16(), &body, by_proxy))
    }

    async fn send_direct(&self, request: http::Request<Bytes>) -> Result<(http::StatusCode, Bytes), CallError> {
        let unreachable = |error: hyper_util::client::legacy::Error| CallError::Unreachable(causes(&error));
        let answer = self.http.request(request.map(Full::new)).await.map_err(unreachable)?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| CallError::Unreachable(error.to_string()))?.to_bytes();
        Ok((parts.status, body))
    }

    async fn send_by_proxy(&self, request: http::Request<Bytes>) -> Result<(http::StatusCode, Bytes), CallError> {
        let client = self.proxy.as_ref().ok_or_else(|| CallError::Address("no API server to go through".to_owned()))?;
        let request = request.map(|body| kube::client::Body::from(Vec::from(body)));
        let answer = client.send(request).await.map_err(|error| CallError::Unreachable(causes(&error)))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| CallError::Unreachable(error.to_string()))?.to_bytes();
        Ok((parts.status, body))
    }
}

/// Whose refusal it is: the node's, or the API server's in its place.
fn failure(status: u16, body: &[u8], by_proxy: bool) -> CallError {
    let short = |text: &str| text.chars().take(REFUSAL_CHARS_MAX).collect();
    match ApiServerSaid::of(body).filter(|_| by_proxy) {
        Some(said) => CallError::NotPassedOn { status, detail: short(&said.message) },
        None => CallError::Refused { status, detail: short(&String::from_utf8_lossy(body)) },
    }
}

/// A failure in the API server's own words, which a node's refusals are unlike.
#[derive(Deserialize)]
struct ApiServerSaid {
    kind: String,
    #[serde(default)]
    message: String,
}

impl ApiServerSaid {
    fn of(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok().filter(|said: &Self| said.kind == "Status")
    }
}

fn request(call: &Call<'_>, token: Option<&ClusterToken>) -> Result<http::Request<Bytes>, CallError> {
    let target = call.target;
    let uri = uri(&target.address, call.path);
    let cluster = target.cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
    let pod_uid = target.pod_uid.as_deref().unwrap_or_default();
    let mut request = http::Request::builder().method(call.method).uri(&uri).header(NODE_HEADER, &target.node.0);
    if !cluster.is_empty() {
        request = request.header(CLUSTER_HEADER, &cluster);
    }
    if !pod_uid.is_empty() {
        request = request.header(POD_UID_HEADER, pod_uid);
    }
    if !call.body.is_empty() {
        request = request.header(http::header::CONTENT_TYPE, "application/json");
    }
    if let Some(token) = token {
        let proved = AdminRequest {
            method: call.method,
            path: call.path,
            cluster: &cluster,
            node: &target.node.0,
            pod_uid,
            body: &call.body,
        };
        request = request.header(PROOF_HEADER, token.prove_admin(&proved));
    }
    request.body(call.body.clone()).map_err(|_| CallError::Address(uri))
}

fn uri(address: &Address, path: &str) -> String {
    match address {
        Address::Direct(address) => format!("http://{address}{path}"),
        Address::Proxy { namespace, pod, port } => format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}"),
    }
}

/// An error with its causes, which many an error's own text leaves out.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
