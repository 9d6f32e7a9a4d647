//! Live counts on real clusters: who looks at a page counts in it everywhere, for as long as they do.

use std::collections::BTreeSet;

use anyhow::Context as _;
use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, nothing_left};
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Waits until every node says that the page counts so many.
async fn all_count(bases: &[String], page: &str, count: i64) -> anyhow::Result<()> {
    let http = Http::default();
    for base in bases {
        until("the node counts right", async || {
            let counted = http.count(base, page).await?;
            anyhow::ensure!(counted == count, "{base} counts {counted} on {page} instead of {count}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// What a node's Redis port says that the page counts.
async fn redis_get(node: &TestNode, page: &str) -> anyhow::Result<i64> {
    let address = node.entry.resp.as_deref().context("it has no Redis port")?;
    let mut stream = BufReader::new(TcpStream::connect(address).await?);
    stream.write_all(format!("GET {page}\r\n").as_bytes()).await?;
    let (mut length, mut number) = (String::new(), String::new());
    stream.read_line(&mut length).await?;
    stream.read_line(&mut number).await?;
    number.trim().parse().with_context(|| format!("{length:?} {number:?}"))
}

#[tokio::test]
async fn who_looks_at_a_page_counts_on_every_node_until_the_connection_ends() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 3, &[]).await?;
    let (bases, pages) = (cluster.bases(), [cluster.page_of(0)?, cluster.page_of(1)?]);
    for page in &pages {
        let path = format!("/{page}/live");
        let mut first = Follower::open(&bases[0], &path).await?;
        first.until(page, 1).await?;
        let mut second = Follower::open(&bases[5], &path).await?;
        first.until(page, 2).await?;
        second.until(page, 2).await?;
        all_count(&bases, page, 2).await?;
        drop(second);
        let counts = first.until(page, 1).await?;
        assert_eq!(counts, [1], "it falls at once, and by one");
        all_count(&bases, page, 1).await?;
    }
    for page in &pages {
        all_count(&bases, page, 0).await?;
    }
    for node in &cluster.nodes {
        nothing_left(node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_node_takes_its_viewers_along_and_no_count_is_ever_negative() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(2, 3, &["--presence-lease", "3"]).await?;
    let (bases, page) = (cluster.bases(), cluster.page_of(1)?);
    let path = format!("/{page}/live");
    let mut watcher = Follower::open(&bases[1], &path).await?;
    let mut lost = Vec::new();
    for _ in 0..3 {
        lost.push(Follower::open(&bases[0], &path).await?);
    }
    watcher.until(&page, 4).await?;
    all_count(&bases, &page, 4).await?;
    cluster.nodes[0].kill().await?;
    let counts = watcher.until(&page, 1).await?;
    assert!(counts.iter().all(|count| (1..=4).contains(count)), "{counts:?}");
    all_count(&bases[1..], &page, 1).await?;
    // Come back, it has nobody; and it knows who is elsewhere before it is given clients.
    cluster.nodes[0].start_ready().await?;
    assert_eq!(Http::default().count(&bases[0], &page).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_count_is_tally_and_viewers_wherever_it_is_read() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (bases, http, page) = (cluster.bases(), Http::default(), cluster.page_of(1)?);
    let mut viewer = Follower::open(&bases[0], &format!("/{page}/live")).await?;
    viewer.until(&page, 1).await?;
    all_count(&bases, &page, 1).await?;
    for base in &bases {
        let url = format!("{base}/{page}/counter");
        let before = http.count(base, &page).await?;
        let updated = http.send(Method::PUT, &url, Some(json!({"by": 10}))).await?.json_of(StatusCode::OK)?;
        assert_eq!(updated["count"], before + 10, "a reply includes viewers");
        viewer.until(&page, before + 10).await?;
        all_count(&bases, &page, before + 10).await?;
    }
    let total = 10 * i64::try_from(bases.len())? + 1;
    for base in &bases {
        let many = http.get_json(&format!("{base}/counters?page={page}&page=nobody")).await?;
        assert_eq!((&many["results"][0]["count"], &many["results"][1]["count"]), (&json!(total), &json!(0)));
        let detail = http.get_json(&format!("{base}/{page}/counter?detail=true")).await?;
        assert_eq!((&detail["count"], &detail["tally"], &detail["viewers"]), (&json!(total), &json!(total - 1), &json!(1)));
        until("the site's total has the viewer", async || {
            let site = http.get_json(&format!("{base}/counter?detail=true")).await?;
            anyhow::ensure!(site["count"] == total && site["viewers"] == 1, "{site}");
            Ok(())
        })
        .await?;
    }
    for node in &cluster.nodes {
        assert_eq!(redis_get(node, &page).await?, total, "Redis clients see viewers, too");
    }
    let mut site = Follower::open(&bases[3], "/live").await?;
    let count = site.next_of("count").await?;
    assert_eq!((&count["page"], &count["count"]), (&json!(null), &json!(total)), "who looks at the site is no viewer");
    Ok(())
}

#[tokio::test]
async fn people_are_counted_once_however_many_tabs_they_have() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 2, &[]).await?;
    let (bases, http, page) = (cluster.bases(), Http::default(), cluster.page_of(1)?);
    let are = async |viewers: u64, people: u64| {
        for base in &bases {
            until("viewers and people are counted", async || {
                let detail = http.get_json(&format!("{base}/{page}/counter?detail=true")).await?;
                let is = (&detail["viewers"], &detail["unique"], &detail["unique_is_estimate"]);
                anyhow::ensure!(is == (&json!(viewers), &json!(people), &json!(false)), "{viewers} and {people}: {detail}");
                Ok(())
            })
            .await?;
        }
        anyhow::Ok(())
    };
    let path = |query: &str| format!("/{page}/live{query}");
    let ann = [Follower::open(&bases[0], &path("?user=ann")).await?, Follower::open(&bases[3], &path("?user=ann")).await?];
    let _ben = Follower::open(&bases[1], &path("?user=ben&session=s1")).await?;
    let nobody = [Follower::open(&bases[2], &path("")).await?, Follower::open(&bases[2], &path("")).await?];
    are(5, 4).await?;
    let beat = format!("{}/{page}/sessions/s2", bases[0]);
    http.send(Method::PUT, &beat, Some(json!({"user": "ann"}))).await?.json_of(StatusCode::OK)?;
    are(6, 4).await?;
    drop(ann);
    are(4, 4).await?;
    http.send(Method::DELETE, &beat, None).await?.json_of(StatusCode::OK)?;
    drop(nobody);
    are(1, 1).await
}

#[tokio::test]
async fn people_are_estimated_when_they_are_many_and_exact_again_when_most_have_left() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 2, &["--presence-heartbeat", "120"]).await?;
    let (bases, http, page) = (cluster.bases(), Http::default(), cluster.page_of(0)?);
    let are = async |viewers: u64, people: std::ops::RangeInclusive<u64>, is_estimate: bool| {
        for base in &bases {
            until("viewers and people are counted", async || {
                let detail = http.get_json(&format!("{base}/{page}/counter?detail=true")).await?;
                let is = (&detail["viewers"], &detail["unique_is_estimate"]);
                anyhow::ensure!(is == (&json!(viewers), &json!(is_estimate)), "{viewers} viewers: {detail}");
                let unique = detail["unique"].as_u64().context("no number")?;
                anyhow::ensure!(people.contains(&unique), "{unique} people instead of {people:?}");
                Ok(())
            })
            .await?;
        }
        anyhow::Ok(())
    };
    // Every other user has two sessions, mostly held by two nodes.
    let sessions: Vec<(usize, String)> =
        (0..300).map(|session| (session % 200, format!("{}/{page}/sessions/s{session}", bases[session % 2]))).collect();
    for (user, url) in &sessions {
        http.send(Method::PUT, url, Some(json!({"user": format!("u{user}")}))).await?.json_of(StatusCode::OK)?;
    }
    are(300, 180..=220, true).await?;
    for (_, url) in sessions.iter().filter(|(user, _)| *user >= 20) {
        http.send(Method::DELETE, url, None).await?.json_of(StatusCode::OK)?;
    }
    are(40, 20..=20, false).await
}

#[tokio::test]
async fn the_busiest_pages_are_told_by_every_node_in_their_order() -> anyhow::Result<()> {
    let cluster = Cluster::start(3, 2, &[]).await?;
    let (bases, http) = (cluster.bases(), Http::default());
    let mut sockets = Vec::new();
    for (number, base) in (1..=6).zip(bases.iter().cycle()) {
        for _ in 0..number {
            sockets.push(Follower::open(base, &format!("/shop-{number}/live")).await?);
        }
    }
    sockets.push(Follower::open(&bases[0], "/news/live").await?);
    http.send(Method::PUT, &format!("{}/shop-6/counter", bases[0]), Some(json!({"by": 100}))).await?.json_of(StatusCode::OK)?;
    let named = |page: i64, count: i64| json!({"page": format!("shop-{page}"), "viewers": page, "count": count});
    let expected = json!([named(6, 106), named(5, 5), named(4, 4)]);
    for base in &bases {
        until("the list is whole", async || {
            let top = http.get_json(&format!("{base}/pages?sort=viewers&limit=3&prefix=shop-")).await?;
            anyhow::ensure!(top["pages"] == expected, "{top}");
            let all = http.get_json(&format!("{base}/pages?sort=viewers")).await?;
            anyhow::ensure!(all["pages"].as_array().map(Vec::len) == Some(7), "{all}");
            Ok(())
        })
        .await?;
    }
    let long = format!("?sort=viewers&prefix={}", "p".repeat(513));
    for (query, field) in [
        ("", "sort"),
        ("?sort=name", "sort"),
        ("?sort=viewers&limit=0", "limit"),
        ("?sort=viewers&limit=101", "limit"),
        (&long, "prefix"),
    ] {
        let problem =
            http.send(Method::GET, &format!("{}/pages{query}", bases[0]), None).await?.json_of(StatusCode::BAD_REQUEST)?;
        assert_eq!(problem["field"], field, "{query}");
    }
    Ok(())
}

#[tokio::test]
async fn one_socket_follows_many_pages_and_observes_some() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &[]).await?;
    let (bases, [a, b]) = (cluster.bases(), [cluster.page_of(0)?, cluster.page_of(1)?]);
    let mut observer = Follower::open(&bases[0], &format!("/{a}/live?observe=true")).await?;
    assert_eq!(observer.until(&a, 0).await?, [0], "an observer does not count");
    let mut viewer = Follower::open(&bases[1], &format!("/{a}/live")).await?;
    observer.until(&a, 1).await?;

    viewer.say(&json!({"type": "subscribe", "pages": [&b]})).await?;
    let subscribed = viewer.next_of("subscribed").await?;
    assert_eq!(subscribed["pages"], json!([&b]));
    observer.say(&json!({"type": "subscribe", "pages": [&b], "observe": true})).await?;
    observer.until(&b, 1).await?;

    // The same again, as an observer: the viewer is one no more.
    viewer.say(&json!({"type": "subscribe", "pages": [&b], "observe": true})).await?;
    observer.until(&b, 0).await?;
    viewer.say(&json!({"type": "unsubscribe", "pages": [&a, &b]})).await?;
    observer.until(&a, 0).await?;
    viewer.say(&json!({"type": "ping"})).await?;
    viewer.next_of("pong").await?;
    drop((viewer, observer));
    for node in &cluster.nodes {
        nothing_left(node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn server_sent_events_tell_counts_and_nothing_again_to_who_has_it() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 2, &[]).await?;
    let (bases, http) = (cluster.bases(), Http::default());
    let mut events = Events::open(&bases[0], "/p/live?observe=true", &[]).await?;
    let hello = events.next().await?.unwrap();
    assert_eq!(hello["event"], "hello");
    assert!(hello["retry"].parse::<u64>()? >= 200);
    assert_eq!(events.count().await?.0, 0);
    http.send(Method::PUT, &format!("{}/p/counter", bases[1]), None).await?.json_of(StatusCode::OK)?;
    let (count, id) = events.count().await?;
    assert_eq!(count, 1);
    drop(events);

    // At the other node: what the client has is not sent, what comes then is.
    all_count(&bases, "p", 1).await?;
    let mut again = Events::open(&bases[1], "/p/live?observe=true", &[("last-event-id", &id)]).await?;
    http.send(Method::PUT, &format!("{}/p/counter", bases[0]), None).await?.json_of(StatusCode::OK)?;
    assert_eq!(again.count().await?.0, 2);
    // As a viewer the stream counts.
    let viewer = Events::open(&bases[0], "/p/live", &[]).await?;
    assert_eq!(again.count().await?.0, 3);
    drop(viewer);
    assert_eq!(again.count().await?.0, 2);
    drop(again);
    for node in &cluster.nodes {
        nothing_left(node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_that_is_closed_counts_no_more_though_the_next_ping_is_minutes_away() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, 1, &["--presence-heartbeat", "600"]).await?;
    let base = &cluster.bases()[0];
    let mut observer = Follower::open(base, "/p/live?observe=true").await?;
    observer.until("p", 0).await?;
    let mut viewer = Events::open(base, "/p/live", &[]).await?;
    observer.until("p", 1).await?;
    // Whatever it is to be sent has been: no write tells that it has gone.
    while viewer.count().await?.0 != 1 {}
    let unread = Events::open(base, "/users/u/unread/live", &[]).await?;
    let site = Events::open(base, "/live", &[]).await?;
    drop((viewer, unread, site));
    observer.until("p", 0).await?;
    drop(observer);
    nothing_left(&cluster.nodes[0]).await
}

#[tokio::test]
async fn one_session_id_is_one_viewer_through_whichever_nodes_it_comes() -> anyhow::Result<()> {
    // Long enough for the observer, who answers pings only while it waits for counts.
    let cluster = Cluster::start(2, 2, &["--presence-heartbeat", "10"]).await?;
    let (bases, http, page) = (cluster.bases(), Http::default(), cluster.page_of(1)?);
    let mut observer = Follower::open(&bases[0], &format!("/{page}/live?observe=true")).await?;
    observer.until(&page, 0).await?;
    let session = |base: &String| format!("{base}/{page}/sessions/tab%201");
    let beat_everywhere = async || {
        for base in &bases {
            http.send(Method::PUT, &session(base), None).await?.json_of(StatusCode::OK)?;
        }
        anyhow::Ok(())
    };
    beat_everywhere().await?;
    observer.until(&page, 1).await?;
    // A socket of the same session is the same viewer, and keeps it when heartbeats stay out.
    let socket = Follower::open(&bases[2], &format!("/{page}/live?session=tab%201")).await?;
    beat_everywhere().await?;
    let ended = http.send(Method::DELETE, &session(&bases[3]), None).await?;
    ended.json_of(StatusCode::OK)?;
    observer.say(&json!({"type": "ping"})).await?;
    loop {
        let message = observer.next().await?;
        if message["type"] == "pong" {
            break;
        }
        assert_ne!(message["count"], 2, "one id is one viewer");
    }
    drop(socket);
    observer.until(&page, 0).await?;

    // Heartbeats that stay out.
    http.send(Method::PUT, &session(&bases[1]), Some(json!({"user": "ann"}))).await?.json_of(StatusCode::OK)?;
    observer.until(&page, 1).await?;
    observer.until(&page, 0).await?;
    // An end at once; and a heartbeat after the end begins anew.
    for _ in 0..2 {
        http.send(Method::PUT, &session(&bases[1]), None).await?.json_of(StatusCode::OK)?;
        observer.until(&page, 1).await?;
        let end = http.send(Method::POST, &format!("{}/end", session(&bases[0])), None).await?;
        assert_eq!(end.status, StatusCode::NO_CONTENT);
        observer.until(&page, 0).await?;
    }
    drop(observer);
    for node in &cluster.nodes {
        nothing_left(node).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_stopping_node_sends_its_clients_elsewhere_at_different_times() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        sockets.push(Follower::open(&node.http(), "/p/live").await?);
    }
    let mut events = Events::open(&node.http(), "/p/live", &[]).await?;
    assert!(node.stop().await?.success());
    let mut times = BTreeSet::new();
    for socket in &mut sockets {
        times.insert(socket.next_of("reconnect").await?["after_ms"].as_u64().unwrap());
        assert_eq!(socket.closed().await?, Some(1012));
    }
    assert!(times.len() > 1, "they would all come at once: {times:?}");
    let mut last = None;
    while let Some(event) = events.next().await? {
        last = Some(event);
    }
    assert_eq!(last.unwrap()["event"], "reconnect");
    Ok(())
}
