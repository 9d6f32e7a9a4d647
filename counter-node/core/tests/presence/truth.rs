//! What is true, and what a replica may therefore say.
//!
//! A replica that says how many viewers a page has may not leave out a gateway, unless it has had nothing new from it for about a
//! lease. Of each gateway it may say what was true there lately; *lately* goes back to the last time that the two were undisturbed for a
//! while. It may count what a dead gateway had, for a lease and what slows it.

use std::collections::BTreeMap;

use counter_core::id::ShardId;
use counter_core::presence::Renewal;

use crate::world::{LEASE_MS, PAGES};

/// So long after a disturbance two nodes have caught up with each other.
const CALM_MS: u64 = 3_000;
/// Undisturbed, a change is known so soon: a flush, a tick, and the way.
const LAG_MS: u64 = 500;
/// So long before the end of a lease it may be held to have ended.
const SLACK_MS: u64 = 700;
/// What a dead gateway had is gone so long after its death, whatever stands still or is slow.
const GHOST_MS: u64 = LEASE_MS + 12_000;

/// A process, by its number.
pub(crate) type ProcessNumber = u64;

/// One process's sessions, for all of its life.
#[derive(Debug)]
struct Life {
    began_ms: u64,
    died_ms: Option<u64>,
    /// By page, each value and since when it was that.
    sessions: Vec<Vec<(u64, u64)>>,
}

/// What there was between a gateway and a replica.
#[derive(Debug, Default)]
struct Pair {
    renewal: u64,
    heard_ms: Option<u64>,
    disturbed_ms: Option<u64>,
    /// From when on what the gateway had may still be what the replica has.
    lag_from_ms: u64,
    /// The replica may have given the gateway up, and not taken it up again.
    lapsed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Truth {
    lives: BTreeMap<ProcessNumber, Life>,
    pairs: BTreeMap<(ProcessNumber, ProcessNumber), Pair>,
    /// When a shard has last had something new from a gateway, at any of its replicas, which tell each other.
    heard: BTreeMap<(ProcessNumber, ShardId), u64>,
    /// By process, when it stood still, and for how long.
    stalls: BTreeMap<ProcessNumber, Vec<(u64, u64)>>,
}

impl Truth {
    pub(crate) fn began(&mut self, process: ProcessNumber, now_ms: u64) {
        let sessions = vec![vec![(now_ms, 0)]; PAGES];
        self.lives.insert(process, Life { began_ms: now_ms, died_ms: None, sessions });
        let stalls = self.stalls.iter().flat_map(|(other, stalls)| stalls.iter().map(|(from, ms)| (*other, from + ms)));
        let stalls: Vec<(ProcessNumber, u64)> = stalls.filter(|(_, until_ms)| *until_ms > now_ms).collect();
        for (other, until_ms) in stalls {
            self.disturbed_until(process, other, now_ms, until_ms);
        }
    }

    pub(crate) fn died(&mut self, process: ProcessNumber, now_ms: u64) {
        if let Some(life) = self.lives.get_mut(&process) {
            life.died_ms = Some(now_ms);
        }
    }

    pub(crate) fn set(&mut self, process: ProcessNumber, page: usize, sessions: u32, now_ms: u64) {
        if let Some(life) = self.lives.get_mut(&process) {
            life.sessions[page].push((now_ms, u64::from(sessions)));
        }
    }

    /// The number of sessions on a page now, on all processes that live.
    pub(crate) fn sessions(&self, page: usize) -> u64 {
        let lives = self.lives.values().filter(|life| life.died_ms.is_none());
        lives.map(|life| life.sessions[page].last().map_or(0, |(_, sessions)| *sessions)).sum()
    }

    pub(crate) fn stalled(&mut self, process: ProcessNumber, from_ms: u64, ms: u64) {
        self.stalls.entry(process).or_default().push((from_ms, ms));
        let others: Vec<ProcessNumber> = self.lives.keys().copied().collect();
        for other in others {
            self.disturbed_until(process, other, from_ms, from_ms + ms);
        }
    }

    fn disturbed_until(&mut self, one: ProcessNumber, other: ProcessNumber, from_ms: u64, until_ms: u64) {
        self.disturbed(one, other, from_ms);
        for ends in [(one, other), (other, one)] {
            let pair = self.pairs.entry(ends).or_default();
            pair.disturbed_ms = pair.disturbed_ms.max(Some(until_ms));
        }
    }

    /// Something between the two was lost or late.
    pub(crate) fn disturbed(&mut self, one: ProcessNumber, other: ProcessNumber, now_ms: u64) {
        for ends in [(one, other), (other, one)] {
            self.pairs.entry(ends).or_default().disturbed(now_ms);
        }
    }

    /// A renewal has got from a gateway to a replica.
    pub(crate) fn renewed(&mut self, gateway: ProcessNumber, replica: ProcessNumber, renewal: &Renewal, now_ms: u64) {
        self.heard.insert((gateway, renewal.shard), now_ms);
        let renewal = renewal.renewal;
        if self.pairs.get(&(gateway, replica)).is_some_and(|pair| pair.renewal >= renewal) {
            return;
        }
        let silent = self.silence_ms(gateway, replica, now_ms) + SLACK_MS >= LEASE_MS;
        let pair = self.pairs.entry((gateway, replica)).or_default();
        (pair.renewal, pair.heard_ms) = (renewal, Some(now_ms));
        if silent {
            pair.disturbed(now_ms);
            pair.lapsed = true;
        }
    }

    /// For how long a replica has had nothing new from a gateway, as it sees it.
    fn silence_ms(&self, gateway: ProcessNumber, replica: ProcessNumber, now_ms: u64) -> u64 {
        let began_ms = self.lives.get(&replica).map_or(now_ms, |life| life.began_ms);
        let heard_ms = self.pairs.get(&(gateway, replica)).and_then(|pair| pair.heard_ms).unwrap_or(0);
        let since_ms = began_ms.max(heard_ms);
        let stalls = self.stalls.get(&replica).into_iter().flatten();
        let stood: u64 = stalls.map(|(from, ms)| (from + ms).min(now_ms).saturating_sub((*from).max(since_ms))).sum();
        (now_ms - since_ms).saturating_sub(stood)
    }

    /// Whether a sibling hears the gateway, and the replica hears the sibling.
    fn is_relayed(&self, gateway: ProcessNumber, replica: ProcessNumber, siblings: &[ProcessNumber], now_ms: u64) -> bool {
        let is_old = |process: &ProcessNumber| self.lives.get(process).is_some_and(|life| life.began_ms + CALM_MS < now_ms);
        let pair = |one: ProcessNumber, other: ProcessNumber| self.pairs.get(&(one, other));
        siblings.iter().filter(|sibling| **sibling != replica && is_old(sibling) && is_old(&replica)).any(|sibling| {
            let hears = pair(gateway, *sibling).is_some_and(|pair| pair.is_calm(now_ms) && pair.heard_ms.is_some());
            hears && pair(*sibling, replica).is_none_or(|pair| pair.is_calm(now_ms))
        })
    }

    /// The least and the most viewers that a replica may know of a page.
    pub(crate) fn bounds(
        &self,
        (replica, siblings): (ProcessNumber, &[ProcessNumber]),
        shard: ShardId,
        page: usize,
        now_ms: u64,
    ) -> (u64, u64) {
        let (mut least, mut most) = (0, 0);
        for (gateway, life) in &self.lives {
            if life.died_ms.is_some_and(|died_ms| now_ms > died_ms + GHOST_MS) {
                continue;
            }
            let none = Pair::default();
            let pair = self.pairs.get(&(*gateway, replica)).unwrap_or(&none);
            let heard_ms = self.heard.get(&(*gateway, shard)).copied().unwrap_or(life.began_ms);
            let silence_ms = self.silence_ms(*gateway, replica, now_ms).max(now_ms - heard_ms);
            let relayed = self.is_relayed(*gateway, replica, siblings, now_ms);
            let excused = silence_ms + SLACK_MS >= LEASE_MS && !relayed;
            let lapsed = pair.lapsed && !pair.is_calm(now_ms) && !relayed;
            // From a sibling it may have what that one has had for a lease, and that was not the newest then.
            let relayed_ms = now_ms.saturating_sub(LEASE_MS + CALM_MS);
            let window_ms = if pair.is_calm(now_ms) { now_ms.saturating_sub(LAG_MS) } else { pair.lag_from_ms.min(relayed_ms) };
            if !excused && !lapsed && life.died_ms.is_none() {
                least += life.between(page, window_ms).min().unwrap_or(0);
            }
            // What the replica has from others, or from before a lapse, may be older.
            let settled = pair.is_calm(now_ms) && !excused && life.died_ms.is_none();
            let window_ms = if settled { window_ms } else { pair.lag_from_ms.min(now_ms.saturating_sub(GHOST_MS)) };
            most += life.between(page, window_ms).max().unwrap_or(0);
        }
        (least, most)
    }
}

impl Pair {
    fn is_calm(&self, now_ms: u64) -> bool {
        self.disturbed_ms.is_none_or(|disturbed_ms| now_ms > disturbed_ms + CALM_MS)
    }

    fn disturbed(&mut self, now_ms: u64) {
        if self.is_calm(now_ms) {
            self.lag_from_ms = now_ms.saturating_sub(LAG_MS);
            self.lapsed = false;
        }
        self.disturbed_ms = self.disturbed_ms.max(Some(now_ms));
    }
}

impl Life {
    /// The values that a page had from then on.
    fn between(&self, page: usize, from_ms: u64) -> impl Iterator<Item = u64> {
        let values = &self.sessions[page];
        let first = values.iter().rposition(|(since_ms, _)| *since_ms <= from_ms).unwrap_or(0);
        values[first..].iter().map(|(_, sessions)| *sessions)
    }
}
