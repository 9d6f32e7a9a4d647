//! Group commit: many updates, one write.
//!
//! One thread takes everything that is queued, asks the table for the *current* record of each changed counter, once
//! however often it changed, writes them all as one batch, and then tells everyone who waits. While it writes, the next batch
//! gathers. A record is absolute, so the one that is written holds at least every update that was queued before.
//!
//! The order of an update is: [`Committer::admit`], apply it to the table, [`Permit::submit`], wait for the [`Ticket`].
//! A refusal to admit is the only one that proves that an update was *not applied*, which is why it comes first. After
//! that the update stands in the table, and may stand on the disk even if the write failed: the kernel may have taken
//! the batch before it refused the rest, and once the store is writable again the table is written anew. So to a client a
//! failed ticket is *outcome unknown*, never *not applied*.
//!
//! After a failure nothing is admitted; the thread reopens the store, has a new actor taken, writes again
//! all that is in the table and not known to be durable, and only then admits again.

mod queue;
mod recovery;
mod ticket;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

pub use self::queue::Permit;
pub use self::ticket::Ticket;

use self::queue::Queue;
use self::writer::Writer;
use crate::storage::{Change, Fsync, Record, Store, StoreError};

/// How often `EverySecond` forces commits to the disk; also how often a broken store is noticed when nobody writes.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// What the committer asks of the table. Called on the committer's thread; must not wait for a commit.
pub trait RecordSource: Send + Sync {
    /// Appends the current record of each change, which come sorted by slot and without repetition.
    ///
    /// A slot must be read under its lock in one go. For [`Change::Slot`], or when the slot's own record has changed
    /// unsaved, it appends the slot's record and all of its counters, since these belong together.
    fn records(&self, changes: &[Change], into: &mut Vec<Record>);

    /// The store was opened anew after a failure: takes a new actor for all further updates.
    ///
    /// # Errors
    /// When the store cannot keep the new actor. Reopening is then tried again.
    fn reopened(&self) -> Result<(), StoreError>;
}

/// Is told what became durable, before those who wait for it are: nothing may be sent to a peer earlier. Called on the
/// committer's thread, so it must be quick.
pub trait CommitSink: Send + Sync {
    /// These records, whole, are as durable as the fsync mode demands.
    fn committed(&self, records: &[Record]);
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
        Self { fsync, changes_max: 1 << 16, retry_min: Duration::from_millis(500), retry_max: Duration::from_secs(5) }
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
}

impl CommitCounts {
    fn add(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// What the threads and the callers share.
struct Shared {
    store: Arc<dyn Store>,
    source: Arc<dyn RecordSource>,
    sink: Arc<dyn CommitSink>,
    config: CommitConfig,
    queue: Queue,
    writable: watch::Sender<bool>,
    counts: CommitCounts,
    /// How the last flush went, once the writer has ended.
    flushed: OnceLock<Result<(), CommitError>>,
}

/// Makes changes of the table durable, many at a time.
pub struct Committer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the committer's threads.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        store: Arc<dyn Store>,
        source: Arc<dyn RecordSource>,
        sink: Arc<dyn CommitSink>,
        config: CommitConfig,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            store,
            source,
            sink,
            config,
            queue: Queue::new(config.changes_max),
            writable: watch::Sender::new(true),
            counts: CommitCounts::default(),
            flushed: OnceLock::new(),
        });
        let committer = Self { shared: shared.clone(), threads: Mutex::default() };
        let writer = Writer::new(shared.clone());
        committer.spawn("commit", move || writer.run())?;
        committer.spawn("sync", move || sync_by_the_second(&shared))?;
        Ok(committer)
    }

    /// Asks for room for so many changes. Call it before the table is touched.
    ///
    /// # Errors
    /// [`CommitError::Full`], [`CommitError::NotWritable`] or [`CommitError::Stopped`], at once; nothing may be applied then.
    pub fn admit(&self, changes: usize) -> Result<Permit<'_>, CommitError> {
        self.shared.queue.admit(changes)
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

    /// Admits nothing more, writes what is queued, forces everything to the disk, and ends the threads. Blocks meanwhile.
    ///
    /// # Errors
    /// When not everything reached the disk.
    pub fn close(&self) -> Result<(), CommitError> {
        self.shared.queue.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for handle in threads {
            handle.thread().unpark();
            // A thread that panicked has left `flushed` unset, and its tickets resolved.
            drop(handle.join());
        }
        self.shared.flushed.get().cloned().unwrap_or(Err(CommitError::Stopped))
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let handle = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
        Ok(())
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "not everything was written before the end");
        }
    }
}

/// Forces commits to the disk in `EverySecond`, and in every mode notices a store that broke by itself.
fn sync_by_the_second(shared: &Shared) {
    let mut synced = 0;
    while !shared.queue.is_stopped() {
        thread::park_timeout(SYNC_PERIOD);
        if !shared.queue.is_writable() {
            continue;
        }
        let batches = shared.counts.batches.load(Ordering::Acquire);
        let due = shared.config.fsync == Fsync::EverySecond && batches != synced;
        let result = if due { shared.store.sync() } else { Ok(()) }.and_then(|()| shared.store.check());
        match result {
            Ok(()) => synced = batches,
            Err(error) => shared.queue.report_broken(error),
        }
    }
}

#[cfg(test)]
#[path = "commit/tests.rs"]
mod tests;
