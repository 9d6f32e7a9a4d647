//! The stand-in kubelet: one Node whose Pods are processes of this machine.
//!
//! Each Pod gets an address 127.x.y.z, its container's own argv and environment, its claims and Secrets as folders, and
//! every name that DNS would give it in one hosts file. What it does not do: liveness and startup probes, the pause before
//! a stop (no Service leads here), and images, of which it only knows that one whose tag is `absent` cannot be pulled.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::process::signal;
use crate::programs;
use hosts::Hosts;
use pod::Worker;

mod container;
mod hosts;
mod machine;
mod pod;
mod report;
mod volumes;

/// A running stand-in kubelet.
pub struct Kubelet {
    shared: Arc<Shared>,
}

/// What its parts share.
struct Shared {
    client: Client,
    folder: PathBuf,
    program: PathBuf,
    hosts: Hosts,
    addresses: AtomicU32,
    /// By UID.
    pods: Mutex<BTreeMap<String, Known>>,
    /// Namespaces whose tests are over.
    abandoned: Mutex<HashSet<String>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A Pod that is here.
struct Known {
    namespace: String,
    name: String,
    address: Ipv4Addr,
    pid: Option<u32>,
    latest: watch::Sender<Arc<Pod>>,
    /// Cancelled when it is to end at once: it has been removed by force, or its test is over.
    gone: CancellationToken,
}

impl Kubelet {
    /// Registers the Node and the storage class, and begins to run Pods.
    ///
    /// # Errors
    /// When the API server refuses, or the node's program has not been built.
    pub async fn start(client: Client, folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let shared = Arc::new(Shared {
            client,
            folder: folder.to_owned(),
            program: programs::ours("counter-node")?,
            hosts: Hosts::new(folder.join("hosts"))?,
            addresses: AtomicU32::new(0),
            pods: Mutex::default(),
            abandoned: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        machine::register(&shared.client).await?;
        volumes::install_class(&shared.client).await?;
        shared.spawn(machine::renew(shared.client.clone()));
        shared.spawn(volumes::provide(shared.client.clone(), shared.folder.join("volumes")));
        shared.spawn(follow(shared.clone()));
        Ok(Self { shared })
    }

    /// Ends a Pod's process with SIGKILL, as the system does that has run out of memory.
    ///
    /// # Errors
    /// When no process of that Pod runs.
    pub async fn kill(&self, namespace: &str, pod: &str) -> anyhow::Result<()> {
        signal(self.pid(namespace, pod).with_context(|| format!("{pod} has no process"))?, "KILL").await
    }

    /// The process of a Pod.
    #[must_use]
    pub fn pid(&self, namespace: &str, pod: &str) -> Option<u32> {
        self.shared.pods().values().find(|known| known.namespace == namespace && known.name == pod)?.pid
    }

    /// The public addresses of a namespace's running Pods, as URLs, in the order of their names.
    #[must_use]
    pub fn bases(&self, namespace: &str) -> Vec<String> {
        let pods = self.shared.pods();
        let running = pods.values().filter(|known| known.namespace == namespace && known.pid.is_some());
        let named: BTreeMap<&str, Ipv4Addr> = running.map(|known| (known.name.as_str(), known.address)).collect();
        named.values().map(|address| format!("http://{address}:8080")).collect()
    }

    /// The log of a Pod's container; Pods of one name append to one.
    #[must_use]
    pub fn log(&self, namespace: &str, pod: &str) -> PathBuf {
        self.shared.log(namespace, pod)
    }

    /// Kills a namespace's processes and runs none of it again: its test is over.
    pub fn abandon(&self, namespace: &str) {
        self.shared.abandoned().insert(namespace.to_owned());
        for known in self.shared.pods().values().filter(|known| known.namespace == namespace) {
            known.gone.cancel();
        }
    }

    /// Kills every process and ends.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn abandoned(&self) -> MutexGuard<'_, HashSet<String>> {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, namespace: &str, pod: &str) -> PathBuf {
        self.folder.join(format!("{namespace}_{pod}.log"))
    }

    /// Runs a part until the kubelet is stopped; processes end with the part that holds them.
    fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = part => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// An address for a Pod. The first numbers come from this process's id, so that tests which run at the same time on
    /// one machine keep apart.
    fn address(&self) -> Ipv4Addr {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed) + 1;
        let [_, _, high, low] = number.to_be_bytes();
        let test = u8::try_from(std::process::id() % 200).unwrap_or_default();
        Ipv4Addr::new(127, 20 + test, high, low)
    }
}

/// Hands every Pod of this Node to a worker of its own.
async fn follow(shared: Arc<Shared>) {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", machine::NAME));
    let mut events = std::pin::pin!(watcher(pods, config));
    loop {
        // A watch that failed starts again with the next call.
        match events.try_next().await {
            Ok(Some(Event::Apply(pod) | Event::InitApply(pod))) => saw(&shared, pod),
            Ok(Some(Event::Delete(pod))) => {
                if let Some(known) = shared.pods().get(&pod.uid().unwrap_or_default()) {
                    known.gone.cancel();
                }
            }
            Ok(Some(Event::Init | Event::InitDone)) => {}
            Ok(None) => return,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}

fn saw(shared: &Arc<Shared>, pod: Pod) {
    let (uid, namespace, name) = (pod.uid().unwrap_or_default(), pod.namespace().unwrap_or_default(), pod.name_any());
    if shared.abandoned().contains(&namespace) {
        return;
    }
    let pod = Arc::new(pod);
    let mut pods = shared.pods();
    if let Some(known) = pods.get(&uid) {
        known.latest.send_replace(pod);
        return;
    }
    let (latest, seen) = watch::channel(pod);
    let (address, gone) = (shared.address(), CancellationToken::new());
    pods.insert(uid.clone(), Known { namespace, name, address, pid: None, latest, gone: gone.clone() });
    drop(pods);
    let worker = Worker::new(shared.clone(), seen, address);
    let shared_too = shared.clone();
    shared.spawn(async move {
        tokio::select! {
            () = worker.run() => {}
            () = gone.cancelled() => {}
        }
        shared_too.hosts.forget(address);
        shared_too.pods().remove(&uid);
    });
}
