//! Unread counts: how often a page has been modified, how much of that a user has read, and what is left.
//!
//! Both are kept as counters are, so that all that holds for these holds for them: they are durable, replicated by maximum,
//! repaired, and moved with their slots.
//!
//! - A page's *modifications* are a counter of their own, which is only counted up, beside a mark of its *epoch*: the second in which
//!   the first modification was counted that is part of it.
//! - A user's *subscription* to a page is a pair of numbers that only rise: the *cursor* (epoch and number of the last modification
//!   that the user has read) and the *generation* (odd while subscribed; each subscribing and unsubscribing raises it).
//!
//! What belongs to no process, epochs and subscriptions, stands in the entry of [`REGISTER`], which nobody is and nobody ever
//! retires.
//!
//! **Epochs.** Where replicas have counted a page's first modifications apart from each other, the earlier epoch is that of both: it
//! merges by minimum. So a cursor of the same epoch or of a later one counts modifications that are part of the page's; one of an
//! earlier epoch counted what has been lost since, and says nothing. What is read can so be told as unread again after a loss, but
//! nothing unread as read. Only where a page loses its last modifications and keeps its first, the epoch stays: then as many of the
//! next ones pass as read as had been read of those that are lost.

use serde::{Deserialize, Serialize};

use crate::counter::{Counter, Entry};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::key::{Key, KeyKind, KeyRef};
use crate::vector::{CounterView, Merged, SlotDelta, SlotRecord, SlotVector};

/// In whose entry stands what merges by maximum and is of no process: see above.
pub const REGISTER: ActorId = ActorId { origin: 0, incarnation: 0 };

/// How often one page can be modified: as far as cursors count.
pub const MODIFICATIONS_MAX: u32 = u32::MAX;

/// When the first of a page's modifications was counted: seconds since the Unix epoch. 0 while there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    fn at(now: Hlc) -> Self {
        Self(u32::try_from(now.wall_ms() / 1_000).unwrap_or(u32::MAX).max(1))
    }

    /// Kept upside down, so that the maximum is the earliest; and twice, so that it adds nothing to the number.
    fn entry(self) -> Entry {
        let upside_down = u64::from(!self.0);
        Entry { increments: upside_down, decrements: upside_down }
    }

    fn of(entry: Entry) -> Self {
        Self(!u32::try_from(entry.increments).unwrap_or(u32::MAX))
    }
}

/// A page's modifications, as far as somebody knows them. The default: there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modifications {
    pub epoch: Epoch,
    /// How many there have been.
    pub number: u32,
    /// When the last one was counted.
    pub updated_at: Option<Hlc>,
}

impl Modifications {
    /// What two sides know that need not know of each other's: at least as much as either.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let known = [self, other].into_iter().map(|side| side.epoch).filter(|epoch| *epoch > Epoch::default());
        Self {
            epoch: known.min().unwrap_or_default(),
            number: self.number.max(other.number),
            updated_at: self.updated_at.max(other.updated_at),
        }
    }

    /// The cursor of somebody who has read the first `number` of them; of all of them, if they are fewer.
    #[must_use]
    pub fn cursor(self, number: u32) -> Cursor {
        Cursor((u64::from(self.epoch.0) << 32) | u64::from(number.min(self.number)))
    }
}

/// Up to which modification of a page a user has read: the epoch above, the number below, so that the greater one is the later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(u64);

impl Cursor {
    /// In which epoch it counts.
    #[must_use]
    pub fn epoch(self) -> Epoch {
        Epoch(u32::try_from(self.0 >> 32).unwrap_or(u32::MAX))
    }

    /// How many modifications have been read.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX)
    }
}

/// One user's subscription to one page. The default: there never was any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Subscription {
    pub cursor: Cursor,
    /// Odd while subscribed.
    pub generation: u32,
}

impl Subscription {
    /// Whether the user is subscribed.
    #[must_use]
    pub fn is_active(self) -> bool {
        self.generation % 2 == 1
    }

    /// Subscribed, with all of these modifications read.
    #[must_use]
    pub fn begun(self, modifications: Modifications) -> Self {
        let generation = if self.is_active() { self.generation } else { self.generation.saturating_add(1) };
        Self { generation, ..self.read(modifications.cursor(MODIFICATIONS_MAX)) }
    }

    /// Not subscribed any more.
    #[must_use]
    pub fn ended(self) -> Self {
        Self { generation: self.generation.saturating_add(u32::from(self.is_active())), ..self }
    }

    /// With what has been read up to `cursor`.
    #[must_use]
    pub fn read(self, cursor: Cursor) -> Self {
        Self { cursor: self.cursor.max(cursor), ..self }
    }

    /// What two copies come to.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self { cursor: self.cursor.max(other.cursor), generation: self.generation.max(other.generation) }
    }

    /// How many of the page's modifications the user has not read.
    #[must_use]
    pub fn unread(self, page: Modifications) -> u32 {
        let read = if self.cursor.epoch() < page.epoch { 0 } else { self.cursor.number() };
        if self.is_active() { page.number.saturating_sub(read) } else { 0 }
    }

    pub(crate) fn entry(self) -> Entry {
        Entry { increments: self.cursor.0, decrements: u64::from(self.generation) }
    }

    fn of(entry: Entry) -> Self {
        Self { cursor: Cursor(entry.increments), generation: u32::try_from(entry.decrements).unwrap_or(u32::MAX) }
    }
}

/// A counter for a key that has none yet.
pub(crate) fn new_counter(key: KeyRef<'_>, now: Hlc) -> Counter {
    let mut counter = Counter::default();
    if key.kind() == KeyKind::Modifications {
        counter.raise(REGISTER, Epoch::at(now).entry());
    }
    counter
}

fn register(counter: CounterView<'_>) -> Option<Entry> {
    counter.entries().find(|(actor, _)| *actor == REGISTER).map(|(_, entry)| entry)
}

impl SlotVector {
    /// What this replica knows of a page's modifications. `key` is that of [`Key::modifications`].
    #[must_use]
    pub fn modifications<'k>(&self, key: impl Into<KeyRef<'k>>) -> Modifications {
        let key = key.into();
        let Some(entry) = self.counter(key).and_then(register) else { return Modifications::default() };
        let reading = self.read(key);
        let number = u32::try_from(reading.tally.max(0)).unwrap_or(MODIFICATIONS_MAX);
        Modifications { epoch: Epoch::of(entry), number, updated_at: reading.updated_at }
    }

    /// What this replica knows of a subscription. `key` is that of [`Key::subscription`].
    #[must_use]
    pub fn subscription<'k>(&self, key: impl Into<KeyRef<'k>>) -> Subscription {
        self.counter(key).and_then(register).map_or_else(Subscription::default, Subscription::of)
    }

    /// All that this replica knows of a user's subscriptions, ended ones included, with their pages, in no order. `user` is a key
    /// of [`Key::user`]. Goes over the whole slot.
    pub fn subscriptions<'v>(&'v self, user: &Key) -> impl Iterator<Item = (&'v [u8], Subscription, CounterView<'v>)> {
        let of_user = |key: &KeyRef<'_>| key.as_bytes().starts_with(user.as_bytes());
        self.counters()
            .filter(move |(key, _)| of_user(key))
            .map(|(key, counter)| (key.page(), register(counter).map_or_else(Subscription::default, Subscription::of), counter))
    }
}

/// What some replicas of a page's shard know of its modifications together: each has told its own copy, as a delta of this one
/// key.
#[must_use]
pub fn modifications_of(key: &Key, copies: &[SlotDelta]) -> Modifications {
    // Copies of one generation merge exactly once all have heard of the highest floor: below it all of them have the same records, and
    // a copy that is behind would bring what the others have corrected already. One of another generation is a moment older or newer,
    // in which actors have retired.
    let of_generation = |some: &SlotDelta| {
        let same = || copies.iter().filter(|copy| copy.generation == some.generation);
        let floor_ms = same().map(|copy| copy.floor_ms).max().unwrap_or_default();
        let merged = same().map(|copy| copied(copy, floor_ms)).reduce(|mut merged, copy| {
            drop::<Merged>(merged.merge(&copy.delta(some.slot, [key])));
            merged
        });
        merged.map_or_else(Modifications::default, |merged| merged.modifications(key))
    };
    copies.iter().map(of_generation).fold(Modifications::default(), Modifications::join)
}

/// What a replica has told, as it will be once that has heard of this floor. A base comes with the counter that it is part of, and is
/// the same in all copies.
pub(crate) fn copied(copy: &SlotDelta, floor_ms: u64) -> SlotVector {
    let mut vector = SlotVector::new(0);
    vector.restore_slot(SlotRecord { generation: copy.generation, retired: Vec::new() });
    vector.restore_floor(copy.floor_ms);
    copy.counters.iter().for_each(|(key, counter)| vector.restore_counter(key, counter));
    copy.tokens.iter().for_each(|record| vector.restore_token(record));
    vector.raise_floor(floor_ms);
    vector
}

#[cfg(test)]
mod tests;
