//! What becomes of a cluster, round after round, by theme.

mod records;
mod rollouts;
mod sizes;
mod virtual_shards;
mod volumes;

use crate::controller::plan::Notice;

fn message(notice: Option<&Notice>) -> &str {
    notice.map(|notice| notice.message.as_str()).unwrap_or_default()
}
