//! Hands the recorded layout to the nodes that act by an older one or by none. Nodes pass it among themselves too, so a
//! node that is not reached here is no failure; the next pass tries again.

use counter_core::id::NodeName;
use counter_core::layout::Layout;
use futures::StreamExt as _;

use super::gather::Targets;
use super::plan::Publish;
use crate::nodes::{CallError, NodeClient};

/// Nodes that are told at a time; the client bounds the calls of all clusters together.
const AT_A_TIME: usize = 16;

/// Who took the layout, and who did not.
#[derive(Debug, Default)]
pub struct Published {
    pub taken: u32,
    pub failed: Vec<(NodeName, CallError)>,
}

/// Publishes what the plan says.
pub async fn publish(client: &NodeClient, targets: &Targets, plan: &Publish) -> Published {
    let Publish { layout, nodes } = plan;
    let results = futures::stream::iter(nodes.clone())
        .map(|node| async move {
            let result = tell(client, targets, &node, layout).await;
            (node, result)
        })
        .buffer_unordered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    let mut published = Published::default();
    for (node, result) in results {
        match result {
            Ok(()) => published.taken += 1,
            Err(error) => {
                tracing::warn!(node = %node, %error, version = layout.version.0, "a node did not take the layout, trying again");
                published.failed.push((node, error));
            }
        }
    }
    published
}

async fn tell(client: &NodeClient, targets: &Targets, node: &NodeName, layout: &Layout) -> Result<(), CallError> {
    // The Pod may have got its address between two passes only; the next pass knows it.
    let target = targets.get(node).ok_or_else(|| CallError::Address(String::new()))?;
    // A node that belongs to no cluster yet takes the layout's; the push names it in any case.
    let target = crate::nodes::Target { cluster: Some(layout.cluster), ..target.clone() };
    client.put_layout(&target, layout).await
}
