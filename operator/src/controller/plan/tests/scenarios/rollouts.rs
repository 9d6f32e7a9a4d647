//! Pods that are replaced, or fail.

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::MovePhase;

use super::super::world::World;
use super::message;
use crate::controller::plan::{Change, Step, Template, plan};
use crate::controller::validate::Storage;

#[test]
fn a_new_template_rolls_one_pod_at_a_time() {
    let mut world = World::settled(2, 2);
    world.template = Template("b".to_owned());
    world.edit(|_| ());
    world.settle();
    let evicted: Vec<&str> = world.evicted.iter().map(|node| node.0.as_str()).collect();
    assert_eq!(evicted, ["page-views-0-1", "page-views-0-0", "page-views-1-1", "page-views-1-0"]);
}

#[test]
fn the_operators_own_changes_wait_for_the_user() {
    let mut world = World::settled(1, 3);
    world.template = Template("b".to_owned());
    let plan = world.settle();
    assert!(world.evicted.is_empty());
    assert!(message(plan.update_pending.as_ref()).contains("distributedcounter.dev/apply-update"));
    world.spec.identity.apply_update = Some("now".to_owned());
    let plan = world.settle();
    assert_eq!((world.evicted.len(), plan.update_pending), (3, None));
}

#[test]
fn a_shard_that_was_deleted_by_hand_comes_back_as_its_siblings_are() {
    let mut world = World::settled(2, 1);
    world.template = Template("b".to_owned());
    world.shards.remove(&ShardId(1));
    assert_eq!(world.plan().shards[&ShardId(1)].pin.template, Template("a".to_owned()));
}

#[test]
fn a_broken_rollout_stops_at_one_pod_and_is_fixed_forward() {
    let mut world = World::settled(2, 3);
    world.bad_templates.insert(Template("bad".to_owned()).hash());
    world.template = Template("bad".to_owned());
    world.edit(|_| ());
    for _ in 0..20 {
        world.round();
    }
    assert_eq!(world.evicted.len(), 1);
    world.template = Template("good".to_owned());
    world.edit(|_| ());
    world.settle();
    assert_eq!(world.evicted[1], world.evicted[0], "the broken one first");
    assert_eq!(world.evicted.len(), 7);
}

#[test]
fn a_pod_that_answers_is_not_called_broken_while_a_replaced_one_comes_up() {
    let mut world = World::settled(1, 3);
    world.template = Template("b".to_owned());
    world.edit(|_| ());
    while world.evicted.is_empty() {
        world.round();
    }
    let mut observed = world.observed();
    let replaced = observed.nodes.get_mut(&NodeName::from("page-views-0-2")).unwrap();
    (replaced.ready, replaced.status) = (false, None);
    let busy = NodeName::from("page-views-0-1");
    observed.nodes.get_mut(&busy).unwrap().ready = false;
    assert_eq!(plan(&world.spec, &observed).step, Step::Rest, "it may be unready for a moment only");
    observed.nodes.get_mut(&busy).unwrap().status = None;
    assert!(matches!(plan(&world.spec, &observed).step, Step::Evict(eviction) if eviction.node == busy));
}

#[test]
fn the_last_memory_of_a_shard_is_not_replaced_because_it_is_not_ready() {
    let mut world = World::settled(1, 2);
    world.spec.storage = Storage::Memory;
    world.recorded_volumes = None;
    world.template = Template("b".to_owned());
    world.edit(|_| ());
    world.act(|_| true);
    world.turn(|_| true);
    let mut observed = world.observed();
    let mut evicted = |ready: [bool; 2], answers: bool| {
        for (replica, ready) in (0..).zip(ready) {
            observed.nodes.get_mut(&NodeName::of("page-views", ShardId(0), replica)).unwrap().ready = ready;
        }
        if !answers {
            observed.nodes.get_mut(&NodeName::from("page-views-0-1")).unwrap().status = None;
        }
        match plan(&world.spec, &observed).step {
            Step::Evict(eviction) => Some(eviction.node.0),
            Step::Record(..) | Step::Rest => None,
        }
    };
    assert_eq!(evicted([true, false], true).as_deref(), Some("page-views-0-1"), "its sibling has what it has");
    assert_eq!(evicted([false, false], true), None);
    assert_eq!(evicted([false, false], false).as_deref(), Some("page-views-0-1"), "it answers nobody any more");
}

#[test]
fn a_rollout_waits_for_the_end_of_a_move_but_a_broken_pod_does_not() {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    world.until(Change::Copy);
    world.template = Template("b".to_owned());
    world.edit(|_| ());
    world.act(|_| true);
    world.turn(|_| false);
    assert_eq!(world.phase(), Some(MovePhase::Flipped));
    assert!(!matches!(world.plan().step, Step::Evict(_)));
    world.set_up("page-views-1-0", false);
    world.act(|_| true);
    assert_eq!(world.evicted, [NodeName::from("page-views-1-0")]);
    world.settle();
    assert_eq!(world.held(), [8192, 8192]);
}

#[test]
fn a_paused_cluster_is_published_its_layout_and_nothing_else() {
    let mut world = World::settled(1, 3);
    world.edit(|spec| (spec.shards, spec.paused) = (4, true));
    let plan = world.round();
    assert!(plan.paused && plan.shards.is_empty() && plan.step == Step::Rest);
    assert_eq!(&plan.publish.unwrap().layout, world.layout());
    assert_eq!(world.pods().len(), 3);
}
