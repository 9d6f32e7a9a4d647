//! The same laws with updates under tokens: each counts once, whoever takes it, whatever is retired or forgotten when.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::*;
use super::{key_of, merged, slot, whole};
use crate::counter::Key;

const REPLICAS: usize = 3;
const KEYS: usize = 2;
const TOKENS: u64 = 8;
const STEP_MS: u64 = 1_000;
const NOW_MS: u64 = (TOKENS + 2) * STEP_MS;

#[derive(Clone, Debug)]
enum Step {
    Plain {
        replica: usize,
        key: usize,
        by: u64,
    },
    /// A client sends its update of this number, perhaps again.
    Once {
        replica: usize,
        token: u64,
    },
    /// `to` merges what `from` would push: its own news since what `to` has acknowledged.
    Push {
        from: usize,
        to: usize,
    },
    Exchange {
        from: usize,
        to: usize,
        key: usize,
    },
    Pull {
        from: usize,
        to: usize,
    },
    Restart {
        replica: usize,
    },
    Retire {
        replica: usize,
    },
    /// One replica proposes to forget the tokens made up to this one.
    Forget {
        replica: usize,
        upto: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replica = 0..REPLICAS;
    let step = prop_oneof![
        2 => (replica.clone(), 0..KEYS, 1_u64..9).prop_map(|(replica, key, by)| Step::Plain { replica, key, by }),
        8 => (replica.clone(), 0..TOKENS).prop_map(|(replica, token)| Step::Once { replica, token }),
        4 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Push { from, to }),
        2 => (replica.clone(), replica.clone(), 0..KEYS).prop_map(|(from, to, key)| Step::Exchange { from, to, key }),
        3 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Pull { from, to }),
        1 => replica.clone().prop_map(|replica| Step::Restart { replica }),
        2 => replica.clone().prop_map(|replica| Step::Retire { replica }),
        2 => (replica, 1..=TOKENS).prop_map(|(replica, upto)| Step::Forget { replica, upto }),
    ];
    prop::collection::vec(step, 1..80)
}

/// What the client sends under its token of this number: always the same.
fn update_of(token: u64) -> (usize, Update, Token) {
    let by = 1 << (4 * token);
    let update = if token % 3 == 2 { Update::Decrement(by) } else { Update::Increment(by) };
    (usize::from(token % 2 == 1), update, Token { id: u128::from(token) + 7, made_ms: Some((token + 1) * STEP_MS) })
}

struct World {
    replicas: Vec<SlotVector>,
    actors: Vec<ActorId>,
    starts: u32,
    clock: u64,
    plain: [i128; KEYS],
    counted: BTreeMap<u64, bool>,
    /// The highest floor that all have agreed to.
    agreed_ms: u64,
    acknowledged: BTreeMap<(usize, usize), u64>,
}

impl World {
    fn new() -> Self {
        let actors: Vec<ActorId> = (0..REPLICAS).map(|replica| ActorId::new(replica as u64, 1, 0)).collect();
        let mut replicas: Vec<SlotVector> = (0..REPLICAS).map(|_| SlotVector::new(1)).collect();
        replicas.iter_mut().zip(&actors).for_each(|(replica, actor)| replica.set_writer(Some(*actor)));
        let (counted, acknowledged) = (BTreeMap::new(), BTreeMap::new());
        Self { replicas, actors, starts: 1, clock: 0, plain: [0; KEYS], counted, agreed_ms: 0, acknowledged }
    }

    fn now(&mut self) -> Hlc {
        self.clock += 1;
        Hlc((NOW_MS << 16) | self.clock)
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Plain { replica, key, by } => {
                let now = self.now();
                self.replicas[*replica].apply(&key_of(*key), Update::Increment(*by), None, now, |_| Ok(())).unwrap();
                self.plain[*key] += i128::from(*by);
            }
            Step::Once { replica, token } => self.once(*replica, *token),
            Step::Push { from, to } => self.push(*from, *to),
            Step::Exchange { from, to, key } => {
                let delta = self.replicas[*from].delta(slot(), &[key_of(*key)]);
                self.replicas[*to].merge(&delta);
            }
            Step::Pull { from, to } => {
                let delta = whole(&self.replicas[*from]);
                self.replicas[*to].merge(&delta);
            }
            Step::Restart { replica } => {
                self.starts += 1;
                self.actors[*replica] = ActorId::new(*replica as u64, self.starts, 0);
                self.replicas[*replica].set_writer(Some(self.actors[*replica]));
            }
            Step::Retire { replica } => self.retire(*replica),
            Step::Forget { replica, upto } => self.forget(*replica, *upto),
        }
    }

    fn once(&mut self, replica: usize, token: u64) {
        let now = self.now();
        let (key, update, token_of) = update_of(token);
        let before = self.replicas[replica].read(&key_of(key)).tally;
        match self.replicas[replica].apply(&key_of(key), update, Some(&token_of), now, |_| Ok(())) {
            Ok(applied) => {
                assert_eq!(applied.replayed, applied.reading.tally == before, "what is replayed changes nothing");
                self.counted.insert(token, true);
            }
            Err(refusal) => {
                assert!(matches!(refusal, Refusal::TokenExpired { .. }), "{refusal}");
                assert!(self.agreed_ms > token_of.made_ms.unwrap());
            }
        }
    }

    fn push(&mut self, from: usize, to: usize) {
        let keys: Vec<Key> = (0..KEYS).map(key_of).collect();
        let since = self.acknowledged.get(&(from, to)).copied().unwrap_or(0);
        let push = self.replicas[from].push_delta(slot(), &keys.iter().collect::<Vec<_>>(), since, 99).unwrap();
        if !self.replicas[to].is_ahead_of(&push.delta) {
            self.replicas[to].merge(&push.delta);
            self.acknowledged.insert((from, to), push.upto);
        }
    }

    fn retire(&mut self, replica: usize) {
        let mut closed = self.replicas[replica].actors();
        closed.retain(|actor| !self.actors.contains(actor));
        let digest = self.replicas[replica].digest_of(&closed);
        let agrees = |other: &SlotVector| other.may_retire(&closed) && other.digest_of(&closed) == digest;
        if !closed.is_empty() && self.replicas.iter().all(agrees) {
            let before = self.replicas[replica].tally();
            self.replicas[replica].retire(&closed);
            assert_eq!(self.replicas[replica].tally(), before, "folding changes no tally");
        }
    }

    fn forget(&mut self, replica: usize, upto: u64) {
        let floor_ms = (upto + 1) * STEP_MS;
        let digests: Vec<u64> = self.replicas.iter().map(|replica| replica.digest_below(floor_ms)).collect();
        if digests.iter().all(|digest| *digest == digests[0]) {
            let before = self.replicas[replica].tally();
            self.replicas[replica].raise_floor(floor_ms);
            // Who has agreed has a clock by which nothing below the floor is taken any more.
            self.agreed_ms = self.agreed_ms.max(floor_ms);
            self.replicas.iter_mut().for_each(|replica| replica.set_token_window_ms(NOW_MS - self.agreed_ms));
            assert_eq!(self.replicas[replica].tally(), before, "forgetting changes no tally");
        }
    }

    fn converge(&mut self) {
        for _ in 0..3 {
            for to in 0..REPLICAS {
                for from in 0..REPLICAS {
                    self.step(&Step::Pull { from, to });
                }
            }
        }
    }

    fn expected(&self, key: usize) -> i128 {
        let effect = |token: &u64| match update_of(*token) {
            (of, Update::Increment(by), _) if of == key => i128::from(by),
            (of, Update::Decrement(by), _) if of == key => -i128::from(by),
            _ => 0,
        };
        self.plain[key] + self.counted.keys().map(effect).sum::<i128>()
    }

    fn check(&mut self) {
        let digest = self.replicas[0].digest();
        for replica in 0..REPLICAS {
            assert_eq!(self.replicas[replica].digest(), digest, "replica {replica}");
            for key in 0..KEYS {
                assert_eq!(self.replicas[replica].read(&key_of(key)).tally, self.expected(key), "key {key} at {replica}");
            }
            let sum: i128 = self.replicas[replica].keys().map(|key| self.replicas[replica].read(key).tally).sum();
            assert_eq!(self.replicas[replica].tally(), sum);
            self.check_what_is_kept_beside(&self.replicas[replica]);
        }
    }

    /// What a slot keeps so that nobody has to go over all of it is what going over it gives.
    fn check_what_is_kept_beside(&self, replica: &SlotVector) {
        let records = whole(replica).tokens;
        assert_eq!(replica.oldest_token_ms(), records.iter().map(|record| record.made_ms).min());
        let mut actors: Vec<ActorId> = replica.counters().flat_map(|(_, counter)| counter.actors()).collect();
        actors.sort_unstable();
        actors.dedup();
        assert_eq!(replica.actors(), actors);
    }
}

fn after(steps: &[Step]) -> World {
    let mut world = World::new();
    steps.iter().for_each(|step| world.step(step));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn each_token_counts_once_and_replicas_converge(steps in steps()) {
        let mut world = after(&steps);
        world.converge();
        world.check();
        // And it stays so when all is forgotten, and whoever is closed is retired.
        world.forget(0, TOKENS);
        world.converge();
        world.check();
        prop_assert!(world.replicas.iter().all(|replica| replica.tokens() == 0));
        world.retire(1);
        world.converge();
        world.check();
        prop_assert!(world.replicas[0].actors().iter().all(|actor| world.actors.contains(actor)));
    }

    #[test]
    fn merging_with_tokens_is_commutative_associative_and_idempotent(steps in steps()) {
        let world = after(&steps);
        let [a, b, c] = [0, 1, 2].map(|replica| world.replicas[replica].clone());
        prop_assert_eq!(merged(&a, &b).digest(), merged(&b, &a).digest());
        prop_assert_eq!(merged(&a, &b).tally(), merged(&b, &a).tally());
        prop_assert_eq!(merged(&merged(&a, &b), &c).digest(), merged(&a, &merged(&b, &c)).digest());
        prop_assert_eq!(merged(&a, &a).digest(), a.clone().digest());
        prop_assert_eq!(merged(&merged(&a, &b), &b).digest(), merged(&a, &b).digest());
    }
}

fn replica(number: u64) -> SlotVector {
    let mut replica = SlotVector::new(1);
    replica.set_writer(Some(ActorId::new(number, 1, 0)));
    replica
}

fn once(replica: &mut SlotVector, update: Update, id: u128, now: u64) -> Result<Applied, Refusal> {
    replica.apply(&key_of(0), update, Some(&Token { id, made_ms: None }), Hlc::from_wall_ms(now), |_| Ok(()))
}

#[test]
fn a_token_names_one_update_and_no_other() {
    let mut replica = replica(1);
    assert_eq!(once(&mut replica, Update::Increment(5), 1, 1).unwrap().reading.tally, 5);
    let again = once(&mut replica, Update::Increment(5), 1, 2).unwrap();
    assert_eq!((again.replayed, again.changed, again.reading.tally), (true, true, 5));
    assert_eq!(once(&mut replica, Update::Increment(6), 1, 3), Err(Refusal::TokenReused));
    assert_eq!(once(&mut replica, Update::Reset, 1, 3), Err(Refusal::TokenReused));
}

#[test]
fn what_a_replica_has_counted_in_vain_is_counted_and_only_there() {
    let (mut low, mut high) = (replica(1), replica(2));
    for id in 0..3 {
        once(&mut low, Update::Increment(5), id, 1).unwrap();
        once(&mut high, Update::Increment(5), id, 2).unwrap();
    }
    assert_eq!((low.refunded(), high.refunded()), (0, 0));
    for _ in 0..2 {
        high.merge(&whole(&low));
        low.merge(&whole(&high));
    }
    assert_eq!((low.refunded(), high.refunded()), (0, 3), "the lowest actor's record wins");
    assert_eq!((low.tally(), high.tally()), (15, 15));
    high.clear();
    assert_eq!(high.refunded(), 3, "what has been counted is not taken away");
}

#[test]
fn nobody_hears_of_a_loser_without_the_winner() {
    let (mut low, mut high, mut third) = (replica(1), replica(2), replica(3));
    for replica in [&mut low, &mut high] {
        once(replica, Update::Increment(5), 7, 1).unwrap();
    }
    high.merge(&whole(&low));
    assert_eq!(high.tally(), 5);
    // Now the one that has won is lost with all that it had, and this one dies before it has written what it merged.
    third.merge(&high.push_delta(slot(), &[&key_of(0)], 0, 9).unwrap().delta);
    assert_eq!(third.tally(), 5, "the update was acknowledged");
    third.merge(&whole(&high));
    assert_eq!((third.tally(), high.tally()), (5, 5));
}

/// Two replicas, a token that both have counted, and who of them clears it before they hear of each other.
#[test]
fn a_token_that_two_have_counted_and_resets_have_cleared_is_cleared_once() {
    for (low_clears, high_clears, under_tokens) in [
        (true, true, false),
        (true, false, false),
        (false, true, false),
        (true, true, true),
        (true, false, true),
        (false, true, true),
    ] {
        let (mut low, mut high) = (replica(1), replica(2));
        for (replica, clears, reset) in [(&mut low, low_clears, 8), (&mut high, high_clears, 9)] {
            replica.apply(&key_of(0), Update::Increment(100), None, Hlc(1), |_| Ok(())).unwrap();
            once(replica, Update::Increment(5), 7, 1).unwrap();
            if clears && under_tokens {
                once(replica, Update::Reset, reset, 2).unwrap();
            } else if clears {
                replica.apply(&key_of(0), Update::Reset, None, Hlc::from_wall_ms(2), |_| Ok(())).unwrap();
            }
            replica.apply(&key_of(0), Update::Increment(1), None, Hlc::from_wall_ms(3), |_| Ok(())).unwrap();
        }
        let expected = 2 + if low_clears && high_clears { 0 } else { 100 };
        for _ in 0..2 {
            low.merge(&whole(&high));
            high.merge(&whole(&low));
        }
        let context = (low_clears, high_clears, under_tokens);
        assert_eq!((low.tally(), high.tally()), (expected, expected), "{context:?}");
        assert_eq!(low.digest(), high.digest());
        // Forgetting changes no number, one after the other as they hear of it, and whatever clears comes later clears all.
        low.raise_floor(10);
        assert_eq!(low.tally(), expected, "{context:?}");
        high.apply(&key_of(0), Update::Increment(10), None, Hlc::from_wall_ms(4), |_| Ok(())).unwrap();
        high.raise_floor(10);
        low.merge(&whole(&high));
        high.merge(&whole(&low));
        assert_eq!((low.tally(), high.tally()), (expected + 10, expected + 10), "{context:?}");
        assert_eq!((low.digest(), low.tokens()), (high.digest(), 0));
        high.apply(&key_of(0), Update::Reset, None, Hlc::from_wall_ms(5), |_| Ok(())).unwrap();
        low.merge(&whole(&high));
        assert_eq!((low.tally(), high.tally()), (0, 0), "{context:?}");
    }
}

#[test]
fn holders_that_know_different_resets_agree_to_no_floor() {
    let (mut low, mut high) = (replica(1), replica(2));
    for replica in [&mut low, &mut high] {
        once(replica, Update::Increment(5), 7, 1).unwrap();
    }
    low.merge(&whole(&high));
    high.merge(&whole(&low));
    assert_eq!(low.digest_below(10), high.digest_below(10));
    high.apply(&key_of(0), Update::Reset, None, Hlc::from_wall_ms(2), |_| Ok(())).unwrap();
    assert_ne!(low.digest_below(10), high.digest_below(10));
    low.merge(&whole(&high));
    assert_eq!(low.digest_below(10), high.digest_below(10));
}

#[test]
fn a_counter_takes_all_along_that_it_holds_of_tokens() {
    let (mut from, mut to) = (replica(1), replica(2));
    for id in 0..9 {
        once(&mut from, Update::Increment(1), id, 1).unwrap();
    }
    let push = from.push_delta(slot(), &[&key_of(0)], 0, 2).unwrap();
    assert_eq!((push.delta.tokens.len(), push.upto, push.has_more), (9, 2, true));
    to.merge(&push.delta);
    for id in 0..9 {
        assert!(once(&mut to, Update::Increment(1), id, 2).unwrap().replayed);
    }
    assert_eq!(to.tally(), 9);
}

#[test]
fn a_token_is_taken_within_its_window_only() {
    let mut replica = replica(1);
    replica.set_token_window_ms(1_000);
    let mut at = |made_ms, now: u64| {
        let token = Token { id: u128::from(made_ms), made_ms: Some(made_ms) };
        replica.apply(&key_of(0), Update::Increment(1), Some(&token), Hlc::from_wall_ms(now), |_| Ok(())).map(|_| ())
    };
    assert_eq!(at(100_000, 101_000), Ok(()));
    assert_eq!(at(99_999, 101_000), Err(Refusal::TokenExpired { window_ms: 1_000 }));
    assert_eq!(at(161_000, 101_000), Ok(()));
    assert_eq!(at(161_001, 101_000), Err(Refusal::TokenFromFuture { ahead_ms: 60_001 }));
    assert_eq!(at(100_000, 109_000), Ok(()), "one that is known is known still");
}

#[test]
fn of_a_reset_that_two_replicas_took_the_earlier_counts() {
    let (mut a, mut b) = (replica(9), replica(1));
    a.apply(&key_of(0), Update::Increment(10), None, Hlc::from_wall_ms(1), |_| Ok(())).unwrap();
    b.merge(&whole(&a));
    assert_eq!(once(&mut a, Update::Reset, 1, 2).unwrap().reading.tally, 0);
    // Not cleared: it came after the reset, though the retry that another replica takes for new observes it.
    b.apply(&key_of(0), Update::Increment(7), None, Hlc::from_wall_ms(3), |_| Ok(())).unwrap();
    assert_eq!(once(&mut b, Update::Reset, 1, 4).unwrap().reading.tally, 0);
    a.merge(&whole(&b));
    b.merge(&whole(&a));
    assert_eq!((a.read(&key_of(0)).tally, b.read(&key_of(0)).tally), (7, 7));
    assert!(!a.may_retire(&[]), "a reset that may lose holds up retirement");
    for replica in [&mut a, &mut b] {
        replica.raise_floor(5);
        assert_eq!((replica.read(&key_of(0)).tally, replica.tally(), replica.tokens()), (7, 7, 0));
    }
    assert_eq!(a.digest(), b.digest());
    assert!(a.may_retire(&[]));
}

#[test]
fn a_set_that_two_replicas_took_counts_once() {
    let (mut a, mut b) = (replica(1), replica(2));
    for replica in [&mut a, &mut b] {
        replica.apply(&key_of(0), Update::Increment(10), None, Hlc::from_wall_ms(1), |_| Ok(())).unwrap();
    }
    once(&mut a, Update::Set(3), 1, 2).unwrap();
    once(&mut b, Update::Set(3), 1, 3).unwrap();
    a.merge(&whole(&b));
    b.merge(&whole(&a));
    a.merge(&whole(&b));
    // What `a` could not observe survives, as with any reset.
    assert_eq!((a.read(&key_of(0)).tally, b.read(&key_of(0)).tally), (13, 13));
    assert_eq!(a.digest(), b.digest());
}

#[test]
fn a_slot_that_has_moved_away_has_its_records_removed_from_storage() {
    let mut replica = replica(1);
    once(&mut replica, Update::Increment(1), 1, 1).unwrap();
    let [(name, Some(record))] = &replica.take_unsaved_tokens()[..] else { panic!("one record") };
    assert_eq!((replica.token(name), replica.take_unsaved_tokens().len()), (Some(record.clone()), 0));
    replica.clear();
    assert_eq!(replica.take_unsaved_tokens(), [(*name, None)]);
    assert_eq!(replica.take_unsaved_floor(), Some(0));
    assert!(replica.is_new());
}
