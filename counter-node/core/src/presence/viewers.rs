//! How many viewers each page has, as a replica knows it: what requests read, beside the table of tallies.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;

use super::ledger::{PageState, Place};
use super::unique::Unique;
use crate::hlc::Hlc;
use crate::key::{Key, KeyRef};
use crate::slot::{SLOTS, Slot};

/// What is known of a page's viewers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageViewers {
    pub viewers: u64,
    /// When one last came or left; None when that is not known (any more).
    pub changed_at: Option<Hlc>,
}

/// The viewers of all pages, each slot behind a lock of its own, and a glance at each without a lock.
///
/// [`super::Presence`] writes it, requests read it. **What is not known is None, never a smaller number.**
///
/// Every request looks at its slot's glance, so these lie together: a request in any slot finds them in the processor's cache.
#[derive(Debug)]
pub struct Viewers {
    glances: Box<[Glance]>,
    pages: Box<[Mutex<Pages>]>,
}

/// What nearly all requests need to know of a slot.
#[derive(Debug)]
struct Glance {
    /// [`KNOWN`], [`OWNED`], and above them how many pages the slot has.
    state: AtomicU32,
    /// Pages that some gateway is fed.
    watched: AtomicU32,
}

const KNOWN: u32 = 1;
const OWNED: u32 = 2;
const PAGE: u32 = 4;

#[derive(Debug)]
struct Pages {
    by_key: HashMap<Key, Page, FixedState>,
    /// The sum of their viewers.
    total: u64,
}

#[derive(Debug, Default)]
struct Page {
    viewers: u64,
    /// Of the viewers, those with a name.
    named: u64,
    changed_ms: u64,
    /// The last viewer has left, and the page is on its way to be forgotten.
    left: bool,
    /// By the numbers of the gateways.
    names: Vec<(u32, Unique)>,
}

/// What an adjustment has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adjusted {
    /// The page's count is another.
    pub(super) changed: bool,
    /// Its last viewer has left: after a while it is to be forgotten.
    pub(super) left: bool,
}

/// Whose part of a page it is.
pub(super) type GatewayNumber = u32;

impl Viewers {
    /// Nobody is anywhere, and none of it is known. `seed` should be unlike that of other processes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let pages = || Mutex::new(Pages { by_key: HashMap::with_hasher(FixedState::with_seed(seed)), total: 0 });
        let glance = || Glance { state: AtomicU32::new(0), watched: AtomicU32::new(0) };
        Self { glances: (0..SLOTS).map(|_| glance()).collect(), pages: (0..SLOTS).map(|_| pages()).collect() }
    }

    /// The viewers of a page; None when this replica does not know them (yet). One atomic load when nobody is in the slot.
    #[must_use]
    pub fn read<'k>(&self, key: impl Into<KeyRef<'k>>) -> Option<PageViewers> {
        let key = key.into();
        self.read_in(key.slot(), key)
    }

    /// The same, where the key's slot is known.
    #[must_use]
    pub fn read_in(&self, slot: Slot, key: KeyRef<'_>) -> Option<PageViewers> {
        let glance = self.glances[slot.index()].state.load(Ordering::Acquire);
        if glance & KNOWN == 0 {
            return None;
        }
        if glance < PAGE {
            return Some(PageViewers::default());
        }
        Some(self.lock(slot).by_key.get(key.as_bytes()).map_or_else(PageViewers::default, |page| PageViewers {
            viewers: page.viewers,
            changed_at: Some(Hlc::from_wall_ms(page.changed_ms)),
        }))
    }

    /// All viewers of the slot's pages; None when this replica does not know them.
    #[must_use]
    pub fn total(&self, slot: Slot) -> Option<u64> {
        match self.glances[slot.index()].state.load(Ordering::Acquire) {
            glance if glance & KNOWN == 0 => None,
            glance if glance < PAGE => Some(0),
            _ => Some(self.lock(slot).total),
        }
    }

    /// How many people a page's viewers are, and whether that is an estimate; None when this replica does not know. Sessions
    /// without a name are one each.
    #[must_use]
    pub fn unique<'k>(&self, key: impl Into<KeyRef<'k>>) -> Option<(u64, bool)> {
        let key = key.into();
        let slot = key.slot();
        if !self.is_known(slot) {
            return None;
        }
        let (viewers, nameless, names) = {
            let pages = self.lock(slot);
            let Some(page) = pages.by_key.get(key.as_bytes()) else { return Some((0, false)) };
            let names: Vec<Unique> = page.names.iter().map(|(_, unique)| unique.clone()).collect();
            (page.viewers, page.viewers.saturating_sub(page.named), names)
        };
        let (people, is_estimate) = Unique::union(&names);
        // Names are told less often than sessions are, and an estimate may be too high.
        Some((nameless.saturating_add(people).min(viewers), is_estimate))
    }

    /// The pages with the most viewers in the slots that this replica's shard owns, most first, equal ones by their keys. It goes
    /// over all pages.
    #[must_use]
    pub fn top(&self, limit: usize, prefix: &[u8]) -> Vec<(Key, u64)> {
        let mut top = BinaryHeap::with_capacity(limit.saturating_add(1));
        for slot in Slot::all() {
            let glance = self.glances[slot.index()].state.load(Ordering::Acquire);
            if glance & OWNED == 0 || glance < PAGE {
                continue;
            }
            for (key, page) in &self.lock(slot).by_key {
                if page.viewers > 0 && key.as_bytes().starts_with(prefix) {
                    let least = top.peek().map(|Reverse((viewers, _))| *viewers);
                    if top.len() >= limit && least.is_some_and(|least| page.viewers < least) {
                        continue;
                    }
                    top.push(Reverse((page.viewers, Reverse(key.clone()))));
                    if top.len() > limit {
                        top.pop();
                    }
                }
            }
        }
        top.into_sorted_vec().into_iter().map(|Reverse((viewers, Reverse(key)))| (key, viewers)).collect()
    }

    /// Whether the viewers of the slot's pages are known here.
    #[must_use]
    pub fn is_known(&self, slot: Slot) -> bool {
        self.glances[slot.index()].state.load(Ordering::Acquire) & KNOWN != 0
    }

    /// Whether some gateway is fed with a page of the slot: only then need [`super::Presence::changed`] be told of its tallies.
    #[must_use]
    pub fn is_watched(&self, slot: Slot) -> bool {
        self.glances[slot.index()].watched.load(Ordering::Relaxed) > 0
    }

    pub(super) fn is_owned(&self, slot: Slot) -> bool {
        self.glances[slot.index()].state.load(Ordering::Relaxed) & OWNED != 0
    }

    pub(super) fn set_known(&self, slot: Slot, known: bool) {
        self.mark(slot, KNOWN, known);
    }

    pub(super) fn set_owned(&self, slot: Slot, owned: bool) {
        self.mark(slot, OWNED, owned);
    }

    fn mark(&self, slot: Slot, bit: u32, set: bool) {
        let glance = &self.glances[slot.index()].state;
        if set {
            glance.fetch_or(bit, Ordering::Release)
        } else {
            glance.fetch_and(!bit, Ordering::Release)
        };
    }

    pub(super) fn watch(&self, slot: Slot) {
        self.glances[slot.index()].watched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unwatch(&self, slot: Slot) {
        self.glances[slot.index()].watched.fetch_sub(1, Ordering::Relaxed);
    }

    /// One gateway's part of a page was `before` and is `now`.
    pub(super) fn adjust(&self, place: &Place, gateway: GatewayNumber, before: &PageState, now: &PageState) -> Adjusted {
        let changed = before.sessions != now.sessions;
        if !changed && before.unique == now.unique {
            return Adjusted { changed, left: false };
        }
        let (slot, key) = place;
        let mut pages = self.lock(*slot);
        let Pages { by_key, total } = &mut *pages;
        let move_on = |sum: u64, before: u32, now: u32| sum.saturating_add(u64::from(now)).saturating_sub(u64::from(before));
        *total = move_on(*total, before.sessions, now.sessions);
        let known = by_key.len();
        let page = by_key.entry(key.clone()).or_default();
        page.viewers = move_on(page.viewers, before.sessions, now.sessions);
        let named = |state: &PageState| state.unique.as_ref().map_or(0, Unique::sessions);
        page.named = move_on(page.named, named(before), named(now));
        page.names.retain(|(number, _)| *number != gateway);
        page.names.extend(now.unique.clone().map(|unique| (gateway, unique)));
        if changed {
            page.changed_ms = page.changed_ms.max(now.changed_ms);
        }
        let left = page.viewers == 0 && !std::mem::replace(&mut page.left, page.viewers == 0);
        let added = by_key.len() > known;
        if added {
            self.glances[slot.index()].state.fetch_add(PAGE, Ordering::Release);
        }
        Adjusted { changed, left }
    }

    /// Forgets a page that has no viewers.
    pub(super) fn forget(&self, place: &Place) {
        let (slot, key) = place;
        let mut pages = self.lock(*slot);
        let Some(page) = pages.by_key.get_mut(key) else { return };
        page.left = false;
        if page.viewers == 0 && page.names.is_empty() {
            pages.by_key.remove(key);
            self.glances[slot.index()].state.fetch_sub(PAGE, Ordering::Release);
        }
    }

    fn lock(&self, slot: Slot) -> MutexGuard<'_, Pages> {
        // Nothing below panics while it holds the lock.
        self.pages[slot.index()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
