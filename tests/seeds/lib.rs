//! What the seeded simulations have in common: randomness, and the search for a seed that fails.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "for tests alone: what goes wrong must fail, and its seed must be printed"
)]

mod rng;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub use rng::Rng;

/// How often a run has met what it is to meet.
pub type Seen = BTreeMap<&'static str, u64>;

/// The number in an environment variable, if it is set. Panics when that is no number.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs one seed; a panic is an error like any other.
pub fn attempt<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// Runs seeds on all processors. Returns the lowest that fails and what it says, or what all of them have given, in no order.
pub fn search<T: Send>(seeds: Range<u64>, run: impl Fn(u64) -> Result<T, String> + Sync) -> Result<Vec<T>, (u64, String)> {
    let (next, found, given) = (AtomicU64::new(seeds.start), Mutex::new(None::<(u64, String)>), Mutex::new(Vec::new()));
    let one = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_above = found.lock().unwrap().as_ref().is_some_and(|(lowest, _)| *lowest < seed);
            if seed >= seeds.end || is_above {
                return;
            }
            match attempt(|| run(seed)) {
                Ok(outcome) => given.lock().unwrap().push(outcome),
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
        None => Ok(given.into_inner().unwrap()),
    }
}

/// A simulation in which something never happens proves nothing about it: each of these must have been met, if there were so many
/// seeds.
pub fn check_coverage(what: &[&str], seen: &[Seen], seeds: u64) {
    for what in what {
        let times: u64 = seen.iter().filter_map(|seen| seen.get(what)).sum();
        println!("{times:>9} × {what}");
        assert!(times > 0 || (seen.len() as u64) < seeds, "never in {} seeds: {what}", seen.len());
    }
}

/// A simulation that does not find the bugs that are planted in it would not find others either: each must fail one of these seeds.
pub fn check_bugs<B: Copy + Debug + Sync, T: Send>(
    bugs: &[B],
    seeds: Range<u64>,
    run: impl Fn(u64, B) -> Result<T, String> + Sync,
) {
    let mut missed = Vec::new();
    for bug in bugs {
        match search(seeds.clone(), |seed| run(seed, *bug)) {
            Err((seed, violation)) => println!("{bug:?} found by seed {seed}: {violation}"),
            Ok(_) => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found in seeds {seeds:?}: {missed:?}");
}
