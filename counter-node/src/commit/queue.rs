//! What waits to be written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::ticket::{Round, Ticket};
use super::{CommitCounts, CommitError, RecordSource, ToChange};
use crate::storage::{Change, StoreError};

/// The batch that gathers, and what the writer has to know besides.
#[derive(Default)]
struct Gathering {
    changes: Vec<Change>,
    round: Arc<Round>,
    /// Set when the store was found broken while nobody wrote.
    broken: Option<StoreError>,
    /// Set while the store is being mended: what those are told who were admitted before it broke.
    failing: Option<CommitError>,
    writer_sleeps: bool,
    writer_ended: bool,
}

/// All changes between `admit` and their outcome.
pub(super) struct Queue {
    gathering: Mutex<Gathering>,
    /// Wakes the writer.
    more: Notify,
    /// Wakes a writer that mends, which it does on a thread.
    ending: Condvar,
    admitted: AtomicUsize,
    changes_max: usize,
    writable: AtomicBool,
    stopped: AtomicBool,
    /// Set where the store keeps nothing: then nothing has to wait either.
    unkept: Option<Unkept>,
}

/// What becomes of changes that no store keeps.
pub(super) struct Unkept {
    pub(super) source: Arc<dyn RecordSource>,
    pub(super) counts: Arc<CommitCounts>,
}

impl Unkept {
    fn submit(&self, changes: impl IntoIterator<Item = impl ToChange>) -> Ticket {
        let (mut submitted, mut last) = (0, None);
        for change in changes {
            if last.replace(change.slot()) != Some(change.slot()) {
                self.source.forgo(change.slot());
            }
            submitted += 1;
        }
        CommitCounts::add(&self.counts.changes, submitted);
        Ticket::settled(Ok(()))
    }
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
    pub(super) fn new(changes_max: usize, unkept: Option<Unkept>) -> Self {
        Self {
            gathering: Mutex::default(),
            more: Notify::new(),
            ending: Condvar::new(),
            admitted: AtomicUsize::new(0),
            changes_max,
            writable: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            unkept,
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

    /// From here on nothing is admitted, and what had been admitted is told of the failure as it is submitted.
    pub(super) fn refuse(&self, failure: CommitError) {
        let mut gathering = self.lock();
        gathering.failing = Some(failure);
        self.writable.store(false, Ordering::Release);
    }

    /// Admits again, unless something was submitted meanwhile, which has to be made durable before.
    pub(super) fn admit_again(&self) -> bool {
        let mut gathering = self.lock();
        let nothing_left = gathering.changes.is_empty();
        if nothing_left {
            gathering.failing = None;
            gathering.broken = None;
            self.writable.store(true, Ordering::Release);
        }
        nothing_left
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Admits nothing more; the writer ends once the queue is empty.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        // Under the lock, so that the writer is either before its look at `stopped` or asleep.
        let _gathering = self.lock();
        self.more.notify_one();
        self.ending.notify_all();
    }

    pub(super) fn report_broken(&self, error: StoreError) {
        self.lock().broken = Some(error);
        self.more.notify_one();
    }

    /// Waits for something to do; and then until the requests that are ready have had their turn, so that they share the
    /// batch. A commit that takes long is worth some patience: for as long as each turn makes the batch grow.
    pub(super) async fn next(&self, patience: Duration) -> Work<'_> {
        loop {
            tokio::task::yield_now().await;
            self.gather(patience).await;
            if let Some(work) = self.work_or_sleep() {
                return work;
            }
            // Remembers a notification that comes before this is awaited.
            self.more.notified().await;
        }
    }

    async fn gather(&self, patience: Duration) {
        let (since, mut gathered) = (Instant::now(), 0);
        while since.elapsed() < patience {
            let before = std::mem::replace(&mut gathered, self.lock().changes.len());
            if gathered == before {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn work_or_sleep(&self) -> Option<Work<'_>> {
        let mut gathering = self.lock();
        let work = self.work(&mut gathering);
        gathering.writer_sleeps = work.is_none();
        work
    }

    fn work(&self, gathering: &mut Gathering) -> Option<Work<'_>> {
        if let Some(error) = gathering.broken.take() {
            return Some(Work::Mend(error));
        }
        if !gathering.changes.is_empty() {
            return Some(Work::Write(self.take(gathering)));
        }
        self.is_stopped().then_some(Work::End)
    }

    /// Waits as long as told, on a thread, or until the end has come.
    pub(super) fn pause(&self, limit: Duration) {
        let gathering = self.lock();
        if !self.is_stopped() {
            drop(self.ending.wait_timeout(gathering, limit));
        }
    }

    /// What is queued, without waiting.
    pub(super) fn take_now(&self) -> Option<Batch<'_>> {
        let mut gathering = self.lock();
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

    /// Tells everyone, and gives back the changes.
    pub(super) fn resolve(mut self, outcome: Result<(), CommitError>) -> Vec<Change> {
        // First, so that whoever is told finds room.
        self.queue.release(std::mem::take(&mut self.submitted));
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
    pub fn submit(mut self, changes: impl IntoIterator<Item = impl ToChange>) -> Ticket {
        if let Some(unkept) = &self.queue.unkept {
            return unkept.submit(changes);
        }
        // Before the lock, which all updates take.
        let mut changes: Vec<Change> = changes.into_iter().map(ToChange::into_change).collect();
        let submitted = changes.len();
        let mut gathering = self.queue.lock();
        gathering.changes.append(&mut changes);
        if submitted > self.changes {
            self.queue.admitted.fetch_add(submitted - self.changes, Ordering::Relaxed);
        }
        // What was admitted and not used goes back when `self` is dropped; the rest when the batch is.
        self.changes = self.changes.saturating_sub(submitted);
        let settled = if gathering.writer_ended {
            // Nobody is left who would write them.
            let dropped = std::mem::take(&mut gathering.changes);
            self.queue.release(dropped.len());
            Some(Err(CommitError::Stopped))
        } else if submitted == 0 {
            Some(Ok(()))
        } else {
            gathering.failing.clone().map(Err)
        };
        if let Some(outcome) = settled {
            return Ticket::settled(outcome);
        }
        let ticket = Ticket::new(gathering.round.clone());
        let wake = std::mem::take(&mut gathering.writer_sleeps);
        drop(gathering);
        if wake {
            self.queue.more.notify_one();
        }
        ticket
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.queue.release(self.changes);
    }
}
