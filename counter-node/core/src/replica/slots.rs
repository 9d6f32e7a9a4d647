//! A set of slots, as bits: repair goes over all of them every few seconds.

use crate::slot::{SLOTS, Slot};

const WORDS: usize = (SLOTS as usize).div_ceil(64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotSet {
    words: Box<[u64; WORDS]>,
    len: usize,
}

impl Default for SlotSet {
    fn default() -> Self {
        Self { words: Box::new([0; WORDS]), len: 0 }
    }
}

fn place(slot: Slot) -> (usize, u64) {
    (slot.index() >> 6, 1 << (slot.number() & 63))
}

impl SlotSet {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.words[word] & bit != 0
    }

    pub(super) fn insert(&mut self, slot: Slot) {
        let (word, bit) = place(slot);
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.len = self.len.saturating_add(1);
        }
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        let (word, bit) = place(slot);
        if self.words[word] & bit != 0 {
            self.words[word] &= !bit;
            self.len = self.len.saturating_sub(1);
        }
    }

    pub(super) fn clear(&mut self) {
        if self.len > 0 {
            *self.words = [0; WORDS];
            self.len = 0;
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        for slot in self.clone().iter().filter(|slot| !keep(*slot)) {
            self.remove(slot);
        }
    }

    /// The slots, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> {
        let words = (0_u16..).step_by(64).zip(self.words.iter().copied());
        words.flat_map(|(first, mut word)| {
            std::iter::from_fn(move || {
                let offset = u16::try_from(word.trailing_zeros()).ok().filter(|_| word != 0)?;
                word &= word.wrapping_sub(1);
                Slot::new(first.saturating_add(offset))
            })
        })
    }
}

impl Extend<Slot> for SlotSet {
    fn extend<T: IntoIterator<Item = Slot>>(&mut self, slots: T) {
        slots.into_iter().for_each(|slot| self.insert(slot));
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<T: IntoIterator<Item = Slot>>(slots: T) -> Self {
        let mut set = Self::default();
        set.extend(slots);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_gives_its_slots_back_in_order() {
        let numbers = [0, 63, 64, 4_095, 16_383];
        let mut set: SlotSet = numbers.into_iter().rev().chain([64]).filter_map(Slot::new).collect();
        let listed: Vec<u16> = set.iter().map(Slot::number).collect();
        assert_eq!((listed.as_slice(), set.len()), (&numbers[..], 5));
        set.retain(|slot| slot.number() >= 64);
        assert!(!set.contains(Slot::new(63).unwrap()) && set.contains(Slot::new(64).unwrap()));
        assert_eq!(set.len(), 3);
        assert_eq!(Slot::all().collect::<SlotSet>().iter().count(), usize::from(SLOTS));
    }
}
