//! `operator local`: what `make run` gives, with real processes.

use anyhow::Context as _;
use counter_tests::count::{Counting, agreed};
use counter_tests::http::Http;
use counter_tests::live::Follower;
use counter_tests::local::{self, Local, Node};
use counter_tests::process::signal;
use counter_tests::wait::until;

fn cluster(shards: u16, replicas: u16) -> String {
    format!(
        "apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\nmetadata: {{name: page-views}}\n\
         spec: {{shards: {shards}, replicas: {replicas}, storage: {{volume: {{size: 1Gi}}}}}}\n"
    )
}

fn bases(nodes: &[Node]) -> Vec<String> {
    nodes.iter().map(|node| node.http.clone()).collect()
}

/// Counts at whatever nodes `endpoints.json` names at the time.
fn count_everywhere(cluster: &Local, page: &str) -> Counting {
    let endpoints = cluster.endpoints();
    Counting::start(page, 4, move || local::nodes(&endpoints).map(|nodes| bases(&nodes)).unwrap_or_default())
}

async fn tally(http: &Http, base: &str) -> anyhow::Result<i64> {
    http.get_json(&format!("{base}/counter")).await?["count"].as_i64().context("the site has no count")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_any_process_loses_nothing_acknowledged_and_the_others_go_on() -> anyhow::Result<()> {
    let mut cluster = Local::start(&cluster(2, 3))?;
    let nodes = cluster.ready(6).await?;
    let counting = count_everywhere(&cluster, "front-page");
    counting.acknowledge(200).await?;
    for node in &nodes {
        let pid = cluster.nodes()?.iter().find(|now| now.name == node.name).and_then(|now| now.pid);
        signal(pid.with_context(|| format!("{} has no process", node.name))?, "KILL").await?;
        counting.acknowledge(50).await?;
    }
    let ledger = counting.stop().await;
    let nodes = cluster.ready(6).await?;
    let http = Http::default();
    let count = agreed(&http, &bases(&nodes), "front-page", &ledger).await?;
    until("the site's total is the page's count", async || {
        let total = tally(&http, &nodes[0].http).await?;
        anyhow::ensure!(total == count, "{total} instead of {count}");
        Ok(())
    })
    .await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growing_by_shards_and_replicas_while_clients_count_changes_no_sum() -> anyhow::Result<()> {
    let mut running = Local::start(&cluster(2, 1))?;
    running.ready(2).await?;
    // Pages of many slots, so that every move has something to carry.
    let pages: Vec<String> = (0..8).map(|page| format!("page-{page}")).collect();
    let counting: Vec<Counting> = pages.iter().map(|page| count_everywhere(&running, page)).collect();
    for one in &counting {
        one.acknowledge(20).await?;
    }
    running.edit(&cluster(4, 2))?;
    running.ready(8).await?;
    settled(&running, 4).await?;
    for one in &counting {
        one.acknowledge(20).await?;
    }
    let nodes = bases(&running.nodes()?);
    let http = Http::default();
    for one in counting {
        let page = one.page().to_owned();
        let ledger = one.stop().await;
        agreed(&http, &nodes, &page, &ledger).await.with_context(|| page)?;
    }
    running.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_stay_and_are_told_of_others_while_their_pages_move_to_new_shards() -> anyhow::Result<()> {
    let mut running = Local::start(&cluster(1, 2))?;
    let before = bases(&running.ready(2).await?);
    let pages: Vec<String> = (0..8).map(|page| format!("page-{page}")).collect();
    let mut following = Vec::new();
    for (page, base) in pages.iter().zip(before.iter().cycle()) {
        let mut follower = Follower::open(base, &format!("/{page}/live")).await?;
        follower.until(page, 1).await?;
        let page = page.clone();
        following.push(tokio::spawn(async move {
            let counts = follower.until(&page, 2).await?;
            anyhow::Ok((follower, counts))
        }));
    }
    running.edit(&cluster(3, 2))?;
    running.ready(6).await?;
    settled(&running, 3).await?;
    let (http, after) = (Http::default(), bases(&running.nodes()?));
    for page in &pages {
        for base in &after {
            until("the viewer counts at every node", async || {
                let count = http.count(base, page).await?;
                anyhow::ensure!(count == 1, "{base} counts {count} on {page}");
                Ok(())
            })
            .await?;
        }
    }
    let newest = after.last().context("no nodes")?;
    let mut joined = Vec::new();
    for page in &pages {
        let mut follower = Follower::open(newest, &format!("/{page}/live")).await?;
        follower.until(page, 2).await?;
        joined.push(follower);
    }
    for follower in following {
        let (_follower, counts) = follower.await??;
        assert!(counts.iter().all(|count| [1, 2].contains(count)), "a viewer was lost on the way: {counts:?}");
    }
    running.stop().await
}

/// Waits until `shards` shards own slots and nothing moves.
async fn settled(cluster: &Local, shards: usize) -> anyhow::Result<()> {
    until("every shard owns slots and nothing moves", async || {
        let layout = std::fs::read_dir(cluster.endpoints().parent().context("no folder")?)?;
        let found = find_layout(layout)?;
        let owning =
            found["shards"].as_array().map_or(0, |all| all.iter().filter(|one| one["slots"] != serde_json::json!([])).count());
        let moves = found["moves"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(owning == shards && moves == 0, "{owning} shards own slots, {moves} moves");
        Ok(())
    })
    .await
    .with_context(|| cluster.log_tail())
}

/// The recorded layout, wherever below the data folder the operator keeps it.
fn find_layout(folder: std::fs::ReadDir) -> anyhow::Result<serde_json::Value> {
    for entry in folder {
        let path = entry?.path();
        if path.is_dir() && !path.join("FORMAT").exists() {
            if let Ok(found) = find_layout(std::fs::read_dir(&path)?) {
                return Ok(found);
            }
        } else if path.file_name().is_some_and(|name| name == "layout.json") {
            return Ok(serde_json::from_slice(&std::fs::read(path)?)?);
        }
    }
    anyhow::bail!("no layout is recorded")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_all_processes_and_a_second_start_continues_with_the_same_numbers() -> anyhow::Result<()> {
    let mut cluster = Local::start(&cluster(1, 2))?;
    let nodes = cluster.ready(2).await?;
    let counting = count_everywhere(&cluster, "front-page");
    counting.acknowledge(100).await?;
    let ledger = counting.stop().await;
    cluster.stop().await?;
    assert_eq!(alive(&nodes), 0, "a node has outlived the operator that was stopped in order");
    cluster.start_again()?;
    let nodes = cluster.ready(2).await?;
    agreed(&Http::default(), &bases(&nodes), "front-page", &ledger).await?;
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_outlives_an_operator_that_was_killed() -> anyhow::Result<()> {
    let mut cluster = Local::start(&cluster(1, 2))?;
    let nodes = cluster.ready(2).await?;
    cluster.kill().await?;
    until("all nodes have ended", async || {
        anyhow::ensure!(alive(&nodes) == 0, "some live");
        Ok(())
    })
    .await
}

/// How many of these processes there are still.
fn alive(nodes: &[Node]) -> usize {
    let pids = nodes.iter().filter_map(|node| node.pid);
    pids.filter(|pid| std::path::Path::new(&format!("/proc/{pid}/exe")).exists()).count()
}
