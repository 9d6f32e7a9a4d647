//! What a node answers while its storage cannot be opened yet: it is alive, it is not ready, and why; and nothing was applied.

use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::{self, Limits, Port, Stop};
use crate::telemetry::PortMetrics;

/// How long a request that came while the node waited may take to end.
const GRACE: Duration = Duration::from_millis(200);
/// Probes, a few peers, and clients that nobody should have sent here yet.
const CONNECTIONS: usize = 1_024;

/// Serves all ports until it is told to stop.
pub(crate) struct Waiting {
    reason: Arc<ArcSwap<String>>,
    begin: CancellationToken,
    ports: TaskTracker,
}

impl Waiting {
    /// Serves these ports, beside whoever holds the listeners.
    ///
    /// # Errors
    /// When the operating system gives no more descriptors.
    pub(crate) fn serve(ports: [&(TcpListener, Arc<PortMetrics>); 3], reason: &str) -> std::io::Result<Self> {
        let waiting = Self {
            reason: Arc::new(ArcSwap::from_pointee(reason.to_owned())),
            begin: CancellationToken::new(),
            ports: TaskTracker::new(),
        };
        for (listener, metrics) in ports {
            let listener = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
            let listener = TcpListener::from_std(listener)?;
            let port = Port { listener, limits: Limits::new(CONNECTIONS), metrics: metrics.clone() };
            let reason = waiting.reason.clone();
            let service = service_fn(move |request: Request<_>| {
                let answer = answer(request.uri().path(), &reason.load());
                async { Ok::<_, Infallible>(answer) }
            });
            let stop = Stop { begin: waiting.begin.clone(), grace: GRACE };
            waiting.ports.spawn(server::serve(port, (), move |_| service.clone(), stop));
        }
        Ok(waiting)
    }

    /// Why the node waits, now.
    pub(crate) fn because(&self, reason: &str) {
        self.reason.store(Arc::new(reason.to_owned()));
    }

    /// Leaves the ports to others.
    pub(crate) async fn end(self) {
        self.begin.cancel();
        self.ports.close();
        self.ports.wait().await;
    }
}

fn answer(path: &str, reason: &str) -> Response<Full<Bytes>> {
    let (status, kind, text) = match path {
        "/livez" => (StatusCode::OK, "text/plain; charset=utf-8", "alive\n".to_owned()),
        "/readyz" => {
            (StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", format!("waiting for the storage: {reason}\n"))
        }
        _ => {
            let problem = serde_json::json!({
                "type": "/problems/not-applied",
                "title": "The request could not be served",
                "status": 503,
                "detail": "The node has just started and waits for its storage.",
            });
            (StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", problem.to_string())
        }
    };
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    if status != StatusCode::OK {
        answer.headers_mut().insert(RETRY_AFTER, hyper::header::HeaderValue::from_static("1"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_node_is_alive_and_says_what_it_waits_for() {
        assert_eq!(answer("/livez", "it is away").status(), StatusCode::OK);
        for path in ["/readyz", "/front-page/counter", "/metrics"] {
            let answer = answer(path, "it is away");
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.headers().contains_key(RETRY_AFTER));
        }
    }
}
