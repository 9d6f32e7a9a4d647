//! What a node tells of itself, its commands and its cluster, to clients that ask.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context as _;
use counter_tests::node::{Cluster, TestNode};
use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::wire::Wire;

async fn client(node: &TestNode) -> anyhow::Result<MultiplexedConnection> {
    let address = node.entry.resp.as_deref().context("no Redis port")?;
    Ok(redis::Client::open(format!("redis://{address}/"))?.get_multiplexed_async_connection().await?)
}

async fn ask<T: redis::FromRedisValue>(client: &mut MultiplexedConnection, words: &str) -> anyhow::Result<T> {
    let mut command = redis::Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    command.query_async(client).await.with_context(|| words.to_owned())
}

#[tokio::test]
async fn a_keys_slot_is_that_of_redis_cluster() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let mut client = client(&node).await?;
    // As Redis's own documents have them.
    for (key, slot) in [("foo", 12_182), ("bar", 5_061), ("somekey", 11_058), ("foo{hash_tag}", 2_515), ("foo{bar}{zap}", 5_061)]
    {
        assert_eq!(ask::<u16>(&mut client, &format!("CLUSTER KEYSLOT {key}")).await?, slot, "{key}");
    }
    Ok(())
}

#[tokio::test]
async fn a_clusters_shards_are_told_with_the_id_that_each_node_has_for_itself() -> anyhow::Result<()> {
    let cluster = Cluster::start(2, 1, &[]).await?;
    let mut ids = Vec::new();
    for node in &cluster.nodes {
        let id: String = ask(&mut client(node).await?, "CLUSTER MYID").await?;
        assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
        ids.push(id);
    }
    assert_ne!(ids[0], ids[1]);
    for (asked, node) in cluster.nodes.iter().enumerate() {
        let mut client = client(node).await?;
        let nodes: String = ask(&mut client, "CLUSTER NODES").await?;
        let myself = nodes.lines().find(|line| line.contains("myself,master")).context("it does not name itself")?;
        assert!(myself.starts_with(&ids[asked]), "{nodes}");
        let shards: Vec<HashMap<String, Value>> = ask(&mut client, "CLUSTER SHARDS").await?;
        assert_eq!(shards.len(), 2);
        for (number, (mut shard, slots)) in shards.into_iter().zip([vec![0_u16, 8_191], vec![8_192, 16_383]]).enumerate() {
            let mut take = |name: &str| shard.remove(name).with_context(|| format!("a shard without {name}"));
            assert_eq!(redis::from_redis_value::<Vec<u16>>(take("slots")?)?, slots);
            let nodes: Vec<HashMap<String, String>> = redis::from_redis_value(take("nodes")?)?;
            let [node] = nodes.as_slice() else { anyhow::bail!("{nodes:?}") };
            let (host, port) =
                cluster.nodes[number].entry.resp.as_deref().and_then(|at| at.rsplit_once(':')).context("no port")?;
            let expected = [
                ("id", ids[number].as_str()),
                ("endpoint", host),
                ("ip", host),
                ("port", port),
                ("role", "master"),
                ("replication-offset", "0"),
                ("health", "online"),
            ];
            assert_eq!(*node, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
            assert!(shard.is_empty(), "{shard:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn commands_are_told_by_number_by_name_and_with_what_they_are_for() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &[])?;
    node.start_ready().await?;
    let mut client = client(&node).await?;
    let names: Vec<String> = ask(&mut client, "COMMAND LIST").await?;
    let count: usize = ask(&mut client, "COMMAND COUNT").await?;
    let each: BTreeSet<&String> = names.iter().collect();
    assert_eq!((count, each.len()), (names.len(), names.len()), "a command is told twice, or not counted");
    assert!(["get", "incr", "del", "cluster"].iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    let all: Vec<Vec<Value>> = ask(&mut client, "COMMAND INFO").await?;
    let told: Vec<String> = all.iter().map(|info| redis::from_redis_value_ref(&info[0])).collect::<Result<_, _>>()?;
    assert_eq!(told, names);
    let docs: HashMap<String, HashMap<String, String>> = ask(&mut client, "COMMAND DOCS").await?;
    assert_eq!(docs.keys().collect::<BTreeSet<_>>(), each);
    // Word for word, of some.
    let mut wire = Wire::to(&node).await?;
    let text = |words: &[&str]| words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>();
    let info = format!(
        "*3\r\n*10\r\n{}:-2\r\n*3\r\n+write\r\n+denyoom\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*3\r\n+@write\r\n+@fast\r\n+@string\r\n*0\r\n*0\r\n*0\r\n*-1\r\n\
         *10\r\n{}:-2\r\n*1\r\n+write\r\n:1\r\n:-1\r\n:1\r\n*2\r\n+@write\r\n+@keyspace\r\n*0\r\n*0\r\n*0\r\n",
        text(&["incr"]),
        text(&["del"])
    );
    wire.ask("command info INCR nonsense del", &info).await?;
    let docs = [
        "summary",
        "Returns the number of a counter.",
        "since",
        "1.0.0",
        "group",
        "string",
        "complexity",
        "O(N) in the keys named",
    ];
    wire.ask("command docs get nonsense", &format!("*2\r\n{}*8\r\n{}", text(&["get"]), text(&docs))).await
}

#[tokio::test]
async fn info_tells_the_sections_that_are_asked_for() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = TestNode::alone(folder.path(), &["--max-memory", "64Mi", "--max-connections", "77"])?;
    node.start_ready().await?;
    let mut client = client(&node).await?;
    let all: String = ask(&mut client, "INFO").await?;
    let headings: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    let known = ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "Cluster", "Keyspace"];
    assert_eq!(headings, known);
    assert_eq!(ask::<String>(&mut client, "INFO nonsense").await?, "");
    let port = node.entry.resp.as_deref().and_then(|at| at.rsplit_once(':')).context("no port")?.1;
    let (_, _): (i64, i64) = (ask(&mut client, "INCR a").await?, ask(&mut client, "INCR b").await?);
    drop(ask::<Value>(&mut client, "INCR a b").await);
    for (section, lines) in [
        ("Server", vec!["redis_version:7.0.0".to_owned(), "redis_mode:standalone".to_owned(), format!("tcp_port:{port}")]),
        ("Clients", vec!["connected_clients:1".to_owned(), "maxclients:77".to_owned()]),
        ("Memory", vec!["maxmemory:67108864".to_owned(), "maxmemory_policy:noeviction".to_owned()]),
        ("Persistence", vec!["loading:0".to_owned(), "aof_enabled:1".to_owned(), "writable:1".to_owned()]),
        ("Stats", vec!["total_error_replies:1".to_owned()]),
        ("Replication", vec!["role:master".to_owned(), "connected_slaves:0".to_owned()]),
        ("Cluster", vec!["cluster_enabled:1".to_owned()]),
        ("Keyspace", vec!["db0:keys=2,expires=0,avg_ttl=0".to_owned()]),
    ] {
        let told: String = ask(&mut client, &format!("INFO {}", section.to_lowercase())).await?;
        assert!(told.starts_with(&format!("# {section}\r\n")) && told.matches("# ").count() == 1, "{told}");
        for line in lines {
            assert!(told.lines().any(|told| told == line), "{line} is not in {told}");
        }
    }
    let two: String = ask(&mut client, "INFO keyspace cluster").await?;
    assert_eq!(two, "# Cluster\r\ncluster_enabled:1\r\n\r\n# Keyspace\r\ndb0:keys=2,expires=0,avg_ttl=0\r\n");
    Ok(())
}

#[tokio::test]
async fn config_get_tells_each_setting_once_that_any_of_several_patterns_names() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let flags = ["--max-memory", "64Mi", "--max-connections", "77", "--fsync", "Always"];
    let mut node = TestNode::alone(folder.path(), &flags)?;
    node.start_ready().await?;
    let told: HashMap<String, String> =
        ask(&mut client(&node).await?, "CONFIG GET maxclients APPEND* append* maxmemory nothing").await?;
    let expected = [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory", "67108864"), ("maxclients", "77")];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    // Each once: what a client reads as a map would hide it.
    let twice = "*2\r\n$10\r\nmaxclients\r\n$2\r\n77\r\n";
    Wire::to(&node).await?.ask("config get max*s maxclients\nconfig get nothing", &format!("{twice}*0\r\n")).await
}
