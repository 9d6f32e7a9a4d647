//! From a Pod's container to the command line of a process.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use kube::ResourceExt as _;
use tokio::process::Command;

use super::volumes::Mount;

/// The container's command line, with its variables resolved and its mounts where they are on this machine.
pub(super) fn command(program: &Path, pod: &Pod, address: Ipv4Addr, mounts: &[Mount], hosts: &Path) -> anyhow::Result<Command> {
    let container = the_one(pod)?;
    anyhow::ensure!(container.command.is_none(), "the image's own program is to run");
    let mut env = environment(container, pod, address)?;
    env.insert("COUNTER_BIND".to_owned(), address.to_string());
    env.insert("COUNTER_HOSTS_FILE".to_owned(), hosts.display().to_string());
    let mut command = Command::new(program);
    for arg in container.args.iter().flatten() {
        command.arg(placed(&expand(arg, &env), mounts));
    }
    command.env_clear().envs(env);
    Ok(command)
}

/// The only container of a Pod.
pub(super) fn the_one(pod: &Pod) -> anyhow::Result<&Container> {
    match pod.spec.as_ref().map(|spec| spec.containers.as_slice()) {
        Some([only]) => Ok(only),
        _ => bail!("the stand-in kubelet runs Pods of one container"),
    }
}

fn environment(container: &Container, pod: &Pod, address: Ipv4Addr) -> anyhow::Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, field(variable)) {
            (Some(value), _) => expand(value, &env),
            (None, Some("metadata.name")) => pod.name_any(),
            (None, Some("metadata.namespace")) => pod.namespace().unwrap_or_default(),
            (None, Some("metadata.uid")) => pod.uid().unwrap_or_default(),
            (None, Some("status.podIP")) => address.to_string(),
            (None, other) => bail!("the variable {} comes from {other:?}, which is not known here", variable.name),
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

fn field(variable: &EnvVar) -> Option<&str> {
    Some(variable.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str())
}

/// Replaces `$(NAME)`; as Kubernetes does, it leaves what it does not know.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    env.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("$({name})"), value))
}

/// A path in the container becomes the path on this machine.
fn placed(arg: &str, mounts: &[Mount]) -> String {
    for mount in mounts {
        match arg.strip_prefix(&mount.path) {
            Some("") => return mount.folder.display().to_string(),
            Some(rest) if rest.starts_with('/') => return format!("{}{rest}", mount.folder.display()),
            Some(_) | None => {}
        }
    }
    arg.to_owned()
}

/// The port and path that the readiness probe asks, and after how many failures a Pod is not ready.
pub(super) fn readiness(pod: &Pod, address: Ipv4Addr) -> anyhow::Result<(String, i32)> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let container = the_one(pod)?;
    let probe = container.readiness_probe.as_ref().context("no readiness probe")?;
    let get = probe.http_get.as_ref().context("the readiness probe is no GET")?;
    let port = match &get.port {
        IntOrString::Int(port) => *port,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.with_context(|| format!("no port is named {name}"))?.container_port
        }
    };
    let url = format!("http://{address}:{port}{}", get.path.as_deref().unwrap_or("/"));
    Ok((url, probe.failure_threshold.unwrap_or(3)))
}
