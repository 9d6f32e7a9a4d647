//! An operator that dies right after any of its writes: the next one goes on to the same end.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use counter_tests::cluster::{Cluster, difference};
use counter_tests::site::{Launch, Operator, Site};
use counter_tests::wait::until;
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::totals::{self, Load};

/// Crashes that are tried at a time: each has a cluster of its own, which mostly waits.
const AT_A_TIME: u64 = 4;
/// More writes than any of these changes takes.
const WRITES_MAX: u64 = 80;

type State = BTreeMap<String, Value>;

pub(crate) async fn a_crash_after_any_write_of_a_creation_changes_nothing_in_the_end(site: &Site) -> anyhow::Result<()> {
    every_crash(site, Story::Creation).await
}

pub(crate) async fn a_crash_after_any_write_of_a_growth_changes_nothing_in_the_end(site: &Site) -> anyhow::Result<()> {
    every_crash(site, Story::Growth).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Story {
    Creation,
    Growth,
}

/// Runs the story with a crash after the first write, after the second, and so on until one needs no more writes than that.
async fn every_crash(site: &Site, story: Story) -> anyhow::Result<()> {
    let (_, undisturbed) = run(site, story, 0).await.context("without a crash")?;
    let mut first = 1;
    while first < WRITES_MAX {
        let runs = (first..first + AT_A_TIME).map(|writes| async move {
            let (crashed, state) = run(site, story, writes).await.with_context(|| format!("a crash after write {writes}"))?;
            anyhow::Ok((writes, crashed, state))
        });
        let runs = try_join_all(runs).await?;
        for (writes, _, state) in &runs {
            let same = *state == undisturbed;
            anyhow::ensure!(same, "a crash after write {writes} changes: {}", difference(&undisturbed, state));
        }
        if runs.iter().any(|(_, crashed, _)| !crashed) {
            anyhow::ensure!(first > 1, "there was hardly a crash");
            return Ok(());
        }
        first += AT_A_TIME;
    }
    bail!("{WRITES_MAX} writes were not enough")
}

/// One run in a namespace of its own: whether the operator crashed, and what there is in the end.
async fn run(site: &Site, story: Story, writes: u64) -> anyhow::Result<(bool, State)> {
    let own = site.another(&format!("w{writes}")).await?;
    let result = story.run(&own, (writes > 0).then_some(writes)).await;
    let result = match result {
        Ok(result) => Ok(result),
        Err(error) => Err(error).context(own.report().await),
    };
    own.close();
    result
}

impl Story {
    async fn run(self, site: &Site, writes: Option<u64>) -> anyhow::Result<(bool, State)> {
        let cluster = site.cluster("counts");
        let crashing = Launch { crash_after_writes: writes, ..Launch::default() };
        let ledgers = match self {
            Self::Creation => {
                cluster.apply(json!({"shards": 1, "replicas": 1})).await?;
                Vec::new()
            }
            Self::Growth => {
                let operator = site.operator(&Launch::default())?;
                cluster.apply(json!({"shards": 1, "replicas": 1})).await?;
                cluster.settled().await?;
                operator.stop().await?;
                let load = Load::start(&cluster, 6);
                load.go_on(3).await?;
                cluster.patch(json!({"spec": {"shards": 2}})).await?;
                load.stop().await
            }
        };
        let mut operator = site.operator(&crashing)?;
        let mut crashed = crashes(&mut operator, &cluster).await?;
        let mut quiet = Ok(());
        if !crashed {
            quiet = cluster.is_quiet(&operator).await;
            // The last writes are events, told after all else is done.
            crashed = operator.process().ended()?.is_some();
        }
        if crashed {
            operator = site.operator(&Launch::default())?;
            quiet = cluster.is_quiet(&operator).await;
        }
        quiet?;
        totals::check(&cluster, &ledgers).await?;
        Ok((crashed, state(site, &cluster).await?))
    }
}

/// Waits until the operator has crashed, or there is nothing left for it to do.
async fn crashes(operator: &mut Operator, cluster: &Cluster<'_>) -> anyhow::Result<bool> {
    until("the operator crashes or has done all", async || {
        if let Some(status) = operator.process().ended()? {
            anyhow::ensure!(status.code().is_none(), "the operator ended by itself, with {status}");
            return Ok(true);
        }
        cluster.is_settled().await?;
        Ok(false)
    })
    .await
}

/// All that there is, without what differs from run to run: names of namespaces, identities, times, and versions that a
/// crash may cost.
async fn state(site: &Site, cluster: &Cluster<'_>) -> anyhow::Result<State> {
    let mut state = BTreeMap::new();
    for (name, object) in cluster.objects().await? {
        let kind = name.split('/').next().unwrap_or_default();
        let said = match kind {
            "Event" => continue,
            "ConfigMap" | "Secret" => json!(object["data"].as_object().map(|data| data.keys().collect::<Vec<_>>())),
            "DistributedCounter" => conditions(&object),
            // Whatever else is said of Pods and claims was chosen by Kubernetes.
            "Pod" => json!(object["spec"]["containers"][0]["args"]),
            "PersistentVolumeClaim" => json!(object["spec"]["resources"]),
            _ => spec(&object),
        };
        let mut all = json!({"labels": object["metadata"]["labels"], "said": said});
        forget_hashes(&mut all);
        let text = all.to_string().replace(site.namespace(), "NAMESPACE");
        state.insert(name, serde_json::from_str(&text)?);
    }
    let layout = cluster.layout().await?;
    let shards = serde_json::to_string(&layout.shards)?.replace(site.namespace(), "NAMESPACE");
    state.insert("layout".to_owned(), json!({"shards": shards, "moves": layout.moves}));
    Ok(state)
}

/// Takes out the hashes of templates, in which the namespace's name has a part.
fn forget_hashes(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| name != "controller-revision-hash" && name != "distributedcounter.dev/template-hash");
        fields.values_mut().for_each(forget_hashes);
    }
}

fn conditions(object: &Value) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().map(|one| json!([one["type"], one["status"], one["reason"], one["message"]])).collect()
}

fn spec(object: &Value) -> Value {
    let mut spec = object["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|field, _| field != "clusterIP" && field != "clusterIPs");
    }
    spec
}
