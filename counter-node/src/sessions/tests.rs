//! A seeded simulation of sessions with ids: [`Sessions`], [`crate::live::claims`] and [`crate::members`] as nodes run them, several in one
//! process and in paused time, with a network that loses, delays and reorders, and nodes that crash, stop, stand still and are cut off.
//!
//! `CLAIMS_SEEDS=n` runs so many seeds, `CLAIMS_FIRST=n` begins there, `CLAIMS_SEED=n` runs one and prints the end of its trace, as
//! every failure does. First all faults, and nothing may count what it does not hold; a heartbeat's time and a lease after the last
//! one every session that is there is held once; sooner if who took its last heartbeat lives. Then nodes only stop in order, one by one or several at once, and nobody is missing, nor stays who has left.

mod network;
mod process;
mod scenarios;
mod visitor;
mod world;

use counter_seeds::{Seen, check_bugs, check_coverage, number, search};

use self::world::World;

const SEEDS: u64 = 1_000;
const BUG_SEEDS: u64 = 100;

/// What seeds must have met to prove anything.
const COVERED: [&str; 13] = [
    "a message is lost",
    "an answer comes too late",
    "a crash",
    "a stop",
    "several stop at once",
    "a stall",
    "a cut",
    "a node is cut off",
    "sessions are handed over",
    "a tab is back",
    "a tab is opened at a node that stops",
    "a session has several tabs",
    "heartbeats are told a new holder",
];

/// Bugs that can be planted in how a node is driven and in what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Ends are heard when they are told first, and no more.
    EndsToldOnce,
    /// Heartbeats are heard when they are told first, and no more.
    BeatsToldOnce,
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
    const ALL: [Self; 6] = [
        Self::EndsToldOnce,
        Self::BeatsToldOnce,
        Self::RenewalsIgnored,
        Self::TakenUnseen,
        Self::NothingHandedOn,
        Self::OthersUnheard,
    ];
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

#[test]
fn every_seed_comes_to_one_holder_of_each_session_and_stops_in_order_hide_nobody() {
    if let Some(seed) = number("CLAIMS_SEED") {
        let bug = number("CLAIMS_BUG").and_then(|bug| Bug::ALL.get(usize::try_from(bug).unwrap()).copied());
        let (result, trace) = run(seed, bug, true);
        println!("{trace}\nseed {seed}: {result:?}");
        return assert!(result.is_ok());
    }
    let seeds = number("CLAIMS_SEEDS").unwrap_or(SEEDS);
    let first = number("CLAIMS_FIRST").unwrap_or(0);
    let seen = search(first..first + seeds, |seed| run(seed, None, false).0).unwrap_or_else(|(seed, violation)| {
        let (again, trace) = run(seed, None, true);
        panic!("{trace}\nseed {seed}: {violation}\nonce more: {again:?}\nagain: CLAIMS_SEED={seed}");
    });
    check_coverage(&COVERED, &seen, SEEDS);
}

#[test]
fn every_bug_planted_in_claims_is_found() {
    if number("CLAIMS_SEED").is_none() {
        check_bugs(&Bug::ALL, 0..BUG_SEEDS, |seed, bug| run(seed, Some(bug), false).0);
    }
}
