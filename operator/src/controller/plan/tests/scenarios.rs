use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::{LayoutVersion, MovePhase};
use counter_core::slot::SlotRange;

use super::world::World;
use crate::controller::plan::{Addresses, Change, Step, Template, plan};
use crate::controller::validate::{Bytes, Storage};
use crate::crd::{Retain, SecretKeyRef};

fn message(notice: Option<&crate::controller::plan::Notice>) -> &str {
    notice.map(|notice| notice.message.as_str()).unwrap_or_default()
}

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

/// The patterns of the recorded layout, as (pages, count, highest count ever).
fn spread(world: &World) -> Vec<(&str, u16, u16)> {
    world.layout().virtual_shards.iter().map(|own| (own.pages.as_str(), own.count, own.ever_count)).collect()
}

fn wants(world: &mut World, patterns: &[(&str, u16)]) {
    let patterns = patterns.iter().map(|(pages, count)| ((*pages).to_owned(), *count)).collect();
    world.edit(|spec| spec.virtual_shards = patterns);
}

#[test]
fn a_higher_count_is_read_by_every_node_before_any_updates_it() {
    let mut world = World::settled(2, 2);
    wants(&mut world, &[("front*", 4)]);
    world.set_up("page-views-1-1", false);
    world.until(Change::Spread);
    for _ in 0..5 {
        assert_eq!(spread(&world), [("front*", 0, 4)]);
        let plan = world.round();
        let said = message(plan.progress.as_ref());
        assert!(said.contains("spec.virtualShards wait") && said.ends_with("waiting for page-views-1-1"), "{said}");
    }
    world.set_up("page-views-1-1", true);
    world.settle();
    assert_eq!(spread(&world), [("front*", 4, 4)]);
    assert_eq!(world.history, [Change::Spread; 2]);
}

#[test]
fn a_lower_count_holds_at_once_and_what_was_counted_is_read_for_ever() {
    let mut world = World::new(1, 3);
    wants(&mut world, &[("a", 8), ("b", 2)]);
    world.settle();
    assert_eq!(spread(&world), [("a", 8, 8), ("b", 2, 2)], "the first layout has it at once");
    world.set_up("page-views-0-1", false);
    wants(&mut world, &[("b", 1)]);
    world.round();
    assert_eq!(spread(&world), [("b", 1, 2), ("a", 0, 8)]);
    wants(&mut world, &[("b", 1), ("a", 5)]);
    world.round();
    assert_eq!(spread(&world), [("b", 1, 2), ("a", 0, 8)], "one node may not have heard of 8 yet");
    world.set_up("page-views-0-1", true);
    world.settle();
    assert_eq!(spread(&world), [("b", 1, 2), ("a", 5, 8)]);
}

#[test]
fn counts_change_while_slots_move() {
    let mut world = World::settled(1, 2);
    world.resize(3, 2);
    world.until(Change::Copy);
    wants(&mut world, &[("front*", 4)]);
    world.settle();
    assert_eq!((world.held().len(), spread(&world)), (3, vec![("front*", 4, 4)]));
}

#[test]
fn more_patterns_than_a_layout_holds_are_refused_in_words() {
    let mut world = World::settled(1, 1);
    for round in 0..2 {
        let names: Vec<String> = (0..32).map(|number| format!("{round}-{number}")).collect();
        wants(&mut world, &names.iter().map(|name| (name.as_str(), 2)).collect::<Vec<_>>());
        world.settle();
    }
    wants(&mut world, &[("one-more", 2)]);
    let before = world.layout().clone();
    let plan = world.settle();
    assert_eq!(plan.stalled.map(|notice| notice.reason), Some("TooManyPatterns"));
    assert_eq!(world.layout(), &before);
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
        match crate::controller::plan::plan(&world.spec, &observed).step {
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
fn an_older_record_is_put_above_with_all_virtual_shards_that_any_node_may_have_counted_by() {
    let mut world = World::settled(2, 1);
    wants(&mut world, &[("a", 2), ("b", 3)]);
    world.settle();
    let older = world.layout().clone();
    wants(&mut world, &[("a", 8), ("c", 5)]);
    // The highest version of them is known to one node only.
    world.until(Change::Spread);
    world.act(|node| node.0 == "page-views-1-0");
    wants(&mut world, &[("a", 9), ("c", 5)]);
    world.act(|node| node.0 == "page-views-1-0");
    assert_eq!(spread(&world), [("a", 8, 9), ("c", 5, 5), ("b", 0, 3)]);

    world.recorded = Some(older);
    wants(&mut world, &[("a", 2), ("b", 3)]);
    let plan = world.round();
    assert!(matches!(plan.step, Step::Record(Change::Reassert, _)), "{:?}", plan.step);
    assert_eq!(spread(&world), [("a", 2, 9), ("b", 3, 3), ("c", 0, 5)]);
    world.settle();
    assert_eq!(spread(&world), [("a", 2, 9), ("b", 3, 3), ("c", 0, 5)]);
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
    let plan = crate::controller::plan::plan(&world.spec, &observed);
    let Step::Record(Change::Readdress, layout) = plan.step else { panic!("{:?}", plan.step) };
    assert_eq!(layout.shards[0].nodes[0].http, "127.0.0.1:18080");
}

#[test]
fn claims_grow_and_claim_templates_stay() {
    let mut world = World::settled(1, 1);
    let bytes = |text: &str| Bytes::parse(text).unwrap();
    let node = NodeName::from("page-views-0-0");
    world.edit(|spec| {
        *spec = crate::controller::validate::tests::spec_of(serde_json::json!({
            "replicas": 1, "storage": {"volume": {"size": "2Gi"}}
        }));
    });
    let mut observed = world.observed();
    observed.claims.insert(node.clone(), bytes("1Gi"));
    let plan = crate::controller::plan::plan(&world.spec, &observed);
    assert_eq!(plan.resize.len(), 1);
    assert_eq!((&plan.resize[0].node, plan.resize[0].size.as_str()), (&node, "2Gi"));
    assert_eq!(plan.shards[&ShardId(0)].claim_size, Some(bytes("1Gi")));
}

#[test]
fn a_shard_is_told_what_becomes_of_its_claims_before_it_goes() {
    let mut world = World::settled(1, 1);
    world.edit(|spec| {
        let storage = serde_json::json!({"volume": {"retention": {"whenScaled": "Delete"}}});
        *spec = crate::controller::validate::tests::spec_of(serde_json::json!({"shards": 2, "replicas": 1, "storage": storage}));
    });
    world.until(Change::Join);
    assert_eq!(world.shards[&ShardId(1)].when_deleted, Retain::Retain);
    world.edit(|spec| spec.shards = 1);
    world.until(Change::Leave);
    assert!(world.shards.contains_key(&ShardId(1)));
    world.round();
    world.settle();
    assert!(!world.shards.contains_key(&ShardId(1)));
}

#[test]
fn the_first_ranges_of_a_cluster_are_whole() {
    let world = World::settled(1, 1);
    assert_eq!(world.layout().shards[0].slots, [SlotRange::ALL]);
}

/// A growth in which a source has lost its volume.
fn growth_with_a_loss(until: Change) -> World {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    world.until(until);
    world
}

#[test]
fn a_source_without_its_volume_is_named_and_nothing_goes_on_before_its_loss_is_accepted() {
    for (until, stage) in [(Change::Copy, "move of slots"), (Change::Flip, "receipt for the slots moved")] {
        let mut world = growth_with_a_loss(until);
        let before = world.layout().clone();
        world.lose_for_good("page-views-0-1");
        for _ in 0..10 {
            world.round();
        }
        assert_eq!(world.layout(), &before);
        let plan = world.plan();
        assert_eq!(
            message(plan.blocked.as_ref()),
            format!(
                "the volume of node page-views-0-1 is gone: claim data-page-views-0-1 does not exist; the {stage} from shard 0 to \
                 shard 1 waits for what it held. Bring the volume back, or accept that what nobody else held is lost, by the \
                 annotation distributedcounter.dev/accept-loss=page-views-0-1"
            )
        );
        world.accept_loss(&["page-views-0-1"]);
        assert_eq!(world.round().accepted, [NodeName::from("page-views-0-1")]);
        for _ in 0..10 {
            world.round();
        }
        assert_eq!(world.layout().moves, []);
        let plan = world.plan();
        assert_eq!(plan.blocked, None);
        assert_eq!(plan.accepted, [], "told once");
        assert!(
            message(plan.verdict.as_ref()).contains("only the lost volume of page-views-0-1 held is lost"),
            "{:?}",
            plan.verdict
        );
        assert_eq!(world.held(), [8192, 8192]);
        world.replace_claims();
        world.set_up("page-views-0-1", true);
        assert_eq!(world.settle().blocked, None);
    }
}

#[test]
fn a_node_with_an_empty_volume_under_its_old_name_has_lost_what_it_held() {
    let mut world = growth_with_a_loss(Change::Copy);
    world.lose("page-views-0-2");
    for _ in 0..10 {
        world.round();
    }
    assert_eq!(world.phase(), Some(MovePhase::Copying));
    let plan = world.plan();
    let told = message(plan.blocked.as_ref());
    let expected = "node page-views-0-2 came back with another volume than it had (claim data-page-views-0-2)";
    assert!(told.starts_with(expected), "{told}");
    assert!(message(plan.progress.as_ref()).contains("waiting for the lost volume of page-views-0-2"), "{:?}", plan.progress);
    world.accept_loss(&["page-views-0-2"]);
    let plan = world.settle();
    assert_eq!((plan.blocked, world.held()), (None, vec![8192, 8192]));
}

#[test]
fn an_entry_accepts_one_loss_and_not_the_next() {
    let mut world = World::settled(1, 3);
    world.lose("page-views-0-1");
    world.accept_loss(&["page-views-0-1"]);
    assert_eq!(world.settle().blocked, None);
    world.lose("page-views-0-1");
    let plan = world.settle();
    assert!(message(plan.blocked.as_ref()).contains("take it out, and name it anew"), "{:?}", plan.blocked);
    world.accept_loss(&[]);
    world.round();
    world.accept_loss(&["page-views-0-1"]);
    assert_eq!(world.settle().blocked, None);
}

#[test]
fn a_node_that_is_there_is_never_skipped_even_if_it_goes_away_later() {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    while world.history.last() != Some(&Change::Copy) {
        world.act(|_| true);
        world.turn(|_| false);
    }
    world.accept_loss(&["page-views-0-0"]);
    let plan = world.act(|_| false);
    assert!(message(plan.verdict.as_ref()).contains("page-views-0-0 is there with its volume"), "{:?}", plan.verdict);
    world.set_up("page-views-0-0", false);
    for _ in 0..10 {
        world.round();
    }
    assert_eq!(world.phase(), Some(MovePhase::Copying), "it is away for a moment only");
    let plan = world.plan();
    let told = message(plan.progress.as_ref());
    assert!(told.contains("no answer from page-views-0-0 (if its volume, claim data-page-views-0-0, is gone for good"), "{told}");
    world.set_up("page-views-0-0", true);
    world.settle();
}

#[test]
fn a_process_that_runs_and_does_not_answer_is_not_taken_for_gone() {
    let mut world = growth_with_a_loss(Change::Copy);
    world.set_up("page-views-0-0", false);
    world.accept_loss(&["page-views-0-0"]);
    let mut observed = world.observed();
    observed.nodes.get_mut(&NodeName::from("page-views-0-0")).unwrap().running = true;
    let hung = plan(&world.spec, &observed);
    assert_eq!(hung.accepted, []);
    assert!(message(hung.verdict.as_ref()).contains("it is not known that its volume is gone"), "{:?}", hung.verdict);
    // With no process left, the user's word is what counts.
    assert_eq!(world.plan().accepted, [NodeName::from("page-views-0-0")]);
}

#[test]
fn a_cluster_is_not_begun_anew_on_another_kind_of_storage() {
    let mut world = World::settled(1, 2);
    world.spec.storage = Storage::Memory;
    let plan = world.plan();
    assert_eq!(plan.stalled.as_ref().map(|notice| notice.reason), Some("StorageChanged"));
    assert!(message(plan.stalled.as_ref()).contains("storage.volume, and spec.storage names memory"), "{:?}", plan.stalled);
    assert_eq!((plan.step, plan.shards.len(), plan.remove.len()), (Step::Rest, 0, 0));
    assert!(plan.publish.is_some() && plan.summary.is_available());
    // A record of an earlier release does not say; its claims do.
    let mut observed = world.observed();
    observed.volumes = None;
    assert_eq!(super::super::plan(&world.spec, &observed).stalled, None);
    observed.claims.insert(NodeName::from("page-views-0-0"), Bytes::default());
    assert!(super::super::plan(&world.spec, &observed).stalled.is_some());
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
