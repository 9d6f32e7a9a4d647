use super::cluster::{Cluster, layout};
use crate::layout::LayoutVersion;
use crate::layout::MovePhase::{Copying, Flipped};
use crate::message::Message;
use crate::replica::{ReplicaConfig, Report};
use crate::status::Readiness;

const LOW: &str = "bar"; // slot 5061
const HIGH: &str = "foo"; // slot 12182

#[test]
fn a_node_applies_updates_in_the_slots_of_its_shard_only() {
    let mut cluster = Cluster::of(&layout(1, &[("0-8191", 1), ("8192-16383", 1)], None));
    assert!(cluster.count("c-0-0", LOW, 1).is_some() && cluster.count("c-0-0", HIGH, 1).is_none());
    assert!(cluster.count("c-1-0", HIGH, 1).is_some() && cluster.count("c-1-0", LOW, 1).is_none());
}

#[test]
fn a_node_that_no_layout_names_owns_nothing_and_keeps_its_data() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.count("c-0-1", LOW, 1).unwrap();
    cluster.run(50);
    cluster.offer("c-0-1", &layout(2, &[("0-16383", 1)], None));
    assert!(cluster.count("c-0-1", LOW, 1).is_none());
    cluster.run(5_000);
    assert_eq!(cluster.member("c-0-1").replica.readiness(), Readiness::NotInLayout);
    assert_eq!(cluster.read("c-0-1", LOW), 1);
}

#[test]
fn layouts_travel_among_the_nodes() {
    let mut cluster = Cluster::of(&layout(1, &[("0-8191", 2), ("8192-16383", 2)], None));
    let newer = layout(2, &[("0-8191", 2), ("8192-16383", 2)], Some((0, 1, "100-200", Copying)));
    cluster.offer("c-1-1", &newer);
    cluster.until("all have it", |cluster| {
        cluster.members.values().all(|member| member.replica.layout().is_some_and(|layout| **layout == newer))
    });
}

#[test]
fn an_older_layout_of_a_peer_changes_nothing_and_is_answered_with_the_newer() {
    let (older, newer) = (layout(1, &[("0-16383", 2)], None), layout(2, &[("0-16383", 2)], None));
    let mut cluster = Cluster::of(&older);
    cluster.offer("c-0-0", &newer);
    cluster.wire.clear();
    let stale = cluster.member("c-0-1").replica.header(Some("c-0-0".into()), Default::default());
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    let effects = member.replica.handle_message(&member.table, now, &stale, Message::layout(&older));
    assert_eq!(effects, []);
    let effects = member.replica.handle_message(&member.table, now, &stale, Message::Hello);
    assert_eq!(effects, [crate::replica::Effect::Send { to: "c-0-1".into(), message: Message::layout(&newer) }]);
    assert!(member.replica.offer_layout(&member.table, older).is_err());
}

#[test]
fn another_layout_of_the_same_version_is_reported_and_nothing_of_that_peer_is_taken() {
    let ours = layout(2, &[("0-16383", 2)], None);
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.offer("c-0-0", &ours);
    let theirs = layout(2, &[("0-8191", 2), ("8192-16383", 1)], None);
    cluster.partition("c-0-0");
    cluster.offer("c-0-1", &theirs);
    cluster.run(50);
    cluster.heal();
    cluster.count("c-0-1", LOW, 5).unwrap();
    cluster.run(1_000);
    assert_eq!(cluster.read("c-0-0", LOW), 0);
    let reports = &cluster.member("c-0-0").reports;
    assert!(matches!(reports[..], [Report::ConflictingLayout { .. }]), "{reports:?}");
    assert_eq!(**cluster.member("c-0-0").replica.layout().unwrap(), ours);
}

#[test]
fn a_slot_that_comes_back_has_no_writer_until_the_process_has_a_new_actor() {
    let shards = [("0-16383", 1), ("", 1)];
    let moved = [("0-4999,5100-16383", 1), ("5000-5099", 1)];
    let mut cluster = Cluster::of(&layout(1, &shards, None));
    cluster.count("c-0-0", LOW, 3).unwrap();
    let first = cluster.member("c-0-0").replica.actor();
    cluster.offer_all(&layout(2, &shards, Some((0, 1, "5000-5099", Copying))));
    cluster.run(500);
    cluster.offer_all(&layout(3, &moved, Some((0, 1, "5000-5099", Flipped))));
    assert!(cluster.count("c-0-0", LOW, 1).is_none(), "given away");
    cluster.run(500);
    cluster.offer_all(&layout(4, &moved, None));
    cluster.run(500);
    assert_eq!(cluster.read("c-0-0", LOW), 0, "forgotten");
    cluster.count("c-1-0", LOW, 1).unwrap();

    cluster.member("c-0-0").holds_actor = true;
    cluster.offer_all(&layout(5, &moved, Some((1, 0, "5000-5099", Copying))));
    cluster.run(500);
    assert!(!cluster.member("c-0-0").actor_wanted, "it does not own the slot yet");
    cluster.offer_all(&layout(6, &shards, Some((1, 0, "5000-5099", Flipped))));
    cluster.run(500);
    assert!(cluster.member("c-0-0").actor_wanted);
    assert!(cluster.count("c-0-0", LOW, 1).is_none(), "no writer yet");
    assert!(cluster.count("c-0-0", HIGH, 1).is_some(), "slots that it never gave away go on");
    cluster.release_actor("c-0-0");
    assert!(cluster.member("c-0-0").replica.actor() > first);
    cluster.count("c-0-0", LOW, 1).unwrap();
    cluster.run(500);
    assert_eq!(cluster.read("c-0-0", LOW), 5);
}

const BOTH: [(&str, u16); 2] = [("0-16383", 1), ("", 1)];
const MOVED: [(&str, u16); 2] = [("0-8191", 1), ("8192-16383", 1)];
const MOVING: &str = "8192-16383";

/// Two shards of one node; the upper half has been copied to the second, whose layouts do not become durable any more.
fn about_to_flip() -> Cluster {
    let mut cluster = Cluster::of(&layout(1, &BOTH, None));
    cluster.count("c-0-0", HIGH, 3).unwrap();
    cluster.offer_all(&layout(2, &BOTH, Some((0, 1, MOVING, Copying))));
    cluster.run(500);
    cluster.member("c-1-0").holds_layout = true;
    cluster
}

#[test]
fn what_a_layout_brings_is_written_when_it_is_durable_and_what_it_takes_is_given_up_at_once() {
    let mut cluster = about_to_flip();
    cluster.member("c-0-0").holds_layout = true;
    cluster.offer_all(&layout(3, &MOVED, Some((0, 1, MOVING, Flipped))));
    assert!(cluster.count("c-0-0", HIGH, 1).is_none(), "given up");
    assert!(cluster.count("c-0-0", LOW, 1).is_some(), "goes on");
    assert!(cluster.count("c-1-0", HIGH, 1).is_none(), "a crash would bring back a layout by which it is not its own");
    cluster.release_layout("c-1-0");
    assert!(cluster.count("c-1-0", HIGH, 1).is_some());
    cluster.release_layout("c-0-0");
    cluster.run(500);
    assert_eq!(cluster.read("c-1-0", HIGH), 4);
}

#[test]
fn of_two_layouts_in_quick_succession_only_the_later_brings_writers() {
    let mut cluster = about_to_flip();
    cluster.offer_all(&layout(3, &MOVED, Some((0, 1, MOVING, Flipped))));
    cluster.offer_all(&layout(4, &MOVED, Some((1, 0, "12000-12999", Copying))));
    cluster.offer_all(&layout(
        5,
        &[("0-8191,12000-12999", 1), ("8192-11999,13000-16383", 1)],
        Some((1, 0, "12000-12999", Flipped)),
    ));
    let persisted = |cluster: &mut Cluster, version| {
        let member = cluster.member("c-1-0");
        member.replica.layout_persisted(&member.table, LayoutVersion(version));
    };
    for version in [3, 4] {
        persisted(&mut cluster, version);
        // Slot 12182 was brought by 3 and is taken by 5; slot 9995 stays.
        assert!(cluster.count("c-1-0", HIGH, 1).is_none() && cluster.count("c-1-0", "qux", 1).is_none(), "after {version}");
    }
    persisted(&mut cluster, 5);
    assert!(cluster.count("c-1-0", HIGH, 1).is_none() && cluster.count("c-1-0", "qux", 1).is_some());
}

#[test]
fn a_crash_before_the_flip_is_durable_brings_back_a_layout_under_which_nothing_was_counted() {
    let mut cluster = about_to_flip();
    let flipped = layout(3, &MOVED, Some((0, 1, MOVING, Flipped)));
    cluster.offer_all(&flipped);
    assert!(cluster.count("c-1-0", HIGH, 1).is_none());
    cluster.crash("c-1-0");
    cluster.start("c-1-0");
    assert_eq!(cluster.member("c-1-0").replica.layout().map(|layout| layout.version), Some(LayoutVersion(2)));
    assert!(cluster.count("c-1-0", HIGH, 1).is_none());
    // It hears of the newer one by itself.
    cluster.until("the flip has come back", |cluster| cluster.slots_left("c-1-0") == Some(0));
    cluster.count("c-1-0", HIGH, 1).unwrap();
    assert_eq!(cluster.read("c-1-0", HIGH), 4);
}

#[test]
fn a_slot_that_comes_back_needs_the_new_actor_and_the_durable_layout_in_either_order() {
    for actor_first in [true, false] {
        let mut cluster = Cluster::of(&layout(1, &BOTH, None));
        cluster.count("c-0-0", HIGH, 1).unwrap();
        cluster.offer_all(&layout(2, &MOVED, Some((0, 1, MOVING, Flipped))));
        cluster.offer_all(&layout(3, &MOVED, None));
        let owner = cluster.member("c-0-0");
        (owner.holds_actor, owner.holds_layout) = (true, true);
        cluster.offer_all(&layout(4, &BOTH, Some((1, 0, MOVING, Flipped))));
        assert!(cluster.member("c-0-0").actor_wanted);
        if actor_first {
            cluster.release_actor("c-0-0")
        } else {
            cluster.release_layout("c-0-0")
        }
        assert!(cluster.count("c-0-0", HIGH, 1).is_none(), "actor first: {actor_first}");
        assert!(cluster.count("c-0-0", LOW, 1).is_some(), "actor first: {actor_first}");
        if actor_first {
            cluster.release_layout("c-0-0")
        } else {
            cluster.release_actor("c-0-0")
        }
        assert!(cluster.count("c-0-0", HIGH, 1).is_some(), "actor first: {actor_first}");
    }
}

#[test]
fn a_node_is_ready_once_it_has_merged_what_its_siblings_hold() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 3)], None));
    cluster.crash("c-0-1");
    cluster.count("c-0-0", LOW, 3).unwrap();
    cluster.start("c-0-1");
    assert_eq!(cluster.member("c-0-1").replica.readiness(), Readiness::MergingSiblings);
    cluster.until("it is ready", |cluster| cluster.members[&"c-0-1".into()].replica.readiness() == Readiness::Ready);
    assert_eq!(cluster.read("c-0-1", LOW), 3);
}

#[test]
fn a_sibling_that_does_not_answer_is_given_up_and_its_loss_later_changes_nothing() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    for node in ["c-0-0", "c-0-1"] {
        cluster.crash(node);
    }
    cluster.start("c-0-0");
    cluster.run(2_900);
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::MergingSiblings);
    cluster.run(300);
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::Ready);
    cluster.run(20_000);
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::Ready);
}

#[test]
fn a_single_node_is_ready_at_its_first_tick_and_a_draining_one_says_so() {
    let mut cluster = Cluster::waiting(&["c-0-0"], ReplicaConfig::default());
    cluster.run(500);
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::WaitingForLayout);
    cluster.offer("c-0-0", &layout(1, &[("0-16383", 1)], None));
    cluster.tick();
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::Ready);
    cluster.member("c-0-0").replica.drain();
    assert_eq!(cluster.member("c-0-0").replica.readiness(), Readiness::Draining);
}
