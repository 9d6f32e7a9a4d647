//! The bounds on live connections, and clients that are slow, or silent.

use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, RawSocket, figures, nothing_left};
use counter_tests::node::TestNode;
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

async fn alone(flags: &[&str]) -> anyhow::Result<(TestNode, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), flags)?;
    node.start_ready().await?;
    Ok((node, folder))
}

/// The answer's head to a connection that is not taken.
async fn refused(node: &TestNode) -> String {
    RawSocket::open(&node.http(), "/p/live", "").await.err().map(|error| error.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn so_many_connections_at_once_and_no_more() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--live-connections-max", "2"]).await?;
    let first = Follower::open(&node.http(), "/p/live").await?;
    let second = Events::open(&node.http(), "/p/live", &[]).await?;
    let head = refused(&node).await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: "), "{head}");
    assert_eq!(figures(&node).await?["connections_refused_total{limit=\"open\"}"], 1);
    drop(first);
    until("its place is free", async || Follower::open(&node.http(), "/p/live").await).await?;
    drop(second);
    nothing_left(&node).await
}

#[tokio::test]
async fn so_many_connections_from_one_address() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--live-connections-per-address-max", "1"]).await?;
    let first = Follower::open(&node.http(), "/p/live").await?;
    let head = refused(&node).await;
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("retry-after: "), "{head}");
    drop(first);
    until("its place is free", async || Follower::open(&node.http(), "/p/live").await).await?;
    Ok(())
}

#[tokio::test]
async fn a_herd_is_taken_by_and_by() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--live-connects-per-second", "1"]).await?;
    let _first = Follower::open(&node.http(), "/p/live").await?;
    let head = until("one is refused for the rate", async || {
        let head = refused(&node).await;
        anyhow::ensure!(head.starts_with("HTTP/1.1 503 "), "it was taken");
        Ok(head)
    })
    .await?;
    assert!(head.contains("retry-after: "), "{head}");
    until("another is taken in its turn", async || Follower::open(&node.http(), "/p/live").await).await?;
    Ok(())
}

#[tokio::test]
async fn so_many_subscriptions_of_followed_users_and_nobody_else_is_followed() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--live-unread-max", "1"]).await?;
    let (http, base) = (Http::default(), node.http());
    http.send(Method::PUT, &format!("{base}/users/ann/subscriptions/p"), None).await?.json_of(StatusCode::OK)?;
    http.send(Method::POST, &format!("{base}/p/modifications"), None).await?.json_of(StatusCode::OK)?;
    let mut ann = Follower::open(&base, "/users/ann/unread/live").await?;
    assert_eq!(ann.next_of("unread").await?["count"], 1);
    for path in ["/users/bob/unread/live", "/p/live?user=bob"] {
        let refused = Follower::open(&base, path).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(refused.contains("503"), "{path}: {refused}");
        // As a browser asks why, and when it may come again.
        let why = http.send(Method::GET, &format!("{base}{path}"), None).await?;
        assert!(why.status == StatusCode::SERVICE_UNAVAILABLE && why.headers.contains_key("retry-after"), "{path}: {why:?}");
    }
    let figures_now = figures(&node).await?;
    assert_eq!(figures_now["connections_refused_total{limit=\"unread\"}"], 2);
    assert_eq!(
        (figures_now["unread_users"], figures_now["unread_subscriptions"], figures_now["unread_changes_total"]),
        (1, 1, 1)
    );
    assert!(figures_now["unread_fetches_total{outcome=\"answered\"}"] >= 1);
    // Whoever follows her, too, takes no room.
    drop(Follower::open(&base, "/p/live?user=ann").await?);
    drop(Follower::open(&base, "/p/live").await?);
    drop(ann);
    until("there is room again", async || Follower::open(&base, "/users/bob/unread/live").await).await?;
    nothing_left(&node).await
}

#[tokio::test]
async fn a_client_that_neither_reads_nor_answers_is_cut_off_and_counts_no_more() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--presence-heartbeat", "2"]).await?;
    let mut observer = Follower::open(&node.http(), "/p/live?observe=true").await?;
    let mut silent = RawSocket::open(&node.http(), "/p/live", "").await?;
    observer.until("p", 1).await?;
    observer.until("p", 0).await?;
    assert_eq!(figures(&node).await?["connections_cut_total"], 1);
    silent.ends().await?;
    // Who answers pings, as the other does, stays.
    observer.say(&serde_json::json!({"type": "ping"})).await?;
    observer.next_of("pong").await?;
    drop(observer);
    nothing_left(&node).await
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_for_a_heartbeat_is_cut_off() -> anyhow::Result<()> {
    let (node, _folder) = alone(&["--presence-heartbeat", "2"]).await?;
    let (http, url) = (Http::default(), format!("{}/p/counter", node.http()));
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(2 << 10)?;
    let address = node.http().trim_start_matches("http://").parse()?;
    let mut stuck = socket.connect(address).await?;
    stuck.write_all(b"GET /p/live HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n").await?;
    let are_viewers = async |expected: u64| -> anyhow::Result<()> {
        let detail = http.send(Method::GET, &format!("{url}?detail=true"), None).await?.json_of(StatusCode::OK)?;
        anyhow::ensure!(detail["viewers"] == expected, "{detail}");
        Ok(())
    };
    until("it is counted", async || are_viewers(1).await).await?;
    // It never reads: soon its window is closed.
    until("it is counted off", async || {
        http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?;
        are_viewers(0).await
    })
    .await?;
    drop(stuck);
    Ok(())
}

#[tokio::test]
async fn a_slow_client_misses_what_it_was_too_slow_for_and_gets_the_last_count() -> anyhow::Result<()> {
    const UPDATES: i64 = 3_000;
    // So long a client may say nothing that reads only at the end.
    let (node, _folder) = alone(&["--presence-heartbeat", "600"]).await?;
    let (http, url) = (Http::default(), format!("{}/p/counter", node.http()));
    let mut client = Follower::open(&node.http(), "/p/live?observe=true").await?;
    client.until("p", 0).await?;
    for _ in 0..UPDATES {
        http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?;
    }
    let counts = client.until("p", UPDATES).await?;
    assert!(counts.windows(2).all(|pair| pair[0] < pair[1]), "counts go back: {counts:?}");
    assert!(counts.len() < 1_500, "{} of {UPDATES} counts were sent", counts.len());
    Ok(())
}
