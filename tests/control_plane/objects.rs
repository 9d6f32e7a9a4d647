//! Objects that are somebody else's, and objects that somebody else changed.

use anyhow::Context as _;
use counter_tests::site::{Launch, Operator, Site};
use counter_tests::wait::until;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub(crate) async fn an_object_of_somebody_else_is_never_taken_over_and_the_cluster_heals_when_it_goes(
    site: &Site,
) -> anyhow::Result<()> {
    let services = site.api::<Service>();
    let theirs: Service = serde_json::from_value(json!({
        "metadata": {"name": "views", "labels": {"app": "theirs"}},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }))?;
    let theirs = services.create(&PostParams::default(), &theirs).await?;
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    let (reason, message) = cluster.comes("Stalled", "True").await?;
    anyhow::ensure!(reason == "NameConflict" && message.contains("Service `views`"), "{reason}: {message}");
    cluster.condition("Reconciling", "False").await?;
    let now = services.get("views").await?;
    anyhow::ensure!(now.resource_version() == theirs.resource_version(), "their Service was changed: {now:?}");

    services.delete("views", &DeleteParams::default()).await?;
    cluster.settled().await?;
    anyhow::ensure!(services.get("views").await?.labels().get("app").is_none(), "our Service has their label");
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

pub(crate) async fn what_somebody_changes_or_deletes_is_put_right(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    let site = &Looking { site, operator: &operator };
    change::<Service>(site, "views", json!({"spec": {"selector": {"distributedcounter.dev/shard": "7"}}})).await?;
    change::<Service>(site, "views-nodes", json!({"spec": {"publishNotReadyAddresses": false}})).await?;
    change::<NetworkPolicy>(site, "views", json!({"spec": {"ingress": []}})).await?;
    change::<PodDisruptionBudget>(site, "views-0", json!({"spec": {"maxUnavailable": 0}})).await?;
    change::<StatefulSet>(site, "views-0", json!({"spec": {"updateStrategy": {"type": "RollingUpdate"}}})).await?;
    // What others add to Pods is not theirs to add, down to containers and machines.
    for added in [
        json!({"initContainers": [{"name": "theirs", "image": "x"}]}),
        json!({"tolerations": [{"operator": "Exists"}], "nodeSelector": {"disk": "fast"}}),
        json!({"hostNetwork": true}),
    ] {
        change::<StatefulSet>(site, "views-0", json!({"spec": {"template": {"spec": added}}})).await?;
    }
    // Without our label the object is not among those that are watched.
    change::<PodDisruptionBudget>(site, "views-0", json!({"metadata": {"labels": {"app.kubernetes.io/name": null}}})).await?;
    remove::<Service>(site, "views").await?;
    remove::<NetworkPolicy>(site, "views").await?;
    remove::<PodDisruptionBudget>(site, "views-0").await?;
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}

pub(crate) async fn whoever_changes_an_object_back_each_time_is_named_and_waited_for(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 1})).await?;
    cluster.settled().await?;
    let services = site.api::<Service>();
    let params = PatchParams { field_manager: Some("mutator".to_owned()), ..PatchParams::default() };
    let told = until("the dispute is told", async || {
        // Each time that it has been put right, and never else.
        let selector = services.get("views-nodes").await?.spec.unwrap_or_default().selector.unwrap_or_default();
        if !selector.contains_key("theirs") {
            let change = json!({"spec": {"selector": {"theirs": "x"}}});
            services.patch("views-nodes", &params, &Patch::Merge(change)).await?;
        }
        let events = site.api::<Event>().list(&ListParams::default()).await?;
        let found = events.into_iter().find(|event| event.reason.as_deref() == Some("Disputed"));
        found.and_then(|event| event.note).context("no event")
    })
    .await?;
    anyhow::ensure!(told.contains("Service `views-nodes` is changed back by `mutator`"), "{told}");
    let (reason, message) = cluster.comes("Reconciling", "True").await?;
    anyhow::ensure!(reason == "Failing" && message.contains("changed back by `mutator`"), "{reason}: {message}");
    // Left alone, it is put right when the wait is over.
    cluster.settled().await?;
    operator.stop().await
}

/// The place of a test, and the operator that is to look at it.
struct Looking<'a> {
    site: &'a Site,
    operator: &'a Operator,
}

impl Looking<'_> {
    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        self.site.api()
    }

    /// Has the operator look: a pass is due once a minute, and not everything wakes one.
    async fn look(&self) -> anyhow::Result<()> {
        let passes = self.operator.passes().await?;
        let looked = json!({"metadata": {"annotations": {"tests/look": passes.to_string()}}});
        self.site.cluster("views").patch(looked).await?;
        until("the operator has looked", async || {
            anyhow::ensure!(self.operator.passes().await? > passes, "no pass");
            Ok(())
        })
        .await
    }
}

/// Changes an object and waits until it is as it was.
async fn change<K>(site: &Looking<'_>, name: &str, patch: Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let api = site.api::<K>();
    let before = said(&api.get(name).await?)?;
    let changed = said(&api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?)?;
    anyhow::ensure!(changed != before, "{patch} changes nothing");
    restored::<K>(site, name, &before).await
}

/// Deletes an object and waits until it is there again.
async fn remove<K>(site: &Looking<'_>, name: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    let api = site.api::<K>();
    let before = said(&api.get(name).await?)?;
    api.delete(name, &DeleteParams::default()).await?;
    restored::<K>(site, name, &before).await
}

async fn restored<K>(site: &Looking<'_>, name: &str, before: &Value) -> anyhow::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    until(&format!("{} {name} is as it was", K::kind(&())), async || {
        site.look().await?;
        let now = said(&site.api::<K>().get(name).await?)?;
        anyhow::ensure!(now == *before, "{now} instead of {before}");
        Ok(())
    })
    .await
}

/// What an object says, without what Kubernetes chose.
fn said<K: serde::Serialize>(object: &K) -> anyhow::Result<Value> {
    let object = serde_json::to_value(object)?;
    let mut spec = object["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| field != "clusterIP" && field != "clusterIPs");
    }
    Ok(json!({"spec": spec, "labels": object["metadata"]["labels"]}))
}
