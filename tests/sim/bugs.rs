//! Bugs that can be planted, to prove that the simulation would find them.

/// One planted bug; each sits at the rim, in the operator or in the world, not in the state machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The client's answer leaves when the update is in memory.
    AckBeforeDurable,
    /// A restart goes on under the actor of the start before.
    ReusedIncarnation,
    /// The operator flips before the new shard holds what the old one has.
    EarlyFlip,
    /// The operator ends a move at once after the flip.
    ReceiptSkipped,
    /// A node hears that a sibling agrees to each retirement, whatever it has.
    LateFold,
    /// A node that gets a slot back goes on under the actor by which it gave the slot away.
    ResumedActor,
    /// The forwarder takes a lost request for one that was not sent.
    UnknownRetriedElsewhere,
    /// A repeated message is applied again.
    InboxForgets,
    /// A node says that it holds a moving slot before that has reached the disk.
    StatusBeforeSync,
    /// A slot that has moved away leaves its record, which says the generation, on the disk.
    SlotRecordLeft,
    /// What an update under a token adds is written without the token's record.
    EffectWithoutRecord,
    /// A repeated update is acknowledged before the first one is durable.
    ReplayBeforeDurable,
    /// Of two replicas that counted one token, each ignores the record of the other.
    NoRefund,
    /// What another replica counts is taken back twice.
    DoubleSettle,
    /// A counter arrives without all of the token records that are in it.
    RecordsCutOff,
    /// A node hears that a sibling agrees to each floor, even one that it cannot reach.
    EarlyForget,
    /// A node that gets slots writes their counters without the records of their tokens.
    RecordNotMoved,
    /// Who subscribes is told by one replica how often the page was modified.
    OneOfPageHeard,
    /// What changes a subscription hears one replica of the user's shard.
    OneOfUserHeard,
    /// A user has read what the client says, whatever there is.
    VersionBelieved,
    /// A subscription that is as it should be is acknowledged before that is durable.
    StandingNotDurable,
    /// What nodes send each other leaves out what is of no actor.
    RegisterNotSent,
    /// What is of no actor is retired with the others.
    RegisterRetired,
    /// A node that gets slots writes their counters without the subscriptions.
    SubscriptionNotMoved,
    /// A user's total counts one page alone.
    TotalOfOnePage,
    /// Who feeds followers is not told what it merges.
    MergesUntold,
    /// Who feeds followers is not told of its own updates.
    UpdatesUntold,
    /// What is fetched for followers and fails is not fetched again.
    FetchNotRepeated,
    /// What has changed for a follower is fetched of any replica.
    FetchedOfAny,
    /// Presence goes on by the first layout.
    MovesUnheard,
}

impl Bug {
    pub(crate) const ALL: [Self; 30] = [
        Self::AckBeforeDurable,
        Self::ReusedIncarnation,
        Self::EarlyFlip,
        Self::ReceiptSkipped,
        Self::LateFold,
        Self::ResumedActor,
        Self::UnknownRetriedElsewhere,
        Self::InboxForgets,
        Self::StatusBeforeSync,
        Self::SlotRecordLeft,
        Self::EffectWithoutRecord,
        Self::ReplayBeforeDurable,
        Self::NoRefund,
        Self::DoubleSettle,
        Self::RecordsCutOff,
        Self::EarlyForget,
        Self::RecordNotMoved,
        Self::OneOfPageHeard,
        Self::OneOfUserHeard,
        Self::VersionBelieved,
        Self::StandingNotDurable,
        Self::RegisterNotSent,
        Self::RegisterRetired,
        Self::SubscriptionNotMoved,
        Self::TotalOfOnePage,
        Self::MergesUntold,
        Self::UpdatesUntold,
        Self::FetchNotRepeated,
        Self::FetchedOfAny,
        Self::MovesUnheard,
    ];
}
