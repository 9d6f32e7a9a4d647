//! The pure part of the counter cluster: counters and their merge, the layout, and the protocols between nodes.
//!
//! Nothing in here reads a clock, does I/O, or waits. The protocols are state machines that are told messages, ticks
//! and the time, and answer with effects; `counter-node` performs these, and the simulation does too.
#![deny(clippy::arithmetic_side_effects, clippy::wildcard_enum_match_arm)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails, as it should"))]
#![cfg_attr(test, allow(clippy::wildcard_enum_match_arm, reason = "a test names the variant that it expects"))]

pub mod counter;
pub mod forward;
pub mod hlc;
pub mod id;
pub mod key;
pub mod layout;
pub mod marks;
pub mod message;
pub mod presence;
pub mod proof;
pub mod replica;
pub mod slot;
pub mod status;
pub mod table;
pub mod token;
pub mod unread;
pub mod vector;
