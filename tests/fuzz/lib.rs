//! What is fuzzed: everything that reads bytes which others wrote. Each target takes any bytes and panics when something
//! does not hold; `libfuzzer/` has a program for each, which `make soak` runs for a while, and the tests repeat what was
//! ever found (`corpus/NAME/`) and the well-formed inputs that the search begins with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a target fails by panicking")]

mod http;
mod layout;
mod live;
mod log;
mod peer;
mod presence;
mod records;
mod resp;

/// Something that reads foreign bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name of its program and of its folder in the corpus.
    pub name: &'static str,
    /// Panics when something does not hold.
    pub run: fn(&[u8]),
    /// Well-formed inputs, from which the search begins.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 9] = [
    Target { name: "peer_messages", run: peer::messages, seeds: peer::message_seeds },
    Target { name: "forwarded_requests", run: peer::forwarded, seeds: peer::forwarded_seeds },
    Target { name: "presence_messages", run: presence::messages, seeds: presence::message_seeds },
    Target { name: "live_messages", run: live::said, seeds: live::said_seeds },
    Target { name: "stored_records", run: records::stored, seeds: records::stored_seeds },
    Target { name: "log_segments", run: log::segments, seeds: log::segment_seeds },
    Target { name: "layouts", run: layout::document, seeds: layout::document_seeds },
    Target { name: "resp_requests", run: resp::requests, seeds: resp::request_seeds },
    Target { name: "http_requests", run: http::requests, seeds: http::request_seeds },
];

/// The target of this name; for the programs.
///
/// # Panics
/// When there is none.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    (target.run)(bytes);
}
