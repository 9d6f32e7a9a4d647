//! The layout as Redis Cluster's clients see it.
//!
//! Every replica of a shard applies updates, but a client sends a slot's to the one *master* that it is told of. So the
//! slots of a shard are dealt out to its replicas in even runs: all of them work, and each slot has its updates at one.
//! No node is shown as a replica of another's slots beside that: clients (redis-py) hold a node to be either of the two.

use counter_core::id::NodeName;
use counter_core::layout::{Layout, Node, Shard};
use counter_core::slot::{Slot, SlotRange};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::Resp;
use super::session::Session;

/// A sibling that was not heard of for so long is nobody's master.
const SILENT_MS: u64 = 5_000;

/// Where clients reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: NodeName,
    pub(super) host: String,
    pub(super) port: u16,
}

/// A run of slots, and the node that clients send their requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) slots: SlotRange,
    pub(super) master: Place,
}

/// Who serves which slots, in the order of the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) parts: Vec<Part>,
    pub(super) version: u64,
}

impl Topology {
    /// The topology as this node sees it.
    pub(super) fn of(resp: &Resp, session: &Session) -> Self {
        let protocol = &resp.router.protocol;
        let view = protocol.view();
        let me = protocol.me();
        let myself = Place { name: me.clone(), host: session.local.ip().to_string(), port: session.local.port() };
        let Some(routes) = &view.routes else { return Self::alone(myself, 0) };
        let silent: Vec<NodeName> = if routes.layout.nodes().count() > 1 {
            let peers = protocol.status().1.peers;
            peers.into_iter().filter(|peer| peer.heard_ms.is_none_or(|ms| ms > SILENT_MS)).map(|peer| peer.node).collect()
        } else {
            Vec::new()
        };
        Self::from_layout(&routes.layout, &silent).unwrap_or_else(|| Self::alone(myself, routes.layout.version.0))
    }

    /// Any node takes any request: one that knows of no other address names itself for all slots.
    fn alone(myself: Place, version: u64) -> Self {
        Self { parts: vec![Part { slots: SlotRange::ALL, master: myself }], version }
    }

    /// None when some shard has no node with an address for Redis clients.
    fn from_layout(layout: &Layout, silent: &[NodeName]) -> Option<Self> {
        let mut parts = Vec::new();
        for shard in layout.shards.iter().filter(|shard| !shard.slots.is_empty()) {
            parts.extend(deal(shard, silent)?);
        }
        parts.sort_unstable_by_key(|part| part.slots);
        Some(Self { parts, version: layout.version.0 })
    }

    /// The master of a slot.
    pub(super) fn master(&self, slot: Slot) -> Option<&Place> {
        self.parts.iter().find(|part| part.slots.contains(slot)).map(|part| &part.master)
    }

    /// The slots of which this node is the master, in order.
    pub(super) fn slots_of(&self, name: &NodeName) -> impl Iterator<Item = Slot> {
        self.parts.iter().filter(|part| part.master.name == *name).flat_map(|part| part.slots.iter())
    }

    /// Every master once, with its slots.
    pub(super) fn masters(&self) -> Vec<(&Place, Vec<SlotRange>)> {
        let mut masters: Vec<(&Place, Vec<SlotRange>)> = Vec::new();
        for part in &self.parts {
            match masters.iter_mut().find(|(known, _)| known.name == part.master.name) {
                Some((_, slots)) => slots.push(part.slots),
                None => masters.push((&part.master, vec![part.slots])),
            }
        }
        masters
    }
}

/// Deals a shard's slots out to its nodes.
fn deal(shard: &Shard, silent: &[NodeName]) -> Option<Vec<Part>> {
    let places: Vec<Place> = shard.nodes.iter().filter_map(place).collect();
    let heard: Vec<Place> = places.iter().filter(|place| !silent.contains(&place.name)).cloned().collect();
    let places = if heard.is_empty() { places } else { heard };
    let slots: Vec<Slot> = shard.slots.iter().flat_map(|range| range.iter()).collect();
    if places.is_empty() {
        return None;
    }
    let run = slots.len().div_ceil(places.len()).max(1);
    let runs = slots.chunks(run).zip(places);
    let parts = runs.flat_map(|(own, master)| {
        let ranges = counter_core::slot::to_ranges(own.iter().copied());
        ranges.into_iter().map(move |slots| Part { slots, master: master.clone() })
    });
    Some(parts.collect())
}

fn place(node: &Node) -> Option<Place> {
    let (host, port) = node.resp.as_ref()?.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Place { name: node.name.clone(), host, port: port.parse().ok()? })
}

/// A node's id in Redis Cluster: 40 hexadecimal digits that stay the same.
pub(super) fn node_id(name: &NodeName) -> String {
    let bytes = name.0.as_bytes();
    format!("{:032x}{:08x}", xxh3_128(bytes), xxh3_64(bytes) >> 32)
}

#[cfg(test)]
mod tests {
    use counter_core::id::{ClusterId, ShardId};
    use counter_core::layout::{LAYOUT_FORMAT, LayoutVersion};

    use super::*;

    fn layout(shards: &[(&[&str], usize)]) -> Layout {
        let shards = (0_u16..).zip(shards).map(|(number, (slots, replicas))| {
            let node = |replica: usize| Node {
                name: format!("c-{number}-{replica}").as_str().into(),
                http: "h:1".into(),
                admin: "h:2".into(),
                peer: "h:3".into(),
                resp: Some(format!("h{number}{replica}:6379")),
            };
            let slots = slots.iter().map(|range| range.parse().unwrap()).collect();
            Shard { shard: ShardId(number), slots, nodes: (0..*replicas).map(node).collect() }
        });
        serde_json::from_value(serde_json::json!({
            "format": LAYOUT_FORMAT, "cluster": ClusterId(1), "version": LayoutVersion(4), "shards": shards.collect::<Vec<_>>()
        }))
        .unwrap()
    }

    #[test]
    fn every_slot_has_one_master_and_the_slots_are_dealt_out_evenly() {
        for layout in [layout(&[(&["0-16383"], 3)]), layout(&[(&["0-99", "8000-16383"], 3), (&["100-7999"], 2)])] {
            let topology = Topology::from_layout(&layout, &[]).unwrap();
            for slot in Slot::all() {
                let part: Vec<&Part> = topology.parts.iter().filter(|part| part.slots.contains(slot)).collect();
                assert_eq!(part.len(), 1, "{slot}");
                let shard = layout.owner(slot).unwrap();
                assert_eq!(layout.shard_of(&part[0].master.name), Some(shard));
            }
            for shard in &layout.shards {
                let all = SlotRange::count_all(&shard.slots);
                for node in &shard.nodes {
                    let own = topology.slots_of(&node.name).count();
                    assert!(own.abs_diff(all / shard.nodes.len()) <= shard.nodes.len(), "{own} of {all}");
                }
            }
            assert_eq!(topology.masters().len(), layout.nodes().count());
        }
    }

    #[test]
    fn a_silent_sibling_is_nobodys_master_while_another_is_heard() {
        let layout = layout(&[(&["0-16383"], 2)]);
        let [first, second] = ["c-0-0", "c-0-1"].map(NodeName::from);
        let topology = Topology::from_layout(&layout, std::slice::from_ref(&second)).unwrap();
        assert_eq!((topology.slots_of(&first).count(), topology.slots_of(&second).count()), (16_384, 0));
        let topology = Topology::from_layout(&layout, &[first.clone(), second]).unwrap();
        assert_eq!(topology.slots_of(&first).count(), 8_192);
    }

    #[test]
    fn without_addresses_there_is_no_topology() {
        let mut layout = layout(&[(&["0-8191"], 1), (&["8192-16383"], 1)]);
        layout.shards[1].nodes[0].resp = None;
        assert_eq!(Topology::from_layout(&layout, &[]), None);
    }

    #[test]
    fn ids_have_40_digits_and_differ() {
        let ids = ["c-0-0", "c-0-1"].map(|name| node_id(&name.into()));
        assert!(ids.iter().all(|id| id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit())));
        assert_ne!(ids[0], ids[1]);
    }
}
