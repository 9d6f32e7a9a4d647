use super::cluster::{Cluster, layout};
use crate::id::ActorId;
use crate::message::Message;
use crate::replica::{Effect, Report};
use crate::status::Readiness;

const PAGE: &str = "bar"; // slot 5061

/// A cluster whose first node has started four times, and has got the volume of its first start back.
fn restored(shards: &[(&str, u16)]) -> (Cluster, ActorId) {
    let mut cluster = Cluster::of(&layout(1, shards, None));
    cluster.count("c-0-0", PAGE, 3).unwrap();
    cluster.run(200);
    let snapshot = cluster.member("c-0-0").storage.clone();
    for _ in 0..3 {
        cluster.crash("c-0-0");
        cluster.start("c-0-0");
        cluster.run(2_000);
        cluster.count("c-0-0", PAGE, 4).unwrap();
        cluster.run(2_000);
    }
    let latest = cluster.member("c-0-0").replica.actor();
    cluster.crash("c-0-0");
    cluster.member("c-0-0").storage = snapshot;
    cluster.start("c-0-0");
    assert!(cluster.member("c-0-0").replica.actor() < latest);
    (cluster, latest)
}

#[test]
fn a_restored_volume_takes_a_start_above_those_that_peers_know_once_they_are_silent() {
    let (mut cluster, latest) = restored(&[("0-16383", 2)]);
    cluster.run(5_000);
    let node = cluster.member("c-0-0");
    assert_eq!(node.replica.readiness(), Readiness::MergingSiblings, "the later start was heard just now");
    assert!(cluster.count("c-0-0", PAGE, 1).is_none());
    cluster.until("it goes on", |cluster| cluster.members[&"c-0-0".into()].replica.readiness() == Readiness::Ready);
    let node = cluster.member("c-0-0");
    assert_eq!((node.replica.actor().starts(), node.reports.as_slice()), (latest.starts() + 1, &[] as &[Report]));
    cluster.count("c-0-0", PAGE, 1).unwrap();
    cluster.until("all is there again", |cluster| cluster.read_all(&["c-0-0", "c-0-1"], PAGE) == [16, 16]);
}

#[test]
fn the_only_replica_of_a_shard_hears_of_it_from_another_and_goes_on_as_well() {
    let (mut cluster, latest) = restored(&[("0-8191", 1), ("8192-16383", 1)]);
    cluster.until("it knows", |cluster| cluster.members[&"c-0-0".into()].replica.readiness() == Readiness::MergingSiblings);
    assert!(cluster.count("c-0-0", PAGE, 1).is_none());
    cluster.until("it goes on", |cluster| cluster.members[&"c-0-0".into()].replica.readiness() == Readiness::Ready);
    assert!(cluster.member("c-0-0").replica.actor() > latest);
    cluster.count("c-0-0", PAGE, 1).unwrap();
}

#[test]
fn a_new_process_gives_way_to_a_later_start_that_goes_on_speaking() {
    let (mut cluster, latest) = restored(&[("0-16383", 3)]);
    for _ in 0..35 {
        // One peer hears it, which is enough.
        let header = crate::message::Header {
            actor: latest,
            ..cluster.member("c-0-0").replica.header(Some("c-0-2".into()), Default::default())
        };
        let now = cluster.now();
        let peer = cluster.member("c-0-2");
        drop(peer.replica.handle_message(&peer.table, now, &header, Message::Hello));
        cluster.run(1_000);
        assert!(cluster.count("c-0-0", PAGE, 1).is_none());
    }
    let reports = &cluster.member("c-0-0").reports;
    assert!(matches!(reports[..], [Report::Superseded { by, .. }] if by == latest), "{reports:?}");
}

#[test]
fn a_process_that_is_not_new_gives_way_at_once_even_to_one_that_is_silent() {
    let mut cluster = Cluster::of(&layout(1, &[("0-16383", 2)], None));
    cluster.run(60_000);
    let own = cluster.member("c-0-0").replica.actor();
    let told = Message::Superseded { by: ActorId::new(own.origin, 9, 9), silent_ms: 3_600_000 };
    let header = cluster.member("c-0-1").replica.header(Some("c-0-0".into()), Default::default());
    let now = cluster.now();
    let member = cluster.member("c-0-0");
    let effects = member.replica.handle_message(&member.table, now, &header, told);
    assert!(matches!(effects[..], [Effect::Report(Report::Superseded { .. })]), "{effects:?}");
    assert!(cluster.count("c-0-0", PAGE, 1).is_none());
}
