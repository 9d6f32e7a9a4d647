//! The Redis protocol of a cluster's Pods, and clusters that keep their counts in a Redis.

use anyhow::Context as _;
use counter_tests::cluster::Cluster;
use counter_tests::http::Http;
use counter_tests::redis::{APPEND_ONLY, TestRedis};
use counter_tests::site::{Launch, Site};
use counter_tests::wait::until;
use hyper::StatusCode;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use operator::crd::DistributedCounter;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// The first line of what a node answers to a command, asked as any client would, without one's library.
async fn asked(base: &str, words: &[&str]) -> anyhow::Result<String> {
    let host = base.strip_prefix("http://").and_then(|rest| rest.strip_suffix(":8080")).context(base.to_owned())?;
    let mut stream = BufReader::new(TcpStream::connect((host, 6379)).await?);
    let parts: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    stream.write_all(format!("*{}\r\n{parts}", words.len()).as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

pub(crate) async fn a_cluster_in_redis_begins_with_its_secret_and_goes_on_from_its_record(site: &Site) -> anyhow::Result<()> {
    let program = counter_tests::redis::servers().swap_remove(0);
    let folder = tempfile::tempdir()?;
    let redis = TestRedis::start(&program, folder.path(), &APPEND_ONLY).await?;
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    let spec = json!({"replicas": 2, "storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}});
    cluster.apply(spec.clone()).await?;
    let (reason, message) = cluster.comes("Stalled", "True").await?;
    anyhow::ensure!(reason == "RedisUrlMissing" && message.contains("there is no such Secret"), "{reason}: {message}");
    anyhow::ensure!(cluster.layout().await.is_err(), "a cluster was begun without its Secret");
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "redis"}, "stringData": {"url": redis.url()}}))?;
    site.api::<Secret>().create(&PostParams::default(), &secret).await?;
    cluster.settled().await?;
    let id = cluster.layout().await?.cluster;
    let http = Http::default();
    http.send(hyper::Method::PUT, &format!("{}/page/counter", cluster.bases()[0]), None).await?.json_of(StatusCode::OK)?;
    let keys = redis.keys("*")?;
    anyhow::ensure!(!keys.is_empty() && keys.iter().all(|key| key.starts_with(&format!("{{{id}:views-0-"))), "{keys:?}");
    anyhow::ensure!(site.api::<PersistentVolumeClaim>().list(&ListParams::default()).await?.items.is_empty(), "claims");
    cluster.is_quiet(&operator).await?;

    site.api::<DistributedCounter>().delete("views", &DeleteParams::foreground()).await?;
    until("the cluster is gone", async || {
        anyhow::ensure!(cluster.get().await.is_err() && cluster.bases().is_empty(), "it is still there");
        Ok(())
    })
    .await?;
    cluster.apply(spec).await?;
    cluster.settled().await?;
    anyhow::ensure!(cluster.layout().await?.cluster == id, "another identity");
    until("the count is the one before", async || {
        for base in cluster.bases() {
            anyhow::ensure!(http.count(&base, "page").await? == 1, "{base}");
        }
        Ok(())
    })
    .await?;
    operator.stop().await
}

async fn ports(site: &Site, service: &str) -> anyhow::Result<Vec<i32>> {
    let spec = site.api::<Service>().get(service).await?.spec.context("a Service without a spec")?;
    Ok(spec.ports.unwrap_or_default().into_iter().map(|port| port.port).collect())
}

async fn resp_addresses(cluster: &Cluster<'_>) -> anyhow::Result<Vec<Option<String>>> {
    Ok(cluster.layout().await?.nodes().map(|node| node.resp.clone()).collect())
}

pub(crate) async fn redis_clients_count_at_every_pod_while_the_spec_lets_them(site: &Site) -> anyhow::Result<()> {
    let operator = site.operator(&Launch::default())?;
    let cluster = site.cluster("views");
    cluster.apply(json!({"replicas": 2})).await?;
    cluster.settled().await?;
    anyhow::ensure!(resp_addresses(&cluster).await? == [None, None]);
    anyhow::ensure!(asked(&cluster.bases()[0], &["PING"]).await.is_err(), "the protocol is spoken unasked");

    cluster.patch(json!({"spec": {"resp": {"enabled": true}}})).await?;
    cluster.settled().await?;
    let address = |node: &str| Some(format!("{node}.views-nodes.{}.svc:6379", site.namespace()));
    anyhow::ensure!(resp_addresses(&cluster).await? == [address("views-0-0"), address("views-0-1")]);
    anyhow::ensure!(ports(site, "views").await? == [8080, 6379] && ports(site, "views-nodes").await?.contains(&6379));
    for (number, base) in (1..).zip(cluster.bases()) {
        anyhow::ensure!(asked(&base, &["PING"]).await? == "+PONG");
        let told = asked(&base, &["INCRBY", "page", "10"]).await?;
        let sum: i64 = told.strip_prefix(':').context(told.clone())?.parse()?;
        anyhow::ensure!((10..=number * 10).contains(&sum), "{told}");
    }
    let bases = cluster.bases();
    let http = Http::default();
    until("both APIs say the same everywhere", async || {
        for base in &bases {
            anyhow::ensure!(http.count(base, "page").await? == 20, "{base}");
        }
        Ok(())
    })
    .await?;
    cluster.is_quiet(&operator).await?;

    cluster.patch(json!({"spec": {"resp": {"enabled": false}}})).await?;
    cluster.settled().await?;
    anyhow::ensure!(resp_addresses(&cluster).await? == [None, None] && ports(site, "views").await? == [8080]);
    anyhow::ensure!(asked(&cluster.bases()[1], &["PING"]).await.is_err(), "the protocol is still spoken");
    cluster.is_quiet(&operator).await?;
    operator.stop().await
}
