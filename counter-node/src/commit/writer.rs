//! The writer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::queue::{Batch, Work};
use super::{CommitCounts, CommitError, Shared};
use crate::storage::{Change, Durability, Record, StoreError};

/// The longest that updates wait for others to share their commit, however slow the store is.
const PATIENCE_MAX: Duration = Duration::from_millis(2);

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// Reused from batch to batch.
    pub(super) records: Vec<Record>,
    /// What is in the table and not known to be durable. Empty but for after a failure.
    pub(super) unsaved: BTreeSet<Change>,
    /// How long others may let the next batch grow: as long as the last commit took, if others could do something meanwhile.
    patience: Duration,
}

/// Why the store has to be mended.
pub(super) struct Failure {
    pub(super) error: Arc<StoreError>,
    /// Whether it came of a commit. Otherwise the store was found broken.
    pub(super) asked: bool,
    /// What was to be written.
    pub(super) unsaved: Vec<Change>,
}

impl Failure {
    pub(super) fn unasked(error: StoreError) -> Self {
        Self { error: Arc::new(error), asked: false, unsaved: Vec::new() }
    }
}

/// Leaves nobody waiting, however the writer ends.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.queue.end();
        self.0.writable.send_replace(false);
        self.0.flushed.send_if_modified(|flushed| {
            let cut_short = flushed.is_none();
            flushed.get_or_insert(Err(CommitError::Stopped));
            cut_short
        });
    }
}

/// Runs blocking work of the writer's; `None` when it panicked or the runtime is ending.
async fn on_a_thread(mut writer: Writer, work: impl FnOnce(&mut Writer) + Send + 'static) -> Option<Writer> {
    let worked = tokio::task::spawn_blocking(move || {
        work(&mut writer);
        writer
    });
    worked.await.ok()
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, records: Vec::new(), unsaved: BTreeSet::new(), patience: Duration::ZERO }
    }

    /// Writes until the queue has been stopped and is empty.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let _end = End(&shared);
        loop {
            let failure = match shared.queue.next(self.patience).await {
                Work::Write(batch) => self.write(batch).await.err(),
                Work::Mend(failure) => Some(failure),
                Work::End => break,
            };
            if let Some(failure) = failure {
                let Some(mended) = on_a_thread(self, move |writer| writer.mend(failure)).await else { return };
                self = mended;
            }
        }
        on_a_thread(self, |writer| writer.flush()).await;
    }

    /// Makes one batch durable.
    async fn write(&mut self, mut batch: Batch<'_>) -> Result<(), Failure> {
        self.records.clear();
        self.shared.source.records(batch.changes(), &mut self.records);
        match self.commit_batch().await {
            Ok(()) => {
                CommitCounts::add(&self.shared.counts.changes, batch.submitted());
                batch.resolve(Ok(()));
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                // Refuse before the first waiter is told, so that none of them is admitted again only to fail again.
                self.shared.refuse(&error);
                let unsaved = batch.resolve(Err(CommitError::Storage(error.clone())));
                Err(Failure { error, asked: true, unsaved })
            }
        }
    }

    /// Commits what is in `records`; where the store may make its caller wait, on a thread, so that nobody else on the runtime
    /// waits with it.
    async fn commit_batch(&mut self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if shared.config.fsync.durability() == Durability::InKernel && !shared.store.may_wait(&self.records) {
            self.patience = Duration::ZERO;
            let since = Instant::now();
            let committed = self.commit_records();
            self.shared.queue.note_pace(since.elapsed() <= self.shared.config.quick);
            return committed;
        }
        let (shared, records, since) = (shared.clone(), std::mem::take(&mut self.records), Instant::now());
        let committing = tokio::task::spawn_blocking(move || {
            let committed = shared.commit(&records);
            (records, committed)
        });
        match committing.await {
            Ok((records, committed)) => {
                (self.records, self.patience) = (records, since.elapsed().min(PATIENCE_MAX));
                self.note(committed)
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ending) => Err(StoreError::Engine(ending.to_string())),
            },
        }
    }

    /// The last thing that the writer does.
    fn flush(&mut self) {
        let synced = self.shared.store.sync().map_err(|error| CommitError::Storage(Arc::new(error)));
        let unsaved = !self.unsaved.is_empty();
        let flushed = if unsaved && synced.is_ok() { Err(CommitError::NotWritable) } else { synced };
        self.shared.flushed.send_replace(Some(flushed));
    }

    /// Commits what is in `records`, and may wait for it.
    pub(super) fn commit_records(&mut self) -> Result<(), StoreError> {
        let committed = self.shared.commit(&self.records);
        self.note(committed)
    }

    /// Remembers what came of committing `records`.
    fn note(&mut self, committed: Result<(), StoreError>) -> Result<(), StoreError> {
        // Records may have come unasked, and will not come again by themselves.
        committed.inspect_err(|_| self.unsaved.extend(self.records.iter().map(|record| record.of.clone())))
    }
}
