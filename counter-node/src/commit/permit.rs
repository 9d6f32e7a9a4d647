//! From an update in the table to its commit.

use std::sync::Arc;
use std::time::Instant;

use super::queue::{Submitted, each_once};
use super::ticket::Ticket;
use super::writer::Failure;
use super::{CommitCounts, CommitError, Shared, ToChange};
use crate::storage::{Change, Record, StoreError};

/// Room for some changes. Dropping it gives the room back.
#[must_use = "the room is given back when the permit is dropped"]
pub struct Permit<'a> {
    shared: &'a Shared,
    changes: usize,
}

impl<'a> Permit<'a> {
    pub(super) fn new(shared: &'a Shared, changes: usize) -> Result<Self, CommitError> {
        let queue = &shared.queue;
        if queue.is_stopped() {
            return Err(CommitError::Stopped);
        }
        if !queue.is_writable() {
            return Err(CommitError::NotWritable);
        }
        // Made at once, so that its drop gives back what was too much.
        let permit = Self { shared, changes };
        queue.take_room(changes).map(|()| permit)
    }

    /// Has the changes written, which the table holds already. There should be no more of them than were admitted, and no lock of the
    /// table may be held.
    ///
    /// The ticket may be dropped: the changes are written all the same.
    pub fn submit(mut self, changes: impl IntoIterator<Item = impl ToChange>) -> Ticket {
        if self.shared.keeps_nothing {
            return self.forgo(changes);
        }
        // Before the lock, which all updates take.
        let changes: Vec<Change> = changes.into_iter().map(ToChange::into_change).collect();
        if changes.is_empty() {
            return Ticket::settled(Ok(()));
        }
        match self.shared.queue.submit(changes, &mut self.changes) {
            Submitted::Queued(ticket) => ticket,
            Submitted::Turn(changes) => OwnCommit::new(self.shared, changes).write(&mut self.changes),
        }
    }

    fn forgo(&self, changes: impl IntoIterator<Item = impl ToChange>) -> Ticket {
        let (mut submitted, mut last) = (0, None);
        for change in changes {
            if last.replace(change.slot()) != Some(change.slot()) {
                self.shared.source.forgo(change.slot());
            }
            submitted += 1;
        }
        CommitCounts::add(&self.shared.counts.changes, submitted);
        Ticket::settled(Ok(()))
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.shared.queue.give_back_room(self.changes);
    }
}

/// What a submitter does in its turn to write. That ends however this is left, and what could not be written then is the writer's to mend.
struct OwnCommit<'a> {
    shared: &'a Shared,
    changes: Vec<Change>,
    records: Vec<Record>,
    failure: Option<Failure>,
}

impl<'a> OwnCommit<'a> {
    fn new(shared: &'a Shared, changes: Vec<Change>) -> Self {
        Self { shared, changes, records: Vec::new(), failure: None }
    }

    fn write(mut self, room: &mut usize) -> Ticket {
        let (shared, submitted) = (self.shared, self.changes.len());
        each_once(&mut self.changes);
        shared.source.records(&self.changes, &mut self.records);
        if shared.store.may_wait(&self.records) {
            return shared.queue.pass_on(self.take_all(), room);
        }
        let since = Instant::now();
        let committed = shared.commit(&self.records);
        if since.elapsed() > shared.config.quick {
            shared.queue.note_pace(false);
        }
        match committed {
            Ok(()) => {
                self.changes.clear();
                CommitCounts::add(&shared.counts.changes, submitted);
                Ticket::settled(Ok(()))
            }
            Err(error) => Ticket::settled(Err(self.fail(error))),
        }
    }

    /// The changes, and those whose records came unasked, which would not come again by themselves.
    fn take_all(&mut self) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        changes.extend(self.records.drain(..).map(|record| record.of));
        each_once(&mut changes);
        changes
    }

    fn fail(&mut self, error: StoreError) -> CommitError {
        let error = Arc::new(error);
        // Before its waiter is told, so that it is not admitted again only to fail again.
        self.shared.refuse(&error);
        self.failure = Some(Failure { error: error.clone(), asked: true, unsaved: self.take_all() });
        CommitError::Storage(error)
    }
}

impl Drop for OwnCommit<'_> {
    fn drop(&mut self) {
        if !self.changes.is_empty() {
            // It has panicked, which is this request's affair, but for what it has left.
            self.fail(StoreError::Engine("a commit has panicked".to_owned()));
        }
        self.shared.queue.end_turn(self.failure.take());
    }
}
