//! Reads that say how fresh they are, and reads of what the client has already, through any node.

use bytes::Bytes;
use counter_tests::count::{Counting, Ledger, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

async fn detail(base: &str, path: &str) -> anyhow::Result<Value> {
    Http::default().get_json(&format!("{base}{path}?detail=true")).await
}

#[tokio::test]
async fn a_replica_that_stands_still_is_missing_from_the_details_everywhere_until_it_goes_on() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (http, bases, page) = (Http::default(), cluster.bases(), cluster.page_of(1)?);
    http.send(Method::PUT, &format!("{}/{page}/counter", bases[0]), None).await?.json_of(StatusCode::OK)?;
    agreed(&http, &bases, &page, &Ledger { acknowledged: 1, ..Ledger::default() }).await?;
    let path = format!("/{page}/counter");
    let heard = async |base: &str, path: &str, replicas: u64| {
        until("so many replicas are heard", async || {
            let detail = detail(base, path).await?;
            anyhow::ensure!(detail["replicas"] == replicas, "{replicas} instead of {detail}");
            Ok(detail)
        })
        .await
    };
    for base in &bases {
        let page = heard(base, &path, 2).await?;
        assert_eq!((&page["count"], &page["tally"], &page["consistency"]), (&json!(1), &json!(1), &json!("Eventual")));
        assert_eq!((&page["min"], &page["max"]), (&json!(1), &json!(1)), "both replicas have the same: {page}");
        assert_eq!((&page["viewers"], &page["unique"]), (&json!(0), &json!(0)));
        heard(base, "/counter", 4).await?;
    }

    cluster.nodes[3].pause().await?;
    for base in &bases[..3] {
        let alone = heard(base, &path, 1).await?;
        let before_ms = alone["staleness_ms"].as_u64().unwrap();
        assert!(before_ms > 3_000, "it counts as silent after three greetings: {alone}");
        assert!(alone.get("min").is_none() && alone.get("max").is_none(), "the other may know more: {alone}");
        until("the number has grown older", async || {
            let now = detail(base, &path).await?;
            anyhow::ensure!(now["staleness_ms"].as_u64() > Some(before_ms), "{now} after {before_ms} ms");
            Ok(())
        })
        .await?;
        heard(base, "/counter", 3).await?;
    }
    cluster.nodes[3].resume().await?;
    for base in &bases {
        let again = heard(base, &path, 2).await?;
        assert!(again["staleness_ms"].as_u64() < Some(3_000), "{again}");
        assert_eq!((&again["min"], &again["max"]), (&json!(1), &json!(1)), "{again}");
        heard(base, "/counter", 4).await?;
    }
    Ok(())
}

#[tokio::test]
async fn under_load_the_number_is_between_its_bounds_and_these_meet_when_it_is_over() -> anyhow::Result<()> {
    const CLIENTS: i64 = 4;
    let cluster = Cluster::start(2, 3, &[]).await?;
    let (http, bases, page) = (Http::default(), cluster.bases(), cluster.page_of(1)?);
    let path = format!("/{page}/counter");
    let everywhere = bases.clone();
    let counting = Counting::start(&page, usize::try_from(CLIENTS)?, move || everywhere.clone());
    let mut apart = 0;
    for base in bases.iter().cycle().take(60) {
        let before = counting.so_far().acknowledged;
        let detail = detail(base, &path).await?;
        let sent = counting.so_far().acknowledged + CLIENTS;
        let (Some(min), Some(max), Some(count)) = (detail["min"].as_i64(), detail["max"].as_i64(), detail["count"].as_i64())
        else {
            continue;
        };
        assert!(before <= max && min <= sent, "{before} were acknowledged before, {sent} sent at most since: {detail}");
        assert!((min..=max).contains(&count), "{detail}");
        apart += u32::from(min < max);
    }
    assert!(apart > 0, "nothing was ever under way between replicas");
    let told = counting.stop().await;
    let total = agreed(&http, &bases, &page, &told).await?;
    for base in &bases {
        let detail = detail(base, &path).await?;
        assert_eq!((&detail["min"], &detail["max"]), (&json!(total), &json!(total)), "{detail}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_of_many_tokens_is_read_without_bounds_since_no_replica_copies_all_of_them_for_a_reader() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 2, &[]).await?;
    let (http, bases) = (Http::default(), cluster.bases());
    let path = "/p/counter";
    for (counted, has_bounds) in [(1_000, true), (1_001, false)] {
        let before = http.count(&bases[0], "p").await?;
        let keys = (before..counted).map(|number| format!("key-{number}"));
        let updates: Vec<Value> = keys.map(|key| json!({"page": "p", "idempotency_key": key})).collect();
        for part in updates.chunks(500) {
            http.send(Method::POST, &format!("{}/counters", bases[0]), Some(json!({"updates": part})))
                .await?
                .json_of(StatusCode::OK)?;
        }
        for base in &bases {
            until("both replicas have all of it", async || {
                let detail = detail(base, path).await?;
                let bounds = has_bounds.then_some(counted);
                let told = (detail["count"].as_i64(), detail["min"].as_i64(), detail["max"].as_i64());
                anyhow::ensure!(told == (Some(counted), bounds, bounds), "{detail} of {counted}");
                Ok(())
            })
            .await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn where_nobody_else_counts_the_bounds_are_the_number_itself() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    Http::default().send(Method::PUT, &format!("{}/p/counter", node.http()), Some(json!({"by": 7}))).await?;
    for path in ["/p/counter", "/counter"] {
        let detail = detail(&node.http(), path).await?;
        assert_eq!((&detail["min"], &detail["max"], &detail["replicas"]), (&json!(7), &json!(7), &json!(1)), "{path}: {detail}");
    }
    // One replica a shard: a page's number is bounded, through any node; the site's is put together over time.
    let cluster = Cluster::start(2, 1, &[]).await?;
    let page = cluster.page_of(1)?;
    for base in cluster.bases() {
        let page = detail(&base, &format!("/{page}/counter")).await?;
        assert_eq!((&page["min"], &page["max"]), (&json!(0), &json!(0)), "{page}");
        let site = detail(&base, "/counter").await?;
        assert!(site.get("min").is_none() && site["replicas"] == 2, "{site}");
    }
    Ok(())
}

#[tokio::test]
async fn a_tag_from_one_node_is_good_at_every_other_until_the_number_changes() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (http, bases, page) = (Http::default(), cluster.bases(), cluster.page_of(1)?);
    let mut told = Ledger::default();
    let count = async |told: &mut Ledger| {
        http.send(Method::PUT, &format!("{}/{page}/counter", bases[0]), None).await?.json_of(StatusCode::OK)?;
        told.acknowledged += 1;
        agreed(&http, &bases, &page, told).await
    };
    let ask = async |base: &str, tag: &str| {
        let request = Request::get(format!("{base}/{page}/counter")).header("if-none-match", tag);
        anyhow::Ok(http.request(request.body(Bytes::new())?).await?)
    };
    count(&mut told).await?;
    let tag = ask(&bases[0], "").await?.headers["etag"].to_str()?.to_owned();
    for base in &bases {
        let answer = ask(base, &tag).await?;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0), "{base}");
    }
    count(&mut told).await?;
    for base in &bases {
        assert_eq!(ask(base, &tag).await?.json_of(StatusCode::OK)?["count"], 2, "{base}");
    }
    Ok(())
}
