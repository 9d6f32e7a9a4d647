//! Where a token's record stands, and what it holds: packed, since there may be millions.

use std::ops::RangeInclusive;

use crate::counter::{Entry, Update};
use crate::id::ActorId;

/// Where a record stands: in the order of pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) key_hash: u64,
    pub(super) id: [u64; 2],
    /// Into [`Tokens::actors`].
    pub(super) actor: u32,
}

/// What a record holds, packed: there may be millions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) by: u64,
    /// Milliseconds in the upper 48 bits, the kind of update in the last two.
    pub(super) made: u64,
    /// See [`TokenRecord::position`].
    pub(super) position: u64,
}

impl Held {
    pub(super) fn new(made_ms: u64, update: Update, position: u64) -> Self {
        let (kind, by) = match update {
            Update::Increment(by) => (0, by),
            Update::Decrement(by) => (1, by),
            Update::Reset => (2, 0),
            Update::Set(to) => (3, to.cast_unsigned()),
            // Is applied without a token, see `SlotVector::apply`.
            Update::Raise { .. } => (0, 0),
        };
        Self { by, made: (made_ms.min(u64::MAX >> 16) << 16) | kind, position }
    }

    pub(super) fn made_ms(self) -> u64 {
        self.made >> 16
    }

    pub(super) fn update(self) -> Update {
        match self.made & 3 {
            0 => Update::Increment(self.by),
            1 => Update::Decrement(self.by),
            2 => Update::Reset,
            _ => Update::Set(self.by.cast_signed()),
        }
    }

    /// Whether resets that have cleared so much of the actor's entry have cleared this copy.
    pub(super) fn is_cleared_by(self, cleared: Entry) -> bool {
        let subtracts = match self.update() {
            Update::Decrement(_) => true,
            Update::Set(to) => to < 0,
            Update::Increment(_) | Update::Reset | Update::Raise { .. } => false,
        };
        self.position <= if subtracts { cleared.decrements } else { cleared.increments }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Actors {
    pub(super) ids: Vec<ActorId>,
    /// Records of each.
    pub(super) counts: Vec<usize>,
}

impl Actors {
    pub(super) fn find(&self, actor: ActorId) -> Option<u32> {
        self.ids.iter().position(|known| *known == actor).and_then(|index| u32::try_from(index).ok())
    }

    pub(super) fn find_or_add(&mut self, actor: ActorId) -> u32 {
        self.find(actor).unwrap_or_else(|| {
            self.ids.push(actor);
            self.counts.push(0);
            u32::try_from(self.ids.len().saturating_sub(1)).unwrap_or(u32::MAX)
        })
    }

    pub(super) fn id(&self, index: u32) -> ActorId {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.ids.get(index))
            .copied()
            .unwrap_or(ActorId { origin: 0, incarnation: 0 })
    }

    pub(super) fn count(&mut self, index: u32) -> Option<&mut usize> {
        self.counts.get_mut(usize::try_from(index).ok()?)
    }
}

/// The group that a record belongs to: one token of one counter.
pub(super) type Group = (u64, [u64; 2]);

pub(super) fn halves(id: u128) -> [u64; 2] {
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    [u64::try_from(id >> 64).unwrap_or_default(), low]
}

pub(super) fn whole([high, low]: [u64; 2]) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

pub(super) fn group_range((key_hash, id): Group) -> RangeInclusive<Place> {
    Place { key_hash, id, actor: 0 }..=Place { key_hash, id, actor: u32::MAX }
}

pub(super) fn key_range(key_hash: u64) -> RangeInclusive<Place> {
    Place { key_hash, id: [0, 0], actor: 0 }..=Place { key_hash, id: [u64::MAX, u64::MAX], actor: u32::MAX }
}

pub(super) fn group_of(place: Place) -> Group {
    (place.key_hash, place.id)
}
