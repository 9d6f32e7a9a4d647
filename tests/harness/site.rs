//! One test's place on the shared control plane: a namespace, with operators that may work in it and nowhere else.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use hyper::Method;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use operator::crd::DistributedCounter;
use serde_json::json;
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::control_plane::ControlPlane;
use crate::http::Http;
use crate::process::{self, Process};
use crate::wait::until;
use crate::{ports, programs};

/// The image that Pods are said to run.
pub const IMAGE: &str = "stand-in/counter-node:1";

/// A namespace of the shared control plane.
pub struct Site {
    plane: Arc<ControlPlane>,
    namespace: String,
    logs: Mutex<Vec<PathBuf>>,
}

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The image of clusters that name none.
    pub image: String,
    /// After so many writes to the API it aborts.
    pub crash_after_writes: Option<u64>,
    /// Whether it acts only while it leads; with short times then.
    pub elected: bool,
}

impl Default for Launch {
    fn default() -> Self {
        Self { image: IMAGE.to_owned(), crash_after_writes: None, elected: false }
    }
}

/// A running `operator run`.
pub struct Operator {
    process: Process,
    health: String,
    http: Http,
}

impl Site {
    /// Makes the namespace and gives the operator's user its rights there, as a namespaced install does.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn new(plane: &Arc<ControlPlane>, namespace: &str) -> anyhow::Result<Self> {
        let client = plane.client();
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &object).await.context("the namespace")?;
        let site = Self { plane: plane.clone(), namespace: namespace.to_owned(), logs: Mutex::default() };
        for (name, rules) in ["operator", "operator-leader"].into_iter().zip(plane.rules()) {
            site.grant(name, rules).await.context("the operator's rights")?;
        }
        until("the namespace's own account is there", async || Ok(site.api::<ServiceAccount>().get("default").await?)).await?;
        Ok(site)
    }

    /// Another place, named after this one.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub async fn another(&self, suffix: &str) -> anyhow::Result<Self> {
        Self::new(&self.plane, &format!("{}-{suffix}", self.namespace)).await
    }

    async fn grant(&self, name: &str, rules: &[PolicyRule]) -> anyhow::Result<()> {
        let role: Role = serde_json::from_value(json!({"metadata": {"name": name}, "rules": rules}))?;
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": self.plane.operator_user()}],
        }))?;
        self.api().create(&PostParams::default(), &role).await?;
        self.api().create(&PostParams::default(), &binding).await?;
        Ok(())
    }

    /// The control plane.
    #[must_use]
    pub fn plane(&self) -> &Arc<ControlPlane> {
        &self.plane
    }

    /// The namespace's name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace's objects of one kind, for an administrator.
    #[must_use]
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.plane.client(), &self.namespace)
    }

    /// A `DistributedCounter` of this name, which need not exist yet.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Cluster<'_> {
        Cluster::new(self, name)
    }

    /// Starts an operator for this namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn operator(&self, launch: &Launch) -> anyhow::Result<Operator> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let log = self.plane.folder().join(format!("{}-operator-{}.log", self.namespace, logs.len()));
        logs.push(log.clone());
        drop(logs);
        let health = format!("127.0.0.1:{}", ports::free()?);
        let mut command = Command::new(programs::ours("operator")?);
        command.args(["run", "--namespace", &self.namespace, "--health", &health, "--default-image", &launch.image]);
        command.args(["--leader-elect", if launch.elected { "true" } else { "false" }]);
        command.args(["--lease-namespace", &self.namespace]);
        command.args(["--lease-duration", "4s", "--renew-deadline", "3s", "--retry-period", "500ms"]);
        command.args([
            "--log",
            "debug,hyper=info,hyper_util=info,h2=info,tower=info,kube_client=info,kube_runtime=info,rustls=info",
        ]);
        command.env("KUBECONFIG", self.plane.operator_kubeconfig(&self.namespace)?);
        if let Some(writes) = launch.crash_after_writes {
            command.env("OPERATOR_CRASH_AFTER_WRITES", writes.to_string());
        }
        Ok(Operator { process: Process::start(command, &log)?, health: format!("http://{health}"), http: Http::default() })
    }

    /// What a person would look at after a failure: conditions, Pods, and the ends of the operators' logs.
    pub async fn report(&self) -> String {
        let mut report = format!("=== {}\n", self.namespace);
        if let Ok(clusters) = self.api::<DistributedCounter>().list(&ListParams::default()).await {
            for cluster in clusters {
                let status = serde_json::to_string(&cluster.status).unwrap_or_default();
                report += &format!("{} generation {:?}: {status}\n", cluster.name_any(), cluster.metadata.generation);
            }
        }
        if let Ok(pods) = self.api::<Pod>().list(&ListParams::default()).await {
            for pod in pods {
                let name = pod.name_any();
                let status = serde_json::to_string(&pod.status).unwrap_or_default();
                report += &format!("Pod {name} deleted {:?}: {status}\n", pod.metadata.deletion_timestamp);
                report += &format!("{}\n", process::tail(&self.plane.kubelet().log(&self.namespace, &name)));
            }
        }
        for log in self.logs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            report += &format!("--- {}\n{}\n", log.display(), process::tail(log));
        }
        report
    }

    /// Ends the namespace's processes: its test is over.
    pub fn close(&self) {
        self.plane.kubelet().abandon(&self.namespace);
    }
}

impl Operator {
    /// The process.
    #[must_use]
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What `/readyz` says.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn stage(&self) -> anyhow::Result<String> {
        let answer = self.http.send(Method::GET, &format!("{}/readyz", self.health), None).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Writes to the API so far.
    ///
    /// # Errors
    /// When the metrics do not come.
    pub async fn writes(&self) -> anyhow::Result<u64> {
        self.metric("operator_api_writes_total").await
    }

    /// Passes over clusters so far.
    ///
    /// # Errors
    /// When the metrics do not come.
    pub async fn passes(&self) -> anyhow::Result<u64> {
        self.metric("operator_reconciles_total").await
    }

    /// The sum of a counter over its labels.
    async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let answer = self.http.send(Method::GET, &format!("{}/metrics", self.health), None).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        lines.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<u64>().context("no number")).sum()
    }

    /// Stops it as Kubernetes does.
    ///
    /// # Errors
    /// When it does not stop in order.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let status = self.process.stop(Duration::from_secs(30)).await?;
        anyhow::ensure!(status.success(), "the operator ended with {status}: {}", self.process.log_tail());
        Ok(())
    }
}
