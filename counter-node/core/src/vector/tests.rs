//! The laws of merging, on histories that a cluster can have: replicas that update, reset, exchange all or part of what
//! they know, start anew, and retire closed actors.

mod bounds;
mod restores;
mod tokens;

use proptest::prelude::*;

use super::*;
use crate::counter::Key;
use crate::slot::Slot;

const REPLICAS: usize = 3;
const KEYS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Update {
        replica: usize,
        key: usize,
        update: Update,
    },
    /// `to` merges what `from` knows of some keys.
    Exchange {
        from: usize,
        to: usize,
        keys: Vec<usize>,
    },
    /// `to` merges all that `from` knows, with its retirement.
    Pull {
        from: usize,
        to: usize,
    },
    /// The replica's process starts anew, as a new actor, with all that it held.
    Restart {
        replica: usize,
    },
    /// One replica retires what is closed, if all agree.
    Retire {
        replica: usize,
    },
}

fn steps(resets: bool) -> impl Strategy<Value = Vec<Step>> {
    let replica = 0..REPLICAS;
    let update = if resets {
        prop_oneof![4 => (1_u64..9).prop_map(Update::Increment), 2 => (1_u64..9).prop_map(Update::Decrement), 1 => Just(Update::Reset), 1 => (-3_i64..9).prop_map(Update::Set)]
            .boxed()
    } else {
        prop_oneof![(1_u64..9).prop_map(Update::Increment), (1_u64..9).prop_map(Update::Decrement)].boxed()
    };
    let step = prop_oneof![
        6 => (replica.clone(), 0..KEYS.len(), update).prop_map(|(replica, key, update)| Step::Update { replica, key, update }),
        4 => (replica.clone(), replica.clone(), prop::collection::vec(0..KEYS.len(), 1..3))
            .prop_map(|(from, to, keys)| Step::Exchange { from, to, keys }),
        3 => (replica.clone(), replica.clone()).prop_map(|(from, to)| Step::Pull { from, to }),
        1 => replica.clone().prop_map(|replica| Step::Restart { replica }),
        3 => replica.prop_map(|replica| Step::Retire { replica }),
    ];
    prop::collection::vec(step, 1..60)
}

struct Made {
    key: usize,
    actor: ActorId,
    effect: i128,
    /// Some reset has observed it.
    cleared: bool,
}

/// Replicas, and beside each the updates that it knows of: what the tallies must come to.
struct World {
    replicas: Vec<SlotVector>,
    actors: Vec<ActorId>,
    starts: u32,
    clock: u64,
    updates: Vec<Made>,
    /// Per replica and key: the updates that its copy contains.
    known: Vec<Vec<std::collections::BTreeSet<usize>>>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            replicas: (0..REPLICAS).map(|_| SlotVector::new(1)).collect(),
            actors: (0..REPLICAS).map(|replica| ActorId::new(replica as u64, 1, 0)).collect(),
            starts: 1,
            clock: 1,
            updates: Vec::new(),
            known: vec![vec![Default::default(); KEYS.len()]; REPLICAS],
        };
        for replica in 0..REPLICAS {
            world.replicas[replica].set_writer(Some(world.actors[replica]));
        }
        world
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Update { replica, key, update } => self.update(*replica, *key, *update),
            Step::Exchange { from, to, keys } => self.exchange(*from, *to, keys),
            Step::Pull { from, to } => self.pull(*from, *to),
            Step::Restart { replica } => {
                self.starts += 1;
                self.actors[*replica] = ActorId::new(*replica as u64, self.starts, 0);
                self.replicas[*replica].set_writer(Some(self.actors[*replica]));
            }
            Step::Retire { replica } => self.retire(*replica),
        }
    }

    fn update(&mut self, replica: usize, key: usize, update: Update) {
        self.clock += 1;
        let before = self.replicas[replica].read(&key_of(key)).tally;
        self.replicas[replica].apply(&key_of(key), update, None, Hlc(self.clock), |_| Ok(())).unwrap();
        let after = self.replicas[replica].read(&key_of(key)).tally;
        let exists = self.replicas[replica].read(&key_of(key)).exists;
        assert_eq!(exists, update != Update::Reset, "what was updated exists, and what was reset does not");
        if matches!(update, Update::Reset | Update::Set(_)) {
            for observed in self.known[replica][key].clone() {
                self.updates[observed].cleared = true;
            }
        }
        let effect = match update {
            Update::Reset => return assert_eq!(after, 0, "a reset clears what the replica knows"),
            Update::Set(to) => i128::from(to),
            Update::Increment(_) | Update::Decrement(_) => after - before,
            Update::Raise { .. } => return,
        };
        self.known[replica][key].insert(self.updates.len());
        self.updates.push(Made { key, actor: self.actors[replica], effect, cleared: false });
    }

    fn exchange(&mut self, from: usize, to: usize, keys: &[usize]) {
        let names: Vec<Key> = keys.iter().map(|key| key_of(*key)).collect();
        let delta = self.replicas[from].delta(slot(), &names);
        self.replicas[to].merge(&delta);
        // Of actors that the sender alone has retired, what it knows comes with its retirement only.
        let newer = self.replicas[from].generation() > self.replicas[to].generation();
        for key in keys {
            let sender = &self.replicas[from];
            let passed = |update: &&usize| !newer || !sender.is_retired(self.updates[**update].actor);
            let passed: Vec<usize> = self.known[from][*key].iter().filter(passed).copied().collect();
            self.known[to][*key].extend(passed);
        }
    }

    fn pull(&mut self, from: usize, to: usize) {
        let delta = whole(&self.replicas[from]);
        self.replicas[to].merge(&delta);
        for key in 0..KEYS.len() {
            let theirs = self.known[from][key].clone();
            self.known[to][key].extend(theirs);
        }
    }

    fn retire(&mut self, replica: usize) {
        let mut closed = self.replicas[replica].actors();
        closed.retain(|actor| !self.actors.contains(actor));
        let digest = self.replicas[replica].digest_of(&closed);
        let agreed = self.replicas.iter().all(|other| other.digest_of(&closed) == digest);
        if agreed && !closed.is_empty() {
            let before = self.replicas[replica].tally();
            self.replicas[replica].retire(&closed);
            assert_eq!(self.replicas[replica].tally(), before, "folding changes no tally");
        }
    }

    /// What the key must come to when all is known everywhere.
    fn expected(&self, key: usize) -> i128 {
        self.updates.iter().filter(|made| made.key == key && !made.cleared).map(|made| made.effect).sum()
    }

    fn converge(&mut self) {
        for _ in 0..2 {
            for to in 0..REPLICAS {
                for from in 0..REPLICAS {
                    self.pull(from, to);
                }
            }
        }
    }
}

fn key_of(key: usize) -> Key {
    Key::new(KEYS[key].as_bytes()).unwrap()
}

fn slot() -> Slot {
    Slot::new(0).unwrap()
}

fn whole(vector: &SlotVector) -> SlotDelta {
    let keys = vector.keys().chain(vector.keys_of_records_alone());
    SlotDelta { retirement: vector.retirement(), ..vector.delta(slot(), keys) }
}

fn merged(into: &SlotVector, from: &SlotVector) -> SlotVector {
    let (mut result, delta) = (into.clone(), whole(from));
    // Who has not heard of the floor is asked to pull first, as siblings do.
    if result.is_ahead_of(&delta) {
        return merged(into, &merged(from, into));
    }
    result.merge(&delta);
    result
}

fn after(steps: &[Step]) -> World {
    let mut world = World::new();
    for step in steps {
        world.step(step);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn replicas_converge_and_nothing_is_lost_or_counted_twice(steps in steps(true)) {
        let mut world = after(&steps);
        world.converge();
        let first = world.replicas[0].digest();
        for replica in &mut world.replicas {
            prop_assert_eq!(replica.digest(), first);
        }
        for (index, key) in KEYS.iter().enumerate() {
            let tally = world.replicas[0].read(&key_of(index)).tally;
            prop_assert_eq!(tally, world.expected(index), "{}", key);
        }
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps(true)) {
        let world = after(&steps);
        let [a, b, c] = [&world.replicas[0], &world.replicas[1], &world.replicas[2]];
        prop_assert_eq!(merged(a, b).digest(), merged(b, a).digest());
        prop_assert_eq!(merged(&merged(a, b), c).digest(), merged(a, &merged(b, c)).digest());
        prop_assert_eq!(merged(a, a).digest(), a.clone().digest());
        prop_assert_eq!(merged(&merged(a, b), b).digest(), merged(a, b).digest());
    }

    #[test]
    fn a_slots_tally_is_the_sum_of_its_counters(steps in steps(true)) {
        for replica in after(&steps).replicas {
            let sum: i128 = replica.keys().map(|key| replica.read(key).tally).sum();
            prop_assert_eq!(replica.tally(), sum);
        }
    }
}

#[test]
fn a_returning_volume_does_not_count_again_what_is_folded() {
    let mut world = World::new();
    world.update(0, 0, Update::Increment(5));
    let old_volume = world.replicas[0].clone();
    world.step(&Step::Restart { replica: 0 });
    world.converge();
    world.retire(1);
    world.converge();
    let mut holder = world.replicas[2].clone();
    holder.merge(&whole(&old_volume));
    assert_eq!(holder.read(&key_of(0)).tally, 5);
    let mut returned = old_volume;
    returned.merge(&whole(&holder));
    assert_eq!(returned.read(&key_of(0)).tally, 5);
    assert!(returned.actors().is_empty(), "the folded actor is gone from the old volume");
}

#[test]
fn a_generation_and_its_counters_are_given_to_storage_together_and_once() {
    let mut world = World::new();
    world.update(0, 0, Update::Increment(5));
    world.step(&Step::Restart { replica: 0 });
    world.converge();
    world.retire(0);
    let (record, keys) = world.replicas[0].take_unsaved_generation().unwrap();
    assert_eq!((record.generation, keys), (Generation(1), vec![key_of(0)]));
    assert!(world.replicas[0].take_unsaved_generation().is_none());
    world.replicas[0].mark_generation_unsaved();
    assert!(world.replicas[0].take_unsaved_generation().is_some());
}
