use super::cluster::{Cluster, key, layout};
use crate::message::Message;
use crate::replica::{CommitMark, Effect, ReplicaConfig};

const NODES: [&str; 3] = ["c-0-0", "c-0-1", "c-0-2"];

fn cluster() -> Cluster {
    Cluster::of(&layout(1, &[("0-16383", 3)], None))
}

#[test]
fn a_durable_change_is_at_the_siblings_after_a_tick() {
    let mut cluster = cluster();
    cluster.count("c-0-0", "a", 3).unwrap();
    cluster.run(50);
    assert_eq!(cluster.read_all(&NODES, "a"), [3, 3, 3]);
    assert_eq!(cluster.member("c-0-1").storage.counters[&key("a")].tally(), 3);
    let status = cluster.member("c-0-0").replica.status(Default::default());
    assert_eq!(status.unsent_entries, 0);
}

#[test]
fn a_delta_is_acknowledged_only_once_it_is_durable_also_when_its_repetition_changes_nothing() {
    let mut cluster = cluster();
    cluster.member("c-0-1").holds_writes = true;
    cluster.partition("c-0-2");
    let mark = cluster.count("c-0-0", "a", 3).unwrap();
    cluster.run(2_000);
    assert_eq!(cluster.read("c-0-1", "a"), 3, "merged");
    assert!(cluster.member("c-0-0").replica.acknowledged() < mark);
    assert_eq!(cluster.member("c-0-0").replica.status(Default::default()).unsent_entries, 1);
    cluster.release_writes("c-0-1");
    cluster.deliver_all();
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), mark);
}

#[test]
fn a_write_that_failed_is_asked_for_again_and_acknowledged_then() {
    let mut cluster = cluster();
    cluster.partition("c-0-2");
    cluster.member("c-0-1").holds_writes = true;
    let mark = cluster.count("c-0-0", "a", 3).unwrap();
    cluster.run(50);
    let (id, ..) = cluster.member("c-0-1").held.pop_front().unwrap();
    cluster.member("c-0-1").replica.persist_failed(id);
    cluster.run(1_000);
    assert_eq!(cluster.member("c-0-1").held.front().unwrap().0, id);
    assert!(cluster.member("c-0-0").replica.acknowledged() < mark);
    cluster.release_writes("c-0-1");
    cluster.deliver_all();
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), mark);
}

#[test]
fn a_majority_of_three_is_this_node_and_one_sibling() {
    let mut cluster = cluster();
    cluster.partition("c-0-1");
    let mark = cluster.count("c-0-0", "a", 1).unwrap();
    assert!(cluster.member("c-0-0").replica.acknowledged() < mark);
    cluster.run(50);
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), mark);
    cluster.partition("c-0-2");
    let next = cluster.count("c-0-0", "b", 1).unwrap();
    cluster.run(1_000);
    assert_eq!((mark, cluster.member("c-0-0").replica.acknowledged()), (CommitMark(next.0 - 1), mark));
}

#[test]
fn a_node_alone_is_its_own_majority() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 1)], None));
    let mark = cluster.count("c-0-0", "a", 1).unwrap();
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), mark);
}

#[test]
fn a_flushed_change_leaves_at_once_on_an_idle_link() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 3)], None));
    let first = cluster.count("c-0-0", "a", 1).unwrap();
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    let effects = member.replica.flush(&member.table, now);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Send { message: Message::Delta { .. }, .. })).count(), 2);
    let second = cluster.count("c-0-0", "b", 1).unwrap();
    let member = cluster.member("c-0-0");
    assert_eq!(member.replica.flush(&member.table, now), [], "one batch is in flight");
    cluster.perform(&"c-0-0".into(), effects);
    cluster.deliver_all();
    assert!(second > first);
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), second, "the acknowledgement sends the next batch");
}

#[test]
fn what_a_tick_has_to_push_goes_in_small_messages_one_after_the_other() {
    let config = ReplicaConfig { delta_keys: 8, ..ReplicaConfig::default() };
    let mut cluster = Cluster::with(&layout(1, &[("0-16383", 2)], None), config);
    let pages: Vec<String> = (0..100).map(|number| format!("page-{number}")).collect();
    for page in &pages {
        cluster.count("c-0-0", page, 1).unwrap();
    }
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    let effects = member.replica.flush(&member.table, now);
    let [Effect::Send { message: Message::Delta { slots, .. }, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(slots.iter().map(|slot| slot.counters.len()).sum::<usize>(), 8);
    cluster.perform(&"c-0-0".into(), effects);
    // No tick: each acknowledgement sends the next message.
    cluster.deliver_all();
    assert_eq!(cluster.member("c-0-0").replica.status(Default::default()).unsent_entries, 0);
    for page in &pages {
        assert_eq!(cluster.read("c-0-1", page), 1);
    }
}

#[test]
fn loss_repetition_and_reordering_change_nothing_in_the_end() {
    for seed in 0..5 {
        let mut cluster = cluster();
        cluster.chaos = 15 + seed;
        for round in 0..60 {
            let node = NODES[round % 3];
            cluster.count(node, ["a", "b", "c", "d"][round % 4], 1).unwrap();
            cluster.run(50);
        }
        cluster.heal();
        cluster.until("all agree", |cluster| cluster.agree(&NODES, &["a", "b", "c", "d"]));
        for page in ["a", "b", "c", "d"] {
            assert_eq!(cluster.read_all(&NODES, page), [15, 15, 15]);
        }
        cluster.until("all is acknowledged", |cluster| {
            cluster.members.values().all(|member| member.replica.status(cluster.now()).unsent_entries == 0)
        });
    }
}

#[test]
fn what_no_longer_fits_the_queue_for_a_dead_peer_reaches_it_by_pulling() {
    let config = ReplicaConfig { pending_keys_max: 10, ..ReplicaConfig::default() };
    let mut cluster = Cluster::with(&layout(1, &[("0-16383", 2)], None), config);
    cluster.partition("c-0-1");
    let pages: Vec<String> = (0..50).map(|number| format!("page-{number}")).collect();
    let mut mark = CommitMark(0);
    for page in &pages {
        mark = cluster.count("c-0-0", page, 1).unwrap();
    }
    cluster.run(1_000);
    assert_eq!(cluster.member("c-0-0").replica.acknowledged(), CommitMark(0));
    assert!(cluster.member("c-0-0").replica.status(Default::default()).unsent_entries > 10);
    cluster.heal();
    cluster.until("all is acknowledged", |cluster| cluster.members[&"c-0-0".into()].replica.acknowledged() == mark);
    for page in &pages {
        assert_eq!(cluster.member("c-0-1").storage.counters[&key(page)].tally(), 1);
    }
}

#[test]
fn a_draining_node_is_done_when_its_siblings_have_everything() {
    let mut cluster = cluster();
    cluster.count("c-0-0", "a", 1).unwrap();
    cluster.member("c-0-0").replica.drain();
    assert!(!cluster.member("c-0-0").replica.drained());
    cluster.run(50);
    assert!(cluster.member("c-0-0").replica.drained());
}
