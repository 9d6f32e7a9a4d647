//! Own records that some sibling may lack.

use std::collections::HashSet;

use super::record::{Place, halves, key_range};
use super::{Tokens, key_hash};
use crate::counter::{Key, KeyRef};
use crate::id::ActorId;
use crate::token::TokenRecord;

/// Own records are kept in mind up to this many; beyond, a sibling has to pull. A counter takes all of its own along, so that so
/// many have to fit one message, however long their keys are.
pub(in crate::vector) const FRESH_MAX: usize = 16_384;

/// Own records for a sibling.
#[derive(Debug)]
pub(in crate::vector) struct FreshRecords {
    pub(in crate::vector) records: Vec<TokenRecord>,
    /// Up to which number these are all.
    pub(in crate::vector) upto: u64,
}

impl Tokens {
    /// Notes that a record is this node's own, and new to its siblings.
    pub(in crate::vector) fn note_fresh(&mut self, key: KeyRef<'_>, id: u128, actor: ActorId) {
        self.refresh(key, actor);
        if let Some(actor) = self.actors.find(actor) {
            self.push_fresh(Place { key_hash: key_hash(key), id: halves(id), actor });
        }
    }

    /// The key's counter goes out, with what earlier processes of this node's volume have counted: their records go along.
    pub(in crate::vector) fn refresh(&mut self, key: KeyRef<'_>, writer: ActorId) {
        if self.restored.is_empty() || !self.restored.remove(&key_hash(key)) {
            return;
        }
        let is_earlier = |actor: ActorId| actor.origin == writer.origin && actor != writer;
        let of_key = self.records.range(key_range(key_hash(key))).map(|(place, _)| *place);
        let own: Vec<Place> = of_key.filter(|place| is_earlier(self.actors.id(place.actor))).collect();
        own.into_iter().for_each(|place| self.push_fresh(place));
    }

    fn push_fresh(&mut self, place: Place) {
        self.last_fresh = self.last_fresh.saturating_add(1);
        self.fresh.insert(self.last_fresh, place);
        if self.fresh.len() > FRESH_MAX
            && let Some((lost, _)) = self.fresh.pop_first()
        {
            self.lost_fresh = lost;
        }
    }

    /// The own records of keys of these hashes that some sibling may lack.
    pub(in crate::vector) fn fresh_of(&self, hashes: &HashSet<u64>) -> impl Iterator<Item = TokenRecord> {
        let of_keys = self.fresh.values().filter(|place| hashes.contains(&place.key_hash));
        of_keys.filter_map(|place| self.records.get(place).and_then(|held| self.record_at(*place, *held)))
    }

    /// Own records made after `since`, as many as fit; and, however many they are, all of those of the counters that go out:
    /// `keys`, and those that the former are of. None when some of them are not kept in mind any more.
    pub(in crate::vector) fn fresh_since(&self, since: u64, records_max: usize, keys: &[&Key]) -> Option<FreshRecords> {
        if since < self.lost_fresh {
            return None;
        }
        let mut going_out: HashSet<u64> = keys.iter().map(|key| key_hash((*key).into())).collect();
        let (mut records, mut upto, mut cut) = (Vec::new(), since, false);
        let mut fresh: Vec<(u64, Place)> = Vec::new();
        for (number, place) in self.fresh.range(since.saturating_add(1)..).map(|(number, place)| (*number, *place)) {
            cut |= fresh.len() >= records_max;
            if !cut {
                going_out.insert(place.key_hash);
                upto = number;
            }
            fresh.push((number, place));
        }
        for (number, place) in fresh {
            if number <= upto || going_out.contains(&place.key_hash) {
                records.extend(self.records.get(&place).and_then(|held| self.record_at(place, *held)));
            }
        }
        if !cut {
            // What came between has been forgotten because all who were to hear of it have it.
            upto = self.last_fresh;
        }
        Some(FreshRecords { records, upto })
    }

    /// The number of the last own change.
    pub(in crate::vector) fn last_fresh(&self) -> u64 {
        self.last_fresh
    }

    /// All siblings have what was changed up to this one.
    pub(in crate::vector) fn forget_fresh(&mut self, upto: u64) {
        self.fresh = self.fresh.split_off(&upto.saturating_add(1));
    }
}
