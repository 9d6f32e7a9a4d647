//! Finds out what is: the cluster's objects from the API server, and what each node says of itself.
//!
//! Objects are read fresh for each pass, not from a cache, so a plan is never made from a state that a write of the last
//! pass has not reached yet. Nodes are asked in parallel and briefly; one that does not answer is a finding.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use counter_core::id::{ClusterId, NodeName};
use counter_core::layout::Layout;
use counter_core::proof::ClusterToken;
use counter_core::status::NodeStatus;
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::apply::{Kind, is_ours};
use super::build::{self, INSTANCE_LABEL, NAME_LABEL, Names, PRODUCT, RecordError, TOKEN_KEY, TOKEN_PREVIOUS_KEY};
use super::plan::{Observed, Template, Volumes};
use super::validate::{ClusterSpec, Identity, Storage};
use crate::args::Reach;
use crate::nodes::{Address, NodeClient, Target};

mod observe;

/// Nodes of one cluster that are asked at a time; the client bounds the calls of all clusters together.
const AT_A_TIME: usize = 32;
/// The port of a Pod's admin API, which no setting changes.
const ADMIN_PORT: u16 = 8081;

/// Where each node is to be called, by name.
pub type Targets = HashMap<NodeName, Target>;

/// Why it could not be found out what is. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    #[error("{what} could not be read")]
    Api { what: &'static str, source: Box<kube::Error> },
}

impl GatherError {
    /// A bounded name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Api { source, .. } => super::api_category(source),
        }
    }
}

/// Live objects of one kind, by name.
#[derive(Debug)]
pub struct Named<K>(BTreeMap<String, K>);

impl<K: Kind> Named<K> {
    /// The live object of this name.
    pub fn get(&self, name: &str) -> Option<&K> {
        self.0.get(name)
    }

    /// The live object that is to become `desired`.
    pub fn named(&self, desired: &K) -> Option<&K> {
        self.get(&desired.name_any())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        self.0.values()
    }
}

/// The live objects with the cluster's labels, and the two that are known by name only.
#[derive(Debug)]
pub struct Live {
    pub stateful_sets: Named<StatefulSet>,
    pub pods: Named<Pod>,
    pub claims: Named<PersistentVolumeClaim>,
    pub services: Named<Service>,
    pub service_accounts: Named<ServiceAccount>,
    pub budgets: Named<PodDisruptionBudget>,
    pub network_policies: Named<NetworkPolicy>,
    pub record: Option<ConfigMap>,
    pub token: Option<Secret>,
    /// What `record` says.
    pub layout: Option<Layout>,
    pub volumes: Option<Volumes>,
    /// The Secret with the public API's tokens, where the spec names one.
    pub api_token: Option<Secret>,
    /// The Secret with the URL of the Redis, where the spec names one.
    pub redis_url: Option<Secret>,
    /// Why `record` cannot be read, if it cannot: then there is no telling what the cluster is.
    pub unreadable: Option<RecordError>,
}

/// All that a pass knows.
#[derive(Debug)]
pub struct Gathered {
    pub live: Live,
    pub observed: Observed,
    pub targets: Targets,
}

/// Reads the cluster's objects and asks its nodes.
///
/// # Errors
/// When the API server does not answer.
pub async fn gather(
    client: &Client,
    nodes: &NodeClient,
    reach: Reach,
    spec: &ClusterSpec,
    template: Template,
) -> Result<Gathered, GatherError> {
    let live = read(client, spec).await?;
    let targets = targets(&live, spec, reach);
    let statuses = ask(nodes, &targets).await;
    let observed = observe::observed(spec, &live, statuses, template);
    Ok(Gathered { live, observed, targets })
}

async fn read(client: &Client, spec: &ClusterSpec) -> Result<Live, GatherError> {
    let identity = &spec.identity;
    let reader = Reader { client, identity };
    let names = Names::from(identity);
    let (stateful_sets, pods, claims, services, service_accounts, budgets, network_policies, record, token) = futures::try_join!(
        reader.list("the StatefulSets"),
        reader.list("the Pods"),
        reader.list("the PersistentVolumeClaims"),
        reader.list("the Services"),
        reader.list("the ServiceAccounts"),
        reader.list("the PodDisruptionBudgets"),
        reader.list("the NetworkPolicies"),
        reader.get::<ConfigMap>("the layout's ConfigMap", names.layout()),
        reader.get::<Secret>("the token's Secret", names.token()),
    )?;
    let api_token = match &spec.api_token {
        Some(reference) => reader.get::<Secret>("the Secret of spec.apiTokenSecretRef", reference.name.clone()).await?,
        None => None,
    };
    let redis_url = match &spec.storage {
        Storage::Redis(reference) => reader.get::<Secret>("the Secret of spec.storage.redis", reference.name.clone()).await?,
        Storage::Volume(_) | Storage::Memory => None,
    };
    // Somebody else's ConfigMap by that name says nothing about this cluster; applying then stops at it.
    let own = record.as_ref().filter(|record| is_ours(record, identity));
    let (layout, volumes, unreadable) = match own.map(recorded).transpose() {
        Ok(found) => found.map_or((None, None, None), |(layout, volumes)| (layout, volumes, None)),
        Err(error) => (None, None, Some(error)),
    };
    Ok(Live {
        stateful_sets,
        pods,
        claims,
        services,
        service_accounts,
        budgets,
        network_policies,
        record,
        token,
        layout,
        volumes,
        api_token,
        redis_url,
        unreadable,
    })
}

fn recorded(record: &ConfigMap) -> Result<(Option<Layout>, Option<Volumes>), RecordError> {
    Ok((build::read_layout(record)?, build::read_volumes(record)?))
}

struct Reader<'a> {
    client: &'a Client,
    identity: &'a Identity,
}

impl Reader<'_> {
    fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.identity.namespace)
    }

    async fn list<K: Kind>(&self, what: &'static str) -> Result<Named<K>, GatherError> {
        let labels = format!("{NAME_LABEL}={PRODUCT},{INSTANCE_LABEL}={}", self.identity.name);
        let list = self.api::<K>().list(&ListParams::default().labels(&labels)).await;
        let list = list.map_err(|source| GatherError::Api { what, source: Box::new(source) })?;
        Ok(Named(list.items.into_iter().map(|object| (object.name_any(), object)).collect()))
    }

    async fn get<K: Kind>(&self, what: &'static str, name: String) -> Result<Option<K>, GatherError> {
        self.api::<K>().get_opt(&name).await.map_err(|source| GatherError::Api { what, source: Box::new(source) })
    }
}

/// Where the Pods that run are to be called.
fn targets(live: &Live, spec: &ClusterSpec, reach: Reach) -> Targets {
    let cluster = live.layout.as_ref().map(|layout| layout.cluster);
    let tokens: Arc<[ClusterToken]> = live.token.as_ref().map(tokens).unwrap_or_default().into();
    let callable = observe::own_pods(live, spec).filter_map(|pod| {
        let address = address(pod, reach)?;
        let node = NodeName(pod.name_any());
        Some((node.clone(), Target { node, address, cluster, pod_uid: pod.uid(), tokens: Arc::clone(&tokens) }))
    });
    callable.collect()
}

fn address(pod: &Pod, reach: Reach) -> Option<Address> {
    let ip = pod.status.as_ref()?.pod_ip.as_deref().filter(|ip| !ip.is_empty())?;
    Some(match reach {
        Reach::Pod if ip.contains(':') => Address::Direct(format!("[{ip}]:{ADMIN_PORT}")),
        Reach::Pod => Address::Direct(format!("{ip}:{ADMIN_PORT}")),
        Reach::Proxy => Address::Proxy { namespace: pod.namespace()?, pod: pod.name_any(), port: ADMIN_PORT },
    })
}

/// The current token first, then the one before it, which nodes have until their file is renewed.
fn tokens(secret: &Secret) -> Vec<ClusterToken> {
    let data = secret.data.as_ref();
    let token =
        |key| data.and_then(|data| data.get(key)).map(|bytes| ClusterToken::new(&bytes.0)).filter(|token| !token.is_empty());
    [TOKEN_KEY, TOKEN_PREVIOUS_KEY].into_iter().filter_map(token).collect()
}

async fn ask(nodes: &NodeClient, targets: &Targets) -> HashMap<NodeName, NodeStatus> {
    let answers = futures::stream::iter(targets.values().cloned())
        .map(|target| async move { (target.node.clone(), nodes.status(&target).await) })
        .buffer_unordered(AT_A_TIME)
        .filter_map(|(node, answer)| async move {
            match answer {
                Ok(status) => Some((node, status)),
                // No node gets better by itself while the operator lacks the right to ask through the API server.
                Err(error) if error.category() == "forbidden" => {
                    tracing::warn!(%node, %error, "a node cannot be asked how it is");
                    None
                }
                Err(error) => {
                    tracing::debug!(%node, %error, "a node does not say how it is");
                    None
                }
            }
        });
    answers.collect().await
}

/// A new cluster's identity, should this pass mint one.
fn fresh_cluster() -> ClusterId {
    ClusterId(rand::random())
}
