//! One or few real counter-node processes, and what befalls them: bad input, damage, crashes, full disks, partitions.
//!
//! Bad input is checked twice: the refusal says what is wrong, and afterwards everything is as it was.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod bad_folders;
mod bad_layouts;
mod bad_peers;
mod bad_requests;
mod commits;
mod crashes;
mod details;
mod exactly_once;
mod forwarding;
mod full_disk;
mod hostile_peers;
mod kills;
mod limits;
mod live;
mod live_bad_input;
mod live_fan_out;
mod live_handover;
mod live_leaks;
mod live_limits;
mod own_writes;
mod power_loss;
mod redis;
mod redis_store;
mod replicas;
mod rotation;
mod seen;
mod token_metrics;
mod top_pages;
mod unread;
mod virtual_shards;
mod virtual_shards_under_load;
