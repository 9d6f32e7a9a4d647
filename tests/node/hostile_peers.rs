//! Whoever reaches the peer port without being a peer, and what they can make a node hold: next to nothing.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use counter_core::message::ENVELOPE_BYTES_MAX;
use counter_core::proof::{BODY_HEADER, BodyDigest, ClusterToken, PROOF_HEADER};
use counter_node::peers::MESSAGES_PATH;
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TOKEN, TestNode};
use counter_tests::wait::until;
use futures::future::join_all;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::seen::Seen;

const PAGE: &str = "front-page";
/// What all bodies that a node reads may take together, as docs/security.md says.
const BODIES_BYTES: usize = 128 << 20;

/// The heads of a request with this body, by someone who knows `token`.
fn heads(token: &str, node: &TestNode, body: &[u8]) -> [(&'static str, String); 2] {
    let announced = BodyDigest::of(body);
    let proof = ClusterToken::new(token.as_bytes()).prove_peer(MESSAGES_PATH, &node.entry.name.0, &announced);
    [(BODY_HEADER, announced.to_string()), (PROOF_HEADER, proof)]
}

/// Begins a request of which `length` bytes are to come.
async fn begin(node: &TestNode, heads: &[(&str, String)], length: usize) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(&node.entry.peer).await?;
    let heads: String = heads.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("POST {MESSAGES_PATH} HTTP/1.1\r\nhost: node\r\n{heads}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// The status of the answer, which must come without anything more being sent.
async fn status(stream: &mut TcpStream) -> anyhow::Result<u16> {
    let mut line = [0; 12];
    tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut line)).await.context("no answer")??;
    Ok(std::str::from_utf8(&line)?.strip_prefix("HTTP/1.1 ").context("no HTTP")?.parse()?)
}

fn resident_kib(node: &TestNode) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid().context("the node does not run")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[tokio::test]
async fn a_stranger_is_refused_before_anything_of_the_body_is_read() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &[]).await?;
    let node = &cluster.nodes[0];
    let before = Seen::of(node, &[PAGE]).await?;
    let [announced, proof] = heads("wrong", node, b"hello");
    let cases = [vec![], vec![announced.clone()], vec![proof.clone()], vec![announced, proof]];
    for heads in cases {
        let mut stream = begin(node, &heads, ENVELOPE_BYTES_MAX).await?;
        assert_eq!(status(&mut stream).await?, 401, "{heads:?}");
    }
    assert_eq!(Seen::of(node, &[PAGE]).await?, before);
    Ok(())
}

/// 8 connections of 64 streams on each of which bodies come without end.
#[tokio::test]
async fn a_flood_of_unproven_bodies_is_not_held() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &[]).await?;
    let node = &cluster.nodes[0];
    let before_kib = resident_kib(node)?;
    let flood = join_all((0..8).map(async |_| {
        let stream = TcpStream::connect(&node.entry.peer).await?;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let statuses = join_all((0..64).map(async |_| {
            let piece = Bytes::from(vec![0; 64 << 10]);
            let endless = futures::stream::repeat_with(move || Ok::<_, Infallible>(Frame::data(piece.clone())));
            let request = Request::post(format!("http://{}{MESSAGES_PATH}", node.entry.peer)).body(StreamBody::new(endless))?;
            anyhow::Ok(sender.clone().send_request(request).await?.status())
        }))
        .await;
        connection.abort();
        statuses.into_iter().collect::<anyhow::Result<Vec<StatusCode>>>()
    }))
    .await;
    for statuses in flood {
        assert!(statuses?.iter().all(|status| *status == StatusCode::UNAUTHORIZED));
    }
    let grown_kib = resident_kib(node)?.saturating_sub(before_kib);
    assert!(grown_kib < 64 << 10, "the node has grown by {grown_kib} KiB");
    Ok(())
}

#[tokio::test]
async fn a_body_other_than_the_one_that_was_announced_is_refused() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &[]).await?;
    let node = &cluster.nodes[0];
    let before = Seen::of(node, &[PAGE]).await?;
    for (body, says) in
        [("hello", "peer messages of format 104"), ("hallo", "announced"), ("hello!", "announced"), ("hell", "announced")]
    {
        let request = Request::post(format!("http://{}{MESSAGES_PATH}", node.entry.peer));
        let request = heads(TOKEN, node, b"hello").iter().fold(request, |request, (name, value)| request.header(*name, value));
        let answer = Http::default().request(request.body(Bytes::from(body))?).await?;
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {text}");
        assert!(text.contains(says), "{body}: {text}");
        assert_eq!(Seen::of(node, &[PAGE]).await?, before);
    }
    Ok(())
}

/// As someone could who has recorded requests, and sends their heads again.
#[tokio::test]
async fn proven_bodies_that_do_not_come_take_a_bounded_place_and_give_it_back() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &[]).await?;
    let node = &cluster.nodes[0];
    let heads = heads(TOKEN, node, &vec![0; ENVELOPE_BYTES_MAX]);
    let mut held = Vec::new();
    for _ in 0..BODIES_BYTES / ENVELOPE_BYTES_MAX {
        held.push(begin(node, &heads, ENVELOPE_BYTES_MAX).await?);
    }
    // Each connection is served by a task of its own, so the order in which they take their places is open.
    until("there is no place left", async || {
        let mut one_more = begin(node, &heads, ENVELOPE_BYTES_MAX).await?;
        let refused = tokio::time::timeout(Duration::from_millis(100), status(&mut one_more)).await;
        if refused.is_err() {
            held.push(one_more);
        }
        anyhow::ensure!(refused.context("it has found a place")?? == 503);
        Ok(())
    })
    .await?;
    drop(held);
    until("a body finds a place again", async || {
        let mut stream = begin(node, &heads, ENVELOPE_BYTES_MAX).await?;
        stream.write_all(&vec![0; ENVELOPE_BYTES_MAX]).await?;
        let status = status(&mut stream).await?;
        // It is read whole, and found to be no envelope.
        anyhow::ensure!(status == 400, "status {status}");
        Ok(())
    })
    .await
}
