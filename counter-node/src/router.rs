//! From a client's request to whoever owns the counter: this replica's own table, or a node that the layout names.

use std::sync::Arc;

use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::vector::{self, Refusal};

/// What a client learns of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The number, within the range of the reply.
    pub count: i64,
    /// `count` is not the sum: concurrent updates have taken that past the range.
    pub clamped: bool,
    /// The sum without viewers.
    pub tally: i128,
    /// When the counter last changed; none when never.
    pub updated_at: Option<Hlc>,
    /// How old the least fresh part of the answer may be.
    pub staleness_ms: u64,
}

/// What a client asks of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Increment(u64),
    Decrement(u64),
    /// Clears what was observed.
    Reset,
}

/// Why a client gets no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was changed, and a later try may succeed.
    NotApplied { reason: String, retry_after_s: u32 },
    /// The update may or may not count.
    OutcomeUnknown { reason: String },
    /// The update would leave the range of the number; nothing was changed.
    Range { message: String },
    /// The page is new and the node's table is full; nothing was changed.
    TooManyCounters { limit: u64 },
    /// The page is new and the node's counters take all of the memory that they may; nothing was changed.
    TooMuchMemory { limit_bytes: u64 },
    /// A queue is full; nothing was changed.
    Overloaded { what: &'static str, limit: u64 },
}

/// Takes requests to the counters' owners.
#[derive(Debug)]
pub struct Router {
    table: Arc<Table>,
}

impl Router {
    /// A router of a node that owns every slot of `table`.
    #[must_use]
    pub fn new(table: Arc<Table>) -> Self {
        Self { table }
    }

    /// Applies one update.
    ///
    /// # Errors
    /// [`Failure`], which says whether anything changed.
    #[expect(clippy::unused_async, reason = "foreign slots will be awaited")]
    pub async fn update(&self, key: Key, action: Action) -> Result<Reading, Failure> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let now = Hlc::from_wall_ms(u64::try_from(now_ms).unwrap_or_default());
        let applied = self.table.apply(&key, Update::from(action), now).map_err(Failure::from)?;
        Ok(Reading::from(applied.reading))
    }

    /// Reads one counter; one that nobody has updated counts 0.
    ///
    /// # Errors
    /// [`Failure`] when no owner answers.
    #[expect(clippy::unused_async, reason = "foreign slots will be awaited")]
    pub async fn read(&self, key: Key) -> Result<Reading, Failure> {
        Ok(Reading::from(self.table.read(&key)))
    }

    /// Applies many updates; the results are in their order, each stands for itself.
    pub async fn update_many(&self, updates: Vec<(Key, Action)>) -> Vec<Result<Reading, Failure>> {
        let mut results = Vec::with_capacity(updates.len());
        for (key, action) in updates {
            results.push(self.update(key, action).await);
        }
        results
    }

    /// Reads many counters; the results are in their order.
    pub async fn read_many(&self, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(self.read(key).await);
        }
        results
    }

    /// The sum over all counters of the cluster.
    ///
    /// # Errors
    /// [`Failure`] when no total can be given.
    #[expect(clippy::unused_async, reason = "other shards will be awaited")]
    pub async fn site(&self) -> Result<Reading, Failure> {
        let tally = Slot::all().map(|slot| self.table.slot(slot).tally()).sum();
        Ok(Reading::from(vector::Reading { tally, updated_at: None }))
    }

    /// Some of the pages that this node holds, at most `limit`.
    #[must_use]
    pub fn pages(&self, limit: usize) -> Vec<Key> {
        let mut pages = Vec::new();
        for slot in Slot::all() {
            pages.extend(self.table.slot(slot).keys().take(limit.saturating_sub(pages.len())).cloned());
            if pages.len() >= limit {
                break;
            }
        }
        pages
    }
}

impl From<vector::Reading> for Reading {
    fn from(reading: vector::Reading) -> Self {
        let count = reading.count();
        let clamped = i128::from(count) != reading.tally;
        Self { count, clamped, tally: reading.tally, updated_at: reading.updated_at, staleness_ms: 0 }
    }
}

impl From<Action> for Update {
    fn from(action: Action) -> Self {
        match action {
            Action::Increment(by) => Self::Increment(by),
            Action::Decrement(by) => Self::Decrement(by),
            Action::Reset => Self::Reset,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOwner => Self::NotApplied { reason: refusal.to_string(), retry_after_s: 1 },
            Refusal::OutOfRange(range) => Self::Range { message: range.to_string() },
            Refusal::TooManyCounters { limit } => Self::TooManyCounters { limit },
            Refusal::TooMuchMemory { limit_bytes } => Self::TooMuchMemory { limit_bytes },
        }
    }
}
