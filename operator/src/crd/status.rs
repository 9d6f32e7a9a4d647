//! What the operator says of a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator says of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributedCounterStatus {
    /// The generation of the spec that the rest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Available, Reconciling, Stalled, ScaleDownBlocked and UpdatePending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Shards in the layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<i32>,
    /// Shards of which every node is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_shards: Option<i32>,
    /// Nodes in the layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i32>,
    /// Nodes that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_nodes: Option<i32>,
    /// The version of the recorded layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout_version: Option<i64>,
    /// Where clients reach the cluster from within Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Slots on their way to another shard, while there are some.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "move")]
    pub slot_move: Option<MoveProgress>,
    /// Matches one Pod per shard, so that autoscalers reckon in shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// How far a move of slots is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MoveProgress {
    /// The shard that gives.
    pub from: i32,
    /// The shard that receives.
    pub to: i32,
    /// Slots that a majority of the receiving nodes do not hold yet; absent while too few of them answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_left: Option<i64>,
    /// Whether the new owner counts already and the old one's receipt is what is awaited.
    pub receipt: bool,
}
