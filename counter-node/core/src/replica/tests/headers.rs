use super::cluster::{Cluster, key, layout};
use crate::hlc::{DRIFT_MAX_MS, Hlc};
use crate::id::{ActorId, ClusterId};
use crate::message::{Header, Message};
use crate::replica::{Effect, Report};

fn cluster() -> Cluster {
    Cluster::of(&layout(1, &[("0-16383", 2)], None))
}

/// What c-0-0 makes of a delta of c-0-1 whose header has been tampered with.
fn received(cluster: &mut Cluster, tamper: impl FnOnce(&mut Header)) -> Vec<Effect> {
    cluster.count("c-0-1", "a", 5).unwrap();
    let slot = key("a").slot();
    let delta = cluster.member("c-0-1").table.slot(slot).delta(slot, &[key("a")]);
    let mut header = cluster.member("c-0-1").replica.header(Some("c-0-0".into()), Hlc::default());
    tamper(&mut header);
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    member.replica.handle_message(&member.table, now, &header, Message::Delta { sequence: 1, slots: vec![delta] })
}

#[test]
fn a_clock_too_far_ahead_is_refused_and_reported_once_and_nothing_is_merged() {
    let mut cluster = cluster();
    let far = Hlc::from_wall_ms(cluster.now().wall_ms + DRIFT_MAX_MS + 1);
    let effects = received(&mut cluster, |header| header.clock = far);
    assert!(matches!(effects[..], [Effect::Report(Report::ClockDrift { .. })]), "{effects:?}");
    assert_eq!(received(&mut cluster, |header| header.clock = far), []);
    assert_eq!(cluster.read("c-0-0", "a"), 0);
    assert!(cluster.member("c-0-0").replica.clock() < far);
}

#[test]
fn a_clock_within_the_bound_is_followed() {
    let mut cluster = cluster();
    let near = Hlc::from_wall_ms(cluster.now().wall_ms + 1_000);
    received(&mut cluster, |header| header.clock = near);
    assert_eq!((cluster.read("c-0-0", "a"), cluster.member("c-0-0").replica.clock()), (5, near));
}

#[test]
fn another_cluster_is_refused_and_reported() {
    let mut cluster = cluster();
    let effects = received(&mut cluster, |header| header.cluster = Some(ClusterId(8)));
    assert!(matches!(effects[..], [Effect::Report(Report::OtherCluster { .. })]), "{effects:?}");
    assert_eq!(cluster.read("c-0-0", "a"), 0);
}

#[test]
fn a_message_for_another_node_is_ignored() {
    let mut cluster = cluster();
    assert_eq!(received(&mut cluster, |header| header.to = Some("c-0-1".into())), []);
    assert_eq!(cluster.read("c-0-0", "a"), 0);
}

#[test]
fn a_later_start_under_the_same_name_stops_this_one_from_writing() {
    let mut cluster = cluster();
    let own = cluster.member("c-0-0").replica.actor();
    let later = ActorId::new(own.origin, 9, 9);
    let effects = received(&mut cluster, |header| {
        header.from = "c-0-0".into();
        header.actor = later;
    });
    assert!(matches!(effects[..], [Effect::Report(Report::Superseded { by, .. })] if by == later), "{effects:?}");
    assert!(cluster.count("c-0-0", "a", 1).is_none());
}

#[test]
fn what_peers_say_of_a_process_of_another_origin_stops_nobody() {
    let mut cluster = cluster();
    let by = ActorId::new(cluster.member("c-0-0").replica.actor().origin + 1, 9, 9);
    let header = cluster.member("c-0-1").replica.header(Some("c-0-0".into()), Default::default());
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    let effects = member.replica.handle_message(&member.table, now, &header, Message::Superseded { by, silent_ms: 0 });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Report(_))), "{effects:?}");
    assert!(cluster.count("c-0-0", "a", 1).is_some());
}

#[test]
fn a_renewal_that_comes_late_does_not_turn_the_actor_back() {
    let mut cluster = cluster();
    let member = cluster.member("c-0-0");
    let origin = member.replica.actor().origin;
    let (earlier, later) = (ActorId::new(origin, 8, 0), ActorId::new(origin, 9, 0));
    member.replica.actor_renewed(&member.table, later);
    assert_eq!(member.replica.actor_renewed(&member.table, earlier), []);
    assert_eq!(member.replica.actor(), later);
}

#[test]
fn an_earlier_start_that_speaks_late_is_told_so_and_its_follower_is_not_disturbed() {
    let mut cluster = cluster();
    let earlier = cluster.member("c-0-1").replica.actor();
    cluster.crash("c-0-1");
    cluster.start("c-0-1");
    cluster.run(5_000);
    let current = cluster.member("c-0-1").replica.actor();
    let effects = received(&mut cluster, |header| header.actor = earlier);
    let told = |effect: &Effect| {
        matches!(effect, Effect::Send { to, message: Message::Superseded { by, silent_ms: 0..=1_000 } }
            if to.0 == "c-0-1" && *by == current)
    };
    assert!(told(&effects[0]), "{effects:?}");
    assert_eq!(cluster.read("c-0-0", "a"), 5, "what it says is true all the same");
    cluster.perform(&"c-0-0".into(), effects);
    cluster.deliver_all();
    assert_eq!(cluster.member("c-0-1").reports, []);
    assert!(cluster.count("c-0-1", "a", 1).is_some());
}
