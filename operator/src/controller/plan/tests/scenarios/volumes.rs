//! Volumes and their claims; losses, and accepting them.

use counter_core::id::{NodeName, ShardId};
use counter_core::layout::MovePhase;

use super::super::world::World;
use super::message;
use crate::controller::plan::{Change, Step, plan};
use crate::controller::validate::tests::spec_of;
use crate::controller::validate::{Bytes, Storage};
use crate::crd::Retain;

#[test]
fn claims_grow_and_claim_templates_stay() {
    let mut world = World::settled(1, 1);
    let bytes = |text: &str| Bytes::parse(text).unwrap();
    let node = NodeName::from("page-views-0-0");
    world.edit(|spec| {
        *spec = spec_of(serde_json::json!({
            "replicas": 1, "storage": {"volume": {"size": "2Gi"}}
        }));
    });
    let mut observed = world.observed();
    observed.claims.insert(node.clone(), bytes("1Gi"));
    let plan = plan(&world.spec, &observed);
    assert_eq!(plan.resize.len(), 1);
    assert_eq!((&plan.resize[0].node, plan.resize[0].size.as_str()), (&node, "2Gi"));
    assert_eq!(plan.shards[&ShardId(0)].claim_size, Some(bytes("1Gi")));
}

#[test]
fn a_shard_is_told_what_becomes_of_its_claims_before_it_goes() {
    let mut world = World::settled(1, 1);
    world.edit(|spec| {
        let storage = serde_json::json!({"volume": {"retention": {"whenScaled": "Delete"}}});
        *spec = spec_of(serde_json::json!({"shards": 2, "replicas": 1, "storage": storage}));
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
fn what_came_from_another_volume_is_no_receipt_even_once_it_is_silent() {
    let mut world = World::settled(1, 3);
    world.resize(2, 3);
    while world.phase() != Some(MovePhase::Flipped) {
        world.round();
    }
    world.lose("page-views-0-1");
    // The new replicas have got all that there is, before any pass saw the other volume.
    world.act(|_| true);
    world.turn(|_| true);
    world.set_up("page-views-0-1", false);
    for _ in 0..10 {
        world.round();
    }
    assert_eq!(world.phase(), Some(MovePhase::Flipped));
    let plan = world.plan();
    assert_eq!(plan.summary.slot_move.and_then(|slot_move| slot_move.slots_left), Some(8192), "none of it counts");
    let told = message(plan.progress.as_ref());
    assert!(told.contains("no answer from page-views-0-1 (if its volume, claim data-page-views-0-1, is gone for good"), "{told}");
    world.bring_back("page-views-0-1");
    world.set_up("page-views-0-1", true);
    world.settle();
    assert_eq!(world.layout().moves, []);
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
    let changed = world.plan();
    assert_eq!(changed.stalled.as_ref().map(|notice| notice.reason), Some("StorageChanged"));
    assert!(message(changed.stalled.as_ref()).contains("storage.volume, and spec.storage names memory"), "{:?}", changed.stalled);
    assert_eq!((changed.step, changed.shards.len(), changed.remove.len()), (Step::Rest, 0, 0));
    assert!(changed.publish.is_some() && changed.summary.is_available());
    // A record of an earlier release does not say; its claims do.
    let mut observed = world.observed();
    observed.volumes = None;
    assert_eq!(plan(&world.spec, &observed).stalled, None);
    observed.claims.insert(NodeName::from("page-views-0-0"), Bytes::default());
    assert!(plan(&world.spec, &observed).stalled.is_some());
}
