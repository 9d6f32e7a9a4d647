//! Whatever clients of live connections do, wrong or right: when they have gone, tasks, files and memory are what they were.

use anyhow::Context as _;
use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, Held, held, nothing_left};
use counter_tests::node::TestNode;
use counter_tests::wait::until;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::live_bad_input::Wrong;

/// What a client does that the node takes.
#[derive(Clone, Copy, Debug)]
enum Right {
    /// Views and observes several pages, changes its mind, and goes.
    Subscribes,
    /// The same under an id of its own, which is claimed, by two connections.
    SubscribesByName,
    /// Watches a page, the site, and what somebody has not read.
    Observes,
    Streams,
    Resumes,
    /// Heartbeats, more than one, until they are ended.
    Beats,
}

impl Right {
    const ALL: [Self; 6] = [Self::Subscribes, Self::SubscribesByName, Self::Observes, Self::Streams, Self::Resumes, Self::Beats];

    /// Does it once. Pages come again and followed users do; ids do not.
    async fn happen(self, node: &TestNode, http: &Http, round: u32) -> anyhow::Result<()> {
        let (base, page) = (node.http(), format!("right-{}", round % PAGES));
        match self {
            Self::Subscribes => {
                let mut client = Follower::open(&base, &format!("/{page}/live?user=reader-{}", round % PAGES)).await?;
                subscribe(&mut client, &page).await?;
            }
            Self::SubscribesByName => {
                let path = format!("/{page}/live?session=socket-{round}");
                let (mut client, mut other) = (Follower::open(&base, &path).await?, Follower::open(&base, &path).await?);
                subscribe(&mut client, &page).await?;
                subscribe(&mut other, &page).await?;
            }
            Self::Observes => {
                let user = format!("watcher-{}", round % PAGES);
                let path = format!("/{page}/live?observe=true&user={user}");
                let mut client = Follower::open(&base, &path).await?;
                client.next_of("unread").await?;
                Follower::open(&base, "/live").await?.next_of("count").await?;
                Follower::open(&base, &format!("/users/{user}/unread/live")).await?.next_of("unread").await?;
            }
            Self::Streams => {
                let mut events = Events::open(&base, &format!("/{page}/live?session=stream-{round}"), &[]).await?;
                events.next().await?.context("no hello")?;
                events.next().await?.context("no count")?;
            }
            Self::Resumes => {
                let path = format!("/{page}/live");
                let before = Follower::open(&base, &path).await?;
                let token = before.hello["resume"].as_str().context("no token")?;
                let mut after = Follower::open(&base, &format!("{path}?resume={token}")).await?;
                after.next_of("count").await?;
            }
            Self::Beats => {
                let session = format!("{base}/{page}/sessions/beats-{round}");
                for _ in 0..3 {
                    let user = json!({"user": format!("beater-{round}")});
                    http.send(Method::PUT, &session, Some(user)).await?.json_of(StatusCode::OK)?;
                }
                let end = Request::post(format!("{session}/end")).body(bytes::Bytes::new())?;
                assert_eq!(http.request(end).await?.status, StatusCode::NO_CONTENT);
            }
        }
        Ok(())
    }
}

async fn subscribe(client: &mut Follower, page: &str) -> anyhow::Result<()> {
    let pages = |kind: &str| (0..5).map(|number| format!("{page}-{kind}-{number}")).collect::<Vec<_>>();
    for (what, pages, observe) in [
        ("subscribe", pages("view"), Some(false)),
        ("subscribe", pages("watch"), Some(true)),
        ("subscribe", pages("view"), Some(true)),
        ("subscribe", pages("watch"), Some(false)),
        ("unsubscribe", pages("view"), None),
    ] {
        let mut message = json!({"type": what, "pages": pages});
        if let Some(observe) = observe {
            message["observe"] = Value::Bool(observe);
        }
        client.say(&message).await?;
        assert_eq!(client.next_of(&format!("{what}d")).await?["pages"], json!(pages));
    }
    Ok(())
}

/// So many pages are looked at, and as many users followed. Of 4,096 of them the node remembers that nobody is there any more, for
/// replicas that have missed it.
const PAGES: u32 = 50;

/// Anything that clients do.
#[derive(Clone, Copy, Debug)]
enum Done {
    Wrong(Wrong),
    Right(Right),
}

impl Done {
    fn all() -> impl Iterator<Item = Self> {
        Wrong::ALL.into_iter().map(Self::Wrong).chain(Right::ALL.into_iter().map(Self::Right))
    }

    async fn happen(self, node: &TestNode, http: &Http, round: u32) -> anyhow::Result<()> {
        match self {
            Self::Wrong(wrong) => wrong.happen(node, http, round).await,
            Self::Right(right) => right.happen(node, http, round).await,
        }
        .with_context(|| format!("{self:?} in round {round}"))
    }
}

async fn alone() -> anyhow::Result<(TestNode, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    // One heap, of which all that is free at its end is given back, so that what the process has is what it uses.
    for (name, value) in [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "4096"), ("MALLOC_TOP_PAD_", "0")] {
        node.set_env(name, value);
    }
    node.start_ready().await?;
    Ok((node, folder))
}

/// What the node holds once its tasks and files come and go no more.
async fn at_rest(node: &TestNode, http: &Http) -> anyhow::Result<Held> {
    const ALIKE: usize = 5;
    let mut seen: Vec<(u64, usize)> = Vec::new();
    until("it is at rest", async || {
        // The connection that this test keeps may have been closed for its long silence.
        http.get_json(&format!("{}/p/counter", node.http())).await?;
        let now = held(node).await?;
        seen.push((now.tasks, now.files));
        let is_at_rest = seen.iter().rev().take(ALIKE).filter(|last| **last == (now.tasks, now.files)).count() == ALIKE;
        anyhow::ensure!(is_at_rest, "tasks and files come and go: {seen:?}");
        Ok(now)
    })
    .await
}

#[tokio::test]
async fn whatever_clients_do_tasks_and_files_are_exactly_as_before_and_memory_nearly() -> anyhow::Result<()> {
    /// What an allocator keeps of what was given back to it varies by some hundred KiB. Of 300 rounds it is less than 2 KiB each,
    /// which is less than anything that a connection leaves behind.
    const MEMORY_KIB: u64 = 512;
    let (node, _folder) = alone().await?;
    let http = Http::default();
    for done in Done::all() {
        // So often it is done; what leaves a buffer behind each time then shows.
        let rounds = if matches!(done, Done::Wrong(Wrong::TenThousandPages)) { 8 } else { 100 };
        // Whatever the node opens once it has by then.
        for round in 0..rounds {
            done.happen(&node, &http, round).await?;
        }
        nothing_left(&node).await?;
        let before = at_rest(&node, &http).await?;
        for round in 0..3 * rounds {
            done.happen(&node, &http, round).await?;
        }
        nothing_left(&node).await?;
        until("it holds what it held before", async || {
            let now = at_rest(&node, &http).await?;
            let memory_kib = now.memory_kib.saturating_sub(before.memory_kib);
            let is_as_before = (now.tasks, now.files) == (before.tasks, before.files) && memory_kib <= MEMORY_KIB;
            anyhow::ensure!(is_as_before, "{done:?}: {now:?}, and before {before:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}
