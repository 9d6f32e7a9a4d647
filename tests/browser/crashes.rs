//! Gateways die, and the people behind them hardly notice.

use std::time::Instant;

use anyhow::ensure;
use counter_tests::http::Http;
use counter_tests::node::Cluster;
use counter_tests::wait::until;
use serde_json::json;

use crate::chromium::Chromium;
use crate::gate::Gate;
use crate::tab::Tab;

const STATE: &str = "document.getElementById('connection').textContent";

#[tokio::test]
async fn when_a_gateway_is_killed_the_numbers_are_right_again_and_clients_go_elsewhere() -> anyhow::Result<()> {
    // So that nobody is counted off by falling silent.
    let mut cluster = Cluster::start(1, 3, &["--presence-heartbeat", "600"]).await?;
    let addresses: Vec<String> = cluster.nodes.iter().map(|node| node.entry.http.clone()).collect();
    let gate = Gate::to(&[&addresses[0], &addresses[1]]).await?;
    let elsewhere = Gate::to(&[&addresses[2]]).await?;
    let browser = Chromium::start()?;
    let watches = Tab::open(&browser, &format!("{}/front-page/counter", elsewhere.url())).await?;
    let moves_on = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    let dies_too = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    for tab in [&watches, &moves_on, &dies_too] {
        tab.shows("3").await?;
    }
    // With the gateway goes a viewer who does not come back.
    let killed = Instant::now();
    cluster.nodes[0].kill().await?;
    dies_too.crash()?;
    moves_on.becomes(STATE, &json!("live")).await?;
    watches.shows("2").await?;
    moves_on.shows("2").await?;
    eprintln!("a gateway was killed: every number right after {} ms", killed.elapsed().as_millis());
    let http = Http::default();
    until("every node that is left counts two", async || {
        for node in &cluster.nodes[1..] {
            let count = http.count(&node.http(), "front-page").await?;
            ensure!(count == 2, "{} counts {count}", node.entry.name);
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_document_says_that_it_is_offline_and_recovers_by_itself() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &[]).await?;
    let address = cluster.nodes[0].entry.http.as_str();
    let gate = Gate::to(&[address]).await?;
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    tab.shows("1").await?;
    // From the server's side it looks as if everyone had left, from the browser's as if nobody answered.
    gate.lead_to(&[]);
    gate.cut();
    tab.becomes(STATE, &json!("offline")).await?;
    tab.becomes(
        "document.querySelector('live-count').shadowRoot.querySelector('[part~=number]').part.contains('stale')",
        &json!(true),
    )
    .await?;
    gate.lead_to(&[address]);
    tab.becomes(STATE, &json!("live")).await?;
    tab.shows("1").await
}
