//! What has been merged and is not durable yet, and what waits for it: acknowledgements and claims never run ahead of
//! storage, not even when a repeated message changes nothing because its first copy is still being written.

use std::collections::{BTreeMap, BTreeSet};

use super::pull::Pulled;
use super::{Effect, PersistId};
use crate::counter::Key;
use crate::id::NodeName;
use crate::slot::Slot;

/// What is to be done once slots are durable as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// A peer's delta is acknowledged.
    Acknowledge { to: NodeName, sequence: u64 },
    /// A slot has been pulled from a peer.
    Pulled(Pulled),
    /// Siblings are told to pull these slots, whose actors have been retired.
    Spread { slots: Vec<Slot> },
}

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub(super) struct Unsaved {
    pub(super) keys: Vec<Key>,
    pub(super) generations: Vec<Slot>,
    pub(super) floors: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Save {
    unsaved: Unsaved,
    /// When it is to be tried again, after a failure.
    retry_ms: Option<u64>,
}

/// The writes under way.
#[derive(Debug, Default)]
pub(super) struct Saves {
    last: u64,
    open: BTreeMap<PersistId, Save>,
    by_slot: BTreeMap<Slot, BTreeSet<PersistId>>,
    waiting: Vec<(BTreeSet<PersistId>, Then)>,
    /// The same for pulls, the latest of each slot from each peer: repair pulls all of them again and again, also while
    /// storage is down.
    pulls: BTreeMap<(NodeName, Slot), (BTreeSet<PersistId>, Pulled)>,
}

impl Saves {
    /// Writes these counters and the records of slots with a new generation. While an earlier write awaits its
    /// repetition after a failure, this one joins it, so that a storage that is down for long costs no more memory.
    pub(super) fn save(&mut self, unsaved: Unsaved) -> Option<Effect> {
        if unsaved.is_empty() {
            return None;
        }
        let failed = self.open.iter().find(|(_, save)| save.retry_ms.is_some()).map(|(id, _)| *id);
        let id = failed.unwrap_or_else(|| {
            self.last = self.last.saturating_add(1);
            PersistId(self.last)
        });
        for slot in unsaved.slots() {
            self.by_slot.entry(slot).or_default().insert(id);
        }
        self.open.entry(id).or_default().unsaved.join(unsaved.clone());
        failed.is_none().then(|| unsaved.persist(id))
    }

    /// `then`, if these slots are durable as they are now; otherwise it is kept until they are.
    pub(super) fn after(&mut self, slots: impl IntoIterator<Item = Slot>, then: Then) -> Option<Then> {
        let on: BTreeSet<PersistId> = slots.into_iter().filter_map(|slot| self.by_slot.get(&slot)).flatten().copied().collect();
        if on.is_empty() {
            return Some(then);
        }
        match then {
            // It waits for all that an earlier one waits for, and says at least as much.
            Then::Pulled(pulled) => drop(self.pulls.insert((pulled.peer.clone(), pulled.slot), (on, pulled))),
            Then::Acknowledge { .. } | Then::Spread { .. } => {
                if !self.waiting.iter().any(|(_, waiting)| *waiting == then) {
                    self.waiting.push((on, then));
                }
            }
        }
        None
    }

    /// Whether anything merged into the slot is not durable yet.
    pub(super) fn is_saving(&self, slot: Slot) -> bool {
        self.by_slot.contains_key(&slot)
    }

    /// The write is durable: what waited for it alone.
    pub(super) fn persisted(&mut self, id: PersistId) -> Vec<Then> {
        let Some(save) = self.open.remove(&id) else { return Vec::new() };
        for slot in save.unsaved.slots() {
            if let Some(ids) = self.by_slot.get_mut(&slot) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.by_slot.remove(&slot);
                }
            }
        }
        let mut due = Vec::new();
        for (mut on, then) in std::mem::take(&mut self.waiting) {
            on.remove(&id);
            if on.is_empty() { due.push(then) } else { self.waiting.push((on, then)) }
        }
        let mut held = BTreeMap::new();
        for (of, (mut on, pulled)) in std::mem::take(&mut self.pulls) {
            on.remove(&id);
            if on.is_empty() { due.push(Then::Pulled(pulled)) } else { drop(held.insert(of, (on, pulled))) }
        }
        self.pulls = held;
        due
    }

    /// The write has failed: it is due again at `retry_ms`, together with others that have failed.
    pub(super) fn failed(&mut self, id: PersistId, retry_ms: u64) {
        let other = self.open.iter().find(|(other, save)| **other != id && save.retry_ms.is_some()).map(|(other, _)| *other);
        match other {
            Some(other) => self.join(id, other),
            None => {
                if let Some(save) = self.open.get_mut(&id) {
                    save.retry_ms = Some(retry_ms);
                }
            }
        }
    }

    fn join(&mut self, id: PersistId, into: PersistId) {
        let Some(save) = self.open.remove(&id) else { return };
        let rename = |ids: &mut BTreeSet<PersistId>| {
            if ids.remove(&id) {
                ids.insert(into);
            }
        };
        self.by_slot.values_mut().for_each(rename);
        self.waiting.iter_mut().for_each(|(on, _)| rename(on));
        self.pulls.values_mut().for_each(|(on, _)| rename(on));
        self.open.entry(into).or_default().unsaved.join(save.unsaved);
    }

    /// The writes that are due again.
    pub(super) fn retry(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut due = Vec::new();
        for (id, save) in &mut self.open {
            if save.retry_ms.is_some_and(|retry_ms| retry_ms <= now_ms) {
                save.retry_ms = None;
                due.push(save.unsaved.clone().persist(*id));
            }
        }
        due
    }
}

impl Unsaved {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.generations.is_empty() && self.floors.is_empty()
    }

    fn slots(&self) -> BTreeSet<Slot> {
        self.keys.iter().map(Key::slot).chain(self.generations.iter().copied()).chain(self.floors.iter().copied()).collect()
    }

    fn persist(self, id: PersistId) -> Effect {
        Effect::Persist { id, keys: self.keys, slots: self.generations, floors: self.floors }
    }

    fn join(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        self.keys.extend(other.keys);
        self.keys.sort_unstable();
        self.keys.dedup();
        for (ours, theirs) in [(&mut self.generations, other.generations), (&mut self.floors, other.floors)] {
            ours.extend(theirs);
            ours.sort_unstable();
            ours.dedup();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn of(keys: &[Key]) -> Unsaved {
        Unsaved { keys: keys.to_vec(), ..Unsaved::default() }
    }

    fn acknowledge(sequence: u64) -> Then {
        Then::Acknowledge { to: "peer".into(), sequence }
    }

    fn id_of(effect: Option<Effect>) -> PersistId {
        match effect {
            Some(Effect::Persist { id, .. }) => id,
            other => panic!("no write: {other:?}"),
        }
    }

    #[test]
    fn what_changes_nothing_waits_for_the_write_of_what_came_before() {
        let mut saves = Saves::default();
        let first = id_of(saves.save(of(&[key("a")])));
        assert_eq!(saves.save(Unsaved::default()), None);
        assert_eq!(saves.after([key("a").slot()], acknowledge(1)), None);
        assert_eq!(saves.after([key("b").slot()], acknowledge(2)), Some(acknowledge(2)));
        assert_eq!(saves.persisted(first), [acknowledge(1)]);
        assert!(!saves.is_saving(key("a").slot()));
    }

    #[test]
    fn of_a_slot_that_is_pulled_again_and_again_only_the_latest_pull_waits() {
        let mut saves = Saves::default();
        let slot = key("a").slot();
        let pulled = |began| Pulled { peer: "peer".into(), slot, began, layout: None, last: false };
        let first = id_of(saves.save(of(&[key("a")])));
        for began in 0..9 {
            assert_eq!(saves.after([slot], Then::Pulled(pulled(began))), None);
        }
        let second = id_of(saves.save(of(&[key("a")])));
        assert_eq!(saves.after([slot], Then::Pulled(pulled(9))), None);
        assert_eq!(saves.persisted(first), []);
        assert_eq!(saves.persisted(second), [Then::Pulled(pulled(9))]);
    }

    #[test]
    fn failed_writes_are_repeated_as_one_and_all_that_waited_comes_then() {
        let mut saves = Saves::default();
        let first = id_of(saves.save(of(&[key("a")])));
        let second = id_of(saves.save(of(&[key("b")])));
        assert_eq!(saves.after([key("a").slot(), key("b").slot()], acknowledge(1)), None);
        saves.failed(first, 100);
        saves.failed(second, 100);
        assert_eq!(saves.save(of(&[key("c")])), None, "it joins the failed one");
        assert_eq!(saves.retry(99), []);
        let again = saves.retry(100);
        assert_eq!(
            again,
            [Effect::Persist { id: first, keys: vec![key("a"), key("b"), key("c")], slots: Vec::new(), floors: Vec::new() }]
        );
        assert_eq!(saves.persisted(second), []);
        assert_eq!(saves.persisted(first), [acknowledge(1)]);
    }
}
