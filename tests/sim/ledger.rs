//! What clients asked for and what they were told; and the numbers that a final read may show.
//!
//! Σ acknowledged ≤ value ≤ Σ acknowledged + any subset of the unknown ones, generalised to updates of both signs: the
//! value less Σ acknowledged must be the sum of a subset of the unknown ones, and of the losses that the fsync mode allows.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use counter_core::counter::{Key, Update};
use counter_core::token::Token;

/// Beyond this many reachable sums of half of the updates in doubt the check falls back to their range.
const SUMS_MAX: usize = 1 << 16;

/// How often a client sends an update under a token.
const REPEATS_MAX: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Pending,
    Acknowledged,
    NotApplied,
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) key: usize,
    pub(crate) update: Update,
    pub(crate) asked_ms: u64,
    pub(crate) told: Told,
    pub(crate) told_ms: u64,
    token: Option<Token>,
    /// How often it has been sent again.
    repeats: u32,
    /// Some time nobody could say whether it was applied.
    maybe_applied: bool,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) keys: Vec<Key>,
    pub(crate) requests: Vec<Request>,
    /// By key: what acknowledged updates that a lost tail may have taken along added.
    lost: Vec<Vec<i64>>,
    /// Which of two copies of a reset came first cannot be told.
    unordered: bool,
}

/// What an update adds; none for a reset, nor for what the ledger does not follow.
pub(crate) fn amount(update: Update) -> Option<i64> {
    match update {
        Update::Increment(by) => Some(i64::try_from(by).unwrap()),
        Update::Decrement(by) => Some(-i64::try_from(by).unwrap()),
        // It adds nothing, and may be lost as others are.
        Update::Raise { .. } => Some(0),
        Update::Reset | Update::Set(_) => None,
    }
}

impl Ledger {
    pub(crate) fn new(keys: Vec<Key>) -> Self {
        let lost = vec![Vec::new(); keys.len()];
        Self { keys, requests: Vec::new(), lost, unordered: false }
    }

    pub(crate) fn number_of(&self, key: &Key) -> usize {
        self.keys.iter().position(|known| known == key).expect("a key of the simulation")
    }

    /// Returns the request's number.
    pub(crate) fn ask(&mut self, now_ms: u64, key: usize, update: Update, token: Option<Token>) -> u64 {
        self.requests.push(Request {
            key,
            update,
            asked_ms: now_ms,
            told: Told::Pending,
            told_ms: u64::MAX,
            token,
            repeats: 0,
            maybe_applied: false,
        });
        u64::try_from(self.requests.len() - 1).unwrap()
    }

    /// # Panics
    /// When the request has been answered before.
    pub(crate) fn tell(&mut self, now_ms: u64, request: u64, told: Told) {
        let request = &mut self.requests[usize::try_from(request).unwrap()];
        assert_eq!(request.told, Told::Pending, "one answer per request: {request:?}, now {told:?}");
        let told = if told == Told::NotApplied && request.maybe_applied { Told::Unknown } else { told };
        (request.told, request.told_ms) = (told, now_ms);
    }

    /// The request's key, update and token.
    pub(crate) fn request(&self, request: u64) -> (usize, Update, Option<Token>) {
        let request = &self.requests[usize::try_from(request).unwrap()];
        (request.key, request.update, request.token)
    }

    /// What the client heard, and when.
    pub(crate) fn told(&self, request: u64) -> (Told, u64) {
        let request = &self.requests[usize::try_from(request).unwrap()];
        (request.told, request.told_ms)
    }

    /// How many acknowledged updates of the key a lost tail may have taken along.
    pub(crate) fn lost_of(&self, key: usize) -> usize {
        self.lost[key].len()
    }

    /// How many of the keys, the first ones, are clients' pages.
    pub(crate) fn counted(&self) -> usize {
        self.keys.iter().take_while(|key| key.kind().is_counted()).count()
    }

    /// A copy of the request is under way, and may be applied whatever the client hears.
    pub(crate) fn may_have_come(&mut self, request: u64) {
        let request = &mut self.requests[usize::try_from(request).unwrap()];
        request.maybe_applied = true;
        if request.told == Told::NotApplied {
            request.told = Told::Unknown;
        }
    }

    /// Whether the client sends it again after it has heard this.
    pub(crate) fn asks_again(&mut self, request: u64, told: Told) -> bool {
        let request = &mut self.requests[usize::try_from(request).unwrap()];
        request.maybe_applied |= told == Told::Unknown;
        request.repeats += 1;
        request.token.is_some() && told != Told::Acknowledged && request.repeats < REPEATS_MAX
    }

    /// Clocks differ from now on, or records of resets may be lost: a late copy of a reset may then clear more than the first.
    pub(crate) fn resets_have_no_order(&mut self) {
        self.unordered = true;
    }

    pub(crate) fn may_be_lost(&mut self, updates: Vec<(usize, i64)>) {
        // With an update, its token's record may have gone; with a reset, too.
        self.unordered = true;
        for (key, added) in updates {
            self.lost[key].push(-added);
        }
    }

    pub(crate) fn count(&self, told: Told) -> usize {
        self.requests.iter().filter(|request| request.told == told).count()
    }

    /// Whether `tally` is a number that the key may have at the end; and how well that is known.
    pub(crate) fn check(&self, key: usize, tally: i128) -> Result<&'static str, String> {
        let of_key = || self.requests.iter().filter(|request| request.key == key);
        if of_key().any(|request| request.update == Update::Reset) {
            return self.check_reset(key, tally);
        }
        self.check_sum(key..=key, tally)
    }

    /// Whether `tally` is a number that these keys, which are not reset, may come to together.
    pub(crate) fn check_sum(&self, keys: RangeInclusive<usize>, tally: i128) -> Result<&'static str, String> {
        let of_keys = || self.requests.iter().filter(|request| keys.contains(&request.key));
        let sum = |told: Told| {
            of_keys().filter(|request| request.told == told).filter_map(|request| amount(request.update)).sum::<i64>()
        };
        let acknowledged = sum(Told::Acknowledged);
        let unknown = of_keys().filter(|request| matches!(request.told, Told::Unknown | Told::Pending));
        let lost = self.lost[keys.clone()].iter().flatten().copied();
        let maybe: Vec<i64> = unknown.filter_map(|request| amount(request.update)).chain(lost).collect();
        let surplus = i64::try_from(tally).map_err(|_| format!("{tally} is out of range"))? - acknowledged;
        subset_sum(&maybe, surplus).ok_or_else(|| format!(
            "keys {keys:?} are {tally}; acknowledged is {acknowledged}; the surplus of {surplus} is no sum of some of {maybe:?}"
        ))
    }

    /// A reset clears what was observed where it ran, which the ledger cannot know; only increments are made of such keys.
    fn check_reset(&self, key: usize, tally: i128) -> Result<&'static str, String> {
        let of_key = || self.requests.iter().filter(|request| request.key == key);
        let resets = || of_key().filter(|request| request.update == Update::Reset);
        let most: i64 =
            of_key().filter(|request| request.told != Told::NotApplied).filter_map(|request| amount(request.update)).sum();
        // An unknown reset may run at any time. Else, what was asked for after the last one ended is not cleared.
        let ended_ms = resets().filter(|request| request.told != Told::NotApplied).map(|request| match request.told {
            Told::Acknowledged if request.token.is_none() || !self.unordered => request.told_ms,
            _ => u64::MAX,
        });
        let ended_ms = ended_ms.max().unwrap_or(0);
        let after = of_key().filter(|request| request.told == Told::Acknowledged && request.asked_ms > ended_ms);
        let least = after.filter_map(|request| amount(request.update)).sum::<i64>() + self.lost[key].iter().sum::<i64>();
        let within = i128::from(least) <= tally && tally <= i128::from(most);
        within
            .then_some("count with resets within bounds")
            .ok_or_else(|| format!("key {key}, with resets, is {tally}, not within {least}..={most}"))
    }
}

/// How well it is known that the target is a sum of some of these; none when it is not.
fn subset_sum(of: &[i64], target: i64) -> Option<&'static str> {
    let (left, right) = of.split_at(of.len() / 2);
    let Some((left, right)) = sums(left).zip(sums(right)) else {
        let least: i64 = of.iter().filter(|added| **added < 0).sum();
        let most: i64 = of.iter().filter(|added| **added > 0).sum();
        return (least..=most).contains(&target).then_some("count within bounds only");
    };
    let is_met = left.iter().any(|sum| right.contains(&(target - sum)));
    let seen = if of.is_empty() { "count exact" } else { "count is a sum of what may have been counted" };
    is_met.then_some(seen)
}

/// All sums of some of these, unless they are too many.
fn sums(of: &[i64]) -> Option<BTreeSet<i64>> {
    let mut sums = BTreeSet::from([0_i64]);
    for added in of {
        let more: Vec<i64> = sums.iter().map(|sum| sum + added).collect();
        sums.extend(more);
        if sums.len() > SUMS_MAX {
            return None;
        }
    }
    Some(sums)
}
