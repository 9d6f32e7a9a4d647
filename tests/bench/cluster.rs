//! A cluster of a few nodes of one machine, with a layout that says what each row needs.

use std::time::{Duration, Instant};

use anyhow::bail;
use counter_core::slot::Slot;

use crate::Args;
use crate::http::Connection;
use crate::server::{Running, Server, Storage};

/// The nodes, in the order of shards, then replicas.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Running>,
}

impl Cluster {
    /// Starts `shards` × `replicas` nodes and waits until all serve.
    pub(crate) fn start(args: &Args, storage: Storage, shards: usize, replicas: usize) -> anyhow::Result<Self> {
        let names: Vec<String> =
            (0..shards * replicas).map(|node| format!("bench-{}-{}", node / replicas, node % replicas)).collect();
        let start = |name: &String| Server::Node(storage).start_with(args, &["--name", name, "--seeds", "127.0.0.1:1"]);
        let nodes: Vec<Running> = names.iter().map(start).collect::<Result<_, _>>()?;
        let cluster = Self { nodes };
        let layout = cluster.layout(&names, shards, replicas).to_string();
        for node in &cluster.nodes {
            Connection::open(node.admin)?.request("PUT", "/layout", layout.as_bytes())?;
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn layout(&self, names: &[String], shards: usize, replicas: usize) -> serde_json::Value {
        let node = |index: usize| {
            let running = &self.nodes[index];
            serde_json::json!({
                "name": names[index], "http": running.http.to_string(), "admin": running.admin.to_string(),
                "peer": running.peer.to_string()
            })
        };
        let shard = |shard: usize| {
            let [first, end] = [shard, shard + 1].map(|at| at * 16384 / shards);
            let nodes: Vec<_> = (0..replicas).map(|replica| node(shard * replicas + replica)).collect();
            serde_json::json!({ "shard": shard, "slots": [format!("{first}-{}", end - 1)], "nodes": nodes })
        };
        serde_json::json!({
            "format": 1, "cluster": "00000000000000000000000000000b0b", "version": 1,
            "shards": (0..shards).map(shard).collect::<Vec<_>>(), "moves": []
        })
    }

    fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        for node in &self.nodes {
            while Connection::open(node.admin)?.request("GET", "/readyz", b"").is_err() {
                if Instant::now() > deadline {
                    bail!("a node of the cluster is not ready after 30 s");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// A thousand pages that a shard owns, of so many.
pub(crate) fn pages_of(shard: usize, shards: usize) -> Vec<String> {
    let owner = |page: &String| Slot::of(page.as_bytes()).index() * shards / 16384;
    (0_u32..).map(|page| format!("page-{page}")).filter(|page| owner(page) == shard).take(1000).collect()
}
