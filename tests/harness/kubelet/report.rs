//! What the kubelet says of a Pod.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use super::container::the_one;
use super::machine;

/// What the container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its image cannot be had.
    NoImage,
    Running {
        ready: bool,
    },
    /// It has ended and is about to be started again.
    Ended {
        code: i32,
    },
}

/// One report.
pub(super) struct Report {
    pub(super) stage: Stage,
    pub(super) restarts: u32,
}

impl Report {
    /// Writes it; the Pod may be gone by now, and the next report makes up for one that failed.
    pub(super) async fn write(&self, client: &Client, pod: &Pod, address: Ipv4Addr) {
        let Ok(status) = self.status(pod, address) else { return };
        let body = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        for _ in 0..3 {
            match pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&body)).await {
                Ok(_) | Err(kube::Error::Api(_)) => return,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            }
        }
    }

    fn status(&self, pod: &Pod, address: Ipv4Addr) -> anyhow::Result<Value> {
        let container = the_one(pod)?;
        let ready = self.stage == Stage::Running { ready: true };
        let (phase, state) = match self.stage {
            Stage::NoImage => ("Pending", json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}})),
            Stage::Running { .. } => ("Running", json!({"running": {"startedAt": now()}})),
            Stage::Ended { code } => {
                ("Running", json!({"waiting": {"reason": "CrashLoopBackOff", "message": format!("it ended with {code}")}}))
            }
        };
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now()});
        let mut status = json!({
            "phase": phase,
            "hostIP": machine::ADDRESS,
            "conditions": [condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready)],
            "containerStatuses": [{
                "name": container.name, "image": container.image, "imageID": "", "ready": ready,
                "started": self.stage != Stage::NoImage, "restartCount": self.restarts, "state": state,
            }],
        });
        if self.stage != Stage::NoImage {
            status["podIP"] = json!(address);
            status["podIPs"] = json!([{"ip": address}]);
        }
        Ok(status)
    }
}

fn now() -> String {
    Timestamp::now().to_string()
}
