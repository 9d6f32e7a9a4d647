//! Networks that let only some things through.

use counter_tests::http::Http;
use counter_tests::live::Follower;
use counter_tests::wait::until;
use serde_json::json;

use crate::chromium::Chromium;
use crate::files::Site;
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

#[tokio::test]
async fn tabs_of_one_user_are_one_unique_viewer_by_streams_and_by_heartbeats() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--cors-origin", "*"]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    gate.keep_out_sockets();
    let site = Site::serve(&gate.url()).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/ferry.html", site.url());
    let tabs = [Tab::open(&browser, &url).await?, Tab::open(&browser, &url).await?];
    let is_one_person = async |state: &str| {
        for tab in &tabs {
            tab.becomes("document.querySelector('live-count').state", &json!(state)).await?;
        }
        until("two tabs are one person", async || {
            let detail = Http::default().get_json(&format!("{}/harbour%2Fferry/counter?detail=true", node.http())).await?;
            anyhow::ensure!(detail["viewers"] == 2 && detail["unique"] == 1, "{detail}");
            Ok(())
        })
        .await
    };
    is_one_person("live").await?;
    assert_eq!(gate.passed(), (0, 4), "the page and what is unread, in each tab");
    gate.keep_out_streams();
    gate.cut();
    is_one_person("polling").await
}

/// Keeps when a document's scripts were told to come again, and after how many seconds, and tells them all the time that the network is back.
const KEEP_REFUSALS: &str = "{
    window.refusals = [];
    const { fetch } = window;
    window.fetch = async (...all) => {
      const answer = await fetch(...all);
      if (answer.headers.has('retry-after')) refusals.push({ at: Date.now(), s: Number(answer.headers.get('retry-after')) });
      return answer;
    };
    setInterval(() => dispatchEvent(new Event('online')), 20);
}";

#[tokio::test]
async fn where_a_node_takes_nobody_now_the_browser_waits_as_long_as_it_is_told() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--live-connections-max", "1"]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    let browser = Chromium::start()?;
    let other = Follower::open(&node.http(), "/elsewhere/live").await?;
    let tab = Tab::empty(&browser).await?;
    tab.command("Page.addScriptToEvaluateOnNewDocument", json!({"source": KEEP_REFUSALS})).await?;
    tab.go(&format!("{}/front-page/counter", gate.url())).await?;
    let obeys = "refusals.length > 1 && refusals.every(({ s }) => s > 0) && \
                 refusals.slice(1).every(({ at }, index) => at - refusals[index].at >= refusals[index].s * 1000)";
    tab.becomes(obeys, &json!(true)).await?;
    drop(other);
    tab.becomes(STATE, &json!("live")).await?;
    tab.shows("1").await?;
    assert_eq!(gate.passed().1, 0, "it waits for its WebSocket, and tries no other way meanwhile");
    Ok(())
}

#[tokio::test]
async fn where_a_node_takes_nobody_for_long_the_viewer_counts_by_heartbeats() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--live-connections-max", "1"]).await?;
    let browser = Chromium::start()?;
    let _other = Follower::open(&node.http(), "/elsewhere/live").await?;
    let tab = Tab::open(&browser, &format!("{}/front-page/counter", node.http())).await?;
    tab.becomes(STATE, &json!("polling")).await?;
    tab.shows("1").await
}
