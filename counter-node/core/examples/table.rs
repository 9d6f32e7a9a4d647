//! What counters take in memory, and what an increment and a read of one cost (on Linux), in a table of N counters with keys of 16 bytes
//! that A actors have updated; and what T tokens take besides, dealt out to the counters:
//!
//! ```text
//! cargo run --release -p counter-core --example table -- N A [T]
//! ```
#![expect(clippy::print_stdout, reason = "it prints figures")]

use std::hint::black_box;

use counter_core::counter::{Key, KeyRef, Update};
use counter_core::hlc::Hlc;
use counter_core::id::ActorId;
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};
use counter_core::token::TokenRecord;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const ROUNDS: u64 = 5;
const OPERATIONS: u64 = 2_000_000;
/// A pipeline's length.
const TOGETHER: usize = 32;
/// The 16th of November 2023.
const START: Hlc = Hlc(1_700_000_000_000 << 16);

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().ok());
    let (Some(counters), Some(actors)) = (arguments.next().flatten(), arguments.next().flatten()) else {
        println!("usage: table COUNTERS ACTORS [TOKENS]");
        return;
    };
    let tokens = arguments.next().flatten();
    let before = resident_bytes();
    let table = Table::new(7, TableLimits { counters: u64::MAX, memory_bytes: u64::MAX, tokens: 1, token_window_ms: 600_000 });
    fill(&table, counters, actors);
    let resident = resident_bytes().saturating_sub(before);
    println!("{:.1} bytes a counter of resident memory", each(resident, counters));
    println!("{:.1} bytes a counter by the table's own account", each(table.memory_bytes(), counters));
    if let Some(tokens) = tokens {
        remember(&table, counters, tokens);
    }
    for _ in 0..ROUNDS {
        round(&table, counters);
    }
}

/// Makes the records of tokens, one counter's after the other's, as storage has them at start: no sibling lacks one.
fn remember(table: &Table, counters: u64, tokens: u64) {
    let (before, reckoned) = (resident_bytes(), table.memory_bytes());
    let began_ns = processor_ns();
    for number in 0..tokens {
        let Ok(key) = Key::new(&name(number.checked_rem(counters).unwrap_or(0))) else { continue };
        let id = (u128::from(random(number)) << 64) | u128::from(number);
        let made_ms = START.wall_ms().saturating_add(number);
        let actor = ActorId { origin: random(0), incarnation: 1 << 32 };
        let update = Update::Increment(1);
        table.restore_token(&TokenRecord { key, id, actor, made_ms, update, position: made_ms, observed: None });
    }
    println!("{:.0} ns a token", each(processor_ns().saturating_sub(began_ns), tokens));
    println!("{:.1} bytes a token of resident memory", each(resident_bytes().saturating_sub(before), tokens));
    println!("{:.1} bytes a token by the table's own account", each(table.memory_bytes().saturating_sub(reckoned), tokens));
}

/// Makes the counters, by one actor after the other.
fn fill(table: &Table, counters: u64, actors: u64) {
    for number in 0..actors {
        table.set_writer(Slot::all(), Some(ActorId { origin: random(number), incarnation: 1 << 32 }));
        let began_ns = processor_ns();
        (0..counters).for_each(|counter| increment(table, counter, START));
        println!("actor {number}: {:.0} ns a first update", each(processor_ns().saturating_sub(began_ns), counters));
    }
}

/// Increments and reads of counters at random, less what choosing one costs.
fn round(table: &Table, counters: u64) {
    let choice = |turn: u64| random(turn).checked_rem(counters).unwrap_or(0);
    let timed = |one: &dyn Fn(u64)| {
        let began_ns = processor_ns();
        (0..OPERATIONS).for_each(|turn| one(choice(turn)));
        each(processor_ns().saturating_sub(began_ns), OPERATIONS)
    };
    let choosing = timed(&|counter| {
        black_box(name(counter));
    });
    let routing = timed(&|counter| {
        black_box(Slot::of(&name(counter)));
    });
    let incrementing = timed(&|counter| increment(table, counter, Hlc(START.0.saturating_add(counter))));
    let reading = timed(&|counter| {
        if let Ok(key) = KeyRef::new(&name(counter)) {
            black_box(table.read(key));
        }
    });
    let warmed = timed_together(table, &choice);
    println!(
        "increment {:.0} ns, warmed {:.0} ns, read {:.0} ns, of which finding the slot {:.0} ns",
        incrementing - choosing,
        warmed - choosing,
        reading - choosing,
        routing - choosing
    );
}

/// Increments as those of a pipeline are made: after [`Table::warm`] for some at a time.
fn timed_together(table: &Table, choice: &dyn Fn(u64) -> u64) -> f64 {
    let began_ns = processor_ns();
    for turn in (0..OPERATIONS).step_by(TOGETHER) {
        let names: [[u8; 16]; TOGETHER] = std::array::from_fn(|place| name(choice(turn.saturating_add(count(place)))));
        table.warm(&names.each_ref().map(<[u8; 16]>::as_slice));
        for key in names.iter().filter_map(|name| KeyRef::new(name).ok()) {
            let _applied = black_box(table.apply(key, Update::Increment(1), None, Hlc(START.0.saturating_add(turn))));
        }
    }
    each(processor_ns().saturating_sub(began_ns), OPERATIONS)
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn increment(table: &Table, counter: u64, now: Hlc) {
    if let Ok(key) = KeyRef::new(&name(counter)) {
        let _applied = black_box(table.apply(key, Update::Increment(1), None, now));
    }
}

/// 16 bytes that are one counter's.
fn name(counter: u64) -> [u8; 16] {
    let digits = random(counter);
    std::array::from_fn(|index| {
        let digit = (digits >> (index << 2)) & 15;
        u8::try_from(digit).unwrap_or(0).wrapping_add(b'a')
    })
}

fn random(number: u64) -> u64 {
    xxh3_64_with_seed(&number.to_le_bytes(), 7)
}

/// This process's resident memory, by the kernel's account, in pages of 4 KiB.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(4096)
}

/// The time that this thread has had of a processor, in nanoseconds: what others do on the machine counts less so.
fn processor_ns() -> u64 {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    schedule.split(' ').next().and_then(|running| running.parse().ok()).unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn each(sum: u64, of: u64) -> f64 {
    sum as f64 / of as f64
}
