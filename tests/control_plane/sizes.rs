//! Changes of size that are asked for in other ways, taken back, or not supported yet.

use anyhow::Context as _;
use counter_core::id::ShardId;
use counter_core::layout::{Layout, MovePhase};
use counter_tests::cluster::Cluster;
use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use operator::crd::DistributedCounter;
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn the_scale_subresource_reckons_in_shards(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    let api = site.api::<DistributedCounter>();
    let scaled = json!({"spec": {"replicas": 2}});
    api.patch_scale("views", &PatchParams::default(), &Patch::Merge(scaled)).await?;
    cluster.settled().await?;
    let scale = api.get_scale("views").await?;
    let (spec, status) = (scale.spec.unwrap_or_default(), scale.status.unwrap_or_default());
    anyhow::ensure!(spec.replicas == Some(2) && status.replicas == 2, "{spec:?} {status:?}");
    let selector = status.selector.context("no selector")?;
    let pods = site.api::<Pod>().list(&ListParams::default().labels(&selector)).await?;
    anyhow::ensure!(pods.items.len() == 2, "{selector} matches {} Pods, an autoscaler would misjudge the load", pods.items.len());
    operator.stop().await
}

/// A growth is interrupted after each few writes and taken back. As long as no slot has flipped nothing of it is left;
/// from then on the cluster keeps its size and says so.
pub(crate) async fn a_growth_is_taken_back_while_no_slot_has_flipped_and_blocked_from_then_on(site: &Site) -> anyhow::Result<()> {
    let cluster = site.cluster("views");
    let operator = site.operator(&Launch::default())?;
    cluster.apply(json!({"shards": 1, "replicas": 1})).await?;
    cluster.settled().await?;
    operator.stop().await?;
    let load = Load::start(&cluster, 6);
    load.go_on(3).await?;
    let (mut taken_back, mut flipped) = (0, false);
    for writes in (3..60).step_by(3) {
        cluster.patch(json!({"spec": {"shards": 2}})).await?;
        let mut operator = site.operator(&Launch { crash_after_writes: Some(writes), ..Launch::default() })?;
        until("the operator crashes", async || {
            anyhow::ensure!(operator.process().ended()?.is_some() || cluster.is_settled().await.is_ok(), "it runs");
            Ok(())
        })
        .await?;
        operator.process().kill().await?;
        flipped = has_flipped(&cluster.layout().await?);
        let operator = site.operator(&Launch::default())?;
        cluster.patch(json!({"spec": {"shards": 1}})).await?;
        if flipped {
            stays(site, &cluster).await?;
            break;
        }
        is_taken_back(site, &cluster).await.with_context(|| format!("after {writes} writes"))?;
        taken_back += 1;
        operator.stop().await?;
    }
    anyhow::ensure!(taken_back > 0 && flipped, "{taken_back} were taken back, flipped {flipped}");
    load.go_on(3).await?;
    totals::check(&cluster, &load.stop().await).await
}

fn has_flipped(layout: &Layout) -> bool {
    let owns = layout.shard(ShardId(1)).is_some_and(|shard| !shard.slots.is_empty());
    owns || layout.moves.iter().any(|one| one.phase == MovePhase::Flipped)
}

async fn is_taken_back(site: &Site, cluster: &Cluster<'_>) -> anyhow::Result<()> {
    until("nothing is left of the growth", async || {
        let status = cluster.is_settled().await?;
        let (layout, set) = (cluster.layout().await?, site.api::<StatefulSet>().get_opt("views-1").await?);
        let gone = layout.shards.len() == 1 && layout.moves.is_empty() && set.is_none();
        anyhow::ensure!(gone && status.shards == Some(1), "{layout:?}, StatefulSet {}", set.is_some());
        Ok(())
    })
    .await?;
    cluster.condition("ScaleDownBlocked", "False").await?;
    Ok(())
}

/// Shrinking is not supported yet: it is refused in words, and nothing goes.
async fn stays(site: &Site, cluster: &Cluster<'_>) -> anyhow::Result<()> {
    let (reason, message) = cluster.comes("ScaleDownBlocked", "True").await?;
    anyhow::ensure!(reason == "NotSupported" && message.contains("set spec.shards to 2"), "{reason}: {message}");
    cluster.settled().await?;
    let sets = site.api::<StatefulSet>().list(&ListParams::default()).await?;
    let layout = cluster.layout().await?;
    anyhow::ensure!(sets.items.len() == 2 && layout.shards.len() == 2, "{} StatefulSets, {layout:?}", sets.items.len());
    cluster.patch(json!({"spec": {"shards": 2}})).await?;
    cluster.comes("ScaleDownBlocked", "False").await?;
    cluster.settled().await?;
    Ok(())
}

pub(crate) async fn fewer_replicas_are_refused_in_words_and_nothing_goes(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    let before = cluster.layout().await?;
    cluster.patch(json!({"spec": {"replicas": 1}})).await?;
    let (_, message) = cluster.comes("ScaleDownBlocked", "True").await?;
    anyhow::ensure!(message.contains("set spec.replicas to 2"), "{message}");
    cluster.is_quiet(&operator).await?;
    anyhow::ensure!(cluster.layout().await? == before && cluster.bases().len() == 2, "something went");
    operator.stop().await
}
