//! What waits to be written.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;

use super::CommitError;
use super::ticket::{Round, Ticket};
use super::writer::Failure;
use crate::storage::Change;

/// Whose turn it is to write. Only one writes at a time: a record that was read before another one, and written after it, would
/// stand in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The writer's, which is awake, or about to be.
    Writer,
    /// A submitter's, while the writer sleeps.
    Submitter,
    /// Nobody's: there is nothing to write.
    Free,
}

/// The batch that gathers, and what the writer has to know besides.
struct Gathering {
    changes: Vec<Change>,
    round: Arc<Round>,
    /// What the writer is to mend: a store that was found broken while nobody wrote, or a submitter's commit that failed.
    failure: Option<Failure>,
    /// Set while the store is being mended: what those are told who were admitted before it broke.
    failing: Option<CommitError>,
    turn: Turn,
    /// The last commit took so little that the next one may be made by whoever submits it.
    quick: bool,
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
}

/// What has become of changes that were submitted.
pub(super) enum Submitted {
    /// The writer takes them.
    Queued(Ticket),
    /// Their submitter is to write them, and to say when its turn has ended.
    Turn(Vec<Change>),
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
    /// The store broke while the writer slept.
    Mend(Failure),
    End,
}

impl Queue {
    /// `quick`: that commits are is taken for granted until one is not.
    pub(super) fn new(changes_max: usize, quick: bool) -> Self {
        let gathering = Gathering {
            changes: Vec::new(),
            round: Arc::default(),
            failure: None,
            failing: None,
            turn: Turn::Writer,
            quick,
            writer_ended: false,
        };
        Self {
            gathering: Mutex::new(gathering),
            more: Notify::new(),
            ending: Condvar::new(),
            admitted: AtomicUsize::new(0),
            changes_max,
            writable: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
        }
    }

    /// Takes room for so many changes, which has to be given back even if there is none.
    pub(super) fn take_room(&self, changes: usize) -> Result<(), CommitError> {
        let before = self.admitted.fetch_add(changes, Ordering::Relaxed);
        if before.saturating_add(changes) > self.changes_max { Err(CommitError::Full) } else { Ok(()) }
    }

    pub(super) fn give_back_room(&self, changes: usize) {
        self.admitted.fetch_sub(changes, Ordering::Relaxed);
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
            gathering.failure = None;
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

    pub(super) fn report_broken(&self, failure: Failure) {
        // What a submitter's commit has left unsaved is not to be forgotten.
        self.lock().failure.get_or_insert(failure);
        self.more.notify_one();
    }

    /// Queues changes for the next batch, unless it is their submitter's turn to write them: nobody else does, and commits are quick.
    pub(super) fn submit(&self, changes: Vec<Change>, room: &mut usize) -> Submitted {
        let mut gathering = self.lock();
        if gathering.turn == Turn::Free && gathering.quick {
            gathering.turn = Turn::Submitter;
            return Submitted::Turn(changes);
        }
        let ticket = self.add(&mut gathering, changes, room);
        if gathering.turn == Turn::Free {
            self.wake(gathering);
        }
        Submitted::Queued(ticket)
    }

    /// Has the writer write the changes when the submitter's turn has ended, as it may wait for that.
    pub(super) fn pass_on(&self, changes: Vec<Change>, room: &mut usize) -> Ticket {
        let mut gathering = self.lock();
        gathering.quick = false;
        self.add(&mut gathering, changes, room)
    }

    /// Adds changes to the next batch. Their part of the submitter's room is the batch's from then on.
    fn add(&self, gathering: &mut Gathering, mut changes: Vec<Change>, room: &mut usize) -> Ticket {
        let added = changes.len();
        gathering.changes.append(&mut changes);
        if added > *room {
            self.admitted.fetch_add(added - *room, Ordering::Relaxed);
        }
        *room = room.saturating_sub(added);
        if gathering.writer_ended {
            // Nobody is left who would write them.
            let dropped = std::mem::take(&mut gathering.changes);
            self.give_back_room(dropped.len());
            return Ticket::settled(Err(CommitError::Stopped));
        }
        match &gathering.failing {
            Some(failing) => Ticket::settled(Err(failing.clone())),
            None => Ticket::new(gathering.round.clone()),
        }
    }

    /// The end of a submitter's turn. What is left to do is the writer's.
    pub(super) fn end_turn(&self, failure: Option<Failure>) {
        let mut gathering = self.lock();
        gathering.failure = failure.or(gathering.failure.take());
        if gathering.failure.is_some() || !gathering.changes.is_empty() || self.is_stopped() {
            self.wake(gathering);
        } else {
            gathering.turn = Turn::Free;
        }
    }

    fn wake(&self, mut gathering: MutexGuard<'_, Gathering>) {
        gathering.turn = Turn::Writer;
        drop(gathering);
        self.more.notify_one();
    }

    /// Whether the last commit was quick.
    pub(super) fn note_pace(&self, is_quick: bool) {
        self.lock().quick = is_quick;
    }

    /// Waits for something to do; and then until the requests that are ready have had their turn, so that they share the
    /// batch, unless commits are quick: then each of them makes its own as soon as this sleeps. A commit that takes long is worth some
    /// patience: for as long as each turn makes the batch grow.
    pub(super) async fn next(&self, patience: Duration) -> Work<'_> {
        loop {
            if self.lock().quick {
                consume_budget().await;
            } else {
                yield_now().await;
                self.gather(patience).await;
            }
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
            yield_now().await;
        }
    }

    fn work_or_sleep(&self) -> Option<Work<'_>> {
        let mut gathering = self.lock();
        if gathering.turn == Turn::Submitter {
            // It wakes the writer if there is anything to do then.
            return None;
        }
        let work = self.work(&mut gathering);
        gathering.turn = if work.is_some() { Turn::Writer } else { Turn::Free };
        work
    }

    fn work(&self, gathering: &mut Gathering) -> Option<Work<'_>> {
        if let Some(failure) = gathering.failure.take() {
            return Some(Work::Mend(failure));
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
        (gathering.writer_ended, gathering.turn) = (true, Turn::Writer);
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
}

impl Batch<'_> {
    /// The changes, sorted and each once.
    pub(super) fn changes(&mut self) -> &[Change] {
        each_once(&mut self.changes);
        &self.changes
    }

    pub(super) fn submitted(&self) -> usize {
        self.submitted
    }

    /// Tells everyone, and gives back the changes.
    pub(super) fn resolve(mut self, outcome: Result<(), CommitError>) -> Vec<Change> {
        // First, so that whoever is told finds room.
        self.queue.give_back_room(std::mem::take(&mut self.submitted));
        self.round.resolve(outcome);
        std::mem::take(&mut self.changes)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.queue.give_back_room(self.submitted);
        self.round.resolve(Err(CommitError::Stopped));
    }
}

/// Sorts changes, and leaves each once.
pub(super) fn each_once(changes: &mut Vec<Change>) {
    changes.sort_unstable();
    changes.dedup();
}
