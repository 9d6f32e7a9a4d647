//! The cluster token is replaced while clients count: by the operator's contract, as two files that change under a node.

use counter_core::proof::ClusterToken;
use counter_tests::count::{Counting, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TOKEN, TestNode, operator};
use counter_tests::wait::until;
use operator::nodes::{CallError, Target};

const NEW: &str = "the token after it";

/// Whether the node takes what the token proves.
async fn admits(node: &TestNode, token: &str) -> anyhow::Result<bool> {
    let target = Target { tokens: [ClusterToken::new(token.as_bytes())].into(), ..node.target() };
    match operator().status(&target).await {
        Ok(_) => Ok(true),
        Err(CallError::Refused { status: 401, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn takes(node: &TestNode, token: &str, admitted: bool) -> anyhow::Result<()> {
    until("the node has read its token files again", async || {
        anyhow::ensure!(admits(node, token).await? == admitted, "it is not so yet");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn nodes_whose_token_is_rotated_one_after_the_other_serve_all_the_while() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, &[]).await?;
    let (http, bases, page) = (Http::default(), cluster.bases(), cluster.page_of(1)?);
    let everywhere = bases.clone();
    let counting = Counting::start(&page, 4, move || everywhere.clone());
    for index in 0..cluster.nodes.len() {
        counting.acknowledge(40).await?;
        let node = &mut cluster.nodes[index];
        node.rotate_token(NEW)?;
        takes(node, NEW, true).await?;
        assert!(admits(node, TOKEN).await?, "the others may not have read the new one yet");
        counting.acknowledge(40).await?;
    }
    // A start in the middle of it finds both.
    cluster.nodes[0].stop().await?;
    cluster.nodes[0].start_ready().await?;
    assert!(admits(&cluster.nodes[0], TOKEN).await?);
    for node in &cluster.nodes {
        node.end_rotation()?;
        takes(node, TOKEN, false).await?;
        counting.acknowledge(40).await?;
    }
    let told = counting.stop().await;
    agreed(&http, &bases, &page, &told).await?;
    Ok(())
}
