//! The busiest pages of a cluster, held against a model at every node.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use counter_core::layout::{LayoutVersion, VirtualShards};
use counter_seeds::{Rng, number};
use counter_tests::http::Http;
use counter_tests::live::Follower;
use counter_tests::node::{Cluster, give};
use counter_tests::wait::until;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hyper::{Method, StatusCode};

const GROUPS: [&str; 4] = ["news/", "news/sport/", "front", ""];
const PAGES: usize = 320;
const ACTS_A_PAGE: u64 = 9;
/// Sessions that come and go on one page: few, so that many pages have as many viewers as others.
const IDS_A_PAGE: u64 = 6;
const SOCKETS: usize = 40;

/// What a session does, by which node.
#[derive(Clone, Copy, Debug)]
enum Act {
    Beats { id: u64, node: usize },
    Ends { id: u64, node: usize },
}

/// What is to happen on one page, and who is there afterwards.
struct Plan {
    page: String,
    acts: Vec<Act>,
    there: BTreeSet<u64>,
}

impl Plan {
    fn new(number: usize, nodes: usize, rng: &mut Rng) -> Self {
        let page = format!("{}{number}", rng.pick(&GROUPS));
        let (mut acts, mut there) = (Vec::new(), BTreeSet::new());
        for _ in 0..rng.below(ACTS_A_PAGE) {
            let (id, node) = (rng.below(IDS_A_PAGE), rng.index(nodes));
            if rng.per_mille(700) {
                there.insert(id);
                acts.push(Act::Beats { id, node });
            } else {
                there.remove(&id);
                acts.push(Act::Ends { id, node });
            }
        }
        Self { page, acts, there }
    }

    async fn happen(&self, http: &Http, bases: &[String]) -> anyhow::Result<()> {
        for act in &self.acts {
            let (method, id, node) = match *act {
                Act::Beats { id, node } => (Method::PUT, id, node),
                Act::Ends { id, node } => (Method::DELETE, id, node),
            };
            let url = format!("{}/{}/sessions/s{id}", bases[node], self.page.replace('/', "%2F"));
            http.send(method, &url, None).await?.json_of(StatusCode::OK)?;
        }
        Ok(())
    }
}

/// The pages that begin so, the busiest first, equal ones by their names.
fn busiest(model: &BTreeMap<String, u64>, prefix: &str, limit: usize) -> Vec<(String, u64)> {
    let mut pages: Vec<(String, u64)> = (model.iter().filter(|(page, viewers)| page.starts_with(prefix) && **viewers > 0))
        .map(|(page, viewers)| (page.clone(), *viewers))
        .collect();
    pages.sort_by(|(page, viewers), (other, more)| more.cmp(viewers).then_with(|| page.cmp(other)));
    pages.truncate(limit);
    pages
}

/// Waits until this is what every node tells.
async fn all_tell(bases: &[String], model: &BTreeMap<String, u64>, prefix: &str, limit: usize) -> anyhow::Result<()> {
    let (http, expected) = (Http::default(), busiest(model, prefix, limit));
    for base in bases {
        let url = format!("{base}/pages?sort=viewers&limit={limit}&prefix={}", prefix.replace('/', "%2F"));
        until("the node tells the busiest pages", async || {
            let answer = http.get_json(&url).await?;
            let pages = answer["pages"].as_array().context("no pages")?;
            let told = pages.iter().map(|page| Some((page["page"].as_str()?.to_owned(), page["viewers"].as_u64()?)));
            let told: Vec<(String, u64)> = told.collect::<Option<_>>().context("a page without a name or viewers")?;
            let differs = told.iter().zip(&expected).position(|(told, expected)| told != expected);
            let first = differs.unwrap_or(told.len().min(expected.len()));
            let (is, should) = (told.get(first), expected.get(first));
            anyhow::ensure!(
                told == expected,
                "{url}: at {first} {is:?}, and not {should:?}; {} of {}",
                told.len(),
                expected.len()
            );
            // Nothing has been counted but viewers.
            anyhow::ensure!(pages.iter().all(|page| page["count"] == page["viewers"]), "{url}: {pages:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn prove(seed: u64) -> anyhow::Result<()> {
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(3, 1, &["--presence-heartbeat", "600"]).await?;
    // Pages that are counted under several keys are in the list once.
    cluster.layout.version = LayoutVersion(cluster.layout.version.0 + 1);
    cluster.layout.virtual_shards = vec![VirtualShards { pages: "front*".to_owned(), count: 8, ever_count: 8 }];
    for node in &cluster.nodes {
        give(node, &cluster.layout).await?;
    }
    let (bases, http) = (cluster.bases(), Http::default());
    let plans: Vec<Plan> = (0..PAGES).map(|number| Plan::new(number, bases.len(), &mut rng)).collect();
    stream::iter(&plans).map(|plan| plan.happen(&http, &bases)).buffer_unordered(8).try_collect::<()>().await?;
    let mut model: BTreeMap<String, u64> = plans.iter().map(|plan| (plan.page.clone(), plan.there.len() as u64)).collect();

    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let page = rng.pick(&plans).page.clone();
        let path = format!("/{}/live?observe={}", page.replace('/', "%2F"), rng.per_mille(200));
        sockets.push((Follower::open(&bases[rng.index(bases.len())], &path).await?, page, path.ends_with("false")));
    }
    for (_, page, _) in sockets.iter().filter(|(_, _, views)| *views) {
        *model.entry(page.clone()).or_default() += 1;
    }
    let equal_at_the_end = |model: &BTreeMap<String, u64>| {
        let pages = busiest(model, "", PAGES);
        pages.len() > 100 && pages[99].1 == pages[100].1
    };
    assert!(equal_at_the_end(&model), "the hundredth is no busier than the next: names decide");
    for prefix in ["", "news/", "news/sport/", "front", "n", "nobody"] {
        all_tell(&bases, &model, prefix, 100).await?;
    }
    all_tell(&bases, &model, "", 1 + rng.index(99)).await?;

    // Whoever leaves makes room in the list.
    for (_, page, views) in sockets.drain(..SOCKETS / 2) {
        *model.entry(page).or_default() -= u64::from(views);
    }
    let leave = busiest(&model, "", 30);
    for (page, _) in leave {
        let plan = plans.iter().find(|plan| plan.page == page).context("no such page")?;
        for id in &plan.there {
            let url = format!("{}/{}/sessions/s{id}", bases[rng.index(bases.len())], page.replace('/', "%2F"));
            http.send(Method::DELETE, &url, None).await?.json_of(StatusCode::OK)?;
            *model.entry(page.clone()).or_default() -= 1;
        }
    }
    all_tell(&bases, &model, "", 100).await?;
    all_tell(&bases, &model, "news/", 100).await
}

#[tokio::test]
async fn the_hundred_busiest_pages_are_a_models_at_every_node() -> anyhow::Result<()> {
    let seed = number("TOP_SEED").unwrap_or_else(rand::random);
    prove(seed).await.with_context(|| format!("again: TOP_SEED={seed}"))
}
