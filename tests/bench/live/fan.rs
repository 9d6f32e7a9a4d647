//! How soon one change has reached everyone who looks at a page.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::viewer::Viewer;
use super::{PAGE, in_one_thread, start};
use crate::Args;
use crate::figures::Figures;
use crate::row::Cores;
use crate::server::Server;

const VIEWERS: usize = 10_000;
const CHANGES_MIN: u64 = 5;
/// Longer than a page of so many rests between two counts.
const REST: Duration = Duration::from_millis(1_500);
/// Everyone has it by then, or the measurement has failed.
const LIMIT: Duration = Duration::from_secs(10);
/// What the peer's viewers are told: as long as a count.
const SAID: &str = r#"{"type":"count","page":"front-page","count":COUNT,"updated_at":"2030-10-10T12:11:42Z"}"#;

/// When they had the last change.
#[derive(Default)]
struct Arrivals {
    awaited: i64,
    at: Vec<Instant>,
}

/// Makes a change now and then, while ten thousand look at the page.
pub(crate) fn fan(args: &Args, server: Server, cores: Cores) -> anyhow::Result<Figures> {
    let mut running = start(args, server)?;
    if cores == Cores::Shared {
        running.restart()?;
        running.wait_until_it_listens(running.http)?;
    }
    let (http, is_node) = (running.http, matches!(server, Server::Node(_)));
    let changes = args.seconds.max(CHANGES_MIN);
    let server = &running;
    let (each, last, spent) = in_one_thread(cores, async move {
        let (arrivals, all) = (Arc::new(Mutex::new(Arrivals::default())), Arc::new(Notify::new()));
        let mut viewers = tokio::task::JoinSet::new();
        for number in 0..VIEWERS {
            let viewer = Viewer::open(http, &format!("/{PAGE}/live"), number).await?;
            viewers.spawn(watch(viewer, arrivals.clone(), all.clone()));
        }
        let mut changer = Changer::connect(http, is_node).await?;
        // They have made changes themselves, by coming.
        tokio::time::sleep(2 * REST).await;
        let (mut each, mut last, mut spent) = (Vec::new(), Vec::new(), Duration::ZERO);
        for _ in 0..changes {
            tokio::time::sleep(REST).await;
            *lock(&arrivals) = Arrivals { awaited: changer.next(), at: Vec::with_capacity(VIEWERS) };
            let (since, before) = (Instant::now(), server.cpu()?);
            changer.change().await?;
            let told = tokio::time::timeout(LIMIT, awake(cores, all.notified())).await;
            spent += server.cpu()?.saturating_sub(before);
            let at = std::mem::take(&mut lock(&arrivals).at);
            ensure!(told.is_ok(), "{} of {VIEWERS} have a change after {LIMIT:?}", at.len());
            let waits = at.iter().map(|at| at.saturating_duration_since(since).as_secs_f64() * 1e3);
            each.extend(waits.clone());
            last.push(waits.fold(0.0, f64::max));
        }
        Ok((each, last, spent))
    })?;
    let sorted = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values
    };
    let (each, last) = (sorted(each), sorted(last));
    let at = |share: usize| each.get(each.len() * share / 1000).copied();
    let all_ms = last.get(last.len() / 2).copied();
    let viewers = f64::from(u32::try_from(VIEWERS)?);
    let messages = viewers * f64::from(u32::try_from(changes)?);
    Ok(Figures {
        per_second: all_ms.map(|all_ms| viewers * 1e3 / all_ms),
        p50_ms: at(500),
        p99_ms: at(990),
        all_ms,
        cpu_us: Some(spent.as_secs_f64() * 1e6 / messages),
        ..Figures::default()
    })
}

async fn watch(mut viewer: Viewer, arrivals: Arc<Mutex<Arrivals>>, all: Arc<Notify>) -> anyhow::Result<()> {
    loop {
        let count = viewer.count().await?;
        let mut arrivals = lock(&arrivals);
        if count == arrivals.awaited {
            arrivals.at.push(Instant::now());
            if arrivals.at.len() == VIEWERS {
                all.notify_one();
            }
        }
    }
}

/// Waits; beside the server's core without letting the thread sleep. Else each packet would find the clients asleep, and the server would
/// pay for waking them: an interrupt for another core, which in a virtual machine costs half as much as the packet.
async fn awake<T>(cores: Cores, waiting: impl Future<Output = T>) -> T {
    if cores == Cores::Shared {
        return waiting.await;
    }
    let on = async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = waiting => done,
        () = on => unreachable!("it has no end"),
    }
}

fn lock(arrivals: &Mutex<Arrivals>) -> std::sync::MutexGuard<'_, Arrivals> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who makes the changes.
enum Changer {
    /// Counts up; the viewers are a part of the count.
    Node { address: SocketAddr, changes: i64, asked: Option<TcpStream> },
    /// One client more, to whom nobody looks.
    Broadcast { speaker: Viewer, changes: i64 },
}

impl Changer {
    async fn connect(address: SocketAddr, is_node: bool) -> anyhow::Result<Self> {
        if is_node {
            return Ok(Self::Node { address, changes: 0, asked: None });
        }
        Ok(Self::Broadcast { speaker: Viewer::open(address, "/", VIEWERS).await?, changes: 0 })
    }

    /// The count that the next change makes.
    fn next(&self) -> i64 {
        match self {
            Self::Node { changes, .. } => i64::try_from(VIEWERS).unwrap_or(0) + changes + 1,
            Self::Broadcast { changes, .. } => changes + 1,
        }
    }

    async fn change(&mut self) -> anyhow::Result<()> {
        let next = self.next();
        match self {
            Self::Node { address, changes, asked } => {
                *changes += 1;
                let mut stream = TcpStream::connect(*address).await?;
                let head = format!("PUT /{PAGE}/counter HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                // Its answer may be behind the pushes; nobody waits for it.
                *asked = Some(stream);
                Ok(())
            }
            Self::Broadcast { speaker, changes } => {
                *changes += 1;
                speaker.say(&SAID.replace("COUNT", &next.to_string())).await
            }
        }
    }
}
