//! The public API. One table of routes says what exists, what may be done with it, and what the metrics call it; the
//! handlers read a request and pick the words of the answer. What counts is behind [`Backend`], the router.
//!
//! It stands on hyper itself: the two requests that nearly all clients send, `GET` and `PUT` of a counter, then pass
//! nothing but one path match, one look-up and one small allocation for the answer.

mod asset;
pub mod auth;
mod backend;
mod batch;
mod body;
mod cluster;
mod counter;
mod etag;
mod html;
mod idempotency;
mod negotiate;
pub mod openapi;
mod own_writes;
mod page;
mod problem;
mod query;
mod reply;
mod route;
mod site;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};

use crate::telemetry::HttpMetrics;
use auth::ApiTokens;
pub use backend::Backend;
use problem::Problem;
use route::{METHODS, ROUTES, Route, method_index};

/// What every handler answers with. Streams will need another body; this is the one place that says so.
pub type Reply = Response<Full<Bytes>>;

/// Bounds on what one request, and all at once, may take.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The longest body; a longer one is answered 413.
    pub body_bytes: usize,
    /// Requests at once; one more is answered 503.
    pub in_flight: usize,
}

/// The public API over some backend. Cheap to clone.
#[derive(Debug)]
pub struct Api<B>(Arc<Shared<B>>);

impl<B> Clone for Api<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<B> {
    backend: B,
    /// None: everyone may update.
    tokens: Option<Arc<ApiTokens>>,
    limits: RequestLimits,
    metrics: Arc<HttpMetrics>,
}

/// The metrics of the public API, for [`Api::new`] and the scrape.
#[must_use]
pub fn metrics() -> Arc<HttpMetrics> {
    HttpMetrics::new(ROUTES, METHODS)
}

impl<B: Backend> Api<B> {
    /// The API over `backend`; `tokens` are the ones of which updates need one, if they need any.
    #[must_use]
    pub fn new(backend: B, tokens: Option<Arc<ApiTokens>>, limits: RequestLimits, metrics: Arc<HttpMetrics>) -> Self {
        Self(Arc::new(Shared { backend, tokens, limits, metrics }))
    }

    /// The API as what [`crate::server::serve`] serves.
    pub fn into_service(
        self,
    ) -> impl Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: Send + 'static> + Clone + Send + 'static
    {
        service_fn(move |request| {
            let api = self.clone();
            async move { Ok(api.handle(request).await) }
        })
    }

    /// Answers one request.
    pub async fn handle<R>(&self, request: Request<R>) -> Reply
    where
        R: Body<Data = Bytes> + Send,
        R::Error: std::fmt::Display,
    {
        let shared = &*self.0;
        let method = method_index(request.method());
        let route = Route::of(request.uri().path()).map_or(ROUTES.len() - 1, Route::index);
        let reply = match shared.metrics.begin(shared.limits.in_flight) {
            Some(_under_way) => shared.answer(request).await.unwrap_or_else(Problem::into_reply),
            None => Problem::overloaded("requests at once", shared.limits.in_flight).into_reply(),
        };
        shared.metrics.answered(route, method, reply.status().as_u16());
        reply
    }
}

impl<B: Backend> Shared<B> {
    async fn answer<R>(&self, request: Request<R>) -> Result<Reply, Problem>
    where
        R: Body<Data = Bytes> + Send,
        R::Error: std::fmt::Display,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path()).ok_or_else(|| Problem::not_found(head.uri.path()))?;
        let allowed = route.allowed();
        if !allowed.contains(&head.method) {
            return Ok(not_allowed(&head.method, allowed));
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            self.admit(&head)?;
        }
        match route {
            Route::Counter(page) => match head.method {
                Method::PUT => counter::put(self, page, &head, body).await,
                Method::DELETE => counter::delete(self, page, &head).await,
                _ => counter::get(self, page, &head).await,
            },
            Route::Site => site::get(self, &head).await,
            Route::Batch if head.method == Method::POST => batch::post(self, &head, body).await,
            Route::Batch => batch::get(self, &head).await,
            Route::Cluster => cluster::get(self).await,
            Route::Index => Ok(site::index(self)),
            Route::OpenApi => Ok(openapi::document()),
            Route::Docs(file) => openapi::docs(file),
            Route::Problem(name) => problem::explain(name),
            Route::Asset(name) => asset::get(name, &head.headers),
            Route::Widget => Ok(asset::widget(&head.headers)),
        }
    }

    /// What holds for every request that changes something.
    fn admit(&self, head: &hyper::http::request::Parts) -> Result<(), Problem> {
        if let Some(tokens) = &self.tokens {
            tokens.admit(&head.headers)?;
        }
        Ok(())
    }
}

fn not_allowed(method: &Method, allowed: &'static [Method]) -> Reply {
    let names = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut reply = Problem::method_not_allowed(method, &names).into_reply();
    if let Ok(value) = HeaderValue::from_str(&names) {
        reply.headers_mut().insert(ALLOW, value);
    }
    reply
}

/// A reply of this type and body.
fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

#[cfg(test)]
mod tests;
