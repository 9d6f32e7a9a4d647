//! Nodes that die at random, again and again, while clients count under tokens: nothing is lost, nothing counts twice.
//!
//! `KILLS=n` kills so many times, `KILLS_SEED=n` repeats the choices of one run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use counter_tests::count::{Ledger, agreed};
use counter_tests::exact::Exactly;
use counter_tests::http::Http;
use counter_tests::node::Cluster;

const KILLS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A choice below `below`, the next of its seed's.
fn choose(state: &mut u64, below: u64) -> u64 {
    // splitmix64: any seed is as good as any other.
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % below
}

#[tokio::test]
async fn a_hundred_kills_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = number("KILLS_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let kills = number("KILLS").unwrap_or(KILLS);
    let mut cluster = Cluster::start(2, 3, &[]).await?;
    let (http, bases) = (Http::default(), cluster.bases());
    let pages = [cluster.page_of(0)?, cluster.page_of(1)?];
    let counting: Vec<Exactly> = pages.iter().map(|page| Exactly::start(page, 4, bases.clone())).collect();
    let mut state = seed;
    for kill in 0..kills {
        let context = || format!("kill {kill} of seed {seed}");
        let index = usize::try_from(choose(&mut state, 6))?;
        for counting in &counting {
            counting.acknowledge(1).await.with_context(context)?;
        }
        cluster.nodes[index].kill().await.with_context(context)?;
        // Now and then it stays away for a while, and a second one may die before it is back.
        if choose(&mut state, 4) == 0 {
            tokio::time::sleep(Duration::from_millis(choose(&mut state, 300))).await;
            let other = (index + 1 + usize::try_from(choose(&mut state, 5))?) % 6;
            cluster.nodes[other].kill().await.with_context(context)?;
            cluster.nodes[other].start_ready().await.with_context(context)?;
        }
        cluster.nodes[index].start_ready().await.with_context(context)?;
    }
    for (page, counting) in pages.iter().zip(counting) {
        let told = counting.stop().await.with_context(|| format!("seed {seed}"))?;
        println!("{page}: {told:?} over {kills} kills of seed {seed}");
        assert!(told.replayed > 0, "no retry met its record: this run has shown nothing of tokens");
        let exact = Ledger { acknowledged: told.acknowledged, ..Ledger::default() };
        agreed(&http, &bases, page, &exact).await.with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}
