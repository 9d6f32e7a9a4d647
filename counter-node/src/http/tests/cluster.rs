//! What everyone may know of the nodes, and what not.

use counter_core::id::{ClusterId, ShardId};
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Move, MovePhase, Node, Shard};
use counter_core::slot::{Slot, SlotRange};
use counter_core::status::Readiness;

use super::*;
use crate::overview::{MoveOverview, NodeOverview};

fn range(first: u16, last: u16) -> SlotRange {
    SlotRange::new(Slot::new(first).unwrap(), Slot::new(last).unwrap()).unwrap()
}

fn shard(shard: u16, slots: SlotRange, names: &[&str]) -> Shard {
    let address = |port: &str| format!("10.1.2.3:{port}");
    let node = |name: &&str| Node {
        name: (*name).into(),
        http: address("8080"),
        admin: address("8081"),
        peer: address("8082"),
        resp: None,
    };
    Shard { shard: ShardId(shard), slots: vec![slots], nodes: names.iter().map(node).collect() }
}

/// Slots 8,000 to 8,191 are on their way from shard 0 to shard 1, one of whose nodes does not answer.
fn growing() -> ClusterOverview {
    let layout = Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(0xfeed_face),
        version: LayoutVersion(4),
        shards: vec![shard(0, range(0, 8191), &["c-0-0", "c-0-1"]), shard(1, range(8192, 16383), &["c-1-0", "c-1-1"])],
        moves: vec![Move { from: ShardId(0), to: ShardId(1), slots: vec![range(8000, 8191)], phase: MovePhase::Copying }],
        virtual_shards: Vec::new(),
    };
    layout.validate().unwrap();
    let said = |readiness, moves: &[MoveOverview]| {
        let moves = moves.to_vec();
        Some(NodeOverview { readiness, writable: true, counters: 5, unsent_changes: 2, silent_ms: 40, layout_version: 4, moves })
    };
    let left = MoveOverview { from: ShardId(0), to: ShardId(1), slots_left: 17 };
    let nodes = vec![
        ("c-0-0".into(), said(Readiness::Ready, &[])),
        ("c-0-1".into(), said(Readiness::MergingSiblings, &[])),
        ("c-1-0".into(), said(Readiness::Draining, &[left])),
        ("c-1-1".into(), None),
    ];
    ClusterOverview { node: "c-0-0".into(), layout: Some(Arc::new(layout)), nodes }
}

#[tokio::test]
async fn the_cluster_is_told_node_by_node_and_move_by_move() {
    let client = Client::new();
    *lock(&client.backend.overview) = growing();
    let answer = client.get("/cluster").await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"));
    let said = |name: &str, state: &str| {
        json!({"name": name, "state": state, "writable": true, "counters": 5, "unsent_changes": 2, "silent_ms": 40,
            "layout_version": 4})
    };
    let expected = json!({
        "node": "c-0-0",
        "layout_version": 4,
        "shards": [
            {"shard": 0, "slots": 8192, "nodes": [said("c-0-0", "ready"), said("c-0-1", "starting")]},
            {"shard": 1, "slots": 8192, "nodes": [said("c-1-0", "draining"), {"name": "c-1-1", "state": "silent"}]},
        ],
        "moves": [{"from": 0, "to": 1, "phase": "copying", "slots": 192, "slots_left": 17}],
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn the_cluster_as_everyone_sees_it_has_no_addresses_and_no_identities() {
    let client = Client::new();
    *lock(&client.backend.overview) = growing();
    let answer = client.get("/cluster").await;
    for secret in ["10.1.2.3", "808", "feedface", "4276992718", "actor", "cluster\""] {
        assert!(!answer.text().contains(secret), "{secret} is in {}", answer.text());
    }
}

#[tokio::test]
async fn a_node_without_a_layout_says_so() {
    let answer = Client::new().get("/cluster").await;
    assert_eq!(answer.json(), json!({"node": "local", "layout_version": null, "shards": [], "moves": []}));
}
