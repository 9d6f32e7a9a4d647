//! A node's part in each slot under one layout.

use crate::id::NodeName;
use crate::layout::{Layout, MovePhase, Shard};
use crate::slot::{SLOTS, Slot};

/// What this node's shard has to do with a slot. Moves by their index into [`Parts::moves`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    None,
    Owns,
    /// Owns it, and another shard receives it.
    Gives(usize),
    Receives(usize),
    /// Owns it since the flip; the old shard has no receipt yet.
    Took(usize),
    /// Owned it before the flip, and has no receipt yet.
    Gave(usize),
}

impl Part {
    /// Whether this node applies updates.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Owns | Self::Gives(_) | Self::Took(_))
    }

    /// Whether this node keeps a copy.
    pub(super) fn holds(self) -> bool {
        self != Self::None
    }

    /// Whether the copy is compared with the siblings'. One that was given is not: it is to stay as it is.
    pub(super) fn repairs(self) -> bool {
        self.writes() || matches!(self, Self::Receives(_))
    }

    fn slot_move(self) -> Option<usize> {
        match self {
            Self::Gives(index) | Self::Receives(index) | Self::Took(index) | Self::Gave(index) => Some(index),
            Self::None | Self::Owns => None,
        }
    }
}

/// A move that this node's shard takes part in.
#[derive(Debug, Clone)]
pub(super) struct MovePart {
    /// Into the layout's moves.
    pub(super) index: usize,
    /// Whether this node's shard is the one that the slots go to.
    pub(super) incoming: bool,
    pub(super) slots: Vec<Slot>,
    /// The nodes of the other shard, sorted.
    pub(super) others: Vec<NodeName>,
}

/// A node's parts in all slots.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    by_slot: Box<[Part]>,
    /// Whether the layout names the node at all.
    pub(super) named: bool,
    /// The other nodes of the shard, sorted.
    pub(super) siblings: Vec<NodeName>,
    pub(super) moves: Vec<MovePart>,
}

impl Parts {
    /// The parts of a node that no layout names.
    pub(super) fn none() -> Self {
        let by_slot = vec![Part::None; usize::from(SLOTS)].into_boxed_slice();
        Self { by_slot, named: false, siblings: Vec::new(), moves: Vec::new() }
    }

    pub(super) fn of(layout: &Layout, me: &NodeName) -> Self {
        let mut parts = Self::none();
        let Some(shard) = layout.shard_of(me) else { return parts };
        parts.named = true;
        parts.siblings = names(shard).into_iter().filter(|name| name != me).collect();
        for slot in shard.slots.iter().flat_map(|range| range.iter()) {
            parts.by_slot[slot.index()] = Part::Owns;
        }
        for (index, slot_move) in layout.moves.iter().enumerate() {
            let incoming = slot_move.to == shard.shard;
            if !incoming && slot_move.from != shard.shard {
                continue;
            }
            let other = layout.shard(if incoming { slot_move.from } else { slot_move.to });
            let slots: Vec<Slot> = slot_move.slots.iter().flat_map(|range| range.iter()).collect();
            let place = parts.moves.len();
            let part = match (slot_move.phase, incoming) {
                (MovePhase::Copying, false) => Part::Gives(place),
                (MovePhase::Copying, true) => Part::Receives(place),
                (MovePhase::Flipped, true) => Part::Took(place),
                (MovePhase::Flipped, false) => Part::Gave(place),
            };
            for slot in &slots {
                parts.by_slot[slot.index()] = part;
            }
            parts.moves.push(MovePart { index, incoming, slots, others: other.map(names).unwrap_or_default() });
        }
        parts
    }

    pub(super) fn part(&self, slot: Slot) -> Part {
        self.by_slot[slot.index()]
    }

    /// The slots for whose part `wanted` is true, in order.
    pub(super) fn slots(&self, wanted: impl Fn(Part) -> bool) -> impl Iterator<Item = Slot> {
        Slot::all().filter(move |slot| wanted(self.part(*slot)))
    }

    fn others(&self, slot: Slot) -> &[NodeName] {
        self.part(slot).slot_move().map_or(&[], |index| self.moves[index].others.as_slice())
    }

    /// The nodes that own changes of the slot are pushed to. After a flip these are the siblings too: a client may
    /// still be waiting for a majority of them.
    pub(super) fn targets(&self, slot: Slot) -> impl Iterator<Item = &NodeName> {
        let (siblings, others): (&[NodeName], &[NodeName]) = match self.part(slot) {
            Part::Owns | Part::Took(_) => (&self.siblings, &[]),
            Part::Gives(_) | Part::Gave(_) => (&self.siblings, self.others(slot)),
            Part::Receives(_) | Part::None => (&[], &[]),
        };
        siblings.iter().chain(others)
    }

    /// Whether `peer` holds the slot for the same reason as this node: as a sibling, or at the other end of its move.
    pub(super) fn is_partner(&self, peer: &NodeName, slot: Slot) -> bool {
        let sibling = self.is_sibling(peer) && self.part(slot).holds();
        sibling || self.others(slot).binary_search(peer).is_ok()
    }

    pub(super) fn is_sibling(&self, peer: &NodeName) -> bool {
        self.siblings.binary_search(peer).is_ok()
    }

    /// Every node that this one has slots in common with, sorted.
    pub(super) fn partners(&self) -> Vec<&NodeName> {
        let others = self.moves.iter().flat_map(|slot_move| &slot_move.others);
        let mut partners: Vec<&NodeName> = self.siblings.iter().chain(others).collect();
        partners.sort_unstable();
        partners.dedup();
        partners
    }
}

fn names(shard: &Shard) -> Vec<NodeName> {
    let mut names: Vec<NodeName> = shard.nodes.iter().map(|node| node.name.clone()).collect();
    names.sort_unstable();
    names
}
