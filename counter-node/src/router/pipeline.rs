//! Many requests of one client at once: what this node owns is applied as it comes and shares one commit; the rest is
//! told to be elsewhere's, for [`crate::pages::Pages`].

use std::sync::Arc;

use counter_core::counter::Update;
use counter_core::forward::NotApplied;
use counter_core::hlc::Hlc;
use counter_core::key::{KeyList, KeyRef};
use counter_core::layout::Layout;
use counter_core::slot::Slot;
use counter_core::vector::Refusal;

use super::{Failure, Reading, Router, Write, unknown};
use crate::commit::Permit;
use crate::protocol::View;

/// Keys for which a pipeline keeps room between its commits.
const CHANGED_KEPT: usize = 1_024;

/// One client's requests between two of its commits. Everything applied must be brought to an end by [`Self::commit`].
pub struct Pipeline<'a> {
    router: &'a Router,
    view: Arc<View>,
    /// How many updates to ask room for.
    room: usize,
    permit: Option<Result<Permit<'a>, NotApplied>>,
    /// All updates between two commits are one moment.
    now: Option<Hlc>,
    changed: KeyList,
}

/// What became of a request that was made here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    /// It is done, but not to be told before the commit.
    Done(Reading),
    /// It is refused, and nothing changed.
    Failed(Failure),
    /// It is not this node's to do, or not at present.
    Elsewhere,
}

impl Router {
    /// Begins a pipeline.
    #[must_use]
    pub fn pipeline(&self) -> Pipeline<'_> {
        Pipeline { router: self, view: self.protocol.view(), room: 1, permit: None, now: None, changed: KeyList::default() }
    }
}

impl Pipeline<'_> {
    /// Whether the counter is this node's to serve, and no page that is spread over several counters.
    #[must_use]
    pub fn holds(&self, slot: Slot, key: &[u8]) -> bool {
        let spread = |layout: &Layout| !layout.virtual_shards.is_empty() && layout.spread(key).ever_count > 0;
        self.view.serves(slot) && !self.view.routes.as_ref().is_some_and(|routes| spread(&routes.layout))
    }

    /// Requests for these counters are about to come: see [`counter_core::table::Table::warm`].
    pub fn warm(&self, keys: &[&[u8]]) {
        self.router.owner.table.warm(keys);
    }

    /// About so many updates will be made until the next commit.
    pub fn expect(&mut self, updates: usize) {
        self.room = updates;
    }

    /// Reads a counter of this node's, with all that the pipeline has done to it.
    #[must_use]
    pub fn read(&self, slot: Slot, key: &[u8]) -> Option<Reading> {
        let page = KeyRef::new(key).ok().filter(|_| self.holds(slot, key))?;
        let owner = &self.router.owner;
        let viewers = owner.viewers.read_in(slot, page)?;
        Some(Reading::from(owner.table.read_in(slot, page).with(viewers)))
    }

    /// Applies an update to a counter of this node's.
    pub fn update(&mut self, slot: Slot, key: KeyRef<'_>, write: Write) -> Here {
        if !self.holds(slot, key.as_bytes()) || !self.is_admitted() {
            return Here::Elsewhere;
        }
        let owner = &self.router.owner;
        let now = *self.now.get_or_insert_with(|| owner.clock.tick());
        match owner.table.apply_in(slot, key, Update::from(write.action), write.token.as_ref(), now) {
            Ok(applied) => {
                if applied.changed {
                    self.changed.push(slot, key);
                }
                let reading = owner.with_viewers(slot, key, applied.reading);
                Here::Done(Reading { replayed: applied.replayed, ..Reading::from(reading) })
            }
            Err(Refusal::NotOwner) => Here::Elsewhere,
            Err(refusal) => Here::Failed(Failure::from(refusal)),
        }
    }

    /// Room is asked for before the first update. Where the storage cannot write, a sibling's may.
    fn is_admitted(&mut self) -> bool {
        self.permit.get_or_insert_with(|| self.router.owner.admit(self.room)).is_ok()
    }

    /// Makes all updates as safe as the cluster promises; then they may be told. Afterwards the pipeline begins anew.
    ///
    /// # Errors
    /// [`Failure::OutcomeUnknown`], which holds for every update since the last commit.
    pub async fn commit(&mut self) -> Result<(), Failure> {
        let permit = self.permit.take();
        self.now = None;
        self.view = self.router.protocol.view();
        match permit {
            Some(Ok(permit)) if !self.changed.is_empty() => {
                // Taken out, so that nothing of it is left should the commit be cut off.
                let mut changed = std::mem::take(&mut self.changed);
                let acknowledged = self.router.owner.acknowledge_all(permit, &changed).await;
                changed.clear(CHANGED_KEPT);
                self.changed = changed;
                if acknowledged { Ok(()) } else { Err(unknown()) }
            }
            _ => Ok(()),
        }
    }
}
