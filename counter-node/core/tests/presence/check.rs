//! What must hold at any time, what when the faults have been over for a lease and a tick, and what soon after a change in peace.

use counter_core::id::ShardId;
use counter_core::slot::Slot;

use crate::truth::ProcessNumber;
use crate::world::{LEASE_MS, Node, PAGES, World};

/// After the end of the faults everything is right: a lease, a tick and what that may be late, and the way of a message.
const REST_MS: u64 = LEASE_MS + 150;
/// In peace a change is known everywhere: the last flush, a tick, the ways to the replicas and from them to the watchers.
const SOON_MS: u64 = 250;

impl World {
    /// Whoever says a number says one that may be.
    pub(crate) fn check_bounds(&mut self) -> Result<(), String> {
        let mut known = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(process) = &node.process else { continue };
            for (page, key) in self.keys.iter().enumerate() {
                let Some(shard) = node.layout.owner(key.slot()).map(|shard| shard.shard) else { continue };
                if node.layout.shard_of(&node.name).map(|mine| mine.shard) != Some(shard) {
                    continue;
                }
                let Some(viewers) = process.viewers.read(key).map(|page| page.viewers) else { continue };
                known += 1;
                let (least, most) = self.truth.bounds((process.number, &self.processes_of(shard)), shard, page, self.now_ms);
                if !(least..=most).contains(&viewers) {
                    return Err(format!(
                        "at {} node {index} says {viewers} viewers of page {page}, which has {least} to {most}",
                        self.now_ms
                    ));
                }
            }
            self.check_totals(index)?;
        }
        *self.seen.entry("a number is checked").or_default() += known;
        Ok(())
    }

    fn processes_of(&self, shard: ShardId) -> Vec<ProcessNumber> {
        let fellows = self.nodes.iter().filter(|node| node.layout.shard_of(&node.name).is_some_and(|own| own.shard == shard));
        fellows.filter_map(|node| node.process.as_ref()).map(|process| process.number).collect()
    }

    fn check_totals(&self, index: usize) -> Result<(), String> {
        let Some(process) = &self.nodes[index].process else { return Ok(()) };
        let known = |slot: &Slot| process.viewers.total(*slot);
        for slot in self.keys.iter().map(|key| key.slot()) {
            let Some(total) = known(&slot) else { continue };
            let pages = self.keys.iter().filter(|key| key.slot() == slot);
            let sum: u64 = pages.filter_map(|key| process.viewers.read(key)).map(|page| page.viewers).sum();
            if sum != total {
                return Err(format!("node {index} has a total of {total} in slot {slot}, and pages of {sum}"));
            }
        }
        Ok(())
    }

    /// Every replica of the owner says what is true, and every watcher has been told it.
    fn check_exact(&self) -> Result<(), String> {
        for (page, key) in self.keys.iter().enumerate() {
            let truth = self.truth.sessions(page);
            let layout = &self.operator.layout;
            let owner = layout.owner(key.slot()).map(|shard| shard.shard);
            let lives = |node: &Node| node.process.is_some() && layout.shard_of(&node.name).map(|shard| shard.shard) == owner;
            let is_owned = self.nodes.iter().any(lives);
            for (index, node) in self.nodes.iter().enumerate() {
                let Some(process) = &node.process else { continue };
                let owns = layout.owner(key.slot()).is_some_and(|shard| shard.nodes.iter().any(|found| found.name == node.name));
                let says = process.viewers.read(key).map(|page| page.viewers);
                if owns && says != Some(truth) {
                    return Err(format!("at {} node {index} says {says:?} viewers of page {page}, not {truth}", self.now_ms));
                }
                let watches = is_owned && (process.watched.contains(&page) || process.presence.sessions(key) > 0);
                let told = process.fed.get(key).map(|reading| (reading.tally, reading.viewers));
                if watches && told != Some((self.tallies[page], truth)) {
                    let right = (self.tallies[page], truth);
                    return Err(format!("at {} node {index} was told {told:?} of page {page}, not {right:?}", self.now_ms));
                }
            }
        }
        Ok(())
    }

    /// Runs a whole seed.
    pub(crate) fn prove(&mut self) -> Result<(), String> {
        self.run_until(self.plan.heal_ms)?;
        self.heal();
        self.run_until(self.now_ms + REST_MS)?;
        self.check_bounds()?;
        self.check_exact()?;
        for _ in 0..4 {
            let (node, page) = (self.rng.index(self.nodes.len()), self.rng.index(PAGES));
            self.act(node, page);
            self.run_until(self.now_ms + SOON_MS)?;
            self.check_exact()?;
        }
        let leaving = self.rng.index(self.nodes.len());
        self.farewell(leaving);
        self.run_until(self.now_ms + SOON_MS)?;
        if self.nodes[leaving].process.is_some() {
            return Err(format!("node {leaving} has said farewell and not left"));
        }
        self.check_exact()
    }
}
