//! A seeded simulation of whole clusters: the state machines that the node runs and its steps for users, a network, volumes and an operator.
//!
//! `SIM_SEEDS=n` runs so many seeds, `SIM_FIRST=n` begins there, `SIM_SEED=n` runs one and prints the end of its trace,
//! as every failure does; `FOLLOW_SEEDS=n` and the others do the same of those in which users are followed live; `SIM_TRACE=n` sets how many lines. `SIM_BUG=name` plants this bug alone,
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
mod followers;
mod ledger;
mod model;
mod operator;
mod process;
mod requests;
mod rim;
mod scenarios;
mod tasks;
mod unread;
mod world;

use std::ops::Range;
use std::time::Instant;

use counter_seeds::{Rng, Seen, attempt, check_bugs, check_coverage, number, search};

use bugs::Bug;
use check::Outline;
use faults::Plan;
use world::{Traced, World};

const SEEDS: u64 = 1_000;
/// A planted bug must be found within so many seeds.
const BUG_SEEDS: u64 = 400;
/// What must have happened in a full run.
const COVERED: [&str; 30] = [
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
    "count exact",
    "count is a sum of what may have been counted",
    "count with resets within bounds",
    "unread count as the model's",
    "unread count within bounds",
    "user not subscribed",
];

/// The same where users are followed.
const COVERED_OF_FOLLOWERS: [&str; 14] = [
    "move flipped",
    "clean stop",
    "acknowledged updates lost with a tail or a volume",
    "unread count as the model's",
    "unread count within bounds",
    "user not subscribed",
    "user's request made twice",
    "user's request sent again",
    "user's request cut off by the end of its node",
    "total told amid faults",
    "total of several pages",
    "fetch failed",
    "follower gone",
    "follower told the total",
];

/// How a simulation's plan is made from its seed.
type Planner = fn(&mut Rng) -> Plan;

fn run(seed: u64, planner: Planner, bug: Option<Bug>, traced: Traced) -> (Result<Outline, String>, String) {
    let mut world = World::new(seed, bug, planner, traced);
    let result = attempt(|| world.run());
    (result, world.trace_tail())
}

/// Fails with the seed, what is wrong, and the end of the trace: of the same run once more.
fn report(seed: u64, planner: Planner, violation: &str) -> String {
    let (again, trace) = run(seed, planner, None, Traced::Yes);
    format!(
        "{trace}\n\nseed {seed}: {violation}\nonce more: {again:?}\nSIM_SEED={seed}, or FOLLOW_SEED={seed} where users are followed, repeats it\n"
    )
}

/// Runs seeds, of which none may fail.
fn run_all(seeds: Range<u64>, planner: Planner) -> Vec<Outline> {
    search(seeds, |seed| run(seed, planner, None, Traced::No).0)
        .unwrap_or_else(|(seed, violation)| panic!("{}", report(seed, planner, &violation)))
}

#[test]
fn every_seed_counts_right_and_comes_to_rest() {
    prove("SIM", Plan::of, &COVERED);
}

#[test]
fn every_seed_tells_followers_and_whoever_asks_the_same_totals() {
    prove("FOLLOW", Plan::with_followers, &COVERED_OF_FOLLOWERS);
}

/// Runs as many seeds as are asked for, or the one, by variables of this name.
fn prove(name: &str, planner: Planner, covered: &[&str]) {
    let number = |of: &str| number(&format!("{name}_{of}"));
    if let Some(seed) = number("SEED") {
        let (result, trace) = run(seed, planner, None, Traced::Yes);
        println!("{trace}\nseed {seed}: {result:?}");
        return assert!(result.is_ok());
    }
    let began = Instant::now();
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let first = number("FIRST").unwrap_or(0);
    let outlines = run_all(first..first + seeds, planner);
    let sum = |part: fn(&Outline) -> u64| outlines.iter().map(part).sum::<u64>();
    println!(
        "{seeds} seeds in {:.1} s: {} updates acknowledged, {} unknown, {} layouts, at rest after {} ms on average",
        began.elapsed().as_secs_f64(),
        outlines.iter().map(|outline| outline.acknowledged).sum::<usize>(),
        outlines.iter().map(|outline| outline.unknown).sum::<usize>(),
        sum(|outline| outline.layouts),
        sum(|outline| outline.rest_ms) / seeds.max(1),
    );
    let seen: Vec<Seen> = outlines.into_iter().map(|outline| outline.seen).collect();
    let bounded: u64 = seen.iter().filter_map(|seen| seen.get("count within bounds only")).sum();
    println!("{bounded:>9} × count within bounds only");
    check_coverage(covered, &seen, SEEDS);
}

#[test]
fn every_planted_bug_is_found() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let only = std::env::var("SIM_BUG").ok();
    let is_wanted = |bug: &Bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let bugs: Vec<Bug> = Bug::ALL.into_iter().filter(is_wanted).collect();
    check_bugs(&bugs, 0..BUG_SEEDS, |seed, bug| run(seed, planner_for(bug), Some(bug), Traced::No).0);
}

/// What takes a rare course of events is looked for where that happens.
fn planner_for(bug: Bug) -> Planner {
    match bug {
        Bug::SlotRecordLeft => scenarios::growth_taken_back,
        Bug::StatusBeforeSync => scenarios::power_lost_with_slots_just_taken,
        Bug::EarlyForget => scenarios::clock_ahead_in_a_partition,
        Bug::ReplayBeforeDurable | Bug::RecordsCutOff => scenarios::kills_amid_slow_writes,
        Bug::StandingNotDurable => scenarios::wishes_amid_slow_writes,
        Bug::ResumedActor => scenarios::slots_that_return,
        Bug::RecordNotMoved => scenarios::moved_with_conflicts,
        Bug::TotalOfOnePage
        | Bug::MergesUntold
        | Bug::UpdatesUntold
        | Bug::FetchNotRepeated
        | Bug::FetchedOfAny
        | Bug::MovesUnheard => Plan::with_followers,
        _ => Plan::of,
    }
}
