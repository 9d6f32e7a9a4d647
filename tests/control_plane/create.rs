//! From an applied object to a cluster that counts.

use anyhow::Context as _;
use counter_tests::count::agreed;
use counter_tests::http::Http;
use counter_tests::site::{Launch, Site};
use serde_json::{Value, json};

pub(crate) async fn an_applied_object_becomes_a_cluster_that_counts_and_is_then_left_alone(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("page-views");
    cluster.apply(json!({"shards": 2, "replicas": 2})).await?;
    let status = cluster.settled().await?;
    anyhow::ensure!((status.shards, status.ready_shards) == (Some(2), Some(2)), "{status:?}");
    anyhow::ensure!((status.nodes, status.ready_nodes) == (Some(4), Some(4)), "{status:?}");
    anyhow::ensure!(status.endpoint == Some(format!("http://page-views.{}.svc:8080", site.namespace())), "{status:?}");
    anyhow::ensure!(status.conditions.len() == 5 && status.slot_move.is_none(), "{status:?}");

    let objects = cluster.objects().await?;
    for expected in [
        "ConfigMap/page-views-layout",
        "NetworkPolicy/page-views",
        "PodDisruptionBudget/page-views-0",
        "PodDisruptionBudget/page-views-1",
        "Secret/page-views-token",
        "Service/page-views",
        "Service/page-views-nodes",
        "ServiceAccount/page-views",
        "StatefulSet/page-views-0",
        "StatefulSet/page-views-1",
        "PersistentVolumeClaim/data-page-views-1-1",
        "Pod/page-views-1-1",
    ] {
        anyhow::ensure!(objects.contains_key(expected), "{expected} is missing among {:?}", objects.keys());
    }
    for (name, object) in &objects {
        let ours = !["ConfigMap/", "Event/", "PersistentVolumeClaim/", "Pod/", "DistributedCounter/"]
            .iter()
            .any(|other| name.starts_with(other));
        let owner = &object["metadata"]["ownerReferences"][0]["kind"];
        anyhow::ensure!(!ours || owner == "DistributedCounter", "{name} belongs to {owner}");
    }

    let counting = cluster.count("front-page", 4);
    counting.acknowledge(100).await?;
    let ledger = counting.stop().await;
    let bases = cluster.bases();
    anyhow::ensure!(bases.len() == 4, "{bases:?}");
    agreed(&Http::default(), &bases, "front-page", &ledger).await?;
    cluster.is_quiet(&operator).await?;
    columns(site).await?;
    operator.stop().await
}

/// What `kubectl get` shows.
async fn columns(site: &Site) -> anyhow::Result<()> {
    let table = site.plane().kubectl(site.namespace(), &["get", "dcounter"]).await?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    anyhow::ensure!(rows[0] == ["NAME", "SHARDS", "READY", "CONSISTENCY", "AVAILABLE", "AGE"], "{table}");
    anyhow::ensure!(rows.get(1).is_some_and(|row| row[..5] == ["page-views", "2", "2", "Eventual", "True"]), "{table}");
    Ok(())
}

pub(crate) async fn an_empty_spec_gets_every_default(site: &Site) -> anyhow::Result<()> {
    let written = serde_json::to_value(site.cluster("empty").apply(json!({})).await?)?;
    let expected = json!({
        "shards": 1, "replicas": 3, "consistency": "Eventual", "acks": "Local", "paused": false,
        "storage": {"volume": {
            "size": "1Gi", "fsync": "EverySecond", "retention": {"whenScaled": "Retain", "whenDeleted": "Retain"}
        }},
        "service": {"type": "ClusterIP"},
    });
    anyhow::ensure!(holds(&written["spec"], &expected), "{}", written["spec"]);
    let bare = site.plane().folder().join("bare.yaml");
    std::fs::write(&bare, "apiVersion: distributedcounter.dev/v1alpha1\nkind: DistributedCounter\nmetadata: {name: bare}\n")?;
    site.plane().kubectl(site.namespace(), &["apply", "-f", bare.to_str().context("a path of text")?]).await?;
    let bare = serde_json::to_value(site.cluster("bare").get().await?)?;
    anyhow::ensure!(bare["spec"] == written["spec"], "without a spec: {}", bare["spec"]);

    let _operator = site.operator(&Launch::default())?;
    let status = site.cluster("empty").settled().await?;
    anyhow::ensure!((status.shards, status.nodes) == (Some(1), Some(3)), "{status:?}");
    Ok(())
}

/// Whether `value` says all that `expected` says.
fn holds(value: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(fields) => fields.iter().all(|(field, expected)| holds(&value[field], expected)),
        expected => value == expected,
    }
}
