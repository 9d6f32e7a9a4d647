//! The node's own pages: no complaint of the policy or of a script, all there is to see, and all of it by keyboard.

use anyhow::ensure;
use counter_tests::http::Http;
use counter_tests::node::Cluster;
use counter_tests::wait::until;
use hyper::Method;
use serde_json::{Value, json};

use crate::chromium::Chromium;
use crate::tab::Tab;
use crate::viewers::node;

const ROWS: &str =
    "[...document.querySelectorAll('.pages tbody tr')].map(({ cells }) => [cells[0].innerText.trim(), cells[1].innerText])";

#[tokio::test]
async fn the_dashboard_shows_the_site_the_busiest_pages_and_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let browser = Chromium::start()?;
    let base = cluster.nodes[0].http();
    let dashboard = Tab::open(&browser, &format!("{base}/")).await?;
    dashboard.shows("0").await?;
    dashboard
        .becomes("document.querySelector('.pages .empty')?.textContent.startsWith('Nobody is on any page')", &json!(true))
        .await?;
    let (near, far) = (cluster.page_of(0)?, cluster.page_of(1)?);
    for (page, viewers) in [(&near, 2), (&far, 1)] {
        for node in cluster.nodes.iter().take(viewers) {
            Tab::open(&browser, &format!("{}/{page}/counter", node.http())).await?.shows_something().await?;
        }
    }
    dashboard.becomes(ROWS, &json!([[near, "2"], [far, "1"]])).await?;
    dashboard.shows("3").await?;
    dashboard.becomes("document.getElementById('viewers').textContent", &json!("3")).await?;
    let nodes = "[...document.querySelectorAll('.node')].map((node) => node.dataset.state)";
    dashboard.becomes(nodes, &json!(["ready", "ready", "ready", "ready"])).await?;
    dashboard.becomes("document.querySelectorAll('#plot .line').length", &json!(1)).await?;
    dashboard.value(&format!("(() => {{ const filter = document.querySelector('[name=prefix]'); filter.value = {}; filter.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()", json!(far))).await?;
    dashboard.becomes(ROWS, &json!([[far, "1"]])).await?;
    assert_eq!(dashboard.complaints(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_gone_is_shown_as_silent() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 2, &[]).await?;
    let browser = Chromium::start()?;
    let dashboard = Tab::open(&browser, &format!("{}/", cluster.nodes[0].http())).await?;
    let states = "[...document.querySelectorAll('.node')].map((node) => node.dataset.state)";
    dashboard.becomes(states, &json!(["ready", "ready"])).await?;
    cluster.nodes[1].kill().await?;
    dashboard.becomes(states, &json!(["ready", "silent"])).await
}

#[tokio::test]
async fn the_form_counts_by_keyboard_alone() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &format!("{}/", node.http())).await?;
    tab.shows("0").await?;
    let focused = "document.activeElement.textContent.trim() || document.activeElement.name";
    let mut met: Vec<Value> = Vec::new();
    until("the button has the focus", async || {
        tab.press("Tab", 9).await?;
        let name = tab.value(focused).await?;
        let found = name == json!("Send");
        met.push(name);
        ensure!(found, "met {met:?}");
        Ok(())
    })
    .await?;
    assert_eq!(met.first(), Some(&json!("Skip to the numbers")));
    for field in ["prefix", "page", "action", "by", "token"] {
        assert!(met.contains(&json!(field)), "{field} is not among {met:?}");
    }
    tab.press("Enter", 13).await?;
    tab.becomes("document.querySelector('#answer .good')?.textContent.startsWith('200 ')", &json!(true)).await?;
    assert_eq!(Http::default().count(&node.http(), "front-page").await?, 1);
    tab.value("(() => { const form = document.getElementById('try'); form.by.value = ''; form.requestSubmit(); })()").await?;
    tab.becomes("document.querySelector('#answer pre').textContent.includes('problems/bad-input')", &json!(true)).await
}

#[tokio::test]
async fn every_page_has_names_for_what_it_shows_and_no_complaints_in_both_schemes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let base = node.http();
    Http::default().send(Method::PUT, &format!("{base}/a%22%3E%3Cb/counter"), None).await?;
    let browser = Chromium::start()?;
    for path in ["/", "/counter", "/a%22%3E%3Cb/counter", "/problems/range"] {
        for scheme in ["light", "dark"] {
            let tab = Tab::empty(&browser).await?;
            tab.prefers("prefers-color-scheme", scheme).await?;
            tab.go(&format!("{base}{path}")).await?;
            if path != "/problems/range" {
                tab.shows_something().await?;
            }
            assert_named(&tab, path).await?;
            assert_legible(&tab, path, scheme).await?;
            assert_eq!(tab.complaints(), Vec::<String>::new(), "{path} in {scheme}");
            tab.close().await?;
        }
    }
    Ok(())
}

/// What a reader of the screen meets: a title, a language, a main part, one first heading, and a name for each control.
async fn assert_named(tab: &Tab, path: &str) -> anyhow::Result<()> {
    let basics = "[document.title !== '', document.documentElement.lang, document.querySelectorAll('main').length, document.querySelectorAll('h1').length]";
    assert_eq!(tab.value(basics).await?, json!([true, "en", 1, 1]), "{path}");
    let tree = tab.command("Accessibility.getFullAXTree", json!({})).await?;
    let controls = ["button", "textbox", "searchbox", "link", "radio", "spinbutton", "img", "image"];
    let nodes = tree["nodes"].as_array().unwrap();
    let nameless = nodes.iter().filter(|node| {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        node["ignored"] == json!(false)
            && controls.contains(&role)
            && node["name"]["value"].as_str().unwrap_or_default().is_empty()
    });
    assert_eq!(nameless.collect::<Vec<_>>(), Vec::<&Value>::new(), "{path}");
    Ok(())
}

/// Text stands out from what is behind it by 4.5 to 1 (WCAG 2.2, 1.4.3), as computed from the colours in use.
async fn assert_legible(tab: &Tab, path: &str, scheme: &str) -> anyhow::Result<()> {
    let faint = tab.value(include_str!("contrast.js")).await?;
    assert_eq!(faint, json!([]), "{path} in {scheme}");
    Ok(())
}
