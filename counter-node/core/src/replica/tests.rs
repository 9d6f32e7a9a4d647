//! Scripted clusters: a deterministic network and storage in memory, and one file of stories per rule.

mod cluster;
mod contests;
mod floors;
mod headers;
mod layouts;
mod moves;
mod pushes;
mod repair;
mod retirement;
mod storms;
