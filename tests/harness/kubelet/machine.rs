//! The Node: registered once, its Lease renewed.

use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::wait::until;

pub(super) const NAME: &str = "stand-in";
pub(super) const ADDRESS: &str = "127.0.0.1";
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const RENEWAL: Duration = Duration::from_secs(10);

/// Registers the Node and waits until Pods may come.
pub(super) async fn register(client: &Client) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": NAME, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "zone-0"
    });
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NAME, "labels": labels}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    nodes.patch_status(NAME, &PatchParams::default(), &Patch::Merge(status())).await?;
    let lease = Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(NAME.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    Api::namespaced(client.clone(), LEASE_NAMESPACE).create(&PostParams::default(), &lease).await?;
    until("the Node takes Pods", async || {
        let spec = nodes.get(NAME).await?.spec.unwrap_or_default();
        anyhow::ensure!(spec.taints.as_ref().is_none_or(Vec::is_empty), "{:?}", spec.taints);
        Ok(())
    })
    .await
    .context("the controller-manager does not see that the Node is ready")
}

/// Room for as many Pods as the tests like: their processes share this machine whatever is said.
fn status() -> serde_json::Value {
    let room = json!({"cpu": "1000", "memory": "1000Gi", "ephemeral-storage": "1000Gi", "pods": "10000"});
    let now = Timestamp::now().to_string();
    json!({"status": {
        "capacity": room,
        "allocatable": room,
        "addresses": [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": NAME}],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "stands in",
            "lastHeartbeatTime": now, "lastTransitionTime": now
        }],
    }})
}

/// Renews the Lease for ever.
pub(super) async fn renew(client: Client) {
    let leases: Api<Lease> = Api::namespaced(client, LEASE_NAMESPACE);
    loop {
        tokio::time::sleep(RENEWAL).await;
        let now = MicroTime(Timestamp::now());
        let renewed = json!({"spec": {"renewTime": now}});
        // The next renewal makes up for one that failed.
        let _ = leases.patch(NAME, &PatchParams::default(), &Patch::Merge(renewed)).await;
    }
}
