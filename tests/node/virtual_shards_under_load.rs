//! While layouts with other counts of virtual shards come to one node after the other, no number that any node tells is wrong.
//!
//! With one replica a shard, whatever was acknowledged shows everywhere: each reading, and each answer to an update, lies
//! between what had been acknowledged when it was asked for and what had been sent when it came. With several replicas that
//! holds of a client's own writes in its session, and a page that one client counts alone is then exactly what it counted to.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use counter_core::layout::{LayoutVersion, VirtualShards};
use counter_tests::count::{Ledger, agreed};
use counter_tests::exact::token;
use counter_tests::http::{Answer, Http};
use counter_tests::node::{Cluster, give};
use counter_tests::session::Session;
use counter_tests::wait::until;
use hyper::{Method, Request, StatusCode};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What is counted between two nodes' taking a layout.
const BETWEEN: i64 = 20;

/// `counts` of `front*` one after the other, each published node by node in any order, while `counted` goes up.
async fn spread(cluster: &mut Cluster, counts: &[u16], seed: u64, counted: &AtomicI64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut before, mut ever_count) = (0, 0);
    for &count in counts {
        // As the operator does it: every node reads the new parts before any of them is updated.
        if count > ever_count {
            ever_count = count;
            publish(cluster, &mut rng, (before, ever_count), counted).await?;
        }
        publish(cluster, &mut rng, (count, ever_count), counted).await?;
        before = count;
    }
    Ok(())
}

async fn publish(cluster: &mut Cluster, rng: &mut StdRng, spread: (u16, u16), counted: &AtomicI64) -> anyhow::Result<()> {
    let layout = &mut cluster.layout;
    layout.version = LayoutVersion(layout.version.0 + 1);
    layout.virtual_shards = vec![VirtualShards { pages: "front*".to_owned(), count: spread.0, ever_count: spread.1 }];
    let mut nodes: Vec<_> = cluster.nodes.iter().collect();
    nodes.shuffle(rng);
    for node in nodes {
        give(node, &cluster.layout).await?;
        let goal = counted.load(Ordering::SeqCst) + BETWEEN;
        until("clients have counted on", async || {
            anyhow::ensure!(counted.load(Ordering::SeqCst) >= goal, "nothing is acknowledged any more");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What has been sent and what has been acknowledged of one page.
#[derive(Debug, Default)]
struct Bounds {
    sent: AtomicI64,
    acknowledged: AtomicI64,
}

impl Bounds {
    /// Asks for a number, and checks that nothing is missing in it and nothing twice. `own` is what asking adds to it.
    async fn hold(&self, own: i64, asking: impl Future<Output = anyhow::Result<Answer>>) -> anyhow::Result<()> {
        let before = self.acknowledged.load(Ordering::SeqCst);
        self.sent.fetch_add(own, Ordering::SeqCst);
        let told = asking.await?.json_of(StatusCode::OK)?;
        let count = counted(&told)?;
        let sent = self.sent.load(Ordering::SeqCst);
        anyhow::ensure!((before + own..=sent).contains(&count), "{told}: not between {before} + {own} and {sent}");
        self.acknowledged.fetch_add(own, Ordering::SeqCst);
        Ok(())
    }
}

/// The count in an answer, or in the first result of one.
fn counted(told: &Value) -> anyhow::Result<i64> {
    told["results"].get(0).unwrap_or(told)["count"].as_i64().with_context(|| format!("no count: {told}"))
}

/// One of the ways to read a page.
fn reading(base: &str, page: &str, way: usize) -> String {
    match way % 3 {
        0 => format!("{base}/{page}/counter"),
        1 => format!("{base}/{page}/counter?detail=true"),
        _ => format!("{base}/counters?page={page}&page=other"),
    }
}

async fn read_on(base: String, bounds: Arc<Bounds>, stop: CancellationToken) -> anyhow::Result<usize> {
    let (http, mut reads) = (Http::default(), 0);
    while !stop.is_cancelled() {
        let url = reading(&base, "front-page", reads);
        bounds.hold(0, http.send(Method::GET, &url, None)).await.with_context(|| url.clone())?;
        reads += 1;
    }
    Ok(reads)
}

async fn count_on(bases: Vec<String>, seed: u64, bounds: Arc<Bounds>, stop: CancellationToken) -> anyhow::Result<usize> {
    let (http, mut rng, mut updates) = (Http::default(), StdRng::seed_from_u64(seed), 0);
    while !stop.is_cancelled() {
        let base = bases.choose(&mut rng).context("there are nodes")?;
        let (by, mut request) = (rng.random_range(1..4), Request::put(format!("{base}/front-page/counter")));
        // One in four is counted under the page's own key.
        if rng.random_range(0..4) == 0 {
            request = request.header("idempotency-key", token()?);
        }
        let request = request.header("content-type", "application/json").body(json!({"by": by}).to_string().into())?;
        bounds.hold(by, http.request(request)).await.with_context(|| format!("an update at {base}"))?;
        updates += 1;
    }
    Ok(updates)
}

/// Lets clients go on until all layouts have been published. Returns what each of them has done, or what one was told wrong.
async fn until_published<T: 'static>(
    publishing: impl Future<Output = anyhow::Result<()>>,
    mut clients: JoinSet<anyhow::Result<T>>,
    stop: CancellationToken,
) -> anyhow::Result<Vec<T>> {
    let published = tokio::select! {
        published = publishing => published,
        // A client that ends now has been told something wrong.
        Some(ended) = clients.join_next() => ended?.map(|_| ()),
    };
    stop.cancel();
    published?;
    let mut done = Vec::new();
    while let Some(ended) = clients.join_next().await {
        done.push(ended??);
    }
    Ok(done)
}

#[tokio::test]
async fn a_count_is_raised_and_lowered_under_load_and_no_number_is_ever_wrong() -> anyhow::Result<()> {
    let seed = rand::random();
    println!("seed {seed}");
    let mut cluster = Cluster::start(3, 1, &[]).await?;
    let (bounds, bases, stop) = (Arc::new(Bounds::default()), cluster.bases(), CancellationToken::new());
    let mut clients = JoinSet::new();
    for base in bases.clone() {
        clients.spawn(read_on(base, bounds.clone(), stop.clone()));
    }
    for client in 0..6 {
        clients.spawn(count_on(bases.clone(), seed ^ client, bounds.clone(), stop.clone()));
    }
    let publishing = spread(&mut cluster, &[8, 3, 16, 0, 12, 2], seed, &bounds.acknowledged);
    let done = until_published(publishing, clients, stop).await.with_context(|| format!("seed {seed}"))?;
    anyhow::ensure!(done.iter().all(|done| *done > 0), "a client has done nothing");
    let total = bounds.acknowledged.load(Ordering::SeqCst);
    let told = Ledger { acknowledged: total, ..Ledger::default() };
    agreed(&Http::default(), &bases, "front-page", &told).await?;
    for node in &cluster.nodes {
        let status = node.status().await?;
        // From this the operator learns of it when its own record is an older one.
        assert_eq!(status.virtual_shards, cluster.layout.virtual_shards);
        let here: i128 = status.slots.iter().map(|range| range.tally).sum();
        assert!(here * 20 > i128::from(total), "{} holds {here} of {total}: updates were not spread", node.entry.name.0);
    }
    Ok(())
}

/// A client that counts a page alone, in a session, and so knows at each moment what it is.
struct Alone {
    page: String,
    bases: Vec<String>,
    session: Session,
    count: i64,
    /// Tokens that have counted, with their requests.
    used: Vec<(String, Method, Value)>,
    rng: StdRng,
}

impl Alone {
    fn new(page: String, bases: Vec<String>, seed: u64) -> Self {
        Self { page, bases, session: Session::default(), count: 0, used: Vec::new(), rng: StdRng::seed_from_u64(seed) }
    }

    fn base(&mut self) -> anyhow::Result<String> {
        self.bases.choose(&mut self.rng).cloned().context("there are nodes")
    }

    /// What is asked at any node, and again at another while that one says that it is behind.
    async fn ask(&mut self, method: Method, path: &str, body: Option<&Value>, token: Option<&str>) -> anyhow::Result<Answer> {
        loop {
            let url = self.base()? + path;
            let answer = self.session.send_under(method.clone(), &url, body.cloned(), token).await?;
            let is_behind = answer.status == StatusCode::SERVICE_UNAVAILABLE
                && answer.json_of(StatusCode::SERVICE_UNAVAILABLE)?["type"] == "/problems/session-not-reached";
            if !is_behind {
                return Ok(answer);
            }
        }
    }

    async fn update(&mut self, method: Method, body: Value, token: Option<&str>) -> anyhow::Result<Answer> {
        let path = format!("/{}/counter", self.page);
        let body = (method == Method::PUT).then_some(&body);
        let answer = self.ask(method, &path, body, token).await?;
        self.is_right(&answer)?;
        self.session.keep(&answer)?;
        Ok(answer)
    }

    fn is_right(&self, answer: &Answer) -> anyhow::Result<()> {
        let told = answer.json_of(StatusCode::OK)?;
        anyhow::ensure!(counted(&told)? == self.count, "{told} of {}, which counts {}", self.page, self.count);
        Ok(())
    }

    async fn update_somehow(&mut self) -> anyhow::Result<()> {
        let by: i64 = self.rng.random_range(1..100);
        match self.rng.random_range(0..8) {
            0 => {
                self.count -= by;
                self.update(Method::PUT, json!({"action": "decrement", "by": by}), None).await?;
            }
            1 => {
                self.count = 0;
                self.update(Method::DELETE, Value::Null, None).await?;
            }
            2 => {
                let (token, method, body) = if self.rng.random_bool(0.5) {
                    (token()?, Method::PUT, json!({"by": by}))
                } else {
                    (token()?, Method::DELETE, Value::Null)
                };
                self.count = if method == Method::PUT { self.count + by } else { 0 };
                let answer = self.update(method.clone(), body.clone(), Some(&token)).await?;
                anyhow::ensure!(!answer.headers.contains_key("idempotency-replayed"), "{token} was never used");
                self.used.push((token, method, body));
            }
            3 => {
                // Whatever the count was when it was used, and whether a reset has cleared it since.
                let Some((token, method, body)) = self.used.choose(&mut self.rng).cloned() else { return Ok(()) };
                let answer = self.update(method, body, Some(&token)).await?;
                anyhow::ensure!(answer.headers.contains_key("idempotency-replayed"), "{token} has been used");
            }
            _ => {
                self.count += by;
                self.update(Method::PUT, json!({"by": by}), None).await?;
            }
        }
        Ok(())
    }

    async fn go_on(mut self, counted: Arc<AtomicI64>, stop: CancellationToken) -> anyhow::Result<(String, i64)> {
        while !stop.is_cancelled() {
            self.update_somehow().await?;
            counted.fetch_add(1, Ordering::SeqCst);
            let path = reading("", &self.page, self.rng.random_range(0..3));
            let answer = self.ask(Method::GET, &path, None, None).await?;
            self.is_right(&answer).context(path)?;
        }
        Ok((self.page, self.count))
    }
}

#[tokio::test]
async fn at_every_replica_a_client_finds_its_page_as_it_left_it_while_counts_of_virtual_shards_change() -> anyhow::Result<()> {
    let seed = rand::random();
    println!("seed {seed}");
    let mut cluster = Cluster::start(2, 2, &[]).await?;
    let (counted, bases, stop) = (Arc::new(AtomicI64::new(0)), cluster.bases(), CancellationToken::new());
    let mut clients = JoinSet::new();
    for client in 0..6 {
        let alone = Alone::new(format!("front-{client}"), bases.clone(), seed ^ client);
        clients.spawn(alone.go_on(counted.clone(), stop.clone()));
    }
    // A session remembers 64 counters: all parts of a page and its own key, at both of their replicas.
    let publishing = spread(&mut cluster, &[8, 3, 40, 0, 12, 2], seed, &counted);
    for (page, count) in until_published(publishing, clients, stop).await.with_context(|| format!("seed {seed}"))? {
        let told = Ledger { acknowledged: count, ..Ledger::default() };
        agreed(&Http::default(), &bases, &page, &told).await.with_context(|| format!("{page}, seed {seed}"))?;
    }
    Ok(())
}
