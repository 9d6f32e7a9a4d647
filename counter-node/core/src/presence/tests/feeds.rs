//! Who is fed by whom, when replicas start anew, leave, and hear of each other's gateways.

use super::*;

/// A page of shard 0 that all nodes have had more and more sessions on. No answer of shard 0 has reached the node of shard 1 that
/// watches it, unless `answers`.
fn watched_for_a_while(layout: &Layout, answers: bool) -> (Cluster, NodeName, &'static str) {
    let mut cluster = Cluster::new(layout);
    let (watcher, page) = (name(1, 0), pages().0);
    for sessions in 1..20 {
        cluster.now_ms += 50;
        for name in cluster.names() {
            cluster.at(&name, |presence, table, now| {
                presence.set_sessions(&key(page), sessions, now);
                presence.handle_tick(table, now)
            });
        }
        while let Some((from, to, message)) = cluster.on_way.pop_front() {
            let is_answer = to == watcher && from.0.starts_with("c-0-") && matches!(message, PresenceMessage::RenewalAck(_));
            if answers || !is_answer {
                cluster.at(&to, |presence, table, now| presence.handle_messages(table, now, &from, vec![message]));
            }
        }
    }
    (cluster, watcher, page)
}

fn feeds(cluster: &Cluster, replica: &NodeName, watcher: &NodeName) -> bool {
    let owner = &cluster.places[replica].presence.owner;
    let number = owner.known(cluster.places[watcher].presence.id());
    number.and_then(|number| owner.gateways.get(&number)).is_some_and(|gateway| gateway.feed.is_some())
}

#[test]
fn a_replica_that_starts_anew_before_any_answer_has_come_feeds_all_the_same() {
    let layout = layout(1, 2, 2, vec![], 1);
    let (mut cluster, watcher, page) = watched_for_a_while(&layout, false);
    for replica in [name(0, 0), name(0, 1)] {
        cluster.start(&replica, 2);
        cluster.at(&replica, |presence, table, now| presence.adopt_layout(table, now, &layout));
    }
    cluster.run(6_000);
    cluster.set(&name(1, 1), page, 100);
    cluster.run(200);
    assert_eq!(cluster.places[&watcher].fed[&key(page)].viewers, 119);
}

#[test]
fn a_replica_that_starts_anew_while_it_is_in_no_layout_feeds_all_the_same() {
    let (mut cluster, watcher, page) = watched_for_a_while(&layout(1, 2, 1, vec![], 1), true);
    let mut without = layout(2, 2, 1, vec![], 1);
    without.shards[0].nodes.clear();
    cluster.adopt(&without);
    cluster.start(&name(0, 0), 2);
    cluster.adopt(&layout(3, 2, 1, vec![], 1));
    cluster.run(6_000);
    cluster.set(&name(0, 0), page, 100);
    cluster.run(200);
    assert_eq!(cluster.places[&watcher].fed[&key(page)].viewers, 119);
}

#[test]
fn a_renewal_that_a_sibling_has_told_of_names_the_feed_all_the_same() {
    let (mut cluster, watcher, _) = watched_for_a_while(&layout(1, 2, 2, vec![], 1), true);
    let replicas = [name(0, 0), name(0, 1)];
    let before = replicas.iter().position(|replica| feeds(&cluster, replica, &watcher)).unwrap();
    let (leaving, other) = (&replicas[before], &replicas[1 - before]);
    cluster.at(leaving, |presence, table, now| presence.farewell(table, now));
    let mut late = Vec::new();
    for _ in 0..3 {
        while let Some((from, to, message)) = cluster.on_way.pop_front() {
            if from == watcher && to == *other {
                late.push(message);
            } else {
                cluster.at(&to, |presence, table, now| presence.handle_messages(table, now, &from, vec![message]));
            }
        }
        cluster.now_ms += 50;
        for name in [&watcher, leaving] {
            cluster.at(name, |presence, table, now| presence.handle_tick(table, now));
        }
    }
    assert!(!feeds(&cluster, other, &watcher) && !late.is_empty());
    cluster.at(other, |presence, table, now| presence.handle_messages(table, now, &watcher, late));
    assert!(feeds(&cluster, other, &watcher));
}
