//! A seeded simulation of whole clusters: the state machines that the node runs, a network, volumes and an operator.
//!
//! `SIM_SEEDS=n` runs so many seeds, `SIM_FIRST=n` begins there, `SIM_SEED=n` runs one and prints the end of its trace,
//! as every failure does; `SIM_TRACE=n` sets how many lines. `SIM_BUG=name` plants this bug alone,
//! `SIM_EACH=n` plays each scenario with so many seeds. Faults first, then healing, then everything must come to
//! rest and each number must be one that it may be, see `ledger.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "all of it is a test: what goes wrong must fail, and its seed must be printed"
)]

mod bugs;
mod captures;
mod check;
mod disk;
mod events;
mod faults;
mod ledger;
mod model;
mod operator;
mod process;
mod requests;
mod rim;
mod rng;
mod scenarios;
mod unread;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bugs::Bug;
use check::Outline;
use faults::Plan;
use rng::Rng;
use world::{Traced, World};

const SEEDS: u64 = 1_000;
const THREADS: usize = 2;
/// A planted bug must be found within so many seeds.
const BUG_SEEDS: u64 = 400;
/// What must have happened in a full run.
const COVERED: [&str; 27] = [
    "move begun",
    "move cancelled",
    "move flipped",
    "move ended",
    "members changed",
    "actors retired",
    "actor renewed for a regained slot",
    "storage reopened",
    "clean stop",
    "volume cloned",
    "volume restored",
    "acknowledged updates lost with a tail or a volume",
    "session opened",
    "repeated message in progress",
    "repeated message answered again",
    "message of a forgotten session or below the floor",
    "update replayed",
    "reset replayed",
    "copy of a request",
    "token counted twice, and refunded",
    "expired token refused",
    "floor raised",
    "virtual shards changed",
    "update of a virtual shard",
    "unread count as the model's",
    "unread count within bounds",
    "user not subscribed",
];

/// How a simulation's plan is made from its seed.
type Planner = fn(&mut Rng) -> Plan;

fn run(seed: u64, planner: Planner, bug: Option<Bug>, traced: Traced) -> (Result<Outline, String>, String) {
    let mut world = World::new(seed, bug, planner, traced);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    let result = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    });
    (result, world.trace_tail())
}

/// Fails with the seed, what is wrong, and the end of the trace: of the same run once more.
fn report(seed: u64, planner: Planner, violation: &str) -> String {
    let (again, trace) = run(seed, planner, None, Traced::Yes);
    format!("{trace}\n\nseed {seed}: {violation}\nonce more: {again:?}\nSIM_SEED={seed} repeats it\n")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs seeds on both cores until one finds something or there are no more. Returns the lowest found.
fn search(first: u64, seeds: u64, planner: Planner, bug: Option<Bug>) -> (Option<(u64, String)>, Vec<Outline>) {
    let next = AtomicU64::new(first);
    let found: Mutex<Option<(u64, String)>> = Mutex::default();
    let outlines = Mutex::new(Vec::new());
    let lock = |found: &Mutex<Option<(u64, String)>>| found.lock().unwrap_or_else(PoisonError::into_inner).clone();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds || lock(&found).is_some() {
                        return;
                    }
                    match run(seed, planner, bug, Traced::No).0 {
                        Ok(outline) => outlines.lock().unwrap().push(outline),
                        Err(violation) => {
                            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                            if found.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                                *found = Some((seed, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    (lock(&found), outlines.into_inner().unwrap())
}

#[test]
fn every_seed_counts_right_and_comes_to_rest() {
    if let Some(seed) = number("SIM_SEED") {
        let (result, trace) = run(seed, Plan::of, None, Traced::Yes);
        println!("{trace}\nseed {seed}: {result:?}");
        return assert!(result.is_ok());
    }
    let began = Instant::now();
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let (found, outlines) = search(number("SIM_FIRST").unwrap_or(0), seeds, Plan::of, None);
    if let Some((seed, violation)) = found {
        panic!("{}", report(seed, Plan::of, &violation));
    }
    let sum = |part: fn(&Outline) -> u64| outlines.iter().map(part).sum::<u64>();
    println!(
        "{seeds} seeds in {:.1} s: {} updates acknowledged, {} unknown, {} layouts, at rest after {} ms on average",
        began.elapsed().as_secs_f64(),
        outlines.iter().map(|outline| outline.acknowledged).sum::<usize>(),
        outlines.iter().map(|outline| outline.unknown).sum::<usize>(),
        sum(|outline| outline.layouts),
        sum(|outline| outline.rest_ms) / seeds.max(1),
    );
    check_coverage(seeds, &outlines);
}

/// A simulation in which something never happens proves nothing about it.
fn check_coverage(seeds: u64, outlines: &[Outline]) {
    for what in COVERED {
        let times: u64 = outlines.iter().filter_map(|outline| outline.seen.get(what)).sum();
        println!("{times:>8} × {what}");
        assert!(times > 0 || seeds < SEEDS, "never in {seeds} seeds: {what}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let only = std::env::var("SIM_BUG").ok();
    for bug in Bug::ALL.into_iter().filter(|bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"))) {
        // What takes a rare course of events is looked for where that happens.
        let planner: Planner = match bug {
            Bug::SlotRecordLeft => scenarios::growth_taken_back,
            Bug::StatusBeforeSync => scenarios::power_lost_with_slots_just_taken,
            Bug::EarlyForget => scenarios::clock_ahead_in_a_partition,
            Bug::ReplayBeforeDurable | Bug::RecordsCutOff => scenarios::kills_amid_slow_writes,
            Bug::StandingNotDurable => scenarios::wishes_amid_slow_writes,
            Bug::RecordNotMoved => scenarios::moved_with_conflicts,
            _ => Plan::of,
        };
        let (found, _) = search(0, BUG_SEEDS, planner, Some(bug));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} was not found in {BUG_SEEDS} seeds"));
        println!("{bug:?} found by seed {seed}: {violation}");
    }
}
