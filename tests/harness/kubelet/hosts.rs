//! One hosts file for all Pods, in place of DNS.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

pub(super) struct Hosts {
    path: PathBuf,
    names: Mutex<BTreeMap<String, Ipv4Addr>>,
}

impl Hosts {
    pub(super) fn new(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::write(&path, "")?;
        Ok(Self { path, names: Mutex::default() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives a Pod the name that its headless Service gives it.
    pub(super) fn name(&self, pod: &Pod, address: Ipv4Addr) -> anyhow::Result<()> {
        let spec = pod.spec.as_ref();
        let host = spec.and_then(|spec| spec.hostname.clone()).unwrap_or_else(|| pod.name_any());
        let Some(service) = spec.and_then(|spec| spec.subdomain.clone()) else { return Ok(()) };
        let name = format!("{host}.{service}.{}.svc", pod.namespace().unwrap_or_default());
        self.write(|names| {
            names.insert(name, address);
        })
    }

    /// Takes the names of an address away, unless others have them by now.
    pub(super) fn forget(&self, address: Ipv4Addr) {
        // Without the file there are no Pods either.
        let _ = self.write(|names| names.retain(|_, of| *of != address));
    }

    fn write(&self, change: impl FnOnce(&mut BTreeMap<String, Ipv4Addr>)) -> anyhow::Result<()> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut names);
        let text: String = names.iter().map(|(name, address)| format!("{address} {name} {name}.cluster.local\n")).collect();
        // Whole or not at all: nodes read it at any time.
        let part = self.path.with_extension("part");
        std::fs::write(&part, text)?;
        Ok(std::fs::rename(part, &self.path)?)
    }
}
