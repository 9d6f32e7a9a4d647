//! What waits to be written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CommitError;
use super::ticket::{Round, Ticket};
use crate::storage::{Change, StoreError};

/// The batch that gathers, and what the writer has to know besides.
#[derive(Default)]
struct Gathering {
    changes: Vec<Change>,
    round: Arc<Round>,
    broken: Option<StoreError>,
    writer_sleeps: bool,
    writer_ended: bool,
}

/// All changes between `admit` and their outcome.
pub(super) struct Queue {
    gathering: Mutex<Gathering>,
    more: Condvar,
    admitted: AtomicUsize,
    changes_max: usize,
    writable: AtomicBool,
    stopped: AtomicBool,
}

/// A batch that the writer has taken. Never lost without an outcome: if the writer panics, dropping it resolves it.
pub(super) struct Batch<'a> {
    queue: &'a Queue,
    round: Arc<Round>,
    changes: Vec<Change>,
    /// How many were submitted, repetitions included.
    submitted: usize,
}

/// What the writer is to do next.
pub(super) enum Work<'a> {
    Write(Batch<'a>),
    /// The store was found broken while nobody wrote.
    Mend(StoreError),
    End,
}

impl Queue {
    pub(super) fn new(changes_max: usize) -> Self {
        Self {
            gathering: Mutex::default(),
            more: Condvar::new(),
            admitted: AtomicUsize::new(0),
            changes_max,
            writable: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn admit(&self, changes: usize) -> Result<Permit<'_>, CommitError> {
        if self.is_stopped() {
            return Err(CommitError::Stopped);
        }
        if !self.is_writable() {
            return Err(CommitError::NotWritable);
        }
        // Made at once, so that its drop gives back what was too much.
        let permit = Permit { queue: self, changes };
        let before = self.admitted.fetch_add(changes, Ordering::Relaxed);
        if before.saturating_add(changes) > self.changes_max { Err(CommitError::Full) } else { Ok(permit) }
    }

    pub(super) fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    pub(super) fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Admits nothing more; the writer ends once the queue is empty.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // Under the lock, so that the writer is either before its look at `stopped` or asleep.
        let _gathering = self.lock();
        self.more.notify_all();
    }

    pub(super) fn report_broken(&self, error: StoreError) {
        self.lock().broken = Some(error);
        self.more.notify_all();
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Work<'_> {
        let mut gathering = self.lock();
        loop {
            if let Some(error) = gathering.broken.take() {
                return Work::Mend(error);
            }
            if !gathering.changes.is_empty() {
                return Work::Write(self.take(&mut gathering));
            }
            if self.is_stopped() {
                return Work::End;
            }
            gathering.writer_sleeps = true;
            gathering = self.more.wait(gathering).unwrap_or_else(PoisonError::into_inner);
            gathering.writer_sleeps = false;
        }
    }

    /// Waits as long as told, or until something is queued or the end has come.
    pub(super) fn pause(&self, limit: Duration) {
        let mut gathering = self.lock();
        if gathering.changes.is_empty() && !self.is_stopped() {
            gathering.writer_sleeps = true;
            let (mut gathering, _) = self.more.wait_timeout(gathering, limit).unwrap_or_else(PoisonError::into_inner);
            gathering.writer_sleeps = false;
        } else {
            gathering.writer_sleeps = false;
        }
    }

    /// What is queued, without waiting.
    pub(super) fn take_now(&self) -> Option<Batch<'_>> {
        let mut gathering = self.lock();
        gathering.broken = None;
        if gathering.changes.is_empty() { None } else { Some(self.take(&mut gathering)) }
    }

    /// After this every submitted change is refused: no writer is left.
    pub(super) fn end(&self) {
        self.stopped.store(true, Ordering::Release);
        let mut gathering = self.lock();
        gathering.writer_ended = true;
        drop(self.take(&mut gathering));
    }

    fn take(&self, gathering: &mut Gathering) -> Batch<'_> {
        let changes = std::mem::take(&mut gathering.changes);
        let round = std::mem::take(&mut gathering.round);
        Batch { queue: self, round, submitted: changes.len(), changes }
    }

    fn lock(&self) -> MutexGuard<'_, Gathering> {
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, changes: usize) {
        self.admitted.fetch_sub(changes, Ordering::Relaxed);
    }
}

impl Batch<'_> {
    /// The changes, sorted and each once.
    pub(super) fn changes(&mut self) -> &[Change] {
        self.changes.sort_unstable();
        self.changes.dedup();
        &self.changes
    }

    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    pub(super) fn resolve(mut self, outcome: Result<(), CommitError>) -> Vec<Change> {
        self.round.resolve(outcome);
        std::mem::take(&mut self.changes)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.queue.release(self.submitted);
        self.round.resolve(Err(CommitError::Stopped));
    }
}

/// Room for some changes. Dropping it gives the room back.
#[must_use = "the room is given back when the permit is dropped"]
pub struct Permit<'a> {
    queue: &'a Queue,
    changes: usize,
}

impl Permit<'_> {
    /// Queues the changes, which the table holds already. There should be no more of them than were admitted.
    ///
    /// The ticket may be dropped: the changes are written all the same.
    pub fn submit(mut self, changes: impl IntoIterator<Item = Change>) -> Ticket {
        let mut gathering = self.queue.lock();
        let before = gathering.changes.len();
        gathering.changes.extend(changes);
        let submitted = gathering.changes.len() - before;
        if submitted > self.changes {
            self.queue.admitted.fetch_add(submitted - self.changes, Ordering::Relaxed);
        }
        // What was admitted and not used goes back when `self` is dropped; the rest when the batch is.
        self.changes = self.changes.saturating_sub(submitted);
        let round = gathering.round.clone();
        let wake = std::mem::take(&mut gathering.writer_sleeps);
        let ended = gathering.writer_ended;
        if ended || submitted == 0 {
            // Nobody would resolve that round: there is no writer, or nothing that would make it write.
            let round = Arc::new(Round::default());
            round.resolve(if ended { Err(CommitError::Stopped) } else { Ok(()) });
            let refused = if ended { std::mem::take(&mut gathering.changes) } else { Vec::new() };
            drop(gathering);
            self.queue.release(refused.len());
            return Ticket::new(round);
        }
        drop(gathering);
        if wake {
            self.queue.more.notify_all();
        }
        Ticket::new(round)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.queue.release(self.changes);
    }
}
