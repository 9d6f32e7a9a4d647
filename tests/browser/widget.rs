//! The elements that other sites drop in, on the example site: a site of another origin than the nodes.

use std::time::Instant;

use anyhow::ensure;
use counter_tests::http::Http;
use counter_tests::wait::until;
use hyper::Method;
use serde_json::json;

use crate::chromium::Chromium;
use crate::dashboard::assert_legible;
use crate::files::Site;
use crate::gate::Gate;
use crate::tab::Tab;
use crate::viewers::node;

/// The text that an element shows.
fn shown(element: &str) -> String {
    format!("document.querySelector('{element}').shadowRoot.querySelector('[part~=number]').textContent")
}

#[tokio::test]
async fn the_example_site_counts_its_readers_from_another_origin_over_one_connection() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--cors-origin", "*"]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    let site = Site::serve(&gate.url()).await?;
    let browser = Chromium::start()?;
    let front = Tab::open(&browser, &format!("{}/index.html", site.url())).await?;
    front.becomes(&shown("live-count[page=\"harbour/ferry\"]"), &json!("0")).await?;
    front.becomes(&shown("live-count[site]"), &json!("0")).await?;
    assert_eq!(gate.passed(), (1, 0), "three numbers, one connection");
    let reads = Tab::open(&browser, &format!("{}/ferry.html", site.url())).await?;
    reads.shows("1").await?;
    front.becomes(&shown("live-count[page=\"harbour/ferry\"]"), &json!("1")).await?;
    front.becomes(&shown("live-count[site]"), &json!("1")).await?;
    front.becomes(&shown("live-count[page=\"harbour/lighthouse\"]"), &json!("0")).await?;
    reads.close().await?;
    front.becomes(&shown("live-count[page=\"harbour/ferry\"]"), &json!("0")).await?;
    Ok(())
}

/// Has each element show its number in the colour of the paper.
const FAINT: &str = "document.querySelectorAll('live-count, unread-badge').forEach(({ shadowRoot }) => {
    const paper = getComputedStyle(document.body).backgroundColor;
    const { style } = shadowRoot.querySelector('[part~=number]');
    for (const property of ['color', 'background-color']) style.setProperty(property, paper, 'important');
})";

#[tokio::test]
async fn the_elements_and_the_example_site_are_legible_in_both_schemes() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--cors-origin", "*"]).await?;
    let (http, base) = (Http::default(), node.http());
    let site = Site::serve(&base).await?;
    let browser = Chromium::start()?;
    for page in ["harbour%2Flighthouse", "about"] {
        http.send(Method::PUT, &format!("{base}/users/ada/subscriptions/{page}"), None).await?;
        http.send(Method::POST, &format!("{base}/{page}/modifications"), None).await?;
    }
    // Reading the page about the lighthouse would lower the number; it comes last.
    let documents = [
        (format!("{}/index.html", site.url()), "2"),
        (format!("{}/ferry.html", site.url()), "2"),
        (format!("{base}/counter"), "2"),
        (format!("{}/lighthouse.html", site.url()), "1"),
    ];
    for (url, unread) in documents {
        for scheme in ["light", "dark"] {
            let tab = Tab::empty(&browser).await?;
            tab.prefers("prefers-color-scheme", scheme).await?;
            tab.go(&url).await?;
            if url.starts_with(&base) {
                // With nothing but its own style.
                tab.value("{ const badge = document.createElement('unread-badge'); badge.setAttribute('user', 'ada'); document.querySelector('main').append(badge); }").await?;
            }
            tab.shows_something().await?;
            tab.becomes("document.querySelector('live-count').state", &json!("live")).await?;
            tab.becomes(&shown("unread-badge"), &json!(unread)).await?;
            assert_legible(&tab, &url, scheme).await?;
            // It would be seen if the elements were not: here a rule from outside must not win.
            tab.value(FAINT).await?;
            let faint = tab.value(include_str!("contrast.js")).await?;
            let faint = faint.as_array().map_or(0, Vec::len);
            let elements = tab.value("document.querySelectorAll('live-count, unread-badge').length").await?;
            assert_eq!(json!(faint), elements, "{url} in {scheme}");
            tab.close().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_site_that_is_not_allowed_shows_what_it_has_written_itself() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &["--cors-origin", "https://other.example"]).await?;
    let site = Site::serve(&node.http()).await?;
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &format!("{}/ferry.html", site.url())).await?;
    tab.becomes("document.querySelector('live-count').state", &json!("offline")).await?;
    let slot = tab.value("document.querySelector('live-count').shadowRoot.querySelector('slot').assignedNodes()[0].data").await?;
    assert_eq!(slot, json!("–"));
    assert_eq!(Http::default().count(&node.http(), "harbour%2Fferry").await?, 0);
    Ok(())
}

#[tokio::test]
async fn elements_that_come_and_go_subscribe_and_unsubscribe_on_the_connection_there_is() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let gate = Gate::to(&[&node.entry.http]).await?;
    let browser = Chromium::start()?;
    let tab = Tab::open(&browser, &format!("{}/a/counter", gate.url())).await?;
    tab.shows("1").await?;
    tab.value("document.body.insertAdjacentHTML('beforeend', '<live-count page=\"b\" id=\"b\"></live-count><live-count page=\"c\" observe id=\"c\"></live-count>')")
        .await?;
    tab.becomes(&shown("#b"), &json!("1")).await?;
    tab.becomes(&shown("#c"), &json!("0")).await?;
    let counts = async |expected: [i64; 3]| {
        until(&format!("the pages count {expected:?}"), async || {
            for (page, expected) in ["a", "b", "c"].into_iter().zip(expected) {
                let count = Http::default().count(&node.http(), page).await?;
                ensure!(count == expected, "{page} counts {count}");
            }
            Ok(())
        })
        .await
    };
    counts([1, 1, 0]).await?;
    tab.value("document.getElementById('c').removeAttribute('observe')").await?;
    counts([1, 1, 1]).await?;
    tab.value("document.getElementById('b').remove()").await?;
    counts([1, 0, 1]).await?;
    // The page that the connection was opened with is one like any other.
    tab.value("document.querySelector('live-count[page=a]').setAttribute('page', 'b')").await?;
    counts([0, 1, 1]).await?;
    assert_eq!(gate.passed(), (1, 0));
    assert_eq!(tab.complaints(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn numbers_are_read_out_politely_and_stand_still_for_those_who_want_that() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let browser = Chromium::start()?;
    let tab = Tab::empty(&browser).await?;
    tab.prefers("prefers-reduced-motion", "reduce").await?;
    tab.go(&format!("{}/problems/range", node.http())).await?;
    tab.value("(async () => { await import('/widget.js'); document.body.insertAdjacentHTML('beforeend', '<live-count page=\"a\" observe label=\"people here\" lang=\"de\"></live-count>'); })()")
        .await?;
    tab.shows("0").await?;
    tab.value("globalThis.heard = []; new MutationObserver(() => { const text = document.querySelector('live-count').shadowRoot.querySelector('[aria-live=polite]').textContent; if (text) heard.push(text); }).observe(document.querySelector('live-count').shadowRoot.querySelector('[role=status]'), { childList: true }); 0")
        .await?;
    let began = Instant::now();
    let put = format!("{}/a/counter", node.http());
    let mut sent = 0;
    until("two numbers were read out", async || {
        Http::default().send(Method::PUT, &put, Some(json!({"by": 1000}))).await?;
        sent += 1;
        let heard = tab.value("heard").await?;
        ensure!(heard.as_array().is_some_and(|heard| heard.len() >= 2), "{heard} after {:?}", began.elapsed());
        Ok(())
    })
    .await?;
    let heard = tab.value("heard").await?;
    assert!(heard.as_array().unwrap().len() < sent, "every number was read out");
    let text = heard[1].as_str().unwrap();
    assert!(text.ends_with(".000 people here"), "{text} is not as it is written in German");
    let moves = "(() => { const number = document.querySelector('live-count').shadowRoot.querySelector('[part~=number]'); number.classList.add('changed'); return getComputedStyle(number).animationName; })()";
    assert_eq!(tab.value(moves).await?, json!("none"));
    tab.prefers("prefers-reduced-motion", "no-preference").await?;
    assert_eq!(tab.value(moves).await?, json!("changed"));
    Ok(())
}

#[tokio::test]
async fn numbers_of_any_length_are_shown_to_the_last_digit() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let node = node(&folder, &[]).await?;
    let browser = Chromium::start()?;
    Http::default()
        .send(Method::PUT, &format!("{}/big/counter", node.http()), Some(json!({"by": 9_007_199_254_740_992_u64})))
        .await?;
    let tab = Tab::open(&browser, &format!("{}/big/counter", node.http())).await?;
    tab.shows("9,007,199,254,740,993").await
}
