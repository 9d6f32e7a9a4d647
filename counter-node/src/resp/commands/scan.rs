//! SCAN and DBSIZE: the counters of the slots of which this node is the master, as each node of a Redis Cluster has its own.
//!
//! A cursor is a slot and a place in it, in the order of the keys' hashes: so a counter that is there all the time is
//! told whatever else comes and goes. Whole slots are told at once unless they are large.

use std::collections::BinaryHeap;

use counter_core::counter::Key;
use counter_core::key::{KeyKind, KeyRef};
use counter_core::slot::Slot;
use counter_core::vector::SlotVector;
use xxhash_rust::xxh3::xxh3_64;

use super::{Args, Executed, Refused, Step, Turn, words};
use crate::resp::cluster::Topology;
use crate::resp::glob;

/// The bits of a cursor that stand for the place within a slot. With the slot's 14 they stay below 2^63.
const PLACE_BITS: u32 = 48;
/// The most counters that one call looks at: what a client may make a node do at once.
const COUNT_MAX: usize = 10_000;
/// A slot is gone through in parts of at least so many, since each part looks at the whole slot.
const PART_MIN: usize = 256;

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(super) fn scan(turn: &mut Turn<'_, '_>, args: Args<'_>) -> Executed {
    let invalid = || Refused::from("ERR invalid cursor");
    let cursor: u64 = std::str::from_utf8(args.get(1)).ok().and_then(|text| text.parse().ok()).ok_or_else(invalid)?;
    let options = Options::read(args)?;
    let own: Vec<Slot> = Topology::of(turn.resp, turn.session).slots_of(turn.resp.router.protocol.me()).collect();
    let (keys, next) = part(turn, &own, cursor, options.count);
    let wanted: Vec<&Key> = keys.iter().filter(|key| options.wants(key)).collect();
    turn.out.array(2);
    turn.out.text(&next.to_string());
    turn.out.array(wanted.len());
    wanted.into_iter().for_each(|key| turn.out.bulk(key.as_bytes()));
    Ok(Step::Done)
}

struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    /// Whether counters are of the type that is asked for.
    of_type: bool,
}

impl<'a> Options<'a> {
    fn read(args: Args<'a>) -> Result<Self, Refused> {
        let mut options = Self { pattern: None, count: 10, of_type: true };
        let mut at = 2;
        while at < args.len() {
            if at + 1 == args.len() {
                return Err(words::SYNTAX);
            }
            if args.is(at, "match") {
                options.pattern = Some(args.get(at + 1));
            } else if args.is(at, "count") {
                let count = usize::try_from(args.number(at + 1)?).unwrap_or(0);
                options.count = if count == 0 { return Err(words::SYNTAX) } else { count.min(COUNT_MAX) };
            } else if args.is(at, "type") {
                options.of_type = args.is(at + 1, "string");
            } else {
                return Err(words::SYNTAX);
            }
            at += 2;
        }
        Ok(options)
    }

    fn wants(&self, key: &Key) -> bool {
        self.of_type && self.pattern.is_none_or(|pattern| glob::matches(pattern, key.as_bytes()))
    }
}

/// Some of the keys from a cursor on, and the next cursor; 0 at the end.
fn part(turn: &Turn<'_, '_>, own: &[Slot], cursor: u64, count: usize) -> (Vec<Key>, u64) {
    let first = u16::try_from(cursor >> PLACE_BITS).unwrap_or(u16::MAX);
    let mut place = cursor & ((1 << PLACE_BITS) - 1);
    let mut keys = Vec::new();
    for (index, slot) in own.iter().enumerate().skip_while(|(_, slot)| slot.number() < first) {
        if slot.number() != first {
            place = 0;
        }
        let (mut found, after) = from_slot(turn, *slot, place, count.saturating_sub(keys.len()).max(PART_MIN));
        keys.append(&mut found);
        if let Some(after) = after {
            return (keys, u64::from(slot.number()) << PLACE_BITS | after);
        }
        if keys.len() >= count {
            // A slot after 0 begins above 0; so this is never taken for the end.
            let next = own.get(index + 1).map_or(0, |next| u64::from(next.number()) << PLACE_BITS);
            return (keys, next);
        }
    }
    (keys, 0)
}

/// The first keys of a slot from a place on, and where the next part begins unless that is all.
fn from_slot(turn: &Turn<'_, '_>, slot: Slot, place: u64, count: usize) -> (Vec<Key>, Option<u64>) {
    let vector = turn.resp.router.owner.table.slot(slot);
    if vector.existing() == 0 {
        return (Vec::new(), None);
    }
    // The lowest places, the highest of them on top.
    let mut lowest: BinaryHeap<(u64, &[u8])> = BinaryHeap::new();
    let mut cut = false;
    for key in pages(&vector) {
        let at = place_of(key);
        if at >= place {
            lowest.push((at, key.as_bytes()));
        }
        if lowest.len() > count {
            cut = true;
            lowest.pop();
        }
    }
    let mut found: Vec<(u64, &[u8])> = lowest.into_vec();
    let owned = |key: &[u8]| Key::new(key).ok();
    let Some(last) = found.iter().map(|(at, _)| *at).max().filter(|_| cut) else {
        return (found.into_iter().filter_map(|(_, key)| owned(key)).collect(), None);
    };
    // Keys of one place must not be parted: those of the last one come with the next part, unless there is no other.
    if found.iter().any(|(at, _)| *at < last) {
        found.retain(|(at, _)| *at < last);
        return (found.into_iter().filter_map(|(_, key)| owned(key)).collect(), Some(last));
    }
    let keys = pages(&vector).filter(|key| place_of(*key) == last).map(KeyRef::to_key).collect();
    (keys, Some(last + 1).filter(|next| *next < 1 << PLACE_BITS))
}

fn place_of(key: KeyRef<'_>) -> u64 {
    xxh3_64(key.as_bytes()) >> (u64::BITS - PLACE_BITS)
}

/// The slot's counters that exist, without parts of pages that are spread.
fn pages(vector: &SlotVector) -> impl Iterator<Item = KeyRef<'_>> {
    vector.keys().filter(move |key| key.kind() == KeyKind::Page && vector.read(*key).exists)
}

/// `DBSIZE`
pub(super) fn dbsize(turn: &mut Turn<'_, '_>, _: Args<'_>) -> Executed {
    let existing = existing(turn);
    turn.out.integer(existing);
    Ok(Step::Done)
}

/// How many counters exist in the slots of which this node is the master.
pub(super) fn existing(turn: &Turn<'_, '_>) -> i64 {
    let table = &turn.resp.router.owner.table;
    let topology = Topology::of(turn.resp, turn.session);
    let existing: usize = topology.slots_of(turn.resp.router.protocol.me()).map(|slot| table.slot(slot).existing()).sum();
    i64::try_from(existing).unwrap_or(i64::MAX)
}

/// Keys of one slot, at most `count`, for `CLUSTER GETKEYSINSLOT`.
pub(super) fn keys_in(turn: &Turn<'_, '_>, slot: Slot, count: usize) -> Vec<Key> {
    let vector = turn.resp.router.owner.table.slot(slot);
    pages(&vector).take(count.min(COUNT_MAX)).map(KeyRef::to_key).collect()
}
