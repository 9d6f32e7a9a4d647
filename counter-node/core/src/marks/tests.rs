use proptest::prelude::*;

use super::*;
use crate::counter::{Key, Update};
use crate::hlc::Hlc;
use crate::slot::Slot;
use crate::token::Token;
use crate::vector::SlotVector;

const A: ActorId = ActorId { origin: 1, incarnation: 1 };
const B: ActorId = ActorId { origin: 2, incarnation: 1 };
const CLUSTER: ClusterId = ClusterId(7);

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn owned_by(actor: ActorId) -> SlotVector {
    let mut vector = SlotVector::new(7);
    vector.set_writer(Some(actor));
    vector
}

/// Updates the counter `page` and gives what stands for that.
fn update(vector: &mut SlotVector, update: Update) -> Mark {
    marked(vector, update, None)
}

fn marked(vector: &mut SlotVector, update: Update, token: Option<&Token>) -> Mark {
    let applied = vector.apply(&key("page"), update, token, Hlc::from_wall_ms(1_000_000), |_| Ok(())).unwrap();
    vector.mark(&key("page"), applied.actor, update).unwrap()
}

/// All that one copy has goes to the other.
fn merge(from: &SlotVector, to: &mut SlotVector) {
    let keys: Vec<Key> = from.keys().map(KeyRef::to_key).collect();
    let mut delta = from.delta(Slot::all().next().unwrap(), &keys);
    delta.retirement = from.retirement();
    to.merge(&delta);
}

fn sees(vector: &SlotVector, mark: &Mark) -> bool {
    vector.has_seen(&key("page"), mark)
}

#[test]
fn an_update_is_seen_where_it_was_applied_and_elsewhere_once_it_is_merged() {
    let (mut a, mut b) = (owned_by(A), owned_by(B));
    let first = update(&mut a, Update::Increment(5));
    merge(&a, &mut b);
    let second = update(&mut a, Update::Decrement(1));
    assert!(sees(&a, &first) && sees(&a, &second) && sees(&b, &first) && !sees(&b, &second));
    merge(&a, &mut b);
    assert!(sees(&b, &second));
}

#[test]
fn a_reset_is_seen_once_what_it_cleared_is_cleared() {
    let (mut a, mut b) = (owned_by(A), owned_by(B));
    update(&mut b, Update::Increment(5));
    merge(&b, &mut a);
    let reset = update(&mut a, Update::Reset);
    assert!(sees(&a, &reset) && !sees(&b, &reset));
    merge(&a, &mut b);
    assert!(sees(&b, &reset));
    assert_eq!((b.read(&key("page")).tally, b.read(&key("page")).exists), (0, false));
}

#[test]
fn a_reset_of_what_was_retired_is_seen_only_where_that_is_cleared() {
    let (mut a, mut b, mut c) = (owned_by(A), owned_by(B), SlotVector::new(7));
    let gone = ActorId { origin: 3, incarnation: 1 };
    c.set_writer(Some(gone));
    update(&mut c, Update::Increment(5));
    for vector in [&mut a, &mut b] {
        merge(&c, vector);
    }
    a.retire(&[gone]);
    c.retire(&[gone]);
    let reset = update(&mut a, Update::Reset);
    // The entries without the retirement: what is retired is not cleared here.
    b.merge(&a.delta(Slot::all().next().unwrap(), [&key("page")]));
    assert_eq!((b.read(&key("page")).tally, sees(&b, &reset)), (5, false));
    // The retirement from someone who does not know of the reset.
    merge(&c, &mut b);
    assert_eq!((b.read(&key("page")).tally, sees(&b, &reset)), (5, false));
    merge(&a, &mut b);
    assert_eq!((b.read(&key("page")).tally, sees(&b, &reset)), (0, true));
}

#[test]
fn an_actor_that_is_retired_has_been_seen() {
    let (mut a, mut b) = (owned_by(A), owned_by(B));
    let mark = update(&mut a, Update::Increment(5));
    assert!(!sees(&b, &mark));
    merge(&a, &mut b);
    b.retire(&[A]);
    assert!(sees(&b, &mark));
    assert_eq!(b.mark(&key("page"), A, Update::Increment(5)), None);
}

#[test]
fn a_set_and_updates_under_tokens_are_seen_with_their_effects() {
    let (mut a, mut b) = (owned_by(A), owned_by(B));
    let token: Token = "0000001000000-one".parse().unwrap();
    let mark = marked(&mut a, Update::Increment(3), Some(&token));
    assert!(!sees(&b, &mark));
    merge(&a, &mut b);
    assert!(sees(&b, &mark));
    // Again, at another replica: what stands for it is the entry that it is in.
    assert_eq!(marked(&mut b, Update::Increment(3), Some(&token)), mark);
    let reset: Token = "0000001000000-two".parse().unwrap();
    let mark = marked(&mut b, Update::Reset, Some(&reset));
    assert!(!sees(&a, &mark));
    merge(&b, &mut a);
    assert_eq!((sees(&a, &mark), a.read(&key("page")).tally), (true, 0));
    let mark = update(&mut a, Update::Set(9));
    assert!(!sees(&b, &mark));
    merge(&a, &mut b);
    assert_eq!((sees(&b, &mark), b.read(&key("page")).tally), (true, 9));
}

#[test]
fn the_reset_of_a_counter_that_nobody_has_updated_leaves_nothing_to_wait_for() {
    let mut a = owned_by(A);
    let applied = a.apply(&key("page"), Update::Reset, None, Hlc(1), |_| Ok(())).unwrap();
    assert_eq!(a.mark(&key("page"), applied.actor, Update::Reset), None);
}

fn mark(actor: ActorId, increments: u64) -> Mark {
    let entry = Entry { increments, decrements: 0 };
    Mark { actor, entry, generation: Generation::default(), cleared: Total::default() }
}

#[test]
fn marks_of_one_counter_and_actor_are_one_and_the_oldest_go_first() {
    let mut marks = Marks::new();
    marks.add(&key("first"), mark(A, 2));
    marks.add(&key("first"), mark(B, 9));
    marks.add(&key("first"), mark(A, 1));
    assert_eq!(marks.of(&key("first")), [mark(B, 9), mark(A, 2)]);
    assert!(marks.names(&key("first")) && !marks.names(&key("other")));
    for number in 0..MARKS_MAX - 1 {
        marks.add(&key(&format!("page-{number}")), mark(A, 1));
    }
    assert_eq!(marks.of(&key("first")), [mark(A, 2)]);
}

#[test]
fn the_longest_marks_keep_within_the_limit() {
    let mut marks = Marks::new();
    for number in 0..200 {
        let most = Total { increments: u128::MAX, decrements: u128::MAX };
        let entry = Entry { increments: u64::MAX, decrements: u64::MAX };
        let actor = ActorId { origin: number, incarnation: u64::MAX };
        marks.put(u64::MAX - number, Mark { actor, entry, generation: Generation(u64::MAX), cleared: most });
    }
    let bytes = marks.encode(CLUSTER);
    assert!(bytes.len() <= MARKS_BYTES_MAX && bytes.len() > MARKS_BYTES_MAX - 100, "{}", bytes.len());
    assert_eq!(Marks::decode(&bytes, CLUSTER), Ok(marks));
}

#[test]
fn what_no_node_of_the_cluster_gave_out_is_refused() {
    let mut marks = Marks::new();
    marks.add(&key("page"), mark(A, 2));
    let bytes = marks.encode(CLUSTER);
    assert_eq!(Marks::decode(&bytes, ClusterId(8)), Err(MarksError::OtherCluster));
    for length in 0..bytes.len() {
        assert_eq!(Marks::decode(&bytes[..length], CLUSTER), Err(MarksError::Malformed), "{length}");
        let mut damaged = bytes.clone();
        damaged[length] ^= 1;
        assert!(Marks::decode(&damaged, CLUSTER).is_err(), "{length}");
    }
    let with_check = |content: &[u8]| [content, &check(content)].concat();
    assert_eq!(Marks::decode(&with_check(&[9, 1, 2]), CLUSTER), Err(MarksError::OtherFormat { found: 9 }));
    let head = [&[FORMAT][..], &cluster_hash(CLUSTER).to_le_bytes()].concat();
    for tail in [&[][..], &[255], &[0, 255], &[0, 65], &[0, 1, 5, 0, 1, 1, 0, 0, 0], &[0, 0, 0]] {
        let bytes = with_check(&[&head[..], tail].concat());
        assert_eq!(Marks::decode(&bytes, CLUSTER), Err(MarksError::Malformed), "{tail:?}");
    }
    assert_eq!(Marks::decode(&with_check(&[&head[..], &[0, 0]].concat()), CLUSTER), Ok(Marks::new()));
}

proptest! {
    #[test]
    fn marks_read_back_from_their_bytes(parts in prop::collection::vec((0..9_u64, 0..3_u64, any::<u64>(), any::<u64>()), 0..90)) {
        let mut marks = Marks::new();
        for (hash, origin, increments, generation) in parts {
            let actor = ActorId { origin, incarnation: 1 };
            let cleared = Total { increments: increments.into(), decrements: 1 };
            marks.put(hash, Mark { generation: Generation(generation), cleared, ..mark(actor, increments) });
        }
        prop_assert_eq!(Marks::decode(&marks.encode(CLUSTER), CLUSTER), Ok(marks));
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(content in prop::collection::vec(any::<u8>(), 0..300)) {
        let head = [&[FORMAT][..], &cluster_hash(CLUSTER).to_le_bytes(), &content].concat();
        let _ = Marks::decode(&content, CLUSTER);
        let _ = Marks::decode(&[&head[..], &check(&head)].concat(), CLUSTER);
    }
}
