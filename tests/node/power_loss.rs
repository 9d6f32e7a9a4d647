//! Power failures at any moment of a real process's life. What the disk holds then is told by the system calls that the
//! process made (`harness/power`), and never by what it or a test takes for durable.
//!
//! Each test prints its seed; `POWER_SEED=n` repeats the choices of one run.
#![expect(clippy::print_stdout, reason = "a seed must be printed")]

mod folds;
mod siblings;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use counter_tests::count::Counting;
use counter_tests::http::Http;
use counter_tests::node::TestNode;
use counter_tests::power::disk::Disk;
use counter_tests::power::image::Image;
use counter_tests::power::trace::{self, Event, Trace};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::json;
use tempfile::TempDir;

/// After how many moments of one life the power fails.
const FAILURES: usize = 8;
const PAGES: [&str; 3] = ["front-page", "sports", "weather"];
/// Page n starts at n million, so that every answer tells by its count which page it is of.
const MILLION: i64 = 1_000_000;
/// The thread that forces commits to the disk in `EverySecond`.
const SYNC: &str = "sync";
/// What `EverySecond` may take: "the last second or two".
const PERIOD_MAX_US: u64 = 2_000_000;

fn random() -> StdRng {
    let told = std::env::var("POWER_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = told.unwrap_or_else(rand::random);
    println!("POWER_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// One life of a node on a new volume, from its first system call to the last.
struct Life {
    node: TestNode,
    folder: TempDir,
    trace: Trace,
}

impl Life {
    /// A life in which `live` happens, and which then ends in order; and what that gave.
    async fn of<T>(fsync: &str, live: impl AsyncFnOnce(&TestNode, &Path) -> anyhow::Result<T>) -> anyhow::Result<(Self, T)> {
        let folder = tempfile::tempdir()?;
        let mut node = TestNode::alone(folder.path(), &["--fsync", fsync])?;
        Image::empty().replace(&node.data())?;
        let log = folder.path().join("trace");
        node.trace_to(Some(log.clone()));
        node.start_ready().await?;
        let pid = node.pid().context("it has ended")?;
        let gave = live(&node, &log).await?;
        assert!(node.stop().await?.success());
        node.trace_to(None);
        let trace = trace::read_ended(&log, pid).await?;
        std::fs::remove_file(log)?;
        let life = Self { node, folder, trace };
        let seen = life.after(life.trace.events.len())?.seen()?;
        assert_eq!(seen.difference(&Image::read(&life.node.data())?), None, "the trace does not explain what the files hold");
        Ok((life, gave))
    }

    fn after(&self, events: usize) -> anyhow::Result<Disk<'_>> {
        Disk::after(events, &self.trace, &self.folder.path().join("local/data"), &Image::empty())
    }

    /// After which events the power fails: some of all, some when a client was just being answered, and some when a call that
    /// forces has just ended, or any call of a thread of which there may be none.
    fn moments(&self, failures: usize, thread: &str, random: &mut StdRng) -> Vec<usize> {
        let which = |chosen: &dyn Fn(&Event) -> bool| -> Vec<usize> {
            let events = self.trace.events.iter().enumerate();
            events.filter(|(_, event)| chosen(event)).map(|(index, _)| index + 1).collect()
        };
        let name = |event: &Event| self.trace.calls[event.call].name.as_str();
        let mut kinds = vec![
            which(&|_| true),
            which(&|event| event.gave.is_none() && self.sent(event).is_some()),
            which(&|event| event.gave.is_some() && name(event).ends_with("sync")),
            which(&|event| self.trace.calls[event.call].thread == thread),
        ];
        kinds.retain(|kind| !kind.is_empty());
        (0..failures).map(|number| *kinds[number % kinds.len()].choose(random).unwrap()).collect()
    }

    /// What a client may have got from when this event was.
    fn sent(&self, event: &Event) -> Option<String> {
        let call = &self.trace.calls[event.call];
        let sends = event.gave.is_none() && call.name.starts_with("send");
        sends.then(|| String::from_utf8_lossy(&call.strings().collect::<Vec<_>>().concat()).into_owned())
    }

    /// All that clients may have got in so many events.
    fn told(&self, events: usize) -> String {
        self.trace.events[..events].iter().filter_map(|event| self.sent(event)).collect()
    }

    /// What each page counts at least for whoever knows the answers of so many events.
    fn acknowledged(&self, events: usize) -> BTreeMap<&'static str, i64> {
        let mut counts = PAGES.map(|page| (page, 0));
        for part in self.told(events).split("\"count\":").skip(1) {
            let count: i64 = part[..part.find([',', '}']).unwrap()].parse().unwrap();
            let (number, (_, least)) = (count / MILLION, &mut counts[usize::try_from(count / MILLION).unwrap() - 1]);
            // The first answer tells of the million, and each further one of one update.
            *least = if *least == 0 { number * MILLION } else { *least + 1 };
        }
        counts.into()
    }

    /// When the thread that forces every second began its last turn that had ended after so many events.
    fn last_sync(&self, events: usize) -> usize {
        let events = &self.trace.events[..events];
        let last = events.iter().rfind(|event| event.gave.is_some() && self.is_turn(event));
        last.map_or(0, |last| events.iter().position(|event| event.call == last.call).unwrap())
    }

    /// How long the same thread has paused between its turns, in microseconds.
    fn pauses(&self) -> Vec<u64> {
        let turns: Vec<&Event> = self.trace.events.iter().filter(|event| self.is_turn(event)).collect();
        turns.windows(2).filter(|pair| pair[1].gave.is_none()).map(|pair| pair[1].at_us - pair[0].at_us).collect()
    }

    fn is_turn(&self, event: &Event) -> bool {
        let call = &self.trace.calls[event.call];
        (call.thread.as_str(), call.name.as_str()) == (SYNC, "fdatasync")
    }
}

/// After which events a name was just given or taken, and not forced.
fn named(trace: &Trace) -> impl Iterator<Item = usize> {
    let is_name = |event: &Event| {
        let name = trace.calls[event.call].name.as_str();
        event.gave == Some(0) && ["rename", "unlink", "mkdir", "rmdir"].iter().any(|kind| name.starts_with(kind))
    };
    (1..).zip(&trace.events).filter(move |(_, event)| is_name(event)).map(|(events, _)| events)
}

/// Counts all pages until `enough`. Returns what each counts at most.
async fn count_all(
    node: &TestNode,
    enough: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<BTreeMap<&'static str, i64>> {
    let (http, mut clients, mut most) = (Http::default(), Vec::new(), BTreeMap::new());
    for (page, number) in PAGES.into_iter().zip(1..) {
        let first = json!({"action": "increment", "by": number * MILLION});
        let answer = http.send(Method::PUT, &format!("{}/{page}/counter", node.http()), Some(first)).await?;
        assert_eq!(answer.status, StatusCode::OK);
        let base = node.http();
        clients.push((page, number, Counting::start(page, 2, move || vec![base.clone()])));
    }
    for (_, _, counting) in &clients {
        counting.acknowledge(20).await?;
    }
    enough().await?;
    for (page, number, counting) in clients {
        let told = counting.stop().await;
        most.insert(page, number * MILLION + told.acknowledged + told.unknown);
    }
    Ok(most)
}

/// Starts the node on what a power failure has left, and holds each page to its bounds; what is counted then comes on top.
async fn check(node: &mut TestNode, left: &Image, least: &BTreeMap<&str, i64>, most: &BTreeMap<&str, i64>) -> anyhow::Result<()> {
    left.replace(&node.data())?;
    node.start_ready().await?;
    let http = Http::default();
    for page in PAGES {
        let count = http.count(&node.http(), page).await?;
        assert!((least[page]..=most[page]).contains(&count), "{page}: {count} of {least:?} to {most:?}");
        let answer = http.send(Method::PUT, &format!("{}/{page}/counter", node.http()), None).await?;
        assert_eq!(answer.json_of(StatusCode::OK)?["count"], count + 1);
    }
    node.kill().await
}

#[tokio::test]
async fn always_loses_nothing_that_was_acknowledged() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, most) = Life::of("Always", async |node, _| count_all(node, async || Ok(())).await).await?;
    for events in life.moments(FAILURES, SYNC, &mut random) {
        println!("after {events} of {} events", life.trace.events.len());
        let (left, least) = (life.after(events)?.lose_power(&mut random)?, life.acknowledged(events));
        check(&mut life.node, &left, &least, &most).await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_second_loses_nothing_that_was_acknowledged_before_the_last_sync() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, most) = Life::of("EverySecond", async |node, log| {
        let from = trace::bytes(log)?;
        let synced = async || {
            let three_times = async || {
                let times = trace::times_called(log, from, SYNC, "fdatasync")?;
                anyhow::ensure!(times >= 3, "{times} times");
                Ok(())
            };
            until("commits were forced three times", three_times).await
        };
        count_all(node, synced).await
    })
    .await?;
    // One pause of the promised length shows the period; the others may have been stretched by a busy machine.
    assert!(life.pauses().iter().any(|&pause_us| pause_us <= PERIOD_MAX_US), "{:?}", life.pauses());
    for events in life.moments(FAILURES, SYNC, &mut random) {
        let synced = life.last_sync(events);
        println!("after {events} of {} events, the last sync after {synced}", life.trace.events.len());
        let (left, least) = (life.after(events)?.lose_power(&mut random)?, life.acknowledged(synced));
        check(&mut life.node, &left, &least, &most).await?;
    }
    Ok(())
}

#[tokio::test]
async fn never_starts_after_a_power_failure_and_counts_nothing_twice() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, most) = Life::of("Never", async |node, _| count_all(node, async || Ok(())).await).await?;
    let nothing = PAGES.map(|page| (page, 0)).into();
    for events in life.moments(FAILURES, SYNC, &mut random) {
        println!("after {events} of {} events", life.trace.events.len());
        let left = life.after(events)?.lose_power(&mut random)?;
        check(&mut life.node, &left, &nothing, &most).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_volume_on_which_the_power_fails_while_it_is_made_is_made_all_the_same() -> anyhow::Result<()> {
    let mut random = random();
    let (mut life, ()) = Life::of("Always", async |_, _| Ok(())).await?;
    let name = |event: &Event| life.trace.calls[event.call].name.as_str();
    let is_last = |event: &Event| life.trace.calls[event.call].strings().any(|path| path.ends_with(b"/store"));
    let made = life.trace.events.iter().rposition(|event| name(event) == "rename" && is_last(event)).context("no rename")?;
    let is_step = |event: &Event| event.gave.is_some() && (name(event).ends_with("sync") || name(event).starts_with("rename"));
    // The last of them is the one that forces the last rename.
    let steps: Vec<usize> = (0..life.trace.events.len()).filter(|index| is_step(&life.trace.events[*index])).collect();
    let until_made = steps.iter().take_while(|index| **index <= made).count() + 1;
    let none = BTreeMap::from(PAGES.map(|page| (page, 0)));
    for index in steps.into_iter().take(until_made) {
        for _ in 0..3 {
            let left = life.after(index + 1)?.lose_power(&mut random)?;
            check(&mut life.node, &left, &none, &none).await.with_context(|| format!("after {} events", index + 1))?;
        }
    }
    Ok(())
}
