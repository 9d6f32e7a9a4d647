//! Puts the parts of a node together: those that talk to other nodes, and those that answer clients.

use std::sync::Arc;

use counter_core::forward::{ForwardConfig, ForwardInbox, Forwarder, InboxConfig};
use counter_core::presence::{PresenceConfig, PresenceMessage};
use tokio_util::sync::CancellationToken;

use super::Node;
use super::opening::Base;
use super::ports::Listeners;
use super::running::{Background, Serving};
use crate::admin::Admin;
use crate::args::Config;
use crate::clock::millis;
use crate::details::Details;
use crate::forwarding::{self, Forwarding};
use crate::http::auth::ApiTokens;
use crate::http::cors::Cors;
use crate::http::{self, Api, RequestLimits};
use crate::live::unread::Followed;
use crate::live::{Hub, Live};
use crate::overview::{Gathered, Overviews};
use crate::own_writes::Seen;
use crate::owner::Owner;
use crate::pages::{NodePages, Pages};
use crate::peers::{Announced, Bodies, Outboxes, PeerService};
use crate::presence::{self, PresenceProtocol};
use crate::resp;
use crate::router::Router;
use crate::site::Site;
use crate::status::StatusSource;
use crate::storage::StoreConfig;
use crate::telemetry::{Metrics, Source};
use crate::top::{Recent, Top};
use crate::totals::Totals;
use crate::unread::shards::Shards;

impl Node {
    /// Everything that stands on the base, each part before those that use it.
    pub(super) fn wire(config: Config, ports: Listeners, base: Base, api_tokens: Option<ApiTokens>) -> Self {
        let (live, presence, presence_announced) = base.live(&config);
        let (owner, forwarding) = base.counting(&config);
        let asked = base.asked();
        let router = base.router(owner, &forwarding, &asked);
        let pages = Arc::new(Pages::new(router.clone(), base.protocol.clone()));
        let api_tokens = api_tokens.map(Arc::new);
        let resp = resp_parts(&config, &ports, router, (&pages, api_tokens.clone()));
        let status = base.status(&config, &presence, &forwarding);
        let http_metrics = http::metrics();
        let mut sources: Vec<Box<dyn Source>> = vec![
            Box::new(http_metrics.clone()),
            Box::new(ports.metrics()),
            Box::new(status.clone()),
            Box::new(live.metrics.clone()),
            Box::new(tokio::runtime::Handle::current().metrics()),
        ];
        sources.extend(resp.iter().map(|resp| Box::new(resp.metrics.clone()) as Box<dyn Source>));
        let admin = Arc::new(Admin {
            protocol: base.protocol.clone(),
            status,
            metrics: Metrics::new(sources),
            tokens: base.peers.tokens.clone(),
            pod_uid: config.pod_uid,
            live: live.clone(),
            drain: CancellationToken::new(),
        });
        let api = http::Parts {
            tokens: api_tokens,
            cors: Cors::new(config.cors_origins),
            limits: RequestLimits { body_bytes: config.body_bytes_max, in_flight: config.in_flight_max },
            metrics: http_metrics,
            live: live.clone(),
            stopping: admin.drain.clone(),
            echo: config.websocket_echo,
            keeper: asked.unread.clone(),
        };
        let service = PeerService {
            protocol: base.protocol.clone(),
            forwarding: forwarding.clone(),
            details: asked.details,
            overviews: asked.overviews,
            presence: presence.clone(),
            live: live.clone(),
            top: asked.top,
            unread: asked.unread.clone(),
            table: base.table.clone(),
            tokens: base.peers.tokens.clone(),
            bodies: Bodies::default(),
        };
        let api = Api::new(pages.clone(), api);
        let serving = Serving { ports, api, resp, admin, service, connections_max: config.connections_max };
        let (unread, seeds) = (asked.unread, config.seeds);
        let background = Background { presence, presence_announced, forwarding, live, unread, pages, seeds };
        Self { base, background, serving, grace: config.shutdown_grace }
    }
}

/// What is gathered from the shards, for clients here and for other nodes that gather it.
struct Asked {
    details: Arc<Details>,
    overviews: Arc<Overviews>,
    top: Arc<Top>,
    unread: Arc<Shards>,
}

impl Base {
    /// Who is here, and making that known.
    fn live(&self, config: &Config) -> (Arc<Live>, Arc<PresenceProtocol>, Announced<PresenceMessage>) {
        let (outboxes, announced) = Outboxes::new();
        let start = rand::random();
        let hub = Arc::new(Hub::new(Arc::default()));
        let presence = PresenceProtocol::new(presence::Parts {
            me: self.protocol.me().clone(),
            start,
            config: PresenceConfig { lease_ms: millis(config.live.lease), ..PresenceConfig::default() },
            table: self.table.clone(),
            clock: self.clock.clone(),
            viewers: self.viewers.clone(),
            hub: hub.clone(),
            followed: Arc::new(Followed::new(hub.clone(), config.live.unread_max)),
            outboxes,
            protocol: Arc::downgrade(&self.protocol),
        });
        self.protocol.set_observer(presence.clone());
        let live = Live::new(config.live, hub, presence.clone(), Some(self.peers.clone()), start);
        presence.set_live(&live);
        (live, presence, announced)
    }

    /// Counting here, and at other nodes.
    fn counting(&self, config: &Config) -> (Arc<Owner>, Arc<Forwarding>) {
        let Self { protocol, table, viewers, clock, committer, .. } = self;
        let owner = Arc::new(Owner {
            table: table.clone(),
            viewers: viewers.clone(),
            clock: clock.clone(),
            committer: committer.clone(),
            protocol: protocol.clone(),
            acks: config.acks,
        });
        let forwarding = Forwarding::new(forwarding::Parts {
            protocol: protocol.clone(),
            owner: owner.clone(),
            clock: clock.clone(),
            peers: self.peers.clone(),
            forwarder: Forwarder::new(self.actor, protocol.me().clone(), ForwardConfig::default()),
            inbox: ForwardInbox::new(self.actor, InboxConfig::default()),
        });
        (owner, forwarding)
    }

    fn asked(&self) -> Asked {
        let Self { table, viewers, committer, .. } = self;
        let peers = || self.peers.clone();
        let (recent, gathered) = (Recent::default(), Gathered::default());
        Asked {
            details: Arc::new(Details { table: table.clone(), viewers: viewers.clone(), peers: peers() }),
            overviews: Arc::new(Overviews { table: table.clone(), committer: committer.clone(), peers: peers(), gathered }),
            top: Arc::new(Top { viewers: viewers.clone(), peers: peers(), recent }),
            unread: Arc::new(Shards { table: table.clone(), way: peers() }),
        }
    }

    fn router(&self, owner: Arc<Owner>, forwarding: &Arc<Forwarding>, asked: &Asked) -> Arc<Router> {
        let Self { protocol, table, viewers, peers, .. } = self;
        let totals = Totals::default();
        Arc::new(Router {
            details: asked.details.clone(),
            overviews: asked.overviews.clone(),
            top: asked.top.clone(),
            shards: asked.unread.clone(),
            protocol: protocol.clone(),
            owner,
            forwarding: forwarding.clone(),
            site: Site { table: table.clone(), viewers: viewers.clone(), peers: peers.clone(), totals },
            seen: Seen::new(table.clone(), protocol.clone()),
        })
    }

    fn status(&self, config: &Config, presence: &Arc<PresenceProtocol>, forwarding: &Arc<Forwarding>) -> StatusSource {
        StatusSource {
            protocol: self.protocol.clone(),
            table: self.table.clone(),
            presence: presence.clone(),
            committer: self.committer.clone(),
            forwarding: forwarding.clone(),
            volume: self.store.clone(),
            store: config.store.clone(),
            fsync: config.fsync,
        }
    }
}

/// What the Redis port needs, if there is one.
fn resp_parts(
    config: &Config,
    ports: &Listeners,
    router: Arc<Router>,
    (pages, tokens): (&Arc<NodePages>, Option<Arc<ApiTokens>>),
) -> Option<resp::Parts> {
    let (listener, port_metrics) = ports.resp.as_ref()?;
    Some(resp::Parts {
        router,
        pages: pages.clone(),
        tokens,
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
