//! What is written for many updates at once, by the node's own metrics.

use std::collections::BTreeMap;

use counter_tests::http::Http;
use counter_tests::node::TestNode;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Updates that are made at once, and the pages among which they are dealt out.
const UPDATES: usize = 60;
const PAGES: usize = 12;

/// How many batches, records and changes the node has written.
async fn written(node: &TestNode) -> anyhow::Result<[u64; 3]> {
    Ok([
        node.metric("counter_commit_batches_total").await?,
        node.metric("counter_commit_records_total").await?,
        node.metric("counter_commit_changes_total").await?,
    ])
}

#[tokio::test]
async fn a_pipeline_and_a_batch_are_one_write_each_of_one_record_for_each_counter() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let pages = || (0..UPDATES).map(|update| format!("page-{}", update % PAGES));
    let mut counts = BTreeMap::new();
    for round in 1..=2 {
        let before = written(&node).await?;
        if round == 1 {
            let commands: String = pages().map(|page| format!("INCR {page}\r\n")).collect();
            let mut stream = TcpStream::connect(node.entry.resp.as_deref().unwrap()).await?;
            stream.write_all(commands.as_bytes()).await?;
            let mut answers = String::new();
            while answers.matches("\r\n").count() < UPDATES {
                let mut some = [0; 4096];
                let read = stream.read(&mut some).await?;
                anyhow::ensure!(read > 0, "closed after {answers}");
                answers.push_str(std::str::from_utf8(&some[..read])?);
            }
        } else {
            let updates: Vec<_> = pages().map(|page| json!({"page": page})).collect();
            let url = format!("{}/counters", node.http());
            Http::default().send(Method::POST, &url, Some(json!({"updates": updates}))).await?.json_of(StatusCode::OK)?;
        }
        let after = written(&node).await?;
        let new: Vec<u64> = before.iter().zip(after).map(|(before, after)| after - before).collect();
        assert_eq!(new, [1, PAGES as u64, UPDATES as u64], "round {round}");
        for page in pages() {
            *counts.entry(page).or_insert(0) += 1;
        }
        for (page, count) in &counts {
            assert_eq!(Http::default().count(&node.http(), page).await?, *count);
        }
    }
    Ok(())
}
