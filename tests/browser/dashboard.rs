//! The node's own pages: no complaint of the policy or of a script, all there is to see, and all of it by keyboard.

use anyhow::ensure;
use counter_core::id::ShardId;
use counter_core::layout::{Layout, LayoutVersion, Move, MovePhase};
use counter_core::slot::{Slot, SlotRange};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode, give};
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

/// What is said below the names of the nodes, in their order.
const NOTES: &str = "[...document.querySelectorAll('.node .note')].map(({ textContent }) => textContent)";

#[tokio::test]
async fn a_node_that_its_sibling_does_not_hear_lags_until_it_does() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 2, &[]).await?;
    let browser = Chromium::start()?;
    let dashboard = Tab::open(&browser, &format!("{}/", cluster.nodes[0].http())).await?;
    dashboard.becomes(NOTES, &json!(["0 counters · in step", "0 counters · in step"])).await?;
    cluster.nodes[1].kill().await?;
    let http = Http::default();
    for page in ["a", "b"] {
        http.send(Method::PUT, &format!("{}/{page}/counter", cluster.nodes[0].http()), None).await?;
    }
    let lags = r"/^2 counters · 2 changes not at its siblings yet · has not heard a sibling for \d+\u00a0s$/";
    dashboard.becomes(&format!("{lags}.test({NOTES}[0])"), &json!(true)).await?;
    dashboard.becomes(&format!("{NOTES}[1]"), &json!("does not answer")).await?;
    cluster.nodes[1].start_ready().await?;
    dashboard.becomes(NOTES, &json!(["2 counters · in step", "2 counters · in step"])).await?;
    assert_eq!(dashboard.complaints(), Vec::<String>::new());
    Ok(())
}

/// Gives a layout that follows the last one to all of these.
async fn publish(nodes: &[&TestNode], layout: &mut Layout, change: impl FnOnce(&mut Layout)) -> anyhow::Result<()> {
    layout.version = LayoutVersion(layout.version.0 + 1);
    change(layout);
    for node in nodes {
        give(node, layout).await?;
    }
    Ok(())
}

#[tokio::test]
async fn slots_that_move_are_shown_from_the_first_to_the_last() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 1, &[]).await?;
    let (browser, http) = (Chromium::start()?, Http::default());
    for number in 0..200 {
        let by = Some(json!({"by": 1 + number}));
        http.send(Method::PUT, &format!("{}/page-{number}/counter", cluster.nodes[0].http()), by).await?;
    }
    let dashboard = Tab::open(&browser, &format!("{}/", cluster.nodes[1].http())).await?;
    let moves = "[...document.querySelectorAll('.move')].map((move) => [move.textContent, move.querySelector('.bar').style.getPropertyValue('--share')])";
    let shards = "[...document.querySelectorAll('.shard h3 span')].map(({ textContent }) => textContent)";
    dashboard.becomes(shards, &json!(["8,192 slots, 50%", "8,192 slots, 50%"])).await?;
    dashboard.becomes(moves, &json!([])).await?;

    // The old shard is away: nothing is known to have come.
    let slot = |number| Slot::new(number).unwrap();
    let (stays, moving) = (SlotRange::new(slot(0), slot(4_095)).unwrap(), SlotRange::new(slot(4_096), slot(8_191)).unwrap());
    cluster.nodes[0].kill().await?;
    let [old, new] = &mut cluster.nodes[..] else { anyhow::bail!("two nodes") };
    let slot_move = Move { from: ShardId(0), to: ShardId(1), slots: vec![moving], phase: MovePhase::Copying };
    publish(&[new], &mut cluster.layout, |layout| layout.moves = vec![slot_move]).await?;
    dashboard.becomes(moves, &json!([["4,096 slots from shard 0 to shard 1: 0% copied", "0"]])).await?;
    dashboard.becomes("document.getElementById('cluster-note').textContent.startsWith('layout 2, ')", &json!(true)).await?;
    old.start_ready().await?;
    give(old, &cluster.layout).await?;
    dashboard.becomes(moves, &json!([["4,096 slots from shard 0 to shard 1: 100% copied", "1"]])).await?;

    publish(&[new, old], &mut cluster.layout, |layout| {
        layout.shards[0].slots = vec![stays];
        layout.shards[1].slots = vec![SlotRange::new(slot(4_096), slot(16_383)).unwrap()];
        layout.moves[0].phase = MovePhase::Flipped;
    })
    .await?;
    dashboard.becomes(moves, &json!([["4,096 slots from shard 0 to shard 1: taken over, being confirmed", "1"]])).await?;
    publish(&[new, old], &mut cluster.layout, |layout| layout.moves.clear()).await?;
    dashboard.becomes(moves, &json!([])).await?;
    dashboard.becomes(shards, &json!(["4,096 slots, 25%", "12,288 slots, 75%"])).await?;
    dashboard.shows(&numbers((1..=200).sum())).await
}

/// A number as the browser writes it here.
fn numbers(number: u32) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
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
pub(crate) async fn assert_legible(tab: &Tab, path: &str, scheme: &str) -> anyhow::Result<()> {
    let faint = tab.value(include_str!("contrast.js")).await?;
    assert_eq!(faint, json!([]), "{path} in {scheme}");
    Ok(())
}
