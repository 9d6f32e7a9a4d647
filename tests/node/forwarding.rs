//! Two shards: any node takes any request, and what it does not own it forwards, at most once.

use anyhow::Context as _;
use counter_tests::count::{Counting, Ledger, agreed};
use counter_tests::http::Http;
use counter_tests::node::Cluster;
use counter_tests::process::signal;
use counter_tests::sockets::unread;
use counter_tests::wait::until;
use hyper::{Method, StatusCode};

#[tokio::test]
async fn any_node_takes_updates_of_any_page_and_knows_the_sites_total() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (http, bases) = (Http::default(), cluster.bases());
    let mut total = 0;
    for shard in 0..2 {
        let page = cluster.page_of(shard)?;
        let everywhere = bases.clone();
        let counting = Counting::start(&page, 8, move || everywhere.clone());
        counting.acknowledge(200).await?;
        let told = counting.stop().await;
        assert_eq!((told.unknown, told.refused), (0, 0), "{page}");
        total += agreed(&http, &bases, &page, &told).await?;
    }
    for base in &bases {
        until("the site's total is the sum of its pages", async || {
            let site = http.get_json(&format!("{base}/counter")).await?;
            anyhow::ensure!(site["count"] == total, "{site} instead of {total}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_update_whose_owner_dies_is_told_as_unknown_and_never_counts_twice() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 1, &[]).await?;
    // Its name is so long that the update cannot be taken for anything else that comes to its owner.
    let (http, page) = (Http::default(), format!("%7B{}%7D{}", cluster.page_of(1)?, "x".repeat(480)));
    let url = format!("{}/{page}/counter", cluster.nodes[0].http());
    let put = async || http.send(Method::PUT, &url, None).await;
    assert_eq!(put().await?.json_of(StatusCode::OK)?["count"], 1);
    let mut told = Ledger { acknowledged: 1, ..Ledger::default() };

    // It stands still, so the update is on its way when it dies: nobody can know what became of it.
    let owner = &cluster.nodes[1];
    owner.pause().await?;
    let killed = owner.pid().context("the owner does not run")?;
    let (answer, killed) = futures::join!(put(), async {
        until("the update has come to the owner", async || {
            let unread = unread(&owner.entry.peer)?;
            anyhow::ensure!(unread > 600, "{unread} bytes wait there");
            Ok(())
        })
        .await?;
        signal(killed, "KILL").await
    });
    killed?;
    let problem = answer?.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
    assert_eq!(problem["type"], "/problems/outcome-unknown", "{problem}");
    told.unknown += 1;

    // Now it cannot be reached: nothing was sent.
    let refused = put().await?;
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(refused.json_of(StatusCode::SERVICE_UNAVAILABLE)?["type"], "/problems/not-applied");
    told.refused += 1;

    cluster.nodes[1].start_ready().await?;
    agreed(&http, &cluster.bases(), &page, &told).await?;
    Ok(())
}

#[tokio::test]
async fn owners_that_die_under_load_neither_lose_nor_repeat_what_was_forwarded_to_them() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, &[]).await?;
    let (http, page) = (Http::default(), cluster.page_of(1)?);
    let gateways = cluster.bases()[..2].to_vec();
    let counting = Counting::start(&page, 8, move || gateways.clone());
    for round in 0..4 {
        counting.acknowledge(50).await?;
        let owner = &mut cluster.nodes[2 + round % 2];
        owner.kill().await?;
        counting.acknowledge(20).await?;
        owner.start_ready().await?;
    }
    let told = counting.stop().await;
    agreed(&http, &cluster.bases(), &page, &told).await?;
    Ok(())
}

#[tokio::test]
async fn an_owner_that_stands_still_is_passed_over_and_repeats_nothing_when_it_goes_on() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (http, page) = (Http::default(), cluster.page_of(1)?);
    let gateways = cluster.bases()[..2].to_vec();
    let counting = Counting::start(&page, 8, move || gateways.clone());
    for owner in [2, 3] {
        counting.acknowledge(50).await?;
        cluster.nodes[owner].pause().await?;
        counting.acknowledge(50).await?;
        cluster.nodes[owner].resume().await?;
    }
    let told = counting.stop().await;
    agreed(&http, &cluster.bases(), &page, &told).await?;
    Ok(())
}
