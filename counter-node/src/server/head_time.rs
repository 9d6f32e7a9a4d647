//! How long a client may take to send a request's head, without a timer for each request.
//!
//! hyper asks its timer for a sleep when it begins to wait for a head, and drops it when it has one. Here that notes a
//! deadline and takes it back; one real timer a connection looks at the note when it may be due.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;

use crate::lock::lock;

/// What hyper takes for the timer of one connection. Its sleeps end for a task that also awaits [`Self::overdue`], and is
/// polled again after that.
#[derive(Clone)]
pub(super) struct HeadTimer(Arc<Awaited>);

/// The head that is awaited.
#[derive(Default)]
struct Awaited {
    /// When it is due; none while no head is awaited.
    due: Mutex<Option<Instant>>,
    /// It has not come in time.
    overdue: AtomicBool,
}

/// Lasts until the head is overdue.
struct HeadSleep(Arc<Awaited>);

impl HeadTimer {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// From now on a head is awaited, for so long.
    pub(super) fn await_head(&self, head_time: Duration) {
        *lock(&self.0.due) = Some(Instant::now() + head_time);
    }

    /// None is awaited any more.
    pub(super) fn has_come(&self) {
        *lock(&self.0.due) = None;
    }

    /// Waits until a head is overdue. No head is given less time than `head_time`.
    pub(super) async fn overdue(&self, head_time: Duration) {
        loop {
            let now = Instant::now();
            let due = lock(&self.0.due).unwrap_or(now + head_time);
            if due <= now {
                self.0.overdue.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        self.0.overdue.store(false, Ordering::Relaxed);
        *lock(&self.0.due) = Some(deadline);
        Box::pin(HeadSleep(Arc::clone(&self.0)))
    }
}

impl rt::Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.overdue.load(Ordering::Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        *lock(&self.0.due) = None;
    }
}
