//! Clusters that begin, grow and shrink.

use counter_core::id::{ClusterId, ShardId};
use counter_core::layout::LayoutVersion;
use counter_core::slot::SlotRange;

use super::super::world::World;
use super::message;
use crate::controller::plan::{Change, Step};
use crate::controller::validate::Storage;
use crate::crd::SecretKeyRef;

#[test]
fn a_new_cluster_gets_an_even_layout_once_a_majority_of_each_shard_waits() {
    let mut world = World::new(2, 3);
    let plan = world.round();
    assert_eq!(plan.step, Step::Rest);
    assert_eq!(plan.shards.len(), 2);
    assert!(message(plan.progress.as_ref()).contains("page-views-0-2 (does not exist yet)"), "{:?}", plan.progress);
    for node in ["page-views-1-1", "page-views-1-2"] {
        world.set_up(node, false);
    }
    assert_eq!(world.plan().step, Step::Rest);
    world.set_up("page-views-1-1", true);
    let plan = world.round();
    assert!(matches!(plan.step, Step::Record(Change::First, _)), "{:?}", plan.step);
    assert_eq!(world.layout().version, LayoutVersion(1));
    assert_eq!(world.held(), [8192, 8192]);
    assert_eq!(world.layout().nodes().count(), 6, "those that are not up yet are members all the same");
    let address = &world.layout().shards[1].nodes[2].peer;
    assert_eq!(address, "page-views-1-2.page-views-nodes.site.svc:8082");
    world.set_up("page-views-1-2", true);
    let plan = world.settle();
    assert_eq!((plan.blocked, plan.stalled, plan.update_pending), (None, None, None));
    assert!(plan.summary.is_available());
    assert_eq!((plan.summary.ready_shards, plan.summary.ready_nodes), (2, 6));
}

#[test]
fn a_cluster_in_redis_has_its_layout_before_its_nodes_and_none_anew_while_these_are_there() {
    let mut world = World::new(2, 2);
    world.spec.storage = Storage::Redis(SecretKeyRef { name: "redis".to_owned(), key: "url".to_owned() });
    let plan = world.round();
    assert!(matches!(plan.step, Step::Record(Change::First, _)), "{:?}", plan.step);
    assert_eq!((plan.cluster, plan.shards.len()), (Some(ClusterId(7)), 2));
    assert_eq!(world.layout().nodes().count(), 4);
    let plan = world.settle();
    assert_eq!((plan.stalled, plan.blocked), (None, None));
    assert!(plan.summary.is_available());

    world.recorded = None;
    for node in world.pods() {
        world.set_up(&node.0, false);
    }
    let plan = world.plan();
    assert_eq!((plan.step, plan.cluster, plan.remove.len()), (Step::Rest, None, 0));
    assert_eq!(plan.stalled.map(|notice| notice.reason), Some("LayoutLost"));
}

#[test]
fn growing_shards_copies_flips_and_finishes_one_move_after_the_other() {
    let mut world = World::settled(2, 3);
    world.resize(4, 3);
    world.settle();
    assert_eq!(world.held(), [4096; 4]);
    assert_eq!(world.moved, 8192);
    let moves = [Change::Copy, Change::Flip, Change::Finish];
    assert_eq!(world.history, [&[Change::Join][..], &moves, &moves].concat());
    let ranges: Vec<usize> = world.layout().shards.iter().map(|shard| shard.slots.len()).collect();
    assert_eq!(ranges, [1; 4]);
}

#[test]
fn growing_replicas_adds_the_nodes_that_answer() {
    let mut world = World::settled(2, 1);
    world.resize(2, 3);
    world.round();
    world.set_up("page-views-1-2", false);
    world.until(Change::Join);
    let nodes = |world: &World| world.layout().shards.iter().map(|shard| shard.nodes.len()).collect::<Vec<_>>();
    assert_eq!(nodes(&world), [3, 2]);
    world.set_up("page-views-1-2", true);
    world.settle();
    assert_eq!(nodes(&world), [3, 3]);
    assert_eq!(world.moved, 0);
}

#[test]
fn a_move_waits_for_every_node_of_both_shards_before_it_starts() {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    world.round();
    world.set_up("page-views-1-2", false);
    world.until(Change::Join);
    for _ in 0..5 {
        world.round();
    }
    assert_eq!(world.layout().moves, []);
    world.set_up("page-views-1-2", true);
    world.settle();
    assert_eq!(world.held(), [8192, 8192]);
}

#[test]
fn a_move_goes_on_without_a_minority_of_the_new_nodes() {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    world.until(Change::Copy);
    world.set_up("page-views-1-0", false);
    world.until(Change::Finish);
    assert_eq!(world.held(), [8192, 8192]);
}

#[test]
fn a_growth_that_flipped_nothing_is_undone() {
    for change in [Change::Join, Change::Copy] {
        let mut world = World::settled(2, 3);
        world.resize(4, 3);
        world.until(change);
        world.resize(2, 3);
        let plan = world.settle();
        assert_eq!(plan.blocked, None);
        assert_eq!(world.layout().shards.len(), 2, "after {change:?}");
        assert_eq!((world.shards.len(), world.pods().len(), world.moved), (2, 6, 0));
        assert!(world.history.ends_with(&[Change::Leave]), "{:?}", world.history);
    }
}

#[test]
fn before_the_first_layout_any_size_can_be_taken_back() {
    let mut world = World::new(4, 5);
    world.round();
    world.resize(1, 3);
    let plan = world.settle();
    assert_eq!(plan.blocked, None);
    assert_eq!((world.shards.len(), world.pods().len(), world.layout().nodes().count()), (1, 3, 3));
}

#[test]
fn a_growth_that_has_flipped_slots_cannot_be_taken_back_yet() {
    let mut world = World::settled(2, 3);
    world.resize(4, 3);
    world.until(Change::Flip);
    world.resize(2, 3);
    let plan = world.settle();
    assert_eq!(
        message(plan.blocked.as_ref()),
        "spec.shards is 2, but shards up to number 2 hold 4096 slots, and taking shards away is not supported yet; \
         set spec.shards to 3, the size that the cluster keeps meanwhile"
    );
    assert_eq!(world.held(), [4096, 8192, 4096], "no further slots move; the empty shard has left");
    assert_eq!(world.shards.len(), 3);
    world.resize(3, 3);
    let plan = world.settle();
    assert_eq!(plan.blocked, None);
    let held = world.held();
    assert_eq!(held.iter().max().unwrap() - held.iter().min().unwrap(), 1, "{held:?}");
}

#[test]
fn fewer_replicas_than_the_layout_names_are_refused() {
    let mut world = World::settled(1, 3);
    world.resize(1, 2);
    let plan = world.settle();
    assert!(message(plan.blocked.as_ref()).contains("set spec.replicas to 3"), "{:?}", plan.blocked);
    assert_eq!(world.pods().len(), 3);
}

#[test]
fn a_copying_move_is_taken_back_when_more_shards_leave_the_receiver_a_smaller_share() {
    let mut world = World::settled(1, 1);
    world.resize(2, 1);
    world.until(Change::Copy);
    world.resize(4, 1);
    world.until(Change::Cancel);
    world.settle();
    assert_eq!((world.held(), world.moved), (vec![4096; 4], 3 * 4096));
}

#[test]
fn a_missing_pod_changes_no_membership() {
    let mut world = World::settled(2, 3);
    let before = world.layout().clone();
    for node in ["page-views-0-0", "page-views-0-1", "page-views-0-2"] {
        world.set_up(node, false);
    }
    for _ in 0..5 {
        let plan = world.round();
        assert_eq!(plan.step, Step::Rest);
        assert_eq!(plan.summary.unserved, [ShardId(0)]);
        assert!(message(plan.progress.as_ref()).starts_with("waiting for page-views-0-2"), "{:?}", plan.progress);
    }
    assert_eq!(world.layout(), &before);
}

#[test]
fn the_first_ranges_of_a_cluster_are_whole() {
    let world = World::settled(1, 1);
    assert_eq!(world.layout().shards[0].slots, [SlotRange::ALL]);
}

#[test]
fn a_shard_keeps_every_node_that_the_layout_names_though_one_before_it_never_answered() {
    let mut world = World::settled(1, 2);
    world.resize(1, 4);
    world.act(|_| true);
    world.turn(|_| true);
    world.set_up("page-views-0-2", false);
    world.until(Change::Join);
    let names: Vec<&str> = world.layout().shards[0].nodes.iter().map(|node| node.name.0.as_str()).collect();
    assert_eq!(names, ["page-views-0-0", "page-views-0-1", "page-views-0-3"]);
    world.resize(1, 1);
    for _ in 0..4 {
        world.round();
        assert_eq!(world.shards[&ShardId(0)].replicas, 4, "a node of the layout was taken away");
    }
    let blocked = world.plan().blocked.unwrap();
    assert!(blocked.message.contains("set spec.replicas to 4"), "{}", blocked.message);
}
