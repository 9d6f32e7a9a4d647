//! Viewers that come and go by the thousand, and whether the page counts right when they have stopped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::viewer::Viewer;
use super::{PAGE, node, on_second_core};
use crate::Args;
use crate::figures::Figures;
use crate::http::Connection;

/// By what they come and go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Storm {
    /// Each on a connection that stays, by messages, at a fixed rate.
    Messages,
    /// By opening and closing connections, as fast as so many clients at a time can.
    Connections,
}

/// Connections of those who come and go by messages, each once in this time.
const CLIENTS: usize = 1_000;
const PERIOD: Duration = Duration::from_millis(160);
/// Clients that open and close connections at a time.
const AT_ONCE: usize = 64;
/// Without a count for so long, the page is at rest: ten are sent a second while it changes.
const QUIET: Duration = Duration::from_secs(1);
/// How long the last of them may take to be counted.
const LIMIT: Duration = Duration::from_secs(10);

/// Lets them come and go, and then some stay. What is reported is how many come, and go, a second.
pub(crate) fn storm(args: &Args, storm: Storm) -> anyhow::Result<Figures> {
    let running = node(args)?;
    let (http, time) = (running.http, Duration::from_secs(args.seconds.max(3)));
    let (joins, took) = on_second_core(async move {
        let mut observer = Viewer::open(http, &format!("/{PAGE}/live?observe=true"), 0).await?;
        let (joins, staying, took) = match storm {
            Storm::Messages => messages(http, time).await?,
            Storm::Connections => connections(http, time).await?,
        };
        let stay = i64::try_from(staying.len())?;
        let last = tokio::time::timeout(LIMIT, last_count(&mut observer)).await;
        let last = last.with_context(|| format!("the page's count has not come to rest after {LIMIT:?}"))??;
        ensure!(last == Some(stay), "the page counts {last:?} at last, and {stay} are there");
        let read = tokio::task::spawn_blocking(move || Connection::open(http)?.count("GET", &format!("/{PAGE}/counter")));
        let read = read.await??;
        ensure!(read == stay, "the page counts {read}, and {stay} are there");
        drop(staying);
        let left = tokio::time::timeout(LIMIT, observer.until(0)).await;
        left.context("those who have left are counted")??;
        Ok((joins, took))
    })?;
    #[expect(clippy::cast_precision_loss, reason = "some thousands")]
    let per_second = joins as f64 / took.as_secs_f64();
    Ok(Figures { per_second: Some(per_second), ..Figures::default() })
}

/// The count after which none comes.
async fn last_count(observer: &mut Viewer) -> anyhow::Result<Option<i64>> {
    let mut last = None;
    while let Ok(count) = tokio::time::timeout(QUIET, observer.count()).await {
        last = Some(count?);
    }
    Ok(last)
}

/// How many came, who stays, and how long it took.
async fn messages(server: SocketAddr, time: Duration) -> anyhow::Result<(usize, Vec<Viewer>, Duration)> {
    let mut viewers = Vec::with_capacity(CLIENTS);
    for number in 0..CLIENTS {
        viewers.push(Viewer::open(server, "/live", number).await?);
    }
    let begin = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for (number, viewer) in viewers.into_iter().enumerate() {
        clients.spawn(come_and_go(viewer, number, begin, begin + time));
    }
    let (mut joins, mut staying) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (of_client, viewer) = client??;
        joins += of_client;
        staying.extend(viewer);
    }
    Ok((joins, staying, begin.elapsed()))
}

/// How often one has come, and the viewer if it is there at the end.
async fn come_and_go(mut viewer: Viewer, number: usize, begin: Instant, end: Instant) -> anyhow::Result<(usize, Option<Viewer>)> {
    let join = format!(r#"{{"type":"subscribe","pages":["{PAGE}"]}}"#);
    let leave = format!(r#"{{"type":"unsubscribe","pages":["{PAGE}"]}}"#);
    let mut due = begin + PERIOD * u32::try_from(number)? / u32::try_from(CLIENTS)?;
    let (mut joins, mut is_there) = (0, false);
    // One in three stays.
    while due < end || is_there != number.is_multiple_of(3) {
        // Whatever it is told meanwhile is read, so that it is no slow client.
        while let Ok(count) = tokio::time::timeout_at(due.into(), viewer.count()).await {
            count?;
        }
        is_there = !is_there;
        joins += usize::from(is_there);
        viewer.say(if is_there { &join } else { &leave }).await?;
        due += PERIOD / 2;
    }
    Ok((joins, is_there.then_some(viewer)))
}

/// How many came, who stays, and how long it took.
async fn connections(server: SocketAddr, time: Duration) -> anyhow::Result<(usize, Vec<Viewer>, Duration)> {
    let begin = Instant::now();
    let end = begin + time;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..AT_ONCE {
        clients.spawn(async move {
            let (mut joins, path) = (0, format!("/{PAGE}/live"));
            loop {
                let viewer = Viewer::open(server, &path, number).await?;
                joins += 1;
                if Instant::now() >= end {
                    return anyhow::Ok((joins, viewer));
                }
            }
        });
    }
    let (mut joins, mut staying) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let (of_client, viewer) = client??;
        joins += of_client;
        staying.push(viewer);
    }
    Ok((joins, staying, begin.elapsed()))
}
