//! A small generator of numbers that need be unlike, not secret: first sequence numbers, and whom to greet. Seeded by
//! the rim, so that a simulation can be run again.

/// The splitmix64 sequence.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number that a count can start from without ever wrapping.
    pub(super) fn start(&mut self) -> u64 {
        self.number() >> 8
    }

    /// An index below `length`; none when there is no such index.
    pub(super) fn index(&mut self, length: usize) -> Option<usize> {
        let length = u64::try_from(length).ok()?;
        usize::try_from(self.number().checked_rem(length)?).ok()
    }
}
