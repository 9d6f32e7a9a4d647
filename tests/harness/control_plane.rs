//! A real Kubernetes control plane without root: etcd, API server, controller-manager and scheduler on ports of this
//! machine, and the stand-in [`Kubelet`] that runs Pods as processes.
//!
//! One serves all tests of a program. Service endpoints refuse loopback addresses, so what makes them is not started:
//! Services are tested on a real kubelet only.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::PolicyRule;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt as _};
use tempfile::TempDir;
use tokio::process::Command;

use crate::kubelet::Kubelet;
use crate::process::Process;
use crate::wait::until;
use crate::{ports, programs};

mod access;

/// For Services only; nothing is ever sent there.
const SERVICE_RANGE: &str = "198.19.0.0/16";
/// The API server must name an address that is not loopback. Nobody uses it.
const ADVERTISED: &str = "198.18.255.254";
/// What the product needs, and what a cluster's life needs. Fewer controllers, less load.
const CONTROLLERS: &str = "statefulset-controller,disruption-controller,garbage-collector-controller,\
    persistentvolume-binder-controller,persistentvolumeclaim-protection-controller,persistentvolume-protection-controller,\
    node-lifecycle-controller,serviceaccount-controller,namespace-controller,pod-garbage-collector-controller";

/// A running control plane with one node.
pub struct ControlPlane {
    client: Client,
    port: u16,
    rules: access::Rules,
    kubelet: Kubelet,
    processes: Mutex<Vec<(&'static str, Process)>>,
    folder: Mutex<Option<TempDir>>,
    path: PathBuf,
}

impl ControlPlane {
    /// Starts all of it, installs our resource, and waits until Pods can be scheduled.
    ///
    /// # Errors
    /// When a program is missing or does not come up; with the end of its log.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("control-plane.").tempdir()?;
        let path = folder.path().to_owned();
        let port = ports::free()?;
        access::write_credentials(&path)?;
        let mut started = Started { folder: path.clone(), port, processes: Vec::new() };
        started.etcd_and_api_server()?;
        let kubeconfig = access::kubeconfig(port, access::ADMIN_TOKEN, "default");
        let config = Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&kubeconfig)?, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let ended = until("the API server is ready", async || {
            if let Some(ended) = started.ended()? {
                return Ok(Some(ended));
            }
            client.apiserver_version().await?;
            // System namespaces come a moment after the first answers.
            Api::<Namespace>::all(client.clone()).get("kube-node-lease").await?;
            Ok(None)
        })
        .await
        .with_context(|| started.log_tails())?;
        anyhow::ensure!(ended.is_none(), "{ended:?} has ended: {}", started.log_tails());
        install_crd(&client).await?;
        // Only now: the garbage collector learns of a resource that comes later half a minute after.
        started.controllers()?;
        let kubelet = Kubelet::start(client.clone(), &path.join("kubelet")).await.with_context(|| started.log_tails())?;
        let rules = access::Rules::of_the_chart()?;
        let processes = Mutex::new(started.processes);
        Ok(Self { client, port, rules, kubelet, processes, folder: Mutex::new(Some(folder)), path })
    }

    /// A client that may do everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The one node's kubelet.
    #[must_use]
    pub fn kubelet(&self) -> &Kubelet {
        &self.kubelet
    }

    /// Where logs and data are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// What the chart lets the operator do in a namespace, and in its own for the election.
    #[must_use]
    pub fn rules(&self) -> [&[PolicyRule]; 2] {
        [&self.rules.work, &self.rules.lead]
    }

    /// The user whom those rules are for.
    #[must_use]
    pub fn operator_user(&self) -> &'static str {
        access::OPERATOR
    }

    /// Writes a kubeconfig of the user who may do no more than the chart lets the operator do.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn operator_kubeconfig(&self, namespace: &str) -> anyhow::Result<PathBuf> {
        self.write_kubeconfig(&format!("operator-{namespace}"), access::OPERATOR_TOKEN, namespace)
    }

    /// Runs kubectl as an administrator, in a namespace, and gives what it prints.
    ///
    /// # Errors
    /// When it fails; with what it says.
    pub async fn kubectl(&self, namespace: &str, args: &[&str]) -> anyhow::Result<String> {
        let config = self.write_kubeconfig("admin", access::ADMIN_TOKEN, "default")?;
        let output = Command::new(programs::kubernetes("kubectl")?)
            .arg("--kubeconfig")
            .arg(config)
            .args(["--namespace", namespace])
            .args(args)
            .env("HOME", &self.path)
            .output()
            .await?;
        anyhow::ensure!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn write_kubeconfig(&self, name: &str, token: &str, namespace: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, access::kubeconfig(self.port, token, namespace))?;
        Ok(path)
    }

    /// The ends of the logs of the control plane's programs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let processes = self.processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tails(&processes)
    }

    /// Keeps the folder with its logs, and says where it is.
    #[must_use]
    pub fn keep_folder(&self) -> PathBuf {
        let folder = self.folder.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        folder.map_or_else(|| self.path.clone(), TempDir::keep)
    }

    /// Ends every process, nodes first, and removes the folder if it is not to be kept.
    pub async fn stop(&self) {
        self.kubelet.stop().await;
        let mut processes = std::mem::take(&mut *self.processes.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        while let Some((_, mut process)) = processes.pop() {
            // One that has ended by itself cannot be ended, and need not be.
            let _ = process.stop(Duration::from_millis(500)).await;
        }
        drop(self.folder.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

struct Started {
    folder: PathBuf,
    port: u16,
    processes: Vec<(&'static str, Process)>,
}

impl Started {
    fn run(&mut self, name: &'static str, args: &[String]) -> anyhow::Result<()> {
        let mut command = Command::new(programs::kubernetes(name)?);
        command.args(args).env("HOME", &self.folder);
        self.processes.push((name, Process::start(command, &self.folder.join(format!("{name}.log")))?));
        Ok(())
    }

    fn etcd_and_api_server(&mut self) -> anyhow::Result<()> {
        let (clients, peers) = (format!("http://127.0.0.1:{}", ports::free()?), format!("http://127.0.0.1:{}", ports::free()?));
        let file = |name: &str| self.folder.join(name).display().to_string();
        let etcd = [
            format!("--data-dir={}", file("etcd")),
            // The data does not outlive the tests.
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
        ];
        let api_server = [
            format!("--etcd-servers={clients}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            format!("--advertise-address={ADVERTISED}"),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file(access::TOKENS_FILE)),
            format!("--service-account-key-file={}", file(access::ACCOUNTS_PUBLIC_KEY_FILE)),
            format!("--service-account-signing-key-file={}", file(access::ACCOUNTS_KEY_FILE)),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--authorization-mode=RBAC".to_owned(),
            // An owner reference that blocks a deletion needs a right of its own then: the chart must grant it.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement".to_owned(),
        ];
        self.run("etcd", &etcd)?;
        self.run("kube-apiserver", &api_server)
    }

    fn controllers(&mut self) -> anyhow::Result<()> {
        let config = self.folder.join("controllers.kubeconfig");
        std::fs::write(&config, access::kubeconfig(self.port, access::ADMIN_TOKEN, "default"))?;
        let config = format!("--kubeconfig={}", config.display());
        let common = [config, "--secure-port=0".to_owned(), "--leader-elect=false".to_owned()];
        let controllers = [
            format!("--controllers={CONTROLLERS}"),
            "--pvclaimbinder-sync-period=2s".to_owned(),
            // A machine that is busy for a while is no machine that is lost.
            "--node-monitor-grace-period=10m".to_owned(),
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ];
        self.run("kube-controller-manager", &[&common[..], &controllers].concat())?;
        self.run("kube-scheduler", &common)
    }

    /// A program that has ended, if one has.
    fn ended(&mut self) -> anyhow::Result<Option<&'static str>> {
        for (name, process) in &mut self.processes {
            if process.ended()?.is_some() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn log_tails(&self) -> String {
        tails(&self.processes)
    }
}

fn tails(processes: &[(&'static str, Process)]) -> String {
    processes.iter().map(|(name, process)| format!("--- {name}\n{}\n", process.log_tail())).collect()
}

async fn install_crd(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let crd = operator::crd::crd();
    api.create(&PostParams::default(), &crd).await.context("the API server refuses our resource")?;
    until("our resource is served", async || {
        let found = api.get(&crd.name_any()).await?;
        let conditions = found.status.and_then(|status| status.conditions).unwrap_or_default();
        for kind in ["NamesAccepted", "Established"] {
            let holds = conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
            anyhow::ensure!(holds, "{kind} does not hold: {conditions:?}");
        }
        // A schema that is not structural is accepted and then not enforced.
        let structural =
            !conditions.iter().any(|condition| condition.type_ == "NonStructuralSchema" && condition.status == "True");
        anyhow::ensure!(structural, "{conditions:?}");
        Api::<operator::crd::DistributedCounter>::all(client.clone()).list(&kube::api::ListParams::default()).await?;
        Ok(())
    })
    .await
}
