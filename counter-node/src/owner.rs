//! Applies updates on this replica's own table: admit, apply, make durable, and with `acks: Quorum` wait for a majority.

use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::{Key, Update};
use counter_core::forward::{ItemResult, NotApplied, Replayed, UpdateItem};
use counter_core::key::{KeyList, KeyRef};
use counter_core::marks::Mark;
use counter_core::presence::Viewers;
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::token::Token;
use counter_core::vector::{Applied, Reading};

use crate::args::Acks;
use crate::clock::Clock;
use crate::commit::{CommitError, Committer, Permit, Ticket};
use crate::protocol::Protocol;
use crate::storage::Change;

/// How long an update waits for a majority. Longer, and the outcome is told as unknown.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(3);

/// This node as an owner of slots.
pub struct Owner {
    pub table: Arc<Table>,
    pub viewers: Arc<Viewers>,
    pub clock: Arc<Clock>,
    pub committer: Arc<Committer>,
    pub protocol: Arc<Protocol>,
    pub acks: Acks,
}

impl Owner {
    /// Applies one update. `slot` is the key's.
    pub async fn update(&self, slot: Slot, key: Key, update: Update, token: Option<Token>) -> ItemResult {
        let permit = match self.admit(1) {
            Ok(permit) => permit,
            Err(refused) => return ItemResult::NotApplied(refused),
        };
        let mut applied = match self.table.apply_in(slot, (&key).into(), update, token.as_ref(), self.clock.tick()) {
            Ok(applied) => applied,
            Err(refusal) => return ItemResult::from(refusal),
        };
        applied.reading = self.with_viewers(slot, (&key).into(), applied.reading);
        if applied.changed {
            let ticket = permit.submit([Change::Counter { slot, key: key.clone() }]);
            if !self.acknowledge(ticket, std::iter::once((slot, KeyRef::from(&key)))).await {
                return ItemResult::Unknown;
            }
        }
        result_of(&applied)
    }

    /// Applies many updates, each by itself, in one commit. The results are in their order.
    pub async fn update_many(&self, updates: Vec<UpdateItem>) -> Vec<ItemResult> {
        let permit = match self.admit(updates.len()) {
            Ok(permit) => permit,
            Err(refused) => return vec![ItemResult::NotApplied(refused); updates.len()],
        };
        let mut changed = KeyList::default();
        let mut results = Vec::with_capacity(updates.len());
        let mut marked = Vec::new();
        for UpdateItem { key, update, token, marks } in updates {
            let slot = key.slot();
            if marks.as_ref().is_some_and(|marks| !self.table.has_seen(&key, marks)) {
                results.push(ItemResult::NotApplied(NotApplied::Behind));
                continue;
            }
            let now = self.clock.tick();
            let applied = match marks {
                None => self.table.apply_in(slot, (&key).into(), update, token.as_ref(), now).map(|applied| (applied, None)),
                Some(_) => self.table.apply_marked((&key).into(), update, token.as_ref(), now),
            };
            results.push(match applied {
                Ok((mut applied, mark)) => {
                    applied.reading = self.with_viewers(slot, (&key).into(), applied.reading);
                    marked.extend(mark.map(|mark| (results.len(), mark)));
                    // Commits are in order: what is said to have been counted before is durable when this is.
                    if applied.changed {
                        changed.push(slot, (&key).into());
                    }
                    result_of(&applied)
                }
                Err(refusal) => ItemResult::from(refusal),
            });
        }
        if !changed.is_empty() && !self.acknowledge_all(permit, &changed).await {
            // Which of them a failed commit held is not told apart.
            for result in results.iter_mut().filter(|result| matches!(result, ItemResult::Done(_) | ItemResult::Replayed(_))) {
                *result = ItemResult::Unknown;
            }
        }
        for (place, mark) in marked {
            results[place] = with_mark(results[place], mark);
        }
        results
    }

    /// Reads one counter. While its viewers are not known here, another replica may know.
    #[must_use]
    pub fn read(&self, key: &Key) -> ItemResult {
        let slot = key.slot();
        match self.viewers.read_in(slot, key.into()) {
            Some(viewers) => ItemResult::Done(self.table.read_in(slot, key.into()).with(viewers)),
            None => ItemResult::NotApplied(NotApplied::NotReady),
        }
    }

    /// A reading after an update, with the viewers that are known: the update has been applied, whatever they are.
    #[must_use]
    pub(crate) fn with_viewers(&self, slot: Slot, key: KeyRef<'_>, reading: Reading) -> Reading {
        self.viewers.read_in(slot, key).map_or(reading, |viewers| reading.with(viewers))
    }

    /// Asks for room for so many changes, before the table is touched.
    pub(crate) fn admit(&self, changes: usize) -> Result<Permit<'_>, NotApplied> {
        self.committer.admit(changes).inspect_err(|error| tracing::debug!(%error, "an update was not admitted")).map_err(
            |error| match error {
                CommitError::Full => NotApplied::Overloaded,
                CommitError::NotWritable | CommitError::Storage(_) => NotApplied::ReadOnly,
                CommitError::Stopped => NotApplied::NotReady,
            },
        )
    }

    /// Waits until the changes, with the slots that they are in, are as safe as the cluster promises. False: that is not known.
    pub(crate) async fn acknowledge_all(&self, permit: Permit<'_>, keys: &KeyList) -> bool {
        self.acknowledge(permit.submit(keys.iter()), keys.iter()).await
    }

    /// The same for what has been submitted.
    async fn acknowledge<'k>(&self, ticket: Ticket, keys: impl Iterator<Item = (Slot, KeyRef<'k>)>) -> bool {
        // Should the client go away while we wait, the change must still reach the siblings.
        let mut pushed = Push { protocol: &self.protocol, keys };
        if let Err(error) = ticket.await {
            tracing::debug!(%error, "an update was not acknowledged");
            return false;
        }
        match self.acks {
            Acks::Local => true,
            Acks::Quorum => {
                let keys = pushed.keys.by_ref().map(|(_, key)| key.to_key()).collect();
                Box::pin(self.protocol.await_quorum(keys, QUORUM_TIMEOUT)).await
            }
        }
    }
}

/// What was applied, with the mark that its client asked for.
fn with_mark(result: ItemResult, mark: Mark) -> ItemResult {
    match result {
        ItemResult::Done(reading) => ItemResult::Marked { reading, replayed: Replayed::No, mark },
        ItemResult::Replayed(reading) => ItemResult::Marked { reading, replayed: Replayed::Yes, mark },
        other => other,
    }
}

fn result_of(applied: &Applied) -> ItemResult {
    if applied.replayed { ItemResult::Replayed(applied.reading) } else { ItemResult::Done(applied.reading) }
}

/// Hands own changes to the replication when it goes out of scope, however that comes: an update that stands in the
/// table counts here, and must come to count everywhere.
struct Push<'a, 'k, K: Iterator<Item = (Slot, KeyRef<'k>)>> {
    protocol: &'a Protocol,
    keys: K,
}

impl<'k, K: Iterator<Item = (Slot, KeyRef<'k>)>> Drop for Push<'_, 'k, K> {
    fn drop(&mut self) {
        let mut keys = self.keys.by_ref().peekable();
        if keys.peek().is_some() {
            self.protocol.own_changes(keys);
        }
    }
}
