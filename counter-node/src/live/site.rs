//! The whole site's count, for those who look at it: gathered now and then, while there are any.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Hub;
use super::value::Count;
use crate::http::Backend;

/// How often the total is gathered. It is a request to each shard, however many look at it.
const INTERVAL: Duration = Duration::from_millis(250);

/// Tells the hub the site's total while someone looks at it, until the node has stopped.
pub async fn follow(hub: Arc<Hub>, backend: impl Backend, stopped: CancellationToken) {
    while stopped.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
        if !hub.watches_site() {
            continue;
        }
        match backend.site().await {
            Ok(site) => hub.site(Count { count: site.reading.count, updated_at: site.reading.updated_at }),
            Err(failure) => tracing::debug!(?failure, "no total of the site for those who look at it"),
        }
    }
}
