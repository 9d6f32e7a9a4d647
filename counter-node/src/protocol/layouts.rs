//! Layouts: where they come in, and their way to storage.

use std::sync::Arc;
use std::time::Duration;

use counter_core::layout::{Adoption, Layout, LayoutRefused};
use counter_core::message::LayoutId;
use tokio_util::sync::CancellationToken;

use super::{Protocol, RETRY};
use crate::lock::lock;
use crate::storage::{StoreError, meta};

impl Protocol {
    /// A layout from the operator.
    ///
    /// # Errors
    /// [`LayoutRefused`]; nothing has changed then.
    pub fn offer_layout(&self, layout: Layout) -> Result<Adoption, LayoutRefused> {
        let mut offered = Err(LayoutRefused::Conflict { version: layout.version });
        drop(self.drive(None, |replica, table, _| match replica.offer_layout(table, layout) {
            Ok((adoption, effects)) => {
                offered = Ok(adoption);
                effects
            }
            Err(refused) => {
                offered = Err(refused);
                Vec::new()
            }
        }));
        offered
    }

    /// Stores new layouts, in their order, until the node has stopped. Of several that came meanwhile, the newest does.
    pub async fn save_layouts(self: Arc<Self>, stopped: CancellationToken) {
        while stopped.run_until_cancelled(self.layout_came.notified()).await.is_some() {
            while let Some(layout) = self.unsaved_layout() {
                let version = layout.version;
                match self.store_layout(layout.clone()).await {
                    Ok(()) => drop(self.drive(None, |replica, table, _| {
                        // Under the replica's lock, where newer ones come.
                        lock(&self.unsaved_layout).take_if(|unsaved| unsaved.version == version);
                        replica.layout_persisted(table, version);
                        Vec::new()
                    })),
                    Err(error) => {
                        tracing::error!(%error, version = version.0, "cannot store the layout; trying again");
                        if stopped.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn unsaved_layout(&self) -> Option<Arc<Layout>> {
        lock(&self.unsaved_layout).clone()
    }

    /// Not under any lock: it waits for the disk.
    async fn store_layout(&self, layout: Arc<Layout>) -> Result<(), StoreError> {
        let document = serde_json::to_vec(&*layout).unwrap_or_default();
        let cluster = layout.cluster.to_string();
        let store = self.parts.store.clone();
        let put = move || store.put_meta(&[(meta::LAYOUT, Some(&document)), (meta::CLUSTER, Some(cluster.as_bytes()))]);
        let cut_off = |error: tokio::task::JoinError| Err(StoreError::Engine(error.to_string()));
        tokio::task::spawn_blocking(put).await.unwrap_or_else(cut_off)
    }

    /// The newest layout that a crash would not take back.
    #[must_use]
    pub fn durable_layout(&self) -> Option<LayoutId> {
        *self.durable_layout.borrow()
    }

    /// Waits until the layout that this node acts by is durable. False: it was all the time, or is not in time.
    pub async fn settles(&self, timeout: Duration) -> bool {
        let mut durable = self.durable_layout.subscribe();
        let is_settled = |durable: &Option<LayoutId>| {
            let acts_by = self.view.load().routes.as_ref().map(|routes| routes.layout.version);
            acts_by <= durable.map(|id| id.version)
        };
        if is_settled(&durable.borrow_and_update()) {
            return false;
        }
        tokio::time::timeout(timeout, durable.wait_for(is_settled)).await.is_ok_and(|settled| settled.is_ok())
    }

    pub(super) fn adopt(&self, layout: Arc<Layout>) {
        self.parts.outboxes.retain(&layout);
        *lock(&self.unsaved_layout) = Some(layout);
        self.layout_came.notify_one();
    }
}
