//! What the parts of the product promise each other, and what its documents promise its users.
//!
//! The operator and the node share no code but `counter-core`, so what one writes and the other reads is compared here:
//! command lines, ports, probes, the admin API. That docs/openapi.json is current is a test of counter-node's own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod admin;
mod argv;
mod chart;
mod documents;
mod flags;
mod generated;
mod local;
