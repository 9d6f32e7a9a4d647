//! After the faults: everything must come to rest in bounded time, and then every number must be one that it may be.

use std::collections::{BTreeMap, BTreeSet};

use counter_core::counter::Key;
use counter_core::forward::Outcome;
use counter_core::id::ActorId;
use counter_core::key::KeyKind;
use counter_core::unread::REGISTER;
use counter_core::vector::{Generation, SlotVector};

use crate::captures::vector_of;
use crate::faults::SUB_KEYS;
use crate::ledger::Told;
use crate::process::Process;
use crate::world::World;

/// By then everything must have come to rest.
const LIVENESS_MS: u64 = 120_000;
const LOOK_MS: u64 = 1_000;
const READ_MS: u64 = 8_000;
const TICK_MS: u64 = 50;

/// What a run was like.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outline {
    /// How often what has happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    pub(crate) acknowledged: usize,
    pub(crate) unknown: usize,
    pub(crate) layouts: u64,
    pub(crate) rest_ms: u64,
}

impl World {
    /// Faults, then healing, then the checks.
    pub(crate) fn run(&mut self) -> Result<Outline, String> {
        let end_ms = self.plan.faults_end_ms;
        self.run_until(end_ms)?;
        self.heal();
        self.come_to_rest(end_ms + LIVENESS_MS)?;
        let rest_ms = self.now_ms - end_ms;
        self.check_numbers()?;
        self.check_sums()?;
        self.check_unread()?;
        // Before time goes on: what is to be written by then would not be.
        self.check_disks()?;
        self.check_totals()?;
        self.check_followers()?;
        self.check_reads()?;
        if self.ledger.keys.iter().any(|key| self.nodes[0].process.as_ref().is_some_and(|process| is_retired(process, key))) {
            self.note("actors retired");
        }
        Ok(Outline {
            seen: self.seen.clone(),
            acknowledged: self.ledger.count(Told::Acknowledged),
            unknown: self.ledger.count(Told::Unknown),
            layouts: self.operator.layout.version.0,
            rest_ms,
        })
    }

    fn come_to_rest(&mut self, until_ms: u64) -> Result<(), String> {
        loop {
            self.run_until(self.now_ms + LOOK_MS)?;
            match self.is_at_rest() {
                Ok(()) => return Ok(()),
                Err(unrest) if self.now_ms >= until_ms => return Err(format!("no rest: {unrest}")),
                Err(_) => {}
            }
        }
    }

    fn is_at_rest(&self) -> Result<(), String> {
        let layout = &self.operator.layout;
        if !self.operator.is_settled() {
            return Err(format!("the operator is not done: {:?}, nodes say {:?}", layout.moves, self.operator.said));
        }
        if self.ledger.count(Told::Pending) > 0 || self.users.are_waiting() || !self.tasks.is_empty() {
            return Err("a client has no answer".to_owned());
        }
        for node in layout.nodes() {
            self.is_node_at_rest(self.names[&node.name]).map_err(|unrest| format!("{}: {unrest}", node.name))?;
        }
        self.do_replicas_agree()
    }

    fn is_node_at_rest(&self, node: usize) -> Result<(), String> {
        let process = self.nodes[node].process.as_ref().ok_or("does not run")?;
        if process.replica.layout().map(|layout| layout.version) != Some(self.operator.layout.version) {
            return Err("acts by an older layout".to_owned());
        }
        if !process.is_ready() {
            return Err(format!("is {:?}", process.replica.readiness()));
        }
        if process.committing || !process.queued.is_empty() || !process.writable {
            return Err("has something to write".to_owned());
        }
        let unsent = process.replica.status(process.now(self.now_ms, 0)).unsent_entries;
        if unsent > 0 { Err(format!("has {unsent} entries to send")) } else { Ok(()) }
    }

    fn do_replicas_agree(&self) -> Result<(), String> {
        for (number, key) in self.ledger.keys.iter().enumerate() {
            let slot = key.slot();
            let owner = self.operator.layout.owner(slot).ok_or("a slot without an owner")?;
            let mut digests = BTreeSet::new();
            let mut current: BTreeSet<ActorId> = BTreeSet::new();
            let mut writing: BTreeSet<ActorId> = BTreeSet::new();
            for node in self.operator.layout.nodes() {
                let Some(process) = &self.nodes[self.names[&node.name]].process else { continue };
                let vector = process.table.slot(slot);
                if owner.nodes.iter().any(|replica| replica.name == node.name) {
                    digests.insert(vector.digest());
                    writing.extend(vector.actors().into_iter().filter(|actor| *actor != REGISTER));
                    current.insert(process.replica.actor());
                } else if !vector.is_empty() {
                    return Err(format!("{} still holds page-{number}", node.name));
                }
            }
            if digests.len() > 1 {
                let held = owner.nodes.iter().filter_map(|node| self.nodes[self.names[&node.name]].process.as_ref());
                let held: Vec<String> = held.map(|process| describe(&process.table.slot(slot), key)).collect();
                return Err(format!("the replicas of page-{number} differ: {held:#?}"));
            }
            let closed: Vec<String> = writing.difference(&current).map(ToString::to_string).collect();
            if !closed.is_empty() {
                return Err(format!("closed actors are not retired in page-{number}: {closed:?}"));
            }
        }
        Ok(())
    }

    fn check_numbers(&mut self) -> Result<(), String> {
        let mut seen = Vec::new();
        for (number, key) in self.ledger.keys.iter().enumerate() {
            for node in &self.operator.layout.owner(key.slot()).ok_or("a slot without an owner")?.nodes {
                let process = self.nodes[self.names[&node.name]].process.as_ref().ok_or("an owner that does not run")?;
                let reading = process.table.read(key);
                // What a subscription's entry holds is no sum, see `model.rs`.
                if key.kind() == KeyKind::Subscription {
                    continue;
                }
                let checked = self.ledger.check(number, reading.tally);
                seen.push(checked.map_err(|violation| format!("{}: {violation}", node.name))?);
            }
        }
        seen.into_iter().for_each(|seen| self.note(seen));
        Ok(())
    }

    /// The page with virtual shards, summed as each node reads it: its own key and as many virtual shards as there ever were.
    fn check_sums(&self) -> Result<(), String> {
        for node in self.operator.layout.nodes() {
            let read = 0..=usize::from(self.spread_at(self.names[&node.name]).ever_count);
            let mut sum = 0;
            for key in &self.ledger.keys[read] {
                let owner = self.operator.layout.owner(key.slot()).ok_or("a slot without an owner")?;
                let process =
                    self.nodes[self.names[&owner.nodes[0].name]].process.as_ref().ok_or("an owner that does not run")?;
                sum += process.table.read(key).tally;
            }
            // All keys of the page, whether they are among the read ones or not.
            self.ledger.check_sum(0..=usize::from(SUB_KEYS), sum).map_err(|violation| format!("{}: {violation}", node.name))?;
        }
        Ok(())
    }

    /// What would be found after everything was killed is what there is.
    fn check_disks(&self) -> Result<(), String> {
        for (number, key) in self.ledger.keys.iter().enumerate() {
            for node in &self.operator.layout.owner(key.slot()).ok_or("a slot without an owner")?.nodes {
                let held = &self.nodes[self.names[&node.name]];
                let stored = vector_of(&held.disk.image(), key.slot()).digest();
                let live = held.process.as_ref().map(|process| process.table.slot(key.slot()).digest());
                if live != Some(stored) {
                    return Err(format!("{}: storage and memory differ in page-{number}", node.name));
                }
            }
        }
        Ok(())
    }

    fn check_reads(&mut self) -> Result<(), String> {
        let asked = self.read_everywhere();
        let until_ms = self.now_ms + READ_MS;
        while self.reads.len() < asked.len() && self.now_ms < until_ms {
            self.run_until(self.now_ms + TICK_MS)?;
        }
        for (ticket, node, key) in asked {
            let counter = self.ledger.keys[key].clone();
            let owner = self.operator.layout.owner(counter.slot()).ok_or("a slot without an owner")?;
            let process = self.nodes[self.names[&owner.nodes[0].name]].process.as_ref().ok_or("an owner that does not run")?;
            let expected = Outcome::Done(process.table.read(&counter));
            if self.reads.get(&ticket) != Some(&expected) {
                return Err(format!("node {node} reads page-{key} as {:?}, not {expected:?}", self.reads.get(&ticket)));
            }
        }
        Ok(())
    }
}

fn is_retired(process: &Process, key: &Key) -> bool {
    process.table.slot(key.slot()).generation() > Generation::default()
}

fn describe(vector: &SlotVector, key: &Key) -> String {
    format!("generation {:?}, {:?}", vector.generation(), vector.counter(key))
}
