//! Viewers of nodes that stop, in order or not: nobody is missing from a count, and nobody stays in it.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, figures};
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use futures::future::try_join_all;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::task::JoinHandle;

/// So long that nothing ends by itself while a test waits, but orphans, which are counted then.
const LONG: &[&str] = &["--presence-lease", "60", "--presence-heartbeat", "600"];

/// Someone who watches a page all the time.
struct Watcher {
    counts: Arc<Mutex<Vec<i64>>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Begins when the page counts so many.
    async fn from(base: &str, page: &str, count: i64) -> anyhow::Result<Self> {
        let mut follower = Follower::open(base, &format!("/{page}/live?observe=true")).await?;
        follower.until(page, count).await?;
        let counts = Arc::new(Mutex::new(vec![count]));
        let told = counts.clone();
        let task = tokio::spawn(async move {
            while let Ok(message) = follower.next().await {
                let count = message["count"].as_i64();
                told.lock().unwrap_or_else(PoisonError::into_inner).extend(count);
            }
        });
        Ok(Self { counts, task })
    }

    fn counts(&self) -> Vec<i64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is the last count, and returns all that came before.
    async fn until(&self, count: i64) -> anyhow::Result<Vec<i64>> {
        until("the watcher is told", async || {
            anyhow::ensure!(!self.task.is_finished(), "it was cut off: {:?}", self.counts());
            anyhow::ensure!(self.counts().last() == Some(&count), "{:?}, and not {count}", self.counts());
            Ok(())
        })
        .await?;
        Ok(self.counts())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until these nodes count so many viewers of the page.
async fn all_view(nodes: &[&TestNode], page: &str, viewers: u64) -> anyhow::Result<()> {
    let http = Http::default();
    until("the nodes have the viewers", async || {
        let mut all = Vec::new();
        for node in nodes {
            let detail = http.get_json(&format!("{}/{page}/counter?detail=true", node.http())).await?;
            all.push((detail["viewers"].as_u64(), figures(node).await?["sessions"]));
        }
        anyhow::ensure!(all.iter().all(|(seen, _)| *seen == Some(viewers)), "{all:?} seen and held instead of {viewers}");
        Ok(())
    })
    .await
}

/// Waits until nobody of these nodes' viewers is an orphan.
async fn no_orphans(nodes: &[&TestNode]) -> anyhow::Result<()> {
    for node in nodes {
        until("all orphans are back", async || {
            let orphans = figures(node).await?.get("orphans").copied();
            anyhow::ensure!(orphans == Some(0), "{orphans:?}");
            Ok(())
        })
        .await
        .with_context(|| node.log_tail())?;
        assert_eq!(figures(node).await?["orphans_lost_total"], 0, "they count no more because their clients are back");
    }
    Ok(())
}

fn token(hello: &serde_json::Value) -> anyhow::Result<String> {
    Ok(hello["resume"].as_str().context("no token")?.to_owned())
}

/// A client that is sent away goes on at another node, at once.
async fn goes_on(mut client: Follower, base: &str, path: &str) -> anyhow::Result<Follower> {
    client.next_of("reconnect").await?;
    let separator = if path.contains('?') { '&' } else { '?' };
    Follower::open(base, &format!("{path}{separator}resume={}", token(&client.hello)?)).await
}

#[tokio::test]
async fn viewers_of_a_stopping_node_are_never_missing_and_count_once_as_soon_as_they_are_back() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, LONG).await?;
    let (bases, page) = (cluster.bases(), cluster.page_of(1)?);
    let paths = ["", "?user=ann", "?user=ann", "?user=ben", ""].map(|query| format!("/{page}/live{query}"));
    let mut clients = Vec::new();
    for path in &paths {
        clients.push(Follower::open(&bases[0], path).await?);
    }
    let mut events = Events::open(&bases[0], &paths[0], &[]).await?;
    let hello: serde_json::Value = serde_json::from_str(&events.next().await?.context("no hello")?["data"])?;
    let watcher = Watcher::from(&bases[3], &page, 6).await?;

    let mut stopping = cluster.nodes.remove(0);
    let (stopped, back) = tokio::join!(stopping.stop(), async {
        let back = clients.into_iter().zip(&paths).zip([1, 2].into_iter().cycle());
        let back = try_join_all(back.map(|((client, path), node)| goes_on(client, &bases[node], path))).await?;
        while let Some(event) = events.next().await? {
            anyhow::ensure!(event.get("event").map(String::as_str) != Some("error"), "{event:?}");
        }
        let stream = Events::open(&bases[1], &format!("{}?resume={}", paths[0], token(&hello)?), &[]).await?;
        anyhow::Ok((back, stream))
    });
    assert!(stopped?.success());
    let (back, _stream) = back?;
    let left: Vec<&TestNode> = cluster.nodes.iter().collect();
    no_orphans(&left).await?;
    all_view(&left, &page, 6).await?;
    let counts = watcher.until(6).await?;
    // At the most at the old node, at the heir, and where they are back.
    assert!(counts.iter().all(|count| (6..=18).contains(count)), "{counts:?}");
    let http = Http::default();
    for node in &left {
        until("people are counted", async || {
            let detail = http.get_json(&format!("{}/{page}/counter?detail=true", node.http())).await?;
            // Ann, Ben, and those who do not say who they are.
            anyhow::ensure!(detail["unique"] == 5, "{detail}");
            Ok(())
        })
        .await?;
    }
    drop(back);
    watcher.until(1).await?;
    Ok(())
}

#[tokio::test]
async fn who_does_not_come_back_counts_for_a_grace_and_no_longer() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 3, &["--presence-lease", "3"]).await?;
    let (bases, page) = (cluster.bases(), "p");
    let path = format!("/{page}/live");
    let (first, mut second) = (Follower::open(&bases[0], &path).await?, Follower::open(&bases[0], &path).await?);
    let watcher = Watcher::from(&bases[2], page, 2).await?;
    let mut stopping = cluster.nodes.remove(0);
    let (stopped, back) = tokio::join!(stopping.stop(), goes_on(first, &bases[1], &path));
    assert!(stopped?.success());
    assert_eq!(second.closed().await?, Some(1012));
    let _back = back?;
    let counts = watcher.until(1).await?;
    // Two, perhaps more while the first is handed over, two, and then one.
    let last = counts.iter().rposition(|count| *count >= 2).context("it never counted two")?;
    assert!(counts[..=last].iter().all(|count| *count >= 2) && last + 2 == counts.len(), "{counts:?}");
    // Come back, the node knows nothing of those that it had.
    cluster.nodes.push(stopping);
    let restarted = cluster.nodes.last_mut().context("no node")?;
    restarted.start_ready().await?;
    all_view(&cluster.nodes.iter().collect::<Vec<_>>(), page, 1).await
}

#[tokio::test]
async fn a_client_whose_network_has_changed_counts_once_and_nobody_else_can_say_that_it_is_gone() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 3, LONG).await?;
    let (bases, page) = (cluster.bases(), "p");
    let path = format!("/{page}/live");
    let victim = Follower::open(&bases[0], &path).await?;
    let mut old = Follower::open(&bases[0], &format!("{path}?user=eve")).await?;
    let watcher = Watcher::from(&bases[2], page, 2).await?;

    // The numbers of others with the proof of one's own, and whatever else comes to mind.
    let own = token(&old.hello)?;
    let [gateway, number, proof] = own.splitn(3, '-').collect::<Vec<_>>()[..] else { anyhow::bail!("{own}") };
    let others = token(&victim.hello)?;
    let of_victim = others.split('-').nth(1).context("no number")?;
    assert_ne!(number, of_victim);
    let forged = [
        format!("{gateway}-{of_victim}-{proof}"),
        format!("{gateway}-{of_victim}-{}", "0".repeat(32)),
        format!("{gateway}-{of_victim}"),
        others[..others.len() - 1].to_owned(),
        format!("{:016x}-{number}-{proof}", 1),
        "nonsense".to_owned(),
        "%00".to_owned(),
    ];
    for (base, token) in bases.iter().cycle().zip(&forged) {
        drop(Follower::open(base, &format!("{path}?resume={token}")).await?);
    }
    let refused = Follower::open(&bases[0], &format!("{path}?resume={}", "x".repeat(129))).await;
    assert!(refused.is_err(), "a token of more than 128 bytes");
    watcher.until(2).await?;

    // By another node, by the same node; the old connection stays open, and is told the counts.
    for (node, counted) in [(1, true), (0, true), (0, true), (0, false)] {
        let query = if counted { "" } else { "&observe=true" };
        let mut again = Follower::open(&bases[node], &format!("{path}?user=eve&resume={}{query}", token(&old.hello)?)).await?;
        again.next_of("count").await?;
        let before = std::mem::replace(&mut old, again);
        // Who closes the old one before the new one counts has left for a moment.
        until("it is where it was resumed, and there alone", async || {
            let held = [figures(&cluster.nodes[0]).await?["sessions"], figures(&cluster.nodes[1]).await?["sessions"]];
            anyhow::ensure!(held == [2 - u64::try_from(node)?, u64::try_from(node)?], "{held:?}");
            Ok(())
        })
        .await?;
        all_view(&cluster.nodes.iter().collect::<Vec<_>>(), page, 2).await?;
        watcher.until(2).await?;
        // It ends once.
        drop(before);
        if !counted {
            // Who only watches replaces nobody: the viewer left with its own connection.
            watcher.until(1).await?;
        }
    }
    drop(victim);
    watcher.until(0).await?;
    let counts = watcher.counts();
    let forgers = i64::try_from(forged.len())?;
    assert!(counts.iter().all(|count| (0..=2 + forgers).contains(count)), "{counts:?}");
    let left = counts.iter().position(|count| *count < 2).context("nobody has left")?;
    assert_eq!(counts[left..], [1, 0], "they left when they did, and not before: {counts:?}");
    Ok(())
}

#[tokio::test]
async fn ids_move_to_another_holder_when_theirs_stops_and_back_when_it_is_there_again() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 3, &["--presence-heartbeat", "600"]).await?;
    let (bases, http, page) = (cluster.bases(), Http::default(), "p");
    let mut sockets = Vec::new();
    for id in 0..12 {
        sockets.push(Follower::open(&bases[id % 2], &format!("/{page}/live?session=socket-{id}")).await?);
        let url = format!("{}/{page}/sessions/beat-{id}", bases[id % 3]);
        http.send(Method::PUT, &url, Some(json!({"user": "ann"}))).await?.json_of(StatusCode::OK)?;
    }
    // Sockets of a stopping node keep their ids, too.
    let path = format!("/{page}/live?session=leaver");
    let leaver = Follower::open(&bases[2], &path).await?;
    let watcher = Watcher::from(&bases[0], page, 25).await?;
    assert!(figures(&cluster.nodes[2]).await?["sessions"] > 0, "some are held there");
    let (stopped, leaver) = tokio::join!(cluster.nodes[2].stop(), goes_on(leaver, &bases[1], &path));
    assert!(stopped?.success());
    let leaver = leaver?;
    all_view(&[&cluster.nodes[0], &cluster.nodes[1]], page, 25).await?;

    cluster.nodes[2].start_ready().await?;
    until("it holds sessions again, and nobody else does", async || {
        let mut held = Vec::new();
        for node in &cluster.nodes {
            held.push(figures(node).await?["sessions"]);
        }
        anyhow::ensure!(held[2] > 0 && held.iter().sum::<u64>() == 25, "{held:?}");
        Ok(())
    })
    .await?;
    all_view(&cluster.nodes.iter().collect::<Vec<_>>(), page, 25).await?;
    let counts = watcher.until(25).await?;
    assert!(counts.iter().all(|count| (25..=50).contains(count)), "{counts:?}");
    // Who leaves is not kept by what was handed over.
    drop(leaver);
    watcher.until(24).await?;
    for id in 0..12 {
        let url = format!("{}/{page}/sessions/beat-{id}", bases[id % 3]);
        http.send(Method::DELETE, &url, None).await?.json_of(StatusCode::OK)?;
    }
    watcher.until(12).await?;
    drop(sockets);
    watcher.until(0).await?;
    Ok(())
}

#[tokio::test]
async fn ids_are_claimed_anew_when_their_holder_is_killed() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 3, &["--presence-lease", "3", "--presence-heartbeat", "600"]).await?;
    let (bases, page) = (cluster.bases(), "p");
    let mut sockets = Vec::new();
    for id in 0..12 {
        sockets.push(Follower::open(&bases[0], &format!("/{page}/live?session=socket-{id}")).await?);
    }
    let watcher = Watcher::from(&bases[1], page, 12).await?;
    assert!(figures(&cluster.nodes[2]).await?["sessions"] > 0, "some are held there");
    cluster.nodes[2].kill().await?;
    until("the others hold all", async || {
        let held = [figures(&cluster.nodes[0]).await?["sessions"], figures(&cluster.nodes[1]).await?["sessions"]];
        anyhow::ensure!(held.iter().sum::<u64>() == 12, "{held:?}");
        Ok(())
    })
    .await?;
    all_view(&[&cluster.nodes[0], &cluster.nodes[1]], page, 12).await?;
    watcher.until(12).await?;
    drop(sockets);
    watcher.until(0).await?;
    Ok(())
}

#[tokio::test]
async fn an_heir_that_dies_takes_the_orphans_along_and_those_who_are_back_count_once() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(1, 3, &["--presence-lease", "3"]).await?;
    let (bases, page) = (cluster.bases(), "p");
    let path = format!("/{page}/live");
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(Follower::open(&bases[0], &path).await?);
    }
    all_view(&cluster.nodes.iter().collect::<Vec<_>>(), page, 4).await?;
    assert!(cluster.nodes[0].stop().await?.success());
    let heir = figures(&cluster.nodes[1]).await?["orphans"] > 0;
    let (heir, other) = if heir { (1, 2) } else { (2, 1) };
    cluster.nodes[heir].kill().await?;
    let mut back = Vec::new();
    for client in clients.drain(..2) {
        back.push(goes_on(client, &bases[other], &path).await?);
    }
    let watcher = Watcher::from(&bases[other], page, 2).await?;
    back.pop();
    watcher.until(1).await?;
    all_view(&[&cluster.nodes[other]], page, 1).await
}
