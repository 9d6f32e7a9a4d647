//! Two operators, of which one is paused beyond its lease.

use counter_tests::process::signal;
use counter_tests::site::{Launch, Operator, Site};
use counter_tests::wait::until;
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn a_leader_that_was_paused_beyond_its_lease_ends_and_harms_nothing(site: &Site) -> anyhow::Result<()> {
    let launch = Launch { elected: true, ..Launch::default() };
    let mut first = site.operator(&launch)?;
    becomes(&first, "leading").await?;
    let second = site.operator(&launch)?;
    becomes(&second, "standing by, another process leads").await?;

    let cluster = site.cluster("views");
    cluster.apply(json!({"shards": 1, "replicas": 2})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 6);
    load.go_on(5).await?;
    // In the middle of a growth, when it has most to write.
    cluster.patch(json!({"spec": {"shards": 2}})).await?;
    until("the growth has begun", async || {
        anyhow::ensure!(cluster.layout().await?.shards.len() == 2, "not yet");
        Ok(())
    })
    .await?;
    let pid = first.process().pid().unwrap_or_default();
    signal(pid, "STOP").await?;
    becomes(&second, "leading").await?;
    cluster.settled().await?;
    let done = cluster.layout().await?;

    signal(pid, "CONT").await?;
    let status = first.process().wait().await?;
    anyhow::ensure!(!status.success(), "a leader that lost its lease must not end as if all were well");
    load.go_on(5).await?;
    let ledgers = load.stop().await;
    anyhow::ensure!(cluster.layout().await? == done, "the paused one wrote a layout");
    totals::check(&cluster, &ledgers).await?;
    cluster.is_quiet(&second).await?;
    second.stop().await
}

pub(crate) async fn a_leader_that_stops_in_order_hands_over_at_once(site: &Site) -> anyhow::Result<()> {
    let launch = Launch { elected: true, ..Launch::default() };
    let first = site.operator(&launch)?;
    becomes(&first, "leading").await?;
    let second = site.operator(&launch)?;
    becomes(&second, "standing by, another process leads").await?;
    first.stop().await?;
    let began = std::time::Instant::now();
    becomes(&second, "leading").await?;
    anyhow::ensure!(began.elapsed().as_secs() < 4, "it waited for the end of the lease: {:?}", began.elapsed());
    second.stop().await
}

async fn becomes(operator: &Operator, stage: &str) -> anyhow::Result<()> {
    until(&format!("an operator is {stage}"), async || {
        let now = operator.stage().await?;
        anyhow::ensure!(now == stage, "{now}");
        Ok(())
    })
    .await
}
