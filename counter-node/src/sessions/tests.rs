//! A seeded simulation of sessions with ids: [`Sessions`], [`crate::live::claims`] and [`crate::members`] as nodes run them, several in one
//! process and in paused time, with a network that loses, delays and reorders, and nodes that crash, stop, stand still and are cut off.
//!
//! `CLAIMS_SEEDS=n` runs so many seeds, `CLAIMS_FIRST=n` begins there, `CLAIMS_SEED=n` runs one and prints the end of its trace, as
//! every failure does. First all faults, and nothing may count what it does not hold; a heartbeat's time and a lease after the last
//! one every session that is there is held once. Then nodes only stop in order, and nobody is missing, nor stays who has left.

mod network;
mod process;
#[path = "../../../tests/sim/rng.rs"]
mod rng;
mod scenarios;
mod visitor;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::world::World;

const SEEDS: u64 = 50;
const BUG_SEEDS: u64 = 50;

/// What seeds must have met to prove anything.
const COVERED: [&str; 10] = [
    "a message is lost",
    "an answer comes too late",
    "a crash",
    "a stop",
    "a stall",
    "a cut",
    "a node is cut off",
    "sessions are handed over",
    "a tab is back",
    "a session has several tabs",
];

type Seen = BTreeMap<&'static str, u64>;

/// Bugs that can be planted in how a node is driven and in what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// What is handed over stands, although it has ended here meanwhile.
    EndsForgotten,
    /// A connection is claimed once, and for no longer than that says.
    RenewalsIgnored,
    /// A node says that it has taken over what it has not looked at.
    TakenUnseen,
    /// A node that stops hands nothing over.
    NothingHandedOn,
    /// That others live is not heard.
    OthersUnheard,
}

impl Bug {
    const ALL: [Self; 5] =
        [Self::EndsForgotten, Self::RenewalsIgnored, Self::TakenUnseen, Self::NothingHandedOn, Self::OthersUnheard];
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run(seed: u64, bug: Option<Bug>, traced: bool) -> (Result<Seen, String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, bug, traced);
        let result = world.prove().await;
        let trace = world.network.trace();
        let seen = world.network.seen();
        world.end();
        (result.map(|()| seen), trace)
    })
}

fn try_run(seed: u64, bug: Option<Bug>) -> Result<Seen, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, bug, false).0)).unwrap_or_else(|_| Err("it panicked".to_owned()))
}

/// Runs seeds on all processors. Returns the lowest that fails, or what all of them have met.
fn search(first: u64, seeds: u64, bug: Option<Bug>) -> Result<Seen, (u64, String)> {
    let (next, found, all) = (AtomicU64::new(first), Mutex::new(None::<(u64, String)>), Mutex::new(Seen::new()));
    let one = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_found = found.lock().unwrap().as_ref().is_some_and(|(lowest, _)| *lowest < seed);
            if seed >= first + seeds || is_found {
                return;
            }
            match try_run(seed, bug) {
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
fn every_seed_comes_to_one_holder_of_each_session_and_stops_in_order_hide_nobody() {
    if let Some(seed) = number("CLAIMS_SEED") {
        let bug = number("CLAIMS_BUG").and_then(|bug| Bug::ALL.get(usize::try_from(bug).unwrap()).copied());
        let (result, trace) = run(seed, bug, true);
        println!("{trace}\nseed {seed}: {result:?}");
        return assert!(result.is_ok());
    }
    let seeds = number("CLAIMS_SEEDS").unwrap_or(SEEDS);
    let seen = search(number("CLAIMS_FIRST").unwrap_or(0), seeds, None).unwrap_or_else(|(seed, violation)| {
        let (again, trace) = run(seed, None, true);
        panic!("{trace}\nseed {seed}: {violation}\nonce more: {again:?}\nagain: CLAIMS_SEED={seed}");
    });
    for what in COVERED {
        let times = seen.get(what).copied().unwrap_or(0);
        println!("{times:>9} × {what}");
        assert!(times > 0 || seeds < SEEDS, "never in {seeds} seeds: {what}");
    }
}

#[test]
fn every_bug_planted_in_claims_is_found() {
    if number("CLAIMS_SEED").is_some() {
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
