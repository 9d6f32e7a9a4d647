//! One process of the data plane. A request's way, downwards: [`server`] accepts the connection, [`http`] reads the
//! request and picks the words of the answer, [`router`] finds the counter's owner, and [`storage`] keeps what changed.
//!
//! The protocols between nodes are state machines in `counter-core`; this crate owns the clocks, the sockets and the files.

pub mod args;
pub mod commit;
pub mod router;
pub mod server;
pub mod storage;
pub mod telemetry;
