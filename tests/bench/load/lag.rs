//! How long after its acknowledgement an update is seen at another replica.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::figures::Figures;
use crate::http::Connection;

/// How long an update may take to arrive before the measurement is given up.
const LIMIT: Duration = Duration::from_secs(10);

/// Counts at `from` and waits for it at `at`, again and again for so long.
pub(crate) fn run(from: SocketAddr, at: SocketAddr, seconds: u64) -> anyhow::Result<Figures> {
    let (mut from, mut at) = (Connection::open(from)?, Connection::open(at)?);
    let mut lags = Vec::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        let counted = from.count("PUT", "/lag-probe/counter")?;
        let since = Instant::now();
        while at.count("GET", "/lag-probe/counter")? < counted {
            if since.elapsed() > LIMIT {
                bail!("an update has not arrived after {LIMIT:?}");
            }
        }
        lags.push(since.elapsed().as_secs_f64() * 1e3);
    }
    lags.sort_by(f64::total_cmp);
    let at = |share: usize| lags.get(lags.len() * share / 1000).copied();
    Ok(Figures { p50_ms: at(500), p99_ms: at(990), ..Figures::default() })
}
