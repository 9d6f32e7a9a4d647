//! The node: what starts in which order, and stops in reverse.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

use counter_core::forward::{ForwardConfig, ForwardInbox, Forwarder, InboxConfig};
use counter_core::id::{ActorId, ClusterId, NodeName};
use counter_core::layout::{self, Layout};
use counter_core::message::Message;
use counter_core::presence::{PresenceConfig, PresenceMessage, Viewers};
use counter_core::replica::{Acks, Effect, Replica, ReplicaConfig};
use counter_core::table::Table;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::admin::{self, Admin};
use crate::args::{self, ALONE, Config};
use crate::clock::Clock;
use crate::commit::{CommitConfig, CommitError, Committer};
use crate::details::Details;
use crate::forwarding::{self, Forwarding};
use crate::hosts::Hosts;
use crate::http::auth::ApiTokens;
use crate::http::cors::Cors;
use crate::http::{self, Api, RequestLimits};
use crate::live::unread::Followed;
use crate::live::{self, Hub, Live};
use crate::overview::{Gathered, Overviews};
use crate::own_writes::Seen;
use crate::owner::Owner;
use crate::pages::{NodePages, Pages};
use crate::peers::{Announced, Bodies, Outboxes, PeerClient, PeerService, Peers, Sending, ask_seeds, deliver};
use crate::presence::{self, PresenceProtocol};
use crate::protocol::{self, Protocol};
use crate::records::{self, Records};
use crate::resp;
use crate::router::Router;
use crate::server::{self, Limits, Port, Stop};
use crate::site::Site;
use crate::status::StatusSource;
use crate::storage::{self, Identity, Store, StoreConfig, StoreError, meta};
use crate::telemetry::{Metrics, PortMetrics, Ports, Source};
use crate::tokens::{ClusterTokens, TokenError};
use crate::top::{Recent, Top};
use crate::totals::Totals;
use crate::unread::shards::Shards;
use crate::waiting::Waiting;

/// What a stopping process may need beyond its grace.
const PREDECESSOR_SPARE: Duration = Duration::from_secs(5);
/// How often a data folder in use is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often, at the least, a storage that is away is looked for.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(5);
/// Connections to the admin and the peer port: every node of the largest cluster, and some more.
const INTERNAL_CONNECTIONS: usize = 4_096;

/// How long a node that is a cluster of its own waits for its layout to become durable before it serves.
const FIRST_LAYOUT: Duration = Duration::from_secs(2);

/// How long a stopping node gives others its viewers: nobody waits for one that does not answer.
const HAND_OVER: Duration = Duration::from_secs(5);

/// How long a stopping node, which has no viewers any more, says so.
const FAREWELL: Duration = Duration::from_millis(500);

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
    config: Config,
    ports: Listeners,
    identity: Arc<Identity>,
    store: Arc<dyn Store>,
    committer: Arc<Committer>,
    protocol: Arc<Protocol>,
    forwarding: Arc<Forwarding>,
    sending: Sending<Arc<Protocol>>,
    announced: Announced<Message>,
    presence: Arc<PresenceProtocol>,
    presence_announced: Announced<PresenceMessage>,
    live: Arc<Live>,
    api: Api<Arc<NodePages>>,
    pages: Arc<NodePages>,
    resp: Option<resp::Parts>,
    admin: Arc<Admin>,
    peers: PeerService,
    superseded: CancellationToken,
}

struct Listeners {
    http: (TcpListener, Arc<PortMetrics>),
    admin: (TcpListener, Arc<PortMetrics>),
    peer: (TcpListener, Arc<PortMetrics>),
    resp: Option<(TcpListener, Arc<PortMetrics>)>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, StartError> {
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
    fn wait(&self, reason: &str) -> Result<Waiting, StartError> {
        Waiting::serve([&self.http, &self.admin, &self.peer], reason).map_err(StartError::Wait)
    }

    /// The addresses of a cluster of one node, as its layout names them.
    fn as_layout_node(&self, name: &NodeName) -> layout::Node {
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

async fn bind(port: &'static str, address: SocketAddr) -> Result<(TcpListener, Arc<PortMetrics>), StartError> {
    let listener = TcpListener::bind(address).await.map_err(|source| StartError::Listen { port, address, source })?;
    tracing::info!(port, address = %listener.local_addr().unwrap_or(address), "listening");
    Ok((listener, PortMetrics::new(port)))
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
        let opened = open_storage_in_turn(&config, &ports).await?;
        let me = config.name.clone().unwrap_or_else(|| ALONE.into());
        let layout = first_layout(&config, &*opened.store, &me, &ports)?;
        let parts = assemble(&config, opened, &me, layout)?;
        Ok(Self::with(config, ports, parts, tokens, api_tokens))
    }

    fn with(
        config: Config,
        ports: Listeners,
        parts: Assembled,
        tokens: Arc<ClusterTokens>,
        api_tokens: Option<ApiTokens>,
    ) -> Self {
        let Assembled { opened, committer, protocol, clock, outbox_announced: announced, superseded } = parts;
        let Opened { table, store, identity, actor } = opened;
        let client = PeerClient::new(Hosts::new(config.hosts_file.as_deref()));
        let (outboxes, presence_announced) = Outboxes::new();
        let start = rand::random();
        let hub = Arc::new(Hub::new(Arc::default()));
        let followed = Arc::new(Followed::new(hub.clone()));
        let presence = PresenceProtocol::new(presence::Parts {
            me: protocol.me().clone(),
            start,
            config: PresenceConfig { lease_ms: millis(config.live.lease), ..PresenceConfig::default() },
            table: table.clone(),
            clock: clock.clone(),
            viewers: Arc::new(Viewers::new(rand::random())),
            hub: hub.clone(),
            followed,
            outboxes,
            protocol: Arc::downgrade(&protocol),
        });
        protocol.set_observer(presence.clone());
        let peers = Peers { protocol: protocol.clone(), client, tokens: tokens.clone() };
        let live = Live::new(config.live, hub, presence.clone(), Some(peers.clone()), start);
        presence.set_live(&live);
        let owner = Arc::new(Owner {
            table: table.clone(),
            viewers: presence.viewers().clone(),
            clock: clock.clone(),
            committer: committer.clone(),
            protocol: protocol.clone(),
            acks: acks(&config),
        });
        let forwarding = Forwarding::new(forwarding::Parts {
            protocol: protocol.clone(),
            owner: owner.clone(),
            clock,
            peers: peers.clone(),
            forwarder: Forwarder::new(actor, protocol.me().clone(), ForwardConfig::default()),
            inbox: ForwardInbox::new(actor, InboxConfig::default()),
        });
        let top = Arc::new(Top {
            protocol: protocol.clone(),
            viewers: presence.viewers().clone(),
            peers: peers.clone(),
            recent: Recent::default(),
        });
        let unread = Arc::new(Shards { protocol: protocol.clone(), table: table.clone(), peers: peers.clone() });
        let site = Site {
            protocol: protocol.clone(),
            table: table.clone(),
            viewers: presence.viewers().clone(),
            peers: peers.clone(),
            totals: Totals::default(),
        };
        let details = Arc::new(Details {
            protocol: protocol.clone(),
            table: table.clone(),
            viewers: presence.viewers().clone(),
            peers: peers.clone(),
        });
        let overviews = Arc::new(Overviews {
            protocol: protocol.clone(),
            table: table.clone(),
            committer: committer.clone(),
            peers: peers.clone(),
            gathered: Gathered::default(),
        });
        let router = Arc::new(Router {
            details: details.clone(),
            overviews: overviews.clone(),
            top: top.clone(),
            protocol: protocol.clone(),
            owner,
            forwarding: forwarding.clone(),
            site,
            seen: Seen::new(table.clone(), protocol.clone()),
        });
        let pages = Arc::new(Pages::new(router.clone(), protocol.clone()));
        let status = StatusSource {
            protocol: protocol.clone(),
            table: table.clone(),
            presence: presence.clone(),
            committer: committer.clone(),
            forwarding: forwarding.clone(),
            volume: store.clone(),
            store: config.store.clone(),
            fsync: config.fsync,
        };
        let http_metrics = http::metrics();
        let all_ports = [&ports.http, &ports.admin, &ports.peer].into_iter().chain(&ports.resp);
        let port_metrics = Ports(all_ports.map(|(_, metrics)| metrics.clone()).collect());
        let api_tokens = api_tokens.map(Arc::new);
        let resp = resp_parts(&config, &ports, (&router, &pages), api_tokens.as_ref());
        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(http_metrics.clone()),
            Box::new(port_metrics),
            Box::new(status.clone()),
            Box::new(live.metrics.clone()),
            Box::new(tokio::runtime::Handle::current().metrics()),
        ];
        sources.extend(resp.iter().map(|resp| Box::new(resp.metrics.clone()) as Box<dyn Source>));
        let metrics = Metrics::new(sources);
        let admin = Arc::new(Admin {
            protocol: protocol.clone(),
            status,
            metrics,
            tokens: tokens.clone(),
            pod_uid: config.pod_uid.clone(),
            live: live.clone(),
            drain: CancellationToken::new(),
        });
        let api = http::Parts {
            tokens: api_tokens,
            cors: Cors::new(config.cors_origins.clone()),
            limits: RequestLimits { body_bytes: config.body_bytes_max, in_flight: config.in_flight_max },
            metrics: http_metrics,
            live: live.clone(),
            stopping: admin.drain.clone(),
            echo: config.websocket_echo,
            keeper: unread.clone(),
        };
        Self {
            api: Api::new(pages.clone(), api),
            pages,
            resp,
            peers: PeerService {
                protocol: protocol.clone(),
                forwarding: forwarding.clone(),
                details,
                overviews,
                presence: presence.clone(),
                live: live.clone(),
                top,
                unread,
                table,
                tokens,
                bodies: Bodies::default(),
            },
            sending: Sending { conversation: protocol.clone(), peers },
            presence,
            presence_announced,
            live,
            config,
            ports,
            identity,
            store,
            committer,
            protocol,
            forwarding,
            announced,
            admin,
            superseded,
        }
    }

    /// Serves until `stop`, then ends in order: clients first, then what peers still lack, then storage.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let stopped = CancellationToken::new();
        let background = TaskTracker::new();
        background.spawn(self.protocol.clone().run(stopped.clone()));
        background.spawn(self.protocol.clone().save_layouts(stopped.clone()));
        // A cluster of one has just made its layout: its first client should not have to wait for that.
        self.protocol.settles(FIRST_LAYOUT).await;
        background.spawn(self.forwarding.clone().run(stopped.clone()));
        let leases = Sending { conversation: self.presence.clone(), peers: self.sending.peers.clone() };
        background.spawn(deliver(leases, self.presence_announced, stopped.clone()));
        background.spawn(self.presence.clone().run(stopped.clone()));
        background.spawn(self.live.hub.clone().run(stopped.clone()));
        background.spawn(self.live.sessions.clone().run(stopped.clone()));
        background.spawn(live::unread::run(self.presence.clone(), self.peers.unread.clone(), stopped.clone()));
        background.spawn(self.live.hand_over.clone().run(stopped.clone()));
        background.spawn(live::site::follow(self.live.hub.clone(), self.pages, stopped.clone()));
        background.spawn(deliver(self.sending.clone(), self.announced, stopped.clone()));
        background.spawn(ask_seeds(self.sending, self.config.seeds, stopped.clone()));
        let grace = self.config.shutdown_grace;
        let leaving =
            tokio::spawn(leave(self.admin.drain.clone(), self.live.clone(), self.presence.clone(), HAND_OVER.min(grace / 2)));
        // The rest of the time is for what the siblings still lack.
        let public = Stop { begin: self.admin.drain.clone(), grace: grace - grace / 5 };
        let internal = Stop { begin: stopped.clone(), grace: Duration::from_secs(1) };
        let port = |(listener, metrics), connections| Port { listener, limits: Limits::new(connections), metrics };
        let connections_max = self.config.connections_max;
        let api = self.api;
        let clients = tokio::spawn(server::serve(
            port(self.ports.http, connections_max),
            move |peer| api.clone().into_service(peer),
            public.clone(),
        ));
        let redis_clients = self
            .ports
            .resp
            .zip(self.resp)
            .map(|(listening, parts)| tokio::spawn(resp::serve(parts, port(listening, connections_max), public)));
        let routes = admin::router(self.admin.clone());
        let routes = hyper::service::service_fn(move |request| routes.clone().oneshot(request));
        background.spawn(server::serve(port(self.ports.admin, INTERNAL_CONNECTIONS), move |_| routes.clone(), internal.clone()));
        let peers = self.peers.into_service();
        background.spawn(server::serve(port(self.ports.peer, INTERNAL_CONNECTIONS), move |_| peers.clone(), internal));

        tokio::select! {
            () = stop.cancelled() => {}
            () = self.superseded.cancelled() => {}
        }
        tracing::info!("stopping");
        self.admin.begin_drain();
        let deadline = tokio::time::Instant::now() + grace;
        drop(clients.await);
        if let Some(redis_clients) = redis_clients {
            drop(redis_clients.await);
        }
        drop(leaving.await);
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        self.forwarding.close(left()).await;
        if !self.protocol.drained(left()).await {
            tracing::warn!(
                "stopping although some sibling has not acknowledged all changes; it will pull them from this volume or lack them"
            );
        }
        stopped.cancel();
        background.close();
        background.wait().await;
        let (committer, identity, store) = (self.committer, self.identity, self.store);
        let flushed = committer.close().await;
        drop(tokio::task::spawn_blocking(move || close(flushed, &identity, &*store)).await);
        if self.superseded.is_cancelled() { Ended::Superseded } else { Ended::Stopped }
    }
}

/// Once clients are sent elsewhere: hands their viewers over, so that no page shows fewer, and then says farewell.
async fn leave(drained: CancellationToken, live: Arc<Live>, presence: Arc<PresenceProtocol>, timeout: Duration) {
    drained.cancelled().await;
    live.hand_over(timeout).await;
    presence.leave(FAREWELL).await;
}

/// What the Redis port needs, if there is one.
fn resp_parts(
    config: &Config,
    ports: &Listeners,
    (router, pages): (&Arc<Router>, &Arc<NodePages>),
    tokens: Option<&Arc<ApiTokens>>,
) -> Option<resp::Parts> {
    let (listener, port_metrics) = ports.resp.as_ref()?;
    Some(resp::Parts {
        router: router.clone(),
        pages: pages.clone(),
        tokens: tokens.cloned(),
        redirect: config.resp_redirect,
        flush: config.resp_flush,
        address: listener.local_addr().ok().or(config.resp)?,
        connections_max: config.connections_max,
        memory_bytes_max: config.table.memory_bytes,
        durability: match config.store {
            StoreConfig::Volume(_) => Some(config.fsync),
            StoreConfig::Memory | StoreConfig::Redis(_) => None,
        },
        port_metrics: port_metrics.clone(),
        metrics: Arc::default(),
    })
}

fn close(flushed: Result<(), CommitError>, identity: &Identity, store: &dyn Store) {
    match flushed {
        Ok(()) => {
            if let Err(error) = identity.mark_clean() {
                tracing::warn!(%error, "cannot note the end in order");
            }
        }
        Err(error) => tracing::error!(%error, "not everything was written before the end"),
    }
    if let Err(error) = store.close() {
        tracing::error!(%error, "cannot close the storage");
    }
    tracing::info!("stopped");
}

/// The parts that hold each other.
struct Assembled {
    opened: Opened,
    committer: Arc<Committer>,
    protocol: Arc<Protocol>,
    clock: Arc<Clock>,
    outbox_announced: Announced<Message>,
    superseded: CancellationToken,
}

fn assemble(config: &Config, opened: Opened, me: &NodeName, layout: Option<Layout>) -> Result<Assembled, StartError> {
    let clock = Arc::new(Clock::new());
    let replica_config =
        ReplicaConfig { acks: acks(config), token_window_ms: config.table.token_window_ms, ..ReplicaConfig::default() };
    let (mut replica, mut effects) =
        Replica::new(me.clone(), opened.actor, stored(config, &layout), replica_config, rand::random(), &opened.table);
    if config.name.is_none()
        && let Some(alone) = layout
    {
        effects.extend(offer_alone(&mut replica, &opened.table, alone)?);
    }
    let replica = Arc::new(Mutex::new(replica));
    let protocol_of_records = Arc::new(OnceLock::<Weak<Protocol>>::new());
    let source =
        Records { table: opened.table.clone(), identity: opened.identity.clone(), protocol: protocol_of_records.clone() };
    let committer = Committer::start(opened.store.clone(), Arc::new(source), CommitConfig::new(config.fsync));
    let committer = Arc::new(committer.map_err(StartError::Thread)?);
    let (outboxes, outbox_announced) = Outboxes::new();
    let superseded = CancellationToken::new();
    let parts = protocol::Parts {
        me: me.clone(),
        table: opened.table.clone(),
        clock: clock.clone(),
        identity: opened.identity.clone(),
        store: opened.store.clone(),
        committer: committer.clone(),
        replica,
        outboxes,
        superseded: superseded.clone(),
    };
    let protocol = Protocol::new(parts, effects);
    // Set once, here.
    drop(protocol_of_records.set(Arc::downgrade(&protocol)));
    Ok(Assembled { opened, committer, protocol, clock, outbox_announced, superseded })
}

/// A node with a name goes on by the layout that it had; one that is alone is offered its own anew.
fn stored(config: &Config, layout: &Option<Layout>) -> Option<Arc<Layout>> {
    config.name.as_ref().and(layout.clone()).map(Arc::new)
}

fn offer_alone(replica: &mut Replica, table: &Table, alone: Layout) -> Result<Vec<Effect>, StartError> {
    let offered = replica.offer_layout(table, alone).map_err(|refused| StartError::Layout(refused.to_string()))?;
    Ok(offered.1)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn acks(config: &Config) -> Acks {
    match config.acks {
        args::Acks::Local => Acks::Local,
        args::Acks::Quorum => Acks::Quorum,
    }
}
