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
#[path = "../../../../tests/sim/rng.rs"]
mod rng;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bugs::Bug;
use crate::world::World;

const SEEDS: u64 = 1_000;
const BUG_SEEDS: u64 = 400;

/// What a run must have met to prove anything.
const COVERED: [&str; 14] = [
    "a number is checked",
    "a message is lost",
    "a crash",
    "a stall",
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

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

type Seen = BTreeMap<&'static str, u64>;

fn run(seed: u64, bug: Option<Bug>, traced: bool) -> (Result<Seen, String>, String) {
    let mut world = World::new(seed, bug, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.prove())).unwrap_or_else(|_| Err("it panicked".to_owned()));
    (result.map(|()| std::mem::take(&mut world.seen)), world.trace())
}

/// Runs seeds on all processors. Returns the lowest that fails, or what all of them have met.
fn search(first: u64, seeds: u64, bug: Option<Bug>) -> Result<Seen, (u64, String)> {
    let (next, found) = (AtomicU64::new(first), Mutex::new(None::<(u64, String)>));
    let all = Mutex::new(Seen::new());
    let one = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_found = found.lock().unwrap().as_ref().is_some_and(|(lowest, _)| *lowest < seed);
            if seed >= first + seeds || is_found {
                return;
            }
            match run(seed, bug, false).0 {
                Ok(seen) => {
                    let mut all = all.lock().unwrap();
                    seen.into_iter().for_each(|(what, times)| *all.entry(what).or_default() += times);
                }
                Err(violation) => {
                    let mut found = found.lock().unwrap();
                    if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                        *found = Some((seed, violation));
                    }
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(one))));
    match found.into_inner().unwrap() {
        Some(found) => Err(found),
        None => Ok(all.into_inner().unwrap()),
    }
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
    let seen = search(number("PRESENCE_FIRST").unwrap_or(0), seeds, None).unwrap_or_else(|(seed, violation)| {
        let (_, trace) = run(seed, None, true);
        panic!("{trace}\nseed {seed}: {violation}\nagain: PRESENCE_SEED={seed}");
    });
    for what in COVERED {
        let times = seen.get(what).copied().unwrap_or(0);
        println!("{times:>9} × {what}");
        assert!(times > 0 || seeds < SEEDS, "never in {seeds} seeds: {what}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    if number("PRESENCE_SEED").is_some() {
        return;
    }
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match search(0, BUG_SEEDS, Some(bug)) {
            Err((seed, violation)) => println!("{bug:?} found by seed {seed}: {violation}"),
            Ok(_) => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found in {BUG_SEEDS} seeds: {missed:?}");
}
