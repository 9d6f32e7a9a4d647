//! The Kubernetes client of this program: every request passes one gate, which fences, counts and bounds it.
//!
//! The gate refuses a write once the leader's [`Fence`] has closed, counts the writes that the API server accepted, and
//! gives every request but a watch a deadline. Writes of the election's Lease pass it freely: they are what opens the
//! fence. It also carries the fault injection of the crash tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service};

use crate::leader::Fence;
use crate::telemetry::Metrics;

/// How long the API server may take to answer. A list of a large cluster takes a second; past this it is gone.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// What the gate needs to know.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    fence: Fence,
    metrics: Metrics,
    writes: AtomicU64,
    crash_after_writes: Option<u64>,
}

/// Why the gate refused a request.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("this process does not lead any more, nothing was written")]
    Fenced,
    #[error("the API server did not answer within {} s", ANSWER_TIME_MAX.as_secs())]
    Late,
}

impl Gate {
    /// A gate whose writes pass while `fence` is open.
    #[must_use]
    pub fn new(fence: Fence, metrics: Metrics, crash_after_writes: Option<u64>) -> Self {
        Self { shared: Arc::new(Shared { fence, metrics, writes: AtomicU64::new(0), crash_after_writes }) }
    }

    /// The successful writes so far, those of the Lease aside.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// A client whose requests pass this gate.
    ///
    /// # Errors
    /// When the configuration's certificates or credentials cannot be used.
    pub fn client(&self, mut config: Config) -> Result<Client, kube::Error> {
        // kube would wait out up to 15 refusals by itself: an eviction that a budget forbids is refused for hours,
        // and the controller comes back with its own delays.
        config.default_retry = false;
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service behind a [`Gate`].
pub struct Gated<S> {
    inner: S,
    shared: Arc<Shared>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Watch,
    /// A read, a renewal of the Lease, or a call of a node through the Pod proxy.
    Free,
    Write(&'static str),
}

impl<S, B> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = http::Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let kind = kind(&request);
        if matches!(kind, Kind::Write(_)) && !self.shared.fence.admits(Instant::now()) {
            return Box::pin(async { Err(GateError::Fenced.into()) });
        }
        let answer = self.inner.call(request);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let answer = match kind {
                Kind::Watch => answer.await,
                Kind::Free | Kind::Write(_) => {
                    tokio::time::timeout(ANSWER_TIME_MAX, answer).await.map_err(|_| GateError::Late)?
                }
            }
            .map_err(Into::into)?;
            if let Kind::Write(verb) = kind
                && answer.status().is_success()
            {
                shared.wrote(verb);
            }
            Ok(answer)
        })
    }
}

impl Shared {
    fn wrote(&self, verb: &'static str) {
        self.metrics.wrote(verb);
        let writes = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if self.crash_after_writes == Some(writes) {
            tracing::error!(writes, "aborting, as OPERATOR_CRASH_AFTER_WRITES asks for");
            std::process::abort();
        }
    }
}

fn kind<B>(request: &http::Request<B>) -> Kind {
    let verb = match request.method().as_str() {
        "POST" => "create",
        "PUT" => "replace",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => {
            let watch = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("watch=")));
            return if watch { Kind::Watch } else { Kind::Free };
        }
    };
    let path = request.uri().path();
    let free = path.starts_with("/apis/coordination.k8s.io/") || path.contains("/proxy/");
    if free { Kind::Free } else { Kind::Write(verb) }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt as _;

    use super::*;

    fn request(method: &str, uri: &str) -> http::Request<Body> {
        http::Request::builder().method(method).uri(uri).body(Body::empty()).unwrap()
    }

    fn gated(gate: &Gate, status: u16) -> impl Service<http::Request<Body>, Response = http::Response<()>, Error = BoxError> {
        gate.layer(tower::service_fn(move |_| async move {
            Ok::<_, Infallible>(http::Response::builder().status(status).body(()).unwrap())
        }))
    }

    #[test]
    fn requests_are_told_apart() {
        let kind_of = |method, uri| kind(&request(method, uri));
        assert_eq!(kind_of("GET", "/api/v1/pods?limit=5"), Kind::Free);
        assert_eq!(kind_of("GET", "/api/v1/pods?&watch=true&x=1"), Kind::Watch);
        assert_eq!(kind_of("PATCH", "/api/v1/namespaces/a/services/b"), Kind::Write("patch"));
        assert_eq!(kind_of("POST", "/api/v1/namespaces/a/pods/b/eviction"), Kind::Write("create"));
        assert_eq!(kind_of("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"), Kind::Free);
        assert_eq!(kind_of("PUT", "/api/v1/namespaces/a/pods/b:8081/proxy/layout"), Kind::Free);
    }

    #[tokio::test]
    async fn a_closed_fence_stops_writes_and_lets_reads_and_renewals_pass() {
        let gate = Gate::new(Fence::default(), Metrics::default(), None);
        let refused = gated(&gate, 200).oneshot(request("PATCH", "/api/v1/namespaces/a/services/b")).await.unwrap_err();
        assert!(refused.downcast_ref::<GateError>().is_some_and(|error| matches!(error, GateError::Fenced)));
        for (method, uri) in [("GET", "/api/v1/pods"), ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b")] {
            assert!(gated(&gate, 200).oneshot(request(method, uri)).await.is_ok());
        }
        assert_eq!(gate.writes(), 0);
    }

    #[tokio::test]
    async fn only_writes_that_succeeded_are_counted() {
        let gate = Gate::new(Fence::open(), Metrics::default(), None);
        for (status, method) in [(200, "PATCH"), (409, "PUT"), (201, "POST"), (200, "GET")] {
            gated(&gate, status).oneshot(request(method, "/api/v1/namespaces/a/services/b")).await.unwrap();
        }
        assert_eq!(gate.writes(), 2);
    }
}
