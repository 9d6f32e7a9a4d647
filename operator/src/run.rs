//! `operator run` from its start to its end: probes first, then the resource, then the election, then the controller.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Stage};
use crate::args::RunArgs;
use crate::client::Gate;
use crate::controller::{self, Context};
use crate::leader::{Elector, Fence};
use crate::telemetry::Metrics;

/// Between two questions whether the resource is installed, while it is not.
const CRD_MISSING_PERIOD: Duration = Duration::from_secs(2);
/// The same while it is: a resource that is removed under a running operator shows within this time.
const CRD_PRESENT_PERIOD: Duration = Duration::from_secs(30);
/// How long passes that are under way may take to end when the process is asked to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// What lives as long as the process.
struct Process {
    args: RunArgs,
    client: Client,
    fence: Fence,
    metrics: Metrics,
    stage: watch::Sender<Stage>,
    stop: CancellationToken,
}

/// Runs the operator until it is asked to stop.
///
/// # Errors
/// When it cannot start, or has lost the lead: the process is to end then, so that nothing of the old lead goes on.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let (stage, shown) = watch::channel(Stage::Starting);
    let health = args.health.on(args.bind);
    let listener = TcpListener::bind(health).await.with_context(|| format!("--health {health} cannot be listened on"))?;
    // With port 0 this is the only way to learn which it has become.
    tracing::info!(address = %listener.local_addr().unwrap_or(health), "serving probes and metrics");
    tokio::spawn(admin::serve(listener, admin::router(shown, metrics.clone())));
    let stop = stop_on_signal()?;

    let config = Config::infer().await.context("there is neither a Pod's service account nor a kubeconfig")?;
    let namespace = config.default_namespace.clone();
    let fence = if args.election.leader_elect { Fence::default() } else { Fence::open() };
    let gate = Gate::new(fence.clone(), metrics.clone(), args.crash_after_writes);
    let client = gate.client(config).context("the Kubernetes client cannot be built")?;

    let process = Process { args, client, fence, metrics, stage, stop: stop.clone() };
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        () = process.crd_comes() => {}
    }
    if process.args.election.leader_elect { process.run_elected(&namespace).await } else { process.run_alone().await }
}

impl Process {
    async fn run_alone(&self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.reconcile() => Ok(()),
            never = self.watch_crd() => match never {},
        }
    }

    async fn run_elected(&self, own_namespace: &str) -> anyhow::Result<()> {
        self.stage.send_replace(Stage::Following);
        let elector = self.elector(own_namespace);
        let mut leadership = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            leadership = elector.acquire() => leadership,
        };
        self.metrics.set_leader(true);
        let ended = tokio::select! {
            lost = leadership.keep() => Err(lost),
            () = self.reconcile() => Ok(()),
            never = self.watch_crd() => match never {},
        };
        self.metrics.set_leader(false);
        self.stage.send_replace(Stage::Stopping);
        match ended {
            Ok(()) => {
                leadership.release().await;
                Ok(())
            }
            Err(lost) => Err(anyhow::Error::new(lost).context("not leading any more")),
        }
    }

    fn elector(&self, own_namespace: &str) -> Elector {
        let election = &self.args.election;
        let namespace = election.lease_namespace.as_deref().unwrap_or(own_namespace);
        // The host's name, a Pod's in Kubernetes, tells people who leads; the rest makes each process another candidate.
        let host = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| "operator".to_owned());
        let identity = format!("{host}_{:016x}", rand::random::<u64>());
        Elector::new(self.client.clone(), namespace, &election.lease_name, identity, election.into(), self.fence.clone())
    }

    /// Runs the controller until the process is asked to stop, and gives its passes a while to end.
    async fn reconcile(&self) {
        self.stage.send_replace(Stage::Leading);
        let context = Arc::new(Context::new(&self.args, self.client.clone(), self.metrics.clone()));
        let stop_late = async {
            self.stop.cancelled().await;
            self.stage.send_replace(Stage::Stopping);
            tokio::time::sleep(STOP_TIME_MAX).await;
        };
        tokio::select! {
            () = controller::run(context, &self.args.namespaces, self.stop.clone()) => {}
            () = stop_late => tracing::warn!("stopped in the middle of a pass; the next operator goes on from there"),
        }
    }

    /// Ends once the resource is installed.
    async fn crd_comes(&self) {
        loop {
            match self.crd_present().await {
                Ok(true) => {
                    self.metrics.set_crd_missing(false);
                    return;
                }
                Ok(false) => {
                    if self.stage.send_replace(Stage::WaitingForCrd) != Stage::WaitingForCrd {
                        tracing::warn!("the DistributedCounter resource is not installed, waiting for it");
                    }
                    self.metrics.set_crd_missing(true);
                }
                Err(error) => {
                    tracing::warn!(%error, "the Kubernetes API cannot be asked, trying again");
                    self.stage.send_replace(Stage::NoApi(error.to_string()));
                }
            }
            tokio::time::sleep(CRD_MISSING_PERIOD).await;
        }
    }

    /// Shows it when the resource disappears under a running operator, and when it is back.
    async fn watch_crd(&self) -> Infallible {
        loop {
            tokio::time::sleep(CRD_PRESENT_PERIOD).await;
            if matches!(self.crd_present().await, Ok(false)) && !self.stop.is_cancelled() {
                self.crd_comes().await;
                self.stage.send_replace(Stage::Leading);
            }
        }
    }

    async fn crd_present(&self) -> Result<bool, kube::Error> {
        match self.client.list_api_group_resources(controller::API_VERSION).await {
            Ok(list) => Ok(list.resources.iter().any(|resource| resource.name == controller::PLURAL)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        stopped.cancel();
    });
    Ok(stop)
}
