//! Whatever happens on the way, the plan ends where the spec wants it, and never does on the way what it must not do: the
//! world checks each step.

use proptest::prelude::*;

use super::world::World;
use crate::controller::plan::Template;

/// What may happen to a cluster.
#[derive(Clone, Debug)]
enum Event {
    /// The user wants another size.
    Resize(u16, u16),
    /// The user wants pages spread like this.
    Spread(Vec<(u8, u16)>),
    /// The user changes something that Pods are made from.
    Retemplate(u8),
    /// The operator is upgraded.
    Upgrade(u8),
    /// The process of one of the Pods dies, or comes back.
    Crash(usize),
    Recover(usize),
    /// A node comes back with an empty volume, or its volume goes and nothing comes back.
    Lose(usize),
    LoseForGood(usize),
    /// The user brings the volume back that a node has lost.
    BringBack(usize),
    /// The user names a node whose loss is accepted, be it lost or not, or takes the annotation away.
    Accept(usize),
    AcceptNothing,
    /// So many rounds pass, in which about this share of 8 messages arrives and of 8 nodes gets on.
    Rounds(u8, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..=6_u16, 1..=4_u16).prop_map(|(shards, replicas)| Event::Resize(shards, replicas)),
        2 => prop::collection::btree_map(0..4_u8, 1..=9_u16, 0..3)
            .prop_map(|wanted| Event::Spread(wanted.into_iter().collect())),
        1 => (0..3_u8).prop_map(Event::Retemplate),
        1 => (0..3_u8).prop_map(Event::Upgrade),
        2 => any::<usize>().prop_map(Event::Crash),
        2 => any::<usize>().prop_map(Event::Recover),
        1 => any::<usize>().prop_map(Event::Lose),
        1 => any::<usize>().prop_map(Event::LoseForGood),
        1 => any::<usize>().prop_map(Event::BringBack),
        1 => any::<usize>().prop_map(Event::Accept),
        1 => Just(Event::AcceptNothing),
        6 => (1..12_u8, 1..=8_u8).prop_map(|(rounds, share)| Event::Rounds(rounds, share)),
    ]
}

/// Small and seeded: which messages arrive must be the same in every run of one case.
struct Dice(u64);

impl Dice {
    fn eighths(&mut self, share: u8) -> bool {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % 8 < u64::from(share)
    }
}

fn happen(world: &mut World, event: &Event, dice: &mut Dice) {
    let pick = |world: &World, index: usize| world.pods().get(index % world.pods().len().max(1)).cloned();
    match event {
        Event::Resize(shards, replicas) => world.resize(*shards, *replicas),
        Event::Spread(wanted) => {
            let wanted = wanted.iter().map(|(pages, count)| (format!("page-{pages}"), *count)).collect();
            world.edit(|spec| spec.virtual_shards = wanted);
        }
        Event::Upgrade(template) => world.template = Template(template.to_string()),
        Event::Retemplate(template) => {
            world.template = Template(template.to_string());
            world.edit(|_| ());
        }
        Event::Crash(index) => {
            if let Some(node) = pick(world, *index) {
                world.set_up(&node.0, false);
            }
        }
        Event::Recover(index) => {
            if let Some(node) = pick(world, *index) {
                world.set_up(&node.0, true);
            }
        }
        Event::Lose(index) => {
            if let Some(node) = pick(world, *index) {
                world.lose(&node.0);
            }
        }
        Event::LoseForGood(index) => {
            if let Some(node) = pick(world, *index) {
                world.lose_for_good(&node.0);
            }
        }
        Event::BringBack(index) => {
            if let Some(node) = pick(world, *index) {
                world.bring_back(&node.0);
            }
        }
        Event::Accept(index) => {
            if let Some(node) = pick(world, *index) {
                world.accept_loss(&[&node.0]);
            }
        }
        Event::AcceptNothing => world.accept_loss(&[]),
        Event::Rounds(rounds, share) => {
            for _ in 0..*rounds {
                world.act(|_| dice.eighths(*share));
                world.turn(|_| dice.eighths(*share));
            }
        }
    }
}

/// Everything comes back as far as it can, and what was lost is accepted.
fn heal(world: &mut World) {
    world.accept_loss(&[]);
    world.replace_claims();
    for node in world.pods() {
        world.set_up(&node.0, true);
    }
    // Without a message between the two edits the second would be none.
    world.round();
    let lost: Vec<String> = world.all_lost().into_iter().map(|node| node.0).collect();
    world.accept_loss(&lost.iter().map(String::as_str).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_ends_as_the_spec_says(events in prop::collection::vec(event(), 0..24), seed: u64, shards in 1..=6_u16, replicas in 1..=4_u16) {
        let mut world = World::new(shards, replicas);
        let mut dice = Dice(seed);
        for event in &events {
            happen(&mut world, event, &mut dice);
        }
        heal(&mut world);
        let plan = world.settle();

        prop_assert_eq!(&plan.stalled, &None);
        let held = world.held();
        prop_assert!(held.len() >= usize::from(world.spec.shards), "never fewer shards than asked for");
        let shrinks = held.len() > usize::from(world.spec.shards)
            || world.layout().shards.iter().any(|shard| shard.nodes.len() > usize::from(world.spec.replicas));
        prop_assert_eq!(plan.blocked.is_some(), shrinks, "blocked exactly when there is more than the spec asks for");
        if held.len() == usize::from(world.spec.shards) {
            prop_assert!(held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "uneven: {:?}", held);
        }
        prop_assert!(world.layout().shards.iter().all(|shard| shard.nodes.len() >= usize::from(world.spec.replicas)));
        let in_force = world.layout().virtual_shards.iter().filter(|own| own.count > 0);
        let in_force: Vec<(String, u16)> = in_force.map(|own| (own.pages.clone(), own.count)).collect();
        prop_assert_eq!(&in_force, &world.spec.virtual_shards);
        prop_assert_eq!(world.shards.len(), held.len(), "no StatefulSet is left over");
        prop_assert_eq!(usize::from(plan.summary.ready_nodes), world.pods().len());

        // What is settled stays so, whatever a later pass is told.
        let again = world.plan();
        prop_assert_eq!((again.step, again.shards), (plan.step, plan.shards));
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn growing_moves_only_what_it_must(from in 1..=12_u16, to in 1..=12_u16) {
        prop_assume!(from < to);
        let mut world = World::settled(from, 1);
        world.resize(to, 1);
        world.settle();
        let received: usize = world.held()[usize::from(from)..].iter().sum();
        prop_assert_eq!(world.moved, received, "slots moved between shards that had been there before");
    }

    #[test]
    fn a_growth_that_is_interrupted_moves_no_more_than_one_that_is_not(rounds in 0..40_usize, pauses in 1..4_usize) {
        let mut world = World::settled(2, 1);
        world.resize(5, 1);
        for _ in 0..pauses {
            for _ in 0..rounds {
                world.round();
            }
            world.edit(|spec| spec.paused = true);
            world.round();
            world.edit(|spec| spec.paused = false);
        }
        world.settle();
        let received: usize = world.held()[2..].iter().sum();
        prop_assert_eq!(world.moved, received);
    }

    #[test]
    fn a_reverted_growth_is_undone_or_says_why_not(rounds in 0..30_usize, shards in 2..=5_u16) {
        let mut world = World::settled(1, 2);
        world.resize(shards, 2);
        for _ in 0..rounds {
            world.round();
        }
        let flipped = world.moved > 0;
        world.resize(1, 2);
        let plan = world.settle();
        prop_assert_eq!(plan.blocked.is_some(), flipped);
        prop_assert_eq!(world.shards.len() == 1, !flipped);
    }
}
