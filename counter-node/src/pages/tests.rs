//! Pages over a table of their own, some parts of which do not answer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU16, Ordering};

use counter_core::counter::Update;
use counter_core::hlc::Hlc;
use counter_core::id::ActorId;
use counter_core::marks::Marks;
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};
use counter_core::token::Token;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;
use crate::own_writes::UNTOLD;

/// Counters that are all on one replica; what is in `down` is out of reach.
#[derive(Debug)]
struct Counters {
    table: Table,
    down: Mutex<BTreeSet<Key>>,
    updated: Mutex<Vec<Key>>,
}

impl Counters {
    fn reach(&self, key: &Key) -> Result<(), Failure> {
        match lock(&self.down).contains(key) {
            true => Err(Failure::NotApplied { reason: "out of reach".to_owned(), retry_after_s: 1 }),
            false => Ok(()),
        }
    }
}

impl Backend for Arc<Counters> {
    async fn update_after(&self, writes: &OwnWrites, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        let write = write.into();
        self.reach(&key)?;
        lock(&self.updated).push(key.clone());
        let applied = self.table.apply(&key, Update::from(write.action), write.token.as_ref(), Hlc(1 << 16))?;
        if let Some(mark) = self.table.mark(&key, applied.actor, Update::from(write.action)) {
            writes.add(&key, mark);
        }
        Ok(Reading { replayed: applied.replayed, ..applied.reading.into() })
    }

    async fn read_after(&self, writes: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        self.reach(&key)?;
        if !self.table.has_seen(&key, &writes.of(&key).unwrap_or_default()) {
            return Err(Failure::Behind { reason: "behind".to_owned(), retry_after_s: 1 });
        }
        Ok(self.table.read(&key).into())
    }

    async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        join_all(updates.into_iter().map(|(key, write)| self.update_after(writes, key, write))).await
    }

    async fn read_many_after(&self, writes: &OwnWrites, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        join_all(keys.into_iter().map(|key| self.read_after(writes, key))).await
    }

    async fn read_detailed_after(&self, writes: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        Ok(Detailed { reading: self.read_after(writes, key).await?, staleness_ms: 3, replicas: 2, bounds: None, unique: None })
    }

    async fn bounds(&self, key: Key, _: u32) -> Option<Bounds> {
        let tally = self.table.read(&key).tally;
        Some(Bounds { min: tally, max: tally.saturating_add(5) })
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        self.read_detailed(key("site")).await
    }

    async fn top(&self, _: &crate::top::Asked) -> Result<(crate::top::Busiest, std::time::Duration), Failure> {
        Ok(Default::default())
    }

    fn pages(&self, _: usize) -> Vec<Key> {
        Vec::new()
    }

    fn cluster(&self) -> Option<ClusterId> {
        None
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        Arc::new(ClusterOverview { node: "local".into(), layout: None, nodes: Vec::new() })
    }
}

/// `front` is spread, the rest is not.
#[derive(Debug)]
struct Front {
    count: AtomicU16,
    ever_count: AtomicU16,
    here: Mutex<BTreeSet<Key>>,
}

impl Placement for Arc<Front> {
    fn spread(&self, page: &Key) -> Spread {
        if page.as_bytes() != b"front" {
            return Spread::default();
        }
        Spread { count: self.count.load(Ordering::Relaxed), ever_count: self.ever_count.load(Ordering::Relaxed) }
    }

    fn is_here(&self, key: &Key) -> bool {
        lock(&self.here).contains(key)
    }
}

struct Setting {
    pages: Arc<Pages<Arc<Counters>, Arc<Front>>>,
    counters: Arc<Counters>,
    front: Arc<Front>,
}

fn key(page: &str) -> Key {
    Key::new(page.as_bytes()).unwrap()
}

fn spread_over(count: u16) -> Setting {
    let table = Table::new(7, TableLimits { counters: 999, memory_bytes: 1 << 20, tokens: 9_999, token_window_ms: 600_000 });
    table.set_writer(Slot::all(), Some(ActorId { origin: 1, incarnation: 1 }));
    let counters = Arc::new(Counters { table, down: Mutex::default(), updated: Mutex::default() });
    let front = Arc::new(Front { count: count.into(), ever_count: count.into(), here: Mutex::default() });
    Setting { pages: Arc::new(Pages::new(counters.clone(), front.clone())), counters, front }
}

impl Setting {
    async fn add(&self, times: u64) -> i64 {
        let mut count = 0;
        for _ in 0..times {
            count = self.pages.update(key("front"), Action::Increment(1)).await.unwrap().count;
        }
        count
    }

    async fn count(&self) -> i64 {
        self.pages.read(key("front")).await.unwrap().count
    }

    fn used(&self) -> BTreeSet<Key> {
        std::mem::take(&mut *lock(&self.counters.updated)).into_iter().collect()
    }

    fn cut_off(&self, keys: impl IntoIterator<Item = Key>) {
        *lock(&self.counters.down) = keys.into_iter().collect();
    }
}

#[tokio::test]
async fn updates_are_spread_and_each_answer_is_the_sum() {
    let setting = spread_over(4);
    assert_eq!(setting.add(200).await, 200);
    assert_eq!(setting.used(), (0..4).map(|index| key("front").virtual_shard(index)).collect());
    assert_eq!(setting.pages.update(key("front"), Action::Decrement(50)).await.unwrap().count, 150);
    assert_eq!((setting.count().await, setting.pages.read(key("front#0")).await.unwrap().count), (150, 0));
}

#[tokio::test]
async fn raising_lowering_and_taking_back_the_count_changes_no_number() {
    let setting = spread_over(2);
    let mut expected = setting.add(100).await;
    for (count, ever_count) in [(8, 8), (1, 8), (0, 8), (3, 8), (0, 8)] {
        setting.front.ever_count.store(ever_count, Ordering::Relaxed);
        setting.front.count.store(count, Ordering::Relaxed);
        assert_eq!(setting.count().await, expected, "with {count}");
        setting.used();
        expected += 50;
        assert_eq!(setting.add(50).await, expected, "with {count}");
        let used = setting.used();
        assert!(used.iter().all(|used| if count == 0 { *used == key("front") } else { used.is_virtual_shard() }), "{used:?}");
    }
}

/// Two nodes that follow the same layouts, as the operator publishes them: each when it comes to it, but none goes two steps ahead of
/// the other. What either does shows at both.
#[tokio::test]
async fn nodes_with_different_layouts_tell_the_same_number_at_every_step() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..20 {
        let one = spread_over(0);
        let front = Arc::new(Front { count: 0.into(), ever_count: 0.into(), here: Mutex::default() });
        let nodes = [one.pages, Arc::new(Pages::new(one.counters, front.clone()))];
        let fronts = [one.front, front];
        let (mut expected, mut steps, mut used) = (0, [0_usize; 2], Vec::new());
        let layouts = layouts(&mut rng);
        while steps != [layouts.len() - 1; 2] {
            let node = rng.random_range(0..2);
            if rng.random_range(0..5) == 0 && steps[node] <= steps[1 - node] && steps[node] + 1 < layouts.len() {
                steps[node] += 1;
                let (count, ever_count) = layouts[steps[node]];
                fronts[node].ever_count.store(ever_count, Ordering::Relaxed);
                fronts[node].count.store(count, Ordering::Relaxed);
            }
            let context = format!("seed {seed}, layouts {layouts:?} at {steps:?}");
            let node = &nodes[rng.random_range(0..2)];
            let told = match rng.random_range(0..30) {
                20..25 => {
                    let replaced = expected;
                    let token = Some(Token { id: rng.random(), made_ms: None });
                    let action = [Action::Increment(4), Action::Reset, Action::Set(5)][rng.random_range(0..3)];
                    expected = match action {
                        Action::Increment(by) => expected + i64::try_from(by).unwrap(),
                        Action::Set(to) => to,
                        _ => 0,
                    };
                    used.push(Write { action, token });
                    let told = node.update(key("front"), Write { action, token }).await.unwrap();
                    let answer = if matches!(action, Action::Set(_)) { replaced } else { expected };
                    assert_eq!((told.count, told.replayed), (answer, false), "{action:?}, {context}");
                    node.read(key("front")).await
                }
                25.. => {
                    let Some(again) = used.choose(&mut rng) else { continue };
                    let told = node.update(key("front"), *again).await.unwrap();
                    assert!(told.replayed, "{again:?}, {context}");
                    let other = Write { action: Action::Decrement(9), ..*again };
                    let refused = node.update(key("front"), other).await.unwrap_err();
                    assert!(matches!(refused, Failure::TokenReused), "{refused:?}, {context}");
                    Ok(told)
                }
                0 => {
                    expected = 0;
                    node.update(key("front"), Action::Reset).await
                }
                1 => {
                    let before = std::mem::replace(&mut expected, 7);
                    let replaced = node.update(key("front"), Action::Set(7)).await.unwrap();
                    assert_eq!(replaced.count, before, "{context}");
                    node.read(key("front")).await
                }
                2..5 => {
                    expected -= 2;
                    node.update(key("front"), Action::Decrement(2)).await
                }
                _ => {
                    expected += 3;
                    node.update(key("front"), Action::Increment(3)).await
                }
            };
            assert_eq!(told.unwrap().count, expected, "{context}");
            for node in &nodes {
                assert_eq!(node.read(key("front")).await.unwrap().count, expected, "{context}");
            }
        }
    }
}

/// Some counts, one after the other: `(count, ever_count)`. Before a count rises beyond all earlier ones, its parts are read.
fn layouts(rng: &mut StdRng) -> Vec<(u16, u16)> {
    let mut layouts = vec![(0, 0)];
    for _ in 0..6 {
        let (before, ever_count) = layouts[layouts.len() - 1];
        let count = rng.random_range(0..12);
        if count > ever_count {
            layouts.push((before, count));
        }
        layouts.push((count, ever_count.max(count)));
    }
    layouts
}

#[tokio::test]
async fn what_is_here_is_updated_here() {
    let setting = spread_over(16);
    let here = BTreeSet::from([3, 5].map(|index| key("front").virtual_shard(index)));
    *lock(&setting.front.here) = here.clone();
    setting.add(64).await;
    assert_eq!(setting.used(), here);
}

#[tokio::test]
async fn an_update_passes_by_what_is_out_of_reach_and_the_sum_says_how_old_that_part_is() {
    let setting = spread_over(3);
    setting.add(60).await;
    setting.count().await;
    setting.cut_off([0, 1].map(|index| key("front").virtual_shard(index)));
    assert_eq!(setting.count().await, 60);
    let told = setting.pages.read_detailed(key("front")).await.unwrap();
    assert_eq!((told.reading.count, told.replicas, told.bounds), (60, 0, None));
    setting.used();
    // Three tries are as many as there are shards: none of these may fail.
    assert_eq!(setting.add(20).await, 80);
    assert_eq!(setting.used(), BTreeSet::from([key("front").virtual_shard(2)]));
    let all = (0..3).map(|index| key("front").virtual_shard(index));
    setting.cut_off(all);
    let refused = setting.pages.update(key("front"), Action::Increment(1)).await.unwrap_err();
    assert!(matches!(refused, Failure::NotApplied { .. }), "{refused:?}");
}

#[tokio::test]
async fn what_was_never_heard_fails_an_update_before_it_is_applied() {
    let setting = spread_over(3);
    setting.cut_off([key("front").virtual_shard(1)]);
    assert!(setting.pages.read(key("front")).await.is_err());
    let refused = setting.pages.update(key("front"), Action::Increment(1)).await.unwrap_err();
    assert!(matches!(refused, Failure::NotApplied { .. }), "{refused:?}");
    assert_eq!(setting.used(), BTreeSet::new());
    setting.cut_off([]);
    assert_eq!(setting.count().await, 0);
}

#[tokio::test]
async fn a_reset_clears_every_part_and_one_that_reached_only_some_has_an_unknown_outcome() {
    let setting = spread_over(4);
    setting.add(40).await;
    assert_eq!(setting.pages.update(key("front"), Action::Reset).await.unwrap().count, 0);
    assert_eq!(setting.add(40).await, 40);
    setting.cut_off([key("front").virtual_shard(1)]);
    let partly = setting.pages.update(key("front"), Action::Reset).await.unwrap_err();
    assert!(matches!(partly, Failure::OutcomeUnknown { .. }), "{partly:?}");
    setting.cut_off([]);
    // A reset may be repeated: it clears what is left.
    assert_eq!(setting.pages.update(key("front"), Action::Reset).await.unwrap().count, 0);
}

#[tokio::test]
async fn a_set_answers_with_what_all_parts_came_to() {
    let setting = spread_over(4);
    setting.add(40).await;
    assert_eq!(setting.pages.update(key("front"), Action::Set(7)).await.unwrap().count, 40);
    assert_eq!(setting.count().await, 7);
}

#[tokio::test]
async fn a_set_that_reached_some_parts_is_finished_by_its_repetition_which_tells_the_number_as_it_is() {
    let setting = spread_over(4);
    setting.add(40).await;
    let set = Write { action: Action::Set(5), token: Some(Token { id: 7, made_ms: None }) };
    for number in [0, 2] {
        setting.counters.update_after(&UNTOLD, key("front").virtual_shard(number), set.cleared()).await.unwrap();
    }
    // What is counted on these parts now is younger than the set.
    setting.counters.update_after(&UNTOLD, key("front").virtual_shard(0), Action::Increment(3)).await.unwrap();
    for _ in 0..2 {
        let told = setting.pages.update(key("front"), set).await.unwrap();
        assert_eq!((told.count, told.replayed), (8, true), "what the first try has taken is not known any more");
    }
    assert_eq!(setting.count().await, 8);
}

#[tokio::test]
async fn a_repeated_reset_stands_in_a_session_for_all_that_it_has_cleared_and_for_nothing_else() {
    let setting = spread_over(4);
    setting.add(40).await;
    let reset = Write { action: Action::Reset, token: Some(Token { id: 7, made_ms: None }) };
    let told = || OwnWrites::after(Marks::new());
    let first = told();
    setting.pages.update_after(&first, key("front"), reset).await.unwrap();
    setting.front.ever_count.store(6, Ordering::Relaxed);
    let again = told();
    assert!(setting.pages.update_after(&again, key("front"), reset).await.unwrap().replayed);
    assert_eq!(again.all(), first.all());
}

#[tokio::test]
async fn a_session_does_not_reset_more_counters_than_it_can_name() {
    let setting = spread_over(u16::try_from(MARKS_MAX).unwrap());
    for token in [None, Some(Token { id: 7, made_ms: None })] {
        let reset = Write { action: Action::Reset, token };
        let refused = setting.pages.update_after(&OwnWrites::after(Marks::new()), key("front"), reset).await.unwrap_err();
        assert!(matches!(refused, Failure::TooManyMarks { counters: 65, limit: MARKS_MAX }), "{refused:?}");
        assert_eq!(setting.used(), BTreeSet::new());
        setting.pages.update(key("front"), reset).await.unwrap();
        setting.used();
    }
}

#[tokio::test]
async fn batches_keep_their_order() {
    let setting = spread_over(4);
    setting.add(10).await;
    let updates = [("a", 1), ("front", 2), ("b", 3), ("front", 4)];
    let updates = updates.map(|(page, by)| (key(page), Write::from(Action::Increment(by)))).to_vec();
    let mut counts: Vec<i64> = setting.pages.update_many(updates).await.into_iter().map(|result| result.unwrap().count).collect();
    // The two of one page are applied at the same time: the first may see the second.
    counts[1] = counts[1].min(12);
    assert_eq!(counts, [1, 12, 3, 16]);
    let read = setting.pages.read_many(["b", "front", "a"].map(key).to_vec()).await;
    assert_eq!(read.into_iter().map(|result| result.unwrap().count).collect::<Vec<_>>(), [3, 16, 1]);
}
