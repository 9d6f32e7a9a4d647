//! A small HTTP client: one request, its status and its body.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// How long one request may take: more than a node's own time-outs.
const TIMEOUT: Duration = Duration::from_secs(15);

/// An HTTP client that keeps its connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http(Client<HttpConnector, Full<Bytes>>);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Default for Http {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        // A request that may have arrived is never repeated: the tests count what was acknowledged.
        Self(Client::builder(TokioExecutor::new()).retry_canceled_requests(false).pool_max_idle_per_host(8).build(connector))
    }
}

impl Http {
    /// Sends a request with a JSON body, if there is one.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send(&self, method: Method, url: &str, body: Option<Value>) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        self.request(request.body(body)?).await
    }

    /// Sends any request.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn request(&self, request: Request<Bytes>) -> anyhow::Result<Answer> {
        let url = request.uri().clone();
        let exchange = async {
            let (head, body) = self.0.request(request.map(Full::new)).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange).await.with_context(|| format!("no answer from {url} in {TIMEOUT:?}"))?
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// When no answer came, or another than 200.
    pub async fn get_json(&self, url: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, url, None).await?.json_of(StatusCode::OK)
    }

    /// What the node at `base` says that a page counts.
    ///
    /// # Errors
    /// As [`Self::get_json`].
    pub async fn count(&self, base: &str, page: &str) -> anyhow::Result<i64> {
        self.get_json(&format!("{base}/{page}/counter")).await?["count"].as_i64().context("the answer has no count")
    }
}

impl Answer {
    /// The body as JSON, when the status is as expected.
    ///
    /// # Errors
    /// When the status is another, or the body is no JSON.
    pub fn json_of(&self, expected: StatusCode) -> anyhow::Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        anyhow::ensure!(self.status == expected, "status {} instead of {expected}: {text}", self.status);
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {text}"))
    }
}

/// Whether a request failed before anything of it was sent.
#[must_use]
pub fn was_not_sent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(hyper_util::client::legacy::Error::is_connect)
}
