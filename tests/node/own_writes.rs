//! A client's own writes show at whatever node it reads, or it is told that they do not yet.

use counter_core::layout::{LayoutVersion, VirtualShards};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode, give};
use counter_tests::relay::{Cut, Relay};
use counter_tests::session::Session;
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use serde_json::json;

/// A cluster whose nodes talk to each other through relays.
async fn relayed(shards: u16, replicas: u16) -> anyhow::Result<(Cluster, Vec<Relay>, Cut)> {
    let mut cluster = Cluster::prepare(shards, replicas, &[])?;
    let (cut, mut relays) = (Cut::default(), Vec::new());
    for node in cluster.layout.shards.iter_mut().flat_map(|shard| &mut shard.nodes) {
        let relay = Relay::start(&node.peer, &cut).await?;
        node.peer.clone_from(&relay.address);
        relays.push(relay);
    }
    for node in &mut cluster.nodes {
        node.start()?;
    }
    for node in &mut cluster.nodes {
        give(node, &cluster.layout).await?;
        node.ready().await?;
    }
    Ok((cluster, relays, cut))
}

#[tokio::test]
async fn every_node_shows_what_the_session_has_written_at_any_other() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (mut client, bases, page) = (Session::default(), cluster.bases(), cluster.page_of(1)?);
    let url = |node: usize, rest: &str| format!("{}{rest}", bases[node % bases.len()]);
    let counter = format!("/{page}/counter");
    let mut count = 0;
    for round in 0..60 {
        count += 1;
        let told = client.update(Method::PUT, &url(round, &counter), None).await?;
        assert_eq!(told["count"], count, "what was written before shows in the answer to an update, too");
        // At the node after, and at the one across.
        for other in [round + 1, round + 2] {
            assert_eq!(client.read(&url(other, &counter)).await?["count"], count, "round {round}, node {other}");
        }
        let detail = client.read(&url(round + 3, &format!("{counter}?detail=true"))).await?;
        assert_eq!(detail["count"], count, "{detail}");
        let batch = client.read(&url(round + 1, &format!("/counters?page={page}&page=other"))).await?;
        assert_eq!(batch["results"][0]["count"], count, "{batch}");
        if round % 7 == 6 {
            client.update(Method::DELETE, &url(round + 1, &counter), None).await?;
            count = 0;
            assert_eq!(client.read(&url(round + 2, &counter)).await?["count"], 0, "a reset is an update like any other");
        }
        let updates = json!({"updates": [{"page": page, "by": 2}, {"page": page, "action": "decrement"}]});
        client.update(Method::POST, &url(round + 2, "/counters"), Some(updates)).await?;
        count += 1;
        assert_eq!(client.read(&url(round + 3, &counter)).await?["count"], count);
    }
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_cut_off_says_so_to_the_session_and_serves_everyone_else() -> anyhow::Result<()> {
    let (mut cluster, _relays, cut) = relayed(1, 2).await?;
    let (mut client, bases) = (Session::default(), cluster.bases());
    let [writer, other] = [0, 1].map(|node| format!("{}/p/counter", bases[node]));
    client.update(Method::PUT, &writer, None).await?;
    assert_eq!(client.read(&other).await?["count"], 1);

    cut.cut();
    client.update(Method::PUT, &writer, None).await?;
    let refused = client.send(Method::GET, &other, None).await?;
    assert_eq!(refused.headers["retry-after"], "1");
    let problem = refused.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
    assert_eq!(problem["type"], "/problems/session-not-reached", "{problem}");
    for (method, url) in
        [(Method::PUT, other.clone()), (Method::DELETE, other.clone()), (Method::GET, format!("{other}?detail=true"))]
    {
        let problem = client.send(method, &url, None).await?.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
        assert_eq!(problem["type"], "/problems/session-not-reached", "{problem}");
    }
    let batch = client.read(&format!("{}/counters?page=p&page=q", bases[1])).await?;
    assert_eq!((&batch["results"][0]["status"], &batch["results"][1]["status"]), (&json!(503), &json!(200)), "{batch}");
    // Whoever does not ask is served by what is known; nothing of what was refused counts.
    assert_eq!(Http::default().count(&bases[1], "p").await?, 1);
    assert_eq!(client.read(&writer).await?["count"], 2);

    // Its writer dies, and is mended: what it had acknowledged is there, under its old identity.
    cluster.nodes[0].kill().await?;
    cut.mend();
    cluster.nodes[0].start_ready().await?;
    for url in [&writer, &other] {
        until("the session is reached", async || {
            let read = client.read(url).await?;
            assert_eq!(read["count"], 2);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_read_that_waits_is_served_when_the_write_comes() -> anyhow::Result<()> {
    let (cluster, _relays, cut) = relayed(1, 2).await?;
    let bases = cluster.bases();
    let [writer, other] = [0, 1].map(|node| format!("{}/p/counter", bases[node]));
    let mut served_at_once = 0;
    for round in 1..=5 {
        let mut client = Session::default();
        cut.cut();
        client.update(Method::PUT, &writer, None).await?;
        let waits = client.send(Method::GET, &other, None);
        let (answer, ()) = futures::join!(waits, async { cut.mend() });
        served_at_once += u32::from(answer?.status == StatusCode::OK);
        until("the session is reached", async || {
            assert_eq!(client.read(&other).await?["count"], round);
            Ok(())
        })
        .await?;
    }
    println!("{served_at_once} of 5 were served by the first request");
    Ok(())
}

#[tokio::test]
async fn what_was_written_to_any_virtual_shard_shows() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, &[]).await?;
    let layout = &mut cluster.layout;
    layout.version = LayoutVersion(layout.version.0 + 1);
    layout.virtual_shards = vec![
        VirtualShards { pages: "front*".to_owned(), count: 8, ever_count: 8 },
        VirtualShards { pages: "huge".to_owned(), count: 100, ever_count: 100 },
    ];
    for node in &cluster.nodes {
        give(node, &cluster.layout).await?;
    }
    let (mut client, bases) = (Session::default(), cluster.bases());
    let url = |node: usize| format!("{}/front/counter", bases[node % bases.len()]);
    let mut count = 0;
    for round in 0..40 {
        count += 1;
        assert_eq!(client.update(Method::PUT, &url(round), None).await?["count"], count, "round {round}");
        assert_eq!(client.read(&url(round + 1)).await?["count"], count, "round {round}");
        if round % 15 == 14 {
            client.update(Method::DELETE, &url(round + 2), None).await?;
            count = 0;
            assert_eq!(client.read(&url(round + 3)).await?["count"], 0, "round {round}");
        }
    }
    // Its parts are more than a session remembers.
    let huge = format!("{}/huge/counter", bases[0]);
    assert_eq!(client.update(Method::PUT, &huge, None).await?["count"], 1);
    let refused = client.send(Method::DELETE, &huge, None).await?.json_of(StatusCode::BAD_REQUEST)?;
    assert_eq!(refused["field"], "Counter-Session", "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_session_of_another_cluster_is_refused() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut one, mut other) = (TestNode::alone(&folder.path().join("1"), &[])?, TestNode::alone(&folder.path().join("2"), &[])?);
    one.start_ready().await?;
    other.start_ready().await?;
    let mut client = Session::default();
    client.update(Method::PUT, &format!("{}/p/counter", one.http()), None).await?;
    assert_eq!(client.read(&format!("{}/p/counter", one.http())).await?["count"], 1);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let refused =
            client.send(method, &format!("{}/p/counter", other.http()), None).await?.json_of(StatusCode::BAD_REQUEST)?;
        assert_eq!(refused["field"], "Counter-Session", "{refused}");
    }
    assert_eq!(Http::default().count(&other.http(), "p").await?, 0);
    Ok(())
}
