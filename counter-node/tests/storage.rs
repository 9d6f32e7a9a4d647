//! The storage on real files, and on real accidents: `kill -9`, a second process, a full disk.
//!
//! Each accident needs a process of its own. It is this test binary again, told by an environment variable to run one of
//! the `child_…` tests, which do nothing otherwise.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::ActorId;
use counter_core::slot::Slot;
use counter_node::commit::{CommitConfig, CommitError, Committer, RecordSource};
use counter_node::storage::{Change, Fsync, Identity, Loaded, Record, Store, StoreConfig, StoreError, open as open_store};

const FOLDER: &str = "COUNTER_TEST_FOLDER";
const FSYNC: &str = "COUNTER_TEST_FSYNC";
const PAGES: usize = 64;

/// A table of [`PAGES`] numbers that only go up.
struct Numbers {
    values: Vec<AtomicU64>,
    identity: Option<Identity>,
    actors: Mutex<Vec<ActorId>>,
}

impl Numbers {
    fn new(identity: Option<(Identity, ActorId)>) -> Self {
        let (identity, actor) = identity.unzip();
        Self { values: (0..PAGES).map(|_| AtomicU64::new(0)).collect(), identity, actors: Mutex::new(Vec::from_iter(actor)) }
    }

    fn increment(&self, page: usize) -> u64 {
        self.values[page].fetch_add(1, Ordering::SeqCst) + 1
    }

    fn record(&self, page: usize) -> Record {
        let value = self.values[page].load(Ordering::SeqCst);
        Record { of: Change::of(&key(page)), bytes: Some(value.to_le_bytes().to_vec()) }
    }
}

impl RecordSource for Numbers {
    fn records(&self, changes: &[Change], into: &mut Vec<Record>) {
        for change in changes {
            match change {
                Change::Counter { key, .. } => into.push(self.record(page(key.as_bytes()))),
                Change::Floor(_) | Change::Token { .. } => unreachable!("not in these tests"),
                Change::Slot(slot) => {
                    into.extend((0..PAGES).filter(|page| key(*page).slot() == *slot).map(|page| self.record(page)));
                }
            }
        }
    }

    fn forgo(&self, _: Slot) {}

    fn reopened(&self) -> Result<(), StoreError> {
        let actor = self.identity.as_ref().unwrap().renew()?;
        self.actors.lock().unwrap().push(actor);
        Ok(())
    }
}

fn key(page: usize) -> Key {
    Key::new(format!("page-{page}").as_bytes()).unwrap()
}

fn page(key: &[u8]) -> usize {
    std::str::from_utf8(key).unwrap().strip_prefix("page-").unwrap().parse().unwrap()
}

/// A store, and the number of each page in it.
type Opened = (Arc<dyn Store>, BTreeMap<usize, u64>);

fn open(folder: &Path) -> Result<Opened, StoreError> {
    let held = Mutex::new(BTreeMap::new());
    let store = open_store(&StoreConfig::Volume(folder.to_path_buf()), &|loaded| {
        let Loaded::Counter { key, bytes, .. } = loaded else { return Ok(()) };
        let bytes = bytes.try_into().map_err(|_| "not eight bytes".to_owned())?;
        held.lock().unwrap().insert(page(key), u64::from_le_bytes(bytes));
        Ok(())
    })?;
    Ok((store, held.into_inner().unwrap()))
}

/// The folder that this process is to work in, if it is a child.
fn told_folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs one of the children below, and reads what it says.
fn start_child(name: &str, folder: &Path, fsync: &str) -> (Child, impl Iterator<Item = String> + use<>) {
    // `trap ''`: a write beyond the file size limit then fails as one to a full disk does, instead of killing the child.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(FSYNC, fsync)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    (child, lines.filter_map(|line| line.split_once("child: ").map(|(_, said)| said.to_owned())))
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "child: {what}").unwrap();
    out.flush().unwrap();
}

fn on_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test)
}

fn told_fsync() -> Fsync {
    match std::env::var(FSYNC).unwrap().as_str() {
        "Always" => Fsync::Always,
        "Never" => Fsync::Never,
        _ => Fsync::EverySecond,
    }
}

/// Counts on many tasks for as long as it lives, and says what was acknowledged.
#[test]
fn child_counts_for_ever() {
    let Some(folder) = told_folder() else { return };
    on_runtime(async {
        let (store, _) = open(&folder).unwrap();
        let (identity, actor) = Identity::open(store.clone()).unwrap();
        say(&format!("actor {actor}"));
        let numbers = Arc::new(Numbers::new(Some((identity, actor))));
        let config = CommitConfig::new(told_fsync());
        let committer = Arc::new(Committer::start(store, numbers.clone(), config).unwrap());
        let clients: Vec<_> = (0..PAGES)
            .map(|page| {
                let (numbers, committer) = (numbers.clone(), committer.clone());
                tokio::spawn(async move {
                    loop {
                        let permit = committer.admit(1).unwrap();
                        let value = numbers.increment(page);
                        permit.submit([Change::of(&key(page))]).await.unwrap();
                        say(&format!("acked {page} {value}"));
                        // As one that waits for its client's next request.
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        futures::future::join_all(clients).await;
    });
}

#[test]
fn kill_minus_nine_loses_nothing_that_was_acknowledged() {
    for fsync in ["Always", "EverySecond", "Never"] {
        let folder = tempfile::tempdir().unwrap();
        let mut actors = Vec::new();
        for round in 1..=3 {
            let (mut child, mut said) = start_child("child_counts_for_ever", folder.path(), fsync);
            let first = said.next().unwrap();
            actors.push(first.strip_prefix("actor ").unwrap().parse::<ActorId>().unwrap());
            let mut acked = BTreeMap::new();
            let mut note = |line: String| {
                let numbers = line.strip_prefix("acked ").and_then(|rest| rest.split_once(' '));
                // The last line may be cut.
                if let Some((Ok(page), Ok(value))) = numbers.map(|(page, value)| (page.parse::<usize>(), value.parse::<u64>())) {
                    acked.insert(page, value);
                }
            };
            said.by_ref().take(1000 * round).for_each(&mut note);
            child.kill().unwrap();
            child.wait().unwrap();
            said.for_each(note);
            let (store, held) = open(folder.path()).unwrap();
            store.close().unwrap();
            assert!(acked.len() > PAGES / 2);
            for (page, value) in acked {
                assert!(held[&page] >= value, "{fsync}: {value} of page {page} was acknowledged, {} is held", held[&page]);
            }
        }
        let starts: Vec<_> = actors.iter().map(|actor| actor.incarnation >> 32).collect();
        assert_eq!(starts, [1, 2, 3]);
        assert!(actors.iter().all(|actor| actor.origin == actors[0].origin));
    }
}

#[test]
fn a_second_process_is_told_that_the_folder_is_in_use_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (mut child, mut said) = start_child("child_counts_for_ever", folder.path(), "EverySecond");
    assert!(said.next().unwrap().starts_with("actor"));
    let error = open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    assert!(error.to_string().ends_with("is in use by another process"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(folder.path()).unwrap();
}

/// Counts until the disk is full, then has space made, and says what became of it all.
#[test]
fn child_fills_the_disk() {
    let Some(folder) = told_folder() else { return };
    on_runtime(fill_the_disk(&folder));
}

async fn fill_the_disk(folder: &Path) {
    let (store, _) = open(folder).unwrap();
    let (identity, actor) = Identity::open(store.clone()).unwrap();
    let numbers = Arc::new(Numbers::new(Some((identity, actor))));
    let mut config = CommitConfig::new(told_fsync());
    (config.retry_min, config.retry_max) = (Duration::from_millis(50), Duration::from_millis(100));
    let committer = Committer::start(store.clone(), numbers.clone(), config).unwrap();
    let update = async |page: usize| {
        let permit = committer.admit(1)?;
        let value = numbers.increment(page);
        permit.submit([Change::of(&key(page))]).await.map(|()| value)
    };
    limit_file_size(Some(96 << 10));
    let mut acked = BTreeMap::new();
    let mut pages = (0..PAGES).cycle();
    let mut first_failure = None;
    // Until there is no spare segment left that a reopened store could go on in.
    while committer.counts().failures.load(Ordering::Relaxed) < 8 {
        let page = pages.next().unwrap();
        match update(page).await {
            Ok(value) => drop(acked.insert(page, value)),
            Err(CommitError::NotWritable) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => drop(first_failure.get_or_insert(error)),
        }
    }
    let failure = first_failure.unwrap();
    assert!(matches!(failure, CommitError::Storage(_)), "{failure:?}");
    assert!(acked.values().sum::<u64>() > 500, "the disk was full at once");
    say(&format!("full: {:?}", failure));
    assert!(matches!(update(0).await, Err(CommitError::NotWritable)));
    assert!(store.meta("origin").is_some(), "what is known is known while nothing can be written");

    // Several attempts to reopen fail meanwhile, and make nothing worse.
    while committer.counts().failures.load(Ordering::Relaxed) < 10 {
        assert!(!*committer.writable().borrow());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    limit_file_size(None);
    committer.writable().wait_for(|writable| *writable).await.unwrap();
    for page in 0..PAGES {
        acked.insert(page, update(page).await.unwrap());
    }
    let actors = numbers.actors.lock().unwrap().clone();
    assert!(actors.len() >= 2 && actors.is_sorted(), "a new actor after the failure: {actors:?}");
    let acked: Vec<_> = acked.iter().map(|(page, value)| format!("{page}={value}")).collect();
    say(&format!("acked: {}", acked.join(" ")));
    // No clean end: the parent kills it.
    std::future::pending::<()>().await;
}

fn limit_file_size(bytes: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).unwrap();
}

#[test]
fn a_full_disk_stops_updates_and_space_brings_them_back_in_the_same_process() {
    for fsync in ["Always", "EverySecond", "Never"] {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, mut said) = start_child("child_fills_the_disk", folder.path(), fsync);
        let full = said.next().unwrap_or_default();
        assert!(full.contains("FileTooLarge"), "{fsync}: {full}");
        let acked = said.next().expect("the child did not recover");
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, held) = open(folder.path()).unwrap();
        for pair in acked.strip_prefix("acked: ").unwrap().split(' ') {
            let (page, value) = pair.split_once('=').unwrap();
            let value: u64 = value.parse().unwrap();
            assert_eq!(held[&page.parse().unwrap()], value, "{fsync}: page {page}");
        }
    }
}

#[test]
fn after_a_torn_tail_no_actor_comes_back_and_nothing_counted_later_vanishes() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("store/log/0000000001.log");
    let mut actors = Vec::new();
    let mut last = 0;
    for round in 1..=5_u64 {
        let (store, held) = open(folder.path()).unwrap();
        let value = held.get(&0).copied().unwrap_or(0);
        assert!(value >= last, "{value} is left of {last}");
        let (_, actor) = Identity::open(store.clone()).unwrap();
        actors.push(actor);
        let record = |value: u64| Record { of: Change::of(&key(0)), bytes: Some(value.to_le_bytes().to_vec()) };
        store.commit(&[record(100 * round)], Fsync::Always.durability()).unwrap();
        store.commit(&[record(100 * round + 1)], Fsync::Never.durability()).unwrap();
        store.close().unwrap();
        // Within the last commit, which alone is lost.
        let mut bytes = std::fs::read(&log).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        bytes[end - 5..].fill(0);
        std::fs::write(&log, bytes).unwrap();
        last = 100 * round;
    }
    let mut distinct = actors.clone();
    distinct.dedup();
    assert_eq!((distinct.len(), actors.is_sorted()), (5, true), "{actors:?}");
}
