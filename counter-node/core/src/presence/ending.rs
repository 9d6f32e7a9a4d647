//! What stood under a lease that has ended, and how it is taken off: so many pages in one step, so that whoever waits for presence's lock
//! does not wait until a million are gone.
//!
//! Until all of it is off, counts are what they were or nearer to what is true: more than that, and never fewer. A gateway of which pages
//! are still taken off is not listened to, as though its messages were lost: what it had would be taken for what it has.

use super::copies::Copies;
use super::feed::is_watched;
use super::ledger::{Entries, PageState};
use super::owner::Owner;
use super::step::Step;
use super::viewers::GatewayNumber;

/// What is left of a gateway's pages.
#[derive(Debug)]
pub(super) struct Ending {
    number: GatewayNumber,
    /// It was fed from here: its pages are watched for its sake.
    fed: bool,
    /// What counts.
    shown: Entries,
    /// What never has: forgetting it takes its time, too.
    next: Entries,
}

impl Ending {
    pub(super) fn new(number: GatewayNumber, fed: bool, copies: Copies) -> Self {
        let (shown, next) = copies.into_entries();
        Self { number, fed, shown, next }
    }
}

impl Owner {
    /// Whether pages of this gateway are still to be taken off.
    pub(super) fn is_ending(&self, number: GatewayNumber) -> bool {
        self.ending.iter().any(|ending| ending.number == number)
    }

    /// Takes off what one step may.
    pub(super) fn end_some(&mut self, step: &Step<'_>) {
        let nothing = PageState { changed_ms: step.now.wall_ms, ..PageState::default() };
        let mut left = self.config.ended_max;
        while let Some(mut ending) = self.ending.pop_front() {
            while left > 0 {
                let Some((place, before)) = ending.shown.next() else { break };
                left = left.saturating_sub(1);
                if ending.fed && is_watched(&before) {
                    self.watchers.remove(&place, ending.number, &self.viewers);
                }
                self.changed_page(step.now_ms(), ending.number, place, &before, &nothing);
            }
            while left > 0 && ending.next.next().is_some() {
                left = left.saturating_sub(1);
            }
            if left == 0 {
                self.ending.push_front(ending);
                return;
            }
        }
    }
}
