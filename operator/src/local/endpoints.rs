//! `endpoints.json` in the data folder: where scripts find the nodes. It is there only while an operator keeps it.

use serde::Serialize;

use super::view::{ClusterView, NodeState, NodeView, View, local_url};

/// The file's name in the data folder.
pub(super) const FILE: &str = "endpoints.json";

#[derive(Debug, Serialize)]
struct Endpoints<'a> {
    clusters: Vec<Cluster<'a>>,
}

#[derive(Debug, Serialize)]
struct Cluster<'a> {
    name: &'a str,
    namespace: &'a str,
    nodes: Vec<Node<'a>>,
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    name: &'a str,
    shard: u16,
    replica: u16,
    /// Null while no process runs.
    pid: Option<u32>,
    ready: bool,
    http: String,
    admin: String,
    peer: String,
    /// `redis://…`; null where the node does not speak the Redis protocol.
    resp: Option<String>,
}

/// The file's text.
pub(super) fn render(view: &View) -> String {
    let endpoints = Endpoints { clusters: view.clusters.iter().map(cluster).collect() };
    // Serialising these types has no way to fail: no maps, no non-finite numbers, no failing writer.
    let mut text = serde_json::to_string_pretty(&endpoints).unwrap_or_default();
    text.push('\n');
    text
}

fn cluster(view: &ClusterView) -> Cluster<'_> {
    Cluster { name: &view.name, namespace: &view.namespace, nodes: view.nodes.iter().map(node).collect() }
}

fn node(view: &NodeView) -> Node<'_> {
    Node {
        name: &view.name,
        shard: view.shard,
        replica: view.replica,
        pid: view.pid,
        ready: view.state == NodeState::Ready,
        http: local_url(view.ports.http),
        admin: local_url(view.ports.admin),
        peer: local_url(view.ports.peer),
        resp: view.ports.resp.map(|port| format!("redis://127.0.0.1:{port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::view::example;

    #[test]
    fn scripts_find_every_node_with_its_state_and_urls() {
        let mut view = example();
        view.clusters[0].nodes[1].pid = None;
        view.clusters[0].nodes[1].state = NodeState::Down;
        view.clusters[0].nodes[1].ports.resp = Some(19080);
        let json: serde_json::Value = serde_json::from_str(&render(&view)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"clusters": [{"name": "page-views", "namespace": "default", "nodes": [
                {"name": "page-views-0-0", "shard": 0, "replica": 0, "pid": 4711, "ready": true,
                 "http": "http://127.0.0.1:18080", "admin": "http://127.0.0.1:18081", "peer": "http://127.0.0.1:18082", "resp": null},
                {"name": "page-views-0-1", "shard": 0, "replica": 1, "pid": null, "ready": false,
                 "http": "http://127.0.0.1:18083", "admin": "http://127.0.0.1:18084", "peer": "http://127.0.0.1:18085", "resp": "redis://127.0.0.1:19080"},
            ]}]})
        );
    }
}
