//! Volumes that grow, and volumes that are gone.

use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn volumes_grow_with_the_spec_and_so_do_those_of_nodes_that_come_later(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    for (size, replicas) in [("2Gi", 1), ("2Gi", 2)] {
        cluster.patch(json!({"spec": {"replicas": replicas, "storage": {"volume": {"size": size}}}})).await?;
        until("every claim asks for as much", async || {
            let claims = site.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?;
            let sizes: Vec<_> =
                claims.iter().map(|claim| json!(claim.spec)["resources"]["requests"]["storage"].clone()).collect();
            anyhow::ensure!(sizes == vec![json!(size); replicas], "{sizes:?}");
            Ok(())
        })
        .await?;
    }
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

/// Takes away a node's claim, and its Pod, so that both come back new.
async fn lose(site: &Site, node: &str) -> anyhow::Result<()> {
    let (claims, pods) = (site.api::<PersistentVolumeClaim>(), site.api::<Pod>());
    let (claim, pod) = (format!("data-{node}"), pods.get(node).await?.uid());
    let before = claims.get(&claim).await?.uid();
    claims.delete(&claim, &DeleteParams::default()).await?;
    // What keeps a claim for as long as a Pod uses it.
    claims.patch(&claim, &PatchParams::default(), &Patch::Merge(json!({"metadata": {"finalizers": null}}))).await?;
    pods.delete(node, &DeleteParams::default()).await?;
    until("both are new", async || {
        let now = (claims.get(&claim).await?.uid(), pods.get(node).await?.uid());
        anyhow::ensure!(now.0 != before && now.1 != pod, "{now:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn what_a_lost_volume_held_is_waited_for_until_its_loss_is_accepted(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 4);
    load.go_on(5).await?;
    let ledgers = load.stop().await;
    // All nodes agree, so the other replica has what is lost.
    totals::check(&cluster, &ledgers).await?;

    lose(site, "views-0-1").await?;
    let (reason, message) = cluster.comes("ScaleDownBlocked", "True").await?;
    let named = ["views-0-1", "claim data-views-0-1", "distributedcounter.dev/accept-loss=views-0-1"];
    anyhow::ensure!(reason == "VolumeLost" && named.iter().all(|part| message.contains(part)), "{reason}: {message}");
    cluster.patch(json!({"spec": {"shards": 2}})).await?;
    until("the growth waits for the volume", async || {
        let (_, message) = cluster.condition("Reconciling", "True").await?;
        anyhow::ensure!(message.contains("waiting for the lost volume of views-0-1"), "{message}");
        Ok(())
    })
    .await?;
    anyhow::ensure!(cluster.layout().await?.moves.is_empty(), "slots move without what was lost");

    let accept = json!({"metadata": {"annotations": {"distributedcounter.dev/accept-loss": "views-0-1"}}});
    cluster.patch(accept).await?;
    let (reason, message) = cluster.comes("ScaleDownBlocked", "False").await?;
    anyhow::ensure!(reason == "LossAccepted" && message.contains("lost volume of views-0-1"), "{reason}: {message}");
    let status = cluster.settled().await?;
    anyhow::ensure!(status.shards == Some(2), "{status:?}");
    until("the acceptance is told", async || {
        let events = site.api::<Event>().list(&ListParams::default()).await?;
        anyhow::ensure!(events.iter().any(|event| event.reason.as_deref() == Some("LossAccepted")), "no event");
        Ok(())
    })
    .await?;
    totals::check(&cluster, &ledgers).await?;
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

pub(crate) async fn a_wrong_list_of_losses_is_refused_in_words_and_the_cluster_goes_on(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    cluster.patch(json!({"metadata": {"annotations": {"distributedcounter.dev/accept-loss": "other-0-1"}}})).await?;
    let (reason, message) = cluster.comes("Stalled", "True").await?;
    anyhow::ensure!(
        reason == "InvalidSpec" && message.contains("must list names of this cluster's nodes"),
        "{reason}: {message}"
    );
    // How the cluster is, is still said; and a node that comes back still gets its layout.
    let pods = site.api::<Pod>();
    let before = pods.get("views-0-0").await?.uid();
    pods.delete("views-0-0", &DeleteParams::default()).await?;
    until("another Pod serves in its place", async || {
        anyhow::ensure!(pods.get("views-0-0").await?.uid() != before, "not yet");
        cluster.condition("Stalled", "True").await?;
        let (_, status) = (cluster.condition("Available", "True").await?, cluster.status().await?);
        anyhow::ensure!(status.ready_nodes == Some(1), "{status:?}");
        Ok(())
    })
    .await?;
    cluster.patch(json!({"metadata": {"annotations": {"distributedcounter.dev/accept-loss": null}}})).await?;
    cluster.settled().await?;
    operator.stop().await
}
