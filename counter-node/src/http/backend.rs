//! The seam between the API and what counts.

use std::future::Future;
use std::sync::Arc;

use counter_core::counter::Key;

use crate::router::{Detailed, Failure, Reading, Router, Write};

/// What the API needs of the node: the router's methods, see there.
pub trait Backend: Send + Sync + 'static {
    /// [`Router::update`]
    fn update(&self, key: Key, write: impl Into<Write> + Send) -> impl Future<Output = Result<Reading, Failure>> + Send;
    /// [`Router::read`]
    fn read(&self, key: Key) -> impl Future<Output = Result<Reading, Failure>> + Send;
    /// [`Router::read_detailed`]
    fn read_detailed(&self, key: Key) -> impl Future<Output = Result<Detailed, Failure>> + Send;
    /// [`Router::update_many`]
    fn update_many(&self, updates: Vec<(Key, Write)>) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send;
    /// [`Router::read_many`]
    fn read_many(&self, keys: Vec<Key>) -> impl Future<Output = Vec<Result<Reading, Failure>>> + Send;
    /// [`Router::site`]
    fn site(&self) -> impl Future<Output = Result<Detailed, Failure>> + Send;
    /// [`Router::pages`]
    fn pages(&self, limit: usize) -> Vec<Key>;
}

impl Backend for Arc<Router> {
    async fn update(&self, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        Router::update(self, key, write).await
    }

    async fn read(&self, key: Key) -> Result<Reading, Failure> {
        Router::read(self, key).await
    }

    async fn update_many(&self, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        Router::update_many(self, updates).await
    }

    async fn read_many(&self, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        Router::read_many(self, keys).await
    }

    async fn read_detailed(&self, key: Key) -> Result<Detailed, Failure> {
        Router::read_detailed(self, key).await
    }

    async fn site(&self) -> Result<Detailed, Failure> {
        Router::site(self).await
    }

    fn pages(&self, limit: usize) -> Vec<Key> {
        Router::pages(self, limit)
    }
}
