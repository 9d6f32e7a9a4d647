//! Orphans: viewers whose gateway stops, and who are about to come back elsewhere. The gateway hands them to an *heir*, which counts
//! them for a *grace*; each is no orphan any more as soon as its client has resumed.
//!
//! **Invariants.**
//! - A viewer counts at its gateway, or at an heir, at every moment from the gateway's stop until it has resumed or the grace
//!   is over: what is on its way to an heir counts here until the heir has said that it counts there.
//! - Only its client's token ends a viewer, and for one page, where the client is a viewer anew.
//! - Nothing outlives its grace, whichever messages were lost: an orphan that counts twice does so no longer.
//!
//! A stopping gateway is its own first heir. An heir that stops hands on what it has; so the two do the same. A node that stops
//! inherits nothing more, so that nothing goes round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::token::{ResumeKey, SessionToken};
use crate::id::NodeName;
use crate::key::Key;

/// Orphans of one node, each on each of its pages counted.
const ORPHANS_MAX: usize = 1_000_000;
/// The longest grace, in milliseconds: a wrong one must not last.
const GRACE_MS_MAX: u64 = 120_000;

/// A page's viewers, by their numbers at their gateway, each with the hash of its name if it has one.
pub type Bequeathed = (Key, Vec<(u64, Option<u64>)>);

/// Viewers for an heir to count, or a part of them. To get it twice is to get it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bequest {
    /// The gateway's start.
    pub gateway: u64,
    pub key: ResumeKey,
    /// For how long they count if they do not resume.
    pub grace_ms: u64,
    pub pages: Vec<Bequeathed>,
}

/// One viewer of a page, by the hash of its name if it has one.
pub type Orphan = (Key, Option<u64>);

/// A session that has resumed elsewhere as a viewer of a page.
pub type Resumption = (SessionToken, Key);

/// The node has as many orphans as it may; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has as many orphans as it may")]
pub struct TooManyOrphans;

/// What a resumption comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// This node has nothing of that gateway, or the token is none of it.
    Unknown,
    /// There is nothing to do, or it will be done.
    Known,
    /// One viewer less here, of this name.
    Ended(Option<u64>),
    /// To be passed on to the heirs, one of which has it.
    At(Vec<NodeName>),
}

/// What is to be done when an heir has a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// These count here no more.
    pub gone: Vec<Orphan>,
    /// These have resumed since they set out: the heir is to be told.
    pub resumed: Vec<Resumption>,
}

/// The orphans of one node.
#[derive(Debug, Default)]
pub struct Orphans {
    /// By the starts of their gateways.
    estates: BTreeMap<u64, Estate>,
    count: usize,
}

#[derive(Debug)]
struct Estate {
    key: ResumeKey,
    until_ms: u64,
    here: Viewers,
    /// On its way to an heir.
    under_way: Viewers,
    /// Those of them that have resumed.
    resumed: BTreeMap<(u64, Key), SessionToken>,
    /// Who has got what has set out: one, unless that has failed on the way.
    heirs: Vec<NodeName>,
}

type Viewers = BTreeMap<(u64, Key), Option<u64>>;

impl Orphans {
    /// Takes orphans over. Returns those that count here from now on and did not before.
    ///
    /// # Errors
    /// [`TooManyOrphans`].
    pub fn inherit(&mut self, bequest: Bequest, now_ms: u64) -> Result<Vec<Orphan>, TooManyOrphans> {
        let Bequest { gateway, key, grace_ms, pages } = bequest;
        let more = pages.iter().fold(0_usize, |sum, (_, viewers)| sum.saturating_add(viewers.len()));
        if self.count.saturating_add(more) > ORPHANS_MAX {
            return Err(TooManyOrphans);
        }
        let until_ms = now_ms.saturating_add(grace_ms.min(GRACE_MS_MAX));
        let estate = self.estates.entry(gateway).or_insert_with(|| Estate::new(key, until_ms));
        estate.until_ms = estate.until_ms.max(until_ms);
        let mut came = Vec::new();
        for (page, viewers) in pages {
            for (number, name) in viewers {
                let place = (number, page.clone());
                if !estate.under_way.contains_key(&place) && estate.here.insert(place, name).is_none() {
                    came.push((page.clone(), name));
                }
            }
        }
        self.count = self.count.saturating_add(came.len());
        Ok(came)
    }

    /// A session has resumed elsewhere, and counts there on this page.
    pub fn resume(&mut self, (token, page): &Resumption) -> Resumed {
        let Some(estate) = self.estates.get_mut(&token.gateway).filter(|estate| estate.key.admits(token)) else {
            return Resumed::Unknown;
        };
        let place = (token.number, page.clone());
        if let Some(name) = estate.here.remove(&place) {
            self.count = self.count.saturating_sub(1);
            return Resumed::Ended(name);
        }
        if estate.under_way.contains_key(&place) {
            estate.resumed.insert((token.number, page.clone()), *token);
            return Resumed::Known;
        }
        if estate.heirs.is_empty() { Resumed::Known } else { Resumed::At(estate.heirs.clone()) }
    }

    /// The gateways of which there are orphans here, or were.
    #[must_use]
    pub fn gateways(&self) -> Vec<u64> {
        self.estates.keys().copied().collect()
    }

    /// A part of a gateway's orphans, about as long as this when encoded, for an heir. To be followed by [`Self::arrived`] or
    /// [`Self::returned`]. None: there is nothing left to hand over.
    pub fn set_out(&mut self, gateway: u64, bytes_max: usize, now_ms: u64) -> Option<Bequest> {
        let estate = self.estates.get_mut(&gateway).filter(|estate| estate.under_way.is_empty())?;
        let mut pages: BTreeMap<Key, Vec<(u64, Option<u64>)>> = BTreeMap::new();
        let mut bytes = 0_usize;
        while bytes < bytes_max {
            let Some(((number, page), name)) = estate.here.pop_first() else { break };
            let of_page = pages.entry(page.clone()).or_insert_with(|| {
                bytes = bytes.saturating_add(page.as_bytes().len()).saturating_add(4);
                Vec::new()
            });
            of_page.push((number, name));
            bytes = bytes.saturating_add(if name.is_some() { 21 } else { 11 });
            estate.under_way.insert((number, page), name);
        }
        let grace_ms = estate.until_ms.saturating_sub(now_ms);
        let bequest = Bequest { gateway, key: estate.key.clone(), grace_ms, pages: pages.into_iter().collect() };
        (!bequest.pages.is_empty()).then_some(bequest)
    }

    /// The heir counts the part that had set out.
    pub fn arrived(&mut self, gateway: u64, heir: &NodeName) -> Arrived {
        let Some(estate) = self.estates.get_mut(&gateway) else { return Arrived::default() };
        if !estate.heirs.contains(heir) {
            estate.heirs.push(heir.clone());
        }
        let gone = orphans(std::mem::take(&mut estate.under_way));
        self.count = self.count.saturating_sub(gone.len());
        let resumed = std::mem::take(&mut estate.resumed).into_iter().map(|((_, page), token)| (token, page));
        Arrived { gone, resumed: resumed.collect() }
    }

    /// The heir has not answered, or does not want it: the part is here again. Returns those of it that have resumed meanwhile, and
    /// count no more.
    pub fn returned(&mut self, gateway: u64) -> Vec<Orphan> {
        let Some(estate) = self.estates.get_mut(&gateway) else { return Vec::new() };
        let mut gone = Vec::new();
        for (place, _) in std::mem::take(&mut estate.resumed) {
            let name = estate.under_way.remove(&place);
            gone.extend(name.map(|name| (place.1, name)));
        }
        estate.here.append(&mut estate.under_way);
        self.count = self.count.saturating_sub(gone.len());
        gone
    }

    /// Forgets gateways whose grace is over. Returns the orphans that have not resumed, and count no more.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Orphan> {
        let mut gone: Vec<Orphan> = Vec::new();
        self.estates.retain(|_, estate| {
            let is_over = now_ms >= estate.until_ms;
            if is_over {
                gone.extend(orphans(std::mem::take(&mut estate.here)));
                gone.extend(orphans(std::mem::take(&mut estate.under_way)));
            }
            !is_over
        });
        self.count = self.count.saturating_sub(gone.len());
        gone
    }

    /// How many there are, each once for each of its pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Estate {
    fn new(key: ResumeKey, until_ms: u64) -> Self {
        Self { key, until_ms, here: BTreeMap::new(), under_way: BTreeMap::new(), resumed: BTreeMap::new(), heirs: Vec::new() }
    }
}

fn orphans(viewers: Viewers) -> Vec<Orphan> {
    viewers.into_iter().map(|((_, page), name)| (page, name)).collect()
}

#[cfg(test)]
mod tests;
