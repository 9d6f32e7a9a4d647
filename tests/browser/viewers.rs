//! People come, leave, and come back.

use std::time::{Duration, Instant};

use counter_tests::node::TestNode;
use counter_tests::wait::until;
use serde_json::json;

use crate::chromium::Chromium;
use crate::tab::Tab;

/// So that nobody is counted off by falling silent: whoever is, was seen to go.
const NO_HEARTBEAT: [&str; 2] = ["--presence-heartbeat", "600"];

/// A node that is a cluster of its own, ready.
pub(crate) async fn node(folder: &tempfile::TempDir, flags: &[&str]) -> anyhow::Result<TestNode> {
    let mut node = TestNode::alone(folder.path(), flags)?;
    node.start_ready().await?;
    Ok(node)
}

#[tokio::test]
async fn two_tabs_show_two_and_closing_one_shows_one() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &NO_HEARTBEAT).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/front-page/counter", node.http());
    let first = Tab::open(&browser, &url).await?;
    first.shows("1").await?;
    let second = Tab::open(&browser, &url).await?;
    second.shows("2").await?;
    first.shows("2").await?;
    let closed = Instant::now();
    second.close().await?;
    first.shows("1").await?;
    eprintln!("a closed tab was seen to leave after {} ms", closed.elapsed().as_millis());
    assert_eq!(first.complaints(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_tab_whose_renderer_dies_is_no_viewer_any_more() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &NO_HEARTBEAT).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/front-page/counter", node.http());
    let stays = Tab::open(&browser, &url).await?;
    let dies = Tab::open(&browser, &url).await?;
    stays.shows("2").await?;
    let died = Instant::now();
    dies.crash()?;
    stays.shows("1").await?;
    eprintln!("a tab that crashed was seen to leave after {} ms", died.elapsed().as_millis());
    Ok(())
}

#[tokio::test]
async fn who_goes_on_to_another_page_leaves_and_who_comes_back_is_there_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let browser = Chromium::start()?;
    let page = |name: &str| format!("{}/{name}/counter", node.http());
    let stays = Tab::open(&browser, &page("a")).await?;
    let goes = Tab::open(&browser, &page("a")).await?;
    stays.shows("2").await?;
    goes.go(&page("b")).await?;
    goes.shows("1").await?;
    stays.shows("1").await?;
    // Out of the browser's cache of whole documents, where it has one.
    goes.value("history.back()").await?;
    goes.becomes("location.pathname", &json!("/a/counter")).await?;
    stays.shows("2").await?;
    goes.shows("2").await?;
    goes.becomes("document.getElementById('connection').textContent", &json!("live")).await?;
    Ok(())
}

/// Has the browser say that the document is left, or shown again; `kept` whole meanwhile.
fn transition(event: &str, kept: bool) -> String {
    format!("dispatchEvent(new PageTransitionEvent('{event}', {{ persisted: {kept} }}))")
}

#[tokio::test]
async fn a_document_that_its_browser_keeps_whole_is_no_viewer_until_it_is_shown_again() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &NO_HEARTBEAT).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/front-page/counter", node.http());
    let stays = Tab::open(&browser, &url).await?;
    let goes = Tab::open(&browser, &url).await?;
    stays.shows("2").await?;
    goes.value(&transition("pagehide", true)).await?;
    stays.shows("1").await?;
    // As when a document is shown for the first time, which this one is not.
    goes.value(&transition("pageshow", false)).await?;
    goes.value("dispatchEvent(new Event('online'))").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    stays.shows("1").await?;
    goes.value(&transition("pageshow", true)).await?;
    stays.shows("2").await?;
    goes.shows("2").await
}

#[tokio::test]
async fn a_document_that_is_made_before_anyone_sees_it_is_no_viewer_until_someone_does() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/front-page/counter", node.http());
    let sees = Tab::open(&browser, &url).await?;
    sees.shows("1").await?;
    let early = Tab::empty(&browser).await?;
    let source = "Object.defineProperty(Document.prototype, 'prerendering', { get: () => !window.isSeen })";
    early.command("Page.addScriptToEvaluateOnNewDocument", json!({"source": source})).await?;
    early.go(&url).await?;
    early.value("document.dispatchEvent(new Event('visibilitychange'))").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    sees.shows("1").await?;
    early.value("isSeen = true; document.dispatchEvent(new Event('prerenderingchange'))").await?;
    sees.shows("2").await?;
    early.shows("2").await
}

#[tokio::test]
async fn a_hidden_tab_stays_a_viewer() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--presence-heartbeat", "3"]).await?;
    let browser = Chromium::start()?;
    let url = format!("{}/front-page/counter", node.http());
    let looks = Tab::open(&browser, &url).await?;
    let hides = Tab::open(&browser, &url).await?;
    looks.shows("2").await?;
    hides.command("Emulation.setFocusEmulationEnabled", json!({"enabled": false})).await?;
    hides.command("Page.setWebLifecycleState", json!({"state": "frozen"})).await?;
    // For longer than two heartbeats no script of it runs; its browser answers pings all the same.
    let hidden = Instant::now();
    until("two heartbeats are over", async || {
        let count = looks.value(crate::tab::SHOWN).await?;
        assert_eq!(count, json!("2"), "a tab that is only hidden was dropped");
        anyhow::ensure!(hidden.elapsed().as_secs() > 6, "it is hidden for {:?}", hidden.elapsed());
        Ok(())
    })
    .await?;
    hides.command("Page.setWebLifecycleState", json!({"state": "active"})).await?;
    hides.shows("2").await
}
