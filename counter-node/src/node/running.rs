//! A node's life: what runs in the background, what serves, and the order in which all of it ends.

use std::sync::Arc;
use std::time::Duration;

use counter_core::message::Message;
use counter_core::presence::PresenceMessage;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::ports::{Listeners, Listening};
use super::{Ended, Node};
use crate::admin::{self, Admin};
use crate::commit::CommitError;
use crate::forwarding::Forwarding;
use crate::http::Api;
use crate::live::{self, Live};
use crate::pages::NodePages;
use crate::peers::{Announced, PeerService, Peers, Sending, ask_seeds, deliver};
use crate::presence::PresenceProtocol;
use crate::resp;
use crate::server::{self, Limits, Port, Stop};
use crate::storage::{Identity, Store};
use crate::unread::shards::Shards;

/// Connections to the admin and the peer port: every node of the largest cluster with one for messages and four for what it forwards, and
/// some more.
const INTERNAL_CONNECTIONS: usize = 10_240;
/// How long a node that is a cluster of its own waits for its layout to become durable before it serves.
const FIRST_LAYOUT: Duration = Duration::from_secs(2);
/// How long a stopping node gives others its viewers: nobody waits for one that does not answer.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How long a stopping node, which has no viewers any more, says so.
const FAREWELL: Duration = Duration::from_millis(500);

/// What goes on whether or not anyone asks for anything.
pub(super) struct Background {
    pub(super) presence: Arc<PresenceProtocol>,
    pub(super) presence_announced: Announced<PresenceMessage>,
    pub(super) forwarding: Arc<Forwarding>,
    pub(super) live: Arc<Live>,
    pub(super) unread: Arc<Shards>,
    pub(super) pages: Arc<NodePages>,
    pub(super) seeds: Vec<String>,
}

/// What answers on the ports.
pub(super) struct Serving {
    pub(super) ports: Listeners,
    pub(super) api: Api<Arc<NodePages>>,
    pub(super) resp: Option<resp::Parts>,
    pub(super) admin: Arc<Admin>,
    pub(super) service: PeerService,
    pub(super) connections_max: usize,
}

impl Node {
    /// Serves until `stop`, then ends in order: clients first, then what peers still lack, then storage.
    pub async fn run(self, stop: CancellationToken) -> Ended {
        let Self { base, background, serving, grace } = self;
        let (clients, tasks, stopped) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
        let (admin, forwarding) = (serving.admin.clone(), background.forwarding.clone());
        let leaving = leave(admin.clone(), background.presence.clone(), HAND_OVER.min(grace / 2));
        background.start(base.peers, base.announced, (&tasks, &stopped)).await;
        clients.spawn(leaving);
        // The rest of the time is for what the siblings still lack.
        let public = Stop { begin: admin.drain.clone(), grace: grace - grace / 5 };
        let internal = Stop { begin: stopped.clone(), grace: Duration::from_secs(1) };
        serving.start((&clients, public), (&tasks, internal));

        tokio::select! {
            () = stop.cancelled() => {}
            () = base.superseded.cancelled() => {}
        }
        tracing::info!("stopping");
        admin.begin_drain();
        let deadline = tokio::time::Instant::now() + grace;
        clients.close();
        clients.wait().await;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        forwarding.close(left()).await;
        if !base.protocol.drained(left()).await {
            tracing::warn!(
                "stopping although some sibling has not acknowledged all changes; it will pull them from this volume or lack them"
            );
        }
        stopped.cancel();
        tasks.close();
        tasks.wait().await;
        let flushed = base.committer.close().await;
        let (identity, store) = (base.identity, base.store);
        drop(tokio::task::spawn_blocking(move || close(flushed, &identity, &*store)).await);
        if base.superseded.is_cancelled() { Ended::Superseded } else { Ended::Stopped }
    }
}

impl Background {
    /// Begins all of it, each in a task of its own, until the node has stopped.
    async fn start(self, peers: Peers, announced: Announced<Message>, (tasks, stopped): (&TaskTracker, &CancellationToken)) {
        let Self { presence, live, .. } = self;
        let protocol = peers.protocol.clone();
        tasks.spawn(protocol.clone().run(stopped.clone()));
        tasks.spawn(protocol.clone().save_layouts(stopped.clone()));
        // A cluster of one has just made its layout: its first client should not have to wait for that.
        protocol.settles(FIRST_LAYOUT).await;
        tasks.spawn(self.forwarding.run(stopped.clone()));
        let leases = Sending { conversation: presence.clone(), peers: peers.clone() };
        let sending = Sending { conversation: protocol, peers };
        tasks.spawn(deliver(leases, self.presence_announced, stopped.clone()));
        tasks.spawn(presence.clone().run(stopped.clone()));
        tasks.spawn(live.hub.clone().run(stopped.clone()));
        tasks.spawn(live.sessions.clone().run(stopped.clone()));
        tasks.spawn(live::unread::run(presence, self.unread, stopped.clone()));
        tasks.spawn(live.hand_over.clone().run(stopped.clone()));
        tasks.spawn(live::site::follow(live.hub.clone(), self.pages, stopped.clone()));
        tasks.spawn(deliver(sending.clone(), announced, stopped.clone()));
        tasks.spawn(ask_seeds(sending, self.seeds, stopped.clone()));
    }
}

impl Serving {
    /// Begins to accept: clients until they are sent elsewhere, the operator and other nodes until the node has stopped.
    fn start(self, (clients, public): (&TaskTracker, Stop), (tasks, internal): (&TaskTracker, Stop)) {
        let port = |(listener, metrics): Listening, connections| Port { listener, limits: Limits::new(connections), metrics };
        let Self { ports, api, connections_max, .. } = self;
        let plain = api.clone();
        let api = move |peer| api.clone().into_service(peer);
        clients.spawn(server::serve(port(ports.http, connections_max), plain, api, public.clone()));
        if let Some((listening, parts)) = ports.resp.zip(self.resp) {
            clients.spawn(resp::serve(parts, port(listening, connections_max), public));
        }
        let routes = admin::router(self.admin);
        let routes = hyper::service::service_fn(move |request| routes.clone().oneshot(request));
        tasks.spawn(server::serve(port(ports.admin, INTERNAL_CONNECTIONS), (), move |_| routes.clone(), internal.clone()));
        let peers = self.service.into_service();
        tasks.spawn(server::serve(port(ports.peer, INTERNAL_CONNECTIONS), (), move |_| peers.clone(), internal));
    }
}

/// Once clients are sent elsewhere: hands their viewers over, so that no page shows fewer, and then says farewell.
async fn leave(admin: Arc<Admin>, presence: Arc<PresenceProtocol>, timeout: Duration) {
    admin.drain.cancelled().await;
    admin.live.hand_over(timeout).await;
    presence.leave(FAREWELL).await;
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
