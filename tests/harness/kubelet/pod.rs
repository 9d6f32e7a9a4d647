//! The life of one Pod: its mounts, its process, its readiness, its end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;

use super::report::{Report, Stage};
use super::{Shared, container, volumes};
use crate::http::Http;
use crate::process::Process;

/// The pause before a container is started again. Kubernetes begins with ten seconds, for which no test can wait.
const RESTART_PAUSE: Duration = Duration::from_millis(300);
/// Between two probes: a fraction of what Pods ask for, for the same reason.
const PROBE_PERIOD: Duration = Duration::from_millis(250);

/// What ends a run of a container.
enum Outcome {
    Ended(i32),
    Deleted,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    seen: watch::Receiver<Arc<Pod>>,
    address: Ipv4Addr,
    http: Http,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, seen: watch::Receiver<Arc<Pod>>, address: Ipv4Addr) -> Self {
        Self { shared, seen, address, http: Http::default() }
    }

    /// Runs the Pod until it is deleted. Whatever process there is ends with this future.
    pub(super) async fn run(self) {
        let pod = self.pod();
        let mounts = tokio::select! {
            mounts = volumes::mounts(&self.shared.client, &pod, &self.shared.folder) => mounts,
            () = self.deleted() => return self.remove().await,
        };
        if has_no_image(&pod) {
            self.report(Stage::NoImage, 0).await;
            self.deleted().await;
            return self.remove().await;
        }
        let mut restarts = 0;
        loop {
            match self.run_once(&mounts, restarts).await {
                Ok(Outcome::Deleted) => return self.remove().await,
                Ok(Outcome::Ended(code)) => self.report(Stage::Ended { code }, restarts).await,
                Err(error) => self.note(&format!("cannot be started: {error:#}")),
            }
            restarts += 1;
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = self.deleted() => return self.remove().await,
            }
        }
    }

    async fn run_once(&self, mounts: &[volumes::Mount], restarts: u32) -> anyhow::Result<Outcome> {
        let pod = self.pod();
        let hosts = &self.shared.hosts;
        hosts.name(&pod, self.address)?;
        let command = container::command(&self.shared.program, &pod, self.address, mounts, hosts.path())?;
        let log = self.shared.log(&pod.namespace().unwrap_or_default(), &pod.name_any());
        let mut process = Process::start(command, &log)?;
        self.set_pid(process.pid());
        self.report(Stage::Running { ready: false }, restarts).await;
        let outcome = tokio::select! {
            status = process.wait() => Outcome::Ended(status?.code().unwrap_or(137)),
            () = self.deleted() => Outcome::Deleted,
            error = self.probe(restarts) => return Err(error),
            () = volumes::renew_secrets(&self.shared.client, &pod, &self.shared.folder) => Outcome::Deleted,
        };
        self.set_pid(None);
        if matches!(outcome, Outcome::Deleted) {
            self.report(Stage::Running { ready: false }, restarts).await;
            process.stop(self.grace()).await?;
        }
        Ok(outcome)
    }

    /// Asks the container whether it is ready, and tells when that changes.
    async fn probe(&self, restarts: u32) -> anyhow::Error {
        let (url, failures_max) = match container::readiness(&self.pod(), self.address) {
            Ok(probe) => probe,
            Err(error) => return error,
        };
        let (mut ready, mut failures) = (false, 0);
        loop {
            let answer = self.http.send(Method::GET, &url, None).await;
            let good = answer.is_ok_and(|answer| answer.status == StatusCode::OK);
            failures = if good { 0 } else { failures + 1 };
            let next = good || (ready && failures < failures_max);
            if next != ready {
                ready = next;
                self.report(Stage::Running { ready }, restarts).await;
            }
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    }

    fn pod(&self) -> Arc<Pod> {
        self.seen.borrow().clone()
    }

    /// Ends when the Pod is to go.
    async fn deleted(&self) {
        let mut seen = self.seen.clone();
        if seen.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    fn grace(&self) -> Duration {
        let seconds = self.pod().metadata.deletion_grace_period_seconds.unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    fn set_pid(&self, pid: Option<u32>) {
        if let Some(known) = self.shared.pods().get_mut(&self.pod().uid().unwrap_or_default()) {
            known.pid = pid;
        }
    }

    async fn report(&self, stage: Stage, restarts: u32) {
        Report { stage, restarts }.write(&self.shared.client, &self.pod(), self.address).await;
    }

    fn note(&self, text: &str) {
        use std::io::Write as _;
        let pod = self.pod();
        let log = self.shared.log(&pod.namespace().unwrap_or_default(), &pod.name_any());
        // It is for people only.
        let _ = std::fs::File::options().create(true).append(true).open(log).and_then(|mut log| writeln!(log, "kubelet: {text}"));
    }

    /// Tells the API server that nothing of this very Pod is left.
    async fn remove(&self) {
        let pod = self.pod();
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), &pod.namespace().unwrap_or_default());
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let params = params.preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        while let Err(error) = pods.delete(&pod.name_any(), &params).await {
            if matches!(error, kube::Error::Api(_)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn has_no_image(pod: &Pod) -> bool {
    let image = container::the_one(pod).ok().and_then(|container| container.image.as_deref());
    image.is_some_and(|image| image.ends_with(":absent"))
}
