use super::cluster::{Cluster, key, layout};
use crate::counter::Update;
use crate::id::ActorId;
use crate::layout::LayoutVersion;
use crate::message::{Message, RetireProposal};
use crate::replica::{Effect, ReplicaConfig, Report};
use crate::vector::Generation;

const NODES: [&str; 3] = ["c-0-0", "c-0-1", "c-0-2"];

fn cluster() -> Cluster {
    Cluster::of(&layout(1, &[("0-16383", 3)], None))
}

fn restart(cluster: &mut Cluster, node: &str) {
    cluster.crash(node);
    cluster.start(node);
}

fn generation(cluster: &Cluster, node: &str, page: &str) -> Generation {
    cluster.members[&node.into()].table.slot(key(page).slot()).generation()
}

#[test]
fn a_restart_retires_the_old_actor_and_changes_no_count() {
    for restarted in NODES {
        let mut cluster = cluster();
        for node in NODES {
            cluster.count(node, "a", 3).unwrap();
        }
        cluster.run(100);
        restart(&mut cluster, restarted);
        cluster.count(restarted, "a", 1).unwrap();
        cluster.run(10_000);
        for node in NODES {
            assert_eq!((cluster.actors(node, "a"), cluster.read(node, "a")), (3, 10), "{node} after {restarted} restarted");
            assert_eq!(generation(&cluster, node, "a"), Generation(1));
        }
    }
}

#[test]
fn entries_stay_bounded_however_often_nodes_restart() {
    let mut cluster = cluster();
    for round in 0..12 {
        cluster.count(NODES[round % 3], "a", 1).unwrap();
        cluster.run(100);
        restart(&mut cluster, NODES[round % 3]);
        cluster.run(8_000);
    }
    cluster.run(10_000);
    for node in NODES {
        assert_eq!((cluster.actors(node, "a"), cluster.read(node, "a")), (0, 12));
    }
}

#[test]
fn a_sibling_that_cannot_be_reached_blocks_retirement() {
    let mut cluster = cluster();
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    cluster.partition("c-0-2");
    restart(&mut cluster, "c-0-1");
    cluster.run(60_000);
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(0));
    cluster.heal();
    cluster.until("it is retired", |cluster| NODES.iter().all(|node| cluster.actors(node, "a") == 0));
}

#[test]
fn what_only_an_absent_sibling_knew_of_a_closed_actor_is_not_lost() {
    let mut cluster = cluster();
    cluster.partition("c-0-0");
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    // c-0-1 comes back on an older copy of its volume; c-0-2 alone knows.
    cluster.partition("c-0-2");
    cluster.crash("c-0-1");
    cluster.member("c-0-1").storage.counters.clear();
    cluster.start("c-0-1");
    cluster.run(5_000);
    cluster.heal();
    cluster.run(30_000);
    for node in NODES {
        assert_eq!((cluster.actors(node, "a"), cluster.read(node, "a")), (0, 3), "{node}");
    }
}

#[test]
fn a_slot_on_the_move_keeps_its_actors() {
    use crate::layout::MovePhase::{Copying, Flipped};
    let (growing, grown) = ([("0-16383", 2), ("", 1)], [("0-8191", 2), ("8192-16383", 1)]);
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.join("c-1-0");
    cluster.count("c-0-1", "foo", 3).unwrap();
    cluster.run(100);
    cluster.offer_all(&layout(2, &growing, Some((0, 1, "8192-16383", Copying))));
    restart(&mut cluster, "c-0-1");
    cluster.run(20_000);
    assert_eq!(generation(&cluster, "c-0-0", "foo"), Generation(0));
    cluster.offer_all(&layout(3, &grown, Some((0, 1, "8192-16383", Flipped))));
    cluster.run(20_000);
    assert_eq!(generation(&cluster, "c-1-0", "foo"), Generation(0));
    cluster.offer_all(&layout(4, &grown, None));
    cluster.run(20_000);
    assert_eq!((generation(&cluster, "c-1-0", "foo"), cluster.read("c-1-0", "foo")), (Generation(1), 3));
}

/// Runs until c-0-0 is about to be sent an answer to a proposal, and takes the answers off the wire.
fn answers(cluster: &mut Cluster) -> Vec<super::cluster::Sent> {
    for _ in 0..1_000 {
        cluster.tick();
        let mut answers = Vec::new();
        while let Some(sent) = cluster.wire.pop_front() {
            match sent.message {
                Message::RetireReply { .. } => answers.push(sent),
                _ => cluster.deliver(sent),
            }
        }
        if !answers.is_empty() {
            return answers;
        }
    }
    panic!("there is no proposal");
}

fn with_closed_actor() -> Cluster {
    let mut cluster = cluster();
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    restart(&mut cluster, "c-0-1");
    cluster
}

#[test]
fn all_siblings_must_agree_in_one_round() {
    let mut cluster = with_closed_actor();
    let mut first = answers(&mut cluster);
    assert_eq!(first.len(), 2);
    cluster.deliver(first.remove(0));
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(0), "one has not answered");
    let mut second = answers(&mut cluster);
    second.retain(|sent| sent.from == first[0].from);
    cluster.deliver(second.remove(0));
    cluster.deliver(first.remove(0));
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(0), "each has answered, in another round");
}

/// The first node has folded what all agreed to, and is gone before anybody has heard of it; then the others count on, and
/// one of them starts anew.
fn with_a_fold_that_is_gone() -> Cluster {
    let mut cluster = with_closed_actor();
    let replies = answers(&mut cluster);
    replies.into_iter().for_each(|sent| cluster.deliver(sent));
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(1));
    cluster.wire.clear();
    cluster.crash("c-0-0");
    cluster.count("c-0-2", "a", 5).unwrap();
    cluster.run(100);
    restart(&mut cluster, "c-0-2");
    cluster
}

#[test]
fn a_fold_that_only_its_maker_has_comes_back_with_its_volume_and_everything_counts_once() {
    let mut cluster = with_a_fold_that_is_gone();
    cluster.run(120_000);
    assert_eq!(generation(&cluster, "c-0-1", "a"), Generation(0), "the others wait, however long");
    assert_eq!(cluster.read_all(&NODES[1..], "a"), [8, 8]);
    cluster.start("c-0-0");
    cluster.until("all is folded", |cluster| NODES.iter().all(|node| cluster.actors(node, "a") == 0));
    assert_eq!(cluster.read_all(&NODES, "a"), [8, 8, 8]);
}

/// Why the others wait even for a node whose loss a person has accepted: under a name there may be its old volume again,
/// and of two folds of one generation each side takes the other's for its own.
#[test]
fn folded_without_the_absent_one_they_would_stay_apart_after_its_return() {
    let mut cluster = with_a_fold_that_is_gone();
    cluster.run(5_000);
    for node in &NODES[1..] {
        let member = cluster.member(node);
        let closed = member.table.slot(key("a").slot()).actors();
        member.table.slot(key("a").slot()).retire(&closed);
    }
    assert_eq!(cluster.read_all(&NODES[1..], "a"), [8, 8]);
    cluster.start("c-0-0");
    cluster.run(60_000);
    assert_eq!(cluster.read_all(&NODES, "a"), [3, 8, 8], "it never hears of the 5");
    cluster.count("c-0-1", "a", 1).unwrap();
    cluster.run(60_000);
    assert_eq!(cluster.read_all(&NODES, "a"), [4, 9, 9], "and however long they talk, they stay apart");
}

#[test]
fn agreement_under_an_older_layout_counts_nothing() {
    let mut cluster = with_closed_actor();
    let late = answers(&mut cluster);
    cluster.offer_all(&layout(2, &[("0-16383", 3)], None));
    late.into_iter().for_each(|sent| cluster.deliver(sent));
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(0));
    cluster.run(20_000);
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(1), "under the new one they agree again");
}

#[test]
fn a_sibling_does_not_agree_to_what_is_not_durable_at_it() {
    let mut cluster = cluster();
    cluster.member("c-0-2").holds_writes = true;
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    restart(&mut cluster, "c-0-1");
    cluster.run(20_000);
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(0));
    cluster.release_writes("c-0-2");
    cluster.run(20_000);
    assert_eq!(generation(&cluster, "c-0-2", "a"), Generation(1));
}

#[test]
fn a_siblings_new_actor_that_the_proposer_has_not_heard_of_is_not_retired() {
    let mut cluster = cluster();
    cluster.run(1_000);
    cluster.partition("c-0-1");
    // It has taken a new actor, whose first entry comes to the proposer through the third node only.
    let member = cluster.member("c-0-1");
    let origin = member.replica.actor().origin;
    let effects = member.replica.actor_renewed(&member.table, ActorId::new(origin, 2, 0));
    cluster.perform(&"c-0-1".into(), effects);
    cluster.count("c-0-1", "a", 3).unwrap();
    let delta = cluster.member("c-0-1").table.slot(key("a").slot()).delta(key("a").slot(), &[key("a")]);
    for node in ["c-0-0", "c-0-2"] {
        cluster.member(node).table.merge(&delta);
    }
    cluster.run(2_000);
    cluster.heal();
    // The proposer still takes the earlier actor for the current one when it proposes.
    let number = 1;
    let actors = vec![ActorId::new(origin, 2, 0)];
    let vector = cluster.member("c-0-0").table.slot(key("a").slot()).clone();
    let proposal = RetireProposal {
        slot: key("a").slot(),
        generation: vector.generation(),
        floor_ms: 0,
        digest: vector.digest_of(&actors),
        actors,
    };
    let ask = Message::RetireAsk { round: number, layout: LayoutVersion(1), slots: vec![proposal] };
    let header = cluster.member("c-0-0").replica.header(Some("c-0-1".into()), Default::default());
    let now = cluster.now();
    let member = cluster.member("c-0-1");
    let effects = member.replica.handle_message(&member.table, now, &header, ask);
    let refused = Message::RetireReply { round: number, layout: LayoutVersion(1), agreed: Vec::new() };
    assert_eq!(effects[0], Effect::Send { to: "c-0-0".into(), message: refused });
    cluster.run(20_000);
    assert_eq!((generation(&cluster, "c-0-0", "a"), cluster.read("c-0-0", "a")), (Generation(0), 3));
}

#[test]
fn a_reset_before_the_restart_is_folded_too() {
    let mut cluster = cluster();
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    cluster.update("c-0-2", "a", Update::Reset).unwrap();
    cluster.run(100);
    restart(&mut cluster, "c-0-1");
    cluster.count("c-0-1", "a", 1).unwrap();
    cluster.run(10_000);
    assert_eq!(cluster.read_all(&NODES, "a"), [1, 1, 1]);
    // That of the new start, and that of the reset itself.
    assert_eq!(cluster.actors("c-0-2", "a"), 2);
}

#[test]
fn a_restart_between_the_fold_and_its_write_loses_nothing() {
    let mut cluster = cluster();
    cluster.count("c-0-1", "a", 3).unwrap();
    cluster.run(100);
    restart(&mut cluster, "c-0-1");
    cluster.member("c-0-0").holds_writes = true;
    cluster.run(10_000);
    assert_eq!(generation(&cluster, "c-0-0", "a"), Generation(1), "folded in memory");
    restart(&mut cluster, "c-0-0");
    cluster.run(20_000);
    for node in NODES {
        assert_eq!((cluster.actors(node, "a"), cluster.read(node, "a")), (0, 3), "{node}");
    }
}

#[test]
fn a_slot_of_too_many_counters_keeps_its_actors_and_says_so() {
    let config = ReplicaConfig { retire_slot_counters_max: 10, ..ReplicaConfig::default() };
    let mut cluster = Cluster::with(&layout(1, &[("0-16383", 1)], None), config);
    for number in 0..11 {
        cluster.count("c-0-0", &format!("{{same}}{number}"), 1).unwrap();
    }
    restart(&mut cluster, "c-0-0");
    cluster.run(20_000);
    assert_eq!(cluster.actors("c-0-0", "{same}"), 1);
    let reports = &cluster.member("c-0-0").reports;
    assert!(matches!(reports[..], [Report::SlotTooLarge { counters: 11, .. }]), "{reports:?}");
}

#[test]
fn a_record_that_retires_this_nodes_own_actor_makes_it_take_a_new_one() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.count("c-0-0", "a", 3).unwrap();
    cluster.run(100);
    let own = cluster.member("c-0-0").replica.actor();
    // As only a mistake outside the protocol could bring about.
    cluster.member("c-0-1").table.slot(key("a").slot()).retire(&[own]);
    cluster.until("it has a new actor", |cluster| cluster.members[&"c-0-0".into()].replica.actor() != own);
    cluster.count("c-0-0", "a", 1).unwrap();
    cluster.run(5_000);
    assert_eq!(cluster.read_all(&["c-0-0", "c-0-1"], "a"), [4, 4]);
}
