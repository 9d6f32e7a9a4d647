//! Layouts, as documents that the operator and peers send and storage keeps.

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Node, Owners, Shard, VirtualShards};
use counter_core::slot::Slot;

/// Two shards of two nodes.
pub(crate) fn example() -> Layout {
    let node = |shard: u16, replica: u16| Node {
        name: NodeName::of("c", ShardId(shard), replica),
        http: "h:1".into(),
        admin: "h:2".into(),
        peer: "h:3".into(),
        resp: None,
    };
    let shard = |number: u16, slots: &str| Shard {
        shard: ShardId(number),
        slots: vec![slots.parse().unwrap()],
        nodes: vec![node(number, 0), node(number, 1)],
    };
    Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(7),
        version: LayoutVersion(3),
        shards: vec![shard(0, "0-8191"), shard(1, "8192-16383")],
        moves: Vec::new(),
        virtual_shards: vec![VirtualShards { pages: "front*".to_owned(), count: 2, ever_count: 4 }],
    }
}

/// Whatever is read and found valid can be looked up in, and reads back the same.
pub(crate) fn document(bytes: &[u8]) {
    let Ok(layout) = serde_json::from_slice::<Layout>(bytes) else { return };
    let again: Layout = serde_json::from_slice(&serde_json::to_vec(&layout).unwrap()).unwrap();
    assert_eq!(again, layout);
    assert_eq!(again.hash(), layout.hash());
    if layout.validate().is_err() {
        return;
    }
    let owners = Owners::of(&layout);
    for slot in Slot::all() {
        let owner = layout.owner(slot).unwrap();
        assert_eq!(layout.shards[owners.index(slot)].shard, owner.shard);
    }
    let spread = layout.spread(b"front-page");
    assert!(spread.count <= spread.ever_count);
    drop(layout.offered_to(Some(&example())));
}

pub(crate) fn document_seeds() -> Vec<Vec<u8>> {
    let plain = Layout { virtual_shards: Vec::new(), ..example() };
    let moving = serde_json::json!({
        "format": LAYOUT_FORMAT, "cluster": plain.cluster, "version": 9, "shards": plain.shards,
        "moves": [{"from": 0, "to": 1, "slots": ["0-9"], "phase": "Copying"}]
    });
    vec![serde_json::to_vec(&example()).unwrap(), serde_json::to_vec(&plain).unwrap(), serde_json::to_vec(&moving).unwrap()]
}
