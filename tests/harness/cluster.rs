//! One `DistributedCounter` on the test control plane: written, waited for, and looked at from all sides.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use counter_core::id::NodeName;
use counter_core::layout::Layout;
use counter_core::proof::ClusterToken;
use counter_core::status::NodeStatus;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use operator::crd::{DistributedCounter, DistributedCounterStatus};
use operator::nodes::{Address, NodeClient, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::count::Counting;
use crate::site::{Operator, Site};
use crate::wait::until;

/// A user's field manager.
const USER: &str = "the-user";

/// A `DistributedCounter`, by its name.
pub struct Cluster<'a> {
    site: &'a Site,
    name: String,
}

impl<'a> Cluster<'a> {
    pub(crate) fn new(site: &'a Site, name: &str) -> Self {
        Self { site, name: name.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies a whole spec, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, spec: Value) -> anyhow::Result<DistributedCounter> {
        let object = json!({
            "apiVersion": operator::controller::API_VERSION, "kind": "DistributedCounter",
            "metadata": {"name": self.name}, "spec": spec,
        });
        let api = self.site.api::<DistributedCounter>();
        Ok(api.patch(&self.name, &PatchParams::apply(USER).force(), &Patch::Apply(object)).await?)
    }

    /// Changes what is named.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn patch(&self, patch: Value) -> anyhow::Result<DistributedCounter> {
        let api = self.site.api::<DistributedCounter>();
        Ok(api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?)
    }

    /// The object.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get(&self) -> anyhow::Result<DistributedCounter> {
        Ok(self.site.api::<DistributedCounter>().get(&self.name).await?)
    }

    /// Its status.
    ///
    /// # Errors
    /// When there is no such object.
    pub async fn status(&self) -> anyhow::Result<DistributedCounterStatus> {
        Ok(self.get().await?.status.unwrap_or_default())
    }

    /// The reason and message of a condition, if its status is as expected for the current generation.
    ///
    /// # Errors
    /// When it is not.
    pub async fn condition(&self, kind: &str, expected: &str) -> anyhow::Result<(String, String)> {
        let object = self.get().await?;
        let conditions = object.status.unwrap_or_default().conditions;
        let found = conditions.iter().find(|one| one.type_ == kind).with_context(|| format!("no condition {kind}"))?;
        let current = found.observed_generation == object.metadata.generation;
        anyhow::ensure!(
            current && found.status == expected,
            "{kind} is {found:?} at generation {:?}",
            object.metadata.generation
        );
        Ok((found.reason.clone(), found.message.clone()))
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn comes(&self, kind: &str, expected: &str) -> anyhow::Result<(String, String)> {
        until(&format!("{kind} is {expected}"), async || self.condition(kind, expected).await).await
    }

    /// Whether all is as the spec says, by what the status says.
    ///
    /// # Errors
    /// With what is not.
    pub async fn is_settled(&self) -> anyhow::Result<DistributedCounterStatus> {
        for (kind, expected) in [("Available", "True"), ("Reconciling", "False"), ("Stalled", "False")] {
            self.condition(kind, expected).await?;
        }
        let status = self.status().await?;
        anyhow::ensure!(status.nodes.is_some() && status.nodes == status.ready_nodes, "{status:?}");
        Ok(status)
    }

    /// Waits until all is as the spec says.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn settled(&self) -> anyhow::Result<DistributedCounterStatus> {
        until("the cluster is as its spec says", async || self.is_settled().await).await
    }

    /// The recorded layout.
    ///
    /// # Errors
    /// When there is none.
    pub async fn layout(&self) -> anyhow::Result<Layout> {
        let record = self.site.api::<ConfigMap>().get(&format!("{}-layout", self.name)).await?;
        let text = record.data.unwrap_or_default().remove("layout.json").context("the record is empty")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The public addresses of all nodes that run.
    #[must_use]
    pub fn bases(&self) -> Vec<String> {
        self.site.plane().kubelet().bases(self.site.namespace())
    }

    /// Clients that count a page at all nodes that run at the time.
    #[must_use]
    pub fn count(&self, page: &str, clients: usize) -> Counting {
        let (plane, namespace) = (Arc::clone(self.site.plane()), self.site.namespace().to_owned());
        Counting::start(page, clients, move || plane.kubelet().bases(&namespace))
    }

    /// How a node's admin port is called with this token.
    ///
    /// # Errors
    /// When the Pod is not there, or has no address.
    pub async fn target(&self, node: &NodeName, token: &[u8]) -> anyhow::Result<Target> {
        let pod = self.site.api::<Pod>().get(&node.0).await?;
        let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("the Pod has no address")?;
        let cluster = Some(self.layout().await?.cluster);
        let tokens = [ClusterToken::new(token)].into();
        Ok(Target {
            node: node.clone(),
            address: Address::Direct(format!("{address}:8081")),
            cluster,
            pod_uid: pod.uid(),
            tokens,
        })
    }

    /// The token that the cluster's nodes share.
    ///
    /// # Errors
    /// When there is no Secret.
    pub async fn token(&self) -> anyhow::Result<Vec<u8>> {
        let secret = self.site.api::<Secret>().get(&format!("{}-token", self.name)).await?;
        Ok(secret.data.unwrap_or_default().remove("token").context("the Secret has no token")?.0)
    }

    /// What every node of the layout says of itself.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn node_statuses(&self) -> anyhow::Result<BTreeMap<NodeName, NodeStatus>> {
        let (client, token) = (NodeClient::new(None, operator::telemetry::Metrics::default()), self.token().await?);
        let mut statuses = BTreeMap::new();
        for node in self.layout().await?.nodes() {
            let target = self.target(&node.name, &token).await?;
            statuses.insert(node.name.clone(), client.status(&target).await.with_context(|| node.name.to_string())?);
        }
        Ok(statuses)
    }

    /// Everything in the namespace that an operator could write, as the API server has it, by kind and name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn objects(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let mut all = BTreeMap::new();
        self.list::<ServiceAccount>(&mut all).await?;
        self.list::<Secret>(&mut all).await?;
        self.list::<ConfigMap>(&mut all).await?;
        self.list::<Service>(&mut all).await?;
        self.list::<NetworkPolicy>(&mut all).await?;
        self.list::<PodDisruptionBudget>(&mut all).await?;
        self.list::<StatefulSet>(&mut all).await?;
        self.list::<PersistentVolumeClaim>(&mut all).await?;
        self.list::<Pod>(&mut all).await?;
        self.list::<Event>(&mut all).await?;
        self.list::<DistributedCounter>(&mut all).await?;
        // Made by Kubernetes in every namespace.
        all.retain(|name, _| name != "ServiceAccount/default" && name != "ConfigMap/kube-root-ca.crt");
        Ok(all)
    }

    async fn list<K>(&self, all: &mut BTreeMap<String, Value>) -> anyhow::Result<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        for object in self.site.api::<K>().list(&ListParams::default()).await? {
            all.insert(format!("{}/{}", K::kind(&()), object.name_any()), serde_json::to_value(&object)?);
        }
        Ok(())
    }

    /// Proves that an operator with nothing to do writes nothing, though it looks: passes are provoked by an annotation.
    ///
    /// # Errors
    /// When it writes, or does not look.
    pub async fn is_quiet(&self, operator: &Operator) -> anyhow::Result<()> {
        self.settled().await?;
        // Kubernetes' own controllers may be behind: what they write is not what is looked for, but disturbs.
        let before = self.still().await?;
        let writes = operator.writes().await?;
        for look in 0..3 {
            let passes = operator.passes().await?;
            self.patch(json!({"metadata": {"annotations": {"tests/look": format!("{look}-{passes}")}}})).await?;
            until("the operator has looked", async || {
                anyhow::ensure!(operator.passes().await? > passes, "no pass");
                Ok(())
            })
            .await?;
        }
        let (after, now) = (revisions(self.objects().await?), operator.writes().await?);
        anyhow::ensure!(now == writes, "{} writes when there was nothing to do", now - writes);
        anyhow::ensure!(after == before, "changed when there was nothing to do: {}", difference(&before, &after));
        Ok(())
    }

    /// Waits until nothing has changed for a second.
    async fn still(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut last = BTreeMap::new();
        until("nothing changes any more", async || {
            let now = revisions(self.objects().await?);
            let same = now == last;
            last.clone_from(&now);
            if !same {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            anyhow::ensure!(same, "something changed within a second");
            Ok(now)
        })
        .await
    }
}

/// The state of each object. Of our own the status, because the tests write annotations.
fn revisions(objects: BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let revision = |(name, object): (String, Value)| {
        let ours = name.starts_with("DistributedCounter/");
        let state = if ours { object["status"].to_string() } else { object["metadata"]["resourceVersion"].to_string() };
        (name, state)
    };
    objects.into_iter().map(revision).collect()
}

/// What two states of the same things do not have in common, for a message.
#[must_use]
pub fn difference<V: PartialEq + std::fmt::Display>(before: &BTreeMap<String, V>, after: &BTreeMap<String, V>) -> String {
    let mut lines = Vec::new();
    for (name, value) in before {
        match after.get(name) {
            None => lines.push(format!("- {name}: {value}")),
            Some(other) if other != value => lines.push(format!("~ {name}: {value} => {other}")),
            Some(_) => {}
        }
    }
    lines.extend(after.iter().filter(|(name, _)| !before.contains_key(*name)).map(|(name, value)| format!("+ {name}: {value}")));
    lines.join("\n")
}
