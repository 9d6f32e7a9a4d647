//! Bugs that can be planted, to prove that the simulation would find them. Each sits in what a node is told or in how it is
//! driven, not in the state machine.

use counter_core::layout::LayoutVersion;
use counter_core::presence::PresenceMessage;

use crate::plan::{Fault, Plan};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A renewal that is known already prolongs the lease once more when a sibling hands it on.
    EqualRenewal,
    /// Handing a renewal on makes it younger.
    AgeForgotten,
    /// Changes are applied although some before them are missing, and nobody compares.
    GapApplied,
    /// Every message's changes are taken for all that there are.
    PartAsWhole,
    /// A gateway that has not heard of a layout is taken for one that has arranged its pages by it.
    EarlyComplete,
    /// A gateway tells only the owner of a slot that moves.
    MoveNotDoubled,
    /// A feed that was lost counts as answered.
    FeedNotResent,
    /// A process whose messages wait while it stands still ends leases all the same.
    StallUnnoticed,
    /// A process starts under the number of the one before.
    ReusedStart,
    /// Siblings do not tell each other whom they have heard.
    SiblingsSilent,
    /// Nobody goes on with what is left of a lease that has ended; only the next tick does.
    EndsForgotten,
}

impl Bug {
    pub(crate) const ALL: [Self; 11] = [
        Self::EqualRenewal,
        Self::AgeForgotten,
        Self::GapApplied,
        Self::PartAsWhole,
        Self::EarlyComplete,
        Self::MoveNotDoubled,
        Self::FeedNotResent,
        Self::StallUnnoticed,
        Self::ReusedStart,
        Self::SiblingsSilent,
        Self::EndsForgotten,
    ];

    /// Makes what the bug takes more frequent, where it is rare.
    pub(crate) fn sharpen(self, plan: &mut Plan) {
        match self {
            Self::PartAsWhole => (plan.message_bytes_max, plan.loss, plan.absent_max) = (60, 200, 0),
            Self::SiblingsSilent => {
                (plan.shards, plan.replicas, plan.heal_ms, plan.loss, plan.slow) = (2, 2, 14_000, 0, 0);
                plan.faults = vec![(2_000, Fault::Cut { from: 2, to: 1, ms: 11_000 })];
            }
            Self::StallUnnoticed => {
                (plan.heal_ms, plan.loss, plan.slow) = (14_000, 0, 0);
                plan.faults = vec![(2_000, Fault::Stall { node: 1, ms: 8_000 })];
            }
            // A lease that ends only just in time, with more than ticks can take off until all must be right.
            Self::EndsForgotten => {
                (plan.ended_max, plan.heal_ms) = (1, 8_000);
                plan.faults = vec![(7_900, Fault::Crash { node: 0, down_ms: 9_000 })];
            }
            // A gateway that is of neither shard, and hears late that slots move.
            Self::EarlyComplete => {
                (plan.shards, plan.replicas, plan.layout_ms_max, plan.heal_ms) = (3, 2, 4_000, 16_000);
                (plan.loss, plan.slow, plan.ended_max) = (0, 0, 4_096);
            }
            _ => {}
        }
    }

    /// What a node with this bug makes of a message; None: nothing.
    pub(crate) fn distort(self, mut message: PresenceMessage) -> Option<PresenceMessage> {
        match (self, &mut message) {
            (Self::EqualRenewal, PresenceMessage::Heard(heard)) => {
                for heard in heard {
                    (heard.renewal, heard.age_ms) = (heard.renewal + 1, 0);
                }
            }
            (Self::AgeForgotten, PresenceMessage::Heard(heard)) => heard.iter_mut().for_each(|heard| heard.age_ms = 0),
            (Self::GapApplied, PresenceMessage::Renewal(renewal)) => renewal.delta.after = 0,
            (Self::GapApplied, PresenceMessage::RenewalAck(ack)) => ack.differs = false,
            (Self::PartAsWhole, PresenceMessage::Renewal(renewal)) => renewal.delta.head = renewal.delta.upto,
            (Self::EarlyComplete, PresenceMessage::Renewal(renewal)) => renewal.layout = LayoutVersion(u64::MAX),
            (Self::SiblingsSilent, PresenceMessage::Heard(_)) => return None,
            _ => {}
        }
        Some(message)
    }
}
