//! From a store that broke to one that takes writes again, without the process ending.

use counter_core::slot::Slot;

use super::writer::{Failure, Writer};
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
    /// Reopens the store and writes again what it may lack; until that has worked, or the node stops. Blocks meanwhile.
    pub(super) fn mend(&mut self, failure: Failure) {
        let Failure { error, asked, unsaved } = failure;
        self.unsaved.extend(unsaved);
        if !asked {
            self.shared.refuse(&error);
        }
        // Whoever came while that commit failed is not to wait for what may take for ever.
        self.take_failed();
        let scope = if asked { self.scope_after_commit() } else { Scope::Everything };
        let cause = source_of(&error);
        tracing::error!(%error, cause, "the store cannot be written to; reads go on, updates are refused");
        let mut wait = self.shared.config.retry_min;
        loop {
            self.shared.queue.pause(wait);
            // Looked at before the attempt, so that a stop still gets a last one.
            let last = self.shared.queue.is_stopped();
            match self.reopen(scope) {
                Ok(()) => {
                    CommitCounts::add(&self.shared.counts.mended, 1);
                    tracing::info!(again = ?scope, "the store can be written to again");
                    return;
                }
                Err(error) => {
                    CommitCounts::add(&self.shared.counts.failures, 1);
                    wait = (wait * 2).min(self.shared.config.retry_max);
                    let cause = source_of(&error);
                    tracing::warn!(%error, cause, again_in_ms = wait.as_millis(), "the store could not be reopened");
                }
            }
            if last {
                return;
            }
        }
    }

    /// A failed write says nothing of the commits before it, but a failed write-back does.
    fn scope_after_commit(&self) -> Scope {
        let promised = self.shared.config.fsync != Fsync::Never;
        if promised && self.shared.store.sync().is_err() { Scope::Everything } else { Scope::Unsaved }
    }

    fn reopen(&mut self, scope: Scope) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        shared.store.reopen()?;
        shared.source.reopened()?;
        if scope == Scope::Everything {
            let slots: Vec<_> = Slot::all().map(Change::Slot).collect();
            slots.chunks(SLOTS_AT_ONCE).try_for_each(|slots| self.write_again(slots))?;
        }
        loop {
            self.take_failed();
            let unsaved: Vec<_> = self.unsaved.iter().cloned().collect();
            unsaved.chunks(CHANGES_AT_ONCE).try_for_each(|changes| self.write_again(changes))?;
            if shared.config.fsync != Fsync::Never {
                shared.store.sync()?;
            }
            self.unsaved.clear();
            if shared.queue.admit_again() {
                shared.writable.send_replace(true);
                return Ok(());
            }
        }
    }

    /// What was submitted by those who had been admitted before the failure: who came while a commit failed is told now, the others have been.
    fn take_failed(&mut self) {
        if let Some(batch) = self.shared.queue.take_now() {
            self.unsaved.extend(batch.resolve(Err(CommitError::NotWritable)));
        }
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
