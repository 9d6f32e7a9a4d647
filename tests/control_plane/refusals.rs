//! What the API server refuses, and that `operator local` refuses the same with the same words.

use counter_tests::site::Site;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams, PostParams};
use operator::controller::validate::{Violation, validate, validate_update};
use operator::crd::DistributedCounter;
use serde_json::{Value, json};

fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": operator::controller::API_VERSION, "kind": "DistributedCounter",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn volume(fields: &Value) -> Value {
    json!({"storage": {"volume": fields}})
}

/// What the API server has against an object, as (field, message). Nothing is stored.
async fn refused(site: &Site, object: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let params = PatchParams { dry_run: true, ..PatchParams::apply("a-user").force() };
    complaints(site.api::<DistributedCounter>().patch(name, &params, &Patch::Apply(object)).await)
}

/// What it has against an object in place of one that it stores.
async fn refused_instead(
    site: &Site,
    stored: &DistributedCounter,
    new: &DistributedCounter,
) -> anyhow::Result<Vec<(String, String)>> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let mut new = new.clone();
    new.metadata.resource_version = stored.resource_version();
    complaints(site.api::<DistributedCounter>().replace(&new.name_any(), &params, &new).await)
}

fn complaints(answer: kube::Result<DistributedCounter>) -> anyhow::Result<Vec<(String, String)>> {
    match answer {
        Ok(_) => Ok(Vec::new()),
        Err(kube::Error::Api(status)) if status.code == 422 => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            Ok(causes.into_iter().map(|cause| (cause.field, cause.message)).collect())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether both say the same: as many complaints, each about the same field with the same words.
fn compare(theirs: &[(String, String)], ours: &[Violation]) -> anyhow::Result<()> {
    let told = |violation: &Violation| {
        let field = violation.field;
        theirs.iter().any(|(at, message)| message.ends_with(violation.message) && (field.is_empty() || at == field))
    };
    anyhow::ensure!(ours.iter().all(told) && ours.len() == theirs.len(), "the API server says {theirs:?}, the mirror {ours:?}");
    Ok(())
}

fn bad_specs() -> Vec<Value> {
    let mut specs = vec![
        json!({"replicas": 0}),
        json!({"replicas": 8}),
        json!({"image": ""}),
        json!({"storage": {}}),
        json!({"storage": {"memory": {}, "volume": {}}}),
        json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}, "volume": {}}}),
        json!({"storage": {"redis": {"urlSecretRef": {"name": "-", "key": ""}}}}),
        json!({"storage": {"memory": {}}, "replicas": 1}),
        json!({"storage": {"memory": {}}, "replicas": 0, "shards": 257, "image": ""}),
        json!({"shards": 0, "replicas": 9, "storage": {"volume": {"size": "1 GB"}}}),
    ];
    let spread = |pages: &str, count: i32| json!({"virtualShards": [{"pages": pages, "count": count}]});
    specs.extend([spread("", 1), spread(&"é".repeat(300), 1), spread("a", 0), spread("a", 257)]);
    specs.push(json!({"virtualShards": [{"pages": "a", "count": 1}, {"pages": "a", "count": 2}]}));
    specs.extend([0, 86_401].map(|seconds| json!({"tokens": {"windowSeconds": seconds}})));
    specs.extend([0, 100_000_001].map(|max| json!({"tokens": {"max": max}})));
    specs.extend([2, 61].map(|seconds| json!({"presence": {"leaseSeconds": seconds}})));
    specs.extend([0, 601].map(|seconds| json!({"presence": {"heartbeatSeconds": seconds}})));
    specs.extend(
        ["", "example.org", "https://", "https://A.example", "https://a.example/", "**"]
            .map(|origin| json!({"cors": {"origins": ["*", origin]}})),
    );
    let reference = |name: &str, key: &str| json!({"apiTokenSecretRef": {"name": name, "key": key}});
    specs.extend(
        [("", "token"), ("Api", "token"), ("-api", "token"), ("api", ""), ("api", "a/b"), ("a b", "ä")]
            .map(|(name, key)| reference(name, key)),
    );
    // Of numbers below 0 the API server says by itself, too, that no scale may have them.
    specs.extend([0, 257].map(|shards| json!({"shards": shards})));
    specs.extend(
        ["", "Gi", "1gi", "1e3", "-1Gi", "1.1234Gi", "1000m", "1Ei", "0", "0.000Mi"].map(|size| volume(&json!({"size": size}))),
    );
    specs
}

pub(crate) async fn the_api_server_and_the_mirror_refuse_the_same_objects_with_the_same_words(site: &Site) -> anyhow::Result<()> {
    let long = "a".repeat(41);
    let named = ["1a", "a.b", "views-nodes", long.as_str()].map(|name| object(name, &json!({})));
    let bad = bad_specs();
    for object in named.into_iter().chain(bad.iter().map(|spec| object("views", spec))) {
        let ours = validate(&serde_json::from_value(object.clone())?).err().unwrap_or_default();
        anyhow::ensure!(!ours.is_empty(), "the mirror has nothing against {object}");
        compare(&refused(site, &object).await?, &ours).map_err(|error| error.context(object.to_string()))?;
    }
    let good = [
        json!({}),
        json!({"shards": 256, "replicas": 7}),
        json!({"storage": {"memory": {}}}),
        json!({"resp": {"enabled": true}}),
        json!({"tokens": {"windowSeconds": 86_400, "max": 100_000_000}}),
        json!({"presence": {"leaseSeconds": 3, "heartbeatSeconds": 600}, "cors": {"origins": ["*", "http://a-1.example:8080"]}}),
        json!({"virtualShards": [{"pages": "front*", "count": 256}, {"pages": "é?", "count": 1}]}),
        json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}, "replicas": 1}),
        volume(&json!({"size": "0.001k"})),
        json!({"apiTokenSecretRef": {"name": "api.token-1", "key": "Token_1.a-b"}}),
    ];
    for spec in good {
        let object = object("views", &spec);
        compare(&refused(site, &object).await?, &[]).map_err(|error| error.context(object.to_string()))?;
        anyhow::ensure!(validate(&serde_json::from_value(object.clone())?).is_ok(), "the mirror refuses {object}");
    }
    anyhow::ensure!(site.cluster("views").get().await.is_err(), "something was stored");
    Ok(())
}

pub(crate) async fn what_may_not_change_is_refused_by_both_with_the_same_words(site: &Site) -> anyhow::Result<()> {
    let memory = json!({"storage": {"memory": {}}});
    let redis = json!({"storage": {"redis": {"urlSecretRef": {"name": "redis", "key": "url"}}}});
    let sized = |size: &str| volume(&json!({"size": size}));
    let classed = volume(&json!({"storageClassName": "standard"}));
    let changes = [
        (json!({}), memory.clone()),
        (memory.clone(), json!({})),
        (json!({}), redis.clone()),
        (redis.clone(), memory.clone()),
        (sized("2Gi"), sized("1Gi")),
        (sized("1Gi"), sized("1G")),
        (sized("1Gi"), sized("1024Mi")),
        (sized("1Gi"), sized("2Gi")),
        (json!({}), classed.clone()),
        (classed.clone(), json!({})),
        (classed, volume(&json!({"storageClassName": "other", "size": "1Mi"}))),
    ];
    for (number, (old, new)) in changes.iter().enumerate() {
        let name = format!("views-{number}");
        let stored = site.cluster(&name).apply(old.clone()).await?;
        let new: DistributedCounter = serde_json::from_value(object(&name, new))?;
        let ours = validate_update(&stored, &new).err().unwrap_or_default();
        let theirs = refused_instead(site, &stored, &new).await?;
        let new = serde_json::to_string(&new.spec.storage)?;
        compare(&theirs, &ours).map_err(|error| error.context(format!("{old} => {new}")))?;
    }
    Ok(())
}

pub(crate) async fn a_misspelt_field_and_one_of_a_later_release_are_refused_by_name(site: &Site) -> anyhow::Result<()> {
    let file = site.plane().folder().join("misspelt.json");
    let spellings = [
        ("spec.shard", json!({"shard": 2})),
        ("spec.storage.volume.Size", volume(&json!({"Size": "1Gi"}))),
        ("spec.presence.lease", json!({"presence": {"lease": 5}})),
    ];
    for (field, spec) in spellings {
        std::fs::write(&file, object("views", &spec).to_string())?;
        let path = file.display().to_string();
        let Err(error) = site.plane().kubectl(site.namespace(), &["create", "-f", &path]).await else {
            anyhow::bail!("{spec} was taken");
        };
        anyhow::ensure!(error.to_string().contains(&format!("unknown field \"{field}\"")), "{error}");
    }
    let strong = refused(site, &object("views", &json!({"consistency": "Strong"}))).await?;
    let told =
        strong.iter().any(|(field, message)| field == "spec.consistency" && message.contains("Unsupported value: \"Strong\""));
    anyhow::ensure!(told, "{strong:?}");
    anyhow::ensure!(site.cluster("views").get().await.is_err(), "something was stored");
    Ok(())
}
