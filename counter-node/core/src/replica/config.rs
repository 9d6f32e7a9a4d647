//! The protocol's knobs.

use crate::hlc::DRIFT_MAX_MS;
use crate::token::{TOKEN_FUTURE_MS, TOKEN_WINDOW_MS};

/// The protocol's intervals and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Keys of one delta message. Few, so that neither end is at one message for long…
    pub delta_keys: usize,
    /// …but as many as it takes for all that waits to be there after this time, by what the last message took.
    pub delta_ms: usize,
    /// Keys of one delta message, however many wait.
    pub delta_keys_max: usize,
    /// Encoded bytes of one delta or detail message, about.
    pub message_bytes_max: usize,
    /// Own changes kept per peer; beyond, the peer is asked to pull instead.
    pub pending_keys_max: usize,
    /// First time-out of anything that awaits an answer; doubled with each repetition.
    pub retry_ms: u64,
    /// The longest such time-out.
    pub retry_ms_max: u64,
    /// How often slots are compared with a sibling, each sibling in turn.
    pub repair_ms: u64,
    /// Slots of one digest message.
    pub digest_slots_max: usize,
    /// Counters whose digest one digest message may have to reckon, about.
    pub digest_counters_max: usize,
    /// Slots asked for in detail at once, per peer.
    pub detail_slots_max: usize,
    /// Counters that one detail question sums up.
    pub summary_counters_max: usize,
    /// How often a receiving node asks again for what is left.
    pub sweep_ms: u64,
    /// How often a node is heard of when there is nothing else to say.
    pub hello_ms: u64,
    /// Start-up waits at most this long for the siblings…
    pub bootstrap_ms_max: u64,
    /// …and at most this long for one that does not answer.
    pub bootstrap_silence_ms_max: u64,
    /// How often closed actors are looked for.
    pub retire_ms: u64,
    /// Slots of one retirement question.
    pub retire_slots_max: usize,
    /// Counters looked at per tick in search of closed actors.
    pub retire_counters_max: usize,
    /// Slots of more counters keep their closed actors: the record must fit one message.
    pub retire_slot_counters_max: usize,
    /// Keys forgotten per tick.
    pub forget_keys_max: usize,
    /// For how long after they were made tokens are taken. The same as the table's.
    pub token_window_ms: u64,
    /// How much longer their records are kept: for tokens from clocks ahead, and nodes whose clocks are behind.
    pub token_slack_ms: u64,
    /// Floors are multiples of it, so that they move seldom.
    pub token_floor_grain_ms: u64,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self {
            delta_keys: 256,
            delta_ms: 25,
            delta_keys_max: 2_048,
            message_bytes_max: 256 << 10,
            pending_keys_max: 65_536,
            retry_ms: 500,
            retry_ms_max: 8_000,
            repair_ms: 2_000,
            digest_slots_max: 2_048,
            digest_counters_max: 100_000,
            detail_slots_max: 64,
            summary_counters_max: 4_096,
            sweep_ms: 250,
            hello_ms: 1_000,
            bootstrap_ms_max: 10_000,
            bootstrap_silence_ms_max: 3_000,
            retire_ms: 5_000,
            retire_slots_max: 256,
            retire_counters_max: 20_000,
            retire_slot_counters_max: 20_000,
            forget_keys_max: 20_000,
            token_window_ms: TOKEN_WINDOW_MS,
            token_slack_ms: TOKEN_FUTURE_MS.saturating_add(DRIFT_MAX_MS),
            token_floor_grain_ms: 10_000,
        }
    }
}

impl ReplicaConfig {
    /// How long to wait for an answer after so many time-outs.
    pub(super) fn timeout_ms(&self, tries: u32) -> u64 {
        self.retry_ms.saturating_mul(1 << tries.min(16)).min(self.retry_ms_max)
    }
}
