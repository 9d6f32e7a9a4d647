//! What storage keeps of a slot apart from counters and tokens.

use serde::{Deserialize, Serialize};

use super::{Generation, SlotVector};
use crate::counter::{Counter, Key, KeyRef};
use crate::id::ActorId;

/// What storage keeps of a slot apart from its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    pub generation: Generation,
    pub retired: Vec<ActorId>,
}

impl SlotVector {
    /// Puts a counter back as storage had it.
    pub fn restore_counter<'k>(&mut self, key: impl Into<KeyRef<'k>>, counter: &Counter) {
        self.replace(key.into(), counter);
    }

    /// Puts the slot's own record back as storage had it.
    pub fn restore_slot(&mut self, record: SlotRecord) {
        self.set_generation(record.generation, record.retired);
        self.unsaved_generation = false;
    }

    /// The slot's own record and all keys, when the generation changed since this was last asked: counters and
    /// generation must reach storage together, or a base would count beside the entries that it is made of.
    pub fn take_unsaved_generation(&mut self) -> Option<(SlotRecord, Vec<Key>)> {
        std::mem::take(&mut self.unsaved_generation).then(|| {
            let record = SlotRecord { generation: self.generation, retired: self.retired.clone() };
            (record, self.keys().map(KeyRef::to_key).collect())
        })
    }

    /// Nothing is written to storage: what is marked to be need not be.
    pub fn forgo_unsaved(&mut self) {
        self.unsaved_generation = false;
        if let Some(tokens) = &mut self.tokens {
            tokens.forgo_unsaved();
        }
    }

    /// The write of what [`Self::take_unsaved_generation`] gave has failed: it is to be given again.
    pub fn mark_generation_unsaved(&mut self) {
        self.unsaved_generation = self.generation > Generation::default();
    }
}
