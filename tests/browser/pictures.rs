//! The pictures in docs/: made only when BROWSER_PICTURES names a folder, since no two machines draw text alike.

use counter_tests::http::Http;
use counter_tests::node::Cluster;
use counter_tests::programs::repository;
use counter_tests::wait::until;
use hyper::Method;
use serde_json::json;

use crate::chromium::Chromium;
use crate::files::Site;
use crate::tab::Tab;

#[tokio::test]
async fn pictures_are_made_where_they_are_asked_for() -> anyhow::Result<()> {
    let Ok(folder) = std::env::var("BROWSER_PICTURES").map(|folder| repository(&folder)) else { return Ok(()) };
    let cluster = Cluster::start(2, 3, &["--cors-origin", "*", "--presence-heartbeat", "600"]).await?;
    let base = cluster.nodes[0].http();
    let http = Http::default();
    http.send(Method::PUT, &format!("{base}/front-page/counter"), Some(json!({"by": 1_203}))).await?;
    for (page, people) in [("front-page", 41), ("harbour%2Fferry", 17), ("harbour%2Flighthouse", 6), ("about", 2)] {
        for person in 0..people {
            http.send(Method::PUT, &format!("{base}/{page}/sessions/{page}-{person}"), None).await?;
        }
    }
    http.send(Method::PUT, &format!("{base}/users/ada/subscriptions/harbour%2Flighthouse"), None).await?;
    for _ in 0..3 {
        http.send(Method::POST, &format!("{base}/harbour%2Flighthouse/modifications"), None).await?;
    }
    let site = Site::serve(&base).await?;
    let browser = Chromium::start()?;
    let pictures = [
        ("dashboard", format!("{base}/"), 1200),
        ("counter-page", format!("{base}/front-page/counter"), 720),
        ("example-site", format!("{}/index.html", site.url()), 720),
        ("example-page", format!("{}/ferry.html", site.url()), 720),
    ];
    for (name, url, width) in pictures {
        for scheme in ["light", "dark"] {
            let tab = Tab::empty(&browser).await?;
            let size = json!({"width": width, "height": 600, "deviceScaleFactor": 1, "mobile": false});
            tab.command("Emulation.setDeviceMetricsOverride", size).await?;
            tab.prefers("prefers-color-scheme", scheme).await?;
            tab.go(&url).await?;
            tab.shows_something().await?;
            if name == "dashboard" || name == "counter-page" {
                come_and_go(&http, &base, &tab, &format!("{name}-{scheme}")).await?;
            }
            tab.becomes("Number(document.querySelector('live-count').count) > 0", &json!(true)).await?;
            std::fs::write(folder.join(format!("{name}-{scheme}.png")), tab.picture().await?)?;
            tab.close().await?;
        }
    }
    Ok(())
}

/// People come and go, so that there is something to plot: others than in pictures of another name.
async fn come_and_go(http: &Http, base: &str, tab: &Tab, name: &str) -> anyhow::Result<()> {
    let count = "document.querySelector('live-count').count";
    for round in 0_u32..24 {
        let before = tab.value(count).await?;
        let (method, people) = if round % 4 == 3 { (Method::DELETE, 2) } else { (Method::PUT, 1 + round * 7 % 4) };
        for person in 0..people {
            let first = if method == Method::DELETE { round - 3 } else { round };
            http.send(method.clone(), &format!("{base}/front-page/sessions/{name}-{first}-{person}"), None).await?;
        }
        until("the number has moved", async || {
            anyhow::ensure!(tab.value(count).await? != before);
            Ok(())
        })
        .await?;
        // Half a second is what a plot tells apart.
        tab.value("new Promise((resolve) => setTimeout(resolve, 600))").await?;
    }
    Ok(())
}
