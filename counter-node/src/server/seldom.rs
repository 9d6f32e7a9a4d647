//! Waiting, beside what a task mostly does, for something that hardly ever comes.
//!
//! A future that is one of several of a task is asked each time that any of them wakes the task. To ask whether the port stops, and
//! whether a head is overdue, took a fiftieth of a request, two or three times each. Here a future has a bell of its own, and is
//! asked only after that has been rung.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// A future that is polled only when what it waits for has woken it.
pub(super) struct Seldom<'f, F> {
    future: Pin<&'f mut F>,
    bell: Arc<Bell>,
    /// Whom the bell wakes.
    task: Option<Waker>,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order: whoever is woken finds it rung.
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<'f, F> Seldom<'f, F> {
    pub(super) fn new(future: Pin<&'f mut F>) -> Self {
        // Rung once, so that the future gets to know its bell.
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future, bell, task: None }
    }
}

impl<F: Future> Future for Seldom<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            // Before the bell is looked at, so that no ring is missed.
            self.bell.task.register(context.waker());
            self.task = Some(context.waker().clone());
        }
        // The look alone is no write.
        if !self.bell.rung.load(Ordering::Relaxed) || !self.bell.rung.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let bell = Waker::from(self.bell.clone());
        self.future.as_mut().poll(&mut Context::from_waker(&bell))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Notify;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn it_is_asked_once_and_again_only_when_it_was_woken_whichever_task_asks() {
        let (come, asked) = (Notify::new(), AtomicUsize::new(0));
        let mut come_twice = pin!(async {
            come.notified().await;
            come.notified().await;
        });
        let mut counted = pin!(std::future::poll_fn(|context| {
            asked.fetch_add(1, Ordering::SeqCst);
            come_twice.as_mut().poll(context)
        }));
        let mut seldom = Seldom::new(counted.as_mut());
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let mut poll = |task: &Arc<Task>| Pin::new(&mut seldom).poll(&mut Context::from_waker(&Waker::from(task.clone())));
        for _ in 0..3 {
            assert_eq!(poll(&first), Poll::Pending);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        come.notify_one();
        assert_eq!(first.0.load(Ordering::SeqCst), 1);
        for _ in 0..3 {
            assert_eq!(poll(&second), Poll::Pending);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        come.notify_one();
        assert_eq!((first.0.load(Ordering::SeqCst), second.0.load(Ordering::SeqCst)), (1, 1));
        assert_eq!(poll(&second), Poll::Ready(()));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
