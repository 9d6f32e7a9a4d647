//! How long a client may take to send a request's head, without a timer for each request.
//!
//! hyper asks its timer for a sleep when it begins to wait for a head, and drops it when it has one. Here that notes a
//! deadline and takes it back; one real timer a connection looks at the note when it may be due.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;

/// In the place of a deadline while no head is awaited.
const NONE: u64 = u64::MAX;

/// What hyper takes for the timer of one connection. Its sleeps end for a task that also awaits [`Self::overdue`], and is
/// polled again after that.
#[derive(Clone)]
pub(super) struct HeadTimer(Arc<Awaited>);

/// The head that is awaited.
struct Awaited {
    since: Instant,
    /// When it is due, in microseconds after `since`.
    due_us: AtomicU64,
    /// It has not come in time.
    overdue: AtomicBool,
}

/// Lasts until the head is overdue.
struct HeadSleep(Arc<Awaited>);

impl HeadTimer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Awaited { since: Instant::now(), due_us: AtomicU64::new(NONE), overdue: AtomicBool::new(false) }))
    }

    /// Waits until a head is overdue. No head is given less time than `head_time`.
    pub(super) async fn overdue(&self, head_time: Duration) {
        loop {
            let now = Instant::now();
            let due = self.0.due().unwrap_or(now + head_time);
            if due <= now {
                self.0.overdue.store(true, Ordering::Relaxed);
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl Awaited {
    fn due(&self) -> Option<Instant> {
        let due_us = self.due_us.load(Ordering::Relaxed);
        (due_us != NONE).then(|| self.since + Duration::from_micros(due_us))
    }
}

impl rt::Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        let due_us = u64::try_from(deadline.saturating_duration_since(self.0.since).as_micros()).unwrap_or(NONE);
        self.0.overdue.store(false, Ordering::Relaxed);
        self.0.due_us.store(due_us, Ordering::Relaxed);
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
        self.0.due_us.store(NONE, Ordering::Relaxed);
    }
}
