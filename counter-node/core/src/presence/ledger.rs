//! The ledger: what a gateway has on the pages of one shard. The same structure is the gateway's own, and its copy at each replica.
//!
//! Each page stands once, under the sequence number of its last change, pages that are gone included. What changed after a number is
//! then a walk over the later ones, and all of it is what changed after 0. A copy that has taken the changes up to a number
//! in their order is as good as the original was; loss, repetition and reordering of messages change nothing.
//!
//! Pages that are gone are forgotten at last, oldest first; *floor* is the number of the latest forgotten one. A copy
//! that stands below the floor, and held anything then, has to begin anew.

use std::collections::{BTreeMap, BTreeSet, btree_map, btree_set};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::unique::Unique;
use crate::key::Key;
use crate::slot::{Slot, SlotRange};

/// What a gateway has on one page, absolute. The default is: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageState {
    /// The sessions that count.
    pub sessions: u32,
    /// Whether the gateway wants the page's count whenever it changes.
    pub watched: bool,
    /// When the sessions last changed, in milliseconds since the Unix epoch, by the gateway's clock.
    pub changed_ms: u64,
    /// Who of the sessions has a name.
    pub unique: Option<Unique>,
}

impl PageState {
    /// Whether the gateway has nothing on the page.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.sessions == 0 && !self.watched && self.unique.is_none()
    }

    fn digest(&self, sequence: u64, key: &Key) -> u64 {
        if self.is_absent() {
            // Absent pages are forgotten at different times.
            return 0;
        }
        let unique = self.unique.as_ref().map_or(0, Unique::digest);
        let mut bytes = Vec::with_capacity(key.as_bytes().len().saturating_add(32));
        for number in [sequence, u64::from(self.sessions), u64::from(self.watched), unique] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(key.as_bytes());
        xxh3_64(&bytes)
    }

    fn encoded_bytes(&self) -> usize {
        24_usize.saturating_add(self.unique.as_ref().map_or(0, Unique::encoded_bytes))
    }
}

/// A page's state, and the number under which it became that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub sequence: u64,
    pub key: Key,
    pub state: PageState,
}

/// A page's place in a ledger.
pub(super) type Place = (Slot, Key);

/// A ledger that is being given up.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pages: btree_map::IntoIter<Place, (u64, PageState)>,
    order: btree_map::IntoIter<u64, Place>,
    absent: btree_set::IntoIter<u64>,
}

impl Iterator for Entries {
    type Item = (Place, PageState);

    fn next(&mut self) -> Option<Self::Item> {
        drop((self.order.next(), self.absent.next()));
        self.pages.next().map(|(place, (_, state))| (place, state))
    }
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pages: BTreeMap<Place, (u64, PageState)>,
    order: BTreeMap<u64, Place>,
    /// The numbers of the pages that are gone.
    absent: BTreeSet<u64>,
    floor: u64,
    head: u64,
    digest: u64,
}

impl Ledger {
    /// An empty ledger that knows nothing of what was before `floor`.
    #[must_use]
    pub fn new(floor: u64) -> Self {
        Self { floor, head: floor, ..Self::default() }
    }

    /// The number of the latest change.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Who stands below and has ever held anything cannot go on by what has changed.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// A sum over all pages, the same for equal ledgers. Kept up with each change.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// How many pages there are, without those that are gone.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pages.len().saturating_sub(self.absent.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What stands there of a page, if anything.
    #[must_use]
    pub fn get(&self, place: &(Slot, Key)) -> Option<&PageState> {
        self.pages.get(place).map(|(_, state)| state).filter(|state| !state.is_absent())
    }

    /// The number under which a page's state became what it is.
    pub(super) fn number(&self, place: &Place) -> Option<u64> {
        self.pages.get(place).map(|(number, _)| *number)
    }

    /// The pages, in the order of their slots and keys.
    pub fn iter(&self) -> impl Iterator<Item = (&(Slot, Key), &PageState)> {
        self.pages.iter().map(|(place, (_, state))| (place, state)).filter(|(_, state)| !state.is_absent())
    }

    /// What is in it, page by page. Nothing of it is left behind, so that giving it up takes no longer at the end than between.
    pub(super) fn into_entries(self) -> Entries {
        let Self { pages, order, absent, floor: _, head: _, digest: _ } = self;
        Entries { pages: pages.into_iter(), order: order.into_iter(), absent: absent.into_iter() }
    }

    /// The pages of these slots.
    pub fn in_slots(&self, range: SlotRange) -> impl Iterator<Item = (&(Slot, Key), &PageState)> {
        let pages = self.pages.range((range.first(), Key::least())..).take_while(move |((slot, _), _)| *slot <= range.last());
        pages.map(|(place, (_, state))| (place, state)).filter(|(_, state)| !state.is_absent())
    }

    /// Enters a page's state under a number above all those before, or, in a copy, above the page's own. Returns what stood there
    /// before; None when the entry is not newer, and nothing has changed.
    pub fn enter(&mut self, sequence: u64, place: (Slot, Key), state: PageState) -> Option<PageState> {
        let before = self.pages.get(&place);
        if before.is_some_and(|(known, _)| *known >= sequence) {
            return None;
        }
        let (known, before) = before.map_or((0, PageState::default()), |(known, state)| (*known, state.clone()));
        self.order.remove(&known);
        self.absent.remove(&known);
        let added = state.digest(sequence, &place.1);
        self.digest = self.digest.wrapping_sub(before.digest(known, &place.1)).wrapping_add(added);
        if state.is_absent() {
            self.absent.insert(sequence);
        }
        self.order.insert(sequence, place.clone());
        self.pages.insert(place, (sequence, state));
        self.head = self.head.max(sequence);
        Some(before)
    }

    /// Forgets pages that are gone, the oldest, down to `beside` more than there are pages.
    pub fn forget(&mut self, beside: usize) {
        while self.absent.len() > self.len().saturating_add(beside) {
            let Some(sequence) = self.absent.pop_first() else { return };
            self.floor = self.floor.max(sequence);
            if let Some(place) = self.order.remove(&sequence) {
                self.pages.remove(&place);
            }
        }
    }

    /// What changed after a number, oldest first: about `bytes_max` of it, and at least one change. If that is not all, with
    /// the number up to which it is.
    #[must_use]
    pub fn after(&self, after: u64, bytes_max: usize) -> (Vec<Change>, Option<u64>) {
        let mut changes: Vec<Change> = Vec::new();
        let mut bytes: usize = 0;
        for (sequence, place) in self.order.range(after.saturating_add(1)..) {
            let Some((_, state)) = self.pages.get(place) else { continue };
            bytes = bytes.saturating_add(place.1.as_bytes().len()).saturating_add(state.encoded_bytes());
            match changes.last() {
                Some(last) if bytes > bytes_max => {
                    let upto = last.sequence;
                    return (changes, Some(upto));
                }
                _ => changes.push(Change { sequence: *sequence, key: place.1.clone(), state: state.clone() }),
            }
        }
        (changes, None)
    }
}
