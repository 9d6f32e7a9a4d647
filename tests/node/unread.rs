//! Unread counts on real clusters: what was modified, what was read, and what is pushed, wherever a client asks.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use counter_core::counter::Key;
use counter_core::layout::{Layout, Move, MovePhase, normalised};
use counter_core::slot::{Slot, SlotRange, to_ranges};
use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, nothing_left};
use counter_tests::node::{Cluster, give};
use counter_tests::wait::until;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

/// A site, as its own servers speak to the cluster: each request to the next node.
struct Site {
    http: Http,
    bases: Vec<String>,
    asked: std::cell::Cell<usize>,
}

impl Site {
    fn new(cluster: &Cluster) -> Self {
        Self { http: Http::default(), bases: cluster.bases(), asked: std::cell::Cell::new(0) }
    }

    fn url(&self, path: &str) -> String {
        let asked = self.asked.replace(self.asked.get() + 1);
        format!("{}{path}", self.bases[asked % self.bases.len()])
    }

    async fn modify(&self, page: &str) -> anyhow::Result<u64> {
        let answer = self.http.send(Method::POST, &self.url(&format!("/{page}/modifications")), None).await?;
        answer.json_of(StatusCode::OK)?["version"].as_u64().context("no version")
    }

    async fn subscribe(&self, user: &str, page: &str) -> anyhow::Result<Value> {
        let path = format!("/users/{user}/subscriptions/{page}");
        self.http.send(Method::PUT, &self.url(&path), None).await?.json_of(StatusCode::OK)
    }

    async fn unsubscribe(&self, user: &str, page: &str) -> anyhow::Result<()> {
        let answer = self.http.send(Method::DELETE, &self.url(&format!("/users/{user}/subscriptions/{page}")), None).await?;
        anyhow::ensure!(answer.status == StatusCode::NO_CONTENT, "status {}", answer.status);
        Ok(())
    }

    async fn read(&self, user: &str, page: &str, version: u64) -> anyhow::Result<Value> {
        let path = format!("/users/{user}/unread/{page}");
        let body = json!({"version": version});
        self.http.send(Method::PUT, &self.url(&path), Some(body)).await?.json_of(StatusCode::OK)
    }

    /// Waits until every node says that the user has so much to read.
    async fn has_unread(&self, user: &str, pages: &[(&str, u64)]) -> anyhow::Result<()> {
        let count: u64 = pages.iter().map(|(_, unread)| unread).sum();
        let wanted: BTreeMap<String, u64> = pages.iter().map(|(page, unread)| ((*page).to_owned(), *unread)).collect();
        for base in &self.bases {
            until("the node says what is left to read", async || {
                let unread = self.http.get_json(&format!("{base}/users/{user}/unread")).await?;
                let told: BTreeMap<String, u64> = unread["pages"]
                    .as_array()
                    .context("no pages")?
                    .iter()
                    .filter_map(|page| Some((page["page"].as_str()?.to_owned(), page["unread"].as_u64()?)))
                    .collect();
                anyhow::ensure!(unread["count"] == count && told == wanted, "{base} says {unread} instead of {wanted:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

/// Waits until the user's count is pushed as this, and returns the counts on the way there.
async fn pushed(follower: &mut Follower, user: &str, count: u64) -> anyhow::Result<Vec<u64>> {
    let mut counts = Vec::new();
    while counts.last() != Some(&count) {
        let message = follower.next_of("unread").await.with_context(|| format!("{counts:?}, and not {count}"))?;
        anyhow::ensure!(message["user"] == user, "{message}");
        counts.push(message["count"].as_u64().context("no count")?);
    }
    Ok(counts)
}

#[tokio::test]
async fn what_is_left_to_read_is_right_on_every_node_wherever_user_and_pages_live() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 2, &[]).await?;
    let (site, pages) = (Site::new(&cluster), [cluster.page_of(0)?, cluster.page_of(1)?, cluster.page_of(2)?]);
    let users: Vec<String> = pages.iter().map(|page| format!("{{{page}}}-reader")).collect();
    for page in &pages {
        for _ in 0..3 {
            site.modify(page).await?;
        }
    }
    for user in &users {
        for page in &pages {
            // What was modified just before, through another node, has been read.
            site.modify(page).await?;
            let subscription = site.subscribe(user, page).await?;
            assert_eq!((&subscription["subscribed"], &subscription["page"]), (&json!(true), &json!(page)));
        }
    }
    let [first, second, third] = [0, 1, 2].map(|page| pages[page].as_str());
    // Each page was modified once for each user who came after the first.
    for (place, user) in users.iter().enumerate() {
        let left = u64::try_from(users.len() - 1 - place)?;
        let unread: Vec<(&str, u64)> = [first, second, third].map(|page| (page, left)).into_iter().filter(|_| left > 0).collect();
        site.has_unread(user, &unread).await?;
    }
    let version = site.modify(second).await?;
    assert_eq!(version, 7);
    let last = &users[2];
    site.has_unread(last, &[(second, 1)]).await?;
    let read = site.read(last, second, version).await?;
    assert_eq!((&read["unread"], &read["version"]), (&json!(0), &json!(7)));
    site.has_unread(last, &[]).await?;
    assert_eq!(site.read(last, second, 2).await?["unread"], 0, "what was read stays read");
    site.unsubscribe(&users[0], first).await?;
    site.has_unread(&users[0], &[(second, 3), (third, 2)]).await?;
    for base in &site.bases {
        assert_eq!(site.http.count(base, second).await?, 0, "modifications are not counted as visits");
    }
    Ok(())
}

#[tokio::test]
async fn a_count_of_unread_is_pushed_as_pages_are_modified_and_read() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let site = Site::new(&cluster);
    let (near, far) = (cluster.page_of(0)?, cluster.page_of(1)?);
    site.subscribe("ann", &near).await?;
    let mut badge = Follower::open(&site.bases[1], "/users/ann/unread/live").await?;
    pushed(&mut badge, "ann", 0).await?;
    // A page that is subscribed to while someone looks, and one that was before.
    site.subscribe("ann", &far).await?;
    site.subscribe("bob", &far).await?;
    let far_version = site.modify(&far).await?;
    site.modify(&near).await?;
    let counts = pushed(&mut badge, "ann", 2).await?;
    assert!(counts.is_sorted(), "{counts:?}");
    // Beside the counts of a page, and as server-sent events.
    let mut page = Follower::open(&site.bases[2], &format!("/{near}/live?user=ann")).await?;
    pushed(&mut page, "ann", 2).await?;
    let mut stream = Events::open(&site.bases[3], "/users/ann/unread/live", &[]).await?;
    until_event(&mut stream, "message", 2).await?;
    let mut beside = Events::open(&site.bases[0], &format!("/{near}/live?user=ann&observe=true"), &[]).await?;
    until_event(&mut beside, "unread", 2).await?;
    // What is read in one tab is read in the others.
    site.read("ann", &far, far_version).await?;
    for follower in [&mut badge, &mut page] {
        pushed(follower, "ann", 1).await?;
    }
    until_event(&mut stream, "message", 1).await?;
    until_event(&mut beside, "unread", 1).await?;
    site.unsubscribe("ann", &near).await?;
    pushed(&mut badge, "ann", 0).await?;
    drop((badge, page, stream, beside));
    for node in &cluster.nodes {
        nothing_left(node).await?;
    }
    Ok(())
}

/// Waits for an event of this name, `message` where it has none, with this count.
async fn until_event(events: &mut Events, name: &str, count: u64) -> anyhow::Result<()> {
    loop {
        let event = events.next().await?.context("the stream has ended")?;
        let data: Value = event.get("data").map_or(Ok(Value::Null), |data| serde_json::from_str(data))?;
        if event.get("event").map_or("message", String::as_str) == name && data["count"] == count {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn what_was_modified_subscribed_and_read_outlives_killed_nodes() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 2, &["--presence-lease", "3"]).await?;
    let site = Site::new(&cluster);
    let pages = [cluster.page_of(0)?, cluster.page_of(1)?];
    let mut watcher = None;
    for page in &pages {
        site.modify(page).await?;
        for user in ["ann", "bob"] {
            site.subscribe(user, page).await?;
        }
        for _ in 0..2 {
            site.modify(page).await?;
        }
        // Not what the modification said: another replica may not have heard of the first by then.
        site.read("ann", page, 2).await?;
    }
    let [first, second] = [pages[0].as_str(), pages[1].as_str()];
    // Known everywhere: what only a killed node has is not read before it is back.
    site.has_unread("bob", &[(first, 2), (second, 2)]).await?;
    for round in 0..cluster.nodes.len() {
        cluster.nodes[round].kill().await?;
        let other = &site.bases[(round + 1) % site.bases.len()];
        let unread = site.http.get_json(&format!("{other}/users/bob/unread")).await?;
        assert_eq!(unread["count"], 4 + u64::try_from(2 * round)?, "with a node of each shard left: {unread}");
        if watcher.is_none() {
            watcher = Some(Follower::open(other, "/users/bob/unread/live").await?);
        }
        cluster.nodes[round].start_ready().await?;
        for page in &pages {
            site.modify(page).await?;
        }
        let more = u64::try_from(round)? + 1;
        site.has_unread("ann", &[(first, 1 + more), (second, 1 + more)]).await?;
        site.has_unread("bob", &[(first, 2 + more), (second, 2 + more)]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_modification_that_is_sent_twice_through_two_nodes_counts_once() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 3, &[]).await?;
    let (site, page) = (Site::new(&cluster), cluster.page_of(0)?);
    site.subscribe("ann", &page).await?;
    let key = format!("{}-{page}", std::time::UNIX_EPOCH.elapsed()?.as_millis());
    for base in site.bases.iter().chain(&site.bases) {
        let request = Request::post(format!("{base}/{page}/modifications")).header("idempotency-key", &key);
        site.http.request(request.body(Bytes::new())?).await?.json_of(StatusCode::OK)?;
    }
    site.has_unread("ann", &[(&page, 1)]).await
}

#[tokio::test]
async fn what_was_unsubscribed_just_before_its_slot_moved_is_known_to_who_subscribes_just_after() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &[]).await?;
    let site = Site::new(&cluster);
    let page = cluster.page_of(1)?;
    let mut users = Vec::new();
    for number in 0..40 {
        let user = format!("{{{}}}-{number}", cluster.page_of(0)?);
        site.subscribe(&user, &page).await?;
        site.subscribe(&user, "marker").await?;
        users.push(user);
    }
    let slot = Key::new(cluster.page_of(0)?.as_bytes())?.slot();
    let flipped = moved(&cluster.layout, slot).context("the first shard does not own it")?;
    flipped.validate()?;
    for user in &users {
        site.unsubscribe(user, &page).await?;
    }
    // At once, without the time in which the new owner gets what the old one has.
    for node in cluster.nodes.iter().rev() {
        give(node, &flipped).await?;
    }
    let new = &site.bases[1];
    for user in &users {
        let path = format!("{new}/users/{user}/subscriptions/{page}");
        site.http.send(Method::PUT, &path, None).await?.json_of(StatusCode::OK)?;
    }
    for user in &users {
        until("the new owner has what the old one had", async || {
            let marker = site.http.get_json(&format!("{new}/users/{user}/subscriptions/marker")).await?;
            anyhow::ensure!(marker["subscribed"] == true, "{marker}");
            Ok(())
        })
        .await?;
        let subscription = site.http.get_json(&format!("{new}/users/{user}/subscriptions/{page}")).await?;
        assert_eq!(subscription["subscribed"], true, "{user} has subscribed after all");
    }
    Ok(())
}

/// The layout after this one in which the second shard owns a slot of the first one.
fn moved(layout: &Layout, slot: Slot) -> Option<Layout> {
    let mut moved = layout.clone();
    moved.version = moved.version.next();
    let [first, second] = moved.shards.as_mut_slice() else { return None };
    let range = SlotRange::new(slot, slot)?;
    first.slots = to_ranges(first.slots.iter().flat_map(|range| range.iter()).filter(|other| *other != slot));
    second.slots = normalised(&[second.slots.clone(), vec![range]].concat());
    moved.moves = vec![Move { from: first.shard, to: second.shard, slots: vec![range], phase: MovePhase::Flipped }];
    Some(moved)
}

#[tokio::test]
async fn without_the_owner_of_the_page_nobody_subscribes_and_nothing_is_said_to_be_read() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 1, &[]).await?;
    let http = Http::default();
    let (page, user) = (cluster.page_of(1)?, format!("{{{}}}", cluster.page_of(0)?));
    let base = cluster.bases()[0].clone();
    let subscription = format!("{base}/users/{user}/subscriptions/{page}");
    cluster.nodes[1].kill().await?;
    let refused = http.send(Method::PUT, &subscription, None).await?;
    let problem = refused.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
    assert_eq!(problem["type"], "/problems/not-applied");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(http.get_json(&subscription).await?["subscribed"], false);
    assert_eq!(http.get_json(&format!("{base}/users/{user}/unread")).await?["count"], 0, "the user has no subscription");
    cluster.nodes[1].start_ready().await?;
    http.send(Method::PUT, &subscription, None).await?.json_of(StatusCode::OK)?;
    http.send(Method::POST, &format!("{base}/{page}/modifications"), None).await?.json_of(StatusCode::OK)?;
    cluster.nodes[1].kill().await?;
    let unread = http.send(Method::GET, &format!("{base}/users/{user}/unread"), None).await?;
    unread.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
    cluster.nodes[1].start_ready().await?;
    until("what was modified is there again", async || {
        let unread = http.get_json(&format!("{base}/users/{user}/unread")).await?;
        anyhow::ensure!(unread["count"] == 1, "{unread}");
        Ok(())
    })
    .await?;
    nothing_left(&cluster.nodes[0]).await
}
