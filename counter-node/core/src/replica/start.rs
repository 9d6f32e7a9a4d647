//! Start-up: a node is ready once it has merged what the siblings hold that it can reach, within bounded time.

use std::collections::{BTreeMap, BTreeSet};

use super::Replica;
use super::parts::Part;
use super::pull::Pulled;
use super::slots::SlotSet;
use crate::id::NodeName;
use crate::status::Readiness;

/// How far this process is.
#[derive(Debug)]
pub(super) enum Start {
    /// No layout has named this node yet.
    Unnamed,
    Merging {
        /// None before the first tick.
        since_ms: Option<u64>,
        /// Per sibling: the slots not yet pulled from it since the start.
        left: BTreeMap<NodeName, SlotSet>,
    },
    Done,
}

impl Replica {
    /// Follows a layout that has just been adopted.
    pub(super) fn begin_start(&mut self) {
        if !self.parts.named {
            return;
        }
        let siblings: BTreeSet<&NodeName> = self.parts.siblings.iter().collect();
        match &mut self.start {
            Start::Unnamed => {}
            Start::Merging { left, .. } => {
                left.retain(|sibling, _| siblings.contains(sibling));
                for slots in left.values_mut() {
                    slots.retain(|slot| self.parts.part(slot).writes());
                }
                return;
            }
            Start::Done => return,
        }
        let slots: SlotSet = self.parts.slots(Part::writes).collect();
        let left = siblings.into_iter().map(|sibling| (sibling.clone(), slots.clone())).collect();
        for sibling in &self.parts.siblings {
            if let Some(peer) = self.peers.get_mut(sibling) {
                peer.puller.want(slots.iter());
            }
        }
        // Alone in its shard, or in one that owns nothing yet: there is nothing to wait for.
        let nothing = slots.is_empty() || self.parts.siblings.is_empty();
        self.start = if nothing { Start::Done } else { Start::Merging { since_ms: None, left } };
    }

    pub(super) fn pulled_at_start(&mut self, pulled: &Pulled) {
        if let Start::Merging { left, .. } = &mut self.start
            && let Some(left) = left.get_mut(&pulled.peer)
        {
            left.remove(pulled.slot);
        }
    }

    /// Gives up siblings that do not answer, and sees whether anything is left.
    pub(super) fn advance_start(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let Start::Merging { since_ms, left } = &mut self.start else { return };
        let since_ms = *since_ms.get_or_insert(now_ms);
        let silent = |sibling: &NodeName| {
            let answered_ms = self.peers.get(sibling).and_then(|peer| peer.puller.answered_ms()).unwrap_or(since_ms);
            now_ms.saturating_sub(answered_ms.max(since_ms)) >= self.config.bootstrap_silence_ms_max
        };
        left.retain(|sibling, slots| !slots.is_empty() && !silent(sibling));
        if left.is_empty() || now_ms.saturating_sub(since_ms) >= self.config.bootstrap_ms_max {
            self.start = Start::Done;
        }
    }

    /// Whether this node should be given clients. Once it is ready, the loss of a peer does not change it.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        if self.draining {
            return Readiness::Draining;
        }
        match (&self.layout, &self.start) {
            (None, _) => Readiness::WaitingForLayout,
            (Some(_), _) if !self.parts.named => Readiness::NotInLayout,
            (Some(_), _) if self.contest.is_some() => Readiness::MergingSiblings,
            (Some(_), Start::Merging { .. } | Start::Unnamed) => Readiness::MergingSiblings,
            (Some(_), Start::Done) => Readiness::Ready,
        }
    }
}
