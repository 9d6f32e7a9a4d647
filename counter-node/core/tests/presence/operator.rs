//! Who publishes layouts: slots move from shard to shard, forwards and back.

use std::sync::Arc;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Move, MovePhase, Node, Shard};
use counter_core::slot::{SLOTS, Slot, SlotRange};

use counter_seeds::Rng;

/// Slots move by sixteenths.
const PARTS: u16 = 16;

#[derive(Debug)]
pub(crate) struct Operator {
    owners: Vec<u16>,
    moving: Option<(u16, u16, u16, MovePhase)>,
    pub(crate) layout: Arc<Layout>,
    shards: u16,
    replicas: u16,
    published_ms: u64,
}

impl Operator {
    pub(crate) fn new(shards: u16, replicas: u16) -> Self {
        let owners: Vec<u16> = (0..PARTS).map(|part| part % shards).collect();
        let layout = Arc::new(layout(1, &owners, None, shards, replicas));
        Self { owners, moving: None, layout, shards, replicas, published_ms: 0 }
    }

    /// The next layout, if it is time for one. `adopted`: the version that each node acts by, None for one that is down.
    pub(crate) fn operate(
        &mut self,
        rng: &mut Rng,
        now_ms: u64,
        adopted: &[(NodeName, Option<LayoutVersion>)],
    ) -> Option<&'static str> {
        if self.shards < 2 || now_ms < self.published_ms + 300 || rng.per_mille(400) {
            return None;
        }
        let version = self.layout.version;
        let follows = |shard: u16| {
            let mut nodes =
                adopted.iter().filter(|(name, _)| self.layout.shard_of(name).map(|shard| shard.shard.0) == Some(shard));
            nodes.all(|(_, adopted)| *adopted == Some(version))
        };
        let what = match self.moving {
            None => {
                let part = u16::try_from(rng.below(u64::from(PARTS))).unwrap();
                let from = self.owners[usize::from(part)];
                self.moving = Some((part, from, (from + 1) % self.shards, MovePhase::Copying));
                "a move begins"
            }
            Some((_, _, _, MovePhase::Copying)) if rng.per_mille(100) => {
                self.moving = None;
                "a move is taken back"
            }
            Some((part, from, to, MovePhase::Copying)) if follows(from) && follows(to) => {
                self.owners[usize::from(part)] = to;
                self.moving = Some((part, from, to, MovePhase::Flipped));
                "a move is flipped"
            }
            Some((_, from, _, MovePhase::Flipped)) if follows(from) => {
                self.moving = None;
                "a move has its receipt"
            }
            Some(_) => return None,
        };
        self.published_ms = now_ms;
        self.layout = Arc::new(layout(version.0 + 1, &self.owners, self.moving, self.shards, self.replicas));
        self.layout.validate().unwrap();
        Some(what)
    }
}

fn part_range(part: u16) -> SlotRange {
    let width = SLOTS / PARTS;
    SlotRange::new(Slot::new(part * width).unwrap(), Slot::new((part + 1) * width - 1).unwrap()).unwrap()
}

fn layout(version: u64, owners: &[u16], moving: Option<(u16, u16, u16, MovePhase)>, shards: u16, replicas: u16) -> Layout {
    let node = |name: NodeName| Node { name, http: "h:1".into(), admin: "h:1".into(), peer: "h:1".into(), resp: None };
    let shard = |number: u16| Shard {
        shard: ShardId(number),
        slots: (0..PARTS).filter(|part| owners[usize::from(*part)] == number).map(part_range).collect(),
        nodes: (0..replicas).map(|replica| node(NodeName::of("c", ShardId(number), replica))).collect(),
    };
    let as_move = |(part, from, to, phase)| Move { from: ShardId(from), to: ShardId(to), slots: vec![part_range(part)], phase };
    Layout {
        format: LAYOUT_FORMAT,
        cluster: ClusterId(1),
        version: LayoutVersion(version),
        shards: (0..shards).map(shard).collect(),
        moves: moving.map(as_move).into_iter().collect(),
        virtual_shards: Vec::new(),
    }
}
