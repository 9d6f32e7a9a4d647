//! Storage: a class whose claims become folders, and what a Pod mounts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret, Volume};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

const CLASS: &str = "standard";
/// Says on a claim that the scheduler has found a machine for its Pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Installs the default class.
pub(super) async fn install_class(client: &Client) -> anyhow::Result<()> {
    let class: StorageClass = serde_json::from_value(json!({
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "stand-in.test/folders",
        // The scheduler waits for such a claim. After one that is bound at once it looks again by an event, which it
        // has been seen to miss on a busy machine: it then looks after five minutes.
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
        "allowVolumeExpansion": true,
    }))?;
    Api::<StorageClass>::all(client.clone()).create(&PostParams::default(), &class).await?;
    Ok(())
}

/// Makes a volume for every claim of the class, for ever.
pub(super) async fn provide(client: Client, folder: PathBuf) {
    let claims: Api<PersistentVolumeClaim> = Api::all(client.clone());
    let mut seen = watcher(claims, watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(claim) = seen.next().await {
        let Ok(claim) = claim else { continue };
        let spec = claim.spec.clone().unwrap_or_default();
        let wanted = claim.annotations().contains_key(SELECTED_NODE) && spec.storage_class_name.as_deref() == Some(CLASS);
        if spec.volume_name.is_none()
            && wanted
            && let Ok(volume) = volume(&claim, &folder)
        {
            make(&client, &volume).await;
        }
    }
}

/// No event would come again for a claim whose volume could not be made.
async fn make(client: &Client, volume: &PersistentVolume) {
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    while let Err(error) = volumes.create(&PostParams::default(), volume).await {
        // One that exists already is the answer to an event that came twice.
        if matches!(&error, kube::Error::Api(status) if status.code == 409) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn volume(claim: &PersistentVolumeClaim, folder: &Path) -> anyhow::Result<PersistentVolume> {
    let spec = claim.spec.as_ref().context("a claim without a spec")?;
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.clone());
    let uid = claim.uid().context("a claim without a UID")?;
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("volume-{uid}")},
        "spec": {
            "capacity": requests,
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "hostPath": {"path": folder.join(&uid)},
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": claim.namespace(), "name": claim.name_any(), "uid": uid,
            },
        },
    }))?)
}

/// Between two looks at the Secrets of a Pod that runs. A real kubelet takes up to a minute.
const SECRETS_PERIOD: Duration = Duration::from_millis(500);

/// Writes what Secrets say now where the Pod has them mounted, for ever.
pub(super) async fn renew_secrets(client: &Client, pod: &Pod, root: &Path) {
    loop {
        tokio::time::sleep(SECRETS_PERIOD).await;
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.secret.is_some()) {
            // One that is gone leaves the files as they are.
            let _ = folder(client, pod, volume, root).await;
        }
    }
}

/// Puts a Secret's value into a file, as a whole and only when it is another one.
fn project(path: &Path, value: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|written| written == value) {
        return Ok(());
    }
    let part = path.with_extension("part");
    std::fs::write(&part, value)?;
    Ok(std::fs::rename(&part, path)?)
}

/// Where in a container something is mounted, and the folder that is there.
pub(super) struct Mount {
    pub(super) path: String,
    pub(super) folder: PathBuf,
}

/// Waits until everything is there that a Pod mounts.
pub(super) async fn mounts(client: &Client, pod: &Pod, root: &Path) -> Vec<Mount> {
    loop {
        match all(client, pod, root).await {
            Ok(mounts) => return mounts,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn all(client: &Client, pod: &Pod, root: &Path) -> anyhow::Result<Vec<Mount>> {
    let spec = pod.spec.as_ref().context("a Pod without a spec")?;
    let mut mounts = Vec::new();
    for mount in spec.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten()) {
        let volume = spec.volumes.iter().flatten().find(|volume| volume.name == mount.name).context("no such volume")?;
        let folder = folder(client, pod, volume, root).await?;
        std::fs::create_dir_all(&folder)?;
        mounts.push(Mount { path: mount.mount_path.clone(), folder });
    }
    Ok(mounts)
}

async fn folder(client: &Client, pod: &Pod, volume: &Volume, root: &Path) -> anyhow::Result<PathBuf> {
    let namespace = pod.namespace().unwrap_or_default();
    let own = root.join("pods").join(pod.uid().unwrap_or_default()).join(&volume.name);
    if let Some(source) = &volume.persistent_volume_claim {
        let claim = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &namespace).get(&source.claim_name).await?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        anyhow::ensure!(bound, "claim {} is not bound", source.claim_name);
        // By the claim: its data is there for whichever Pod mounts it, and gone for a claim that comes anew.
        return Ok(root.join("volumes").join(claim.uid().context("a claim without a UID")?));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = Api::<Secret>::namespaced(client.clone(), &namespace).get(name).await?;
        let data = secret.data.unwrap_or_default();
        std::fs::create_dir_all(&own)?;
        let chosen = |key: &str| data.get(key).with_context(|| format!("Secret {name} has no key {key}"));
        match &source.items {
            Some(items) => {
                for item in items {
                    project(&own.join(&item.path), &chosen(&item.key)?.0)?;
                }
            }
            None => data.iter().try_for_each(|(key, value)| project(&own.join(key), &value.0))?,
        }
        return Ok(own);
    }
    if volume.empty_dir.is_some() {
        return Ok(own);
    }
    bail!("the stand-in kubelet does not know volumes like {volume:?}")
}
