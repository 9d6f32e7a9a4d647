//! Who should own how many slots, and the next move on the way there.
//!
//! The law: in the end shares differ by at most one slot, and no slot moves that does not have to. Some shares are one
//! slot larger when the slots do not divide evenly; they go to the shards that have that many already, so that a
//! half-finished growth, planned anew, goes on to the same end.

use std::collections::BTreeMap;

use counter_core::id::ShardId;
use counter_core::layout::{Layout, Move, MovePhase, normalised};
use counter_core::slot::{SLOTS, Slot, SlotRange, to_ranges};

/// The ranges of an even first layout, in the order of its shards: contiguous, the first ones larger by one slot.
pub(super) fn first_ranges(shards: u16) -> Vec<SlotRange> {
    let shards = shards.max(1);
    let (share, larger) = (SLOTS / shards, SLOTS % shards);
    let mut next = 0;
    let mut range_of = |shard: u16| {
        let first = next;
        next += share + u16::from(shard < larger);
        SlotRange::new(Slot::new(first)?, Slot::new(next - 1)?)
    };
    (0..shards).filter_map(&mut range_of).collect()
}

/// The most slots that any of so many shards ends up with.
pub(super) fn share_max(shards: usize) -> usize {
    usize::from(SLOTS).div_ceil(shards.max(1))
}

/// The next move towards even shares over `targets`, of which some may not be in the layout yet. For a layout that has no
/// move under way. None when no shard in the layout can give to another that lacks.
pub(super) fn next_move(layout: &Layout, targets: &[ShardId]) -> Option<Move> {
    let held: BTreeMap<ShardId, usize> = targets.iter().map(|shard| (*shard, held(layout, *shard))).collect();
    let quotas = quotas(&held);
    let beyond = |shard: &ShardId| held[shard].saturating_sub(quotas[shard]);
    let lacking = |shard: &ShardId| quotas[shard].saturating_sub(held[shard]);
    let present = || targets.iter().filter(|shard| layout.shard(**shard).is_some());
    let to = *present().find(|shard| lacking(shard) > 0)?;
    let from = *present().filter(|shard| beyond(shard) > 0).max_by_key(|shard| (beyond(shard), std::cmp::Reverse(**shard)))?;
    let others = present().filter(|shard| **shard != from && beyond(shard) > 0).filter_map(|shard| layout.shard(*shard));
    let others: Vec<SlotRange> = others.flat_map(|shard| shard.slots.iter().copied()).collect();
    let offer = Offer { giver: &layout.shard(from)?.slots, receiver: &layout.shard(to)?.slots, others: &others };
    let slots = offer.take(beyond(&from).min(lacking(&to)));
    Some(Move { from, to, slots, phase: MovePhase::Copying })
}

/// How many slots a shard owns.
pub(super) fn held(layout: &Layout, shard: ShardId) -> usize {
    layout.shard(shard).map_or(0, |shard| SlotRange::count_all(&shard.slots))
}

/// The share of each shard. As many of the larger shares as possible go where they are held already.
fn quotas(held: &BTreeMap<ShardId, usize>) -> BTreeMap<ShardId, usize> {
    let share = usize::from(SLOTS) / held.len().max(1);
    let larger = usize::from(SLOTS) % held.len().max(1);
    let mut order: Vec<(ShardId, usize)> = held.iter().map(|(shard, count)| (*shard, *count)).collect();
    order.sort_by_key(|(shard, count)| {
        let rank = match count.cmp(&(share + 1)) {
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Less => 2,
        };
        (rank, std::cmp::Reverse(*count), *shard)
    });
    order.iter().enumerate().map(|(place, (shard, _))| (*shard, share + usize::from(place < larger))).collect()
}

/// From whose slots are taken, and what lies around them.
struct Offer<'a> {
    giver: &'a [SlotRange],
    receiver: &'a [SlotRange],
    /// Slots of the shards that will give some as well.
    others: &'a [SlotRange],
}

impl Offer<'_> {
    /// `count` of the giver's slots, from the ends of its ranges, so that the receiver's come to lie together where that
    /// costs nothing.
    fn take(&self, count: usize) -> Vec<SlotRange> {
        let mut left = normalised(self.giver);
        let mut received = normalised(self.receiver);
        let mut taken = Vec::new();
        let mut missing = count;
        while missing > 0 && !left.is_empty() {
            let (index, end) = best_end(&left, &received, self.others);
            let (given, rest) = cut(left[index], end, missing);
            missing -= given.count();
            left.splice(index..=index, rest);
            received = normalised(&[received, vec![given]].concat());
            taken.push(given);
        }
        normalised(&taken)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Low,
    High,
}

/// The end of a range that touches what the receiver has; else one that touches what it will be given next; else the high
/// end of the largest range.
fn best_end(left: &[SlotRange], received: &[SlotRange], others: &[SlotRange]) -> (usize, End) {
    let largest = || left.iter().enumerate().max_by_key(|(index, range)| (range.count(), *index));
    touching(left, received)
        .or_else(|| touching(left, others))
        .unwrap_or_else(|| (largest().map_or(0, |(index, _)| index), End::High))
}

/// The first end of a range that lies next to one of `neighbours`.
fn touching(left: &[SlotRange], neighbours: &[SlotRange]) -> Option<(usize, End)> {
    let follows = |low: &SlotRange, high: &SlotRange| low.last().index() + 1 == high.first().index();
    let end_of = |range: &SlotRange| {
        let high = neighbours.iter().any(|own| follows(range, own));
        let low = neighbours.iter().any(|own| follows(own, range));
        if high { Some(End::High) } else { low.then_some(End::Low) }
    };
    left.iter().enumerate().find_map(|(index, range)| Some((index, end_of(range)?)))
}

/// At most `count` slots from one end of a range, and what is left of it.
fn cut(range: SlotRange, end: End, count: usize) -> (SlotRange, Option<SlotRange>) {
    let slots: Vec<Slot> = range.iter().collect();
    if count >= slots.len() {
        return (range, None);
    }
    let (low, high) = slots.split_at(if end == End::Low { count } else { slots.len() - count });
    let (given, rest) = if end == End::Low { (low, high) } else { (high, low) };
    let whole = |part: &[Slot]| to_ranges(part.iter().copied()).first().copied();
    (whole(given).unwrap_or(range), whole(rest))
}

#[cfg(test)]
mod tests {
    use counter_core::id::ClusterId;
    use counter_core::layout::{LAYOUT_FORMAT, LayoutVersion, Shard};

    use super::*;

    fn layout(ranges: &[&[&str]]) -> Layout {
        let shards = (0..).zip(ranges).map(|(number, ranges)| Shard {
            shard: ShardId(number),
            slots: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            nodes: Vec::new(),
        });
        Layout {
            format: LAYOUT_FORMAT,
            cluster: ClusterId(1),
            version: LayoutVersion(1),
            shards: shards.collect(),
            moves: Vec::new(),
            virtual_shards: Vec::new(),
        }
    }

    fn texts(ranges: &[SlotRange]) -> Vec<String> {
        ranges.iter().map(SlotRange::to_string).collect()
    }

    fn shards(count: u16) -> Vec<ShardId> {
        (0..count).map(ShardId).collect()
    }

    /// Moves until nothing is left to do; gives how many slots moved and in how many moves.
    fn settle(layout: &mut Layout, targets: &[ShardId]) -> (usize, usize) {
        let (mut slots, mut moves) = (0, 0);
        while let Some(next) = next_move(layout, targets) {
            let count = SlotRange::count_all(&next.slots);
            assert!(count > 0);
            for shard in &mut layout.shards {
                let kept = |range: &SlotRange| range.iter().filter(|slot| !next.slots.iter().any(|taken| taken.contains(*slot)));
                if shard.shard == next.from {
                    shard.slots = to_ranges(shard.slots.iter().flat_map(|range| kept(range).collect::<Vec<_>>()));
                } else if shard.shard == next.to {
                    shard.slots = normalised(&[shard.slots.clone(), next.slots.clone()].concat());
                }
            }
            slots += count;
            moves += 1;
            assert!(moves <= 512, "it must come to an end");
        }
        (slots, moves)
    }

    #[test]
    fn first_ranges_are_even_contiguous_and_complete() {
        assert_eq!(texts(&first_ranges(1)), ["0-16383"]);
        assert_eq!(texts(&first_ranges(3)), ["0-5461", "5462-10922", "10923-16383"]);
        for count in 1..=256 {
            let ranges = first_ranges(count);
            assert_eq!(ranges.len(), usize::from(count));
            assert_eq!(normalised(&ranges), [SlotRange::ALL]);
            let counts = ranges.iter().map(|range| range.count());
            assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_third_shard_takes_neighbouring_ends() {
        let mut grown = layout(&[&["0-8191"], &["8192-16383"], &[]]);
        let first = next_move(&grown, &shards(3)).unwrap();
        assert_eq!((first.from, first.to, texts(&first.slots)), (ShardId(1), ShardId(2), vec!["8192-10922".to_owned()]));
        assert_eq!(settle(&mut grown, &shards(3)), (5461, 2));
        let held: Vec<_> = grown.shards.iter().map(|shard| texts(&shard.slots)).collect();
        assert_eq!(held, [["0-5461"], ["10923-16383"], ["5462-10922"]]);
    }

    #[test]
    fn growing_from_any_even_layout_moves_the_least_and_ends_even() {
        for (old, new) in [(1, 2), (1, 256), (2, 4), (3, 7), (7, 8), (100, 256), (255, 256)] {
            let first = first_ranges(old);
            let mut grown = layout(&vec![&[] as &[&str]; usize::from(new)]);
            for (shard, range) in grown.shards.iter_mut().zip(first) {
                shard.slots = vec![range];
            }
            let (moved, _) = settle(&mut grown, &shards(new));
            let counts: Vec<usize> = shards(new).iter().map(|shard| held(&grown, *shard)).collect();
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{old} to {new}: {counts:?}");
            let received: usize = counts[usize::from(old)..].iter().sum();
            assert_eq!(moved, received, "{old} to {new}: only new shards receive");
        }
    }

    #[test]
    fn a_shard_that_is_not_there_yet_keeps_its_share_free() {
        let mut grown = layout(&[&["0-16383"], &[]]);
        settle(&mut grown, &shards(4));
        assert_eq!(held(&grown, ShardId(1)), 4096);
        assert_eq!(held(&grown, ShardId(0)), 12288);
    }

    #[test]
    fn an_even_layout_stays_as_it_is() {
        assert_eq!(next_move(&layout(&[&["0-8191"], &["8192-16383"]]), &shards(2)), None);
    }
}
