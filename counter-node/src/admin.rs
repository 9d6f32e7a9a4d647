//! The admin port: probes and metrics for everyone who reaches it; status, layout and drain for who knows the token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use counter_core::layout::{Layout, LayoutRefused};
use counter_core::proof::{AdminRequest, CLUSTER_HEADER, NODE_HEADER, POD_UID_HEADER, PROOF_HEADER};
use counter_core::status::{NodeStatus, Readiness};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::protocol::Protocol;
use crate::status::StatusSource;
use crate::telemetry::Metrics;
use crate::tokens::ClusterTokens;

/// The longest body: a layout of 256 shards with 7 nodes each, with every address at its longest, is far shorter.
const BODY_BYTES_MAX: usize = 4 << 20;
/// How long it may take to come: until it is whole, nothing proves whom it is from.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long a layout may take to become durable before the caller is told that it is not: less than callers wait.
const LAYOUT_TIME: Duration = Duration::from_secs(2);

/// What the admin port shows and changes.
pub struct Admin {
    pub protocol: Arc<Protocol>,
    pub status: StatusSource,
    pub metrics: Metrics,
    pub tokens: Arc<ClusterTokens>,
    pub pod_uid: Option<String>,
    pub live: Arc<Live>,
    /// Cancelled by a drain.
    pub drain: CancellationToken,
}

impl Admin {
    /// The node is about to exit: it is not ready any more, and sends its clients elsewhere. Their viewers count on.
    pub fn begin_drain(&self) {
        self.protocol.drain();
        self.live.begin_leaving();
        self.drain.cancel();
    }
}

/// The admin port's routes.
pub fn router(admin: Arc<Admin>) -> axum::Router {
    let guarded = axum::Router::new()
        .route("/status", get(status))
        .route("/layout", put(layout))
        .route("/drain", post(drain))
        .route_layer(from_fn_with_state(admin.clone(), guard));
    axum::Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(guarded)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "not-found", "There is nothing at this path.") })
        .with_state(admin)
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let readiness = admin.status.readiness();
    let (status, text) = match readiness {
        Readiness::Ready => (StatusCode::OK, "ready\n"),
        Readiness::WaitingForLayout => (StatusCode::SERVICE_UNAVAILABLE, "waiting for a layout\n"),
        Readiness::NotInLayout => (StatusCode::SERVICE_UNAVAILABLE, "the layout does not name this node\n"),
        Readiness::MergingSiblings => (StatusCode::SERVICE_UNAVAILABLE, "merging what the siblings hold\n"),
        Readiness::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    };
    (status, text).into_response()
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics", &error.to_string()),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<NodeStatus> {
    Json(admin.status.read_durable().await)
}

async fn layout(State(admin): State<Arc<Admin>>, body: Bytes) -> Response {
    let layout: Layout = match serde_json::from_slice(&body) {
        Ok(layout) => layout,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "bad-layout", &format!("the body is no layout: {error}")),
    };
    let version = layout.version;
    let offered = admin.protocol.offer_layout(layout);
    admin.protocol.settles(LAYOUT_TIME).await;
    match offered {
        Ok(_) if admin.protocol.durable_layout().is_none_or(|durable| durable.version < version) => {
            let detail = format!("the node acts by layout {version}, and cannot store it yet: offer it again");
            problem(StatusCode::SERVICE_UNAVAILABLE, "not-durable", &detail)
        }
        Ok(_) => Json(json!({ "version": version })).into_response(),
        Err(refused @ LayoutRefused::Invalid(_)) => problem(StatusCode::BAD_REQUEST, "bad-layout", &refused.to_string()),
        Err(refused) => problem(StatusCode::CONFLICT, "layout-refused", &refused.to_string()),
    }
}

async fn drain(State(admin): State<Arc<Admin>>, headers: HeaderMap) -> Response {
    let Claim { node, proof, .. } = Claim::of(&headers);
    if node.is_empty() && proof.is_empty() {
        // Any web page can have a browser post to a development node, but not with a header of ours.
        let detail = format!("a drain names its node in the header `{NODE_HEADER}`: this is {}", admin.protocol.me());
        return problem(StatusCode::FORBIDDEN, "no-node", &detail);
    }
    admin.begin_drain();
    StatusCode::ACCEPTED.into_response()
}

/// Lets through only who knows the cluster's token, and means this node of this cluster.
async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(Ok(body)) = tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_BYTES_MAX)).await else {
        let limits = format!("the body may have {BODY_BYTES_MAX} bytes and take {} s", BODY_TIME.as_secs());
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "too-large", &limits);
    };
    let claim = Claim::of(&parts.headers);
    let covered = AdminRequest {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        cluster: claim.cluster,
        node: claim.node,
        pod_uid: claim.pod_uid,
        body: &body,
    };
    if !admin.tokens.admit_admin(&covered, claim.proof) {
        return problem(StatusCode::UNAUTHORIZED, "no-proof", "the request carries no valid proof of the cluster token");
    }
    if let Some(mismatch) = admin.mismatch(&claim) {
        return problem(StatusCode::MISDIRECTED_REQUEST, "other-node", &mismatch);
    }
    next.run(Request::from_parts(parts, body.into())).await
}

/// Whom a request is meant for, and its proof. Absent headers are empty and mean anyone.
struct Claim<'a> {
    cluster: &'a str,
    node: &'a str,
    pod_uid: &'a str,
    proof: &'a str,
}

impl<'a> Claim<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Self { cluster: text(CLUSTER_HEADER), node: text(NODE_HEADER), pod_uid: text(POD_UID_HEADER), proof: text(PROOF_HEADER) }
    }
}

impl Admin {
    /// What of the claim is not this node, if anything. A node without a cluster belongs to any.
    fn mismatch(&self, claim: &Claim<'_>) -> Option<String> {
        let cluster = self.protocol.view().routes.as_ref().map(|routes| routes.layout.cluster.to_string());
        let name = self.protocol.me().0.as_str();
        let parts = [
            ("cluster", claim.cluster, cluster.as_deref()),
            ("node", claim.node, Some(name)),
            ("Pod", claim.pod_uid, self.pod_uid.as_deref()),
        ];
        parts.into_iter().find_map(|(what, meant, here)| {
            let here = here.filter(|here| !meant.is_empty() && *here != meant)?;
            Some(format!("the request is meant for {what} {meant}, this is {here}"))
        })
    }
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    let body = json!({
        "type": format!("/problems/{kind}"),
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}
