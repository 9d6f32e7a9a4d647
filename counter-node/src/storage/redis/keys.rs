//! The names of a node's keys in Redis.
//!
//! ```text
//! {PREFIX:NODE}:meta               hash   who holds the records, their format, and the values of `meta`
//! {PREFIX:NODE}:slots              hash   per slot past its first generation: `GENERATION BYTES`
//! {PREFIX:NODE}:slot:NUMBER:GEN    hash   per counter of the slot, in that generation: its parts
//! ```
//!
//! The braces make all keys of a node lie in one slot of a Redis Cluster, so that one script may write them together.

use counter_core::slot::Slot;

/// A node's place in Redis.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    tag: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, node: &str) -> Self {
        Self { tag: format!("{{{prefix}:{node}}}") }
    }

    pub(super) fn meta(&self) -> String {
        format!("{}:meta", self.tag)
    }

    pub(super) fn slots(&self) -> String {
        format!("{}:slots", self.tag)
    }

    /// Where a slot's counters are, without the generation.
    pub(super) fn slot(&self, slot: Slot) -> String {
        format!("{}:slot:{}", self.tag, slot.number())
    }

    /// Where a slot's counters of one generation are.
    pub(super) fn counters(&self, slot: Slot, generation: u64) -> String {
        format!("{}:{generation}", self.slot(slot))
    }
}
