//! Group commit: many updates, one write.
//!
//! One writer takes everything that is queued, asks the table for the *current* record of each changed counter, once
//! however often it changed, writes them all as one batch, and then tells everyone who waits. While it writes, the next batch
//! gathers. A record is absolute, so the one that is written holds at least every update that was queued before.
//!
//! **A commit to the kernel is made by whoever submits it**, if nobody else writes and the last one was quick: it takes a few
//! microseconds, less than a turn of the writer and one more of its request would. What comes meanwhile, from other threads,
//! gathers for the writer; so does everything while commits are slow.
//!
//! The writer is a task of the runtime, which first lets all requests that are ready have their turn: with a thread of its own it
//! would always find a batch of one. Only where a commit waits, for the disk (`Always`) or for a store that says so, a thread
//! makes it, and the writer tells everyone when that is done: a thread that woke each of them itself would cost more than the
//! commit.
//!
//! A store that keeps nothing has nothing to wait for: tickets are settled as they are given, and the writer has no work.
//!
//! The order of an update is: [`Committer::admit`], apply it to the table, [`Permit::submit`], wait for the [`Ticket`].
//! A refusal to admit is the only one that proves that an update was *not applied*, which is why it comes first. After
//! that the update stands in the table, and may stand on the disk even if the write failed: the kernel may have taken
//! the batch before it refused the rest, and once the store is writable again the table is written anew. So to a client a
//! failed ticket is *outcome unknown*, never *not applied*.
//!
//! After a failure nothing is admitted; the writer reopens the store, has a new actor taken, writes again
//! all that is in the table and not known to be durable, and only then admits again.

mod permit;
mod queue;
mod recovery;
mod ticket;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use counter_core::key::KeyRef;
use counter_core::slot::Slot;
use tokio::sync::watch;

pub use self::permit::Permit;
pub use self::ticket::Ticket;

use self::queue::Queue;
use self::writer::{Failure, Writer};
use crate::storage::{Change, Durability, Fsync, Record, Store, StoreError};

/// How often `EverySecond` forces commits to the disk; also how often a broken store is noticed when nobody writes.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// What the committer asks of the table. Called by the writer, so it must neither wait for a commit nor block for long.
pub trait RecordSource: Send + Sync {
    /// Appends the current record of each change, which come sorted by slot and without repetition.
    ///
    /// A slot must be read under its lock in one go. For [`Change::Slot`], or when the slot's own record has changed
    /// unsaved, it appends the slot's record and all of its counters, since these belong together.
    fn records(&self, changes: &[Change], into: &mut Vec<Record>);

    /// The store keeps nothing: what the slot has marked to be written need not be.
    fn forgo(&self, slot: Slot);

    /// The store was opened anew after a failure: takes a new actor for all further updates.
    ///
    /// # Errors
    /// When the store cannot keep the new actor. Reopening is then tried again.
    fn reopened(&self) -> Result<(), StoreError>;
}

/// What a change is made of where it is kept. Where nothing is, only its slot is asked for.
pub trait ToChange {
    /// The slot that it is in.
    fn slot(&self) -> Slot;
    /// The change.
    fn into_change(self) -> Change;
}

impl ToChange for Change {
    fn slot(&self) -> Slot {
        self.slot()
    }

    fn into_change(self) -> Change {
        self
    }
}

impl ToChange for (Slot, KeyRef<'_>) {
    fn slot(&self) -> Slot {
        self.0
    }

    fn into_change(self) -> Change {
        Change::Counter { slot: self.0, key: self.1.to_key() }
    }
}

/// Why an update was not acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// Too many updates wait already. Nothing was applied.
    #[error("too many updates wait to be written")]
    Full,
    /// The store cannot be written to at present. Nothing was applied.
    #[error("the store cannot be written to at present")]
    NotWritable,
    /// The write failed. The update stands in the table, and perhaps on the disk: the outcome is unknown.
    #[error("the update could not be written")]
    Storage(#[source] Arc<StoreError>),
    /// The node stops. From `admit`: nothing was applied. From a ticket: the outcome is unknown.
    #[error("the node is stopping")]
    Stopped,
}

/// How to commit.
#[derive(Clone, Copy, Debug)]
pub struct CommitConfig {
    /// When commits are forced to the disk.
    pub fsync: Fsync,
    /// How many changes may wait or be in the making; at most 512 bytes of key each.
    pub changes_max: usize,
    /// What a commit to the kernel takes at most that lets whoever submits changes make the next one. Of those that take longer many are made
    /// as one.
    pub quick: Duration,
    /// How long to wait before a broken store is reopened the first time; doubled each time, up to `retry_max`.
    pub retry_min: Duration,
    /// The longest wait between two attempts to reopen the store.
    pub retry_max: Duration,
}

impl CommitConfig {
    /// The configuration that nodes run with.
    #[must_use]
    pub fn new(fsync: Fsync) -> Self {
        // 65,536: four times the connections that a node takes, so that only batches and peers' changes can fill it.
        Self {
            fsync,
            changes_max: 1 << 16,
            quick: Duration::from_micros(50),
            retry_min: Duration::from_millis(500),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// What has been done so far, for the metrics.
#[derive(Debug, Default)]
pub struct CommitCounts {
    /// Batches written.
    pub batches: AtomicU64,
    /// Records written.
    pub records: AtomicU64,
    /// Changes submitted that were made durable.
    pub changes: AtomicU64,
    /// Failed commits, syncs and attempts to reopen.
    pub failures: AtomicU64,
    /// How often the store was opened anew and everything written again that it might have lacked.
    pub mended: AtomicU64,
}

impl CommitCounts {
    fn add(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// What the threads and the callers share.
struct Shared {
    store: Arc<dyn Store>,
    /// See [`Store::keeps`].
    keeps_nothing: bool,
    source: Arc<dyn RecordSource>,
    config: CommitConfig,
    queue: Queue,
    writable: watch::Sender<bool>,
    counts: CommitCounts,
    /// How the last flush went, once the writer has ended.
    flushed: watch::Sender<Option<Result<(), CommitError>>>,
}

impl Shared {
    /// Commits records, and may wait for it.
    fn commit(&self, records: &[Record]) -> Result<(), StoreError> {
        self.store.commit(records, self.config.fsync.durability())?;
        CommitCounts::add(&self.counts.records, records.len());
        self.counts.batches.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The store has failed: from here on nothing is admitted.
    fn refuse(&self, error: &Arc<StoreError>) {
        CommitCounts::add(&self.counts.failures, 1);
        self.queue.refuse(CommitError::Storage(error.clone()));
        self.writable.send_replace(false);
    }
}

/// Makes changes of the table durable, many at a time.
pub struct Committer {
    shared: Arc<Shared>,
    sync_thread: Thread,
}

impl Committer {
    /// Starts the committer on the runtime that this is called on.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(store: Arc<dyn Store>, source: Arc<dyn RecordSource>, config: CommitConfig) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            keeps_nothing: !store.keeps(),
            store,
            source,
            config,
            queue: Queue::new(config.changes_max, config.fsync.durability() == Durability::InKernel),
            writable: watch::Sender::new(true),
            counts: CommitCounts::default(),
            flushed: watch::Sender::new(None),
        });
        drop(tokio::spawn(Writer::new(shared.clone()).run()));
        let syncing = shared.clone();
        let sync = thread::Builder::new().name("sync".to_owned()).spawn(move || sync_by_the_second(&syncing))?;
        Ok(Self { shared, sync_thread: sync.thread().clone() })
    }

    /// Asks for room for so many changes. Call it before the table is touched.
    ///
    /// # Errors
    /// [`CommitError::Full`], [`CommitError::NotWritable`] or [`CommitError::Stopped`], at once; nothing may be applied then.
    pub fn admit(&self, changes: usize) -> Result<Permit<'_>, CommitError> {
        Permit::new(&self.shared, changes)
    }

    /// Whether the store takes writes; changes as it breaks and is mended.
    #[must_use]
    pub fn writable(&self) -> watch::Receiver<bool> {
        self.shared.writable.subscribe()
    }

    /// What has been done so far.
    #[must_use]
    pub fn counts(&self) -> &CommitCounts {
        &self.shared.counts
    }

    /// How many changes wait or are in the making.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.queue.admitted()
    }

    /// Admits nothing more, writes what is queued, and forces everything to the disk.
    ///
    /// # Errors
    /// When not everything reached the disk.
    pub async fn close(&self) -> Result<(), CommitError> {
        self.stop();
        let mut flushed = self.shared.flushed.subscribe();
        match flushed.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(CommitError::Stopped)),
            Err(_) => Err(CommitError::Stopped),
        }
    }

    fn stop(&self) {
        self.shared.queue.stop();
        self.sync_thread.unpark();
    }
}

/// The writer ends by itself, after it has written what is queued.
impl Drop for Committer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forces commits to the disk in `EverySecond`, and in every mode notices a store that broke by itself.
fn sync_by_the_second(shared: &Shared) {
    let mut synced = 0;
    loop {
        thread::park_timeout(SYNC_PERIOD);
        if shared.queue.is_stopped() {
            return;
        }
        if !shared.queue.is_writable() {
            continue;
        }
        let batches = shared.counts.batches.load(Ordering::Acquire);
        let due = shared.config.fsync == Fsync::EverySecond && batches != synced;
        let result = if due { shared.store.sync() } else { Ok(()) };
        match result.and_then(|()| shared.store.check()) {
            Ok(()) => synced = batches,
            Err(error) => shared.queue.report_broken(Failure::unasked(error)),
        }
    }
}

#[cfg(test)]
#[path = "commit/tests.rs"]
mod tests;
