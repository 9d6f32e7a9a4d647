//! Clients that count while things happen, and a ledger of what they were told.
//!
//! The rule of the final check: Σ acknowledged ≤ value ≤ Σ acknowledged + Σ unknown, for clients that only count up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::http::{Http, was_not_sent};
use crate::wait::until;

/// What clients were told of one page's updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub acknowledged: i64,
    /// Updates that may or may not count: no answer, or one that says so.
    pub unknown: i64,
    /// Updates that certainly do not count.
    pub refused: i64,
}

impl Ledger {
    /// Whether a final count is right.
    ///
    /// # Errors
    /// When something acknowledged is lost, or something counts twice.
    pub fn check(&self, count: i64) -> anyhow::Result<()> {
        let Self { acknowledged, unknown, .. } = *self;
        let right = acknowledged..=acknowledged + unknown;
        anyhow::ensure!(right.contains(&count), "counts {count}, but {acknowledged} were acknowledged and {unknown} are unknown");
        Ok(())
    }
}

/// Clients under way.
#[derive(Debug)]
pub struct Counting {
    page: String,
    ledger: Arc<Mutex<Ledger>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Counting {
    /// Starts `clients` that each count `page` up again and again, at the nodes that `nodes` names at the time, in turn.
    #[must_use]
    pub fn start(page: &str, clients: usize, nodes: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Self {
        let (nodes, turn) = (Arc::new(nodes), Arc::new(AtomicUsize::new(0)));
        let mut counting =
            Self { page: page.to_owned(), ledger: Arc::default(), stop: CancellationToken::new(), clients: JoinSet::new() };
        for _ in 0..clients {
            let (nodes, turn, stop, ledger) = (nodes.clone(), turn.clone(), counting.stop.clone(), counting.ledger.clone());
            let page = page.to_owned();
            counting.clients.spawn(async move {
                let http = Http::default();
                while !stop.is_cancelled() {
                    let bases = nodes();
                    let base = bases.get(turn.fetch_add(1, Ordering::Relaxed) % bases.len().max(1));
                    match base {
                        Some(base) => put(&http, base, &page, &ledger).await,
                        None => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        counting
    }

    /// What the clients have been told so far.
    #[must_use]
    pub fn so_far(&self) -> Ledger {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Lets every client end its request, and gives what they were told in all.
    pub async fn stop(mut self) -> Ledger {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.so_far()
    }

    /// The page that is counted.
    #[must_use]
    pub fn page(&self) -> &str {
        &self.page
    }
}

async fn put(http: &Http, base: &str, page: &str, ledger: &Mutex<Ledger>) {
    let answer = http.send(Method::PUT, &format!("{base}/{page}/counter"), None).await;
    let refused = {
        let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
        match &answer {
            Ok(answer) if answer.status == StatusCode::OK => ledger.acknowledged += 1,
            Ok(answer) if says_not_applied(&answer.body) => ledger.refused += 1,
            Err(error) if was_not_sent(error) => ledger.refused += 1,
            Ok(_) | Err(_) => ledger.unknown += 1,
        }
        !answer.is_ok_and(|answer| answer.status == StatusCode::OK)
    };
    if refused {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn says_not_applied(body: &[u8]) -> bool {
    let problem: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    problem.is_some_and(|problem| problem["type"] == "/problems/not-applied")
}

/// Waits until every node says the same of a page, and that is right by the ledger. Returns the count.
///
/// # Errors
/// When they do not agree in a long time, or the count is wrong.
pub async fn agreed(http: &Http, nodes: &[String], page: &str, ledger: &Ledger) -> anyhow::Result<i64> {
    let count = until("all nodes say the same", async || {
        let mut counts = Vec::new();
        for base in nodes {
            counts.push(http.count(base, page).await.with_context(|| base.clone())?);
        }
        let first = *counts.first().context("there are no nodes")?;
        anyhow::ensure!(counts.iter().all(|count| *count == first), "{counts:?}");
        ledger.check(first)?;
        Ok(first)
    })
    .await?;
    Ok(count)
}
