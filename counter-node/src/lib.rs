//! One process of the data plane. A request's way, downwards: [`server`] accepts the connection, [`http`] reads the
//! request and picks the words of the answer, [`router`] finds the counter's owner, and [`storage`] keeps what changed.
//!
//! The protocols between nodes are state machines in `counter-core`; this crate owns the clocks, the sockets and the files.

pub mod admin;
pub mod args;
pub mod clock;
pub mod commit;
pub mod details;
pub mod forwarding;
pub mod handover;
pub mod hosts;
pub mod http;
pub mod live;
mod lock;
pub mod members;
pub mod node;
pub mod overview;
pub mod own_writes;
pub mod owner;
pub mod pages;
pub mod peers;
pub mod presence;
pub mod protocol;
pub mod records;
pub mod resp;
pub mod router;
pub mod server;
pub mod sessions;
pub mod signals;
pub mod site;
pub mod status;
pub mod storage;
pub mod telemetry;
pub mod tokens;
pub mod top;
pub mod totals;
pub mod unread;
mod waiting;
