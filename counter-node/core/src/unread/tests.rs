use proptest::prelude::*;

use super::*;
use crate::counter::Update;
use crate::table::{Table, TableLimits};
use crate::token::Token;
use crate::vector::{Reading, Refusal};

const LIMITS: TableLimits = TableLimits { counters: 99, memory_bytes: 1 << 20, tokens: 99, token_window_ms: 600_000 };

fn page(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn user(name: &str) -> Key {
    Key::user(name.as_bytes()).unwrap()
}

fn actor(replica: u64) -> ActorId {
    ActorId { origin: replica + 1, incarnation: 1 }
}

fn replica(number: u64) -> SlotVector {
    let mut vector = SlotVector::new(7);
    vector.set_writer(Some(actor(number)));
    vector
}

/// The first moment of a second.
fn second(number: u64) -> Hlc {
    Hlc::from_wall_ms(number * 1_000)
}

fn modify(vector: &mut SlotVector, key: &Key, at: Hlc) -> Result<Reading, Refusal> {
    vector.apply(key, Update::Increment(1), None, at, |_| Ok(())).map(|applied| applied.reading)
}

fn raise(vector: &mut SlotVector, key: &Key, to: Subscription, at: Hlc) {
    let Subscription { generation, cursor } = to;
    vector.apply(key, Update::Raise { generation, cursor }, None, at, |_| Ok(())).unwrap();
}

fn exchange(one: &mut SlotVector, other: &mut SlotVector, key: &Key) {
    let (ones, others) = (one.delta(key.slot(), [key]), other.delta(key.slot(), [key]));
    one.merge(&others);
    other.merge(&ones);
}

#[test]
fn first_modifications_that_were_counted_apart_are_of_the_earlier_epoch_and_cursors_of_both_count() {
    let key = page("a").modifications();
    let (mut one, mut other) = (replica(0), replica(1));
    for at in 10..13 {
        modify(&mut one, &key, second(at)).unwrap();
    }
    modify(&mut other, &key, second(20)).unwrap();
    let read_here = Subscription::default().begun(one.modifications(&key));
    let read_there = Subscription::default().begun(other.modifications(&key));
    assert_eq!((read_here.unread(one.modifications(&key)), read_there.unread(other.modifications(&key))), (0, 0));
    exchange(&mut one, &mut other, &key);
    assert_eq!(one.digest(), other.digest());
    let known = one.modifications(&key);
    assert_eq!((known.epoch, known.number, known.updated_at), (Epoch(10), 4, Some(second(20))));
    assert_eq!((read_here.unread(known), read_there.unread(known)), (1, 3));
}

#[test]
fn what_was_read_before_all_modifications_were_lost_hides_no_new_one() {
    let key = page("a").modifications();
    let mut before = replica(0);
    for _ in 0..50 {
        modify(&mut before, &key, second(10)).unwrap();
    }
    let subscription = Subscription::default().begun(before.modifications(&key));
    let mut after = replica(1);
    assert_eq!(subscription.unread(after.modifications(&key)), 0);
    modify(&mut after, &key, second(30)).unwrap();
    let known = after.modifications(&key);
    assert_eq!(subscription.unread(known), 1);
    let read = subscription.read(known.cursor(1));
    assert_eq!(read.unread(known), 0);
    modify(&mut after, &key, second(31)).unwrap();
    assert_eq!(read.unread(after.modifications(&key)), 1);
}

#[test]
fn who_subscribes_has_read_all_and_who_has_never_seen_a_modification_reads_from_the_first() {
    let key = page("a").modifications();
    let mut vector = replica(0);
    let early = Subscription::default().begun(vector.modifications(&key));
    assert!(early.is_active());
    modify(&mut vector, &key, second(1)).unwrap();
    let late = Subscription::default().begun(vector.modifications(&key));
    modify(&mut vector, &key, second(2)).unwrap();
    let known = vector.modifications(&key);
    assert_eq!((early.unread(known), late.unread(known)), (2, 1));
    let ended = early.ended();
    assert_eq!((ended.is_active(), ended.unread(known), ended.ended()), (false, 0, ended));
    let again = ended.begun(known);
    assert_eq!((again.unread(known), again.generation, again.begun(known)), (0, 3, again));
}

#[test]
fn reading_never_goes_back_nor_past_what_there_is() {
    let known = Modifications { epoch: Epoch(5), number: 9, updated_at: None };
    let subscription = Subscription::default().begun(Modifications::default()).read(known.cursor(6));
    assert_eq!(subscription.read(known.cursor(2)), subscription);
    assert_eq!(subscription.unread(known), 3);
    let all = subscription.read(known.cursor(1_000));
    assert_eq!((all.cursor.number(), all.cursor.epoch()), (9, Epoch(5)));
    assert_eq!(all.unread(Modifications { number: 11, ..known }), 2);
}

#[test]
fn neither_modifications_nor_subscriptions_are_part_of_what_clients_count() {
    let table = Table::new(7, LIMITS);
    let (front, ann) = (page("{x}front"), user("{x}ann"));
    let subscription = ann.subscription(&front).unwrap();
    let slot = front.slot();
    assert_eq!((front.modifications().slot(), subscription.slot()), (slot, slot));
    table.set_writer([slot], Some(actor(0)));
    table.apply(&front, Update::Increment(5), None, Hlc(7)).unwrap();
    table.apply(&front.modifications(), Update::Increment(1), None, second(9)).unwrap();
    table.apply(&front.modifications(), Update::Increment(1), None, second(9)).unwrap();
    let raised = Subscription::default().begun(table.slot(slot).modifications(&front.modifications()));
    raise(&mut table.slot(slot), &subscription, raised, second(9));
    let vector = table.slot(slot);
    let total = Reading { tally: 5, updated_at: Some(Hlc(7)), exists: true, viewers: 0 };
    assert_eq!((vector.total(), vector.existing(), vector.len()), (total, 1, 3));
    let mut copy = replica(1);
    copy.merge(&vector.delta(slot, vector.keys()));
    assert_eq!((copy.total(), copy.existing(), copy.digest()), (total, 1, vector.digest()));
}

#[test]
fn what_is_of_no_actor_outlives_every_actor() {
    let (front, ann) = (page("{x}front"), user("{x}ann"));
    let (modifications, subscription) = (front.modifications(), ann.subscription(&front).unwrap());
    let mut vector = replica(0);
    modify(&mut vector, &modifications, second(3)).unwrap();
    let begun = Subscription::default().begun(vector.modifications(&modifications));
    raise(&mut vector, &subscription, begun, second(4));
    modify(&mut vector, &modifications, second(5)).unwrap();
    let known = vector.modifications(&modifications);
    vector.set_writer(Some(actor(1)));
    vector.retire(&[actor(0)]);
    assert_eq!((vector.modifications(&modifications), vector.subscription(&subscription)), (known, begun));
    modify(&mut vector, &modifications, second(6)).unwrap();
    let known = vector.modifications(&modifications);
    assert_eq!((known.epoch, known.number, begun.unread(known)), (Epoch(3), 3, 2));
    let of_ann: Vec<_> = vector.subscriptions(&ann).map(|(page, subscription, _)| (page.to_vec(), subscription)).collect();
    assert_eq!(of_ann, [(b"{x}front".to_vec(), begun)]);
}

#[test]
fn a_user_whose_name_begins_as_another_one_has_subscriptions_of_their_own() {
    let (front, ann, anna) = (page("front"), user("{x}ann"), user("{x}anna"));
    let mut vector = replica(0);
    let begun = Subscription::default().begun(Modifications::default());
    raise(&mut vector, &anna.subscription(&front).unwrap(), begun, second(1));
    assert_eq!((vector.subscriptions(&ann).count(), vector.subscriptions(&anna).count()), (0, 1));
}

#[test]
fn replicas_together_know_what_none_of_them_knows_alone() {
    let key = page("a").modifications();
    let (mut one, mut other, mut late) = (replica(0), replica(1), replica(2));
    modify(&mut one, &key, second(1)).unwrap();
    exchange(&mut one, &mut other, &key);
    exchange(&mut one, &mut late, &key);
    modify(&mut one, &key, second(2)).unwrap();
    modify(&mut other, &key, second(3)).unwrap();
    let told = |vectors: &[&SlotVector]| {
        let copies: Vec<SlotDelta> = vectors.iter().map(|vector| vector.delta(key.slot(), [&key])).collect();
        modifications_of(&key, &copies)
    };
    assert_eq!(told(&[]), Modifications::default());
    assert_eq!(told(&[&late]).number, 1);
    let all = Modifications { epoch: Epoch(1), number: 3, updated_at: Some(second(3)) };
    assert_eq!((told(&[&one, &other, &late]), told(&[&late, &other, &one])), (all, all));
    // One of them has folded what has ended meanwhile, and the others have not heard of it.
    exchange(&mut one, &mut other, &key);
    other.set_writer(Some(actor(9)));
    other.retire(&[actor(1)]);
    assert_eq!((told(&[&one, &other]), told(&[&other, &late]).number), (all, 3));
}

#[test]
fn a_modification_that_two_replicas_have_counted_under_one_token_is_one() {
    let key = page("a").modifications();
    let token = Token { id: 5, made_ms: Some(1_000) };
    let (mut one, mut other) = (replica(0), replica(1));
    for vector in [&mut one, &mut other] {
        vector.apply(&key, Update::Increment(1), Some(&token), second(1), |_| Ok(())).unwrap();
        assert_eq!(vector.modifications(&key).epoch, Epoch(1));
    }
    let copies = [one.delta(key.slot(), [&key]), other.delta(key.slot(), [&key])];
    assert_eq!(modifications_of(&key, &copies).number, 1);
    exchange(&mut one, &mut other, &key);
    assert_eq!((one.modifications(&key).number, other.modifications(&key).number), (1, 1));
}

#[test]
fn a_token_that_two_replicas_took_counts_once_also_while_only_some_have_heard_that_it_is_forgotten() {
    let key = page("a").modifications();
    let token = Token { id: 5, made_ms: Some(1_000) };
    let (mut one, mut other) = (replica(0), replica(1));
    for vector in [&mut one, &mut other] {
        vector.apply(&key, Update::Increment(1), Some(&token), second(1), |_| Ok(())).unwrap();
    }
    exchange(&mut one, &mut other, &key);
    one.raise_floor(2_000);
    modify(&mut other, &key, second(3)).unwrap();
    let mut copies = [one.delta(key.slot(), [&key]), other.delta(key.slot(), [&key])];
    for _ in 0..2 {
        assert_eq!(modifications_of(&key, &copies).number, 2);
        copies.reverse();
    }
}

#[test]
fn what_is_of_no_actor_is_pushed_also_where_others_tokens_hold_their_entries_back() {
    let (front, ann) = (page("{x}front"), user("{x}ann"));
    let subscription = ann.subscription(&front).unwrap();
    let slot = front.slot();
    let token = Token { id: 5, made_ms: Some(1_000) };
    let (mut one, mut other) = (replica(0), replica(1));
    other.apply(&front.modifications(), Update::Increment(1), Some(&token), second(1), |_| Ok(())).unwrap();
    one.merge(&other.delta(slot, [&front.modifications()]));
    let begun = Subscription::default().begun(one.modifications(&front.modifications()));
    raise(&mut one, &subscription, begun, second(2));
    modify(&mut one, &front.modifications(), second(2)).unwrap();
    let push = one.push_delta(slot, &[&subscription, &front.modifications()], 0, 9).unwrap();
    let mut third = replica(2);
    third.merge(&push.delta);
    assert_eq!(third.subscription(&subscription), begun);
    assert_eq!(third.modifications(&front.modifications()).epoch, Epoch(1));
}

#[test]
fn a_page_takes_as_many_modifications_as_cursors_can_tell() {
    let key = page("a").modifications();
    let mut vector = replica(0);
    let most = u64::from(MODIFICATIONS_MAX) - 1;
    vector.apply(&key, Update::Increment(most), None, second(1), |_| Ok(())).unwrap();
    modify(&mut vector, &key, second(1)).unwrap();
    assert_eq!(vector.modifications(&key).number, MODIFICATIONS_MAX);
    assert!(matches!(modify(&mut vector, &key, second(1)), Err(Refusal::OutOfRange(_))));
    assert_eq!(vector.modifications(&key).number, MODIFICATIONS_MAX);
}

#[test]
fn raising_to_what_is_there_already_changes_nothing() {
    let subscription = user("ann").subscription(&page("a")).unwrap();
    let mut vector = replica(0);
    let begun = Subscription::default().begun(Modifications { epoch: Epoch(4), number: 2, updated_at: None });
    raise(&mut vector, &subscription, begun, second(1));
    let digest = vector.digest();
    raise(&mut vector, &subscription, begun, second(2));
    raise(&mut vector, &subscription, Subscription { generation: 1, ..Subscription::default() }, second(3));
    assert_eq!((vector.digest(), vector.read(&subscription).updated_at), (digest, Some(second(1))));
}

/// Nodes send each other any update of any key: one that makes no sense changes nothing.
#[test]
fn keys_take_only_updates_of_their_kind() {
    let (front, ann) = (page("{x}front"), user("{x}ann"));
    let subscription = ann.subscription(&front).unwrap();
    let raise = Update::Raise { generation: 1, cursor: Cursor(9) };
    let token = Token { id: 5, made_ms: Some(1_000) };
    let mut vector = replica(0);
    let refused = [
        (&front, vec![raise]),
        (&front.virtual_shard(2), vec![raise]),
        (&front.modifications(), vec![raise, Update::Decrement(1), Update::Reset, Update::Set(4)]),
        (&subscription, vec![Update::Increment(1), Update::Decrement(1), Update::Reset, Update::Set(4)]),
        (&ann, vec![raise, Update::Increment(1), Update::Set(4)]),
    ];
    for turn in 0..2 {
        let before = vector.digest();
        for (key, update) in refused.iter().flat_map(|(key, updates)| updates.iter().map(move |update| (*key, *update))) {
            for token in [None, Some(&token)] {
                let applied = vector.apply(key, update, token, second(1), |_| Ok(()));
                assert!(matches!(applied, Err(Refusal::OutOfRange(_))), "{key:?} {update:?} {turn}");
            }
        }
        assert_eq!(vector.digest(), before);
        vector.apply(&front, Update::Increment(1), None, second(1), |_| Ok(())).unwrap();
        modify(&mut vector, &front.modifications(), second(1)).unwrap();
        vector.apply(&subscription, raise, None, second(1), |_| Ok(())).unwrap();
    }
}

/// What one replica does, or two with each other.
#[derive(Clone, Debug)]
enum Step {
    Modify(usize),
    Subscribe(usize),
    Unsubscribe(usize),
    /// Reads this part of what the replica knows, in percent.
    Read(usize, u32),
    Exchange(usize, usize),
    Lose(usize),
}

fn steps(loses: bool) -> impl Strategy<Value = Vec<Step>> {
    let at = || 0..3_usize;
    let step = prop_oneof![
        4 => at().prop_map(Step::Modify),
        2 => at().prop_map(Step::Subscribe),
        1 => at().prop_map(Step::Unsubscribe),
        3 => (at(), 0..=120_u32).prop_map(|(at, percent)| Step::Read(at, percent)),
        3 => (at(), at()).prop_map(|(one, other)| Step::Exchange(one, other)),
        u32::from(loses) => at().prop_map(Step::Lose),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Three replicas that all hold a page and its only subscriber.
struct World {
    replicas: Vec<SlotVector>,
    starts: u64,
    at: u64,
}

impl World {
    fn new() -> Self {
        Self { replicas: (0..3).map(replica).collect(), starts: 3, at: 10 }
    }

    fn keys() -> [Key; 2] {
        let front = page("{x}front");
        [front.modifications(), user("{x}ann").subscription(&front).unwrap()]
    }

    /// The subscription of a replica before and after the step, where it is one of the user's.
    fn step(&mut self, step: &Step) -> Option<(Subscription, Subscription, Modifications)> {
        let [modifications, subscription] = Self::keys();
        self.at += 1;
        let now = second(self.at);
        let (at, then): (usize, fn(Subscription, Modifications, u32) -> Subscription) = match step {
            Step::Modify(at) => {
                modify(&mut self.replicas[*at], &modifications, now).unwrap();
                return None;
            }
            Step::Exchange(one, other) if one != other => {
                let mut left = self.replicas[*one].clone();
                for key in [&modifications, &subscription] {
                    exchange(&mut left, &mut self.replicas[*other], key);
                }
                self.replicas[*one] = left;
                return None;
            }
            Step::Exchange(..) => return None,
            Step::Lose(at) => {
                self.replicas[*at] = replica(self.starts);
                self.starts += 1;
                return None;
            }
            Step::Subscribe(at) => (*at, |held, known, _| held.begun(known)),
            Step::Unsubscribe(at) => (*at, |held, _, _| held.ended()),
            Step::Read(at, _) => (*at, |held, known, percent| held.read(known.cursor(known.number * percent / 100))),
        };
        let percent = if let Step::Read(_, percent) = step { *percent } else { 0 };
        let vector = &mut self.replicas[at];
        let (before, known) = (vector.subscription(&subscription), vector.modifications(&modifications));
        let after = then(before, known, percent);
        raise(vector, &subscription, after, now);
        Some((before, after, known))
    }

    fn settle(&mut self) {
        for (one, other) in [(0, 1), (1, 2), (0, 1), (0, 2)] {
            self.step(&Step::Exchange(one, other));
        }
    }
}

proptest! {
    /// Each step sees all that came before it: then the count is exact.
    #[test]
    fn in_step_the_count_is_what_a_list_of_modifications_says(steps in steps(false)) {
        let mut world = World::new();
        let (mut number, mut read, mut active) = (0_u32, 0_u32, false);
        for step in &steps {
            world.settle();
            match step {
                Step::Modify(_) => number += 1,
                Step::Subscribe(_) => (read, active) = (number, true),
                Step::Unsubscribe(_) => active = false,
                Step::Read(_, percent) => read = read.max((number * percent / 100).min(number)),
                Step::Exchange(..) | Step::Lose(_) => {}
            }
            // Who is subscribed already stays where the user has read to.
            if let Step::Subscribe(at) = step {
                let held = world.replicas[*at].subscription(&World::keys()[1]);
                if held.is_active() {
                    world.step(&Step::Read(*at, 100));
                }
            }
            world.step(step);
        }
        world.settle();
        let [modifications, subscription] = World::keys();
        for vector in &world.replicas {
            let known = vector.modifications(&modifications);
            prop_assert_eq!(known.number, number);
            let unread = vector.subscription(&subscription).unread(known);
            prop_assert_eq!(unread, if active { number - read } else { 0 });
        }
    }

    /// Whatever each replica knew, and whatever was lost: replicas end alike, and nothing that nobody has read counts as read.
    #[test]
    fn apart_nothing_counts_as_read_that_was_not(steps in steps(true)) {
        let mut world = World::new();
        // By the number that was read of: what a reader has seen of a page that is counted in one epoch or a later one.
        let mut seen: Vec<(Epoch, u32)> = Vec::new();
        for step in &steps {
            if let Some((before, after, known)) = world.step(step) {
                prop_assert!(after.cursor >= before.cursor && after.generation >= before.generation);
                if after.cursor > before.cursor {
                    seen.push((known.epoch, after.cursor.number()));
                }
            }
        }
        world.settle();
        let [modifications, subscription] = World::keys();
        let (held, known) = (world.replicas[0].subscription(&subscription), world.replicas[0].modifications(&modifications));
        for vector in &world.replicas[1..] {
            prop_assert_eq!(vector.digest(), world.replicas[0].digest());
            prop_assert_eq!((vector.subscription(&subscription), vector.modifications(&modifications)), (held, known));
        }
        let most = seen.iter().filter(|(epoch, _)| *epoch >= known.epoch).map(|(_, number)| *number).max().unwrap_or(0);
        if held.is_active() {
            prop_assert!(held.unread(known) >= known.number.saturating_sub(most), "{:?} {:?} {}", held, known, most);
        }
    }

    /// Joining copies is as merging is: in any order, any number of times.
    #[test]
    fn copies_of_a_subscription_join_by_the_laws_of_a_lattice(parts in proptest::collection::vec((any::<u64>(), any::<u32>()), 3)) {
        let [a, b, c] = [0, 1, 2].map(|index| Subscription { cursor: Cursor(parts[index].0), generation: parts[index].1 });
        prop_assert_eq!(a.join(b), b.join(a));
        prop_assert_eq!(a.join(b).join(c), a.join(b.join(c)));
        prop_assert_eq!(a.join(b).join(b), a.join(b));
    }
}
