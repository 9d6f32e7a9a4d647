//! Whatever clients of live connections do, wrong or right: when they have gone, tasks, files and memory are what they were.

use anyhow::Context as _;
use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, Held, held, nothing_left};
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use futures::future::try_join_all;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::live_bad_input::Wrong;

/// What an allocator keeps of what was given back to it varies by some hundred KiB. Of 300 rounds it is less than 2 KiB each, which is
/// less than anything that a connection leaves behind; ended claims that are never forgotten are 500 to 800 KiB at each node of three.
const MEMORY_KIB: u64 = 512;

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

/// A process with one heap, of which all that is free at its end is given back, so that what it has is what it uses.
fn with_one_heap(node: &mut TestNode) {
    for (name, value) in [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "4096"), ("MALLOC_TOP_PAD_", "0")] {
        node.set_env(name, value);
    }
}

/// What these nodes hold once their tasks and files come and go no more.
async fn at_rest(nodes: &[TestNode]) -> anyhow::Result<Vec<Held>> {
    const ALIKE: usize = 5;
    let mut seen: Vec<Vec<(u64, usize)>> = Vec::new();
    until("they are at rest", async || {
        let now = try_join_all(nodes.iter().map(held)).await?;
        seen.push(now.iter().map(|now| (now.tasks, now.files)).collect());
        let is_at_rest = seen.iter().rev().take(ALIKE).filter(|last| Some(*last) == seen.last()).count() == ALIKE;
        anyhow::ensure!(is_at_rest, "tasks and files come and go: {seen:?}");
        Ok(now)
    })
    .await
}

/// How clients come to a node, the first of `nodes`.
struct Crowd<'a> {
    nodes: &'a [TestNode],
    /// Each client does one of these, and each of these is done in every round.
    does: &'a [Done],
    /// Rounds at a time.
    at_once: usize,
}

impl Crowd<'_> {
    /// Comes and goes so often; then nothing of it is left at any node.
    async fn comes(&self, rounds: u32) -> anyhow::Result<()> {
        // With it go the connections that it keeps.
        let http = Http::default();
        let all = (0..rounds).flat_map(|round| self.does.iter().map(move |done| (round, *done)));
        let happen = |(round, done): (u32, Done)| done.happen(&self.nodes[0], &http, round);
        stream::iter(all).map(happen).buffer_unordered(self.at_once * self.does.len()).try_collect::<()>().await?;
        try_join_all(self.nodes.iter().map(nothing_left)).await?;
        Ok(())
    }

    /// Comes so often, and so often again: all nodes hold the same afterwards.
    async fn leaves_nothing(&self, [first, again]: [u32; 2]) -> anyhow::Result<()> {
        // Whatever the nodes open once they have by then.
        self.comes(first).await?;
        let before = at_rest(self.nodes).await?;
        self.comes(again).await?;
        until("they hold what they held before", async || {
            let now = at_rest(self.nodes).await?;
            let are_as_before = now.iter().zip(&before).all(|(now, before)| self.is_as_before(*now, *before));
            anyhow::ensure!(are_as_before, "{:?}: {now:?}, and before {before:?}", self.does);
            Ok(())
        })
        .await
    }

    fn is_as_before(&self, now: Held, before: Held) -> bool {
        /// To each other node and from it, two connections for forwarded messages are kept, and end when there are none for a while.
        const END: usize = 4;
        /// Of each.
        const TASKS: usize = 2;
        let end = END * (self.nodes.len() - 1);
        let files = before.files.checked_sub(now.files).is_some_and(|ended| ended <= end);
        let tasks = before.tasks.checked_sub(now.tasks).is_some_and(|ended| ended <= (TASKS * end) as u64);
        files && tasks && now.memory_kib.saturating_sub(before.memory_kib) <= MEMORY_KIB
    }
}

#[tokio::test]
async fn whatever_clients_do_tasks_and_files_are_exactly_as_before_and_memory_nearly() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    with_one_heap(&mut node);
    node.start_ready().await?;
    let nodes = [node];
    for done in Done::all() {
        // So often it is done; what leaves a buffer behind each time then shows.
        let rounds = if matches!(done, Done::Wrong(Wrong::TenThousandPages)) { 8 } else { 100 };
        Crowd { nodes: &nodes, does: &[done], at_once: 1 }.leaves_nothing([rounds, 3 * rounds]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn of_clients_of_one_node_nothing_is_left_at_those_that_own_their_pages_and_hold_their_sessions() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(3, 1, &[])?;
    cluster.nodes.iter_mut().for_each(with_one_heap);
    cluster.run().await?;
    // What the other nodes have a part in. Pages, and sessions, are of all three.
    let others_hear = |done: &Done| {
        matches!(done, Done::Right(_) | Done::Wrong(Wrong::PageNeverSeen | Wrong::EndedSession | Wrong::EndsAnyhow))
    };
    let does: Vec<Done> = Done::all().filter(others_hear).collect();
    // The nodes remember for a while what has ended, so that as many come the second time as the first.
    Crowd { nodes: &cluster.nodes, does: &does, at_once: 4 }.leaves_nothing([300, 300]).await
}
