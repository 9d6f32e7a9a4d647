//! Named courses of events: those of bugs that were found, and those that must never go wrong. Each runs with some seeds,
//! which decide what clients do and how long messages take.

use counter_core::id::ShardId;
use counter_seeds::{Rng, number};

use crate::faults::{COPY_MS_MAX, Fault, Fsync, Plan};
use crate::operator::Transfer;
use crate::run_all;

const SEEDS: u64 = 12;

fn plan(rng: &mut Rng, (shards, replicas): (u16, u16), faults: &[(u64, Fault)]) -> Plan {
    let faults_end_ms = faults.iter().map(|(at_ms, _)| at_ms + 1_000).max().unwrap_or(4_000);
    Plan {
        shards,
        replicas,
        fsync: Fsync::EverySecond,
        quorum: false,
        client_ms: rng.range(15, 60),
        user_ms: 150,
        faults: faults.to_vec(),
        faults_end_ms,
        losses: true,
        tokens: false,
        copy_ms_max: COPY_MS_MAX,
        keys_reset: 1,
        slow_writes: false,
        followers: false,
    }
}

/// Plays it with some seeds. In one at least each of these must happen.
fn play_until(planner: fn(&mut Rng) -> Plan, seen: &[&str]) {
    let outlines = run_all(0..number("SIM_EACH").unwrap_or(SEEDS), planner);
    for what in seen {
        let times: u64 = outlines.iter().filter_map(|outline| outline.seen.get(what)).sum();
        assert!(times > 0, "never: {what}");
    }
}

fn play(planner: fn(&mut Rng) -> Plan) {
    play_until(planner, &[]);
}

const REFUNDED: &str = "token counted twice, and refunded";

/// Two replicas, or two in each of two shards, that cannot hear each other from 1.5 s to 5 s, while clients send under
/// tokens, and again, to both.
fn parted(rng: &mut Rng, shards: u16, then: &[(u64, Fault)]) -> Plan {
    let mut faults = vec![(1_500, Fault::CutBothWays { one: 0, other: 1 }), (5_000, Fault::Join)];
    faults.extend_from_slice(then);
    Plan { tokens: true, ..plan(rng, (shards, 2), &faults) }
}

#[test]
fn two_replicas_take_the_same_tokens_in_a_partition_and_one_of_them_is_refunded() {
    play_until(|rng| parted(rng, 1, &[]), &[REFUNDED, "update replayed"]);
}

#[test]
fn one_of_two_that_took_the_same_tokens_starts_again_and_its_actor_is_retired() {
    let planner = |rng: &mut Rng| {
        let (node, at_ms) = (rng.index(2), rng.range(4_500, 5_300));
        parted(rng, 1, &[(at_ms, Fault::Kill { node, down_ms: 900 }), (7_500, Fault::Kill { node: 1 - node, down_ms: 300 })])
    };
    play_until(planner, &[REFUNDED, "actors retired", "floor raised"]);
}

pub(crate) fn moved_with_conflicts(rng: &mut Rng) -> Plan {
    let at_ms = rng.range(2_500, 5_300);
    parted(rng, 2, &[(at_ms, transfer(0, 1, 8_000)), (9_000, transfer(1, 0, 12_000))])
}

#[test]
fn slots_move_while_replicas_disagree_on_who_counted_a_token() {
    play_until(moved_with_conflicts, &[REFUNDED, "move ended", "update replayed"]);
}

#[test]
fn a_reset_is_retried_at_another_replica_while_others_count() {
    play_until(|rng| Plan { keys_reset: 8, ..parted(rng, 1, &[]) }, &["reset replayed", REFUNDED]);
}

#[test]
fn a_reset_is_retried_while_its_slot_moves_and_a_replica_starts_again() {
    let planner = |rng: &mut Rng| {
        let faults = [(5_100, transfer(0, 1, 8_000)), (6_500, Fault::Kill { node: rng.index(2), down_ms: 400 })];
        Plan { keys_reset: 8, ..parted(rng, 2, &faults) }
    };
    play_until(planner, &["reset replayed", REFUNDED, "move ended"]);
}

#[test]
fn the_one_that_counted_loses_its_tail() {
    let planner = |rng: &mut Rng| {
        let (node, at_ms) = (rng.index(2), rng.range(2_500, 5_200));
        parted(rng, 1, &[(at_ms, Fault::PowerLoss { node, down_ms: 700 }), (7_000, Fault::PowerLossEverywhere)])
    };
    play_until(planner, &[REFUNDED, "acknowledged updates lost with a tail or a volume"]);
}

#[test]
fn old_copies_come_after_the_floor_has_passed() {
    let planner = |rng: &mut Rng| {
        let node = rng.index(2);
        let faults = [(16_000, Fault::Kill { node, down_ms: 500 }), (30_000, Fault::Kill { node: 1 - node, down_ms: 500 })];
        Plan { copy_ms_max: 25_000, keys_reset: 4, ..parted(rng, 1, &faults) }
    };
    play_until(planner, &[REFUNDED, "floor raised", "expired token refused", "actors retired"]);
}

/// The one that proposes floors has a clock far ahead, and the other cannot be reached.
pub(crate) fn clock_ahead_in_a_partition(rng: &mut Rng) -> Plan {
    parted(rng, 1, &[(2_000, Fault::Clock { node: 0, offset_ms: 25_000 }), (6_000, Fault::Clock { node: 0, offset_ms: 0 })])
}

#[test]
fn a_clock_ahead_raises_no_floor_that_the_other_replica_does_not_agree_to() {
    play(clock_ahead_in_a_partition);
}

/// What is repeated often meets a write under way, which a kill then takes along.
pub(crate) fn kills_amid_slow_writes(rng: &mut Rng) -> Plan {
    let mut faults = vec![(1_000, Fault::Network { loss: 250, repeat: 0, delay_ms_max: 20 })];
    faults.extend((0..12).map(|turn| (1_500 + turn * 700, Fault::Kill { node: rng.index(3), down_ms: 250 })));
    Plan { tokens: true, slow_writes: true, client_ms: 20, ..plan(rng, (1, 3), &faults) }
}

#[test]
fn an_update_that_is_repeated_while_it_is_written_waits_for_the_write() {
    play_until(kills_amid_slow_writes, &["update replayed"]);
}

/// The same without tokens, while users wish much.
pub(crate) fn wishes_amid_slow_writes(rng: &mut Rng) -> Plan {
    Plan { tokens: false, client_ms: 200, user_ms: 20, ..kills_amid_slow_writes(rng) }
}

#[test]
fn a_subscription_that_is_as_it_should_be_is_acknowledged_once_it_is_durable() {
    play_until(wishes_amid_slow_writes, &["unread count within bounds"]);
}

fn restored(rng: &mut Rng, then: &[(u64, Fault)]) -> Plan {
    let kill = Fault::Kill { node: 0, down_ms: 200 };
    let mut faults = vec![(1_500, Fault::TakeSnapshot { node: 0 }), (2_000, kill), (3_000, kill), (4_000, kill)];
    faults.extend_from_slice(then);
    Plan { tokens: rng.per_mille(500), client_ms: 60, ..plan(rng, (1, 2), &faults) }
}

#[test]
fn a_restored_volume_goes_on_above_the_starts_that_its_peers_know_once_they_are_silent() {
    play_until(
        |rng| restored(rng, &[(6_000, Fault::RestoreSnapshot { node: 0 })]),
        &["volume restored", "actor renewed above a later start"],
    );
}

#[test]
fn a_restored_volume_gives_way_while_the_process_on_the_old_one_lives() {
    play_until(ghost_of_a_restored_volume, &["volume restored", "superseded", "actor renewed above a later start"]);
}

fn ghost_of_a_restored_volume(rng: &mut Rng) -> Plan {
    let faults = [(5_500, Fault::Ghost { node: 0, for_ms: 45_000 }), (6_000, Fault::RestoreSnapshot { node: 0 })];
    Plan { faults_end_ms: 51_000, client_ms: 150, ..restored(rng, &faults) }
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
    play(power_lost_with_slots_just_taken);
}

pub(crate) fn power_lost_with_slots_just_taken(rng: &mut Rng) -> Plan {
    let at_ms = rng.range(3_500, 5_500);
    plan(rng, (2, 1), &[(2_900, transfer(0, 1, 8_000)), (at_ms, Fault::PowerLoss { node: 3, down_ms: 300 })])
}

#[test]
fn slots_that_leave_and_return_are_written_under_a_new_actor() {
    play(slots_that_return);
}

pub(crate) fn slots_that_return(rng: &mut Rng) -> Plan {
    plan(rng, (2, 2), &[(2_000, transfer(0, 1, 8_000)), (5_000, transfer(1, 0, 14_000)), (9_000, transfer(0, 1, 9_000))])
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

#[test]
fn the_virtual_shards_of_a_page_add_up_while_their_number_changes_and_slots_move() {
    let planner = |rng: &mut Rng| {
        let at_ms = rng.range(2_500, 4_500);
        let faults = [
            (1_000, Fault::Spread(4)),
            (3_000, transfer(0, 1, 7_000)),
            (at_ms, Fault::Spread(1)),
            (at_ms + 300, Fault::Kill { node: rng.index(2), down_ms: 500 }),
            (6_000, Fault::Spread(3)),
            (6_500, transfer(1, 0, 12_000)),
            (8_000, Fault::Spread(0)),
        ];
        Plan { tokens: rng.per_mille(500), ..plan(rng, (2, 2), &faults) }
    };
    play_until(planner, &["virtual shards changed", "update of a virtual shard", "move ended"]);
}
