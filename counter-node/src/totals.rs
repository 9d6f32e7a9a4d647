//! The site's total: each slot's total once, from the slot's owner by the newest layout known.
//!
//! A shard that does not answer contributes what it said last, and the answer says how old that is.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use counter_core::layout::{Layout, Owners};
use counter_core::presence::Viewers;
use counter_core::replica::Freshness;
use counter_core::slot::{SLOTS, Slot};
use counter_core::table::Table;
use counter_core::vector::Reading;
use serde::{Deserialize, Serialize};

/// For how long a gathered total serves further readers.
pub const FRESH: Duration = Duration::from_millis(250);
/// How long a shard may take to answer, all of its replicas together.
pub const GATHER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a node tells another of its slots: the totals of those that it owns and that are not empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotTotals {
    pub owned: Vec<counter_core::slot::SlotRange>,
    pub totals: Vec<(Slot, Reading)>,
    pub freshness: Freshness,
}

impl SlotTotals {
    /// This node's own. A slot whose viewers are not known here is as if it were not owned: others may know.
    #[must_use]
    pub fn of(table: &Table, viewers: &Viewers, freshness: Freshness) -> Self {
        let mut owned = Vec::new();
        let mut totals = Vec::new();
        for slot in Slot::all() {
            let Some(viewers) = viewers.total(slot) else { continue };
            let vector = table.slot(slot);
            if vector.writer().is_some() {
                owned.push(slot);
                let is_empty = vector.is_empty() && viewers == 0;
                totals.extend((!is_empty).then(|| (slot, Reading { viewers, ..vector.total() })));
            }
        }
        Self { owned: counter_core::slot::to_ranges(owned), totals, freshness }
    }
}

/// What is known of every slot's total, and since when.
#[derive(Debug)]
pub struct Totals {
    known: Mutex<Known>,
    /// Held while totals are gathered: who comes meanwhile waits for the same round.
    gathering: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Known {
    /// With the moment since when something may be missing.
    slots: Vec<(Reading, Option<Instant>)>,
    gathered: Option<Instant>,
    /// By shard: what it said of itself in the last round, if it said anything.
    freshness: BTreeMap<usize, Freshness>,
}

/// The sum over all slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteTotal {
    pub reading: Reading,
    /// The age of its oldest part: since when something may have been counted that is missing.
    pub staleness: Duration,
    /// How many replicas stand behind it: over all shards that answered, those that the answering one had heard from.
    pub replicas: u32,
    /// Nobody else counts than the only replica of the only shard.
    pub alone: bool,
}

/// Some slot's owner has never answered: there is no number to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no replica of the owner of slot {slot} has answered since this node started")]
pub struct NeverHeard {
    pub slot: Slot,
}

impl Default for Totals {
    fn default() -> Self {
        let slots = vec![(Reading::UNKNOWN, None); usize::from(SLOTS)];
        Self {
            known: Mutex::new(Known { slots, gathered: None, freshness: BTreeMap::new() }),
            gathering: tokio::sync::Mutex::default(),
        }
    }
}

impl Totals {
    /// Waits for its turn to gather. Look with [`Self::fresh`] afterwards: someone else may just have done it.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.gathering.lock().await
    }

    /// The total, if it was gathered just now.
    pub fn fresh(&self, now: Instant) -> Option<Result<SiteTotal, NeverHeard>> {
        let known = self.lock();
        let fresh = known.gathered.is_some_and(|gathered| now.duration_since(gathered) < FRESH);
        fresh.then(|| known.sum(now))
    }

    /// Begins a round of gathering.
    pub fn begin(&self) {
        self.lock().freshness.clear();
    }

    /// Takes over what a shard said: of the slots that are the shard's by `layout`, those that the answerer owns.
    pub fn take(&self, layout: &Layout, owners: &Owners, shard: usize, said: &SlotTotals, now: Instant) {
        let mut known = self.lock();
        known.freshness.insert(shard, said.freshness);
        let since = now.checked_sub(Duration::from_millis(said.freshness.silent_ms)).unwrap_or(now);
        let counts = |slot: Slot| layout.shards.get(shard).is_some() && owners.index(slot) == shard;
        for slot in said.owned.iter().flat_map(|range| range.iter()).filter(|slot| counts(*slot)) {
            known.slots[slot.index()] = (Reading::UNKNOWN, Some(since));
        }
        for (slot, reading) in said.totals.iter().filter(|(slot, _)| counts(*slot)) {
            known.slots[slot.index()].0 = *reading;
        }
    }

    /// Ends a round of gathering.
    pub fn gathered(&self, now: Instant) -> Result<SiteTotal, NeverHeard> {
        let mut known = self.lock();
        known.gathered = Some(now);
        known.sum(now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn sum(&self, now: Instant) -> Result<SiteTotal, NeverHeard> {
        let mut shards = self.freshness.values();
        let replicas = shards.clone().map(|shard| shard.replicas).fold(0, u32::saturating_add);
        let alone = shards.len() == 1 && shards.all(|shard| shard.alone);
        let mut total = SiteTotal { reading: Reading::UNKNOWN, staleness: Duration::ZERO, replicas, alone };
        for (slot, (reading, heard)) in Slot::all().zip(&self.slots) {
            let heard = heard.ok_or(NeverHeard { slot })?;
            total.reading.tally = total.reading.tally.saturating_add(reading.tally);
            total.reading.viewers = total.reading.viewers.saturating_add(reading.viewers);
            total.reading.updated_at = total.reading.updated_at.max(reading.updated_at);
            total.staleness = total.staleness.max(now.duration_since(heard));
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use counter_core::hlc::Hlc;
    use counter_core::id::{ClusterId, NodeName, ShardId};
    use counter_core::layout::{LAYOUT_FORMAT, LayoutVersion, Node, Shard};

    use super::*;

    const FRESHNESS: Freshness = Freshness { replicas: 2, silent_ms: 40, alone: false };

    fn layout() -> Layout {
        let shard = |number: u16, slots: &str| {
            let name = NodeName::of("c", ShardId(number), 0);
            let node = Node { name, http: "h:1".into(), admin: "h:2".into(), peer: "h:3".into(), resp: None };
            Shard { shard: ShardId(number), slots: vec![slots.parse().unwrap()], nodes: vec![node] }
        };
        let shards = vec![shard(0, "0-8191"), shard(1, "8192-16383")];
        Layout {
            format: LAYOUT_FORMAT,
            cluster: ClusterId(1),
            version: LayoutVersion(1),
            shards,
            moves: Vec::new(),
            virtual_shards: Vec::new(),
        }
    }

    fn said(owned: &str, slot: u16, tally: i128) -> SlotTotals {
        let reading = Reading { tally, updated_at: Some(Hlc(1)), exists: true, viewers: 0 };
        SlotTotals {
            owned: vec![owned.parse().unwrap()],
            totals: vec![(Slot::new(slot).unwrap(), reading)],
            freshness: FRESHNESS,
        }
    }

    #[test]
    fn every_slot_counts_once_even_when_two_shards_claim_it() {
        let (layout, totals, now) = (layout(), Totals::default(), Instant::now());
        let owners = Owners::of(&layout);
        totals.take(&layout, &owners, 0, &said("0-8191", 5, 10), now);
        assert_eq!(totals.gathered(now), Err(NeverHeard { slot: Slot::new(8192).unwrap() }));
        // A shard by an older layout still claims slot 5.
        totals.take(&layout, &owners, 1, &said("0-16383", 5, 7), now);
        assert_eq!(totals.gathered(now).unwrap().reading.tally, 10);
        totals.take(&layout, &owners, 1, &said("8192-16383", 9000, 1), now);
        assert_eq!(totals.gathered(now).unwrap().reading.tally, 11);
    }

    #[test]
    fn a_silent_shard_contributes_its_last_word_and_the_answer_says_how_old_it_is() {
        let (layout, totals, then) = (layout(), Totals::default(), Instant::now());
        let owners = Owners::of(&layout);
        totals.take(&layout, &owners, 0, &said("0-8191", 5, 10), then);
        totals.take(&layout, &owners, 1, &said("8192-16383", 9000, 1), then);
        let later = then + Duration::from_secs(3);
        totals.take(&layout, &owners, 0, &said("0-8191", 5, 12), later);
        let total = totals.gathered(later).unwrap();
        assert_eq!((total.reading.tally, total.staleness), (13, Duration::from_millis(3_040)));
        assert_eq!((total.replicas, total.alone), (4, false), "both answered");
        totals.begin();
        totals.take(&layout, &owners, 0, &said("0-8191", 5, 12), later);
        assert_eq!(totals.gathered(later).unwrap().replicas, 2, "those of the silent shard do not count");
        assert!(totals.fresh(later).is_some());
        assert!(totals.fresh(later + FRESH).is_none());
    }
}
