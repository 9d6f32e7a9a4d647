//! Opens what a node stands on: its storage, the layout in that, and the protocol over both.

use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use counter_core::id::{ActorId, ClusterId, NodeName};
use counter_core::layout::Layout;
use counter_core::message::Message;
use counter_core::presence::Viewers;
use counter_core::replica::{Effect, Replica, ReplicaConfig};
use counter_core::table::Table;
use tokio_util::sync::CancellationToken;

use super::StartError;
use super::ports::Listeners;
use crate::args::{ALONE, Config};
use crate::clock::Clock;
use crate::commit::{CommitConfig, Committer};
use crate::hosts::Hosts;
use crate::peers::{Announced, Outboxes, PeerClient, Peers};
use crate::protocol::{self, Protocol};
use crate::records::{self, Records};
use crate::storage::{self, Identity, Store, StoreError, meta};
use crate::tokens::ClusterTokens;
use crate::waiting::Waiting;

/// What a stopping process may need beyond its grace.
const PREDECESSOR_SPARE: Duration = Duration::from_secs(5);
/// How often a data folder in use is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often, at the least, a storage that is away is looked for.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);

/// What all parts stand on: the storage, what it held, and the protocol.
pub(super) struct Base {
    pub(super) identity: Arc<Identity>,
    pub(super) store: Arc<dyn Store>,
    pub(super) committer: Arc<Committer>,
    pub(super) protocol: Arc<Protocol>,
    pub(super) peers: Peers,
    pub(super) superseded: CancellationToken,
    pub(super) table: Arc<Table>,
    pub(super) viewers: Arc<Viewers>,
    pub(super) actor: ActorId,
    pub(super) clock: Arc<Clock>,
    pub(super) announced: Announced<Message>,
}

impl Base {
    /// Waits for the storage as long as [`open_storage_in_turn`] does.
    pub(super) async fn open(config: &Config, ports: &Listeners, tokens: Arc<ClusterTokens>) -> Result<Self, StartError> {
        let Opened { table, store, identity, actor } = open_storage_in_turn(config, ports).await?;
        let me = config.name.clone().unwrap_or_else(|| ALONE.into());
        let layout = first_layout(config, &*store, &me, ports)?;
        let clock = Arc::new(Clock::new());
        let (replica, effects) = replica(config, &table, (me.clone(), actor), layout)?;
        let protocol_of_records = Arc::new(OnceLock::<Weak<Protocol>>::new());
        let source = Records { table: table.clone(), identity: identity.clone(), protocol: protocol_of_records.clone() };
        let committer = Committer::start(store.clone(), Arc::new(source), CommitConfig::new(config.fsync));
        let committer = Arc::new(committer.map_err(StartError::Thread)?);
        let (outboxes, announced) = Outboxes::new();
        let superseded = CancellationToken::new();
        let parts = protocol::Parts {
            me,
            table: table.clone(),
            clock: clock.clone(),
            identity: identity.clone(),
            store: store.clone(),
            committer: committer.clone(),
            replica: Arc::new(Mutex::new(replica)),
            outboxes,
            superseded: superseded.clone(),
        };
        let protocol = Protocol::new(parts, effects);
        // Set once, here.
        drop(protocol_of_records.set(Arc::downgrade(&protocol)));
        let client = PeerClient::new(Hosts::new(config.hosts_file.as_deref()));
        let peers = Peers { protocol: protocol.clone(), client, tokens };
        let viewers = Arc::new(Viewers::new(rand::random()));
        Ok(Self { peers, viewers, identity, store, committer, protocol, superseded, table, actor, clock, announced })
    }
}

/// A node with a name goes on by the layout that it had; one that is alone is offered its own anew.
fn replica(
    config: &Config,
    table: &Table,
    (me, actor): (NodeName, ActorId),
    layout: Option<Layout>,
) -> Result<(Replica, Vec<Effect>), StartError> {
    let replica_config = ReplicaConfig { token_window_ms: config.table.token_window_ms, ..ReplicaConfig::default() };
    let (stored, alone) = if config.name.is_some() { (layout.map(Arc::new), None) } else { (None, layout) };
    let (mut replica, mut effects) = Replica::new(me, actor, stored, replica_config, rand::random(), table);
    if let Some(alone) = alone {
        let offered = replica.offer_layout(table, alone).map_err(|refused| StartError::Layout(refused.to_string()))?;
        effects.extend(offered.1);
    }
    Ok((replica, effects))
}

/// What comes out of storage: the table as it was, and who this start is.
struct Opened {
    table: Arc<Table>,
    store: Arc<dyn Store>,
    identity: Arc<Identity>,
    actor: ActorId,
}

fn open_storage(config: &Config) -> Result<Opened, StartError> {
    let table = Arc::new(Table::new(rand::random(), config.table));
    let store = storage::open(&config.store, &|loaded| records::restore(&table, loaded))?;
    let (identity, actor) = Identity::open(store.clone())?;
    tracing::info!(%actor, counters = table.counters(), stopped_in_order = identity.stopped_in_order(), "storage opened");
    Ok(Opened { table, store, identity: Arc::new(identity), actor })
}

/// A cluster's node may start while its predecessor still stops, as when a Pod is deleted by force: it waits as long as
/// that may take. Someone who starts a node by hand is told at once. For an external storage any node waits without end, since
/// to end would bring it no nearer, and tells whoever asks.
async fn open_storage_in_turn(config: &Config, ports: &Listeners) -> Result<Opened, StartError> {
    let patience = if config.name.is_some() { config.shutdown_grace + PREDECESSOR_SPARE } else { Duration::ZERO };
    let deadline = Instant::now() + patience;
    let mut waiting: Option<Waiting> = None;
    let mut pause = LOOK_AGAIN;
    loop {
        let opened = tokio::task::block_in_place(|| open_storage(config));
        match opened {
            Err(StartError::Storage(error @ StoreError::InUse { .. })) if Instant::now() < deadline => {
                tracing::warn!(%error, "waiting for the process that uses it to end");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(StartError::Storage(error)) if error.may_heal() => {
                tracing::warn!(%error, again_in_ms = pause.as_millis(), "waiting for the storage");
                match &waiting {
                    Some(waiting) => waiting.because(&error.to_string()),
                    None => waiting = Some(ports.wait(&error.to_string())?),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_AGAIN_MAX);
            }
            opened => {
                if let Some(waiting) = waiting {
                    waiting.end().await;
                }
                return opened;
            }
        }
    }
}

/// The layout that storage had, or that of a cluster of one.
fn first_layout(config: &Config, store: &dyn Store, me: &NodeName, ports: &Listeners) -> Result<Option<Layout>, StartError> {
    let stored = store.meta(meta::LAYOUT);
    let stored: Option<Layout> =
        stored.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| StartError::Layout(error.to_string()))?;
    if config.name.is_some() {
        if let Some(layout) = &stored {
            layout.validate().map_err(|error| StartError::Layout(error.to_string()))?;
        }
        return Ok(stored);
    }
    // Alone: the ports may be others than last time, so the layout is made anew, under the same cluster id.
    let alone = |cluster| Layout::single(cluster, ports.as_layout_node(me));
    match stored {
        None => Ok(Some(alone(ClusterId(rand::random())))),
        Some(stored) if stored.shards.len() == 1 && stored.nodes().count() == 1 => {
            Ok(Some(Layout { version: stored.version.next(), ..alone(stored.cluster) }))
        }
        Some(_) => Err(StartError::Layout("it is of a cluster of several nodes; start this node with its --name".to_owned())),
    }
}
