//! What a connection has not sent yet: a mark for each of its pages, and who is to be woken. No queue, whatever the page does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::Name;
use super::wire::{Told, Wire};
use bytes::Bytes;

/// Bits of one word.
const WORD: usize = 64;

/// Marks for as many pages as a connection may have, and the connection's waker.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    marks: [AtomicU64; 2],
    /// Of which pages a count has been sent without the connection's task.
    told: [AtomicU64; 2],
    waker: AtomicWaker,
    /// Where counts can be sent without the task, if there is such a thing.
    wire: Option<Arc<Wire>>,
    /// The task is sending counts.
    sending: AtomicBool,
    /// Whose the connection is, if that is said.
    pub(super) user: Option<Name>,
}

const _: () = assert!(super::PAGES_MAX <= 2 * WORD);

impl Mailbox {
    /// The mailbox of a connection of this user.
    pub(super) fn new(user: Option<Name>, wire: Option<Arc<Wire>>) -> Self {
        Self { user, wire, ..Self::default() }
    }

    /// Whether [`Self::tell`] may send anything.
    pub(super) fn is_direct(&self) -> bool {
        self.wire.is_some()
    }

    /// Sends the newest frame of the page at this place at once or, where that cannot be, has the task send it.
    ///
    /// While the task sends counts it may have one that is older: then what is sent here could come first.
    pub(super) fn tell(&self, place: usize, frame: impl FnOnce() -> Option<Bytes>) -> Sent {
        let told = match self.wire.as_ref().filter(|_| !self.sending.load(Ordering::Acquire)) {
            Some(wire) => wire.tell(frame),
            None => Told::Later,
        };
        match told {
            Told::Whole => {
                let (word, bit) = (&self.told[place / WORD % 2], 1 << (place % WORD));
                if word.load(Ordering::Acquire) & bit == 0 {
                    word.fetch_or(bit, Ordering::AcqRel);
                }
                Sent::Now
            }
            Told::Nothing => Sent::Nothing,
            Told::Begun | Told::Later => Sent::Marked { replaced: self.mark(place) },
        }
    }

    /// The task begins, or has ended, to send counts.
    pub(super) fn set_sending(&self, sending: bool) {
        self.sending.store(sending, Ordering::Release);
    }

    /// Whether a count of this place's page has been sent by [`Self::tell`] since the last time that this was asked.
    pub(super) fn take_told(&self, place: usize) -> bool {
        let bit = 1 << (place % WORD);
        self.told[place / WORD % 2].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// The page at this place has a new value. Returns whether the one before had not been taken yet.
    pub(super) fn mark(&self, place: usize) -> bool {
        let bit = 1 << (place % WORD);
        let before = self.marks[place / WORD % 2].fetch_or(bit, Ordering::AcqRel);
        self.waker.wake();
        before & bit != 0
    }

    /// The places that were marked, as bits; waits for one.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Marks> {
        self.waker.register(cx.waker());
        let marks = Marks([0, 1].map(|word: usize| self.marks[word].swap(0, Ordering::AcqRel)));
        if marks.0 == [0, 0] { Poll::Pending } else { Poll::Ready(marks) }
    }
}

/// What has become of a count that a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Now,
    /// The connection does not look any more.
    Nothing,
    Marked {
        replaced: bool,
    },
}

/// Places that were marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks([u64; 2]);

impl Iterator for Marks {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        let bit = self.0[word].trailing_zeros();
        self.0[word] &= self.0[word] - 1;
        Some(word * WORD + usize::try_from(bit).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::Line;
    use super::*;

    #[test]
    fn marks_are_taken_once_and_in_order() {
        let mailbox = Mailbox::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(mailbox.poll_take(&mut cx).is_pending());
        for place in [99, 0, 63, 64] {
            assert!(!mailbox.mark(place));
        }
        assert!(mailbox.mark(99), "a mark over a mark replaces a value that nobody has seen");
        let Poll::Ready(marks) = mailbox.poll_take(&mut cx) else { panic!("nothing was marked") };
        assert_eq!(marks.collect::<Vec<_>>(), [0, 63, 64, 99]);
        assert!(mailbox.poll_take(&mut cx).is_pending());
    }

    #[tokio::test]
    async fn a_count_is_sent_without_the_task_but_not_while_that_sends_one_that_may_be_older() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let line = Line::new(listener.accept().await.unwrap().0);
        line.stream().writable().await.unwrap();
        let mailbox = Mailbox::new(None, Some(line.wire()));
        let frame = || Some(Bytes::from_static(b"frame"));
        assert_eq!(mailbox.tell(64, frame), Sent::Now);
        assert_eq!(mailbox.tell(64, || None), Sent::Nothing);
        assert!(!mailbox.take_told(0) && mailbox.take_told(64) && !mailbox.take_told(64));
        mailbox.set_sending(true);
        assert_eq!(mailbox.tell(3, frame), Sent::Marked { replaced: false });
        assert_eq!(mailbox.tell(3, frame), Sent::Marked { replaced: true });
        mailbox.set_sending(false);
        assert_eq!(mailbox.tell(3, frame), Sent::Now);
        let taken = mailbox.poll_take(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(
            matches!(taken, Poll::Ready(marks) if marks.collect::<Vec<_>>() == [3]),
            "what was marked is looked at all the same"
        );
    }
}
