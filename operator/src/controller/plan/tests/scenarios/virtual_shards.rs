//! Pages that are spread over virtual shards.

use super::super::world::World;
use super::message;
use crate::controller::plan::{Change, Step};

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
