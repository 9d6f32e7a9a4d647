//! The Redis port: what it answers, word for word, and clients that others wrote at work on it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod answers;
mod clients;
mod clusters;
mod limits;
mod tells;
mod tokens;
mod wire;
