//! Nodes that keep their counters in a real Redis or Valkey, and everything that befalls it while they do.

use std::path::Path;

use counter_core::id::ActorId;
use counter_tests::count::{Counting, Ledger, agreed};
use counter_tests::http::Http;
use counter_tests::node::{Cluster, TestNode, give};
use counter_tests::redis::{APPEND_ONLY, TestRedis, servers};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;

const PAGE: &str = "front-page";

/// A server, and the file with its URL.
struct Kept {
    redis: TestRedis,
    folder: TempDir,
}

impl Kept {
    async fn start(server: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(server, &folder.path().join("redis"), flags).await?;
        let kept = Self { redis, folder };
        kept.write_url(&kept.redis.url())?;
        Ok(kept)
    }

    fn write_url(&self, url: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.folder.path().join("url"), url)?)
    }

    fn flags(&self, prefix: &str) -> [String; 6] {
        let file = self.folder.path().join("url").display().to_string();
        ["--storage", "redis", "--redis-url-file", &file, "--redis-prefix", prefix].map(str::to_owned)
    }

    fn alone(&self, folder: &Path) -> anyhow::Result<TestNode> {
        TestNode::alone(folder, &self.flags("alone").each_ref().map(String::as_str))
    }
}

async fn put(node: &TestNode) -> anyhow::Result<counter_tests::http::Answer> {
    Http::default().send(Method::PUT, &format!("{}/{PAGE}/counter", node.http()), None).await
}

async fn counted(node: &TestNode, count: i64) -> anyhow::Result<()> {
    assert_eq!(put(node).await?.json_of(StatusCode::OK)?["count"], count);
    Ok(())
}

async fn actor(node: &TestNode) -> anyhow::Result<ActorId> {
    Ok(node.status().await?.actor)
}

async fn is_writable(node: &TestNode, writable: bool) -> anyhow::Result<()> {
    until("the node has noticed", async || {
        anyhow::ensure!(node.status().await?.storage.writable == writable, "it has not: {}", node.log_tail());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_node_without_a_volume_keeps_its_numbers_and_its_name_for_them() -> anyhow::Result<()> {
    for server in servers() {
        let (kept, folder) = (Kept::start(&server, &[]).await?, tempfile::tempdir()?);
        let mut node = kept.alone(folder.path())?;
        node.start_ready().await?;
        assert_eq!(node.status().await?.storage.kind, "redis");
        counted(&node, 1).await?;
        let first = actor(&node).await?;
        node.kill().await?;
        node.start_ready().await?;
        counted(&node, 2).await?;
        let second = actor(&node).await?;
        assert_eq!((second.origin, second.incarnation >> 32), (first.origin, (first.incarnation >> 32) + 1));
        assert!(node.stop().await?.success());
        assert!(!node.data().exists(), "it needs no folder");
        node.start_ready().await?;
        counted(&node, 3).await?;
        node.kill().await?;
        kept.redis.ask(&["FLUSHALL"])?;
        node.start_ready().await?;
        counted(&node, 1).await?;
        assert_ne!(actor(&node).await?.origin, first.origin, "an emptied Redis remembers nobody");
    }
    Ok(())
}

/// What can happen to Redis under a node that goes on.
#[derive(Clone, Copy, Debug)]
enum Accident {
    /// It ends, and comes back with all.
    Killed,
    /// It ends, and comes back with nothing.
    KilledAndEmptied,
    /// It stands still for a while.
    Paused,
    /// Everything is deleted.
    Flushed,
    /// It becomes a replica, as after a fail-over, and later the master again.
    Demoted,
}

impl Accident {
    async fn begin(self, redis: &mut TestRedis) -> anyhow::Result<()> {
        match self {
            Self::Killed => redis.kill().await,
            Self::KilledAndEmptied => {
                redis.kill().await?;
                redis.remove_files()
            }
            Self::Paused => redis.pause().await,
            Self::Flushed => redis.ask(&["FLUSHALL"]).map(drop),
            Self::Demoted => redis.ask(&["REPLICAOF", "127.0.0.1", "1"]).map(drop),
        }
    }

    async fn end(self, redis: &mut TestRedis) -> anyhow::Result<()> {
        match self {
            Self::Killed | Self::KilledAndEmptied => redis.restart().await,
            Self::Paused => redis.resume().await,
            Self::Flushed => Ok(()),
            Self::Demoted => redis.ask(&["REPLICAOF", "NO", "ONE"]).map(drop),
        }
    }
}

/// The node with Redis away: it is ready and answers, and applies nothing.
async fn is_read_only(node: &TestNode, count: i64) -> anyhow::Result<()> {
    let http = Http::default();
    // Whether the first update finds out, or the second's look: its outcome may be unknown.
    until("an update is refused", async || {
        let refused = put(node).await?;
        anyhow::ensure!(refused.status == StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
        let problem = refused.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
        anyhow::ensure!(problem["type"] == "/problems/not-applied", "{problem}");
        Ok(())
    })
    .await?;
    let read = http.count(&node.http(), PAGE).await?;
    assert!((count..=count + 1).contains(&read), "{read}");
    let ready = http.send(Method::GET, &format!("{}/readyz", node.admin()), None).await?;
    assert_eq!(ready.status, StatusCode::OK, "what can be read is served");
    Ok(())
}

async fn survives(server: &str, accident: Accident) -> anyhow::Result<()> {
    let (mut kept, folder) = (Kept::start(server, &APPEND_ONLY).await?, tempfile::tempdir()?);
    let mut node = kept.alone(folder.path())?;
    node.start_ready().await?;
    for count in 1..=3 {
        counted(&node, count).await?;
    }
    let quiet = format!("{}/quiet/counter", node.http());
    Http::default().send(Method::PUT, &quiet, Some(json!({"by": 7}))).await?.json_of(StatusCode::OK)?;
    let before = actor(&node).await?;
    accident.begin(&mut kept.redis).await?;
    if !matches!(accident, Accident::Flushed) {
        is_read_only(&node, 3).await?;
    }
    accident.end(&mut kept.redis).await?;
    until("the node writes as somebody new", async || {
        anyhow::ensure!(actor(&node).await? != before, "{}", node.log_tail());
        Ok(())
    })
    .await?;
    is_writable(&node, true).await?;
    let held = Http::default().count(&node.http(), PAGE).await?;
    counted(&node, held + 1).await?;
    let after = actor(&node).await?;
    assert_eq!(after.origin, before.origin);
    // Redis has it all again, the unchanged too: the next process knows no other source.
    node.kill().await?;
    node.start_ready().await?;
    assert_eq!(Http::default().count(&node.http(), PAGE).await?, held + 1, "{accident:?}");
    assert_eq!(Http::default().count(&node.http(), "quiet").await?, 7, "{accident:?}");
    assert!(actor(&node).await?.incarnation > after.incarnation);
    Ok(())
}

#[tokio::test]
async fn a_node_whose_redis_is_killed_goes_on_reading_and_then_writing() -> anyhow::Result<()> {
    for server in servers() {
        survives(&server, Accident::Killed).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_whose_redis_came_back_empty_writes_everything_again() -> anyhow::Result<()> {
    for server in servers() {
        survives(&server, Accident::KilledAndEmptied).await?;
        survives(&server, Accident::Flushed).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_whose_redis_stands_still_or_is_demoted_waits_for_it() -> anyhow::Result<()> {
    for server in servers() {
        survives(&server, Accident::Paused).await?;
        survives(&server, Accident::Demoted).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_starts_without_its_redis_waits_and_says_so() -> anyhow::Result<()> {
    for server in servers() {
        let (mut kept, folder) = (Kept::start(&server, &APPEND_ONLY).await?, tempfile::tempdir()?);
        let mut node = kept.alone(folder.path())?;
        node.start_ready().await?;
        counted(&node, 1).await?;
        node.kill().await?;
        kept.redis.kill().await?;
        let http = Http::default();
        for stops in [true, false] {
            node.start()?;
            until("the node says what it waits for", async || {
                let answer = http.send(Method::GET, &format!("{}/readyz", node.admin()), None).await?;
                anyhow::ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE);
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                anyhow::ensure!(text.contains("waiting for the storage: cannot connect to Redis"), "{text}");
                Ok(())
            })
            .await?;
            let alive = http.send(Method::GET, &format!("{}/livez", node.admin()), None).await?;
            assert_eq!(alive.status, StatusCode::OK);
            let problem = put(&node).await?.json_of(StatusCode::SERVICE_UNAVAILABLE)?;
            assert_eq!(problem["type"], "/problems/not-applied");
            if stops {
                assert!(node.stop().await?.success(), "it need not wait to be stopped");
            }
        }
        kept.redis.restart().await?;
        node.ready().await?;
        counted(&node, 2).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_password_is_read_again_and_never_shown() -> anyhow::Result<()> {
    for server in servers() {
        let (kept, folder) = (Kept::start(&server, &["--requirepass", "sesame-1"]).await?, tempfile::tempdir()?);
        kept.write_url(&kept.redis.url_with("sesame-0"))?;
        let mut node = kept.alone(folder.path())?;
        node.start()?;
        until("the node says what is wrong", async || {
            let answer = Http::default().send(Method::GET, &format!("{}/readyz", node.admin()), None).await?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            anyhow::ensure!(text.contains("user and password of the URL are wrong"), "{text}");
            Ok(())
        })
        .await?;
        kept.write_url(&kept.redis.url_with("sesame-1"))?;
        node.ready().await?;
        counted(&node, 1).await?;
        // Another user with another password, as whoever rotates them does.
        let before = actor(&node).await?;
        kept.redis.ask_as(
            "sesame-1",
            &["ACL", "SETUSER", "second", "on", ">sesame-2", "~{alone:*", "+@hash", "+@scripting", "+unlink", "+info", "+ping"],
        )?;
        kept.write_url(&kept.redis.url_with("sesame-2").replace("//:", "//second:"))?;
        until("the node has read the new URL", async || {
            anyhow::ensure!(actor(&node).await? != before, "{}", node.log_tail());
            Ok(())
        })
        .await?;
        is_writable(&node, true).await?;
        kept.redis.ask_as("sesame-1", &["ACL", "SETUSER", "default", "resetpass", ">sesame-3"])?;
        counted(&node, 2).await?;
        let argv = std::fs::read_to_string(format!("/proc/{}/cmdline", node.pid().unwrap_or_default()))?;
        assert!(!argv.contains("sesame") && !node.log_tail().contains("sesame"), "{}", node.log_tail());
        assert!(node.stop().await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn two_clusters_whose_nodes_have_the_same_names_share_a_redis() -> anyhow::Result<()> {
    for server in servers() {
        let kept = Kept::start(&server, &[]).await?;
        let http = Http::default();
        let mut clusters = Vec::new();
        for prefix in ["one", "other"] {
            clusters.push(Cluster::start(1, 2, &kept.flags(prefix).each_ref().map(String::as_str)).await?);
        }
        for (cluster, updates) in clusters.iter().zip([3, 5]) {
            for _ in 0..updates {
                assert_eq!(put(&cluster.nodes[0]).await?.status, StatusCode::OK);
            }
        }
        for (cluster, updates) in clusters.iter_mut().zip([3, 5]) {
            let told = Ledger { acknowledged: updates, ..Ledger::default() };
            agreed(&http, &cluster.bases(), PAGE, &told).await?;
            for node in &mut cluster.nodes {
                node.kill().await?;
                node.start()?;
            }
            for node in &mut cluster.nodes {
                node.ready().await?;
            }
            agreed(&http, &cluster.bases(), PAGE, &told).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn updates_at_a_node_whose_redis_is_away_go_to_its_sibling() -> anyhow::Result<()> {
    for server in servers() {
        let mut kept = [Kept::start(&server, &APPEND_ONLY).await?, Kept::start(&server, &APPEND_ONLY).await?];
        let mut cluster = Cluster::prepare(1, 2, &[])?;
        for (node, kept) in cluster.nodes.iter_mut().zip(&kept) {
            node.add_flags(kept.flags("test"));
            node.start()?;
        }
        for node in &cluster.nodes {
            give(node, &cluster.layout).await?;
        }
        for node in &mut cluster.nodes {
            node.ready().await?;
        }
        counted(&cluster.nodes[0], 1).await?;
        kept[0].redis.kill().await?;
        is_writable(&cluster.nodes[0], false).await?;
        let base = cluster.nodes[0].http();
        let counting = Counting::start(PAGE, 4, move || vec![base.clone()]);
        counting.acknowledge(100).await?;
        let mut told = counting.stop().await;
        assert_eq!(told, Ledger { acknowledged: told.acknowledged, ..Ledger::default() }, "the sibling takes all of them");
        kept[0].redis.restart().await?;
        is_writable(&cluster.nodes[0], true).await?;
        told.acknowledged += 1;
        agreed(&Http::default(), &cluster.bases(), PAGE, &told).await?;
    }
    Ok(())
}

#[tokio::test]
async fn kill_minus_nine_of_node_and_redis_under_load_loses_nothing_acknowledged() -> anyhow::Result<()> {
    for server in servers() {
        let (mut kept, folder) = (Kept::start(&server, &APPEND_ONLY).await?, tempfile::tempdir()?);
        let mut node = kept.alone(folder.path())?;
        let mut told = Ledger::default();
        for round in 0..6 {
            node.start_ready().await?;
            let base = node.http();
            let counting = Counting::start(PAGE, 8, move || vec![base.clone()]);
            counting.acknowledge(200).await?;
            if round % 3 != 0 {
                kept.redis.kill().await?;
            }
            if round % 3 != 1 {
                node.kill().await?;
            }
            if round % 3 != 0 {
                kept.redis.restart().await?;
            }
            if round % 3 == 1 {
                counting.acknowledge(50).await?;
                node.kill().await?;
            }
            let ledger = counting.stop().await;
            told.acknowledged += ledger.acknowledged;
            told.unknown += ledger.unknown;
        }
        node.start_ready().await?;
        told.check(Http::default().count(&node.http(), PAGE).await?)?;
        // Eight clients, at most two accidents in each of six rounds.
        assert!(told.unknown <= 96, "{told:?}");
    }
    Ok(())
}

/// A certificate for `127.0.0.1` and the authority that it rests on, as files; the latter's comes first.
fn certificates(folder: &Path) -> anyhow::Result<[String; 3]> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let server_key = rcgen::KeyPair::generate()?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let server = rcgen::CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&server_key, &issuer)?;
    let files = [("authority.pem", authority_pem), ("server.pem", server.pem()), ("server.key", server_key.serialize_pem())];
    let written = files.map(|(name, text)| {
        let path = folder.join(name);
        std::fs::write(&path, text).map(|()| path.display().to_string())
    });
    let [authority, server, key] = written;
    Ok([authority?, server?, key?])
}

/// Of Debian's Redis, which has TLS; a Valkey need not.
#[tokio::test]
async fn with_tls_a_server_is_trusted_by_its_certificate_only() -> anyhow::Result<()> {
    for server in servers().iter().filter(|server| server.ends_with("redis-server")) {
        let folder = tempfile::tempdir()?;
        let [authority, certificate, key] = certificates(folder.path())?;
        let port = counter_tests::ports::free()?;
        let flags = ["--tls-port", &port.to_string(), "--tls-cert-file", &certificate, "--tls-key-file", &key];
        let flags = [&flags[..], &["--tls-ca-cert-file", &authority, "--tls-auth-clients", "no"]].concat();
        let kept = Kept::start(server, &flags).await?;
        kept.write_url(&format!("rediss://127.0.0.1:{port}"))?;
        let mut node = kept.alone(folder.path())?;
        // By the system's certificates alone it is nobody.
        let strangers = rcgen::generate_simple_self_signed(["elsewhere".to_owned()])?.cert.pem();
        std::fs::write(folder.path().join("strangers.pem"), strangers)?;
        node.set_env("SSL_CERT_FILE", &folder.path().join("strangers.pem").display().to_string());
        node.start()?;
        until("the node says why", async || {
            let log = node.log_tail();
            anyhow::ensure!(log.contains("cannot connect to Redis") && log.to_lowercase().contains("certificate"), "{log}");
            Ok(())
        })
        .await?;
        assert!(kept.redis.keys("*")?.is_empty());
        node.kill().await?;
        node.set_env("SSL_CERT_FILE", &authority);
        node.start_ready().await?;
        counted(&node, 1).await?;
        node.kill().await?;
        node.start_ready().await?;
        counted(&node, 2).await?;
        assert!(!kept.redis.keys("{alone:*")?.is_empty());
        // The certificate is for an address, and this is another name for it.
        kept.write_url(&format!("rediss://localhost:{port}"))?;
        is_writable(&node, false).await?;
        kept.write_url(&format!("rediss://127.0.0.1:{port}"))?;
        is_writable(&node, true).await?;
        counted(&node, 3).await?;
    }
    Ok(())
}
