//! Keys, noted without an allocation for each: what has changed between two commits, or two ticks.

use super::KeyRef;
use crate::slot::Slot;

/// Keys with their slots, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct KeyList {
    /// The keys' bytes, one behind the other.
    bytes: Vec<u8>,
    /// Each key's slot, and how many bytes it has.
    keys: Vec<(Slot, u16)>,
}

impl KeyList {
    /// Notes a key, unless it is the last one once more: a hot counter's changes come in a row.
    pub fn push(&mut self, slot: Slot, key: KeyRef<'_>) {
        let repeated = self.keys.last().is_some_and(|(_, length)| {
            let last = self.bytes.len().saturating_sub(usize::from(*length));
            self.bytes[last..] == *key.0
        });
        // No key is longer than some 650 bytes.
        if let (false, Ok(length)) = (repeated, u16::try_from(key.0.len())) {
            self.bytes.extend_from_slice(key.0);
            self.keys.push((slot, length));
        }
    }

    /// The keys with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, KeyRef<'_>)> {
        let mut rest = self.bytes.as_slice();
        self.keys.iter().map(move |(slot, length)| {
            let (key, behind) = rest.split_at(usize::from(*length));
            rest = behind;
            (*slot, KeyRef(key))
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Forgets the keys, and keeps the room of at most so many of usual length.
    pub fn clear(&mut self, keys_kept: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keys_kept.saturating_mul(USUAL_BYTES));
        self.keys.clear();
        self.keys.shrink_to(keys_kept);
    }
}

/// How long a key usually is, about.
const USUAL_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::Key;

    proptest! {
        #[test]
        fn a_list_gives_back_what_was_noted_but_for_repetitions_in_a_row(
            pages in prop::collection::vec("[ab]{1,2}|[a-z]{500,512}", 0..20), kept in 0_usize..4,
        ) {
            let mut keys: Vec<Key> = pages.iter().map(|page| Key::new(page.as_bytes()).unwrap()).collect();
            let mut list = KeyList::default();
            for _ in 0..2 {
                keys.iter().for_each(|key| list.push(key.slot(), key.into()));
                keys.dedup();
                let noted: Vec<(Slot, Key)> = list.iter().map(|(slot, key)| (slot, key.to_key())).collect();
                let wanted: Vec<(Slot, Key)> = keys.iter().map(|key| (key.slot(), key.clone())).collect();
                prop_assert_eq!(noted, wanted);
                list.clear(kept);
                prop_assert!(list.is_empty());
            }
        }
    }
}
