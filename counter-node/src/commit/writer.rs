//! The thread that writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{Batch, Work};
use super::recovery::Scope;
use super::{CommitCounts, CommitError, Shared};
use crate::storage::{Change, Record, StoreError};

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// Reused from batch to batch.
    pub(super) records: Vec<Record>,
    /// What is in the table and not known to be durable. Empty but for after a failure.
    pub(super) unsaved: BTreeSet<Change>,
}

/// Leaves nobody waiting, however the writer ends.
struct End<'a>(&'a Shared);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.writable.send_replace(false);
        self.0.queue.end();
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, records: Vec::new(), unsaved: BTreeSet::new() }
    }

    /// Writes until the queue has been stopped and is empty.
    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        let _end = End(&shared);
        let mut mended = Ok(());
        loop {
            match shared.queue.next() {
                Work::Write(batch) => mended = self.write(batch),
                Work::Mend(error) => mended = self.mend(error, Scope::Everything),
                Work::End => break,
            }
        }
        let flushed = mended.and_then(|()| shared.store.sync().map_err(|error| CommitError::Storage(Arc::new(error))));
        drop(shared.flushed.set(flushed));
    }

    /// Makes one batch durable. After a failure it returns when the store has been mended, or the node stops.
    fn write(&mut self, mut batch: Batch<'_>) -> Result<(), CommitError> {
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
                self.refuse();
                self.unsaved.extend(batch.resolve(Err(CommitError::Storage(error.clone()))));
                let scope = self.scope_after_failure();
                self.mend_after(&error, scope)
            }
        }
    }

    /// Commits what is in `records` and tells the sink.
    pub(super) fn commit_records(&mut self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.store.commit(&self.records, shared.config.fsync.durability())?;
        CommitCounts::add(&shared.counts.records, self.records.len());
        shared.counts.batches.fetch_add(1, Ordering::Release);
        shared.sink.committed(&self.records);
        Ok(())
    }

    pub(super) fn refuse(&self) {
        CommitCounts::add(&self.shared.counts.failures, 1);
        self.shared.queue.set_writable(false);
        self.shared.writable.send_replace(false);
    }
}
