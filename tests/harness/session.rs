//! A client that sees its own writes at every node: it sends the session that the last answer gave it.

use anyhow::Context as _;
use bytes::Bytes;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;

use crate::http::{Answer, Http};

/// A client with a session.
#[derive(Debug)]
pub struct Session {
    http: Http,
    text: String,
}

impl Default for Session {
    fn default() -> Self {
        Self { http: Http::default(), text: "new".to_owned() }
    }
}

impl Session {
    /// Sends a request in the session, which stays what it is.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send(&self, method: Method, url: &str, body: Option<Value>) -> anyhow::Result<Answer> {
        self.send_under(method, url, body, None).await
    }

    /// As [`Self::send`], under a token if there is one.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn send_under(
        &self,
        method: Method,
        url: &str,
        body: Option<Value>,
        token: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url).header("counter-session", &self.text);
        request = request.header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("idempotency-key", token);
        }
        self.http.request(request.body(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default())?).await
    }

    /// Keeps what the answer to an update says of the session.
    ///
    /// # Errors
    /// When it says nothing of it.
    pub fn keep(&mut self, answer: &Answer) -> anyhow::Result<()> {
        answer.headers.get("counter-session").context("no session")?.to_str()?.clone_into(&mut self.text);
        Ok(())
    }

    /// Updates, and keeps what the answer says of the session.
    ///
    /// # Errors
    /// When no answer came, or another than 200.
    pub async fn update(&mut self, method: Method, url: &str, body: Option<Value>) -> anyhow::Result<Value> {
        let answer = self.send(method, url, body).await?;
        let told = answer.json_of(StatusCode::OK)?;
        self.keep(&answer)?;
        Ok(told)
    }

    /// GETs JSON.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn read(&self, url: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, url, None).await?.json_of(StatusCode::OK)
    }
}
