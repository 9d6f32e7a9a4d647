//! The operator's rules, as far as a layout goes: one step at a time, each from what nodes last said.

use std::collections::BTreeMap;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{LAYOUT_FORMAT, Layout, LayoutVersion, Move, MovePhase, Node, Shard, VirtualShards};
use counter_core::slot::{Slot, SlotRange, to_ranges};
use counter_core::status::{MoveStatus, Readiness};

use crate::bugs::Bug;

/// The page that may have virtual shards.
pub(crate) const SPREAD_PAGE: &str = "page-0";

/// What an operator asks of a node.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) version: Option<LayoutVersion>,
    pub(crate) readiness: Readiness,
    pub(crate) moves: Vec<MoveStatus>,
}

/// Slots to go from one shard to another, by hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) from: ShardId,
    pub(crate) to: ShardId,
    pub(crate) slots: u16,
}

#[derive(Debug)]
pub(crate) struct Operator {
    pub(crate) layout: Layout,
    pub(crate) shards: u16,
    pub(crate) replicas: u16,
    pub(crate) transfer: Option<Transfer>,
    /// Over how many virtual shards the page that has such is to be spread, once that has been asked for.
    pub(crate) spread: Option<u16>,
    pub(crate) said: BTreeMap<NodeName, Said>,
    bug: Option<Bug>,
}

pub(crate) fn node(shard: ShardId, replica: u16) -> Node {
    let name = NodeName::of("c", shard, replica);
    let address = |port: u16| format!("{name}:{port}");
    Node { http: address(8080), admin: address(8081), peer: address(8082), resp: None, name }
}

impl Operator {
    pub(crate) fn new(shards: u16, replicas: u16, bug: Option<Bug>) -> Self {
        let mut layout = Layout {
            format: LAYOUT_FORMAT,
            cluster: ClusterId(7),
            version: LayoutVersion(1),
            shards: Vec::new(),
            moves: Vec::new(),
            virtual_shards: Vec::new(),
        };
        let all: Vec<Slot> = Slot::all().collect();
        for (number, part) in (0..shards).zip(all.chunks(all.len().div_ceil(usize::from(shards)))) {
            let shard = ShardId(number);
            let nodes = (0..replicas).map(|replica| node(shard, replica)).collect();
            layout.shards.push(Shard { shard, slots: to_ranges(part.iter().copied()), nodes });
        }
        Self { layout, shards, replicas, transfer: None, spread: None, said: BTreeMap::new(), bug }
    }

    /// The nodes that ought to run: they start before the layout names them.
    pub(crate) fn wanted_nodes(&self) -> Vec<NodeName> {
        let named = self.layout.nodes().map(|node| node.name.clone());
        let shards =
            (0..self.shards).flat_map(|shard| (0..self.replicas).map(move |replica| NodeName::of("c", ShardId(shard), replica)));
        named.chain(shards).collect()
    }

    /// At most one step. True when there is a new layout.
    pub(crate) fn step(&mut self) -> bool {
        let next = match self.layout.moves.first() {
            // It does not wait for a move to end.
            _ if self.is_spread_anew() => Some(self.spread()),
            Some(slot_move) => self.advance_move(slot_move.clone()),
            None => self
                .grow_replicas()
                .or_else(|| self.grow_shards())
                .or_else(|| self.begin_transfer())
                .or_else(|| self.drop_empty()),
        };
        let Some(mut next) = next else { return false };
        next.version = self.layout.version.next();
        next.validate().expect("the operator makes valid layouts");
        self.layout = next;
        true
    }

    fn is_spread_anew(&self) -> bool {
        let held = self.layout.virtual_shards.first().map(|own| own.count);
        self.spread.is_some_and(|count| Some(count) != held && (count > 0 || held.is_some()))
    }

    /// What was published once is read for ever.
    fn spread(&self) -> Layout {
        let mut next = self.layout.clone();
        let count = self.spread.unwrap_or(0);
        let ever_count = next.virtual_shards.first().map_or(0, |own| own.ever_count).max(count);
        next.virtual_shards = vec![VirtualShards { pages: SPREAD_PAGE.to_owned(), count, ever_count }];
        next
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.layout.moves.is_empty()
            && !self.is_spread_anew()
            && self.transfer.is_none()
            && self.grow_replicas().is_none()
            && self.is_grown()
    }

    fn is_grown(&self) -> bool {
        self.layout.shards.len() >= usize::from(self.shards) && self.layout.shards.iter().all(|shard| !shard.slots.is_empty())
    }

    fn advance_move(&self, slot_move: Move) -> Option<Layout> {
        let is_grown_for = slot_move.to.0 >= self.shards;
        if slot_move.phase == MovePhase::Copying && is_grown_for {
            return Some(Layout { moves: Vec::new(), ..self.layout.clone() });
        }
        let premature = match slot_move.phase {
            MovePhase::Copying => Bug::EarlyFlip,
            MovePhase::Flipped => Bug::ReceiptSkipped,
        };
        if !self.is_held_by_majority(&slot_move) && self.bug != Some(premature) {
            return None;
        }
        Some(match slot_move.phase {
            MovePhase::Copying => self.flipped(slot_move),
            MovePhase::Flipped => Layout { moves: Vec::new(), ..self.layout.clone() },
        })
    }

    fn is_held_by_majority(&self, slot_move: &Move) -> bool {
        let nodes = &self.layout.shard(slot_move.to).expect("a move names shards of the layout").nodes;
        let holds = |node: &&Node| {
            self.said.get(&node.name).is_some_and(|said| {
                said.version == Some(self.layout.version) && said.moves.iter().any(|status| self.is_done(slot_move, status))
            })
        };
        nodes.iter().filter(holds).count() > nodes.len() / 2
    }

    fn is_done(&self, slot_move: &Move, status: &MoveStatus) -> bool {
        (status.from, status.to, status.phase) == (slot_move.from, slot_move.to, slot_move.phase)
            && status.layout_version == self.layout.version
            && status.slots_left == 0
    }

    fn flipped(&self, slot_move: Move) -> Layout {
        let mut next = self.layout.clone();
        let moving: Vec<Slot> = slot_move.slots.iter().flat_map(|range| range.iter()).collect();
        for shard in &mut next.shards {
            let mut slots: Vec<Slot> = shard.slots.iter().flat_map(|range| range.iter()).collect();
            if shard.shard == slot_move.from {
                slots.retain(|slot| moving.binary_search(slot).is_err());
            } else if shard.shard == slot_move.to {
                slots.extend(&moving);
            }
            shard.slots = to_ranges(slots);
        }
        next.moves = vec![Move { phase: MovePhase::Flipped, ..slot_move }];
        next
    }

    fn grow_replicas(&self) -> Option<Layout> {
        let mut next = self.layout.clone();
        for shard in &mut next.shards {
            let held = u16::try_from(shard.nodes.len()).unwrap();
            shard.nodes.extend((held..self.replicas).map(|replica| node(shard.shard, replica)));
        }
        (next != self.layout).then_some(next)
    }

    /// Whether a disruptive move may begin.
    fn is_ready(&self) -> bool {
        self.layout.nodes().all(|node| {
            self.said
                .get(&node.name)
                .is_some_and(|said| said.readiness == Readiness::Ready && said.version == Some(self.layout.version))
        })
    }

    fn grow_shards(&self) -> Option<Layout> {
        let mut next = self.layout.clone();
        let held = u16::try_from(next.shards.len()).unwrap();
        let target = if held < self.shards {
            let shard = ShardId(held);
            next.shards.push(Shard {
                shard,
                slots: Vec::new(),
                nodes: (0..self.replicas).map(|replica| node(shard, replica)).collect(),
            });
            shard
        } else {
            next.shards.iter().find(|shard| shard.slots.is_empty() && shard.shard.0 < self.shards)?.shard
        };
        let donor = next.shards.iter().max_by_key(|shard| SlotRange::count_all(&shard.slots))?;
        self.begin(next.clone(), donor.shard, target, SlotRange::count_all(&donor.slots) / 2)
    }

    fn begin_transfer(&mut self) -> Option<Layout> {
        let transfer = self
            .transfer
            .take_if(|transfer| transfer.from.0.max(transfer.to.0) < u16::try_from(self.layout.shards.len()).unwrap())?;
        let begun = self.begin(self.layout.clone(), transfer.from, transfer.to, usize::from(transfer.slots));
        if begun.is_none() && !self.is_ready() {
            self.transfer = Some(transfer);
        }
        begun
    }

    fn begin(&self, mut next: Layout, from: ShardId, to: ShardId, count: usize) -> Option<Layout> {
        if !self.is_ready() {
            return None;
        }
        let donor: Vec<Slot> = next.shard(from)?.slots.iter().flat_map(|range| range.iter()).collect();
        let count = count.min(donor.len().saturating_sub(1));
        if count == 0 {
            return None;
        }
        let slots = to_ranges(donor[donor.len() - count..].iter().copied());
        next.moves = vec![Move { from, to, slots, phase: MovePhase::Copying }];
        Some(next)
    }

    /// A shard that was given up before it owned anything.
    fn drop_empty(&self) -> Option<Layout> {
        let mut next = self.layout.clone();
        next.shards.retain(|shard| shard.shard.0 < self.shards || !shard.slots.is_empty());
        (next != self.layout).then_some(next)
    }
}
