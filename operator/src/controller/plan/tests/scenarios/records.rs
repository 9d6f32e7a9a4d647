//! Records of the layout that are lost, older, or contradicted.

use counter_core::id::ClusterId;

use super::super::world::World;
use crate::controller::plan::{Addresses, Change, Step, plan};

#[test]
fn a_lost_record_is_not_replaced() {
    let mut world = World::settled(2, 1);
    world.recorded = None;
    let plan = world.round();
    assert_eq!(plan.stalled.as_ref().map(|notice| notice.reason), Some("LayoutLost"));
    assert_eq!((plan.step, plan.publish, plan.remove.len()), (Step::Rest, None, 0));
    world.resize(1, 1);
    assert!(world.plan().remove.is_empty(), "nobody knows what the shard holds");
}

#[test]
fn without_a_record_nothing_shrinks_that_does_not_say_that_it_is_empty() {
    let mut world = World::settled(3, 3);
    world.resize(1, 1);
    world.recorded = None;
    for node in world.pods() {
        world.set_up(&node.0, false);
    }
    let plan = world.plan();
    assert_eq!((plan.step, plan.remove.len(), plan.shards.len()), (Step::Rest, 0, 3), "nobody knows what the shards hold");
    assert!(plan.shards.values().all(|shard| shard.replicas == 3));
}

#[test]
fn with_a_record_that_nodes_contradict_nothing_shrinks() {
    let mut world = World::settled(1, 1);
    let older = world.layout().clone();
    world.resize(2, 3);
    world.settle();
    world.recorded = Some(older);
    world.resize(1, 1);
    let plan = world.plan();
    assert_eq!(plan.stalled.as_ref().map(|notice| notice.reason), Some("LayoutBehind"));
    assert_eq!((plan.remove.len(), plan.shards.len()), (0, 2));
    assert!(plan.shards.values().all(|shard| shard.replicas == 3));
}

#[test]
fn a_volume_of_another_cluster_stalls_and_is_not_handed_the_layout() {
    let mut world = World::settled(1, 1);
    world.resize(1, 2);
    world.set_cluster("page-views-0-1", ClusterId(99));
    for _ in 0..5 {
        world.round();
    }
    assert_eq!(world.plan().stalled.map(|notice| notice.reason), Some("ForeignVolume"));
    assert_eq!(world.layout().nodes().count(), 1);
}

#[test]
fn an_older_record_is_put_above_what_nodes_have_seen_if_it_gives_nothing_to_others() {
    let mut world = World::settled(2, 1);
    let older = world.layout().clone();
    world.resize(3, 1);
    world.until(Change::Join);
    let newer = world.layout().version;
    world.recorded = Some(older);
    let plan = world.round();
    assert!(matches!(plan.step, Step::Record(Change::Reassert, _)), "{:?}", plan.step);
    assert_eq!((plan.stalled, world.layout().version), (None, newer.next()));
    world.settle();
    assert_eq!(world.held(), [5462, 5461, 5461]);
}

#[test]
fn an_older_record_that_gives_slots_to_others_stalls() {
    let mut world = World::settled(2, 1);
    let older = world.layout().clone();
    world.resize(3, 1);
    world.settle();
    world.recorded = Some(older);
    let plan = world.plan();
    assert_eq!(plan.stalled.as_ref().map(|notice| notice.reason), Some("LayoutBehind"));
    assert_eq!(plan.step, Step::Rest);
}

#[test]
fn new_addresses_are_published() {
    let world = World::settled(1, 1);
    let mut observed = world.observed();
    let mut node = world.layout().shards[0].nodes[0].clone();
    node.http = "127.0.0.1:18080".to_owned();
    observed.addresses = Addresses::Table([(node.name.clone(), node)].into());
    let plan = plan(&world.spec, &observed);
    let Step::Record(Change::Readdress, layout) = plan.step else { panic!("{:?}", plan.step) };
    assert_eq!(layout.shards[0].nodes[0].http, "127.0.0.1:18080");
}

#[test]
fn a_lost_record_does_not_make_the_cluster_look_empty() {
    let mut world = World::settled(2, 3);
    world.recorded = None;
    let plan = world.plan();
    assert_eq!(plan.stalled.as_ref().map(|notice| notice.reason), Some("LayoutLost"));
    let summary = plan.summary;
    assert_eq!((summary.shards, summary.ready_shards, summary.nodes, summary.ready_nodes), (2, 2, 6, 6));
    assert!(summary.is_available(), "its nodes serve every slot by their own account");
    for node in ["page-views-1-0", "page-views-1-1", "page-views-1-2"] {
        world.set_up(node, false);
    }
    let summary = world.plan().summary;
    assert_eq!((summary.shards, summary.ready_shards, summary.is_available()), (2, 1, false));
}
