//! What is left of a cluster that was deleted, and what becomes of it under the same name.

use counter_tests::cluster::Cluster;
use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use operator::crd::DistributedCounter;
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn a_cluster_deleted_and_created_again_goes_on_with_its_identity_and_its_counts(
    site: &Site,
) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"shards": 2, "replicas": 2})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 4);
    load.go_on(10).await?;
    let ledgers = load.stop().await;
    totals::check(&cluster, &ledgers).await?;
    let before = cluster.layout().await?;

    delete(site, &cluster).await?;
    let claims = ["0-0", "0-1", "1-0", "1-1"].map(|node| format!("PersistentVolumeClaim/data-views-{node}"));
    left(&cluster, &[&claims[..], &["ConfigMap/views-layout".to_owned()]].concat()).await?;

    // Fewer shards than there were: what the volumes hold decides.
    cluster.apply(json!({"shards": 1, "replicas": 1})).await?;
    let (_, message) = cluster.comes("ScaleDownBlocked", "True").await?;
    anyhow::ensure!(message.contains("spec.shards is 1") && message.contains("spec.replicas is 1"), "{message}");
    cluster.settled().await?;
    let after = cluster.layout().await?;
    anyhow::ensure!(after.cluster == before.cluster && after.version >= before.version, "{before:?} became {after:?}");
    anyhow::ensure!(after.shards == before.shards, "{before:?} became {after:?}");
    totals::check(&cluster, &ledgers).await?;
    operator.stop().await
}

pub(crate) async fn a_cluster_whose_volumes_are_not_retained_leaves_nothing(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    let retention = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    cluster.apply(json!({"replicas": 1, "storage": {"volume": {"retention": retention}}})).await?;
    cluster.settled().await?;
    let before = cluster.layout().await?;
    delete(site, &cluster).await?;
    left(&cluster, &[]).await?;
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    anyhow::ensure!(cluster.layout().await?.cluster != before.cluster, "a new cluster has the identity of one that is gone");
    operator.stop().await
}

pub(crate) async fn a_cluster_created_again_before_the_old_one_is_removed_needs_nobody(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    delete(site, &cluster).await?;
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    let events = site.api::<Event>().list(&ListParams::default()).await?;
    let conflict = events.iter().find(|event| event.reason.as_deref() == Some("NameConflict"));
    anyhow::ensure!(conflict.is_none(), "{conflict:?}");
    operator.stop().await
}

pub(crate) async fn a_cluster_is_not_begun_anew_on_another_kind_of_storage(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    delete(site, &cluster).await?;
    let mut kept: Vec<String> = ["0-0", "0-1"].map(|node| format!("PersistentVolumeClaim/data-views-{node}")).into();
    kept.push("ConfigMap/views-layout".to_owned());
    left(&cluster, &kept).await?;
    cluster.apply(json!({"replicas": 2, "storage": {"memory": {}}})).await?;
    let (reason, message) = cluster.comes("Stalled", "True").await?;
    anyhow::ensure!(reason == "StorageChanged" && message.contains("ask for storage.volume"), "{reason}: {message}");
    kept.push("DistributedCounter/views".to_owned());
    left(&cluster, &kept).await?;
    operator.stop().await
}

async fn delete(site: &Site, cluster: &Cluster<'_>) -> anyhow::Result<()> {
    site.api::<DistributedCounter>().delete(cluster.name(), &DeleteParams::default()).await?;
    Ok(())
}

/// Waits until nothing but these is left, events aside.
async fn left(cluster: &Cluster<'_>, expected: &[String]) -> anyhow::Result<()> {
    until("all else is gone", async || {
        let mut left: Vec<String> = cluster.objects().await?.into_keys().filter(|name| !name.starts_with("Event/")).collect();
        left.sort();
        let mut expected = expected.to_vec();
        expected.sort();
        anyhow::ensure!(left == expected, "{left:?}");
        Ok(())
    })
    .await
}
