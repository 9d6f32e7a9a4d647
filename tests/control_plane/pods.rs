//! Pods that are replaced, deleted or killed, and an operator that is told to keep its hands off.

use std::collections::BTreeMap;
use std::time::Duration;

use counter_tests::cluster::Cluster;
use counter_tests::site::{IMAGE, Launch, Site};
use counter_tests::wait::until;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::sync::oneshot;

use crate::totals::{self, Load};

/// The images that the cluster's Pods run, by name, and how many of the Pods serve.
async fn images(site: &Site) -> anyhow::Result<(BTreeMap<String, String>, usize)> {
    let pods = site.api::<Pod>().list(&ListParams::default()).await?;
    let serving = pods.iter().filter(|pod| serves(pod)).count();
    let image = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers.first()?.image.clone()).unwrap_or_default();
    Ok((pods.iter().map(|pod| (pod.name_any(), image(pod))).collect(), serving))
}

fn serves(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Looks on while something happens: the fewest Pods that served, and whether the cluster was ever unavailable.
async fn watch(site: &Site, cluster: &Cluster<'_>, mut end: oneshot::Receiver<()>) -> anyhow::Result<(usize, bool)> {
    let (mut fewest, mut available) = (usize::MAX, true);
    while end.try_recv().is_err() {
        fewest = fewest.min(images(site).await?.1);
        let conditions = cluster.status().await?.conditions;
        available &= conditions.iter().any(|one| one.type_ == "Available" && one.status == "True");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((fewest, available))
}

pub(crate) async fn a_new_image_comes_to_one_pod_at_a_time_while_the_cluster_stays_available(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"shards": 2, "replicas": 2})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 4);
    load.go_on(5).await?;
    let (done, end) = oneshot::channel();
    let roll = async {
        cluster.patch(json!({"spec": {"image": "stand-in/counter-node:2"}})).await?;
        until("every Pod runs the new image", async || {
            let (images, serving) = images(site).await?;
            let new = images.values().filter(|image| *image == "stand-in/counter-node:2").count();
            anyhow::ensure!((new, serving) == (4, 4), "{images:?}, {serving} serve");
            Ok(())
        })
        .await?;
        cluster.settled().await?;
        let _ = done.send(());
        anyhow::Ok(())
    };
    let ((), (fewest, available)) = futures::try_join!(roll, watch(site, &cluster, end))?;
    anyhow::ensure!(fewest == 3 && available, "at the worst {fewest} of 4 Pods served, available {available}");
    load.go_on(5).await?;
    totals::check(&cluster, &load.stop().await).await?;
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

pub(crate) async fn an_image_that_is_not_there_stops_at_the_first_pod_and_is_replaced_first(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"shards": 1, "replicas": 3})).await?;
    cluster.settled().await?;
    cluster.patch(json!({"spec": {"image": "stand-in/counter-node:absent"}})).await?;
    let broken = until("the new Pod is known to be broken", async || {
        let (_, message) = cluster.condition("Reconciling", "True").await?;
        anyhow::ensure!(message.contains("ErrImagePull"), "{message}");
        Ok(images(site).await?.0)
    })
    .await?;
    let absent = broken.iter().filter(|(_, image)| image.ends_with(":absent")).count();
    anyhow::ensure!(absent == 1, "{broken:?}");
    // Looks of its own must not take it further.
    tokio::time::sleep(Duration::from_secs(3)).await;
    anyhow::ensure!(images(site).await? == (broken, 2), "the rollout went on: {:?}", images(site).await?);
    cluster.condition("Available", "True").await?;
    cluster.patch(json!({"spec": {"image": "stand-in/counter-node:3"}})).await?;
    cluster.settled().await?;
    let (images, _) = images(site).await?;
    anyhow::ensure!(images.values().all(|image| image.ends_with(":3")), "{images:?}");
    operator.stop().await
}

pub(crate) async fn a_change_that_comes_from_the_operator_waits_until_it_is_asked_for(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    operator.stop().await?;
    let newer = site.operator(&Launch { image: "stand-in/counter-node:2".to_owned(), ..Launch::default() })?;
    cluster.comes("UpdatePending", "True").await?;
    cluster.is_quiet(&newer).await?;
    anyhow::ensure!(images(site).await?.0.values().all(|image| image == IMAGE), "it did not wait");
    cluster.patch(json!({"metadata": {"annotations": {"distributedcounter.dev/apply-update": "now"}}})).await?;
    cluster.comes("UpdatePending", "False").await?;
    until("every Pod runs the operator's new image", async || {
        let (images, serving) = images(site).await?;
        anyhow::ensure!(serving == 2 && images.values().all(|image| image.ends_with(":2")), "{images:?}");
        Ok(())
    })
    .await?;
    cluster.settled().await?;
    newer.stop().await
}

pub(crate) async fn a_pod_that_is_deleted_or_killed_comes_back_with_its_counts(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 4);
    load.go_on(10).await?;
    site.plane().kubelet().kill(site.namespace(), "views-0-0").await?;
    load.go_on(10).await?;
    let pods = site.api::<Pod>();
    let before = pods.get("views-0-0").await?.uid();
    pods.delete("views-0-0", &DeleteParams::default()).await?;
    until("another Pod has taken its place", async || {
        anyhow::ensure!(pods.get("views-0-0").await?.uid() != before, "not yet");
        Ok(())
    })
    .await?;
    load.go_on(10).await?;
    cluster.settled().await?;
    totals::check(&cluster, &load.stop().await).await?;
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

pub(crate) async fn while_paused_nothing_is_changed_and_nodes_go_on(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    cluster.patch(json!({"spec": {"paused": true, "shards": 2}})).await?;
    until("the pause is seen", async || {
        let (reason, _) = cluster.condition("Reconciling", "False").await?;
        anyhow::ensure!(reason == "Paused", "{reason}");
        Ok(())
    })
    .await?;
    let services = site.api::<Service>();
    let drift = json!({"spec": {"publishNotReadyAddresses": false}});
    services.patch("views-nodes", &PatchParams::default(), &Patch::Merge(drift)).await?;
    let load = Load::start(&cluster, 2);
    site.plane().kubelet().kill(site.namespace(), "views-0-0").await?;
    load.go_on(5).await?;
    cluster.is_quiet(&operator).await?;
    let drifted = services.get("views-nodes").await?.spec.unwrap_or_default();
    anyhow::ensure!(drifted.publish_not_ready_addresses != Some(true), "drift was corrected during a pause");
    anyhow::ensure!(site.api::<StatefulSet>().get_opt("views-1").await?.is_none(), "it grew during a pause");

    cluster.patch(json!({"spec": {"paused": false}})).await?;
    let status = cluster.settled().await?;
    anyhow::ensure!(status.shards == Some(2), "{status:?}");
    let healed = services.get("views-nodes").await?.spec.unwrap_or_default();
    anyhow::ensure!(healed.publish_not_ready_addresses == Some(true), "drift was not corrected after the pause");
    totals::check(&cluster, &load.stop().await).await?;
    operator.stop().await
}
