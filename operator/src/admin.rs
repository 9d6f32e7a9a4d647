//! The operator's own probes and metrics, served by leaders and followers alike.
//!
//! `/livez`: the process runs. `/readyz`: it does what it is there for, or stands by for it; the text says which.
//! Readiness is not liveness: a missing CustomResourceDefinition makes an operator unready, and no restart cures that.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::telemetry::Metrics;

/// Connections at a time: probes and one or two scrapers.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send its request's head.
const HEADER_TIME_MAX: Duration = Duration::from_secs(5);

/// What the process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    Starting,
    /// The API server cannot be asked, with the reason.
    NoApi(String),
    WaitingForCrd,
    /// Another process leads; this one stands by.
    Following,
    Leading,
    Stopping,
}

impl Stage {
    fn ready(&self) -> bool {
        matches!(self, Self::Following | Self::Leading)
    }

    fn text(&self) -> String {
        match self {
            Self::Starting => "starting".to_owned(),
            Self::NoApi(reason) => format!("the Kubernetes API does not answer: {reason}"),
            Self::WaitingForCrd => {
                "waiting for the CustomResourceDefinition distributedcounters.distributedcounter.dev: install the chart's, or \
                 `operator crd | kubectl apply -f -`"
                    .to_owned()
            }
            Self::Following => "standing by, another process leads".to_owned(),
            Self::Leading => "leading".to_owned(),
            Self::Stopping => "stopping".to_owned(),
        }
    }
}

#[derive(Clone)]
struct Shown {
    stage: watch::Receiver<Stage>,
    metrics: Metrics,
}

/// The routes.
pub fn router(stage: watch::Receiver<Stage>, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shown { stage, metrics })
}

async fn readyz(State(shown): State<Shown>) -> Response {
    let stage = shown.stage.borrow().clone();
    let status = if stage.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, stage.text()).into_response()
}

async fn scrape(State(shown): State<Shown>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match shown.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Serves `router` for as long as the process runs.
pub async fn serve(listener: TcpListener, router: Router) -> Infallible {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Accepting waits for a free place, so clients past the limit wait in the kernel's queue.
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else {
            std::future::pending::<()>().await;
            continue;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the health port could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _place = place;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIME_MAX)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the health port ended early");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(stage: Stage, path: &str) -> (StatusCode, String) {
        let (_sender, receiver) = watch::channel(stage);
        let request = axum::http::Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = router(receiver, Metrics::default()).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn an_operator_without_its_crd_is_alive_and_not_ready() {
        assert_eq!(get(Stage::WaitingForCrd, "/livez").await.0, StatusCode::OK);
        let (status, text) = get(Stage::WaitingForCrd, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("distributedcounters.distributedcounter.dev"), "{text}");
    }

    #[tokio::test]
    async fn leaders_and_followers_are_ready_and_show_metrics() {
        for stage in [Stage::Leading, Stage::Following] {
            assert_eq!(get(stage.clone(), "/readyz").await.0, StatusCode::OK);
            let (status, text) = get(stage, "/metrics").await;
            assert_eq!(status, StatusCode::OK);
            assert!(text.ends_with("# EOF\n"));
        }
    }
}
