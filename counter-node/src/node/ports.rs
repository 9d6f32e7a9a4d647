//! The ports that a node listens on.

use std::net::SocketAddr;
use std::sync::Arc;

use counter_core::id::NodeName;
use counter_core::layout;
use tokio::net::TcpListener;

use super::StartError;
use crate::args::Config;
use crate::telemetry::{PortMetrics, Ports};
use crate::waiting::Waiting;

/// One that is open, and what is counted of it.
pub(super) type Listening = (TcpListener, Arc<PortMetrics>);

pub(super) struct Listeners {
    pub(super) http: Listening,
    pub(super) admin: Listening,
    pub(super) peer: Listening,
    pub(super) resp: Option<Listening>,
}

impl Listeners {
    pub(super) async fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            http: bind("http", config.http).await?,
            admin: bind("admin", config.admin).await?,
            peer: bind("peer", config.peer).await?,
            resp: match config.resp {
                Some(address) => Some(bind("resp", address).await?),
                None => None,
            },
        })
    }

    /// Serves the ports while there is no storage yet.
    pub(super) fn wait(&self, reason: &str) -> Result<Waiting, StartError> {
        Waiting::serve([&self.http, &self.admin, &self.peer], reason).map_err(StartError::Wait)
    }

    /// What is counted of them.
    pub(super) fn metrics(&self) -> Ports {
        let all = [&self.http, &self.admin, &self.peer].into_iter().chain(&self.resp);
        Ports(all.map(|(_, metrics)| metrics.clone()).collect())
    }

    /// The addresses of a cluster of one node, as its layout names them.
    pub(super) fn as_layout_node(&self, name: &NodeName) -> layout::Node {
        let text = |listener: &TcpListener| {
            listener.local_addr().map_or_else(|_| "localhost:0".to_owned(), |address| address.to_string())
        };
        layout::Node {
            name: name.clone(),
            http: text(&self.http.0),
            admin: text(&self.admin.0),
            peer: text(&self.peer.0),
            resp: self.resp.as_ref().map(|(listener, _)| text(listener)),
        }
    }
}

async fn bind(port: &'static str, address: SocketAddr) -> Result<Listening, StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { port, address, source })?;
    tracing::info!(port, address = %listener.local_addr().unwrap_or(address), "listening");
    Ok((listener, PortMetrics::new(port)))
}
