//! Networks that let only some things through.

use counter_tests::http::Http;
use counter_tests::wait::until;
use serde_json::json;

use crate::chromium::Chromium;
use crate::gate::Gate;
use crate::tab::Tab;
use crate::viewers::node;

const STATE: &str = "document.getElementById('connection').textContent";

#[tokio::test]
async fn where_websockets_are_kept_out_events_are_streamed() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    gate.keep_out_sockets();
    let browser = Chromium::start()?;
    let first = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    first.shows("1").await?;
    let second = Tab::open(&browser, &format!("{}/front-page/counter", node.http())).await?;
    first.shows("2").await?;
    second.close().await?;
    first.shows("1").await?;
    first.becomes(STATE, &json!("live")).await?;
    assert_eq!(gate.passed(), (0, 1), "one stream, and no socket");
    Ok(())
}

#[tokio::test]
async fn where_nothing_may_stay_open_the_number_is_asked_for_and_the_viewer_counts() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    gate.keep_out_sockets();
    gate.keep_out_streams();
    let browser = Chromium::start()?;
    let polls = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    polls.becomes(STATE, &json!("polling")).await?;
    polls.shows("1").await?;
    let pushed = Tab::open(&browser, &format!("{}/front-page/counter", node.http())).await?;
    pushed.shows("2").await?;
    polls.shows("2").await?;
    assert_eq!(gate.passed(), (0, 0));
    // Closing it sends a beacon: nobody waits for the heartbeat that stays out.
    polls.close().await?;
    pushed.shows("1").await
}

#[tokio::test]
async fn a_network_that_lets_sockets_through_again_is_used_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &format!("{}/front-page/counter", gate.url())).await?;
    tab.shows("1").await?;
    gate.cut();
    until("the socket was opened anew", async || {
        anyhow::ensure!(gate.passed().0 >= 2, "{:?}", gate.passed());
        Ok(())
    })
    .await?;
    tab.becomes(STATE, &json!("live")).await?;
    until("the one before is not counted any more", async || {
        let count = Http::default().count(&node.http(), "front-page").await?;
        anyhow::ensure!(count == 1, "it counts {count}");
        Ok(())
    })
    .await
}
