//! A node's volume: what has been committed is in the kernel, what has been synced is on the disk.
//!
//! A killed process loses nothing that was committed. A power loss drops a suffix of the commits since the last sync.

use std::collections::BTreeMap;

use counter_core::counter::{Counter, Key};
use counter_core::id::ActorId;
use counter_core::layout::Layout;
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::token::{TokenName, TokenRecord};
use counter_core::vector::SlotRecord;

use counter_seeds::Rng;

/// One record; none removes it.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Counter(Key, Option<Counter>),
    Slot(Slot, Option<SlotRecord>),
    Floor(Slot, u64),
    Token(TokenName, Option<TokenRecord>),
}

/// A client's update that a process applied: the key's number, and what it adds.
pub(crate) type AppliedUpdate = (usize, i64);

/// One commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<Write>,
    /// The clients' updates that it made durable.
    pub(crate) applied: Vec<AppliedUpdate>,
}

/// All records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) counters: BTreeMap<Key, Counter>,
    pub(crate) slots: BTreeMap<Slot, SlotRecord>,
    pub(crate) floors: BTreeMap<Slot, u64>,
    pub(crate) tokens: BTreeMap<TokenName, TokenRecord>,
}

impl Image {
    fn apply(&mut self, batch: &Batch) {
        for write in &batch.writes {
            match write {
                Write::Counter(key, Some(counter)) => drop(self.counters.insert(key.clone(), counter.clone())),
                Write::Counter(key, None) => drop(self.counters.remove(key)),
                Write::Slot(slot, Some(record)) => drop(self.slots.insert(*slot, record.clone())),
                Write::Slot(slot, None) => drop(self.slots.remove(slot)),
                Write::Floor(slot, 0) => drop(self.floors.remove(slot)),
                Write::Floor(slot, floor_ms) => drop(self.floors.insert(*slot, *floor_ms)),
                Write::Token(name, Some(record)) => drop(self.tokens.insert(*name, record.clone())),
                Write::Token(name, None) => drop(self.tokens.remove(name)),
            }
        }
    }

    pub(crate) fn load(&self, table: &Table) {
        for (slot, record) in &self.slots {
            table.restore_slot(*slot, record.clone());
        }
        self.floors.iter().for_each(|(slot, floor_ms)| table.restore_floor(*slot, *floor_ms));
        self.tokens.values().for_each(|record| table.restore_token(record));
        for (key, counter) in &self.counters {
            table.restore_counter(key.slot(), key.into(), counter);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) origin: u64,
    /// Counted up, and synced, before a process uses its actor.
    pub(crate) starts: u32,
    pub(crate) last_actor: Option<ActorId>,
    /// Synced when written.
    pub(crate) layout: Option<Layout>,
    synced: Image,
    log: Vec<Batch>,
    /// Clients' updates committed since the snapshot that may one day be restored.
    since_snapshot: Vec<AppliedUpdate>,
}

impl Disk {
    pub(crate) fn new(origin: u64) -> Self {
        Self {
            origin,
            starts: 0,
            last_actor: None,
            layout: None,
            synced: Image::default(),
            log: Vec::new(),
            since_snapshot: Vec::new(),
        }
    }

    pub(crate) fn commit(&mut self, batch: Batch) {
        self.since_snapshot.extend(&batch.applied);
        self.log.push(batch);
    }

    pub(crate) fn sync(&mut self) {
        for batch in std::mem::take(&mut self.log) {
            self.synced.apply(&batch);
        }
    }

    /// What a process that starts now finds.
    pub(crate) fn image(&self) -> Image {
        let mut image = self.synced.clone();
        self.log.iter().for_each(|batch| image.apply(batch));
        image
    }

    /// Drops a suffix of what was not synced. Returns the updates that went with it.
    pub(crate) fn lose_tail(&mut self, rng: &mut Rng) -> Vec<AppliedUpdate> {
        let kept = rng.index(self.log.len() + 1);
        let lost = self.log.split_off(kept);
        self.sync();
        lost.into_iter().flat_map(|batch| batch.applied).collect()
    }

    /// A copy to be restored, or used elsewhere, later.
    pub(crate) fn snapshot(&mut self) -> Self {
        self.sync();
        self.since_snapshot.clear();
        self.clone()
    }

    /// A volume that another node will start from, and that none has started from yet.
    pub(crate) fn copy_of(snapshot: Self) -> Self {
        Self { last_actor: None, ..snapshot }
    }

    /// Goes back to a snapshot of this volume. Returns the updates committed since.
    pub(crate) fn restore(&mut self, snapshot: Self) -> Vec<AppliedUpdate> {
        let lost = std::mem::take(&mut self.since_snapshot);
        *self = snapshot;
        lost
    }
}
