//! The actors that a slot's packed counters name, so that a record spends one byte on each and not sixteen.

use super::record::Record;
use crate::counter::Counter;
use crate::id::ActorId;

/// How many actors a slot's records can tell apart.
const ACTORS_MAX: usize = 1 << 8;

/// At each place an actor, and how many entries and baselines name it. A place without uses is free for another actor.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub(super) struct Actors {
    /// The first place is at hand: of a slot that one actor has updated it is the only one.
    first: Place,
    more: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    actor: ActorId,
    uses: u32,
}

impl Default for Place {
    fn default() -> Self {
        Self { actor: ActorId { origin: 0, incarnation: 0 }, uses: 0 }
    }
}

impl Actors {
    /// The place of an actor that is in use.
    pub(super) fn find(&self, actor: ActorId) -> Option<u8> {
        let index = self.position(|place| place.actor == actor && place.uses > 0)?;
        u8::try_from(index).ok()
    }

    /// Reads the uses of the second place, if there is one. What is returned means nothing.
    pub(super) fn touch(&self) -> u32 {
        self.more.first().map_or(0, |place| place.uses)
    }

    /// The actor at a place.
    pub(super) fn at(&self, place: u8) -> ActorId {
        match usize::from(place).checked_sub(1) {
            None => self.first.actor,
            Some(index) => self.more[index].actor,
        }
    }

    /// Every actor that is in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = ActorId> {
        self.places().filter(|place| place.uses > 0).map(|place| place.actor)
    }

    /// Whether all of a counter's actors can be named.
    pub(super) fn have_room_for(&self, counter: &Counter) -> bool {
        let taken = self.places().filter(|place| place.uses > 0).count();
        let room = ACTORS_MAX.saturating_sub(taken);
        // An actor with an entry and a baseline is counted twice: what is refused so, at the very brink, is kept unpacked.
        counter.actors().filter(|actor| self.find(*actor).is_none()).take(room.saturating_add(1)).count() <= room
    }

    /// Counts one more use of an actor in. None when there is no place for it.
    pub(super) fn take(&mut self, actor: ActorId) -> Option<u8> {
        let known = self.position(|place| place.actor == actor && place.uses > 0);
        let index = known.or_else(|| self.position(|place| place.uses == 0)).unwrap_or(self.more.len().saturating_add(1));
        let place = u8::try_from(index).ok()?;
        if index > self.more.len() {
            self.more.reserve_exact(1);
            self.more.push(Place::default());
        }
        let taken = self.place_mut(place);
        *taken = Place { actor, uses: taken.uses.saturating_add(1) };
        Some(place)
    }

    /// Counts the uses of a record out.
    pub(super) fn release_all(&mut self, record: Record<'_>) {
        for (place, _) in record.entries().chain(record.baselines()) {
            let uses = &mut self.place_mut(place).uses;
            *uses = uses.saturating_sub(1);
        }
    }

    /// What the list takes on the heap, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.more.capacity().saturating_mul(size_of::<Place>())
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn position(&self, is_it: impl Fn(&Place) -> bool) -> Option<usize> {
        if is_it(&self.first) {
            return Some(0);
        }
        self.more.iter().position(is_it).map(|index| index.saturating_add(1))
    }

    fn place_mut(&mut self, place: u8) -> &mut Place {
        match usize::from(place).checked_sub(1) {
            None => &mut self.first,
            Some(index) => &mut self.more[index],
        }
    }
}
