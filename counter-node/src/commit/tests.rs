use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Instant;

use counter_core::counter::Key;
use counter_core::slot::{SLOTS, Slot};
use futures::FutureExt as _;
use futures::future::join_all;
use proptest::prelude::*;

use super::*;
use crate::storage::{Durability, MemoryStore};

const BOTH: [Fsync; 2] = [Fsync::EverySecond, Fsync::Always];

/// A store that breaks when told to, and says what it was asked.
#[derive(Default)]
struct TestStore {
    held: Mutex<BTreeMap<Change, u64>>,
    commits: Mutex<Vec<Vec<Change>>>,
    /// Commits fail while this is set, and break the store.
    full: AtomicBool,
    /// The next sync fails, and breaks the store.
    sync_fails: AtomicBool,
    broken: AtomicBool,
    delay_us: AtomicU64,
    syncs: AtomicUsize,
    checks: watch::Sender<usize>,
    begun: watch::Sender<usize>,
    /// Commits may take long, and end when they can have the answer.
    far_away: AtomicBool,
    answer: tokio::sync::Mutex<()>,
}

impl TestStore {
    fn break_now(&self) -> Result<(), StoreError> {
        self.broken.store(true, Ordering::SeqCst);
        Err(StoreError::Engine("no space left".to_owned()))
    }

    fn value(&self, key: &Key) -> Option<u64> {
        self.held.lock().unwrap().get(&Change::of(key)).copied()
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.broken.load(Ordering::SeqCst) { Err(StoreError::Broken) } else { Ok(()) }
    }
}

impl Store for TestStore {
    fn commit(&self, records: &[Record], _: Durability) -> Result<(), StoreError> {
        self.begun.send_modify(|begun| *begun += 1);
        if self.far_away.load(Ordering::SeqCst) {
            drop(self.answer.blocking_lock());
        }
        std::thread::sleep(Duration::from_micros(self.delay_us.load(Ordering::Relaxed)));
        self.usable()?;
        if self.full.load(Ordering::SeqCst) {
            return self.break_now();
        }
        self.commits.lock().unwrap().push(records.iter().map(|record| record.of.clone()).collect());
        for record in records {
            let bytes = record.bytes.clone().unwrap();
            self.held.lock().unwrap().insert(record.of.clone(), u64::from_le_bytes(bytes.try_into().unwrap()));
        }
        Ok(())
    }

    fn meta(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn put_meta(&self, _: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.sync_fails.swap(false, Ordering::SeqCst) { self.break_now() } else { Ok(()) }
    }

    fn check(&self) -> Result<(), StoreError> {
        self.checks.send_modify(|checks| *checks += 1);
        self.usable()
    }

    fn may_wait(&self, _: &[Record]) -> bool {
        self.far_away.load(Ordering::SeqCst)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return self.break_now();
        }
        self.broken.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Counters that only go up, and note what they were asked.
#[derive(Default)]
struct TestTable {
    counters: Mutex<HashMap<Key, u64>>,
    asked: Mutex<Vec<Vec<Change>>>,
    reopened: AtomicUsize,
    /// The next records are not told.
    panics: AtomicBool,
    /// A slot whose own record comes with the next records, unasked.
    unasked: Mutex<Option<Slot>>,
    forgone: Mutex<Vec<Slot>>,
}

impl TestTable {
    fn increment(&self, key: &Key) -> u64 {
        let mut counters = self.counters.lock().unwrap();
        let value = counters.entry(key.clone()).or_default();
        *value += 1;
        *value
    }
}

impl RecordSource for TestTable {
    fn records(&self, changes: &[Change], into: &mut Vec<Record>) {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "told to");
        assert!(changes.is_sorted_by(|one, other| one < other), "sorted and each once");
        self.asked.lock().unwrap().push(changes.to_vec());
        if let Some(slot) = self.unasked.lock().unwrap().take() {
            into.push(Record { of: Change::Slot(slot), bytes: Some(vec![0; 8]) });
        }
        let counters = self.counters.lock().unwrap();
        let record = |key: &Key| Record { of: Change::of(key), bytes: Some(counters[key].to_le_bytes().to_vec()) };
        for change in changes {
            match change {
                Change::Counter { key, .. } => into.push(record(key)),
                Change::Floor(_) | Change::Token { .. } => unreachable!("not in these tests"),
                Change::Slot(slot) => into.extend(counters.keys().filter(|key| key.slot() == *slot).map(record)),
            }
        }
    }

    fn forgo(&self, slot: Slot) {
        self.forgone.lock().unwrap().push(slot);
    }

    fn reopened(&self) -> Result<(), StoreError> {
        self.reopened.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

struct Fixture {
    store: Arc<TestStore>,
    table: Arc<TestTable>,
    committer: Committer,
}

/// With commits to the kernel all of which are quick, however long this machine takes for them.
fn start(fsync: Fsync) -> Fixture {
    start_with(CommitConfig { quick: Duration::MAX, ..config(fsync) })
}

fn config(fsync: Fsync) -> CommitConfig {
    CommitConfig { retry_min: Duration::from_millis(5), retry_max: Duration::from_millis(20), ..CommitConfig::new(fsync) }
}

fn start_with(config: CommitConfig) -> Fixture {
    let (store, table) = (Arc::new(TestStore::default()), Arc::new(TestTable::default()));
    let committer = Committer::start(store.clone(), table.clone(), config).unwrap();
    Fixture { store, table, committer }
}

impl Fixture {
    fn submit(&self, key: &Key) -> Result<(u64, Ticket), CommitError> {
        let permit = self.committer.admit(1)?;
        let value = self.table.increment(key);
        Ok((value, permit.submit([Change::of(key)])))
    }

    async fn update(&self, key: &Key) -> Result<u64, CommitError> {
        let (value, ticket) = self.submit(key)?;
        ticket.await.map(|()| value)
    }

    /// Waits until the writer sleeps, so that whoever submits next has its turn; where commits are to the kernel, and quick.
    async fn until_turns_are_free(&self) {
        for _ in 0..100_000 {
            if self.submit(&key("at rest")).unwrap().1.now_or_never().is_some() {
                return self.store.commits.lock().unwrap().clear();
            }
            tokio::task::yield_now().await;
        }
        panic!("the writer never sleeps");
    }

    async fn until_writable(&self, writable: bool) {
        self.committer.writable().wait_for(|now| *now == writable).await.unwrap();
    }
}

fn key(name: impl ToString) -> Key {
    Key::new(name.to_string().as_bytes()).unwrap()
}

fn on_runtime(test: impl AsyncFn()) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test());
}

#[test]
fn an_acknowledged_update_is_in_the_store() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start(fsync);
            for count in 1..=50 {
                assert_eq!(fixture.update(&key("page")).await.unwrap(), count);
                assert_eq!(fixture.store.value(&key("page")), Some(count));
            }
            assert_eq!(fixture.committer.waiting(), 0);
        }
    });
}

#[test]
fn updates_that_wait_together_share_one_record() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start_with(CommitConfig { quick: Duration::from_millis(10), ..config(fsync) });
            fixture.store.delay_us.store(20_000, Ordering::Relaxed);
            let updates: Vec<_> = (0..300).map(|number| key(number % 3)).collect();
            join_all(updates.iter().map(|key| fixture.update(key))).await.into_iter().for_each(|done| assert!(done.is_ok()));
            let commits = fixture.store.commits.lock().unwrap();
            assert!(commits.len() <= 3 && commits.iter().all(|commit| commit.len() <= 3), "{commits:?}");
            let counts = fixture.committer.counts();
            assert_eq!(counts.changes.load(Ordering::Relaxed), 300);
            assert_eq!(counts.records.load(Ordering::Relaxed), commits.iter().flatten().count() as u64);
        }
    });
}

#[test]
fn a_commit_that_takes_long_holds_up_nobody_else_on_the_runtime() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Arc::new(start(Fsync::EverySecond));
        fixture.until_turns_are_free().await;
        let slot = Slot::new(77).unwrap();
        *fixture.table.unasked.lock().unwrap() = Some(slot);
        let before = *fixture.store.begun.borrow();
        fixture.store.far_away.store(true, Ordering::SeqCst);
        let answer = fixture.store.answer.lock().await;
        let updating = fixture.clone();
        let update = tokio::spawn(async move { updating.update(&key("page")).await });
        fixture.store.begun.subscribe().wait_for(|begun| *begun > before).await.unwrap();
        let other = tokio::time::timeout(Duration::from_secs(20), tokio::spawn(async { 7 })).await;
        assert_eq!(other.expect("the only worker is held up").unwrap(), 7);
        drop(answer);
        assert_eq!(update.await.unwrap().unwrap(), 1);
        assert!(fixture.table.asked.lock().unwrap().last().unwrap().contains(&Change::Slot(slot)), "its record came unasked");
        assert_eq!(fixture.committer.waiting(), 0);
    });
}

#[test]
fn while_the_writer_sleeps_a_quick_commit_is_made_by_whoever_submits_it() {
    on_runtime(async || {
        let fixture = start(Fsync::EverySecond);
        fixture.until_turns_are_free().await;
        let keys = ["a", "b", "a"].map(key);
        let permit = fixture.committer.admit(3).unwrap();
        for key in &keys {
            fixture.table.increment(key);
        }
        assert!(matches!(permit.submit(keys.iter().map(Change::of)).now_or_never(), Some(Ok(()))));
        assert_eq!(["a", "b"].map(|name| fixture.store.value(&key(name))), [Some(2), Some(1)]);
        assert_eq!(fixture.store.commits.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [2], "once each, together");
        assert_eq!(fixture.committer.waiting(), 0);
        fixture.committer.close().await.unwrap();
        assert!(matches!(fixture.committer.admit(1), Err(CommitError::Stopped)));
    });
}

#[test]
fn whoever_submits_again_and_again_lets_others_have_their_turn() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fixture = Arc::new(start(Fsync::EverySecond));
        fixture.until_turns_are_free().await;
        let others = Arc::new(AtomicBool::new(false));
        let (submitting, had_turn) = (fixture.clone(), others.clone());
        let busy = tokio::spawn(async move {
            let is_waiting = |_: &u32| !had_turn.load(Ordering::Relaxed);
            let mut rounds = (0..100_000).take_while(is_waiting);
            while rounds.next().is_some() {
                submitting.update(&key("page")).await.unwrap();
            }
            had_turn.load(Ordering::Relaxed)
        });
        tokio::spawn(async move { others.store(true, Ordering::Relaxed) }).await.unwrap();
        assert!(busy.await.unwrap(), "nobody else had a turn in 100,000 updates");
    });
}

#[test]
fn slow_commits_are_the_writers_and_shared() {
    on_runtime(async || {
        let fixture = start_with(CommitConfig { quick: Duration::from_millis(10), ..config(Fsync::EverySecond) });
        fixture.until_turns_are_free().await;
        fixture.store.delay_us.store(20_000, Ordering::Relaxed);
        let updates: Vec<_> = (0..300).map(|number| key(number % 3)).collect();
        join_all(updates.iter().map(|key| fixture.update(key))).await.into_iter().for_each(|done| assert!(done.is_ok()));
        let commits = fixture.store.commits.lock().unwrap().len();
        assert!(commits <= 4, "{commits}: one shows that they are slow");
    });
}

#[test]
fn what_submitters_bring_while_another_one_writes_is_written_next() {
    on_runtime(async || {
        let fixture = Arc::new(start(Fsync::EverySecond));
        fixture.until_turns_are_free().await;
        let before = *fixture.store.begun.borrow();
        fixture.store.delay_us.store(50_000, Ordering::Relaxed);
        let first = tokio::task::spawn_blocking({
            let fixture = fixture.clone();
            move || fixture.submit(&key("first")).unwrap().1.now_or_never().expect("it writes itself")
        });
        fixture.store.begun.subscribe().wait_for(|begun| *begun > before).await.unwrap();
        let others: Vec<_> = (0..20).map(key).collect();
        join_all(others.iter().map(|key| fixture.update(key))).await.into_iter().for_each(|done| assert_eq!(done.unwrap(), 1));
        first.await.unwrap().unwrap();
        let commits = fixture.store.commits.lock().unwrap();
        assert_eq!(commits.iter().map(Vec::len).collect::<Vec<_>>(), [1, 20], "{commits:?}");
    });
}

#[test]
fn what_gathered_while_a_commit_failed_is_told_although_the_store_stays_broken() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = Arc::new(start(fsync));
            fixture.update(&key("before")).await.unwrap();
            let before = *fixture.store.begun.borrow();
            fixture.store.delay_us.store(50_000, Ordering::Relaxed);
            fixture.store.full.store(true, Ordering::SeqCst);
            let failing = fixture.clone();
            let first = tokio::spawn(async move { failing.update(&key("first")).await });
            fixture.store.begun.subscribe().wait_for(|begun| *begun > before).await.unwrap();
            let (_, ticket) = fixture.submit(&key("second")).unwrap();
            let told = tokio::time::timeout(Duration::from_secs(20), ticket).await;
            assert!(told.expect("nobody is told").is_err());
            assert!(matches!(first.await.unwrap(), Err(CommitError::Storage(_))));
            fixture.store.full.store(false, Ordering::SeqCst);
            fixture.until_writable(true).await;
            assert_eq!(["first", "second"].map(|name| fixture.store.value(&key(name))), [Some(1); 2]);
        }
    });
}

#[test]
fn a_panic_in_a_submitters_turn_leaves_nobody_waiting_and_its_changes_are_made_good() {
    on_runtime(async || {
        let fixture = Arc::new(start(Fsync::EverySecond));
        fixture.until_turns_are_free().await;
        fixture.table.panics.store(true, Ordering::SeqCst);
        let submitting = fixture.clone();
        assert!(tokio::spawn(async move { submitting.update(&key("page")).await }).await.unwrap_err().is_panic());
        fixture.until_writable(true).await;
        assert_eq!(fixture.store.value(&key("page")), Some(1));
        assert_eq!(fixture.update(&key("page")).await.unwrap(), 2);
        assert_eq!(fixture.committer.waiting(), 0);
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_room_comes_back() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start_with(CommitConfig { changes_max: 4, ..CommitConfig::new(fsync) });
            let held = fixture.committer.admit(3).unwrap();
            assert!(matches!(fixture.committer.admit(2), Err(CommitError::Full)));
            assert!(matches!(fixture.committer.admit(usize::MAX), Err(CommitError::Full)));
            drop(fixture.committer.admit(1).unwrap());
            fixture.table.increment(&key("a"));
            // Less than was admitted.
            held.submit([Change::of(&key("a"))]).await.unwrap();
            assert_eq!(fixture.committer.waiting(), 0);
            fixture.committer.admit(0).unwrap().submit(Vec::<Change>::new()).await.unwrap();
        }
    });
}

#[test]
fn a_failed_commit_leaves_the_outcome_open_and_is_made_good_when_the_store_is_mended() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start(fsync);
            fixture.update(&key("before")).await.unwrap();
            if fsync == Fsync::EverySecond {
                fixture.until_turns_are_free().await;
            }
            let late = fixture.committer.admit(1).unwrap();
            fixture.store.full.store(true, Ordering::SeqCst);
            assert!(matches!(fixture.update(&key("failed")).await, Err(CommitError::Storage(_))));
            assert!(!*fixture.committer.writable().borrow());
            assert!(matches!(fixture.update(&key("refused")).await, Err(CommitError::NotWritable)));
            fixture.table.increment(&key("late"));
            let told = Instant::now();
            assert!(matches!(late.submit([Change::of(&key("late"))]).await, Err(CommitError::Storage(_))));
            assert!(told.elapsed() < Duration::from_secs(1), "told while the store is still broken");
            assert_eq!(fixture.store.value(&key("failed")), None);

            fixture.store.full.store(false, Ordering::SeqCst);
            fixture.until_writable(true).await;
            assert_eq!(fixture.store.value(&key("failed")), Some(1));
            assert_eq!(fixture.store.value(&key("late")), Some(1));
            assert_eq!(fixture.store.value(&key("refused")), None);
            assert!(fixture.table.reopened.load(Ordering::SeqCst) >= 1, "a new actor has to be taken");
            assert_eq!(fixture.update(&key("failed")).await.unwrap(), 2);
            assert_eq!(fixture.committer.waiting(), 0);
            fixture.committer.close().await.unwrap();
        }
    });
}

#[test]
fn a_slot_record_that_came_unasked_is_asked_for_when_its_commit_has_failed() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start(fsync);
            if fsync == Fsync::EverySecond {
                fixture.until_turns_are_free().await;
            }
            let slot = Slot::new(77).unwrap();
            *fixture.table.unasked.lock().unwrap() = Some(slot);
            fixture.store.full.store(true, Ordering::SeqCst);
            fixture.update(&key("page")).await.unwrap_err();
            fixture.store.full.store(false, Ordering::SeqCst);
            fixture.until_writable(true).await;
            assert!(fixture.table.asked.lock().unwrap().last().unwrap().contains(&Change::Slot(slot)));
        }
    });
}

#[test]
fn after_a_failed_sync_the_whole_table_is_written_again() {
    on_runtime(async || {
        let fixture = start(Fsync::EverySecond);
        let updates: Vec<_> = (0..20).map(key).collect();
        join_all(updates.iter().map(|key| fixture.update(key))).await.into_iter().for_each(|done| assert!(done.is_ok()));
        fixture.store.held.lock().unwrap().clear();
        fixture.table.asked.lock().unwrap().clear();
        fixture.store.sync_fails.store(true, Ordering::SeqCst);
        fixture.until_writable(false).await;
        fixture.until_writable(true).await;
        assert_eq!(fixture.store.held.lock().unwrap().len(), 20);
        let asked: Vec<_> = fixture.table.asked.lock().unwrap().iter().flatten().cloned().collect();
        assert_eq!(asked, Slot::all().map(Change::Slot).collect::<Vec<_>>());
        assert_eq!(asked.len(), usize::from(SLOTS));
    });
}

#[test]
fn a_store_that_breaks_while_nobody_writes_is_mended() {
    on_runtime(async || {
        for fsync in [Fsync::EverySecond, Fsync::Always, Fsync::Never] {
            let fixture = start(fsync);
            fixture.store.broken.store(true, Ordering::SeqCst);
            fixture.until_writable(false).await;
            fixture.until_writable(true).await;
            fixture.update(&key("page")).await.unwrap();
        }
    });
}

#[test]
fn only_every_second_syncs_by_itself() {
    on_runtime(async || {
        for (fsync, expected) in [(Fsync::EverySecond, 1), (Fsync::Always, 0), (Fsync::Never, 0)] {
            let fixture = start(fsync);
            fixture.update(&key("page")).await.unwrap();
            // The store is looked at once in each period, after it was synced.
            let seen = *fixture.store.checks.borrow();
            fixture.store.checks.subscribe().wait_for(|checks| *checks >= seen + 3).await.unwrap();
            // Once for the one batch, though two periods have passed.
            assert_eq!(fixture.store.syncs.load(Ordering::SeqCst), expected, "{fsync:?}");
        }
    });
}

#[test]
fn closing_writes_what_is_queued_even_if_nobody_waits_for_it() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start(fsync);
            fixture.store.delay_us.store(10_000, Ordering::Relaxed);
            let mut tickets: Vec<_> = (0..100).map(|number| fixture.submit(&key(number)).unwrap().1).collect();
            drop(tickets.drain(50..));
            fixture.committer.close().await.unwrap();
            assert_eq!(fixture.store.held.lock().unwrap().len(), 100);
            assert!(fixture.store.syncs.load(Ordering::SeqCst) >= 1);
            assert!(matches!(fixture.committer.admit(1), Err(CommitError::Stopped)));
            join_all(tickets).await.into_iter().for_each(Result::unwrap);
            fixture.committer.close().await.unwrap();
        }
    });
}

#[test]
fn closing_a_committer_whose_store_stays_broken_ends_and_says_so() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start_with(CommitConfig { retry_min: Duration::from_secs(60), ..CommitConfig::new(fsync) });
            fixture.store.full.store(true, Ordering::SeqCst);
            fixture.update(&key("page")).await.unwrap_err();
            fixture.committer.close().await.unwrap_err();
        }
    });
}

#[test]
fn a_panic_in_the_writer_leaves_nobody_waiting() {
    on_runtime(async || {
        for fsync in BOTH {
            let fixture = start_with(CommitConfig { quick: Duration::ZERO, ..config(fsync) });
            // It was slow, so that nobody else writes.
            fixture.update(&key("slow")).await.unwrap();
            fixture.table.panics.store(true, Ordering::SeqCst);
            assert!(matches!(fixture.update(&key("page")).await, Err(CommitError::Stopped)));
            fixture.until_writable(false).await;
            assert!(matches!(fixture.committer.admit(1), Err(CommitError::Stopped)));
            assert!(matches!(fixture.committer.close().await, Err(CommitError::Stopped)));
        }
    });
}

#[test]
fn a_memory_store_acknowledges_at_once_and_nothing_is_encoded_for_it() {
    on_runtime(async || {
        let table = Arc::new(TestTable::default());
        let config = CommitConfig::new(Fsync::Never);
        let committer = Committer::start(Arc::new(MemoryStore::default()), table.clone(), config).unwrap();
        let permit = committer.admit(1).unwrap();
        table.increment(&key("page"));
        assert!(matches!(permit.submit([Change::of(&key("page"))]).now_or_never(), Some(Ok(()))));
        let counts = committer.counts();
        assert_eq!((counts.changes.load(Ordering::Relaxed), counts.records.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(*table.forgone.lock().unwrap(), [key("page").slot()]);
        assert_eq!(committer.waiting(), 0);
        committer.close().await.unwrap();
    });
}

/// What one of many concurrent clients does.
#[derive(Clone, Debug)]
enum Step {
    Update(u8),
    UpdateAndForget(u8),
    Yield,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        6 => (0..6_u8).prop_map(Step::Update),
        1 => (0..6_u8).prop_map(Step::UpdateAndForget),
        2 => Just(Step::Yield),
    ];
    prop::collection::vec(prop::collection::vec(step, 0..30), 1..12)
}

async fn client(fixture: Arc<Fixture>, steps: Vec<Step>) -> usize {
    let mut open = 0;
    for step in steps {
        match step {
            Step::Yield => tokio::task::yield_now().await,
            Step::UpdateAndForget(page) => drop(fixture.submit(&key(page))),
            Step::Update(page) => match fixture.update(&key(page)).await {
                Ok(value) => assert!(fixture.store.value(&key(page)) >= Some(value), "acknowledged and not held"),
                Err(CommitError::Storage(_)) => open += 1,
                Err(CommitError::NotWritable) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            },
        }
    }
    open
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every ticket resolves, an acknowledged update is held by then, and in the end the store holds the table.
    #[test]
    fn whatever_the_clients_do_and_the_disk_does_nothing_is_lost(
        clients in steps(), always in any::<bool>(), quick_us in prop::sample::select(vec![0, 100, 1_000_000]),
        delay_us in 0..300_u64, failures in prop::collection::vec(0..2000_u64, 0..3),
    ) {
        on_runtime(async || {
            let fsync = if always { Fsync::Always } else { Fsync::EverySecond };
            let fixture = Arc::new(start_with(CommitConfig { quick: Duration::from_micros(quick_us), ..config(fsync) }));
            fixture.store.delay_us.store(delay_us, Ordering::Relaxed);
            let running: Vec<_> = clients.iter().map(|steps| tokio::spawn(client(fixture.clone(), steps.clone()))).collect();
            for after_us in &failures {
                tokio::time::sleep(Duration::from_micros(*after_us)).await;
                fixture.store.full.store(true, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_micros(500)).await;
                fixture.store.full.store(false, Ordering::SeqCst);
            }
            for done in running {
                let limited = tokio::time::timeout(Duration::from_secs(20), done).await;
                limited.expect("a ticket was never resolved").unwrap();
            }
            fixture.until_writable(true).await;
            fixture.committer.close().await.unwrap();
            let counters = fixture.table.counters.lock().unwrap();
            for (key, value) in &*counters {
                assert_eq!(fixture.store.value(key), Some(*value));
            }
            assert_eq!(fixture.committer.waiting(), 0);
        });
    }
}
