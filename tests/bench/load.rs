//! Load generators, on the second core.

pub(crate) mod fill;
pub(crate) mod lag;
pub(crate) mod redis_benchmark;
pub(crate) mod steady;
pub(crate) mod wrk;

/// What is asked of the server, and how often at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// HTTP on this many connections, one request at a time each.
    Http { request: wrk::Request, connections: usize },
    /// RESP by redis-benchmark.
    Resp { command: redis_benchmark::Command, clients: usize, pipeline: usize, keys: u64 },
}
