//! Packed counters against a plain map of them, under random operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::counter::{Base, Bases};

/// A history of operations; all of its choices come from one seed.
struct Run {
    seed: u64,
    draws: u64,
    keys: Vec<Key>,
    actors: Vec<ActorId>,
    clock: u64,
    packed: PackedCounters,
    model: BTreeMap<Key, Counter>,
}

impl Run {
    fn new(seed: u64, keys: u64, actors: u64) -> Self {
        let mut run = Self {
            seed,
            draws: 0,
            keys: Vec::new(),
            actors: (0..actors)
                .map(|number| ActorId { origin: number.wrapping_mul(0x9e37_79b9_97f4_a7c1), incarnation: 1 })
                .collect(),
            clock: 1,
            packed: PackedCounters::new(seed),
            model: BTreeMap::new(),
        };
        for number in 0..keys {
            let mut name = number.to_string().into_bytes();
            let lengths = [16, 1, 255, 256, 300, 512];
            name.resize(name.len().max(lengths[run.index(6)]), b'x');
            run.keys.push(Key::new(&name).unwrap());
        }
        run
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draws += 1;
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.draws.to_le_bytes(), self.seed) % bound
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn key(&mut self) -> Key {
        let index = self.index(self.keys.len());
        self.keys[index].clone()
    }

    fn actor(&mut self) -> ActorId {
        let index = self.index(self.actors.len());
        self.actors[index]
    }

    fn update(&mut self) -> Update {
        let by = match self.below(8) {
            0 => u64::from(u32::MAX) - self.below(3),
            1 => 1 << 62,
            _ => self.below(9),
        };
        match self.below(10) {
            0 => Update::Reset,
            1 => Update::Set([0, 5, -5, 1 << 40][self.index(4)]),
            2..=3 => Update::Decrement(by),
            _ => Update::Increment(by),
        }
    }

    /// Some other replica's copy: this one's, changed.
    fn theirs(&mut self, key: &Key) -> Counter {
        let mut theirs = if self.below(3) == 0 { Counter::default() } else { self.model.get(key).cloned().unwrap_or_default() };
        for _ in 0..self.below(3) {
            let (actor, update) = (self.actor(), self.update());
            let _refused = theirs.apply(actor, update, Hlc(self.clock));
        }
        theirs
    }

    fn step(&mut self) {
        self.clock += self.below(2);
        let key = self.key();
        match self.below(1_000) {
            0..600 => self.apply(&key),
            600..800 => self.merge(&key),
            800..997 => {
                let counter = self.theirs(&key);
                self.set(&key, counter);
            }
            _ => self.fold(),
        }
        self.check(&key);
    }

    fn apply(&mut self, key: &Key) {
        let (actor, update, now) = (self.actor(), self.update(), Hlc(self.clock));
        let done = self.packed.apply(key.as_bytes(), actor, update, now);
        let Some(counter) = self.model.get_mut(key) else {
            assert_eq!(done, Ok(None));
            let mut counter = Counter::default();
            if counter.apply(actor, update, now).is_err() || update == Update::Reset {
                return;
            }
            match update.change().and_then(|entry| self.packed.begin(key.as_bytes(), actor, entry, now)) {
                Some(begun) => {
                    assert_eq!(begun, changed(Reading::UNKNOWN, &counter), "seed {}", self.seed);
                    self.model.insert(key.clone(), counter);
                }
                None => self.set(key, counter),
            }
            return;
        };
        let before = reading(counter);
        let expected = counter.apply(actor, update, now).map(|()| Some(changed(before, counter)));
        assert_eq!(done, expected, "seed {}", self.seed);
    }

    fn merge(&mut self, key: &Key) {
        let theirs = self.theirs(key);
        let retired = if self.below(4) == 0 { vec![self.actor()] } else { Vec::new() };
        let mut merged = self.model.get(key).cloned().unwrap_or_default();
        let held = normal(&merged);
        merged.merge(&theirs, &retired, Bases::Same);
        match self.packed.merge_in_place(key.as_bytes(), &theirs, &retired) {
            InPlace::NoPlace => return self.set(key, merged),
            InPlace::Unchanged => assert_eq!(normal(&merged), held, "seed {}", self.seed),
            InPlace::Changed(what) => assert_eq!(what, changed(reading(&held), &merged), "seed {}", self.seed),
        }
        self.model.insert(key.clone(), merged);
    }

    fn set(&mut self, key: &Key, counter: Counter) {
        let before = self.model.get(key).map_or(Reading::UNKNOWN, reading);
        assert_eq!(self.packed.set(key.as_bytes(), &counter), changed(before, &counter), "seed {}", self.seed);
        self.model.insert(key.clone(), counter);
    }

    /// Retires half of the actors, as [`crate::vector::SlotVector::retire`] does.
    fn fold(&mut self) {
        let skip = self.index(2);
        let mut retired: Vec<ActorId> = self.actors.iter().skip(skip).step_by(2).copied().collect();
        retired.sort_unstable();
        for (key, mut counter) in std::mem::take(&mut self.model) {
            counter.fold(&retired);
            self.packed.set(key.as_bytes(), &counter);
            self.model.insert(key, counter);
        }
    }

    fn check(&self, key: &Key) {
        let (held, expected) = (self.packed.get(key.as_bytes()), self.model.get(key));
        assert_eq!(held.map(CounterView::to_counter), expected.map(normal), "seed {}, {key:?}", self.seed);
        if let (Some(view), Some(counter)) = (held, expected) {
            assert_eq!((view.tally(), view.updated_at()), (counter.tally(), counter.updated_at()), "seed {}", self.seed);
            assert!(view.actors().eq(counter.actors()), "seed {}", self.seed);
        }
    }

    fn check_all(&self) {
        let seed = self.seed;
        let held: BTreeMap<Key, Counter> = self.packed.iter().map(|(key, view)| (key.to_key(), view.to_counter())).collect();
        let expected: BTreeMap<Key, Counter> = self.model.iter().map(|(key, counter)| (key.clone(), normal(counter))).collect();
        assert_eq!(held, expected, "seed {seed}");
        assert_eq!((self.packed.len(), self.packed.iter().count()), (expected.len(), expected.len()), "seed {seed}");
        let digests = expected.iter().map(|(key, counter)| CounterView::whole(counter).digest(key.as_bytes()));
        assert_eq!(self.packed.digest(), digests.fold(0, |sum, digest| sum ^ digest), "seed {seed}");
        for (key, view) in self.packed.iter() {
            let bytes = postcard::to_stdvec(&view).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&expected[&key.to_key()]).unwrap(), "seed {seed}");
            assert_eq!(view.digest(key.as_bytes()), self.packed.get(key.as_bytes()).unwrap().digest(key.as_bytes()));
        }
        assert_eq!(self.packed.segments.memory_bytes(), self.packed.segments.recount().0, "seed {seed}");
    }
}

fn changed(before: Reading, counter: &Counter) -> Changed {
    Changed { before, after: reading(counter) }
}

fn reading(counter: &Counter) -> Reading {
    Reading { tally: counter.tally(), updated_at: counter.updated_at(), exists: counter.exists(), viewers: 0 }
}

/// Without a rest that says nothing.
fn normal(counter: &Counter) -> Counter {
    let (entries, baselines) = (counter.entries().to_vec(), counter.baselines().to_vec());
    Counter::of_parts(entries, counter.updated_at().unwrap_or_default(), counter.base(), baselines)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn packed_counters_do_as_a_map_of_counters_does(seed in any::<u64>(), keys in 1_u64..400, actors in 1_u64..6) {
        let mut run = Run::new(seed, keys, actors);
        for step in 0..1_000 {
            run.step();
            if step % 500 == 0 {
                run.check_all();
            }
        }
        run.check_all();
        run.packed.clear();
        prop_assert_eq!((run.packed.len(), run.packed.digest(), run.packed.memory_bytes()), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]

    /// More actors than a slot can name by one byte, and than a record holds; folding packs their counters again.
    #[test]
    fn counters_without_a_packed_form_are_kept_too(seed in any::<u64>()) {
        let mut run = Run::new(seed, 3, 400);
        for _ in 0..4_000 {
            let key = run.key();
            let (actor, now) = (run.actor(), Hlc(run.clock));
            let mut counter = run.model.get(&key).cloned().unwrap_or_default();
            counter.apply(actor, Update::Increment(1), now).unwrap();
            run.set(&key, counter);
        }
        run.check_all();
        prop_assert!(run.packed.whole.as_ref().is_some_and(|whole| whole.counters.len() > 1), "seed {}", seed);
        for _ in 0..200 {
            run.step();
        }
        run.check_all();
        for (key, mut counter) in std::mem::take(&mut run.model) {
            let mut all = run.actors.clone();
            all.sort_unstable();
            counter.fold(&all);
            run.packed.set(key.as_bytes(), &counter);
            run.model.insert(key, counter);
        }
        run.check_all();
        prop_assert!(run.packed.whole.is_none());
        // The names of the folded are free for others.
        for number in 0..200 {
            let key = run.key();
            let mut counter = run.model.get(&key).cloned().unwrap_or_default();
            let actor = ActorId { origin: 7, incarnation: 1_000 + number };
            // One that stands at the end of the range takes the way back.
            let counted = counter.apply(actor, Update::Increment(1), Hlc(1));
            counted.or_else(|_| counter.apply(actor, Update::Decrement(1), Hlc(1))).unwrap();
            run.set(&key, counter);
        }
        run.check_all();
        prop_assert!(run.packed.whole.is_none());
    }

    /// Long keys under one hash tag: the slot is split into segments, none of which is too large.
    #[test]
    fn a_slot_of_very_many_counters_is_split(seed in any::<u64>()) {
        let mut run = Run::new(seed, 4_000, 4);
        for _ in 0..12_000 {
            run.step();
        }
        run.check_all();
        let (bytes, segments) = run.packed.segments.recount();
        prop_assert!(segments > 8, "{}", segments);
        prop_assert!(bytes / segments < 2 * segment::SEGMENT_BYTES_MAX, "{} in {}", bytes, segments);
    }
}

#[test]
fn relocated_counters_leave_bounded_garbage() {
    let mut counters = PackedCounters::new(1);
    let key = |number: u64| number.to_be_bytes();
    for actor in 1..=8 {
        for number in 0..500 {
            let counter = counters.get(&key(number)).map(CounterView::to_counter).unwrap_or_default();
            let mut counter = counter;
            counter.apply(ActorId { origin: actor, incarnation: 1 }, Update::Increment(1), Hlc(1)).unwrap();
            counters.set(&key(number), &counter);
        }
    }
    let records: usize = counters.segments.records().map(Record::len).sum();
    let (taken, _) = counters.segments.recount();
    assert!(taken < records + records / 2, "{taken} bytes for {records} of records");
}

#[test]
fn a_record_takes_what_it_says_it_does() {
    let mut counters = PackedCounters::new(1);
    let key = [b'a'; 16];
    let mut counter = Counter::default();
    let record_bytes = |counters: &PackedCounters| counters.segments.records().map(Record::len).sum::<usize>();
    for (actor, bytes) in [(1, 36), (2, 45), (3, 54)] {
        counter.apply(ActorId { origin: actor, incarnation: 1 }, Update::Increment(1), Hlc(1)).unwrap();
        counters.set(&key, &counter);
        assert_eq!(record_bytes(&counters), bytes);
    }
    assert_eq!(new_record_bytes(&key), 36);
    counter.apply(ActorId { origin: 1, incarnation: 1 }, Update::Increment(1 << 32), Hlc(1)).unwrap();
    counters.set(&key, &counter);
    assert_eq!(record_bytes(&counters), 78);
    counter.fold(&[1, 2, 3].map(|origin| ActorId { origin, incarnation: 1 }));
    assert_ne!(counter.base(), Base::default());
    counters.set(&key, &counter);
    assert_eq!(record_bytes(&counters), 60);
}
