//! Secrets that change under a running cluster: its own token, and that of the public API.

use anyhow::Context as _;
use bytes::Bytes;
use counter_tests::cluster::Cluster;
use counter_tests::http::Http;
use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use hyper::{Method, Request};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use operator::nodes::NodeClient;
use operator::telemetry::Metrics;
use serde_json::json;

use crate::totals::{self, Load};

pub(crate) async fn a_new_cluster_token_comes_to_all_nodes_while_they_count(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 3})).await?;
    cluster.settled().await?;
    let load = Load::start(&cluster, 3);
    load.go_on(5).await?;
    let old = String::from_utf8(cluster.token().await?)?;
    let new = "a-token-of-my-own-0123456789abcdef";
    let rotated = json!({"stringData": {"token": new, "previous": old}});
    site.api::<Secret>().patch("views-token", &PatchParams::default(), &Patch::Merge(rotated)).await?;
    let client = NodeClient::new(None, Metrics::default());
    for node in cluster.layout().await?.nodes() {
        let (ours, theirs) =
            (cluster.target(&node.name, new.as_bytes()).await?, cluster.target(&node.name, old.as_bytes()).await?);
        until("the node takes the new token", async || Ok(client.status(&ours).await?)).await?;
        client.status(&theirs).await.context("the token before it is not accepted any more")?;
    }
    load.go_on(5).await?;
    // With it everything goes on, a change of the layout too.
    cluster.patch(json!({"spec": {"shards": 2}})).await?;
    cluster.settled().await?;
    anyhow::ensure!(cluster.token().await? == new.as_bytes(), "the operator has overwritten the token");
    totals::check(&cluster, &load.stop().await).await?;
    operator.stop().await
}

/// What each node answers an update with such a token.
async fn answers(cluster: &Cluster<'_>, token: Option<&str>) -> anyhow::Result<Vec<u16>> {
    let mut answers = Vec::new();
    for base in cluster.bases() {
        let mut request = Request::builder().method(Method::PUT).uri(format!("{base}/page/counter"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answers.push(Http::default().request(request.body(Bytes::new())?).await?.status.as_u16());
    }
    Ok(answers)
}

pub(crate) async fn the_public_api_takes_changes_with_the_token_of_the_users_secret_only(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2, "apiTokenSecretRef": {"name": "api", "key": "writers"}})).await?;
    let (reason, message) = cluster.comes("Stalled", "True").await?;
    anyhow::ensure!(reason == "ApiTokenMissing" && message.contains("there is no such Secret"), "{reason}: {message}");
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "api"}, "stringData": {"writers": "first"}}))?;
    site.api::<Secret>().create(&PostParams::default(), &secret).await?;
    cluster.settled().await?;
    let found =
        (answers(&cluster, None).await?, answers(&cluster, Some("wrong")).await?, answers(&cluster, Some("first")).await?);
    anyhow::ensure!(found == (vec![401, 401], vec![401, 401], vec![200, 200]), "{found:?}");

    let changed = json!({"stringData": {"writers": "first\nsecond"}});
    site.api::<Secret>().patch("api", &PatchParams::default(), &Patch::Merge(changed)).await?;
    until("all nodes take the second token", async || {
        let found = answers(&cluster, Some("second")).await?;
        anyhow::ensure!(found == [200, 200], "{found:?}");
        Ok(())
    })
    .await?;
    anyhow::ensure!(answers(&cluster, Some("first")).await? == [200, 200], "the first token went");
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}
