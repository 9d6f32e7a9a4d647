//! Named courses of events: those of bugs that were found, and those that must never go wrong. Each runs with some seeds,
//! which decide what clients do and how long messages take.

use counter_core::id::ShardId;

use crate::faults::{Fault, Fsync, Plan};
use crate::operator::Transfer;
use crate::rng::Rng;
use crate::{report, search};

const SEEDS: u64 = 12;

fn plan(rng: &mut Rng, (shards, replicas): (u16, u16), faults: &[(u64, Fault)]) -> Plan {
    let faults_end_ms = faults.iter().map(|(at_ms, _)| at_ms + 1_000).max().unwrap_or(4_000);
    Plan {
        shards,
        replicas,
        fsync: Fsync::EverySecond,
        quorum: false,
        client_ms: rng.range(15, 60),
        faults: faults.to_vec(),
        faults_end_ms,
        losses: true,
        tokens: false,
    }
}

fn play(planner: fn(&mut Rng) -> Plan) {
    if let (Some((seed, violation)), _) = search(0, SEEDS, planner, None) {
        panic!("{}", report(seed, planner, &violation));
    }
}

fn transfer(from: u16, to: u16, slots: u16) -> Fault {
    Fault::Transfer(Transfer { from: ShardId(from), to: ShardId(to), slots })
}

/// Found by seed 8908: the reverted shard's nodes had forgotten the counters, but storage had kept the generation that they
/// belonged to; when the slots came again, their bases were taken for known.
pub(crate) fn growth_taken_back(rng: &mut Rng) -> Plan {
    let kill = |node: usize| Fault::Kill { node, down_ms: 400 };
    let reverted_ms = rng.range(8_100, 8_350);
    let faults = [
        (2_000, kill(2)),
        (7_655, Fault::Shards(2)),
        (reverted_ms, Fault::Shards(1)),
        (9_821, kill(4)),
        (9_822, kill(5)),
        (10_631, Fault::Shards(2)),
    ];
    plan(rng, (1, 3), &faults)
}

#[test]
fn a_growth_that_is_taken_back_and_made_again_loses_nothing() {
    play(growth_taken_back);
}

#[test]
fn power_may_go_everywhere_while_slots_move() {
    play(|rng| {
        let at_ms = rng.range(3_000, 5_500);
        plan(rng, (2, 2), &[(2_900, transfer(0, 1, 5_000)), (at_ms, Fault::PowerLossEverywhere), (6_000, transfer(1, 0, 7_000))])
    });
}

#[test]
fn a_lone_replica_may_lose_power_right_after_it_took_slots() {
    play(|rng| {
        let at_ms = rng.range(3_500, 5_500);
        plan(rng, (2, 1), &[(2_900, transfer(0, 1, 8_000)), (at_ms, Fault::PowerLoss { node: 3, down_ms: 300 })])
    });
}

#[test]
fn slots_that_leave_and_return_are_written_under_a_new_actor() {
    play(|rng| {
        plan(rng, (2, 2), &[(2_000, transfer(0, 1, 8_000)), (5_000, transfer(1, 0, 14_000)), (9_000, transfer(0, 1, 9_000))])
    });
}

#[test]
fn one_way_cuts_and_kills_while_growing_from_one_shard_to_four_and_one_replica_to_three() {
    play(|rng| {
        let node = rng.index(3);
        let faults = [
            (1_500, Fault::Replicas(3)),
            (3_000, Fault::Shards(4)),
            (4_000, Fault::Cut { from: node, to: 4 }),
            (5_500, Fault::Join),
            (6_000, Fault::Kill { node: 3 + node, down_ms: 600 }),
            (8_000, Fault::Cut { from: 5, to: node }),
            (9_000, Fault::Join),
            (12_000, Fault::Kill { node: 6 + node, down_ms: 600 }),
        ];
        plan(rng, (1, 1), &faults)
    });
}
