//! As many counters as a node admits, and one more.

use counter_tests::http::Http;
use counter_tests::node::TestNode;
use futures::StreamExt as _;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

/// The most updates of one request.
const BATCH: u64 = 1_000;
/// Requests at once while a node is filled.
const AT_ONCE: usize = 4;

/// Makes counters until there are `total`.
async fn fill(node: &TestNode, total: u64) -> anyhow::Result<()> {
    let (http, url) = (Http::default(), format!("{}/counters", node.http()));
    let batches = (0..total / BATCH).map(async |batch| {
        let updates: Vec<Value> = (0..BATCH).map(|number| json!({"page": format!("page-{}", batch * BATCH + number)})).collect();
        let results = http.send(Method::POST, &url, Some(json!({"updates": updates}))).await?.json_of(StatusCode::OK)?;
        let results = results["results"].as_array().unwrap();
        anyhow::ensure!(results.len() == updates.len() && results.iter().all(|result| result["status"] == 200), "batch {batch}");
        Ok(())
    });
    let mut batches = futures::stream::iter(batches).buffer_unordered(AT_ONCE);
    while let Some(done) = batches.next().await {
        done?;
    }
    Ok(())
}

async fn refuses_one_more_than(node: &TestNode, limit: u64) -> anyhow::Result<()> {
    let (http, base) = (Http::default(), node.http());
    let put = async |page: &str| http.send(Method::PUT, &format!("{base}/{page}/counter"), None).await;
    for _ in 0..2 {
        let refused = put("one-more").await?;
        assert_eq!(refused.headers["retry-after"], "60");
        let problem = refused.json_of(StatusCode::TOO_MANY_REQUESTS)?;
        assert_eq!(problem["type"], "/problems/too-many-counters");
        assert_eq!(problem["detail"], format!("The page is new, and the node holds {limit} counters, its limit."));
        assert_eq!(node.status().await?.storage.counters, limit);
        let read = http.get_json(&format!("{base}/one-more/counter")).await?;
        assert_eq!(read, json!({"count": 0, "updated_at": null}));
    }
    assert_eq!(put("page-0").await?.json_of(StatusCode::OK)?["count"], 2);
    let mixed = json!({"updates": [{"page": "one-more"}, {"page": "page-1"}]});
    let mixed = http.send(Method::POST, &format!("{base}/counters"), Some(mixed)).await?.json_of(StatusCode::OK)?;
    assert_eq!((&mixed["results"][0]["status"], &mixed["results"][1]["status"]), (&json!(429), &json!(200)), "{mixed}");
    assert_eq!(mixed["results"][1]["count"], 2);
    let site = http.get_json(&format!("{base}/counter")).await?;
    assert_eq!(site["count"], limit + 2);
    Ok(())
}

#[tokio::test]
async fn at_the_limit_new_pages_are_refused_and_old_ones_count_on_even_after_a_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-counters", "1000"])?;
    node.start_ready().await?;
    fill(&node, 1_000).await?;
    refuses_one_more_than(&node, 1_000).await?;
    node.kill().await?;
    node.start_ready().await?;
    let (http, base) = (Http::default(), node.http());
    assert_eq!(http.count(&base, "page-0").await?, 2);
    let refused = http.send(Method::PUT, &format!("{base}/one-more/counter"), None).await?;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    Ok(())
}

#[tokio::test]
async fn the_counter_after_a_million_is_refused_at_a_limit_of_a_million() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-counters", "1000000", "--fsync", "Never"])?;
    node.start_ready().await?;
    fill(&node, 1_000_000).await?;
    refuses_one_more_than(&node, 1_000_000).await
}
