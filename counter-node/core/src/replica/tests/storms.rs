//! Everything at once, by seed: updates, loss, crashes with unwritten merges, partitions, restarts, and a
//! shard that grows meanwhile. What was applied was durable, so every count must come out exactly.

use std::collections::BTreeMap;

use super::cluster::{Cluster, layout};
use crate::layout::Layout;
use crate::layout::MovePhase::{Copying, Flipped};
use crate::replica::ReplicaConfig;
use crate::replica::random::Random;

const OLD: [&str; 3] = ["c-0-0", "c-0-1", "c-0-2"];
const NEW: [&str; 3] = ["c-1-0", "c-1-1", "c-1-2"];
const PAGES: [&str; 6] = ["foo", "bar", "hello", "somekey", "{foo}1", "{foo}2"];
const GROWING: [(&str, u16); 2] = [("0-16383", 3), ("", 3)];
const GROWN: [(&str, u16); 2] = [("0-8191", 3), ("8192-16383", 3)];

struct Storm {
    cluster: Cluster,
    random: Random,
    counted: BTreeMap<&'static str, i128>,
    layout: Layout,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let config =
            ReplicaConfig { message_bytes_max: 400, summary_counters_max: 2, pending_keys_max: 3, ..ReplicaConfig::default() };
        let layout = layout(1, &GROWING, None);
        let cluster = Cluster::with(&layout, config);
        Self { cluster, random: Random::new(seed), counted: BTreeMap::new(), layout }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.index(from.len()).unwrap()]
    }

    fn any_node(&mut self) -> &'static str {
        let nodes = [OLD, NEW].concat();
        self.pick(&nodes)
    }

    fn step(&mut self) {
        match self.random.number() % 40 {
            0 => {
                let node = self.any_node();
                self.cluster.crash(node);
            }
            1..=3 => {
                for node in [OLD, NEW].concat() {
                    if !self.cluster.member(node).up {
                        self.cluster.start(node);
                    }
                }
            }
            4 => {
                let node = self.any_node();
                self.cluster.partition(node);
            }
            5..=7 => self.cluster.heal(),
            8 => self.cluster.chaos = 15,
            9 => {
                let node = self.any_node();
                self.cluster.member(node).holds_writes = true;
            }
            10..=12 => self.release(),
            13..=14 => {
                let (node, layout) = (self.any_node(), self.layout.clone());
                if self.cluster.member(node).up {
                    self.offer(node, &layout);
                }
            }
            15..=16 => self.go_on(),
            _ => self.update(),
        }
        self.cluster.run(50);
    }

    fn offer(&mut self, node: &str, layout: &Layout) {
        let known = self.cluster.member(node).replica.layout().map(|layout| layout.version);
        if known.is_none_or(|known| known <= layout.version) {
            self.cluster.offer(node, layout);
        }
    }

    fn release(&mut self) {
        for node in [OLD, NEW].concat() {
            if self.cluster.member(node).up {
                self.cluster.release_writes(node);
            }
        }
    }

    fn update(&mut self) {
        let (node, page) = (self.any_node(), self.pick(&PAGES));
        let by = 1 + self.random.number() % 9;
        if self.cluster.member(node).up && self.cluster.count(node, page, by).is_some() {
            *self.counted.entry(page).or_default() += i128::from(by);
        }
    }

    /// As the operator would: the next version when a majority of the new shard says that nothing is left.
    fn go_on(&mut self) {
        let version = self.layout.version;
        let is_done = |node: &&&str| {
            let member = &self.cluster.members[&(**node).into()];
            let moves = member.replica.status(self.cluster.now()).moves;
            member.up && moves.first().is_some_and(|status| status.layout_version == version && status.slots_left == 0)
        };
        let done = NEW.iter().filter(is_done).count() >= 2;
        let next = match version.0 {
            1 => layout(2, &GROWING, Some((0, 1, "8192-16383", Copying))),
            2 if self.random.number().is_multiple_of(4) => layout(1_000, &GROWING, None),
            2 | 1_001 if done => layout(version.0 + 1, &GROWN, Some((0, 1, "8192-16383", Flipped))),
            3 | 1_002 if done => layout(version.0 + 1, &GROWN, None),
            1_000 => layout(1_001, &GROWING, Some((0, 1, "8192-16383", Copying))),
            _ => return,
        };
        self.layout = next;
    }

    fn calm(&mut self) {
        self.cluster.heal();
        for node in [OLD, NEW].concat() {
            if !self.cluster.member(node).up {
                self.cluster.start(node);
            }
            let layout = self.layout.clone();
            self.offer(node, &layout);
        }
        self.release();
        for _ in 0..20 {
            self.cluster.run(2_000);
            self.go_on();
            let layout = self.layout.clone();
            for node in [OLD, NEW].concat() {
                self.offer(node, &layout);
            }
        }
    }

    fn check(&mut self, seed: u64) {
        assert!(self.layout.moves.is_empty() && self.layout.version.0 > 3, "seed {seed}: the move ends: {:?}", self.layout.moves);
        for page in PAGES {
            let owners = if super::cluster::key(page).slot().number() < 8_192 { OLD } else { NEW };
            let counted = self.counted.get(page).copied().unwrap_or(0);
            assert_eq!(self.cluster.read_all(&owners, page), [counted; 3], "seed {seed}, {page}");
            for node in owners {
                assert!(self.cluster.actors(node, page) <= 3, "seed {seed}, {page} at {node}");
                assert!(self.cluster.member(node).reports.is_empty(), "seed {seed}");
            }
        }
        for node in [OLD, NEW].concat() {
            let status = self.cluster.members[&node.into()].replica.status(self.cluster.now());
            assert_eq!(status.unsent_entries, 0, "seed {seed}, {node}");
        }
    }
}

#[test]
fn after_any_storm_every_count_is_exact_everywhere() {
    for seed in 0..6 {
        let mut storm = Storm::new(seed);
        for _ in 0..300 {
            storm.step();
        }
        storm.calm();
        storm.check(seed);
    }
}
