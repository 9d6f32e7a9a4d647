//! Waiting, beside what a task mostly does, for something that hardly ever comes.
//!
//! A future that is one of several of a task is asked each time that any of them wakes the task. To ask whether the port stops, and
//! whether a head is overdue, took a fiftieth of a request, two or three times each. Here a future has a bell of its own, and is
//! asked only after that has been rung.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::lock::lock;

/// A future that is polled only when what it waits for has woken it.
pub(super) struct Seldom<'f, F> {
    future: Pin<&'f mut F>,
    bell: Arc<Bell>,
}

struct Bell {
    rung: AtomicBool,
    task: Task,
}

/// The task that a bell wakes, each time that it is rung. (One that has to be named again after each ring, as with an `AtomicWaker`,
/// would be named at each turn.)
#[derive(Default)]
struct Task(Mutex<Option<Waker>>);

impl Task {
    /// From now on it is the one that this wakes.
    fn is(&self, waker: &Waker) {
        let mut task = lock(&self.0);
        if !task.as_ref().is_some_and(|task| task.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(task) = &*lock(&self.0) {
            task.wake_by_ref();
        }
    }
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
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: Task::default() });
        Self { future, bell }
    }
}

impl<F: Future> Future for Seldom<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Before the bell is looked at, so that no ring is missed.
        self.bell.task.is(context.waker());
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
    struct Counted(AtomicUsize);

    impl Wake for Counted {
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
        let (first, second) = (Arc::new(Counted::default()), Arc::new(Counted::default()));
        let mut poll = |task: &Arc<Counted>| Pin::new(&mut seldom).poll(&mut Context::from_waker(&Waker::from(task.clone())));
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

    #[test]
    fn a_task_is_woken_by_every_ring_though_it_was_named_once() {
        let come = Notify::new();
        let mut come_often = pin!(async {
            loop {
                come.notified().await;
            }
        });
        let mut seldom: Seldom<'_, _> = Seldom::new(come_often.as_mut());
        let task = Arc::new(Counted::default());
        let waker = Waker::from(task.clone());
        for rings in 0..4 {
            assert_eq!(Pin::new(&mut seldom).poll(&mut Context::from_waker(&waker)), Poll::<()>::Pending);
            assert_eq!(task.0.load(Ordering::SeqCst), rings);
            come.notify_one();
        }
        assert_eq!(task.0.load(Ordering::SeqCst), 4);
    }
}
