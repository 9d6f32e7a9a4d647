//! Presence's knobs.

/// The intervals and limits of presence. All nodes of a cluster should have the same `lease_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceConfig {
    /// How long a gateway's counts stand without a newer renewal. At least three times `renew_ms`.
    pub lease_ms: u64,
    /// How often a gateway renews its lease at each replica of each shard.
    pub renew_ms: u64,
    /// How often the rim ticks. A tick that comes later than twice this is a stall of this node, not of its gateways.
    pub tick_ms: u64,
    /// Changes for one receiver leave at once, but no two messages of them closer together than this.
    pub flush_ms: u64,
    /// How long an unanswered message holds the next changes back.
    pub retry_ms: u64,
    /// How often a replica tells its siblings what has changed of whom it has heard.
    pub exchange_ms: u64,
    /// How often it tells them all of it.
    pub exchange_all_ms: u64,
    /// How long a sibling may be ahead in a gateway's pages that speaks here too, before it is asked for them.
    pub behind_ms: u64,
    /// How often the unique viewers of one page are told anew.
    pub unique_ms: u64,
    /// Encoded bytes of one message's list, about.
    pub message_bytes_max: usize,
    /// Pages that are gone and still told, beside as many as there are pages. Whoever has missed more starts anew.
    pub absent_max: usize,
    /// Starts of one node that are heard at a time. More, within one lease, are not.
    pub starts_max: usize,
    /// For how long a page without viewers keeps the moment at which the last one left.
    pub left_ms: u64,
    /// How many such pages there are at most.
    pub left_max: usize,
    /// Pages that one step takes off when a lease ends; a millisecond for two thousand, about. At least 1.
    pub ended_max: usize,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            lease_ms: 5_000,
            renew_ms: 1_000,
            tick_ms: 50,
            flush_ms: 50,
            retry_ms: 500,
            exchange_ms: 100,
            exchange_all_ms: 1_000,
            behind_ms: 200,
            unique_ms: 1_000,
            message_bytes_max: 256 << 10,
            absent_max: 4_096,
            starts_max: 32,
            left_ms: 60_000,
            left_max: 65_536,
            ended_max: 16_384,
        }
    }
}

impl PresenceConfig {
    /// The last acknowledgement of a replica that can be a feed is at most so old.
    pub(super) fn feed_silence_ms(&self) -> u64 {
        self.renew_ms.saturating_mul(2).saturating_add(self.renew_ms / 2)
    }

    /// For how long a lease that has ended is remembered, so that nothing late begins it again.
    pub(super) fn grave_ms(&self) -> u64 {
        self.lease_ms.saturating_mul(10)
    }
}
