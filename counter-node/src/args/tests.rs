use super::*;

fn read(flags: &str) -> Result<Command, UsageError> {
    Command::read(std::iter::once("counter-node").chain(flags.split_whitespace()).map(OsString::from))
}

fn config(flags: &str) -> Config {
    match read(flags).unwrap() {
        Command::Run(config) => *config,
        Command::Openapi => panic!("expected a node"),
    }
}

fn refusal(flags: &str) -> String {
    match read(flags) {
        Err(UsageError::Wrong(message)) => message,
        other => panic!("{flags}: expected a refusal, got {other:?}"),
    }
}

#[test]
fn without_flags_it_is_a_cluster_of_its_own_on_loopback() {
    let config = config("");
    assert_eq!(config.name, None);
    assert_eq!(config.store, StoreConfig::Volume(PathBuf::from("./counter-data")));
    let ports = [config.http, config.admin, config.peer].map(|address| address.to_string());
    assert_eq!(ports, ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082"]);
    assert_eq!((config.fsync, config.acks), (Fsync::EverySecond, Acks::Local));
    assert_eq!((config.table.counters, config.table.memory_bytes), (10_000_000, u64::MAX));
    assert_eq!((config.body_bytes_max, config.connections_max), (1 << 20, 16_384));
    assert_eq!(config.shutdown_grace, Duration::from_secs(25));
}

#[test]
fn the_argv_of_a_pod_is_read() {
    let config = config(
        "--name page-views-0-1 --seeds page-views-0-0.page-views-nodes.default.svc:8082,b:8082 --storage memory --fsync Always \
         --acks Quorum --data /var/lib/counter --cluster-token-file /etc/counter/token/token --bind 0.0.0.0 --max-memory 2Gi",
    );
    assert_eq!(config.name, Some(NodeName::from("page-views-0-1")));
    assert_eq!(config.seeds, ["page-views-0-0.page-views-nodes.default.svc:8082", "b:8082"]);
    assert_eq!((config.store, config.fsync, config.acks), (StoreConfig::Memory, Fsync::Always, Acks::Quorum));
    assert_eq!(config.peer.to_string(), "0.0.0.0:8082");
    assert_eq!(config.table.memory_bytes, 2 << 30);
}

#[test]
fn a_node_that_keeps_its_counters_in_redis_knows_its_place_there() {
    let place = |flags: &str| match config(flags).store {
        StoreConfig::Redis(RedisConfig { url_file, prefix, node }) => (url_file.display().to_string(), prefix, node),
        other => panic!("{other:?}"),
    };
    let in_redis = "--storage redis --redis-url-file /etc/counter/redis/url";
    let owned = |place: [&str; 3]| place.map(str::to_owned).into();
    assert_eq!(place(in_redis), owned(["/etc/counter/redis/url", "counter", "local"]));
    assert_eq!(
        place(&format!("{in_redis} --name a-0-1 --redis-prefix c0de")),
        owned(["/etc/counter/redis/url", "c0de", "a-0-1"])
    );
    assert_eq!(config(&format!("{in_redis} --fsync Never")).fsync, Fsync::Always, "it waits for a network, so on a thread");
}

#[test]
fn an_address_of_its_own_goes_before_bind() {
    let config = config("--bind 127.0.0.2 --http 0.0.0.0:80 --admin 81 --peer [::1]:82");
    let ports = [config.http, config.admin, config.peer].map(|address| address.to_string());
    assert_eq!(ports, ["0.0.0.0:80", "127.0.0.2:81", "[::1]:82"]);
}

#[test]
fn a_wrong_flag_is_explained_in_one_line_that_names_it() {
    for (flags, named) in [
        ("--bogus", "--bogus"),
        ("--http x", "expected a port or ADDRESS:PORT"),
        ("--http 70000", "--http"),
        ("--fsync sometimes", "EverySecond"),
        ("--max-memory 5GB", "64Ki"),
        ("--max-memory 0", "more than nothing"),
        ("--max-body 99999999999Gi", "--max-body"),
        ("--max-counters 0", "--max-counters"),
        ("--max-connections -1", "-1"),
        ("--seeds nowhere", "expected HOST:PORT"),
        ("extra", "extra"),
    ] {
        let message = refusal(flags);
        assert!(message.contains(named), "{flags}: {message}");
        assert!(!message.contains('\n'), "{flags}: {message}");
    }
}

#[test]
fn flags_that_do_not_fit_each_other_are_refused() {
    for (flags, message) in [
        ("--seeds a:1", "--seeds needs --name: a node without a name is a cluster of its own"),
        ("--name Page", "--name `Page` is no node name: expected CLUSTER-SHARD-REPLICA, as page-views-0-1"),
        ("--name=-0-1", "--name `-0-1` is no node name"),
        ("--bind 0.0.0.0", "--admin 0.0.0.0:8081 is not a loopback address, which needs --cluster-token-file"),
        ("--peer 10.0.0.1:1", "--peer 10.0.0.1:1 is not a loopback address, which needs --cluster-token-file"),
        ("--storage redis", "--storage redis needs --redis-url-file"),
        ("--redis-url-file f", "--redis-url-file needs --storage redis"),
        ("--storage redis --redis-url-file f --name a-0-1", "--storage redis needs --redis-prefix, the cluster's id"),
        ("--storage redis --redis-url-file f --redis-prefix {a}", "expected 1 to 63 letters"),
        ("--http 9000 --peer 9000", "--http and --peer are both 127.0.0.1:9000"),
    ] {
        let refused = refusal(flags);
        assert!(refused.contains(message), "{flags}: {refused}");
    }
    config("--bind 0.0.0.0 --cluster-token-file t");
    config("--http 0.0.0.0:80");
    config("--http 0 --admin 0 --peer 0");
}

#[test]
fn help_and_the_openapi_document_are_no_mistakes() {
    let Err(UsageError::Information(help)) = read("--help") else { panic!("--help was taken for a mistake") };
    for taught in ["front-page/counter", "COUNTER_HTTP", "openapi", "Exit codes"] {
        assert!(help.contains(taught), "{taught} is not in\n{help}");
    }
    assert!(matches!(read("--version"), Err(UsageError::Information(_))));
    assert_eq!(read("openapi").unwrap(), Command::Openapi);
}
