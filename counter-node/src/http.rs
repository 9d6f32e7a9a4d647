//! The public API. One table of routes says what exists, what may be done with it, and what the metrics call it; the
//! handlers read a request and pick the words of the answer. What counts is behind [`Backend`], the router.
//!
//! It stands on hyper itself, and the two requests that nearly all clients send, `GET` and `PUT` of a counter, are answered before
//! hyper sees them where there is nothing unusual about them ([`plain`]).

mod asset;
pub mod auth;
mod backend;
mod batch;
mod body;
mod cluster;
mod content;
pub mod cors;
mod counter;
mod etag;
mod html;
mod idempotency;
mod live;
mod negotiate;
pub mod openapi;
mod own_writes;
mod page;
mod plain;
mod problem;
mod query;
mod reply;
mod route;
mod sessions;
mod site;
mod top;
mod unread;
mod whole;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, HeaderValue};
use hyper::http::request::Parts as Head;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::server::Peer;
use crate::telemetry::{HttpMetrics, InFlight};
use crate::unread::Keeper;
use auth::ApiTokens;
pub use backend::Backend;
pub use content::Content;
use cors::Cors;
pub(crate) use page::named as page_named;
pub(crate) use problem::Problem;
pub(crate) use reply::moment;
use route::{METHODS, ROUTES, Route, method_index};

/// What every handler answers with.
pub type Reply = Response<Content>;

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
    tokens: Option<Arc<ApiTokens>>,
    cors: Cors,
    limits: RequestLimits,
    metrics: Arc<HttpMetrics>,
    live: Arc<Live>,
    stopping: CancellationToken,
    echo: bool,
    keeper: Arc<dyn Keeper>,
    /// See [`plain`].
    head_of_counted: OnceLock<Box<[u8]>>,
}

/// What an API has beside its backend.
#[derive(Debug)]
pub struct Parts {
    /// The tokens of which updates need one; none: everyone may update.
    pub tokens: Option<Arc<ApiTokens>>,
    pub cors: Cors,
    pub limits: RequestLimits,
    pub metrics: Arc<HttpMetrics>,
    pub live: Arc<Live>,
    /// Cancelled: end what streams.
    pub stopping: CancellationToken,
    /// Whether the conformance tests' echo is there.
    pub echo: bool,
    /// Where subscriptions and modifications are kept.
    pub keeper: Arc<dyn Keeper>,
}

/// The metrics of the public API, for [`Api::new`] and the scrape.
#[must_use]
pub fn metrics() -> Arc<HttpMetrics> {
    HttpMetrics::new(ROUTES, METHODS)
}

impl<B: Backend> Api<B> {
    /// The API over `backend`.
    #[must_use]
    pub fn new(backend: B, parts: Parts) -> Self {
        let Parts { tokens, cors, limits, metrics, live, stopping, echo, keeper } = parts;
        let head_of_counted = OnceLock::new();
        Self(Arc::new(Shared { backend, tokens, cors, limits, metrics, live, stopping, echo, keeper, head_of_counted }))
    }

    /// The API as [`crate::server::serve`] serves it to one client.
    pub fn into_service(
        self,
        peer: Peer,
    ) -> impl Service<Request<Incoming>, Response = Reply, Error = Infallible, Future: Send + 'static> + Send + 'static {
        let parts = Arc::new((self, peer));
        service_fn(move |request: Request<Incoming>| {
            let parts = Arc::clone(&parts);
            // The future is moved as it is made, and holds each of these once.
            let (mut head, body) = request.into_parts();
            async move {
                let (api, peer) = &*parts;
                Ok(api.handle(peer, &mut head, pin!(body)).await)
            }
        })
    }

    /// Answers one request. What is not needed of the head any more while something is waited for is taken from it.
    pub async fn handle<R>(&self, peer: &Peer, head: &mut Head, body: R) -> Reply
    where
        R: Body<Data = Bytes> + Send,
        R::Error: std::fmt::Display,
    {
        let shared = &*self.0;
        let method = method_index(&head.method);
        let route = Route::of(head.uri.path()).map_or(ROUTES.len() - 1, Route::index);
        let origin = shared.cors.origin(&head.headers);
        let answered = match shared.begin() {
            Ok(_under_way) => shared.answer(peer, head, body).await,
            Err(problem) => Err(problem),
        };
        shared.finish((route, method), origin.as_ref(), answered)
    }
}

impl<B: Backend> Shared<B> {
    async fn answer<R>(&self, peer: &Peer, head: &mut Head, body: R) -> Result<Reply, Problem>
    where
        R: Body<Data = Bytes> + Send,
        R::Error: std::fmt::Display,
    {
        let route = Route::of(head.uri.path()).ok_or_else(|| Problem::not_found(head.uri.path()))?;
        if let Some(reply) = self.cors.preflight(head) {
            return Ok(reply);
        }
        let allowed = route.allowed();
        if !allowed.contains(&head.method) {
            return Ok(not_allowed(&head.method, allowed));
        }
        if !matches!(head.method, Method::GET | Method::HEAD) && route.is_update() {
            self.admit(head)?;
        }
        match route {
            Route::Counter(page) => match head.method {
                Method::PUT => counter::put(self, page::key(page)?, head, body).await,
                Method::DELETE => Box::pin(counter::delete(self, page, head)).await,
                _ => counter::get(self, page::key(page)?, head).await,
            },
            // The futures of these are boxed, so that no read or update of a counter has room for what they hold.
            Route::Site => Box::pin(site::get(self, head)).await,
            Route::Batch if head.method == Method::POST => Box::pin(batch::post(self, head, body)).await,
            Route::Batch => Box::pin(batch::get(self, head)).await,
            Route::Cluster => Box::pin(cluster::get(self)).await,
            Route::Live(page) => Box::pin(live::page(self, peer, page, head)).await,
            Route::SiteLive => Box::pin(live::site(self, peer, head)).await,
            Route::Session(page, id) if head.method == Method::PUT => Box::pin(sessions::put(self, (page, id), head, body)).await,
            Route::Session(page, id) => Box::pin(sessions::delete(self, (page, id), head)).await,
            Route::SessionEnd(page, id) => Box::pin(sessions::end(self, (page, id), head, body)).await,
            Route::TopPages => Box::pin(top::get(self, head)).await,
            Route::Echo => live::echo(self, peer, head),
            Route::Modifications(page) => Box::pin(unread::modify(self, page, head, body)).await,
            Route::Subscriptions(user) => Box::pin(unread::list(self, user, head)).await,
            Route::Subscription(user, page) => match head.method {
                Method::PUT => Box::pin(unread::subscribe(self, (user, page), head, body)).await,
                Method::DELETE => Box::pin(unread::unsubscribe(self, (user, page), head)).await,
                _ => Box::pin(unread::show(self, (user, page), head)).await,
            },
            Route::Unread(user) => Box::pin(unread::get(self, user, head)).await,
            Route::UnreadPage(user, page) => Box::pin(unread::read(self, (user, page), head, body)).await,
            Route::UnreadLive(user) => Box::pin(live::unread(self, peer, user, head)).await,
            Route::Index => Ok(site::index(self)),
            Route::OpenApi => Ok(openapi::document()),
            Route::Docs(file) => openapi::docs(file),
            Route::Problem(name) => problem::explain(name),
            Route::Asset(name) => asset::get(name, &head.headers),
            Route::Widget => Ok(asset::widget(&head.headers)),
        }
    }

    /// Counts a request as under way.
    fn begin(&self) -> Result<InFlight<'_>, Problem> {
        let limit = self.limits.in_flight;
        self.metrics.begin(limit).ok_or_else(|| Problem::overloaded("requests at once", limit))
    }

    /// What is sent for what was answered, counted by the places of its route and method.
    fn finish(&self, (route, method): (usize, usize), origin: Option<&HeaderValue>, answered: Result<Reply, Problem>) -> Reply {
        let mut reply = answered.unwrap_or_else(Problem::into_reply);
        self.cors.finish(origin, &mut reply);
        self.metrics.answered(route, method, reply.status().as_u16());
        reply
    }

    /// What holds for every request that changes something.
    fn admit(&self, head: &Head) -> Result<(), Problem> {
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
    let mut reply = Response::new(Content::from(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(hyper::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

#[cfg(test)]
mod tests;
