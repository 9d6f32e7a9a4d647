//! Tokens without a time, which replicas take to be made at different times, resets of all kinds, and restarts from storage in
//! whatever order it has its records: what a replica shows, it shows after a restart, and all come to show the same.

use proptest::prelude::*;

use super::super::tokens::FRESH_MAX;
use super::super::*;
use super::{key_of, slot, whole};
use crate::counter::{KEY_BYTES_MAX, Key};
use crate::message::ENVELOPE_BYTES_MAX;
use crate::token::TokenRecord;

const REPLICAS: usize = 3;
const KEYS: usize = 2;
const STEP_MS: u64 = 1_000;

#[derive(Clone, Debug)]
enum Step {
    Update {
        replica: usize,
        key: usize,
        update: Update,
        token: Option<u128>,
    },
    Push {
        from: usize,
        to: usize,
    },
    Pull {
        from: usize,
        to: usize,
    },
    /// The process starts anew from storage, which has its records in an order that this number stands for.
    Restart {
        replica: usize,
        order: u64,
    },
    Retire {
        replica: usize,
    },
    /// One replica proposes to forget the tokens made so many steps ago.
    Forget {
        replica: usize,
        ago: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replica = 0..REPLICAS;
    let update = prop_oneof![
        4 => (1_u64..9).prop_map(Update::Increment),
        3 => (1_u64..9).prop_map(Update::Decrement),
        1 => Just(Update::Reset),
        1 => (-3_i64..4).prop_map(Update::Set),
    ];
    let token = prop_oneof![1 => Just(None), 3 => (0_u128..4).prop_map(Some)];
    let made = (replica.clone(), 0..KEYS, update, token);
    let step = prop_oneof![
        8 => made.prop_map(|(replica, key, update, token)| Step::Update { replica, key, update, token }),
        3 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Push { from, to }),
        4 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Pull { from, to }),
        2 => (replica.clone(), any::<u64>()).prop_map(|(replica, order)| Step::Restart { replica, order }),
        1 => replica.clone().prop_map(|replica| Step::Retire { replica }),
        3 => (replica, 0_u64..12).prop_map(|(replica, ago)| Step::Forget { replica, ago }),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    replicas: Vec<SlotVector>,
    actors: Vec<ActorId>,
    starts: u32,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        let actors: Vec<ActorId> = (0..REPLICAS).map(|replica| ActorId::new(replica as u64, 1, 0)).collect();
        let replicas = actors.iter().map(|actor| replica_of(*actor)).collect();
        Self { replicas, actors, starts: 1, now_ms: STEP_MS }
    }

    fn step(&mut self, step: &Step) {
        self.now_ms += STEP_MS;
        match step {
            Step::Update { replica, key, update, token } => {
                let token = token.map(|id| Token { id, made_ms: None });
                let now = Hlc::from_wall_ms(self.now_ms);
                let done = self.replicas[*replica].apply(&key_of(*key), *update, token.as_ref(), now, |_| Ok(()));
                assert!(matches!(done, Ok(_) | Err(Refusal::TokenReused)), "{done:?}");
            }
            Step::Push { from, to } => {
                let keys: Vec<Key> = (0..KEYS).map(key_of).collect();
                let push = self.replicas[*from].push_delta(slot(), &keys.iter().collect::<Vec<_>>(), 0, 99).unwrap();
                self.merge(*to, &push.delta);
            }
            Step::Pull { from, to } => {
                let delta = whole(&self.replicas[*from]);
                self.merge(*to, &delta);
            }
            Step::Restart { replica, order } => self.restart(*replica, *order),
            Step::Retire { replica } => self.retire(*replica),
            Step::Forget { replica, ago } => self.forget(*replica, self.now_ms.saturating_sub(ago * STEP_MS)),
        }
        for replica in &self.replicas {
            let sum: i128 = replica.keys().map(|key| replica.read(key).tally).sum();
            assert_eq!(replica.tally(), sum, "the slot's tally is the sum of its readings");
            let existing = replica.keys().filter(|key| replica.read(*key).exists).count();
            assert_eq!(replica.existing(), existing);
        }
    }

    fn merge(&mut self, to: usize, delta: &SlotDelta) {
        // Nodes take in nothing of a sibling that has not heard of the floor yet.
        if delta.floor_ms >= self.replicas[to].floor_ms() {
            self.replicas[to].merge(delta);
        }
    }

    fn restart(&mut self, replica: usize, order: u64) {
        self.starts += 1;
        self.actors[replica] = ActorId::new(replica as u64, self.starts, 0);
        let before = &self.replicas[replica];
        let mut after = restored(before, order);
        assert_eq!(after.digest(), before.digest());
        for key in before.keys() {
            assert_eq!(after.read(key), before.read(key), "a restart changes no reading");
        }
        assert_eq!((after.tally(), after.existing(), after.tokens()), (before.tally(), before.existing(), before.tokens()));
        after.set_writer(Some(self.actors[replica]));
        self.replicas[replica] = after;
    }

    fn retire(&mut self, replica: usize) {
        let mut closed = self.replicas[replica].actors();
        closed.retain(|actor| !self.actors.contains(actor));
        let digest = self.replicas[replica].digest_of(&closed);
        let generation = self.replicas[replica].generation();
        let agrees = |other: &SlotVector| {
            other.generation() == generation && other.may_retire(&closed) && other.digest_of(&closed) == digest
        };
        if !closed.is_empty() && self.replicas.iter().all(agrees) {
            self.replicas[replica].retire(&closed);
        }
    }

    fn forget(&mut self, replica: usize, floor_ms: u64) {
        let (generation, digest) = (self.replicas[replica].generation(), self.replicas[replica].digest_below(floor_ms));
        let agrees = |other: &SlotVector| other.generation() == generation && other.digest_below(floor_ms) == digest;
        if self.replicas.iter().all(agrees) {
            let before = self.replicas[replica].tally();
            self.replicas[replica].raise_floor(floor_ms);
            assert_eq!(self.replicas[replica].tally(), before, "forgetting changes no tally");
        }
    }

    fn converge(&mut self) {
        for _ in 0..4 {
            for to in 0..REPLICAS {
                for from in 0..REPLICAS {
                    self.step(&Step::Pull { from, to });
                }
            }
        }
    }

    fn check(&self) {
        let first = &self.replicas[0];
        for replica in &self.replicas {
            assert_eq!(replica.digest(), first.digest());
            for key in (0..KEYS).map(key_of) {
                assert_eq!(replica.read(&key), first.read(&key));
            }
        }
    }
}

fn replica_of(actor: ActorId) -> SlotVector {
    let mut replica = SlotVector::new(1);
    replica.set_writer(Some(actor));
    replica
}

/// What a process has that starts with what this one has in storage.
fn restored(before: &SlotVector, order: u64) -> SlotVector {
    type Put = Box<dyn Fn(&mut SlotVector)>;
    let delta = whole(before);
    let mut puts: Vec<Put> = Vec::new();
    if before.generation() > Generation::default() {
        let record = SlotRecord { generation: before.generation, retired: before.retired.clone() };
        puts.push(Box::new(move |vector| vector.restore_slot(record.clone())));
    }
    puts.push(Box::new(move |vector| vector.restore_floor(delta.floor_ms)));
    for (key, counter) in delta.counters {
        puts.push(Box::new(move |vector| vector.restore_counter(&key, &counter)));
    }
    for record in delta.tokens {
        puts.push(Box::new(move |vector| vector.restore_token(&record)));
    }
    let mut random = order | 1;
    for last in (1..puts.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        puts.swap(last, usize::try_from((random >> 33) % (last as u64 + 1)).unwrap());
    }
    let mut after = SlotVector::new(1);
    puts.iter().for_each(|put| put(&mut after));
    after
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_changes_no_reading_and_replicas_become_equal(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.converge();
        world.check();
        world.restart(1, 7);
        world.forget(0, world.now_ms + STEP_MS);
        world.converge();
        world.check();
        prop_assert!(world.replicas.iter().all(|replica| replica.tokens() == 0));
        world.retire(1);
        world.converge();
        world.check();
    }
}

fn once(replica: &mut SlotVector, update: Update, made_ms: u64) {
    let token = Token { id: 1, made_ms: None };
    replica.apply(&key_of(0), update, Some(&token), Hlc::from_wall_ms(made_ms), |_| Ok(())).unwrap();
}

/// A token that two replicas have taken to be made before and after a floor: its records stay until a later floor.
#[test]
fn a_token_that_a_floor_divides_counts_once_after_a_restart_and_for_whoever_hears_of_it_late() {
    let [mut low, mut high] = [1, 2].map(|origin| replica_of(ActorId::new(origin, 1, 0)));
    once(&mut low, Update::Increment(5), 1_000);
    once(&mut high, Update::Increment(5), 2_000);
    low.merge(&whole(&high));
    high.merge(&whole(&low));
    low.raise_floor(1_500);
    assert_eq!((low.tally(), low.tokens()), (5, 2));
    for order in 0..9 {
        let after = restored(&low, order);
        assert_eq!((after.tally(), after.digest()), (5, low.digest()), "in order {order}");
    }
    // One that has lost its volume.
    let mut empty = replica_of(ActorId::new(3, 1, 0));
    empty.merge(&whole(&low));
    assert_eq!((empty.tally(), empty.digest()), (5, low.digest()));
}

#[test]
fn what_an_earlier_process_has_counted_goes_out_with_its_records() {
    let [mut first, mut other] = [1, 2].map(|origin| replica_of(ActorId::new(origin, 1, 0)));
    once(&mut first, Update::Increment(5), 1_000);
    let mut second = restored(&first, 3);
    second.set_writer(Some(ActorId::new(1, 2, 0)));
    second.apply(&key_of(0), Update::Increment(1), None, Hlc::from_wall_ms(2_000), |_| Ok(())).unwrap();
    let push = second.push_delta(slot(), &[&key_of(0)], 0, 9).unwrap();
    other.merge(&push.delta);
    once(&mut other, Update::Increment(5), 3_000);
    assert_eq!((other.tally(), second.push_delta(slot(), &[&key_of(0)], push.upto, 9).unwrap().delta.tokens.len()), (6, 0));
}

#[test]
fn whatever_a_counter_takes_along_fits_one_message() {
    let key = Key::new(&[b'k'; KEY_BYTES_MAX]).unwrap();
    let now = Hlc::from_wall_ms(1 << 40);
    let mut counter = Counter::default();
    for origin in 0..4 {
        counter.apply(ActorId::new(u64::MAX - origin, 9, 9), Update::Increment(1 << 60), now).unwrap();
    }
    let actor = ActorId::new(u64::MAX, u32::MAX, 9);
    let observed = Some(Box::new(counter.observe(now)));
    let record =
        TokenRecord { key, id: u128::MAX, actor, made_ms: 1 << 40, update: Update::Set(i64::MAX), position: u64::MAX, observed };
    let bytes = postcard::to_stdvec(&record).unwrap().len();
    assert!(bytes * FRESH_MAX < ENVELOPE_BYTES_MAX, "{bytes} bytes each");
}
