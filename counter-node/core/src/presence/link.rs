//! A gateway's link to one replica: how far that is, and when it is to hear next.

use super::config::PresenceConfig;
use super::copies::Reached;
use super::ledger::Ledger;
use super::messages::RenewalAck;
use crate::id::NodeName;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Link {
    /// The replica's start.
    start: Option<u64>,
    /// The start that is about to exit.
    resigned: Option<u64>,
    /// How far it says its copy is.
    reached: Option<Reached>,
    /// Where a copy that is to begin anew begins.
    base: Option<u64>,
    /// The copy that it has is to be given up.
    differs: bool,
    /// When it was last made to begin anew because it differed.
    differed_ms: Option<u64>,
    /// The highest renewal that it has answered, and when that answer came.
    answered: u64,
    heard_ms: Option<u64>,
    /// It knows the viewers of all of its slots.
    pub(super) complete: bool,
    /// The message that awaits its answer.
    under_way: Option<u64>,
    /// How far the ledger was when that was sent.
    told: u64,
    sent_ms: Option<u64>,
    renew_at_ms: u64,
    /// There is more to say than what has changed.
    stirred: bool,
    /// Not even the next flush is waited for.
    hurried: bool,
}

impl Link {
    /// A link that speaks at once. Its renewals have a place of their own within the interval, so that not all nodes hear at once.
    pub(super) fn new(now_ms: u64, renew_ms: u64, me: &NodeName, to: &NodeName) -> Self {
        let place_ms = super::feeder::weight(me, to).checked_rem(renew_ms).unwrap_or(0);
        Self {
            start: None,
            resigned: None,
            reached: None,
            base: None,
            differs: false,
            differed_ms: None,
            answered: 0,
            heard_ms: None,
            complete: false,
            under_way: None,
            told: 0,
            sent_ms: None,
            renew_at_ms: now_ms.saturating_add(place_ms),
            stirred: true,
            hurried: false,
        }
    }

    pub(super) fn resign(&mut self, start: u64) {
        self.resigned = Some(start);
    }

    /// Whether it is known which start of the replica this is.
    pub(super) fn has_answered(&self) -> bool {
        self.start.is_some()
    }

    /// Whether it has answered lately, and is to stay.
    pub(super) fn answers(&self, now_ms: u64, silence_ms: u64) -> bool {
        let leaves = self.resigned.is_some_and(|resigned| self.start.is_none_or(|start| start == resigned));
        !leaves && self.heard_ms.is_some_and(|heard_ms| now_ms < heard_ms.saturating_add(silence_ms))
    }

    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// Whether the replica lacks something of the ledger.
    pub(super) fn is_behind(&self, ledger: &Ledger) -> bool {
        self.stirred || self.differs || self.reached.is_none_or(|reached| reached.upto < ledger.head())
    }

    /// Whether the replica has all changes of the ledger up to this number.
    pub(super) fn has(&self, ledger: &Ledger, upto: u64) -> bool {
        let upto = upto.min(ledger.head());
        !self.differs && self.reached.is_some_and(|reached| reached.follows(ledger) && reached.upto >= upto)
    }

    /// Whether it has answered all that was said.
    pub(super) fn is_settled(&self) -> bool {
        !self.stirred && self.under_way.is_none()
    }

    pub(super) fn is_due(&self, ledger: &Ledger, now_ms: u64, config: &PresenceConfig, leaving: bool) -> bool {
        let since_ms = |interval: u64| self.sent_ms.is_none_or(|sent_ms| now_ms >= sent_ms.saturating_add(interval));
        if leaving {
            return !self.is_settled() && (self.stirred || since_ms(config.retry_ms));
        }
        let renews = now_ms >= self.renew_at_ms;
        let waits_ms = if self.under_way.is_some() { config.retry_ms } else { config.flush_ms };
        renews || (self.is_behind(ledger) && (self.hurried || since_ms(waits_ms)))
    }

    /// Where the next delta begins.
    pub(super) fn next_from(&mut self, ledger: &Ledger, sequence: &mut u64) -> Reached {
        match self.reached {
            Some(reached) if reached.follows(ledger) && !self.differs => reached,
            _ => {
                let base = *self.base.get_or_insert_with(|| next(sequence));
                Reached { base, upto: 0 }
            }
        }
    }

    pub(super) fn sent(&mut self, renewal: u64, head: u64, now_ms: u64, renew_ms: u64) {
        (self.under_way, self.told) = (Some(renewal), head);
        self.sent_ms = Some(now_ms);
        self.stirred = false;
        self.hurried = false;
        if now_ms >= self.renew_at_ms {
            let late_ms = now_ms.saturating_sub(self.renew_at_ms).checked_rem(renew_ms).unwrap_or(0);
            self.renew_at_ms = now_ms.saturating_sub(late_ms).saturating_add(renew_ms);
        }
    }

    /// Takes an answer in. Returns whether it is another process's than before; None when a later answer has come before.
    pub(super) fn take_ack(
        &mut self,
        ack: &RenewalAck,
        sequence: &mut u64,
        now_ms: u64,
        config: &PresenceConfig,
    ) -> Option<bool> {
        if ack.renewal <= self.answered {
            return None;
        }
        self.answered = ack.renewal;
        self.heard_ms = Some(now_ms);
        self.complete = ack.complete;
        if self.under_way.is_some_and(|renewal| renewal <= ack.renewal) {
            self.under_way = None;
        }
        let restarted = self.start.replace(ack.start).is_some_and(|start| start != ack.start);
        // The rest of what did not fit one message waits for nothing, as long as the replica comes further by it.
        self.hurried = ack.reached != self.reached && ack.reached.is_some_and(|reached| reached.upto < self.told);
        if self.base.is_some() && ack.reached.is_some_and(|reached| Some(reached.base) >= self.base) {
            (self.base, self.differs) = (None, false);
        }
        self.reached = ack.reached;
        let may_differ = self.differed_ms.is_none_or(|before| now_ms >= before.saturating_add(config.renew_ms));
        if ack.differs && !self.differs && may_differ {
            (self.base, self.differs, self.differed_ms) = (Some(next(sequence)), true, Some(now_ms));
        }
        Some(restarted)
    }

    /// The replica has asked for everything; it is this process.
    pub(super) fn asked(&mut self, start: u64) {
        if self.start.is_some_and(|before| before != start) {
            self.reached = None;
        }
        self.stirred = true;
        self.hurried = true;
    }
}

fn next(sequence: &mut u64) -> u64 {
    *sequence = sequence.saturating_add(1);
    *sequence
}
