//! How those who wait for a commit are told.
//!
//! All who are in one batch share one [`Round`]: an update costs a reference and a place in a list, no channel of its own.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::coop::{Coop, cooperative};

use super::CommitError;

/// One batch's outcome, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Round {
    outcome: OnceLock<Result<(), CommitError>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Round {
    /// Settles the batch, once, and wakes everyone.
    pub(super) fn resolve(&self, outcome: Result<(), CommitError>) {
        // The first outcome stands; there is no second, but for a writer that panicked after it.
        drop(self.outcome.set(outcome));
        // Who looks at the outcome, finds none and then waits does so under this lock, so nobody is missed.
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    fn poll(&self, place: &mut Option<usize>, context: &Context<'_>) -> Poll<Result<(), CommitError>> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome.clone());
        }
        match place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => {
                *place = Some(waiting.len());
                waiting.push(context.waker().clone());
            }
        }
        Poll::Pending
    }
}

/// An update's place in a batch. Resolves once the batch is durable, or has failed.
#[derive(Debug)]
#[must_use = "an update may be acknowledged only after its ticket has resolved"]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    /// At once; but whoever submits again and again has to let others have their turn now and then.
    Settled(Coop<Ready<Result<(), CommitError>>>),
    Waiting {
        round: Arc<Round>,
        /// Where this ticket's waker is in the round's list.
        place: Option<usize>,
    },
}

impl Ticket {
    pub(super) fn new(round: Arc<Round>) -> Self {
        Self(State::Waiting { round, place: None })
    }

    pub(super) fn settled(outcome: Result<(), CommitError>) -> Self {
        Self(State::Settled(cooperative(ready(outcome))))
    }
}

impl Future for Ticket {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Settled(outcome) => Pin::new(outcome).poll(context),
            State::Waiting { round, place } => round.poll(place, context),
        }
    }
}
