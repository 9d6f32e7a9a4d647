use super::cluster::{Cluster, key, layout};
use crate::layout::Layout;
use crate::layout::MovePhase::{self, Copying, Flipped};
use crate::message::Message;

const OLD: [&str; 2] = ["c-0-0", "c-0-1"];
const NEW: [&str; 2] = ["c-1-0", "c-1-1"];
const MOVING: &str = "foo"; // slot 12182
const STAYING: &str = "bar"; // slot 5061

const BEFORE: [(&str, u16); 1] = [("0-16383", 2)];
const GROWING: [(&str, u16); 2] = [("0-16383", 2), ("", 2)];
const GROWN: [(&str, u16); 2] = [("0-8191", 2), ("8192-16383", 2)];

fn moving(version: u64, phase: MovePhase) -> Layout {
    let shards = if phase == Copying { &GROWING } else { &GROWN };
    layout(version, shards, Some((0, 1, "8192-16383", phase)))
}

/// Two old nodes with a count in each half, and two new nodes that wait for a layout.
fn growing() -> Cluster {
    let mut cluster = Cluster::of(&layout(1, &BEFORE, None));
    for node in NEW {
        cluster.join(node);
    }
    cluster.count("c-0-0", MOVING, 5).unwrap();
    cluster.count("c-0-1", MOVING, 6).unwrap();
    cluster.count("c-0-0", STAYING, 7).unwrap();
    cluster.run(100);
    cluster
}

fn nothing_left(cluster: &mut Cluster, nodes: &'static [&str]) {
    cluster.until("nothing is left", move |cluster| nodes.iter().all(|node| cluster.slots_left(node) == Some(0)));
}

#[test]
fn a_cluster_grows_by_a_shard_while_updates_go_on_and_nothing_is_lost() {
    let mut cluster = growing();
    cluster.chaos = 10;
    let mut counted = 11;
    let mut go_on = |cluster: &mut Cluster, rounds: usize| {
        for round in 0..rounds {
            // As a forwarder would: whoever applies it.
            let nodes = [OLD[round % 2], NEW[round % 2]];
            let applied = nodes.iter().any(|node| cluster.count(node, MOVING, 1).is_some());
            counted += i128::from(applied);
            cluster.run(50);
        }
    };
    cluster.offer_all(&moving(2, Copying));
    go_on(&mut cluster, 20);
    nothing_left(&mut cluster, &NEW);
    go_on(&mut cluster, 5);
    cluster.offer_all(&moving(3, Flipped));
    go_on(&mut cluster, 20);
    nothing_left(&mut cluster, &NEW);
    go_on(&mut cluster, 5);
    cluster.offer_all(&layout(4, &GROWN, None));
    go_on(&mut cluster, 20);
    cluster.heal();
    cluster.until("the new nodes agree", |cluster| cluster.agree(&NEW, &[MOVING]));
    assert_eq!(cluster.read_all(&NEW, MOVING), [counted, counted]);
    assert_eq!(cluster.read_all(&OLD, STAYING), [7, 7]);
    cluster.run(1_000);
    for node in OLD {
        assert_eq!(cluster.read(node, MOVING), 0, "{node} has forgotten what left");
        assert!(!cluster.member(node).storage.counters.contains_key(&key(MOVING)), "{node}, in storage too");
    }
}

#[test]
fn the_old_shard_owns_until_the_flip_and_never_after() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    assert!(cluster.count("c-0-0", MOVING, 1).is_some() && cluster.count("c-1-0", MOVING, 1).is_none());
    cluster.offer_all(&moving(3, Flipped));
    assert!(cluster.count("c-0-0", MOVING, 1).is_none() && cluster.count("c-1-0", MOVING, 1).is_some());
}

#[test]
fn updates_of_a_slot_on_the_move_are_pushed_to_the_receiving_nodes() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.count("c-0-0", MOVING, 1).unwrap();
    cluster.run(50);
    assert_eq!(cluster.read_all(&NEW, MOVING), [12, 12]);
}

#[test]
fn a_slot_is_covered_only_once_every_old_replica_has_acknowledged_the_move() {
    let mut cluster = growing();
    cluster.partition("c-0-1");
    cluster.offer_all(&moving(2, Copying));
    cluster.run(5_000);
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192), "one old replica has not answered");
    cluster.heal();
    nothing_left(&mut cluster, &NEW);
}

#[test]
fn an_answer_under_an_older_layout_covers_nothing() {
    let mut cluster = growing();
    for node in ["c-1-0", "c-0-0"] {
        cluster.offer(node, &moving(2, Copying));
    }
    cluster.tick();
    // The old replica that has not heard of the move must not learn of it in this story.
    while let Some(sent) = cluster.wire.pop_front() {
        if !matches!(sent.message, Message::Layout(_)) {
            cluster.deliver(sent);
        }
    }
    assert_eq!(cluster.read("c-1-0", MOVING), 11, "what it says is taken");
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192), "and proves nothing");
}

#[test]
fn coverage_is_not_claimed_before_what_was_pulled_is_durable() {
    let mut cluster = growing();
    cluster.member("c-1-0").holds_writes = true;
    cluster.offer_all(&moving(2, Copying));
    cluster.run(3_000);
    assert_eq!(cluster.read("c-1-0", MOVING), 11);
    assert_eq!(cluster.slots_left("c-1-0"), Some(1), "the one slot that has anything in it");
    cluster.release_writes("c-1-0");
    cluster.run(300);
    assert_eq!(cluster.slots_left("c-1-0"), Some(0));
}

#[test]
fn a_restart_of_the_receiving_node_proves_its_coverage_anew() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.crash("c-1-0");
    cluster.start("c-1-0");
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192));
    nothing_left(&mut cluster, &NEW);
}

#[test]
fn the_receipt_waits_for_every_old_replica_to_have_flipped() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.partition("c-0-1");
    cluster.count("c-0-1", MOVING, 100).unwrap();
    for node in ["c-0-0", "c-1-0", "c-1-1"] {
        cluster.offer(node, &moving(3, Flipped));
    }
    assert!(cluster.count("c-0-1", MOVING, 100).is_some(), "cut off, it goes on under the layout that it knows");
    cluster.run(3_000);
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192));
    cluster.heal();
    nothing_left(&mut cluster, &NEW);
    assert!(cluster.count("c-0-1", MOVING, 1).is_none());
    assert_eq!(cluster.read_all(&NEW, MOVING), [211, 211], "its last updates are part of the receipt");
}

#[test]
fn what_one_volume_said_is_not_said_for_another_under_its_name() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    // It counts on, cut off, after the slots have flipped.
    cluster.partition("c-0-1");
    for node in ["c-0-0", "c-1-0", "c-1-1"] {
        cluster.offer(node, &moving(3, Flipped));
    }
    cluster.count("c-0-1", MOVING, 100).unwrap();
    let volume = cluster.exchange_volume("c-0-1", None);
    cluster.heal();
    nothing_left(&mut cluster, &NEW);
    let said_by = |cluster: &mut Cluster| {
        let status = cluster.member("c-1-0").replica.move_statuses().remove(0);
        status.sources.into_iter().find(|source| source.node == "c-0-1".into()).unwrap()
    };
    let other = said_by(&mut cluster);
    assert_eq!((other.slots_left, other.actor.map(|actor| actor.origin)), (0, Some(1_000)));
    assert_eq!(cluster.read("c-1-0", MOVING), 11);

    cluster.member("c-1-0").holds_writes = true;
    cluster.exchange_volume("c-0-1", Some(volume));
    cluster.run(3_000);
    let first = said_by(&mut cluster);
    assert_eq!((first.slots_left, first.actor.map(|actor| actor.origin)), (1, Some(2)), "all that is not durable is left");
    cluster.release_writes("c-1-0");
    nothing_left(&mut cluster, &NEW);
    assert_eq!(cluster.read_all(&NEW, MOVING), [111, 111]);
}

#[test]
fn what_was_pulled_from_one_volume_and_becomes_durable_late_does_not_count_for_another() {
    let mut cluster = growing();
    cluster.partition("c-0-1");
    cluster.count("c-0-1", MOVING, 100).unwrap();
    let volume = cluster.exchange_volume("c-0-1", None);
    cluster.heal();
    cluster.offer("c-0-1", &layout(1, &BEFORE, None));
    cluster.run(500);
    cluster.count("c-0-1", MOVING, 50).unwrap();
    cluster.member("c-1-0").holds_writes = true;
    cluster.offer_all(&moving(2, Copying));
    cluster.run(3_000);
    cluster.exchange_volume("c-0-1", Some(volume));
    // It is heard, and answers nothing yet.
    for _ in 0..20 {
        cluster.tick();
        while let Some(sent) = cluster.wire.pop_front() {
            if sent.from != "c-0-1".into() || !matches!(sent.message, Message::DigestReply(_) | Message::DetailReply(_)) {
                cluster.deliver(sent);
            }
        }
    }
    cluster.release_writes("c-1-0");
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192));
    nothing_left(&mut cluster, &NEW);
    assert_eq!(cluster.read("c-1-0", MOVING), 161);
}

#[test]
fn a_source_says_last_only_under_a_durable_layout() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.member("c-0-1").holds_layout = true;
    cluster.offer_all(&moving(3, Flipped));
    cluster.run(3_000);
    assert_eq!(cluster.slots_left("c-1-0"), Some(8_192));
    cluster.crash("c-0-1");
    cluster.start("c-0-1");
    nothing_left(&mut cluster, &NEW);
}

#[test]
fn what_a_source_applied_before_the_flip_and_has_not_made_durable_is_in_its_last_answer() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    let member = cluster.member("c-0-0");
    member.table.apply(&key(MOVING), crate::counter::Update::Increment(100), None, crate::hlc::Hlc(1)).unwrap();
    cluster.offer_all(&moving(3, Flipped));
    nothing_left(&mut cluster, &NEW);
    assert_eq!(cluster.read_all(&NEW, MOVING), [111, 111]);
    // Its commit comes late; whoever waits for a majority of the old shard is answered still.
    let mark = cluster.member("c-0-0").replica.committed([(key(MOVING).slot(), (&key(MOVING)).into())]);
    cluster.run(100);
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), mark);
}

#[test]
fn a_cancelled_move_lets_the_receiving_nodes_forget_and_the_old_ones_go_on() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.offer_all(&layout(3, &GROWING, None));
    cluster.count("c-0-0", MOVING, 1).unwrap();
    cluster.run(1_000);
    assert_eq!(cluster.read_all(&OLD, MOVING), [12, 12]);
    for node in NEW {
        assert_eq!(cluster.read(node, MOVING), 0);
        assert!(cluster.member(node).storage.counters.is_empty());
        assert!(!cluster.member(node).actor_wanted);
    }
    // And it may begin again.
    cluster.offer_all(&moving(4, Copying));
    nothing_left(&mut cluster, &NEW);
    assert_eq!(cluster.read_all(&NEW, MOVING), [12, 12]);
}

#[test]
fn nothing_is_forgotten_while_the_layout_that_says_so_is_not_durable() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    cluster.offer_all(&moving(3, Flipped));
    nothing_left(&mut cluster, &NEW);
    cluster.member("c-0-0").holds_layout = true;
    cluster.offer_all(&layout(4, &GROWN, None));
    cluster.run(1_000);
    assert_eq!((cluster.read("c-0-0", MOVING), cluster.read("c-0-1", MOVING)), (11, 0));
}

#[test]
fn what_a_late_write_left_of_a_slot_that_is_gone_is_forgotten_at_the_next_start() {
    let mut cluster = growing();
    cluster.offer_all(&moving(2, Copying));
    nothing_left(&mut cluster, &NEW);
    let late = cluster.member("c-0-0").storage.counters[&key(MOVING)].clone();
    cluster.offer_all(&moving(3, Flipped));
    nothing_left(&mut cluster, &NEW);
    cluster.offer_all(&layout(4, &GROWN, None));
    cluster.run(500);
    cluster.member("c-0-0").storage.counters.insert(key(MOVING), late);
    cluster.crash("c-0-0");
    cluster.start("c-0-0");
    cluster.run(500);
    assert_eq!(cluster.read("c-0-0", MOVING), 0);
    assert!(!cluster.member("c-0-0").storage.counters.contains_key(&key(MOVING)));
}

#[test]
fn a_delta_for_a_slot_that_is_not_held_is_neither_merged_nor_acknowledged() {
    let mut cluster = Cluster::of(&layout(1, &GROWN, None));
    cluster.count("c-0-0", STAYING, 1).unwrap();
    let delta = cluster.member("c-0-0").table.slot(key(STAYING).slot()).delta(key(STAYING).slot(), &[key(STAYING)]);
    let header = cluster.member("c-0-0").replica.header(Some("c-1-0".into()), Default::default());
    let now = cluster.now();
    let member = cluster.member("c-1-0");
    let message = Message::Delta { sequence: 1, slots: vec![delta] };
    assert_eq!(member.replica.handle_message(&member.table, now, &header, message), []);
    assert_eq!(cluster.read("c-1-0", STAYING), 0);
}
