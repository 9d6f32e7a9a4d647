//! Which shards hear of a slot's pages.

use crate::id::ShardId;
use crate::layout::{Layout, Owners};
use crate::slot::{SLOTS, Slot};

/// The shards that are told of a slot's pages: its owner, and while the slot is part of a move the other end of that, too. So the
/// receiver knows them before it owns, and the giver, which may hear of the flip last, until the move has its receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Told {
    pub(super) owner: ShardId,
    pub(super) other: Option<ShardId>,
}

impl Told {
    pub(super) fn has(self, shard: ShardId) -> bool {
        self.owner == shard || self.other == Some(shard)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = ShardId> {
        [Some(self.owner), self.other].into_iter().flatten()
    }
}

/// By slot, whom to tell.
#[derive(Clone, Debug)]
pub(super) struct Placement(Box<[Option<Told>]>);

impl Placement {
    pub(super) fn none() -> Self {
        Self(vec![None; usize::from(SLOTS)].into_boxed_slice())
    }

    pub(super) fn of(layout: &Layout) -> Self {
        let owners = Owners::of(layout);
        let owner = |slot| layout.shards.get(owners.index(slot)).map(|shard| Told { owner: shard.shard, other: None });
        let mut told: Box<[Option<Told>]> = Slot::all().map(owner).collect();
        for slot_move in &layout.moves {
            for slot in slot_move.slots.iter().flat_map(|range| range.iter()) {
                if let Some(told) = &mut told[slot.index()] {
                    told.other = [slot_move.from, slot_move.to].into_iter().find(|shard| *shard != told.owner);
                }
            }
        }
        Self(told)
    }

    pub(super) fn told(&self, slot: Slot) -> Option<Told> {
        self.0[slot.index()]
    }
}
