//! Messages on the peer port that are wrong. The very message that is refused is merged once it comes as it should.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::id::{ActorId, ClusterId};
use counter_core::message::{Envelope, Header, LayoutId, MESSAGE_FORMAT, Message};
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};
use counter_core::vector::SlotDelta;
use counter_node::hosts::Hosts;
use counter_node::peers::{MESSAGES_PATH, PeerClient, PostError};
use counter_node::tokens::ClusterTokens;
use counter_tests::count::{Ledger, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TOKEN, give};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};

use crate::seen::Seen;

const PAGE: &str = "front-page";

/// What the sibling, which exists only in this test, has counted.
fn delta(actor: ActorId, now: Hlc) -> anyhow::Result<SlotDelta> {
    let table = Table::new(1, TableLimits { counters: 9, memory_bytes: u64::MAX, tokens: 9, token_window_ms: 600_000 });
    table.set_writer(Slot::all(), Some(actor));
    let key = Key::new(PAGE.as_bytes())?;
    table.apply(&key, Update::Increment(5), None, now).unwrap();
    let slot = table.slot(key.slot());
    Ok(slot.delta(key.slot(), [&key]))
}

fn message(cluster: &Cluster) -> anyhow::Result<Envelope> {
    let actor = ActorId::new(4_711, 1, 1);
    let clock = Hlc::from_wall_ms(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?);
    let header = Header {
        cluster: Some(cluster.layout.cluster),
        from: cluster.nodes[1].entry.name.clone(),
        to: Some(cluster.nodes[0].entry.name.clone()),
        actor,
        layout: Some(LayoutId::of(&cluster.layout)),
        clock,
    };
    Ok(Envelope { header, body: vec![Message::Delta { sequence: 1, slots: vec![delta(actor, clock)?] }] })
}

fn tokens(folder: &Path, token: &str) -> anyhow::Result<ClusterTokens> {
    let file = folder.join(token.replace(' ', "-"));
    std::fs::write(&file, token)?;
    Ok(ClusterTokens::open(Some(&file))?)
}

/// A cluster of two of which only the first runs.
async fn half() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::prepare(1, 2, &[])?;
    cluster.nodes[0].start()?;
    give(&cluster.nodes[0], &cluster.layout).await?;
    cluster.nodes[0].ready().await?;
    Ok(cluster)
}

#[tokio::test]
async fn a_peer_that_is_none_is_refused_and_nothing_of_it_is_merged() -> anyhow::Result<()> {
    let (cluster, folder) = (half().await?, tempfile::tempdir()?);
    let node = &cluster.nodes[0];
    let (client, right, wrong) =
        (PeerClient::new(Hosts::new(None)), tokens(folder.path(), TOKEN)?, tokens(folder.path(), "wrong")?);
    let post = async |tokens: &ClusterTokens, to: &str, body: Vec<u8>| {
        client.post(tokens, &node.entry.peer, MESSAGES_PATH, to, Bytes::from(body)).await
    };
    let (before, good, me) = (Seen::of(node, &[PAGE]).await?, message(&cluster)?, node.entry.name.0.as_str());

    let for_another = {
        let mut envelope = good.clone();
        envelope.header.to = Some("test-0-9".into());
        envelope.encode()
    };
    let mut newer = good.encode();
    assert_eq!(u16::from(newer[0]), MESSAGE_FORMAT);
    newer[0] += 1;
    for (what, tokens, to, body, status) in [
        ("a wrong token", &wrong, me, good.encode(), 401),
        ("a proof for another node", &right, "test-0-9", good.encode(), 401),
        ("an envelope for another node", &right, me, for_another, 421),
        ("a newer format", &right, me, newer, 400),
        ("no envelope", &right, me, b"hello".to_vec(), 400),
    ] {
        match post(tokens, to, body).await {
            Err(PostError::Refused(refused)) => assert_eq!(refused.as_u16(), status, "{what}"),
            other => panic!("{what}: expected a refusal, got {other:?}"),
        }
        assert_eq!(Seen::of(node, &[PAGE]).await?, before, "after {what}");
    }
    // Another cluster's node is answered, so that it can be told from a broken one, and not listened to.
    let mut foreign = good.clone();
    foreign.header.cluster = Some(ClusterId(1));
    let _ = post(&right, me, foreign.encode()).await;
    assert_eq!(Seen::of(node, &[PAGE]).await?, before, "another cluster's message was merged");

    post(&right, me, good.encode()).await?;
    until("the right message is merged", async || {
        let count = Http::default().count(&node.http(), PAGE).await?;
        anyhow::ensure!(count == 5, "counts {count}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_sibling_with_another_token_is_not_listened_to_until_it_has_the_right_one() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(1, 2, &[])?;
    cluster.nodes[1].set_token("the token of someone else")?;
    for index in 0..2 {
        cluster.nodes[index].start()?;
        give(&cluster.nodes[index], &cluster.layout).await?;
    }
    for node in &mut cluster.nodes {
        node.ready().await?;
    }
    let (http, bases) = (Http::default(), cluster.bases());
    let mut told = Ledger::default();
    for base in &bases {
        http.send(Method::PUT, &format!("{base}/{PAGE}/counter"), None).await?.json_of(StatusCode::OK)?;
        told.acknowledged += 1;
    }
    for node in &cluster.nodes {
        until("the other's messages are refused", async || {
            let log = node.log_tail();
            anyhow::ensure!(log.contains("the request carries no valid proof of the cluster token"), "{log}");
            Ok(())
        })
        .await?;
        assert_eq!(http.count(&node.http(), PAGE).await?, 1, "the other's update was merged");
    }
    cluster.nodes[1].set_token(TOKEN)?;
    agreed(&http, &bases, PAGE, &told).await?;
    Ok(())
}
