//! Clients that others wrote, as programs of their own.

use std::path::Path;

use anyhow::Context as _;
use counter_tests::node::{Cluster, TestNode};
use counter_tests::programs;
use tokio::process::Command;

/// Runs a program to its end, which must be a good one; what it said.
async fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(120), output).await.context("it goes on for ever")??;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    anyhow::ensure!(output.status.success(), "{:?}: {said}", command.as_std());
    Ok(said)
}

fn client(program: impl AsRef<std::ffi::OsStr>, node: &TestNode) -> anyhow::Result<Command> {
    let (host, port) = node.redis()?;
    let mut command = Command::new(program);
    command.args(["-h", host, "-p", port]);
    Ok(command)
}

fn our_program(name: &str) -> std::path::PathBuf {
    programs::repository("tests/redis/programs").join(name)
}

async fn works(program: &Path, script: &Path, cluster: &Cluster) -> anyhow::Result<()> {
    let addresses = cluster.nodes.iter().filter_map(|node| node.entry.resp.clone());
    let modules = programs::redis_clients("node/made-from")?.with_file_name("node_modules");
    let said = run(Command::new(program).arg(script).args(addresses).env("NODE_PATH", modules)).await?;
    assert!(said.contains("counted 300 on every page"), "{said}");
    Ok(())
}

#[tokio::test]
async fn redis_cli_works_plain_with_resp3_and_as_a_cluster_client() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &["--resp-redirect", "moved"]).await?;
    let (near, far) = (cluster.page_of(0)?, cluster.page_of(1)?);
    let node = &cluster.nodes[0];
    assert_eq!(run(client("redis-cli", node)?.args(["incr", &near])).await?, "1\n");
    assert!(run(client("redis-cli", node)?.args(["incr", &far])).await?.starts_with("MOVED "));
    assert_eq!(run(client("redis-cli", node)?.args(["-c", "incrby", &far, "5"])).await?, "5\n");
    assert_eq!(run(client("redis-cli", node)?.args(["-3", "get", &near])).await?, "1\n");
    assert!(run(client("redis-cli", node)?.args(["cluster", "nodes"])).await?.contains("myself,master"));
    let checked = run(client("redis-cli", node)?.args(["--scan"])).await?;
    assert_eq!(checked.trim(), near);
    Ok(())
}

#[tokio::test]
async fn redis_benchmark_loses_no_increment() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    for (requests, pipeline) in [("4000", "1"), ("32000", "16")] {
        let flags = ["-q", "-c", "20", "-n", requests, "-P", pipeline, "-t", "incr"];
        run(client("redis-benchmark", &node)?.args(flags)).await?;
    }
    let flags = ["-q", "-c", "20", "-n", "20000", "-P", "16", "-r", "1000", "incr", "random:__rand_int__"];
    run(client("redis-benchmark", &node)?.args(flags)).await?;
    let mut connection = redis::Client::open(format!("redis://{}/", node.entry.resp.as_deref().unwrap()))?
        .get_multiplexed_async_connection()
        .await?;
    let count: i64 = redis::cmd("GET").arg("counter:__rand_int__").query_async(&mut connection).await?;
    assert_eq!(count, 36_000);
    let mut sum = 0;
    for number in 0..1_000 {
        let count: Option<i64> = redis::cmd("GET").arg(format!("random:{number:012}")).query_async(&mut connection).await?;
        sum += count.unwrap_or(0);
    }
    assert_eq!(sum, 20_000);
    Ok(())
}

#[tokio::test]
async fn redis_py_and_its_cluster_client_work() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    works(&programs::redis_clients("python/bin/python")?, &our_program("counting.py"), &cluster).await
}

#[tokio::test]
async fn ioredis_and_its_cluster_client_work() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    works(Path::new("node"), &our_program("counting.js"), &cluster).await
}
