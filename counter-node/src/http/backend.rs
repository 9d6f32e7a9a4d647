//! The seam between the API and what counts.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::id::ClusterId;
use counter_core::vector::Bounds;

use crate::overview::ClusterOverview;
use crate::own_writes::{OwnWrites, UNTOLD};
use crate::router::{Detailed, Failure, Reading, Router, Write};
use crate::top::{Asked, Busiest};

/// What the API needs of the node: the router's methods, see there. Each for a client whose own writes must show, or, with a shorter
/// name, for one that does not ask for that.
pub trait Backend: Send + Sync + 'static {
    /// [`Router::update_after`]
    fn update_after(
        &self,
        writes: &OwnWrites,
        key: Key,
        write: impl Into<Write> + Send,
    ) -> impl Future<Output = Result<Reading, Failure>> + Send;
    /// [`Router::read_after`]
    fn read_after(&self, writes: &OwnWrites, key: Key) -> impl Future<Output = Result<Reading, Failure>> + Send;
    /// [`Router::read_detailed_after`]
    fn read_detailed_after(&self, writes: &OwnWrites, key: Key) -> impl Future<Output = Result<Detailed, Failure>> + Send;
    /// [`Router::bounds`]
    fn bounds(&self, key: Key, heard: u32) -> impl Future<Output = Option<Bounds>> + Send;
    /// [`Router::update_many_after`]
    fn update_many_after(
        &self,
        writes: &OwnWrites,
        updates: Vec<(Key, Write)>,
    ) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send;
    /// [`Router::read_many_after`]
    fn read_many_after(&self, writes: &OwnWrites, keys: Vec<Key>) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send;
    /// [`Router::site`]
    fn site(&self) -> impl Future<Output = Result<Detailed, Failure>> + Send;
    /// [`Router::top`]
    fn top(&self, asked: &Asked) -> impl Future<Output = Result<(Busiest, Duration), Failure>> + Send;
    /// [`Router::pages`]
    fn pages(&self, limit: usize) -> Vec<Key>;
    /// [`Router::cluster`]
    fn cluster(&self) -> Option<ClusterId>;
    /// [`Router::overview`]
    fn overview(&self) -> impl Future<Output = Arc<ClusterOverview>> + Send;

    /// Applies one update.
    fn update(&self, key: Key, write: impl Into<Write> + Send) -> impl Future<Output = Result<Reading, Failure>> + Send {
        self.update_after(&UNTOLD, key, write)
    }
    /// Reads one counter.
    fn read(&self, key: Key) -> impl Future<Output = Result<Reading, Failure>> + Send {
        self.read_after(&UNTOLD, key)
    }
    /// Reads one counter, and how fresh that is.
    fn read_detailed(&self, key: Key) -> impl Future<Output = Result<Detailed, Failure>> + Send {
        self.read_detailed_after(&UNTOLD, key)
    }
    /// Applies many updates.
    fn update_many(&self, updates: Vec<(Key, Write)>) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send {
        self.update_many_after(&UNTOLD, updates)
    }
    /// Reads many counters.
    fn read_many(&self, keys: Vec<Key>) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send {
        self.read_many_after(&UNTOLD, keys)
    }
}

impl Backend for Arc<Router> {
    // The router's own futures, not others around them, which nearly every request would make and move.
    fn update_after(
        &self,
        writes: &OwnWrites,
        key: Key,
        write: impl Into<Write> + Send,
    ) -> impl Future<Output = Result<Reading, Failure>> + Send {
        Router::update_after(self, writes, key, write)
    }

    fn read_after(&self, writes: &OwnWrites, key: Key) -> impl Future<Output = Result<Reading, Failure>> + Send {
        Router::read_after(self, writes, key)
    }

    async fn read_detailed_after(&self, writes: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        Router::read_detailed_after(self, writes, key).await
    }

    async fn bounds(&self, key: Key, heard: u32) -> Option<Bounds> {
        Router::bounds(self, key, heard).await
    }

    async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        Router::update_many_after(self, writes, updates).await
    }

    async fn read_many_after(&self, writes: &OwnWrites, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        Router::read_many_after(self, writes, keys).await
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        Router::site(self).await
    }

    async fn top(&self, asked: &Asked) -> Result<(Busiest, Duration), Failure> {
        Router::top(self, asked).await
    }

    fn pages(&self, limit: usize) -> Vec<Key> {
        Router::pages(self, limit)
    }

    fn cluster(&self) -> Option<ClusterId> {
        Router::cluster(self)
    }

    async fn overview(&self) -> Arc<ClusterOverview> {
        Router::overview(self).await
    }
}
