//! From a store that broke to one that takes writes again, without the process ending.

use std::sync::Arc;
use std::time::Instant;

use counter_core::slot::Slot;

use super::writer::Writer;
use super::{CommitCounts, CommitError};
use crate::storage::{Change, Fsync, StoreError};

/// How many changes are written again at a time: a batch is held in memory twice.
const CHANGES_AT_ONCE: usize = 4096;
/// The same for whole slots, each with all of its counters: about 40,000 counters of a node that is full.
const SLOTS_AT_ONCE: usize = 64;

/// What has to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// What failed, or was submitted since. All earlier commits are where the fsync mode wants them.
    Unsaved,
    /// The whole table: the disk may have dropped commits that had not been forced to it yet.
    Everything,
}

impl Writer {
    /// A failed write says nothing of the commits before it, but a failed write-back does.
    pub(super) fn scope_after_failure(&self) -> Scope {
        let promised = self.shared.config.fsync != Fsync::Never;
        if promised && self.shared.store.sync().is_err() { Scope::Everything } else { Scope::Unsaved }
    }

    /// Mends a store that was found broken while nobody wrote.
    pub(super) fn mend(&mut self, error: StoreError, scope: Scope) -> Result<(), CommitError> {
        self.refuse();
        self.mend_after(&Arc::new(error), scope)
    }

    /// Reopens the store and writes again what it may lack; until that has worked, or the node stops.
    pub(super) fn mend_after(&mut self, error: &Arc<StoreError>, scope: Scope) -> Result<(), CommitError> {
        let cause = source_of(error);
        tracing::error!(%error, cause, "the store cannot be written to; reads go on, updates are refused");
        let mut wait = self.shared.config.retry_min;
        loop {
            self.wait(error, wait);
            // Looked at before the attempt, so that a stop still gets a last one.
            let last = self.shared.queue.is_stopped();
            match self.reopen(error, scope) {
                Ok(()) => {
                    tracing::info!(again = ?scope, "the store can be written to again");
                    return Ok(());
                }
                Err(error) if last => return Err(CommitError::Storage(Arc::new(error))),
                Err(error) => {
                    CommitCounts::add(&self.shared.counts.failures, 1);
                    wait = (wait * 2).min(self.shared.config.retry_max);
                    let cause = source_of(&error);
                    tracing::warn!(%error, cause, again_in_ms = wait.as_millis(), "the store could not be reopened");
                }
            }
        }
    }

    /// Waits, and meanwhile fails those who had been admitted before the failure; what they changed is remembered.
    fn wait(&mut self, error: &Arc<StoreError>, limit: std::time::Duration) {
        let until = Instant::now() + limit;
        loop {
            self.fail_queued(error);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.queue.is_stopped() {
                return;
            }
            self.shared.queue.pause(left);
        }
    }

    /// Whether anything was queued.
    fn fail_queued(&mut self, error: &Arc<StoreError>) -> bool {
        let Some(batch) = self.shared.queue.take_now() else { return false };
        self.unsaved.extend(batch.resolve(Err(CommitError::Storage(error.clone()))));
        true
    }

    fn reopen(&mut self, error: &Arc<StoreError>, scope: Scope) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        shared.store.reopen()?;
        shared.source.reopened()?;
        if scope == Scope::Everything {
            let slots: Vec<_> = Slot::all().map(Change::Slot).collect();
            slots.chunks(SLOTS_AT_ONCE).try_for_each(|slots| self.write_again(slots))?;
        }
        loop {
            let unsaved: Vec<_> = self.unsaved.iter().cloned().collect();
            unsaved.chunks(CHANGES_AT_ONCE).try_for_each(|changes| self.write_again(changes))?;
            if shared.config.fsync != Fsync::Never {
                shared.store.sync()?;
            }
            self.unsaved.clear();
            // Whoever had been admitted before the failure and has only now submitted.
            if !self.fail_queued(error) {
                break;
            }
        }
        shared.queue.set_writable(true);
        shared.writable.send_replace(true);
        Ok(())
    }

    fn write_again(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.records.clear();
        self.shared.source.records(changes, &mut self.records);
        self.commit_records()
    }
}

fn source_of(error: &StoreError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}
