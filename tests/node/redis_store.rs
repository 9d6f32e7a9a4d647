//! The store in Redis on real servers, without a node around it: what the scripts keep, and what a person is told.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::id::ActorId;
use counter_core::table::{Table, TableLimits};
use counter_node::commit::RecordSource as _;
use counter_node::records::{Records, restore};
use counter_node::storage::{
    Change, Durability, Identity, Record, RedisConfig, RedisFailure, RedisStore, Store, StoreError, meta,
};
use counter_tests::redis::{APPEND_ONLY, TestRedis, servers};
use counter_tests::wait::until;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

const LIMITS: TableLimits =
    TableLimits { counters: 1_000_000, memory_bytes: u64::MAX, tokens: 1_000_000, token_window_ms: 600_000 };
const ACTORS: [ActorId; 3] = [
    ActorId { origin: 7, incarnation: 1 << 32 },
    ActorId { origin: 7, incarnation: 2 << 32 },
    ActorId { origin: 9, incarnation: 1 },
];

/// A place in a Redis, and the file that leads there.
struct Place {
    config: RedisConfig,
    _folder: TempDir,
}

fn place(url: &str, prefix: &str) -> anyhow::Result<Place> {
    let folder = tempfile::tempdir()?;
    let url_file = folder.path().join("url");
    std::fs::write(&url_file, url)?;
    Ok(Place { config: RedisConfig { url_file, prefix: prefix.to_owned(), node: "test-0-0".to_owned() }, _folder: folder })
}

fn open(config: &RedisConfig) -> Result<(Arc<dyn Store>, Arc<Table>), StoreError> {
    let table = Arc::new(Table::new(1, LIMITS));
    let store = RedisStore::open(config, &|loaded| restore(&table, loaded))?;
    Ok((Arc::new(store), table))
}

fn page(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

/// The current records of these changes, as the committer would have them.
fn records(store: &Arc<dyn Store>, table: &Arc<Table>, changes: &[Change]) -> Result<Vec<Record>, StoreError> {
    let identity = Arc::new(Identity::open(store.clone())?.0);
    let mut changes = changes.to_vec();
    changes.sort();
    changes.dedup();
    let mut into = Vec::new();
    Records { table: table.clone(), identity, protocol: Arc::new(OnceLock::new()) }.records(&changes, &mut into);
    Ok(into)
}

fn add(table: &Table, actor: ActorId, name: &str, by: u64) -> Change {
    let key = page(name);
    table.set_writer([key.slot()], Some(actor));
    table.apply(&key, Update::Increment(by), None, Hlc(by)).unwrap();
    Change::of(&key)
}

fn tally(table: &Table, name: &str) -> i128 {
    table.read(&page(name)).tally
}

fn refused(result: Result<impl Sized, StoreError>) -> RedisFailure {
    match result {
        Err(StoreError::Redis(failure)) => failure,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn a_record_that_is_written_never_lowers_what_is_there() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let (store, table) = open(&place.config)?;
        // Beyond what a double of Lua's keeps apart.
        let large = (1 << 53) + 1;
        let change = add(&table, ACTORS[0], "a", large);
        let early = records(&store, &table, std::slice::from_ref(&change))?;
        add(&table, ACTORS[0], "a", 1);
        add(&table, ACTORS[1], "a", 9);
        table.apply(&page("a"), Update::Reset, None, Hlc(1)).unwrap();
        add(&table, ACTORS[1], "a", 100);
        store.commit(&records(&store, &table, &[change])?, Durability::OnDisk)?;
        store.commit(&early, Durability::OnDisk)?;
        let (_, again) = open(&place.config)?;
        let slot = page("a").slot();
        assert_eq!(tally(&again, "a"), 100);
        assert_eq!(again.slot(slot).digest(), table.slot(slot).digest());
    }
    Ok(())
}

#[tokio::test]
async fn a_generation_comes_with_its_counters_and_what_is_forgotten_leaves_nothing() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let (store, table) = open(&place.config)?;
        let slot = page("{a}").slot();
        // So many in one slot that they take several calls.
        let names: Vec<String> = (0..9_000).map(|number| format!("{{a}}{number}")).collect();
        let changes: Vec<Change> = names.iter().map(|name| add(&table, ACTORS[0], name, 3)).collect();
        store.commit(&records(&store, &table, &changes)?, Durability::OnDisk)?;
        redis.ask(&["SCRIPT", "FLUSH"])?;
        for generation in 1..=2 {
            table.slot(slot).retire(&[ACTORS[generation - 1]]);
            add(&table, ACTORS[generation], &names[0], 1);
            store.commit(&records(&store, &table, &[Change::Slot(slot)])?, Durability::OnDisk)?;
        }
        let (store, again) = open(&place.config)?;
        assert_eq!((again.counters(), tally(&again, &names[0]), tally(&again, &names[8_999])), (9_000, 5, 3));
        assert_eq!(again.slot(slot).digest(), table.slot(slot).digest());
        let number = slot.number();
        assert_eq!(
            redis.keys("*")?,
            ["{test:test-0-0}:meta".to_owned(), format!("{{test:test-0-0}}:slot:{number}:2"), "{test:test-0-0}:slots".to_owned()]
        );
        let keys = again.clear(slot);
        let mut forgotten: Vec<Change> = keys.iter().map(Change::of).collect();
        forgotten.push(Change::Slot(slot));
        store.commit(&records(&store, &again, &forgotten)?, Durability::OnDisk)?;
        assert_eq!(redis.keys("*")?, ["{test:test-0-0}:meta"]);
        assert_eq!(open(&place.config)?.1.counters(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn whatever_befalls_slots_redis_gives_back_what_the_table_holds() -> anyhow::Result<()> {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let (mut store, mut table) = open(&place.config)?;
        let names = ["{a}1", "{a}2", "{b}1", "c"];
        for _ in 0..60 {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(1..6) {
                let (actor, name) = (ACTORS[random.random_range(0..3)], names[random.random_range(0..names.len())]);
                let slot = page(name).slot();
                let alive = !table.slot(slot).is_retired(actor);
                changes.push(Change::of(&page(name)));
                match random.random_range(0..10) {
                    0 => drop(table.slot(slot).retire(&[actor])),
                    1 => {
                        changes.extend(table.clear(slot).iter().map(Change::of));
                        changes.push(Change::Slot(slot));
                        // An actor that has forgotten a slot never writes there again, but these do.
                        break;
                    }
                    2 => changes.push(Change::Slot(slot)),
                    3 => drop(table.apply(&page(name), Update::Reset, None, Hlc(5))),
                    // So that all of them together stay within the range.
                    _ if alive => drop(add(&table, actor, name, random.random_range(1..1 << 54))),
                    _ => {}
                }
                // A generation is told as a change of the slot, as the protocol does.
                if table.slot(slot).generation().0 > 0 {
                    changes.push(Change::Slot(slot));
                }
            }
            store.commit(&records(&store, &table, &changes)?, Durability::OnDisk)?;
            let (reopened, again) = open(&place.config)?;
            for slot in names.map(|name| page(name).slot()) {
                assert_eq!(again.slot(slot).digest(), table.slot(slot).digest(), "seed {seed}: {slot:?}");
            }
            (store, table) = (reopened, again);
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_later_process_takes_the_records_and_the_earlier_writes_no_more() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let (earlier, table) = open(&place.config)?;
        let change = add(&table, ACTORS[0], "a", 1);
        let written = records(&earlier, &table, &[change])?;
        let (later, _) = open(&place.config)?;
        assert!(matches!(refused(earlier.commit(&written, Durability::OnDisk)), RedisFailure::Superseded));
        assert!(matches!(earlier.put_meta(&[(meta::CLEAN, Some(&[1]))]), Err(StoreError::Broken)));
        for _ in 0..2 {
            assert!(matches!(refused(earlier.reopen()), RedisFailure::Superseded));
        }
        later.check()?;
        later.commit(&written, Durability::OnDisk)?;
        let (third, _) = open(&place.config)?;
        assert!(matches!(refused(later.put_meta(&[(meta::CLEAN, None)])), RedisFailure::Superseded));
        third.check()?;
    }
    Ok(())
}

#[tokio::test]
async fn clusters_of_one_name_do_not_meet() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let places = [place(&redis.url(), "one")?, place(&redis.url(), "other")?];
        let opened = [open(&places[0].config)?, open(&places[1].config)?];
        for ((store, table), by) in opened.iter().zip([1, 2]) {
            let change = add(table, ACTORS[0], "a", by);
            store.commit(&records(store, table, &[change])?, Durability::OnDisk)?;
        }
        assert_eq!(tally(&open(&places[0].config)?.1, "a"), 1);
        assert_eq!(tally(&open(&places[1].config)?.1, "a"), 2);
    }
    Ok(())
}

#[tokio::test]
async fn an_emptied_redis_is_noticed_and_given_back_who_the_node_is() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let (store, table) = open(&place.config)?;
        let (identity, first) = Identity::open(store.clone())?;
        store.put_meta(&[(meta::LAYOUT, Some(b"a layout"))])?;
        redis.ask(&["FLUSHALL"])?;
        assert!(matches!(refused(store.check()), RedisFailure::Lost));
        assert!(matches!(store.sync(), Err(StoreError::Broken)), "so that everything is written again");
        store.reopen()?;
        assert_eq!(store.meta(meta::LAYOUT).as_deref(), Some(&b"a layout"[..]));
        let second = identity.renew()?;
        assert_eq!((second.origin, second.incarnation >> 32), (first.origin, (first.incarnation >> 32) + 1));
        redis.ask(&["FLUSHALL"])?;
        let change = add(&table, ACTORS[0], "a", 1);
        let record = Record { of: change.clone(), bytes: None };
        assert!(matches!(refused(store.commit(&[record], Durability::OnDisk)), RedisFailure::Lost));
        store.reopen()?;
        // Whoever starts now goes on from there; whoever starts on an emptied Redis is somebody new.
        let third = Identity::open(open(&place.config)?.0)?.1;
        assert_eq!((third.origin, third.incarnation >> 32), (first.origin, (first.incarnation >> 32) + 2));
        redis.ask(&["FLUSHALL"])?;
        assert_ne!(Identity::open(open(&place.config)?.0)?.1.origin, first.origin);
    }
    Ok(())
}

/// Answers everything as a server of HTTP does.
fn no_redis() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("redis://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    Ok(url)
}

#[tokio::test]
async fn what_is_wrong_is_said_in_words_and_without_the_password() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &["--requirepass", "sesame"]).await?;
        let closed = format!("redis://:hidden@127.0.0.1:{}", counter_tests::ports::free()?);
        for (url, expected) in [
            (redis.url_with("hidden"), "user and password"),
            (redis.url(), "user and password"),
            (redis.url_with("hidden").replace("://", "://nobody"), "user and password"),
            (no_redis()?, "no Redis"),
            (closed, "cannot connect"),
            ("http://:hidden@127.0.0.1".to_owned(), "expected redis://"),
            ("hidden".to_owned(), "expected redis://"),
            (String::new(), "expected redis://"),
        ] {
            let place = place(&url, "test")?;
            let failure = refused(open(&place.config));
            let said = format!("{failure} {failure:?}");
            assert!(said.contains(expected) && !said.contains("hidden"), "{said}");
            assert!(!failure.is_data_error());
        }
        let missing = RedisConfig { url_file: PathBuf::from("/nowhere"), prefix: "test".to_owned(), node: "a".to_owned() };
        assert!(refused(open(&missing)).to_string().contains("/nowhere"));
        assert!(open(&place(&redis.url_with("sesame"), "test")?.config).is_ok());
    }
    Ok(())
}

#[tokio::test]
async fn a_redis_cluster_that_lacks_the_keys_is_refused_in_words() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let start = async |name: &str| {
            let (home, port) = (folder.path().join(name), counter_tests::ports::free()?.to_string());
            let flags = ["--cluster-enabled", "yes", "--cluster-port", &port];
            let redis = TestRedis::start(&server, &home, &flags).await?;
            anyhow::Ok((redis, port))
        };
        let ((without, _), (with, bus)) = (start("without").await?, start("with").await?);
        let (place, other) = (place(&without.url(), "test")?, place(&with.url(), "test")?);
        let is_refused = |result: Result<(), StoreError>| {
            let failure = refused(result);
            assert!(matches!(failure, RedisFailure::Elsewhere) && !failure.is_data_error(), "{failure}");
            assert!(failure.to_string().contains("storage wants a single Redis"), "{failure}");
        };
        // Nobody has the slots; then somebody else has.
        is_refused(open(&place.config).map(drop));
        with.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])?;
        without.ask(&["CLUSTER", "MEET", "127.0.0.1", &with.port().to_string(), &bus])?;
        until("they know each other", async || {
            let answer = format!("{:?}", without.ask(&["GET", "a"]).err().context("it answers")?);
            anyhow::ensure!(answer.to_lowercase().contains("moved"), "{answer}");
            Ok(())
        })
        .await?;
        is_refused(open(&place.config).map(drop));
        // Whoever has them all takes records, until the slot moves away.
        until("the slots are served", async || with.ask(&["GET", "a"]).map(drop)).await?;
        let (store, table) = open(&other.config)?;
        let change = add(&table, ACTORS[0], "a", 1);
        let written = records(&store, &table, &[change])?;
        store.commit(&written, Durability::OnDisk)?;
        let text = |value| redis::from_redis_value::<String>(value).map_err(anyhow::Error::from);
        let number: u16 = redis::from_redis_value(with.ask(&["CLUSTER", "KEYSLOT", "{test:test-0-0}"])?)?;
        let its_id = text(without.ask(&["CLUSTER", "MYID"])?)?;
        with.ask(&["FLUSHALL"])?;
        with.ask(&["CLUSTER", "SETSLOT", &number.to_string(), "NODE", &its_id])?;
        is_refused(store.commit(&written, Durability::OnDisk));
        is_refused(store.reopen());
    }
    Ok(())
}

#[tokio::test]
async fn records_that_no_node_has_written_are_refused_and_left() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &[]).await?;
        let place = place(&redis.url(), "test")?;
        let name = |rest: &str| format!("{{test:test-0-0}}:{rest}");
        for (words, expected) in [
            (["HSET", "meta", "format", "3"], "have format 3, and this release knows formats up to 2"),
            (["HSET", "meta", "format", "1"], "have format 1, and this release reads format 2 only"),
            (["HSET", "meta", "format", "x"], "`format` is no number"),
            (["HSET", "meta", "holder", "somebody"], "`holder` names no process"),
            (["HSET", "slots", "99999", "1 x"], "`99999` is no slot"),
            (["HSET", "slots", "5", "1 x"], "no slot's record"),
            (["HSET", "slot:5:0", "ca", "x"], "no map of numbers"),
            (["HSET", "slot:5:0", "ca", "\u{1}"], "no map of numbers"),
            (["HSET", "slot:5:0", "xa", "x"], "unknown kind"),
            (["HSET", "slot:5:0", "ca", ""], "no map of numbers"),
            (["LPUSH", "meta", "a", "b"], "another type"),
            (["LPUSH", "slots", "a", "b"], "another type"),
            (["LPUSH", "slot:5:0", "a", "b"], "another type"),
        ] {
            redis.ask(&["FLUSHALL"])?;
            redis.ask(&[words[0], &name(words[1]), words[2], words[3]])?;
            let failure = refused(open(&place.config));
            assert!(failure.to_string().contains(expected) && failure.is_data_error(), "{words:?}: {failure}");
            assert_eq!(redis.keys(&name(words[1]))?.len(), 1);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_full_redis_and_a_replica_refuse_without_harm() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let redis = TestRedis::start(&server, folder.path(), &APPEND_ONLY).await?;
        let place = place(&redis.url(), "test")?;
        let (store, table) = open(&place.config)?;
        let change = add(&table, ACTORS[0], "a", 1);
        let written = records(&store, &table, &[change])?;
        store.commit(&written, Durability::OnDisk)?;
        for (begin, end, expected) in [
            (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "is full"),
            (["CONFIG", "SET", "min-replicas-to-write", "3"], ["CONFIG", "SET", "min-replicas-to-write", "0"], "NOREPLICAS"),
        ] {
            redis.ask(&begin)?;
            let failure = refused(store.commit(&written, Durability::OnDisk));
            assert!(failure.to_string().contains(expected), "{failure}");
            assert!(refused(store.reopen()).to_string().contains(expected));
            redis.ask(&end)?;
            store.reopen()?;
        }
        redis.ask(&["REPLICAOF", "127.0.0.1", "1"])?;
        assert!(matches!(refused(store.commit(&written, Durability::OnDisk)), RedisFailure::ReadOnly));
        assert!(matches!(refused(store.reopen()), RedisFailure::ReadOnly));
        redis.ask(&["REPLICAOF", "NO", "ONE"])?;
        store.reopen()?;
        store.commit(&written, Durability::OnDisk)?;
        assert_eq!(tally(&open(&place.config)?.1, "a"), 1);
    }
    Ok(())
}

#[tokio::test]
async fn another_url_is_noticed_and_one_that_cannot_be_used_is_not() -> anyhow::Result<()> {
    for server in servers() {
        let folder = tempfile::tempdir()?;
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let redis = [TestRedis::start(&server, &one, &[]).await?, TestRedis::start(&server, &other, &[]).await?];
        let place = place(&redis[0].url(), "test")?;
        let (store, _) = open(&place.config)?;
        let write = |text: &str| std::fs::write(&place.config.url_file as &Path, text);
        for unusable in ["", "nonsense"] {
            write(unusable)?;
            store.check()?;
        }
        std::fs::remove_file(&place.config.url_file)?;
        store.check()?;
        write(&format!("{}\n", redis[1].url()))?;
        assert!(matches!(refused(store.check()), RedisFailure::UrlChanged));
        store.reopen()?;
        store.check()?;
        assert_eq!(redis[1].keys("*")?, ["{test:test-0-0}:meta"]);
    }
    Ok(())
}
