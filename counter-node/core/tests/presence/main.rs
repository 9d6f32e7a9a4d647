//! A seeded simulation of presence: the state machines that nodes run, and a network, crashes, stalls, clocks and moving slots.
//!
//! `PRESENCE_SEEDS=n` runs so many seeds, `PRESENCE_FIRST=n` begins there, `PRESENCE_SEED=n` runs one and prints the end of its
//! trace, as every failure does. Faults first, all the while with numbers that may be; then they end, and a lease and a tick later
//! every number is right; then each change is known everywhere soon.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "all of it is a test: what goes wrong must fail, and its seed must be printed"
)]

mod bugs;
mod check;
mod handover;
mod operator;
mod plan;
mod truth;
mod world;

use counter_seeds::{Seen, attempt, check_bugs, check_coverage, number, search};

use crate::bugs::Bug;
use crate::world::World;

const SEEDS: u64 = 1_000;
const BUG_SEEDS: u64 = 400;

/// What a run must have met to prove anything.
const COVERED: [&str; 16] = [
    "a number is checked",
    "a message is lost",
    "a crash",
    "a stall",
    "a cut",
    "a clock jumps",
    "a gateway says farewell",
    "a part of a ledger",
    "a lease ends in parts",
    "a copy begins anew",
    "a sibling relays changes",
    "counts are fed",
    "a move begins",
    "a move is taken back",
    "a move is flipped",
    "a move has its receipt",
];

fn run(seed: u64, bug: Option<Bug>, traced: bool) -> (Result<Seen, String>, String) {
    let mut world = World::new(seed, bug, traced);
    let result = attempt(|| world.prove());
    (result.map(|()| std::mem::take(&mut world.seen)), world.trace())
}

#[test]
fn every_seed_says_what_may_be_and_comes_to_what_is() {
    if let Some(seed) = number("PRESENCE_SEED") {
        let bug = number("PRESENCE_BUG").and_then(|bug| Bug::ALL.get(usize::try_from(bug).unwrap()).copied());
        let (result, trace) = run(seed, bug, true);
        println!("{trace}\nseed {seed}: {result:?}");
        return assert!(result.is_ok());
    }
    let seeds = number("PRESENCE_SEEDS").unwrap_or(SEEDS);
    let first = number("PRESENCE_FIRST").unwrap_or(0);
    let seen = search(first..first + seeds, |seed| run(seed, None, false).0).unwrap_or_else(|(seed, violation)| {
        let (_, trace) = run(seed, None, true);
        panic!("{trace}\nseed {seed}: {violation}\nagain: PRESENCE_SEED={seed}");
    });
    check_coverage(&COVERED, &seen, SEEDS);
}

#[test]
fn every_planted_bug_is_found() {
    if number("PRESENCE_SEED").is_none() {
        check_bugs(&Bug::ALL, 0..BUG_SEEDS, |seed, bug| run(seed, Some(bug), false).0);
    }
}
