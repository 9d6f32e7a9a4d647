//! Steps of the replica, and what is done of what each asks for.

use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::id::{ActorId, NodeName};
use counter_core::message::Message;
use counter_core::replica::{Effect, Now, PersistId, Replica, Report};
use counter_core::slot::Slot;
use counter_core::table::Table;

use super::{Parts, Protocol, RETRY, Routes, View};
use crate::commit::{CommitError, Committer};
use crate::lock::lock;
use crate::storage::Change;

/// Changes of one commit: a write that has waited for storage to be mended can have more than the committer ever admits.
const COMMIT_AT_ONCE: usize = 4_096;

impl Protocol {
    /// One step, and its effects. What is for `direct` is returned, not put into an outbox.
    pub(super) fn drive(
        &self,
        direct: Option<&NodeName>,
        step: impl FnOnce(&mut Replica, &Table, Now) -> Vec<Effect>,
    ) -> Vec<Message> {
        let Parts { table, clock, replica, .. } = &self.parts;
        let mut replica = lock(replica);
        let mut replies = Vec::new();
        for effect in step(&mut replica, table, clock.now()) {
            match effect {
                Effect::Send { to, message } if Some(&to) == direct => replies.push(message),
                Effect::Send { to, message } => self.parts.outboxes.push(&to, message),
                Effect::Persist { id, keys, slots, floors } => {
                    self.tell(&keys, &slots);
                    self.persist(id, changes_of(&slots, &floors, &keys));
                }
                Effect::AdoptLayout(layout) => self.adopt(layout),
                Effect::RenewActor { above } => self.renew_actor(above),
                Effect::Forget { slots, keys } => self.forget(&slots, &keys),
                Effect::Report(report) => self.report(&report),
            }
        }
        self.publish(&replica);
        replies
    }

    /// Tells the observer what has been merged.
    fn tell(&self, keys: &[Key], slots: &[Slot]) {
        let Some(observer) = self.observer.get() else { return };
        let keys: Vec<&Key> = keys.iter().filter(|key| observer.watches(key.slot())).collect();
        let slots: Vec<Slot> = slots.iter().copied().filter(|slot| observer.watches(*slot)).collect();
        if !keys.is_empty() || !slots.is_empty() {
            observer.changed(&mut keys.into_iter().cloned(), &mut slots.into_iter());
        }
    }

    /// Lets everyone see what the replica has come to.
    fn publish(&self, replica: &Replica) {
        // A clock too far ahead was refused by the replica already.
        let _ = self.parts.clock.hear(replica.clock());
        // What a majority held stays acknowledged when a layout brings siblings that have to pull it first.
        let acknowledged = replica.acknowledged();
        self.acknowledged.send_if_modified(|held| acknowledged > std::mem::replace(held, acknowledged.max(*held)));
        let durable = replica.durable_layout();
        self.durable_layout.send_if_modified(|held| durable.is_some() && std::mem::replace(held, durable) != durable);
        let view = self.view.load();
        let held = view.routes.as_ref().map(|routes| &routes.layout);
        let current = replica.layout();
        let same_layout = held.map(Arc::as_ptr) == current.map(Arc::as_ptr);
        let readiness = replica.readiness();
        if same_layout && view.readiness == readiness {
            return;
        }
        tracing::info!(?readiness, layout = current.map(|layout| layout.version.0), "serving state changed");
        let routes = current.map(|layout| Routes::of(layout, &self.parts.me));
        self.view.store(Arc::new(View { routes, readiness }));
        if let (false, Some(layout), Some(observer)) = (same_layout, current, self.observer.get()) {
            observer.adopt(layout);
        }
    }

    fn persist(&self, id: PersistId, changes: Vec<Change>) {
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            match commit(&protocol.parts.committer, &changes).await {
                Ok(()) => drop(protocol.drive(None, |replica, _, _| replica.persisted(id))),
                Err(error) => {
                    tracing::debug!(%error, "what peers sent could not be written; it is tried again");
                    drop(protocol.drive(None, |replica, _, _| {
                        replica.persist_failed(id);
                        Vec::new()
                    }));
                }
            }
        });
    }

    fn renew_actor(&self, above: Option<ActorId>) {
        let above = above.map_or(0, ActorId::starts);
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            loop {
                let identity = protocol.parts.identity.clone();
                match tokio::task::spawn_blocking(move || identity.renew_above(above)).await {
                    Ok(Ok(actor)) => return protocol.actor_renewed(actor),
                    Ok(Err(error)) => tracing::error!(%error, "cannot store a new incarnation; trying again"),
                    Err(error) => tracing::error!(%error, "storing a new incarnation was cut off; trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn forget(&self, slots: &[Slot], keys: &[Key]) {
        let changes = changes_of(slots, slots, keys);
        let Some(protocol) = self.myself.upgrade() else { return };
        tokio::spawn(async move {
            // Until it has worked, since the slot may come back, and what is left of it must not be taken for part of that.
            // A record is read when it is written, so that by then it removes only what is still forgotten.
            while let Err(error) = commit(&protocol.parts.committer, &changes).await {
                tracing::warn!(%error, "cannot remove from storage what has moved away; trying again");
                if matches!(error, CommitError::Stopped) {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    fn report(&self, report: &Report) {
        if let Report::Superseded { .. } = report {
            tracing::error!(%report, "stopping");
            self.parts.table.set_writer(Slot::all(), None);
            self.parts.superseded.cancel();
        } else {
            tracing::warn!(%report, "protocol");
        }
    }
}

/// Makes all of these changes durable, some at a time.
async fn commit(committer: &Committer, changes: &[Change]) -> Result<(), CommitError> {
    for part in changes.chunks(COMMIT_AT_ONCE) {
        let ticket = committer.admit(part.len())?.submit(part.iter().cloned());
        ticket.await?;
    }
    Ok(())
}

fn changes_of(slots: &[Slot], floors: &[Slot], keys: &[Key]) -> Vec<Change> {
    let slots = slots.iter().copied().map(Change::Slot).chain(floors.iter().copied().map(Change::Floor));
    slots.chain(keys.iter().map(Change::of)).collect()
}
