//! The actors that a slot's packed counters name, so that a record spends one byte on each and not sixteen.

use super::record::Record;
use crate::counter::Counter;
use crate::id::ActorId;

/// How many actors a slot's records can tell apart.
const ACTORS_MAX: usize = 1 << 8;

/// At each place an actor, and how many entries and baselines name it. A place without uses is free for another actor.
#[derive(Clone, Debug, Default)]
pub(super) struct Actors {
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    actor: ActorId,
    uses: u32,
}

impl Actors {
    /// The place of an actor that is in use.
    pub(super) fn find(&self, actor: ActorId) -> Option<u8> {
        let index = self.places.iter().position(|place| place.actor == actor && place.uses > 0)?;
        u8::try_from(index).ok()
    }

    /// Reads where the places are. What is returned means nothing.
    pub(super) fn touch_length(&self) -> u64 {
        u64::from(self.places.is_empty())
    }

    /// Reads the first place's uses. What is returned means nothing.
    pub(super) fn touch(&self) -> u32 {
        self.places.first().map_or(0, |place| place.uses)
    }

    /// The actor at a place.
    pub(super) fn at(&self, place: u8) -> ActorId {
        self.places[usize::from(place)].actor
    }

    /// Every actor that is in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = ActorId> {
        self.places.iter().filter(|place| place.uses > 0).map(|place| place.actor)
    }

    /// Whether all of a counter's actors can be named.
    pub(super) fn have_room_for(&self, counter: &Counter) -> bool {
        let free = self.places.iter().filter(|place| place.uses == 0).count();
        let room = ACTORS_MAX.saturating_sub(self.places.len()).saturating_add(free);
        // An actor with an entry and a baseline is counted twice: what is refused so, at the very brink, is kept unpacked.
        counter.actors().filter(|actor| self.find(*actor).is_none()).take(room.saturating_add(1)).count() <= room
    }

    /// Counts one more use of an actor in. None when there is no place for it.
    pub(super) fn take(&mut self, actor: ActorId) -> Option<u8> {
        let known = self.places.iter().position(|place| place.actor == actor && place.uses > 0);
        let index = known.or_else(|| self.places.iter().position(|place| place.uses == 0)).unwrap_or(self.places.len());
        let place = u8::try_from(index).ok()?;
        if index == self.places.len() {
            self.places.reserve_exact(1);
            self.places.push(Place { actor, uses: 0 });
        }
        let uses = self.places[index].uses.saturating_add(1);
        self.places[index] = Place { actor, uses };
        Some(place)
    }

    /// Counts the uses of a record out.
    pub(super) fn release_all(&mut self, record: Record<'_>) {
        for (place, _) in record.entries().chain(record.baselines()) {
            let uses = &mut self.places[usize::from(place)].uses;
            *uses = uses.saturating_sub(1);
        }
    }

    /// What the list takes on the heap, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity().saturating_mul(size_of::<Place>())
    }
}
