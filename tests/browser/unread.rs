//! The badge: what a reader has not read, as it changes under open tabs.

use counter_tests::http::Http;
use counter_tests::node::Cluster;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::files::Site;
use crate::gate::Gate;
use crate::tab::Tab;
use crate::viewers::node;

const BADGE: &str = "document.querySelector('unread-badge')";
const FOLLOW: &str = "document.querySelector('[data-page] input')";

/// Waits until the badge shows this number; none: until it is not there.
async fn badge(tab: &Tab, number: Option<&str>) -> anyhow::Result<()> {
    tab.becomes(&format!("{BADGE}.checkVisibility()"), &json!(number.is_some())).await?;
    match number {
        Some(number) => {
            tab.becomes(&format!("{BADGE}.shadowRoot.querySelector('[part~=number]').textContent"), &json!(number)).await
        }
        None => Ok(()),
    }
}

async fn click(tab: &Tab, element: &str) -> anyhow::Result<Value> {
    tab.becomes(&format!("{element}.disabled"), &json!(false)).await?;
    tab.value(&format!("{element}.click()")).await
}

#[tokio::test]
async fn a_modification_raises_the_badge_in_open_tabs_and_reading_lowers_it_in_the_others() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &["--cors-origin", "*"]).await?;
    let bases = cluster.bases();
    // Two tabs by way of two nodes, and changes by a third.
    let (site, other) = (Site::serve(&bases[0]).await?, Site::serve(&bases[1]).await?);
    let browser = Chromium::start()?;
    let front = Tab::open(&browser, &format!("{}/index.html", site.url())).await?;
    let ferry = Tab::open(&browser, &format!("{}/ferry.html", other.url())).await?;
    badge(&front, None).await?;
    click(&ferry, FOLLOW).await?;
    ferry.becomes(&format!("{FOLLOW}.checked && !{FOLLOW}.disabled"), &json!(true)).await?;
    let modify = format!("{}/harbour%2Fferry/modifications", bases[3]);
    for number in ["1", "2"] {
        Http::default().send(Method::POST, &modify, None).await?.json_of(StatusCode::OK)?;
        badge(&front, Some(number)).await?;
        badge(&ferry, Some(number)).await?;
    }
    // By the page's own button, too.
    click(&ferry, "document.querySelector('[data-page] button')").await?;
    badge(&front, Some("3")).await?;
    let reads = Tab::open(&browser, &format!("{}/ferry.html", site.url())).await?;
    for tab in [&front, &ferry, &reads] {
        badge(tab, None).await?;
    }
    reads.becomes(&format!("{FOLLOW}.checked"), &json!(true)).await?;
    Http::default().send(Method::POST, &modify, None).await?.json_of(StatusCode::OK)?;
    badge(&front, Some("1")).await?;
    click(&reads, FOLLOW).await?;
    badge(&front, None).await?;
    for tab in [&front, &ferry, &reads] {
        assert_eq!(tab.complaints(), Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn the_badge_is_kept_right_by_events_and_by_asking_where_nothing_else_gets_through() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--cors-origin", "*"]).await?;
    let http = Http::default();
    let url = |path: &str| format!("{}{path}", node.http());
    http.send(Method::PUT, &url("/users/ada/subscriptions/a"), None).await?.json_of(StatusCode::OK)?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    gate.keep_out_sockets();
    let browser = Chromium::start()?;
    let site = Site::serve(&gate.url()).await?;
    let streams = Tab::open(&browser, &format!("{}/index.html", site.url())).await?;
    http.send(Method::POST, &url("/a/modifications"), None).await?.json_of(StatusCode::OK)?;
    badge(&streams, Some("1")).await?;
    gate.keep_out_streams();
    let polls = Tab::open(&browser, &format!("{}/index.html", site.url())).await?;
    badge(&polls, Some("1")).await?;
    http.send(Method::PUT, &url("/users/ada/unread/a"), Some(json!({"version": 1}))).await?.json_of(StatusCode::OK)?;
    badge(&polls, None).await?;
    badge(&streams, None).await
}

#[tokio::test]
async fn a_badge_says_that_there_are_very_many_and_is_not_there_for_nobody() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let http = Http::default();
    let url = |path: &str| format!("{}{path}", node.http());
    http.send(Method::PUT, &url("/users/ada/subscriptions/a"), None).await?.json_of(StatusCode::OK)?;
    for _ in 0..100 {
        http.send(Method::POST, &url("/a/modifications"), None).await?.json_of(StatusCode::OK)?;
    }
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &url("/problems/range")).await?;
    let add = "(async () => { await import('/widget.js'); document.body.insertAdjacentHTML('beforeend', '<unread-badge user=\"nobody\"></unread-badge>'); })()";
    tab.value(add).await?;
    tab.becomes(&format!("{BADGE}.state"), &json!("live")).await?;
    badge(&tab, None).await?;
    tab.value(&format!("{BADGE}.setAttribute('user', 'ada')")).await?;
    badge(&tab, Some("99+")).await?;
    tab.becomes(&format!("{BADGE}.shadowRoot.querySelector('[role=img]').ariaLabel"), &json!("99+ unread")).await?;
    assert_eq!(tab.complaints(), Vec::<String>::new());
    Ok(())
}
