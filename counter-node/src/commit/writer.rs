//! The writer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{Batch, Work};
use super::{CommitCounts, CommitError, Shared};
use crate::storage::{Change, Record, StoreError};

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// Reused from batch to batch.
    pub(super) records: Vec<Record>,
    /// What is in the table and not known to be durable. Empty but for after a failure.
    pub(super) unsaved: BTreeSet<Change>,
}

/// Why the store has to be mended.
pub(super) struct Failure {
    pub(super) error: Arc<StoreError>,
    /// Whether it came of a commit. Otherwise the store was found broken.
    pub(super) asked: bool,
}

impl Failure {
    fn unasked(error: StoreError) -> Self {
        Self { error: Arc::new(error), asked: false }
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
        Self { shared, records: Vec::new(), unsaved: BTreeSet::new() }
    }

    /// Writes until the queue has been stopped and is empty.
    pub(super) fn run_as_thread(mut self) {
        let shared = self.shared.clone();
        let _end = End(&shared);
        loop {
            match shared.queue.next() {
                Work::Write(batch) => {
                    if let Err(failure) = self.write(batch) {
                        self.mend(failure);
                    }
                }
                Work::Mend(error) => self.mend(Failure::unasked(error)),
                Work::End => break,
            }
        }
        self.flush();
    }

    /// The same, but whatever may wait for the disk is done on a thread of its own.
    pub(super) async fn run_as_task(mut self) {
        let shared = self.shared.clone();
        let _end = End(&shared);
        loop {
            let failure = match shared.queue.next_for_task().await {
                Work::Write(batch) if shared.store.may_wait() => {
                    // Those who run on this worker would wait with us.
                    tokio::task::block_in_place(|| self.write(batch)).err()
                }
                Work::Write(batch) => self.write(batch).err(),
                Work::Mend(error) => Some(Failure::unasked(error)),
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
    fn write(&mut self, mut batch: Batch<'_>) -> Result<(), Failure> {
        self.records.clear();
        self.shared.source.records(batch.changes(), &mut self.records);
        match self.commit_records() {
            Ok(()) => {
                CommitCounts::add(&self.shared.counts.changes, batch.submitted());
                batch.resolve(Ok(()));
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                // Refuse before the first waiter is told, so that none of them is admitted again only to fail again.
                self.refuse(&error);
                self.unsaved.extend(batch.resolve(Err(CommitError::Storage(error.clone()))));
                Err(Failure { error, asked: true })
            }
        }
    }

    /// The last thing that the writer does.
    fn flush(&mut self) {
        let synced = self.shared.store.sync().map_err(|error| CommitError::Storage(Arc::new(error)));
        let unsaved = !self.unsaved.is_empty();
        let flushed = if unsaved && synced.is_ok() { Err(CommitError::NotWritable) } else { synced };
        self.shared.flushed.send_replace(Some(flushed));
    }

    /// Commits what is in `records`.
    pub(super) fn commit_records(&mut self) -> Result<(), StoreError> {
        let shared = &self.shared;
        if let Err(error) = shared.store.commit(&self.records, shared.config.fsync.durability()) {
            // Slots' and tokens' records may have come unasked, and will not come again by themselves.
            let of = self.records.iter().map(|record| &record.of);
            self.unsaved.extend(of.filter(|of| !matches!(of, Change::Counter { .. })).cloned());
            return Err(error);
        }
        CommitCounts::add(&shared.counts.records, self.records.len());
        shared.counts.batches.fetch_add(1, Ordering::Release);
        Ok(())
    }

    pub(super) fn refuse(&self, error: &Arc<StoreError>) {
        CommitCounts::add(&self.shared.counts.failures, 1);
        self.shared.queue.refuse(CommitError::Storage(error.clone()));
        self.shared.writable.send_replace(false);
    }
}
