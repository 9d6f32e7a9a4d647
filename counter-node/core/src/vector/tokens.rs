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

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use foldhash::fast::FixedState;
use xxhash_rust::xxh3::xxh3_64;

use super::key_hash;
use crate::counter::{Adjustment, Entry, Key, KeyRef, Observed, Update, effect, entry_in};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::token::{TokenName, TokenRecord};

/// Own records that some sibling may lack are kept in mind up to this many; beyond, it has to pull. A counter takes all of its own along,
/// so that so many have to fit one message, however long their keys are.
pub(super) const FRESH_MAX: usize = 16_384;
const FIXED_KEYS: u64 = 3;

/// Where a record stands: in the order of pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    key_hash: u64,
    id: [u64; 2],
    /// Into [`Tokens::actors`].
    actor: u32,
}

/// What a record holds, packed: there may be millions.
#[derive(Clone, Copy, Debug)]
struct Held {
    by: u64,
    /// Milliseconds in the upper 48 bits, the kind of update in the last two.
    made: u64,
    /// See [`TokenRecord::position`].
    position: u64,
}

impl Held {
    fn new(made_ms: u64, update: Update, position: u64) -> Self {
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

    fn made_ms(self) -> u64 {
        self.made >> 16
    }

    fn update(self) -> Update {
        match self.made & 3 {
            0 => Update::Increment(self.by),
            1 => Update::Decrement(self.by),
            2 => Update::Reset,
            _ => Update::Set(self.by.cast_signed()),
        }
    }

    /// Whether resets that have cleared so much of the actor's entry have cleared this copy.
    fn is_cleared_by(self, cleared: Entry) -> bool {
        let subtracts = match self.update() {
            Update::Decrement(_) => true,
            Update::Set(to) => to < 0,
            Update::Increment(_) | Update::Reset | Update::Raise { .. } => false,
        };
        self.position <= if subtracts { cleared.decrements } else { cleared.increments }
    }
}

#[derive(Clone, Debug, Default)]
struct Actors {
    ids: Vec<ActorId>,
    /// Records of each.
    counts: Vec<usize>,
}

impl Actors {
    fn find(&self, actor: ActorId) -> Option<u32> {
        self.ids.iter().position(|known| *known == actor).and_then(|index| u32::try_from(index).ok())
    }

    fn find_or_add(&mut self, actor: ActorId) -> u32 {
        self.find(actor).unwrap_or_else(|| {
            self.ids.push(actor);
            self.counts.push(0);
            u32::try_from(self.ids.len().saturating_sub(1)).unwrap_or(u32::MAX)
        })
    }

    fn id(&self, index: u32) -> ActorId {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.ids.get(index))
            .copied()
            .unwrap_or(ActorId { origin: 0, incarnation: 0 })
    }

    fn count(&mut self, index: u32) -> Option<&mut usize> {
        self.counts.get_mut(usize::try_from(index).ok()?)
    }
}

/// The group that a record belongs to: one token of one counter.
type Group = (u64, [u64; 2]);

/// Own records for a sibling.
#[derive(Debug)]
pub(super) struct FreshRecords {
    pub(super) records: Vec<TokenRecord>,
    /// Up to which number these are all.
    pub(super) upto: u64,
}

/// What taking a record in has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Known,
    New,
    /// It is new, and the key has to be adjusted anew.
    Adjusts,
}

/// How much of an actor's entry resets have cleared.
fn cleared_of(baselines: &Baselines, adjustment: &Adjustment, actor: ActorId) -> Entry {
    entry_in(baselines, actor).max(adjustment.cleared_of(actor))
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

/// What raising the floor does to a counter.
#[derive(Debug, Default)]
pub(super) struct Settlement {
    pub(super) clears: Vec<Observed>,
    pub(super) refunds: Vec<Refund>,
}

/// A copy that does not count, to be taken back in its actor's entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refund {
    pub(super) actor: ActorId,
    pub(super) update: Update,
    /// Resets have cleared the copy for good, so that taking it back must count for nothing.
    pub(super) cleared: bool,
}

/// What resets have cleared of a counter's entries, by actor; sorted.
pub(super) type Baselines = [(ActorId, Entry)];

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

fn halves(id: u128) -> [u64; 2] {
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    [u64::try_from(id >> 64).unwrap_or_default(), low]
}

fn whole([high, low]: [u64; 2]) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

fn group_range((key_hash, id): Group) -> RangeInclusive<Place> {
    Place { key_hash, id, actor: 0 }..=Place { key_hash, id, actor: u32::MAX }
}

fn key_range(key_hash: u64) -> RangeInclusive<Place> {
    Place { key_hash, id: [0, 0], actor: 0 }..=Place { key_hash, id: [u64::MAX, u64::MAX], actor: u32::MAX }
}

fn group_of(place: Place) -> Group {
    (place.key_hash, place.id)
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

    /// Notes that a record is this node's own, and new to its siblings.
    pub(super) fn note_fresh(&mut self, key: KeyRef<'_>, id: u128, actor: ActorId) {
        self.refresh(key, actor);
        if let Some(actor) = self.actors.find(actor) {
            self.push_fresh(Place { key_hash: key_hash(key), id: halves(id), actor });
        }
    }

    /// The key's counter goes out, with what earlier processes of this node's volume have counted: their records go along.
    pub(super) fn refresh(&mut self, key: KeyRef<'_>, writer: ActorId) {
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

    fn copies(&self, group: Group) -> impl Iterator<Item = (Place, Held)> {
        self.records.range(group_range(group)).map(|(place, held)| (*place, *held))
    }

    /// The record of a token that counts.
    fn winner(&self, group: Group) -> Option<Place> {
        let order =
            |place: &Place| (self.resets.get(place).map_or(Hlc::default(), |observed| observed.at), self.actors.id(place.actor));
        self.copies(group).map(|(place, _)| place).min_by_key(order)
    }

    fn contested_of(&self, key: KeyRef<'_>) -> Vec<Group> {
        if self.contested.is_empty() || self.of_key(key) == 0 {
            return Vec::new();
        }
        let hash = key_hash(key);
        self.contested.range((hash, [0, 0])..=(hash, [u64::MAX, u64::MAX])).copied().collect()
    }

    /// What the key's entries are to be corrected by on account of a token that several have counted; none when by nothing.
    fn surplus(&self, group: Group, cleared_of: &impl Fn(ActorId) -> Entry) -> Option<i128> {
        let winner = self.winner(group)?;
        let (mut counts, mut any_cleared, mut left, mut held_by_all) = (0_i128, false, 0_usize, 0_i128);
        for (place, held) in self.copies(group) {
            if held.is_cleared_by(cleared_of(self.actors.id(place.actor))) {
                any_cleared = true;
                continue;
            }
            left = left.saturating_add(1);
            held_by_all = held_by_all.saturating_add(effect(held.update()));
            if place == winner {
                counts = effect(held.update());
            }
        }
        let counts = if any_cleared { 0 } else { counts };
        let is_right = left == usize::from(!any_cleared);
        (!is_right).then(|| counts.saturating_sub(held_by_all))
    }

    /// Whether the key's reading depends on which copies resets have cleared.
    pub(super) fn is_adjustable(&self, key: KeyRef<'_>) -> bool {
        let has = |hash| self.contested.range((hash, [0, 0])..=(hash, [u64::MAX, u64::MAX])).next().is_some();
        !self.contested.is_empty() && self.of_key(key) > 0 && has(key_hash(key))
    }

    /// Adjusts for one more reset, of a token that nobody else has counted, without going over the others. False where tokens that
    /// several have counted make that more than it seems.
    pub(super) fn adjust_for_reset(&mut self, record: &TokenRecord) -> bool {
        if self.is_adjustable((&record.key).into()) {
            return false;
        }
        let mut adjustment = self.adjustments.remove(&record.key).unwrap_or(Adjustment::NONE);
        record.observed.iter().for_each(|observed| adjustment.reset(observed));
        if adjustment != Adjustment::NONE {
            self.adjustments.insert(record.key.clone(), adjustment);
        }
        true
    }

    /// Reckons the key's adjustment anew, for a counter of these baselines.
    pub(super) fn readjust(&mut self, key: KeyRef<'_>, baselines: &Baselines) {
        let adjustment = self.adjustment_of(key, baselines);
        if adjustment == Adjustment::NONE {
            self.adjustments.remove(key.as_bytes());
        } else {
            self.adjustments.insert(key.to_key(), adjustment);
        }
    }

    fn adjustment_of(&self, key: KeyRef<'_>, baselines: &Baselines) -> Adjustment {
        let mut adjustment = Adjustment::NONE;
        if !self.resets.is_empty() && self.of_key(key) > 0 {
            let resets = self.resets.range(key_range(key_hash(key)));
            for (place, observed) in resets.filter(|(place, _)| self.winner(group_of(**place)) == Some(**place)) {
                debug_assert!(self.records.contains_key(place));
                adjustment.reset(observed);
            }
        }
        let mut corrections = Vec::new();
        for group in self.contested_of(key) {
            corrections.extend(self.surplus(group, &|actor| cleared_of(baselines, &adjustment, actor)));
        }
        corrections.into_iter().for_each(|by| adjustment.correct(by));
        adjustment
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

    /// The tokens all of whose records were made before.
    fn groups_below(&self, floor_ms: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut records = self.records.iter().peekable();
        while let Some((place, held)) = records.next() {
            let group = group_of(*place);
            let mut below = held.made_ms() < floor_ms;
            while let Some((_, held)) = records.next_if(|(place, _)| group_of(**place) == group) {
                below &= held.made_ms() < floor_ms;
            }
            groups.extend(below.then_some(group));
        }
        groups
    }

    /// A summary of all that raising the floor would forget, and of what it would do to the counters.
    pub(super) fn digest_below(&self, floor_ms: u64, baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>) -> u64 {
        let mut digest = 0;
        let (below, of_keys) = (self.groups_below(floor_ms), &self.keys);
        for of_key in below.chunk_by(|left, right| left.0 == right.0) {
            let Some((key, _)) = of_key.first().and_then(|(hash, _)| of_keys.get(hash)) else { continue };
            let contested = of_key.iter().any(|group| self.contested.contains(group));
            let cleared = contested.then(|| {
                let baselines = baselines_of(key);
                let adjustment = self.adjustment_of(key.into(), &baselines);
                (baselines, adjustment)
            });
            for (place, held) in of_key.iter().flat_map(|group| self.copies(*group)) {
                let is_cleared = |(baselines, adjustment): &(Vec<_>, Adjustment)| {
                    held.is_cleared_by(cleared_of(baselines, adjustment, self.actors.id(place.actor)))
                };
                let hash = self.hash_of(place, held);
                digest ^= if cleared.as_ref().is_some_and(is_cleared) { hash.rotate_left(1) } else { hash };
            }
        }
        digest
    }

    /// When the oldest record was made.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.oldest_ms)
    }

    fn remove_all(&mut self, gone: Vec<Place>) {
        gone.into_iter().for_each(|place| self.remove(place));
        self.oldest_ms = self.records.values().map(|held| held.made_ms()).min().unwrap_or(u64::MAX);
    }

    /// Forgets all tokens that were made before. What that leaves to be done must be done to the counters.
    pub(super) fn raise_floor(
        &mut self,
        floor_ms: u64,
        baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>,
    ) -> Vec<(Key, Settlement)> {
        if floor_ms <= self.floor_ms {
            return Vec::new();
        }
        let below = self.groups_below(floor_ms);
        let (mut settlements, mut gone) = (Vec::new(), Vec::new());
        for of_key in below.chunk_by(|left, right| left.0 == right.0) {
            gone.extend(of_key.iter().flat_map(|group| self.copies(*group)).map(|(place, _)| place));
            let Some((key, _)) = of_key.first().and_then(|(hash, _)| self.keys.get(hash)) else { continue };
            let key = key.clone();
            let settlement = self.settle(&key, of_key, &baselines_of);
            settlements.extend(settlement.map(|settlement| (key, settlement)));
        }
        self.remove_all(gone);
        self.set_floor(floor_ms);
        let refunded = settlements.iter().filter(|(_, settlement)| !settlement.refunds.is_empty());
        self.refunded_keys = refunded.map(|(key, _)| key_hash(key.into())).collect();
        self.unsaved_settled.extend(settlements.iter().map(|(key, _)| key.clone()));
        settlements
    }

    /// What forgetting these tokens of one key leaves to be done. Which copies lose does not depend on what a holder knows of
    /// resets, so that all correct the entries alike.
    fn settle(
        &mut self,
        key: &Key,
        groups: &[Group],
        baselines_of: impl Fn(&Key) -> Vec<(ActorId, Entry)>,
    ) -> Option<Settlement> {
        let is_contested = |group: &&Group| self.contested.contains(*group);
        let contested: Vec<Group> = groups.iter().filter(is_contested).copied().collect();
        let winners = groups.iter().filter(|_| !self.resets.is_empty()).filter_map(|group| self.winner(*group));
        let clears: Vec<Observed> =
            winners.filter_map(|winner| self.resets.get(&winner).map(|observed| (**observed).clone())).collect();
        let mut settlement = Settlement { clears, refunds: Vec::new() };
        if contested.is_empty() {
            return (!settlement.clears.is_empty()).then_some(settlement);
        }
        let baselines = baselines_of(key);
        let (all, mut for_good) = (self.adjustment_of(key.into(), &baselines), Adjustment::NONE);
        settlement.clears.iter().for_each(|observed| for_good.reset(observed));
        for group in contested {
            let winner = self.winner(group);
            let copies: Vec<(Place, Held)> = self.copies(group).collect();
            let is_cleared = |by: &Adjustment, (place, held): &(Place, Held)| {
                held.is_cleared_by(cleared_of(&baselines, by, self.actors.id(place.actor)))
            };
            let any_cleared = copies.iter().any(|copy| is_cleared(&all, copy));
            let counts = |copy: &&(Place, Held)| Some(copy.0) == winner && (is_cleared(&all, copy) || !any_cleared);
            let left: Vec<(Place, Held)> = copies.iter().filter(|copy| !counts(copy)).copied().collect();
            let refund_of = |copy: &(Place, Held)| Refund {
                actor: self.actors.id(copy.0.actor),
                update: copy.1.update(),
                cleared: is_cleared(&for_good, copy),
            };
            settlement.refunds.extend(left.iter().map(refund_of));
            left.into_iter().for_each(|copy| self.clear_refund(copy, groups));
        }
        Some(settlement)
    }

    /// A copy is taken back: what later resets have cleared, if they have cleared the copy, is that, too.
    fn clear_refund(&mut self, (place, held): (Place, Held), settled: &[Group]) {
        let actor = self.actors.id(place.actor);
        let resets = self.resets.range_mut(key_range(place.key_hash));
        for (reset, observed) in resets.filter(|(reset, _)| settled.binary_search(&group_of(**reset)).is_err()) {
            if held.is_cleared_by(observed.entry_of(actor)) {
                observed.add_refund(actor, held.update());
                self.unsaved.push(*reset);
            }
        }
    }

    /// The counters that raising the floor has changed, if storage lacks that.
    pub(super) fn take_unsaved_settled(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.unsaved_settled)
    }

    /// Whether copies have been taken back in the counter's entries when the floor was raised last.
    pub(super) fn was_refunded(&self, key: KeyRef<'_>) -> bool {
        !self.refunded_keys.is_empty() && self.refunded_keys.contains(&key_hash(key))
    }

    fn set_floor(&mut self, floor_ms: u64) {
        self.floor_ms = floor_ms;
        self.unsaved_floor = true;
    }

    /// Puts the floor back as storage had it. Returns the keys of records that turn out to be forgotten.
    pub(super) fn restore_floor(&mut self, floor_ms: u64) -> Vec<Key> {
        self.floor_ms = floor_ms;
        let below = self.groups_below(floor_ms);
        let early: Vec<(Place, Held)> = below.iter().flat_map(|group| self.copies(*group)).collect();
        let gone: Vec<Place> = early.iter().map(|(place, _)| *place).collect();
        for (place, held) in early {
            let record = self.record_at(place, held);
            self.early.entry(group_of(place)).or_default().extend(record);
        }
        let keys = self.keys_at(&gone);
        self.remove_all(gone);
        self.unsaved.clear();
        self.unsaved_floor = false;
        keys
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

    /// The own records of keys of these hashes that some sibling may lack.
    pub(super) fn fresh_of(&self, hashes: &HashSet<u64>) -> impl Iterator<Item = TokenRecord> {
        let of_keys = self.fresh.values().filter(|place| hashes.contains(&place.key_hash));
        of_keys.filter_map(|place| self.records.get(place).and_then(|held| self.record_at(*place, *held)))
    }

    /// Own records made after `since`, as many as fit; and, however many they are, all of those of the counters that go out:
    /// `keys`, and those that the former are of. None when some of them are not kept in mind any more.
    pub(super) fn fresh_since(&self, since: u64, records_max: usize, keys: &[&Key]) -> Option<FreshRecords> {
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
    pub(super) fn last_fresh(&self) -> u64 {
        self.last_fresh
    }

    /// All siblings have what was changed up to this one.
    pub(super) fn forget_fresh(&mut self, upto: u64) {
        self.fresh = self.fresh.split_off(&upto.saturating_add(1));
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
