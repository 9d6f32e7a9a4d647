//! The node: what starts in which order, and stops in reverse.

mod opening;
mod ports;
mod running;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::opening::Base;
use self::ports::Listeners;
use self::running::{Background, Serving};
use crate::args::Config;
use crate::http::auth::ApiTokens;
use crate::storage::StoreError;
use crate::tokens::{ClusterTokens, TokenError};

/// Why a node does not start; nothing of its data has changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Storage(#[from] StoreError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("cannot use the API token file: {0}")]
    ApiToken(String),
    #[error("cannot listen on {address} for {port}: {source}")]
    Listen { port: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the data folder holds a layout that cannot be used: {0}")]
    Layout(String),
    #[error("cannot wait for the storage: {0}")]
    Wait(std::io::Error),
    #[error("cannot start the commit thread: {0}")]
    Thread(std::io::Error),
}

/// How a node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// A later start of the same node is alive: this process must not go on.
    Superseded,
}

/// A started node.
pub struct Node {
    base: Base,
    background: Background,
    serving: Serving,
    /// How long stopping may take.
    grace: Duration,
}

impl Node {
    /// Opens the ports and the storage, and puts the parts together. Nothing is served before [`Self::run`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let tokens = Arc::new(ClusterTokens::open(config.cluster_token_file.as_deref())?);
        let api_tokens = config.api_token_file.as_deref().map(ApiTokens::open).transpose();
        let api_tokens = api_tokens.map_err(|error| StartError::ApiToken(error.to_string()))?;
        let ports = Listeners::bind(&config).await?;
        let base = Base::open(&config, &ports, tokens).await?;
        Ok(Self::wire(config, ports, base, api_tokens))
    }
}
