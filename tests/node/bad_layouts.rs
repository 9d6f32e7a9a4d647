//! Layouts and other requests to the admin port that are wrong: who sends them, for whom, and what they say.

use bytes::Bytes;
use counter_core::id::ClusterId;
use counter_core::layout::{Layout, LayoutVersion};
use counter_core::proof::{AdminRequest, CLUSTER_HEADER, ClusterToken, NODE_HEADER, PROOF_HEADER};
use counter_core::slot::SlotRange;
use counter_tests::http::{Answer, Http};
use counter_tests::node::{CLUSTER, Cluster, TOKEN, TestNode, operator};
use hyper::{Method, Request, StatusCode};
use operator::nodes::{CallError, Target};
use serde_json::json;

use crate::seen::Seen;

const PAGE: &str = "front-page";

/// A one-node cluster that acts by version 2 of its layout and has counted something.
async fn cluster() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::start(1, 1, &["--pod-uid", "uid-of-the-pod"]).await?;
    cluster.layout.version = LayoutVersion(2);
    operator().put_layout(&cluster.nodes[0].target(), &cluster.layout).await?;
    Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", cluster.nodes[0].http()), None).await?;
    Ok(cluster)
}

fn refused(result: Result<(), CallError>) -> (u16, String) {
    match result {
        Err(CallError::Refused { status, detail }) => (status, detail),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_layout_that_is_not_the_next_is_refused_with_the_reason() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let (node, held) = (&cluster.nodes[0], &cluster.layout);
    let before = Seen::of(node, &[PAGE]).await?;
    let newer = Layout { version: LayoutVersion(3), ..held.clone() };
    let with_node = |change: &dyn Fn(&mut Layout)| {
        let mut layout = newer.clone();
        change(&mut layout);
        layout
    };
    let range = |text: &str| -> SlotRange { text.parse().unwrap() };
    let cases = [
        (Layout { version: LayoutVersion(1), ..held.clone() }, 409, "layout version 1 is older than 2, which this node has"),
        (
            Layout { cluster: ClusterId(1), ..newer.clone() },
            409,
            "the layout is of cluster 00000000000000000000000000000001, this",
        ),
        (
            with_node(&|layout| {
                layout.version = LayoutVersion(2);
                layout.shards[0].nodes[0].http = "elsewhere:8080".to_owned();
            }),
            409,
            "this node has another layout of the same version 2",
        ),
        (with_node(&|layout| layout.shards[0].slots = vec![range("0-16382")]), 400, "slot 16383 is owned by no shard"),
        (
            with_node(&|layout| layout.shards[0].slots = vec![range("0-16383"), range("7")]),
            400,
            "slot 7 is owned by shard 0 and by shard 0",
        ),
        (with_node(&|layout| layout.shards[0].nodes[0].peer = "nowhere".to_owned()), 400, "has no peer address of the form"),
        (with_node(&|layout| layout.format = 9), 400, "layout format 9 is newer than 1"),
    ];
    for (layout, expected, says) in cases {
        let (status, detail) = refused(operator().put_layout(&node.target(), &layout).await);
        assert_eq!(status, expected, "{detail}");
        assert!(detail.contains(says), "{detail}");
        assert_eq!(Seen::of(node, &[PAGE]).await?, before, "after {detail}");
    }
    // The same one again is no mistake, and a newer one is taken.
    operator().put_layout(&node.target(), held).await?;
    assert_eq!(Seen::of(node, &[PAGE]).await?, before);
    operator().put_layout(&node.target(), &newer).await?;
    assert_ne!(Seen::of(node, &[PAGE]).await?, before);
    Ok(())
}

/// Puts a body at `/layout`, with the right proof or with that of another token.
async fn put_layout(node: &TestNode, token: &str, body: &'static str) -> anyhow::Result<Answer> {
    let cluster = CLUSTER.to_string();
    let covered = AdminRequest {
        method: "PUT",
        path: "/layout",
        cluster: &cluster,
        node: &node.entry.name.0,
        pod_uid: "",
        body: body.as_bytes(),
    };
    let request = Request::put(format!("{}/layout", node.admin()))
        .header(CLUSTER_HEADER, &cluster)
        .header(NODE_HEADER, &node.entry.name.0)
        .header(PROOF_HEADER, ClusterToken::new(token.as_bytes()).prove_admin(&covered));
    Http::default().request(request.body(Bytes::from_static(body.as_bytes()))?).await
}

#[tokio::test]
async fn a_body_that_is_no_layout_is_refused_with_the_reason() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let node = &cluster.nodes[0];
    let before = Seen::of(node, &[PAGE]).await?;
    for (body, says) in [
        ("no json", "the body is no layout: expected"),
        ("{\"format\":1}", "missing field `cluster`"),
        ("{\"format\":1,\"cluster\":\"c\",\"version\":3,\"shards\":[]}", "`c` is no cluster id: expected 32 hexadecimal digits"),
    ] {
        let problem = put_layout(node, TOKEN, body).await?.json_of(StatusCode::BAD_REQUEST)?;
        assert_eq!(problem["type"], "/problems/bad-layout");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{problem}");
        assert_eq!(Seen::of(node, &[PAGE]).await?, before, "after {body}");
    }
    Ok(())
}

#[tokio::test]
async fn an_admin_request_without_proof_or_for_another_node_is_refused() -> anyhow::Result<()> {
    let cluster = cluster().await?;
    let (node, newer) = (&cluster.nodes[0], Layout { version: LayoutVersion(3), ..cluster.layout.clone() });
    let before = Seen::of(node, &[PAGE]).await?;
    let target = node.target();
    let cases = [
        (Target { tokens: [ClusterToken::new(b"wrong")].into(), ..target.clone() }, 401, "no valid proof of the cluster token"),
        (Target { tokens: [].into(), ..target.clone() }, 401, "no valid proof of the cluster token"),
        (Target { node: "test-0-9".into(), ..target.clone() }, 421, "is meant for node test-0-9, this is test-0-0"),
        (Target { cluster: Some(ClusterId(1)), ..target.clone() }, 421, "is meant for cluster 00000000000000000000000000000001"),
        (
            Target { pod_uid: Some("uid-of-another".to_owned()), ..target.clone() },
            421,
            "is meant for Pod uid-of-another, this is uid-of-the-pod",
        ),
    ];
    for (target, expected, says) in cases {
        let (status, detail) = refused(operator().put_layout(&target, &newer).await);
        assert_eq!(status, expected, "{detail}");
        assert!(detail.contains(says), "{detail}");
        let (status, _) = refused(operator().status(&target).await.map(drop));
        assert_eq!(status, expected, "GET /status: {detail}");
        assert_eq!(Seen::of(node, &[PAGE]).await?, before, "after {detail}");
    }
    let unproved = Http::default().send(Method::POST, &format!("{}/drain", node.admin()), Some(json!({}))).await?;
    assert_eq!(unproved.json_of(StatusCode::UNAUTHORIZED)?["type"], "/problems/no-proof");
    let ready = Http::default().send(Method::GET, &format!("{}/readyz", node.admin()), None).await?;
    assert_eq!(ready.status, StatusCode::OK, "an unproved drain drained");
    operator().put_layout(&Target { pod_uid: Some("uid-of-the-pod".to_owned()), ..target }, &newer).await?;
    Ok(())
}
