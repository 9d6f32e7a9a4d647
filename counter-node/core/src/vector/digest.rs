//! What two copies of a counter are compared by: the hashes of its parts, combined by exclusive or, so that a digest follows a
//! change of one part at the cost of that part. It is the same on every node and in every release of one message format: it depends on nothing but the
//! key and what the counter holds. A counter that holds nothing is as none: 0.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::counter::{Base, Entry};
use crate::hlc::Hlc;
use crate::id::ActorId;

/// Makes the terms of one counter's digest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    key_hash: u64,
}

/// What a term stands for: its first byte.
const UPDATED_AT: u8 = 1;
const ENTRY: u8 = 2;
const BASELINE: u8 = 3;
const BASE: u8 = 4;

impl Terms {
    pub(super) fn of(key: &[u8]) -> Self {
        Self { key_hash: xxh3_64(key) }
    }

    pub(super) fn updated_at(self, updated_at: Hlc) -> u64 {
        if updated_at == Hlc::default() { 0 } else { self.term(UPDATED_AT, &[updated_at.0.to_le_bytes()]) }
    }

    pub(super) fn entry(self, actor: ActorId, entry: Entry) -> u64 {
        self.of_actor(ENTRY, actor, entry)
    }

    pub(super) fn baseline(self, actor: ActorId, baseline: Entry) -> u64 {
        self.of_actor(BASELINE, actor, baseline)
    }

    pub(super) fn base(self, base: Base) -> u64 {
        if base == Base::default() {
            return 0;
        }
        let Base { total, cleared } = base;
        let numbers = [total.increments, total.decrements, cleared.increments, cleared.decrements];
        self.term(BASE, &numbers.map(u128::to_le_bytes))
    }

    fn of_actor(self, what: u8, actor: ActorId, entry: Entry) -> u64 {
        let numbers = [actor.origin, actor.incarnation, entry.increments, entry.decrements];
        self.term(what, &numbers.map(u64::to_le_bytes))
    }

    /// Seeded with the key's hash, so that equal parts of two counters differ.
    fn term<const N: usize, const W: usize>(self, what: u8, numbers: &[[u8; W]; N]) -> u64 {
        xxh3_64_with_seed(numbers.as_flattened(), self.key_hash ^ u64::from(what).rotate_right(8))
    }
}
