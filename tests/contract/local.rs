//! The command lines of `operator local`, caught by a program that stands in for the node.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use counter_core::id::NodeName;
use counter_node::args::{Acks, Config};
use counter_node::storage::{Fsync, StoreConfig};
use counter_tests::process::Process;
use counter_tests::wait::{PATIENCE, until};
use counter_tests::{ports, programs};
use tempfile::TempDir;
use tokio::process::Command;

use crate::flags::node_config;

const CLUSTERS: &str = "
apiVersion: distributedcounter.dev/v1alpha1
kind: DistributedCounter
metadata: {name: kept}
spec: {shards: 1, replicas: 2, acks: Quorum, storage: {volume: {fsync: Always}}, resp: {enabled: true}}
---
apiVersion: distributedcounter.dev/v1alpha1
kind: DistributedCounter
metadata: {name: scratch, namespace: other}
spec: {shards: 1, replicas: 2, storage: {memory: {}}}
";

/// Writes its arguments down, and stays for as long as its standard input is open.
fn stand_in(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let program = folder.join("node");
    let argv = folder.join("argv");
    std::fs::create_dir_all(&argv)?;
    let script =
        format!("#!/bin/sh\nfor arg; do printf '%s\\n' \"$arg\"; done >{0}/.$2\nmv {0}/.$2 {0}/$2\nexec cat\n", argv.display());
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok(program)
}

/// `operator local` over these clusters and the stand-in, all of it below `root`.
fn operator_local(root: &Path, clusters: &str) -> anyhow::Result<Command> {
    let file = root.join("clusters.yaml");
    std::fs::write(&file, clusters)?;
    let mut command = Command::new(programs::ours("operator")?);
    command.arg("local").arg(file).arg("--data").arg(root.join("data")).arg("--node-binary").arg(stand_in(root)?);
    command.args(["--base-port", &ports::free()?.to_string()]);
    Ok(command)
}

/// What every node of [`CLUSTERS`] is told.
async fn told(folder: &TempDir) -> anyhow::Result<BTreeMap<String, Config>> {
    let root = folder.path();
    let mut process = Process::start(operator_local(root, CLUSTERS)?, &root.join("log"))?;
    let names = ["kept-0-0", "kept-0-1", "scratch-0-0", "scratch-0-1"];
    let argvs = until("all nodes are started", async || {
        let read = |name: &str| Ok((name.to_owned(), std::fs::read_to_string(root.join("argv").join(name))?));
        names.into_iter().map(read).collect::<anyhow::Result<BTreeMap<_, _>>>()
    })
    .await;
    process.kill().await?;
    Ok(argvs?.into_iter().map(|(name, argv)| (name, node_config(argv.lines()))).collect())
}

#[tokio::test]
async fn a_local_nodes_argv_means_to_the_node_what_the_file_says() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let told = told(&folder).await?;
    let mut folders = Vec::new();
    for (name, config) in &told {
        assert_eq!(config.name, Some(NodeName(name.clone())));
        assert!(config.exit_on_stdin_close, "{name} would outlive its operator");
        assert_eq!(config.resp.is_some(), name.starts_with("kept"), "{name}");
        for address in [config.http, config.admin, config.peer].into_iter().chain(config.resp) {
            assert!(address.ip().is_loopback(), "{name}: {address}");
        }
        let token = config.cluster_token_file.as_ref().unwrap();
        assert!(!std::fs::read(token)?.is_empty(), "{name}");
        match &config.store {
            StoreConfig::Volume(path) if name.starts_with("kept") => {
                assert_eq!((config.fsync, config.acks), (Fsync::Always, Acks::Quorum), "{name}");
                folders.push(path.clone());
            }
            StoreConfig::Memory if name.starts_with("scratch") => assert_eq!(config.acks, Acks::Local, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    folders.dedup();
    assert_eq!(folders.len(), 2, "two nodes share a folder");
    for (name, sibling) in [("kept-0-0", "kept-0-1"), ("scratch-0-1", "scratch-0-0")] {
        assert_eq!(told[name].seeds, [told[sibling].peer.to_string()], "{name}");
        assert_eq!(told[name].cluster_token_file, told[sibling].cluster_token_file);
    }
    assert_ne!(told["kept-0-0"].cluster_token_file, told["scratch-0-0"].cluster_token_file);
    Ok(())
}

#[tokio::test]
async fn a_wrong_file_is_explained_and_nothing_is_started_or_made() -> anyhow::Result<()> {
    for (right, wrong, says) in [
        ("acks: Quorum", "ackss: Quorum", "document 1 (kept): spec.ackss: unknown field, did you mean acks?"),
        (
            "fsync: Always",
            "fsync: Sometimes",
            "document 1 (kept): spec.storage.volume.fsync: expected one of Always, EverySecond",
        ),
        ("replicas: 2, acks", "replicas: 9, acks", "default/kept: spec.replicas: "),
        ("shards: 1, replicas: 2, storage", "shards: 0, replicas: 1, storage", "other/scratch: spec.shards: "),
        ("name: kept", "name: Kept_1", "default/Kept_1: "),
        ("kind: DistributedCounter", "kind: Deployment", "only DistributedCounter of distributedcounter.dev/v1alpha1"),
    ] {
        let folder = tempfile::tempdir()?;
        let mut command = operator_local(folder.path(), &CLUSTERS.replacen(right, wrong, 1))?;
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, run).await.with_context(|| format!("`{wrong}` was not refused"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(65), "{wrong}: {said}");
        assert!(said.contains("cannot be run, and nothing was started:") && said.contains(says), "{wrong}: {said}");
        assert!(!folder.path().join("data").exists(), "{wrong}: a data folder was made");
        assert_eq!(std::fs::read_dir(folder.path().join("argv"))?.count(), 0, "{wrong}: a node was started");
    }
    Ok(())
}
