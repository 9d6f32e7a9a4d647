//! Growing while clients count.

use counter_core::slot::SlotRange;
use counter_tests::site::{Launch, Site};
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn growing_from_one_to_three_shards_and_replicas_while_clients_count_changes_no_sum(
    site: &Site,
) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("page-views");
    cluster.apply(json!({"shards": 1, "replicas": 1})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 8);
    load.go_on(20).await?;
    for spec in [json!({"shards": 3}), json!({"replicas": 3})] {
        cluster.patch(json!({"spec": spec})).await?;
        cluster.settled().await?;
        load.go_on(20).await?;
    }
    let layout = cluster.layout().await?;
    let sizes: Vec<usize> = layout.shards.iter().map(|shard| SlotRange::count_all(&shard.slots)).collect();
    anyhow::ensure!(sizes.len() == 3 && sizes.iter().all(|size| (5461..=5462).contains(size)), "{sizes:?}");
    anyhow::ensure!(layout.shards.iter().all(|shard| shard.nodes.len() == 3) && layout.moves.is_empty(), "{layout:?}");
    let ledgers = load.stop().await;
    totals::check(&cluster, &ledgers).await?;
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}
