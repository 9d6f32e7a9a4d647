//! What a connection has not sent yet: a mark for each of its pages, and who is to be woken. No queue, whatever the page does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use super::Name;

/// Bits of one word.
const WORD: usize = 64;

/// Marks for as many pages as a connection may have, and the connection's waker.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    marks: [AtomicU64; 2],
    waker: AtomicWaker,
    /// Whose the connection is, if that is said.
    pub(super) user: Option<Name>,
}

const _: () = assert!(super::PAGES_MAX <= 2 * WORD);

impl Mailbox {
    /// The mailbox of a connection of this user.
    pub(super) fn new(user: Option<Name>) -> Self {
        Self { user, ..Self::default() }
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
}
