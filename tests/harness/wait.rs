//! Waiting on conditions: never for a time that is hoped to be enough.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How long a condition may take. Far more than it takes: these machines are slow at times.
pub const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until `condition` gives something; its last word is in the error when it does not in time.
///
/// # Errors
/// After [`PATIENCE`].
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let error = match condition().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}: {error:#}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
