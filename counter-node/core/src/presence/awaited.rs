//! Slots whose viewers are not known yet: a gateway with sessions there may not have said so.

use std::collections::BTreeSet;

use crate::layout::LayoutVersion;
use crate::slot::Slot;

/// Slots in groups, each of those that came together.
#[derive(Debug, Default)]
pub(super) struct Awaited(Vec<Group>);

#[derive(Debug)]
struct Group {
    /// Gateways that are arranged by this layout or a newer one tell this shard of these slots.
    since: LayoutVersion,
    since_ms: u64,
    slots: BTreeSet<Slot>,
}

impl Awaited {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, slot: Slot) -> bool {
        self.0.iter().any(|group| group.slots.contains(&slot))
    }

    pub(super) fn add(&mut self, slots: Vec<Slot>, since: LayoutVersion, since_ms: u64) {
        if !slots.is_empty() {
            self.0.push(Group { since, since_ms, slots: slots.into_iter().collect() });
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        for group in &mut self.0 {
            group.slots.remove(&slot);
        }
        self.0.retain(|group| !group.slots.is_empty());
    }

    /// This process stood still for so long.
    pub(super) fn extend(&mut self, stall_ms: u64) {
        for group in &mut self.0 {
            group.since_ms = group.since_ms.saturating_add(stall_ms);
        }
    }

    /// Takes out the slots of which all gateways have told, by what the answer is for a layout and a moment.
    pub(super) fn take(&mut self, has_told: impl Fn(LayoutVersion, u64) -> bool) -> Vec<Slot> {
        let (told, left) = std::mem::take(&mut self.0).into_iter().partition(|group| has_told(group.since, group.since_ms));
        self.0 = left;
        told.into_iter().flat_map(|group: Group| group.slots).collect()
    }
}
