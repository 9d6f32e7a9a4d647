//! The token records of one slot, and what follows from them.
//!
//! Records stand in one ordered map, by the hash of the counter's key and the token's id, so that a hot counter may have
//! millions of them at a cost that does not depend on where they are, and a pull can go through them in parts.
//!
//! **Who wins.** Of the records of one token, the first by (time of the reset, zero for another update; actor) counts. The
//! order is fixed, so a record that has lost never wins again.
//!
//! **What a token comes to.** Each record stands for a *copy* of the update in its actor's entry. A copy is *cleared* when
//! resets have cleared so much of the entry as the record's position says. Of a token of which any copy is cleared nothing counts,
//! as the reset saw it; of another the winner's copy does. What other copies are in the entries is surplus, and corrected
//! in readings until the floor passes: then the entries are corrected, by every holder alike.

mod copies;
mod floor;
mod fresh;
mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use foldhash::fast::FixedState;
use xxhash_rust::xxh3::xxh3_64;

pub(super) use self::floor::Settlement;
#[cfg(test)]
pub(super) use self::fresh::FRESH_MAX;
pub(super) use self::fresh::FreshRecords;
use self::record::{Actors, Group, Held, Place, group_of, group_range, halves, whole};
use super::key_hash;
use crate::counter::{Adjustment, Key, KeyRef, Observed, Update};
use crate::id::ActorId;
use crate::token::{TokenName, TokenRecord};

const FIXED_KEYS: u64 = 3;

/// What taking a record in has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Known,
    New,
    /// It is new, and the key has to be adjusted anew.
    Adjusts,
}

/// The records of a slot.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    records: BTreeMap<Place, Held>,
    /// By key hash: the key, and how many records it has. A key whose hash another one has taken gets no records.
    keys: HashMap<u64, (Key, usize), FixedState>,
    actors: Actors,
    /// Of the records that are resets.
    resets: BTreeMap<Place, Box<Observed>>,
    /// Tokens with several records.
    contested: BTreeSet<Group>,
    adjustments: BTreeMap<Key, Adjustment>,
    floor_ms: u64,
    /// When the oldest record was made, so that asking goes over no records; the greatest number without any.
    oldest_ms: u64,
    /// Of all records.
    digest: u64,
    /// Records made, changed or dropped since they were last given to storage.
    unsaved: Vec<Place>,
    unsaved_floor: bool,
    /// Own records in the order of their changes, as long as a sibling may lack them.
    fresh: BTreeMap<u64, Place>,
    last_fresh: u64,
    /// Own changes up to this one are no longer in `fresh` though a sibling may lack them.
    lost_fresh: u64,
    /// Own records that have lost, since the start.
    refunded: u64,
    /// Counters that raising the floor has changed: they must reach storage with it.
    unsaved_settled: Vec<Key>,
    /// Counters in whose entries copies have been taken back when the floor was raised last, by the hashes of their keys. Who takes
    /// part in raising it again has done the same.
    refunded_keys: HashSet<u64>,
    /// Keys of records that storage has given back, by their hashes, as long as these are not among `fresh`: of those of earlier
    /// processes, nobody knows which siblings lack them.
    restored: HashSet<u64>,
    /// Records that storage has given back and that were made before the floor, as long as no later one of their tokens has come.
    early: BTreeMap<Group, Vec<TokenRecord>>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            records: BTreeMap::new(),
            keys: HashMap::with_hasher(FixedState::with_seed(FIXED_KEYS)),
            actors: Actors::default(),
            resets: BTreeMap::new(),
            contested: BTreeSet::new(),
            adjustments: BTreeMap::new(),
            floor_ms: 0,
            oldest_ms: u64::MAX,
            digest: 0,
            unsaved: Vec::new(),
            unsaved_floor: false,
            fresh: BTreeMap::new(),
            last_fresh: 0,
            lost_fresh: 0,
            refunded: 0,
            unsaved_settled: Vec::new(),
            refunded_keys: HashSet::new(),
            restored: HashSet::new(),
            early: BTreeMap::new(),
        }
    }
}

impl Tokens {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn digest(&self) -> u64 {
        let floor = if self.floor_ms == 0 { 0 } else { xxh3_64(&self.floor_ms.to_le_bytes()) };
        self.digest ^ floor
    }

    pub(super) fn floor_ms(&self) -> u64 {
        self.floor_ms
    }

    /// How many keys have records.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The keys of records; none while no record is a reset, which alone may stand without a counter.
    pub(super) fn keys_beside_resets(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.keys.values().filter(|_| !self.resets.is_empty()).map(|(key, _)| key.into())
    }

    /// How many own records have lost.
    pub(super) fn refunded(&self) -> u64 {
        self.refunded
    }

    pub(super) fn adjustment(&self, key: KeyRef<'_>) -> Option<&Adjustment> {
        if self.adjustments.is_empty() { None } else { self.adjustments.get(key.as_bytes()) }
    }

    /// How many records the key has.
    pub(super) fn of_key(&self, key: KeyRef<'_>) -> usize {
        self.keys.get(&key_hash(key)).filter(|(known, _)| known.as_bytes() == key.as_bytes()).map_or(0, |(_, count)| *count)
    }

    /// Whether another key's records stand where this one's would.
    pub(super) fn is_taken(&self, key: KeyRef<'_>) -> bool {
        self.keys.get(&key_hash(key)).is_some_and(|(known, _)| known.as_bytes() != key.as_bytes())
    }

    /// Whether the token is known, and if so, whether for this very update.
    pub(super) fn known(&self, key: KeyRef<'_>, id: u128, update: Update) -> Option<bool> {
        if self.is_empty() || self.is_taken(key) {
            return None;
        }
        let mut updates = self.records.range(group_range((key_hash(key), halves(id)))).map(|(_, held)| held.update()).peekable();
        updates.peek()?;
        Some(updates.any(|known| known == update))
    }

    /// Whose record of the token counts.
    pub(super) fn counted_by(&self, key: KeyRef<'_>, id: u128) -> Option<ActorId> {
        self.winner((key_hash(key), halves(id))).map(|place| self.actors.id(place.actor))
    }

    /// Whether the record is of a token that is forgotten: one that replicas have taken to be made at different times is, once all of
    /// these have passed.
    fn is_forgotten(&self, record: &TokenRecord) -> bool {
        let group = (key_hash((&record.key).into()), halves(record.id));
        record.made_ms < self.floor_ms && !self.copies(group).any(|(_, held)| held.made_ms() >= self.floor_ms)
    }

    /// Takes a record in. Of several of one token, the one that was made last has to come first.
    pub(super) fn insert(&mut self, record: &TokenRecord, retired: &[ActorId]) -> Inserted {
        let passed = self.is_forgotten(record) || retired.binary_search(&record.actor).is_ok();
        if passed || self.is_taken((&record.key).into()) {
            return Inserted::Known;
        }
        let actor = self.actors.find_or_add(record.actor);
        let place = Place { key_hash: key_hash((&record.key).into()), id: halves(record.id), actor };
        if self.records.contains_key(&place) {
            return Inserted::Known;
        }
        let held = Held::new(record.made_ms, record.update, record.position);
        self.records.insert(place, held);
        self.oldest_ms = self.oldest_ms.min(held.made_ms());
        self.digest ^= self.hash_of(place, held);
        let (_, of_key) = self.keys.entry(place.key_hash).or_insert_with(|| (record.key.clone(), 0));
        *of_key = of_key.saturating_add(1);
        if let Some(count) = self.actors.count(actor) {
            *count = count.saturating_add(1);
        }
        if let Some(observed) = &record.observed {
            let mut observed = observed.clone();
            observed.fold(retired);
            self.resets.insert(place, observed);
        }
        let contested = self.records.range(group_range(group_of(place))).nth(1).is_some();
        if contested {
            self.contested.insert(group_of(place));
        }
        self.unsaved.push(place);
        if contested || record.observed.is_some() { Inserted::Adjusts } else { Inserted::New }
    }

    /// Takes in a record that may meet one of `own`, and counts it when that one has lost by it.
    pub(super) fn insert_beside(&mut self, record: &TokenRecord, retired: &[ActorId], own: Option<ActorId>) -> Inserted {
        let group = (key_hash((&record.key).into()), halves(record.id));
        let own = own.and_then(|own| self.actors.find(own));
        let has_won = |tokens: &Self| own.is_some() && tokens.winner(group).map(|winner| winner.actor) == own;
        let won_before = has_won(self);
        let inserted = self.insert(record, retired);
        if won_before && !has_won(self) {
            self.refunded = self.refunded.saturating_add(1);
        }
        inserted
    }

    fn remove(&mut self, place: Place) {
        let Some(held) = self.records.remove(&place) else { return };
        self.digest ^= self.hash_of(place, held);
        self.resets.remove(&place);
        if let Some(count) = self.actors.count(place.actor) {
            *count = count.saturating_sub(1);
        }
        if let Some((_, count)) = self.keys.get_mut(&place.key_hash) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.keys.remove(&place.key_hash);
            }
        }
        if self.records.range(group_range(group_of(place))).nth(1).is_none() {
            self.contested.remove(&group_of(place));
        }
        self.unsaved.push(place);
    }

    /// The same on every node and in every release of one format.
    fn hash_of(&self, place: Place, held: Held) -> u64 {
        let actor = self.actors.id(place.actor);
        let words =
            [place.key_hash, place.id[0], place.id[1], actor.origin, actor.incarnation, held.by, held.made, held.position];
        let mut bytes = [0_u8; 64];
        let all = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = from);
        xxh3_64(&bytes)
    }

    /// Whether these actors, sorted, may be retired: not as long as a record names one, or a reset, which all actors
    /// may have been observed by, can still lose.
    pub(super) fn may_retire(&self, actors: &[ActorId]) -> bool {
        let holds = |actor: &ActorId| {
            let index = self.actors.find(*actor).and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| self.actors.counts.get(index)).is_some_and(|count| *count > 0)
        };
        self.resets.is_empty() && !actors.iter().any(holds)
    }

    /// These actors have been retired. What they have in records, no holder of the slot had: it counts nowhere, as
    /// their entries do not. Returns the keys that are concerned.
    pub(super) fn retire(&mut self, retired: &[ActorId]) -> Vec<Key> {
        for observed in self.resets.values_mut() {
            observed.fold(retired);
        }
        if self.may_retire(retired) {
            return Vec::new();
        }
        let is_retired = |place: &&Place| retired.binary_search(&self.actors.id(place.actor)).is_ok();
        let gone: Vec<Place> = self.records.keys().filter(is_retired).copied().collect();
        let mut keys = self.keys_at(&gone);
        self.remove_all(gone);
        keys.extend(self.resets.keys().filter_map(|place| Some(self.keys.get(&place.key_hash)?.0.clone())));
        keys
    }

    fn keys_at(&self, places: &[Place]) -> Vec<Key> {
        let hashes: BTreeSet<u64> = places.iter().map(|place| place.key_hash).collect();
        hashes.iter().filter_map(|hash| Some(self.keys.get(hash)?.0.clone())).collect()
    }

    /// When the oldest record was made.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.oldest_ms)
    }

    fn remove_all(&mut self, gone: Vec<Place>) {
        gone.into_iter().for_each(|place| self.remove(place));
        self.oldest_ms = self.records.values().map(|held| held.made_ms()).min().unwrap_or(u64::MAX);
    }

    /// The counters that raising the floor has changed, if storage lacks that.
    pub(super) fn take_unsaved_settled(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.unsaved_settled)
    }

    /// Whether copies have been taken back in the counter's entries when the floor was raised last.
    pub(super) fn was_refunded(&self, key: KeyRef<'_>) -> bool {
        !self.refunded_keys.is_empty() && self.refunded_keys.contains(&key_hash(key))
    }

    /// Puts a record back as storage had it.
    pub(super) fn restore(&mut self, record: &TokenRecord) -> Inserted {
        let group = (key_hash((&record.key).into()), halves(record.id));
        if self.is_forgotten(record) {
            self.early.entry(group).or_default().push(record.clone());
            return Inserted::Known;
        }
        let mut inserted = self.insert(record, &[]);
        for early in self.early.remove(&group).unwrap_or_default() {
            inserted = self.insert(&early, &[]);
        }
        self.restored.insert(group.0);
        self.unsaved.clear();
        inserted
    }

    fn record_at(&self, place: Place, held: Held) -> Option<TokenRecord> {
        let (key, _) = self.keys.get(&place.key_hash)?;
        Some(TokenRecord {
            key: key.clone(),
            id: whole(place.id),
            actor: self.actors.id(place.actor),
            made_ms: held.made_ms(),
            update: held.update(),
            position: held.position,
            observed: self.resets.get(&place).cloned(),
        })
    }

    /// A key's records with ids from `from` to `to`, each with its hash.
    pub(super) fn range<'a>(
        &'a self,
        key: KeyRef<'_>,
        from: u128,
        to: u128,
    ) -> impl Iterator<Item = (u128, u64, TokenRecord)> + use<'a> {
        let key_hash = key_hash(key);
        let taken = self.of_key(key) == 0 || from > to;
        let (from, to) = if taken { (halves(u128::MAX), halves(u128::MAX)) } else { (halves(from), halves(to)) };
        let range = Place { key_hash, id: from, actor: 0 }..=Place { key_hash, id: to, actor: u32::MAX };
        let found = self.records.range(range).filter(move |_| !taken);
        found.filter_map(|(place, held)| Some((whole(place.id), self.hash_of(*place, *held), self.record_at(*place, *held)?)))
    }

    /// Whether any record is of a volume other than `origin`.
    pub(super) fn has_foreign(&self, origin: u64) -> bool {
        self.actors.ids.iter().zip(&self.actors.counts).any(|(actor, count)| *count > 0 && actor.origin != origin)
    }

    /// What storage lacks: by name the records that are to be written, or, where there is none, removed.
    pub(super) fn take_unsaved(&mut self) -> Vec<(TokenName, Option<TokenRecord>)> {
        let mut places = std::mem::take(&mut self.unsaved);
        places.sort_unstable();
        places.dedup();
        places.into_iter().map(|place| self.named(place)).collect()
    }

    fn named(&self, place: Place) -> (TokenName, Option<TokenRecord>) {
        let name = TokenName { key_hash: place.key_hash, id: whole(place.id), actor: self.actors.id(place.actor) };
        (name, self.records.get(&place).and_then(|held| self.record_at(place, *held)))
    }

    /// The record of a name.
    pub(super) fn get(&self, name: &TokenName) -> Option<TokenRecord> {
        let actor = self.actors.find(name.actor)?;
        let place = Place { key_hash: name.key_hash, id: halves(name.id), actor };
        self.records.get(&place).and_then(|held| self.record_at(place, *held))
    }

    /// All records are to be given to storage again.
    pub(super) fn mark_unsaved(&mut self) {
        self.unsaved.extend(self.records.keys().copied());
        self.unsaved_floor = true;
    }

    /// The floor, if storage lacks it.
    pub(super) fn take_unsaved_floor(&mut self) -> Option<u64> {
        std::mem::take(&mut self.unsaved_floor).then_some(self.floor_ms)
    }

    /// There is no storage to lack anything.
    pub(super) fn forgo_unsaved(&mut self) {
        self.unsaved.clear();
        self.unsaved_settled.clear();
        self.unsaved_floor = false;
    }

    /// Forgets everything, and has it removed from storage.
    pub(super) fn clear(&mut self) {
        let mut unsaved = std::mem::take(&mut self.unsaved);
        unsaved.extend(self.records.keys().copied());
        // The actors stay: names of what is to be removed are made of them.
        let actors = Actors { counts: vec![0; self.actors.ids.len()], ids: std::mem::take(&mut self.actors.ids) };
        *self = Self {
            unsaved,
            unsaved_floor: true,
            actors,
            last_fresh: self.last_fresh,
            lost_fresh: self.last_fresh,
            refunded: self.refunded,
            ..Self::default()
        };
    }
}
