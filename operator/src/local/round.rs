//! One round of calls to all nodes' admin ports: what each says of itself, and the recorded layout to those that have
//! another. It runs beside the loop that watches the processes, so that a node that hangs holds up nothing else.

use std::sync::Arc;

use counter_core::id::NodeName;
use counter_core::layout::Layout;
use counter_core::status::NodeStatus;

use crate::nodes::{CallError, NodeClient, Target};

/// One node to ask.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The cluster's `NAMESPACE/NAME`.
    pub(super) cluster: String,
    pub(super) target: Target,
    /// The process that is asked; its successor's answer would be another.
    pub(super) pid: u32,
    /// The recorded layout, when the plan says that the node has not got it.
    pub(super) layout: Option<Arc<Layout>>,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) cluster: String,
    pub(super) node: NodeName,
    pub(super) pid: u32,
    pub(super) status: Result<NodeStatus, CallError>,
    /// Why the node did not take the recorded layout.
    pub(super) refusal: Option<CallError>,
}

/// Asks all nodes at once; the client bounds how many calls are under way.
pub(super) async fn ask_all(client: NodeClient, questions: Vec<Question>) -> Vec<Answer> {
    futures::future::join_all(questions.into_iter().map(|question| ask(&client, question))).await
}

async fn ask(client: &NodeClient, question: Question) -> Answer {
    let Question { cluster, target, pid, layout } = question;
    let mut status = client.status(&target).await;
    let mut refusal = None;
    if let (Ok(_), Some(layout)) = (&status, &layout) {
        match client.put_layout(&target, layout).await {
            Ok(()) => status = client.status(&target).await,
            Err(error) => refusal = Some(error),
        }
    }
    Answer { cluster, node: target.node, pid, status, refusal }
}
