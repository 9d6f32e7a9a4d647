use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use counter_core::layout::Node;
use tokio::net::TcpListener;

use super::*;

/// A node that admits requests under one token, and remembers the bodies that it took.
#[derive(Clone)]
struct Admitting {
    token: ClusterToken,
    taken: Arc<Mutex<Vec<Vec<u8>>>>,
    answer: (StatusCode, &'static str),
}

const PROXY_PATH: &str = "/api/v1/namespaces/x/pods/a-0-0:8081/proxy";

async fn answer(
    State(node): State<Admitting>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> (StatusCode, &'static str) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let request = AdminRequest {
        method: method.as_str(),
        // A node sees what comes behind the API server's part of the path.
        path: uri.path().strip_prefix(PROXY_PATH).unwrap_or(uri.path()),
        cluster: header(CLUSTER_HEADER),
        node: header(NODE_HEADER),
        pod_uid: header(POD_UID_HEADER),
        body: &body,
    };
    if !node.token.admits_admin(&request, header(PROOF_HEADER)) {
        return (StatusCode::UNAUTHORIZED, "the proof is wrong");
    }
    node.taken.lock().unwrap().push(body.to_vec());
    node.answer
}

async fn node(token: &str, answer_with: (StatusCode, &'static str)) -> (Admitting, String) {
    let node = Admitting { token: ClusterToken::new(token.as_bytes()), taken: Arc::default(), answer: answer_with };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(answer).with_state(node.clone());
    tokio::spawn(crate::admin::serve(listener, router));
    (node, address)
}

fn target(address: &str, tokens: &[&str]) -> Target {
    Target {
        node: "a-0-0".into(),
        address: Address::Direct(address.to_owned()),
        cluster: Some(ClusterId(7)),
        pod_uid: Some("uid".to_owned()),
        tokens: tokens.iter().map(|token| ClusterToken::new(token.as_bytes())).collect(),
    }
}

fn layout() -> Layout {
    let address = |port| format!("a-0-0.a-nodes.x.svc:{port}");
    Layout::single(
        ClusterId(7),
        Node { name: "a-0-0".into(), http: address(8080), admin: address(8081), peer: address(8082), resp: None },
    )
}

fn client() -> NodeClient {
    NodeClient::new(None, Metrics::default())
}

#[tokio::test]
async fn a_layout_arrives_with_a_proof_that_the_node_admits() {
    let (node, address) = node("secret", (StatusCode::OK, "{\"version\":1}")).await;
    client().put_layout(&target(&address, &["secret"]), &layout()).await.unwrap();
    let taken = node.taken.lock().unwrap().clone();
    assert_eq!(taken.len(), 1);
    assert_eq!(serde_json::from_slice::<Layout>(&taken[0]).unwrap(), layout());
}

#[tokio::test]
async fn a_node_that_still_has_the_previous_token_is_reached_with_it() {
    let (node, address) = node("old", (StatusCode::OK, "{}")).await;
    client().put_layout(&target(&address, &["new", "old"]), &layout()).await.unwrap();
    assert_eq!(node.taken.lock().unwrap().len(), 1);
    let refused = client().put_layout(&target(&address, &["new"]), &layout()).await.unwrap_err();
    assert_eq!(refused.category(), "unauthorized");
}

#[tokio::test]
async fn a_refusal_keeps_its_status_and_text() {
    let (_node, address) = node("t", (StatusCode::CONFLICT, "an older version")).await;
    let refused = client().put_layout(&target(&address, &["t"]), &layout()).await.unwrap_err();
    assert_eq!(refused, CallError::Refused { status: 409, detail: "an older version".to_owned() });
}

#[tokio::test]
async fn what_is_no_status_is_malformed_and_what_does_not_listen_is_unreachable() {
    let (_node, address) = node("t", (StatusCode::OK, "hello")).await;
    let malformed = client().status(&target(&address, &["t"])).await.unwrap_err();
    assert_eq!(malformed.category(), "malformed");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let unreachable = client().status(&target(&closed.to_string(), &["t"])).await.unwrap_err();
    assert_eq!(unreachable.category(), "unreachable");
}

/// What stands for the API server at `address`, and the node behind it.
fn by_proxy(address: &str) -> (NodeClient, Target) {
    let mut config = kube::Config::new(format!("http://{address}").parse().unwrap());
    // As the operator's own client does, which comes again by itself.
    config.default_retry = false;
    let proxy = Address::Proxy { namespace: "x".to_owned(), pod: "a-0-0".to_owned(), port: 8081 };
    let client = NodeClient::new(Some(kube::Client::try_from(config).unwrap()), Metrics::default());
    (client, Target { address: proxy, ..target(address, &["secret"]) })
}

#[tokio::test]
async fn through_the_api_server_the_proof_is_of_what_the_node_sees() {
    let (node, address) = node("secret", (StatusCode::OK, "{}")).await;
    let (client, target) = by_proxy(&address);
    client.put_layout(&target, &layout()).await.unwrap();
    let taken = node.taken.lock().unwrap().clone();
    assert_eq!(serde_json::from_slice::<Layout>(&taken[0]).unwrap(), layout());
}

#[tokio::test]
async fn what_the_api_server_says_in_a_nodes_place_is_told_from_what_the_node_says() {
    let gone = r#"{"kind": "Status", "apiVersion": "v1", "message": "error trying to reach service", "code": 503}"#;
    let refused = r#"{"kind": "Status", "apiVersion": "v1", "message": "pods is forbidden", "code": 403}"#;
    let own = r#"{"type": "/problems/not-durable", "status": 503}"#;
    for (status, said, category) in [(503, gone, "unreachable"), (403, refused, "forbidden"), (503, own, "refused")] {
        let (_node, address) = node("secret", (StatusCode::from_u16(status).unwrap(), said)).await;
        let (client, target) = by_proxy(&address);
        assert_eq!(client.status(&target).await.unwrap_err().category(), category, "{said}");
    }
}
