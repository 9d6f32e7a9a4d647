//! Clients that repeat each update under its token until somebody has acknowledged it: then the count must be exact,
//! whatever happened to nodes and connections meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use hyper::{Request, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::Http;
use crate::wait::until;

/// How long a client goes on repeating one update.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// What the clients have come to.
#[derive(Debug, Default)]
pub struct Tally {
    acknowledged: AtomicI64,
    replayed: AtomicI64,
    repeated: AtomicI64,
}

/// The same, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Updates that were acknowledged, each once.
    pub acknowledged: i64,
    /// Those whose acknowledgement said that they had counted already.
    pub replayed: i64,
    /// Tries beyond the first.
    pub repeated: i64,
}

/// Clients under way.
#[derive(Debug)]
pub struct Exactly {
    tally: Arc<Tally>,
    stop: CancellationToken,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Exactly {
    /// Starts `clients` that each count `page` up again and again, each try at the next of `nodes`.
    #[must_use]
    pub fn start(page: &str, clients: usize, nodes: Vec<String>) -> Self {
        let (nodes, turn) = (Arc::new(nodes), Arc::new(AtomicUsize::new(0)));
        let mut exactly = Self { tally: Arc::default(), stop: CancellationToken::new(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (nodes, turn, stop, tally) = (nodes.clone(), turn.clone(), exactly.stop.clone(), exactly.tally.clone());
            let page = page.to_owned();
            exactly.clients.spawn(async move {
                let http = Http::default();
                while !stop.is_cancelled() {
                    let next = || nodes[turn.fetch_add(1, Ordering::Relaxed) % nodes.len()].clone();
                    count_once(&http, &page, &tally, next).await?;
                }
                Ok(())
            });
        }
        exactly
    }

    /// What the clients have been told so far.
    #[must_use]
    pub fn so_far(&self) -> Told {
        let [acknowledged, replayed, repeated] =
            [&self.tally.acknowledged, &self.tally.replayed, &self.tally.repeated].map(|part| part.load(Ordering::Relaxed));
        Told { acknowledged, replayed, repeated }
    }

    /// Waits until `more` further updates have been acknowledged.
    ///
    /// # Errors
    /// When they are not, in a long time.
    pub async fn acknowledge(&self, more: i64) -> anyhow::Result<()> {
        let goal = self.so_far().acknowledged + more;
        until("clients have counted on", async || {
            let now = self.so_far();
            anyhow::ensure!(now.acknowledged >= goal, "{now:?} of {goal}");
            Ok(())
        })
        .await
    }

    /// Lets every client end its update, and gives what they were told in all.
    ///
    /// # Errors
    /// When some update was never acknowledged, or was answered as none may be.
    pub async fn stop(mut self) -> anyhow::Result<Told> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(self.so_far())
    }
}

/// One update, tried until it is acknowledged.
async fn count_once(http: &Http, page: &str, tally: &Tally, next: impl Fn() -> String) -> anyhow::Result<()> {
    let token = token()?;
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut last = String::new();
    while tokio::time::Instant::now() < until {
        let request = Request::put(format!("{}/{page}/counter", next())).header("idempotency-key", &token);
        match http.request(request.body(Bytes::new())?).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                if answer.headers.contains_key("idempotency-replayed") {
                    tally.replayed.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(());
            }
            Ok(answer) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                last = String::from_utf8_lossy(&answer.body).into_owned();
            }
            Ok(answer) => anyhow::bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Err(error) => last = format!("{error:#}"),
        }
        tally.repeated.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    anyhow::bail!("an update was not acknowledged in {PATIENCE:?}; the last answer: {last}")
}

/// A UUID of version 7, which says when it was made.
///
/// # Errors
/// When the clock stands before 1970.
pub fn token() -> anyhow::Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    let (ms, next) = (since.as_millis(), NEXT.fetch_add(1, Ordering::Relaxed));
    let process = u64::from(std::process::id());
    // The parts that are random elsewhere: the process and a number of its own, and the time's finer part.
    let fine = u64::from(since.subsec_nanos()) & 0xFFF;
    Ok(format!("{:08x}-{:04x}-7{fine:03x}-8{:03x}-{:012x}", ms >> 16, ms & 0xFFFF, process & 0xFFF, next & 0xFFFF_FFFF_FFFF))
}
