//! What the simulation has found, each by itself.

use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::presence::GatewayId;
use tokio::time::{Instant, advance};

use super::super::{AT_ONCE, CLAIMED, Claim};
use super::network::Network;
use super::process::{Process, Times};
use crate::clock::millis;
use crate::live::claims::{Claimant, Session};
use crate::lock::lock;

const TIMES: Times = Times { heartbeat: Duration::from_secs(20), lease: Duration::from_secs(5) };

fn session(id: &str) -> Session {
    Session { page: Key::new(b"p").unwrap(), id: id.into() }
}

fn claim(claimant: Claimant, time: Duration) -> Claim {
    Claim { session: session("a"), user: None, claimant, resumes: None, for_ms: millis(time), ago_ms: 0 }
}

/// A process on each of so many nodes.
fn processes(nodes: usize) -> (Arc<Network>, Vec<Arc<Process>>) {
    let network = Network::new(0, nodes, None, false);
    for (node, start) in network.nodes.iter().zip(1..) {
        Process::begin(&network, node, start, TIMES);
    }
    (network.clone(), network.up())
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_claimed_after_its_end_does_not_begin_anew() {
    let (_network, processes) = processes(1);
    let sessions = &processes[0].sessions;
    let connection = |number| Claimant::Connection { gateway: 7, number };
    assert_eq!(sessions.take(&[claim(connection(1), Duration::ZERO)], false), Some(vec![true]));
    assert_eq!(sessions.take(&[claim(connection(1), TIMES.heartbeat)], false), Some(vec![true]));
    assert_eq!(sessions.held(), 0, "its end has overtaken its beginning, or a renewal");
    sessions.take(&[claim(connection(2), TIMES.heartbeat)], false);
    assert_eq!(sessions.held(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_connection_that_has_a_session_again_claims_it_anew() {
    let (_network, processes) = processes(1);
    let sessions = &processes[0].sessions;
    for _ in 0..3 {
        sessions.connected(session("a"), 1, None, None);
        tokio::task::yield_now().await;
        assert_eq!(sessions.held(), 1);
        sessions.disconnected(session("a"), 1);
        tokio::task::yield_now().await;
        assert_eq!(sessions.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_tabs_that_were_sent_away_one_that_is_back_and_closed_does_not_hide_the_other() {
    let (_network, processes) = processes(1);
    let sessions = &processes[0].sessions;
    let orphan = |connection| Claimant::Orphan { gateway: 7, connection };
    sessions.take(&[1, 2].map(|connection| claim(orphan(connection), TIMES.heartbeat)), true);
    let resumes = |claim, connection| Claim { resumes: Some(orphan(connection)), ..claim };
    let back = Claimant::Connection { gateway: 8, number: 1 };
    sessions.take(&[resumes(claim(back, TIMES.heartbeat), 1)], false);
    sessions.take(&[claim(back, Duration::ZERO)], false);
    assert_eq!(sessions.held(), 1, "the second tab is on its way");
    // All that its holder hears of the second one is its end.
    sessions.take(&[resumes(claim(Claimant::Connection { gateway: 8, number: 2 }, Duration::ZERO), 2)], false);
    assert_eq!(sessions.held(), 0);
    sessions.take(&[claim(orphan(1), TIMES.heartbeat)], true);
    assert_eq!(sessions.held(), 0, "its client was back before it was handed over");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_were_handed_over_stand_when_the_last_one_came_after_their_end_here() {
    let (_network, processes) = processes(1);
    let sessions = &processes[0].sessions;
    sessions.take(&[claim(Claimant::Heartbeats, TIMES.heartbeat)], false);
    sessions.take(&[claim(Claimant::Heartbeats, Duration::ZERO)], false);
    advance(Duration::from_secs(5)).await;
    let last_one = |ago| claim(Claimant::Heartbeats, TIMES.heartbeat - Duration::from_secs(ago));
    sessions.take(&[last_one(6)], true);
    assert_eq!(sessions.held(), 0, "who hands it over has not heard of the end");
    sessions.take(&[last_one(4)], true);
    assert_eq!(sessions.held(), 1, "it has begun anew elsewhere");
}

/// A process that holds a session of a connection of its own, and another one that is there, too.
async fn held_by_the_first() -> (Arc<Network>, Arc<Process>, Arc<Process>) {
    let (network, processes) = processes(2);
    let (first, second) = (processes[0].clone(), processes[1].clone());
    let is_of_first = |session: &Session| first.sessions.holders(session).first() == Some(&first.node);
    let session = (0..).map(|id: u32| session(&id.to_string())).find(is_of_first).unwrap();
    first.sessions.connected(session, 1, None, None);
    tokio::task::yield_now().await;
    assert_eq!((first.sessions.held(), second.sessions.held()), (1, 0));
    (network, first, second)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_although_it_believes_in_nobody() {
    let (_network, first, second) = held_by_the_first().await;
    // The other one has been there before, and has said farewell; it is not heard anew yet.
    first.hear(&GatewayId { node: NodeName::from("n1"), start: 99 }, true);
    first.begin_leaving(TIMES.lease);
    first.sessions.hand_on().await;
    assert_eq!(second.sessions.held(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_heartbeats_although_it_believes_in_nobody() {
    let (_network, processes) = processes(2);
    processes[0].sessions.take(&[claim(Claimant::Heartbeats, TIMES.heartbeat)], false);
    processes[0].hear(&GatewayId { node: NodeName::from("n1"), start: 99 }, true);
    processes[0].begin_leaving(TIMES.lease);
    processes[0].sessions.hand_on().await;
    assert_eq!(held(&processes), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_not_given_up_before_what_connections_claimed_has_gone_ahead() {
    let (_network, first, second) = held_by_the_first().await;
    first.begin_leaving(TIMES.lease);
    // As with the next look, whoever comes first.
    first.sessions.hand_to_holders().await;
    assert_eq!((first.sessions.held(), second.sessions.held()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn ends_are_forgotten_when_nobody_is_to_be_told_again_although_no_other_end_comes() {
    let (_network, processes) = processes(1);
    let sessions = &processes[0].sessions;
    for number in 0..10_000 {
        sessions.end(session(&number.to_string())).await.unwrap();
    }
    assert_eq!(lock(&sessions.ends).len(), 10_000);
    advance(CLAIMED).await;
    sessions.expire(Instant::now());
    let ends = lock(&sessions.ends);
    assert!(ends.is_empty() && ends.capacity() <= AT_ONCE, "{} of room is kept", ends.capacity());
}

/// Three processes, and a session that is the first one's to hold, else the second one's.
fn in_the_order_of_three() -> (Arc<Network>, Vec<Arc<Process>>, Session) {
    let (network, processes) = processes(3);
    let is_in_order = |session: &Session| processes[0].sessions.holders(session) == network.nodes;
    let session = (0..).map(|id: u32| session(&id.to_string())).find(is_in_order).unwrap();
    (network, processes, session)
}

fn held(processes: &[Arc<Process>]) -> Vec<usize> {
    processes.iter().map(|process| process.sessions.held()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_stopping_node_does_not_take_is_handed_to_the_next_one() {
    let (_network, processes, session) = in_the_order_of_three();
    processes[2].sessions.beat(session, None).await.unwrap();
    assert_eq!(held(&processes), [1, 0, 0]);
    // The first one has not heard that the second one stops, too.
    processes.iter().take(2).for_each(|process| process.begin_leaving(TIMES.lease));
    processes[0].sessions.hand_on().await;
    assert_eq!(held(&processes), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_stopping_node_holds_on_to_what_another_one_that_stops_would_replace() {
    let (_network, processes, session) = in_the_order_of_three();
    processes[1].sessions.connected(session, 1, None, None);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(held(&processes), [1, 0, 0]);
    processes.iter().take(2).for_each(|process| process.begin_leaving(TIMES.lease));
    processes[1].sessions.hand_on().await;
    assert_eq!(held(&processes), [1, 0, 1], "the first one counts it until it has handed it on itself");
    processes[0].sessions.hand_on().await;
    assert_eq!(held(&processes), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_took_a_heartbeat_tells_it_whoever_holds_the_session_when_its_holder_has_crashed() {
    let (_network, processes, session) = in_the_order_of_three();
    let [second, third] = [1, 2].map(|process: usize| processes[process].sessions.clone());
    third.beat(session.clone(), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    processes[0].end();
    tokio::time::sleep(TIMES.lease).await;
    assert_eq!((second.held(), third.held()), (1, 0));
    tokio::time::sleep(TIMES.heartbeat - Duration::from_secs(10) - TIMES.lease).await;
    assert_eq!(second.held(), 1);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((second.held(), third.held()), (0, 0), "it is over when it would have been at its first holder");
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_through_another_node_does_not_begin_anew_when_its_holder_has_crashed() {
    let (_network, processes, session) = in_the_order_of_three();
    processes[2].sessions.beat(session.clone(), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    processes[1].sessions.end(session).await.unwrap();
    processes[0].end();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(held(&processes)[1..].iter().sum::<usize>() == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_long_ago_at_a_holder_that_lives_does_not_begin_anew_when_another_node_has_crashed() {
    let (_network, processes, session) = in_the_order_of_three();
    processes[2].sessions.beat(session.clone(), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    processes[1].sessions.end(session).await.unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    processes[1].end();
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!((processes[0].sessions.held(), processes[2].sessions.held()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_asked_in_vain_until_it_is_missed_is_missed_all_the_same() {
    let (_network, processes, session) = in_the_order_of_three();
    let third = &processes[2].sessions;
    third.beat(session.clone(), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    processes[0].end();
    let is_for_the_first = |other: &Session| *other != session && third.holders(other).first() == Some(&processes[0].node);
    let other = (0..).map(|id: u32| self::session(&id.to_string())).find(is_for_the_first).unwrap();
    let since = Instant::now();
    while since.elapsed() < TIMES.lease {
        third.beat(other.clone(), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let second = lock(&processes[1].sessions.held);
    assert!(second.number(&session).is_some(), "nobody is missing when what the first one had is gone");
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_at_a_holder_that_stops_does_not_count_on_where_another_one_hands_it_over_late() {
    let (_network, processes, session) = in_the_order_of_three();
    let orphan = Claimant::Orphan { gateway: 7, connection: 1 };
    let claim = |claimant, time| Claim { session: session.clone(), ..claim(claimant, time) };
    // The second one has held it, and has yet to hear that it is not to. The first one hears that its client is back, and has left.
    processes[1].sessions.take(&[claim(orphan, TIMES.heartbeat)], true);
    let back = claim(Claimant::Connection { gateway: 8, number: 1 }, Duration::ZERO);
    processes[0].sessions.take(&[Claim { resumes: Some(orphan), ..back }], false);
    processes[0].begin_leaving(TIMES.lease);
    processes[0].sessions.hand_on().await;
    processes[1].begin_leaving(TIMES.lease);
    processes[1].sessions.hand_on().await;
    assert_eq!(held(&processes), [0, 0, 0]);
}
