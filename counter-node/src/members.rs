//! The other nodes, as one to be asked for something sees them: who is believed to live, in which order they are to be asked, and
//! asking.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use counter_core::id::NodeName;
use counter_core::layout::Node;
use counter_core::presence::{GatewayId, Roster, RosterTimes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::clock::millis;
use crate::lock::lock;
use crate::peers::{Peers, Question};

/// For how long a node that did not answer is passed over.
const SILENCE: Duration = Duration::from_secs(2);

/// The way to other nodes: [`Peers`], but for tests.
pub trait Reach: Send + Sync + 'static {
    /// This node.
    fn me(&self) -> &NodeName;

    /// The nodes of the layout; none while there is no layout.
    fn nodes(&self) -> Option<Vec<NodeName>>;

    /// What a node says. None: it has not answered in time, or something that cannot be read.
    fn reach<B, A>(&self, to: &NodeName, question: Question<'_, B>) -> impl Future<Output = Option<A>> + Send
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send;

    /// The first answer that is taken, of these nodes in their order; this one is passed over.
    fn first<'l, B, A, T>(
        &self,
        nodes: impl ExactSizeIterator<Item = &'l Node> + Send,
        Question { path, body, time }: Question<'_, B>,
        mut take: impl FnMut(A) -> Option<T> + Send,
    ) -> impl Future<Output = Option<T>> + Send
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send,
        T: Send,
    {
        // So that one that hangs leaves time for the others.
        let time = time / u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        async move {
            for Node { name, .. } in nodes.filter(|node| node.name != *self.me()) {
                match self.reach(name, Question { path, body: &body, time }).await.and_then(&mut take) {
                    Some(taken) => return Some(taken),
                    None => tracing::debug!(peer = %name, path, "no answer from this replica"),
                }
            }
            None
        }
    }
}

impl Reach for Peers {
    fn me(&self) -> &NodeName {
        self.protocol.me()
    }

    fn nodes(&self) -> Option<Vec<NodeName>> {
        let view = self.protocol.view();
        view.routes.as_ref().map(|routes| routes.layout.nodes().map(|node| node.name.clone()).collect())
    }

    async fn reach<B, A>(&self, to: &NodeName, question: Question<'_, B>) -> Option<A>
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send,
    {
        let view = self.protocol.view();
        self.ask(view.routes.as_ref()?.layout.node(to)?, &question).await
    }
}

/// See the module's text.
pub struct Members<R = Peers> {
    /// None: this node is all there is.
    peers: Option<R>,
    me: NodeName,
    roster: Mutex<Roster>,
    began: Instant,
}

impl<R: Reach> Members<R> {
    /// Of nobody was anything heard yet. A node that says nothing for four fifths of a lease is passed over: before what it has is gone.
    #[must_use]
    pub fn new(peers: Option<R>, lease: Duration) -> Self {
        let me = peers.as_ref().map_or_else(|| NodeName::from(""), |peers| peers.me().clone());
        let times = RosterTimes { lease_ms: millis(lease), doubt_ms: millis(lease * 4 / 5), silence_ms: millis(SILENCE) };
        Self { roster: Mutex::new(Roster::new(me.clone(), times, 0)), peers, me, began: Instant::now() }
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> &NodeName {
        &self.me
    }

    /// Whether there are no others, ever.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.peers.is_none()
    }

    /// Milliseconds on the clock of this process.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }

    /// A node has said that it lives.
    pub fn heard(&self, gateway: &GatewayId) {
        lock(&self.roster).heard(&gateway.node, gateway.start, self.now_ms());
    }

    /// A node has said farewell.
    pub fn left(&self, gateway: &GatewayId) {
        lock(&self.roster).left(&gateway.node, gateway.start, self.now_ms());
    }

    /// Someone has to do with this start of a node.
    pub fn heard_of(&self, start: u64) {
        lock(&self.roster).heard_of(start, self.now_ms());
    }

    /// Whether what a start of a node has still counts.
    #[must_use]
    pub fn lives(&self, start: u64) -> bool {
        lock(&self.roster).lives(start, self.now_ms())
    }

    /// The node of a start that has not said farewell.
    #[must_use]
    pub fn node_of(&self, start: u64) -> Option<NodeName> {
        lock(&self.roster).node_of(start, self.now_ms()).cloned()
    }

    /// This node is about to exit, and nothing new is for it.
    pub fn leave(&self) {
        lock(&self.roster).leave();
    }

    /// The nodes of the layout in the order in which they are to be asked about a subject; those that are passed over come last.
    #[must_use]
    pub fn rank(&self, subject: u64) -> Vec<NodeName> {
        let nodes = self.nodes();
        lock(&self.roster).rank(subject, &nodes, self.now_ms()).into_iter().cloned().collect()
    }

    /// Those of [`Self::rank`] that are not passed over.
    #[must_use]
    pub fn heirs(&self, subject: u64) -> Vec<NodeName> {
        let nodes = self.nodes();
        let (roster, now_ms) = (lock(&self.roster), self.now_ms());
        let ranked = roster.rank(subject, &nodes, now_ms).into_iter();
        ranked.filter(|node| roster.believes_in(node, now_ms)).cloned().collect()
    }

    /// The first of these nodes, unless all are passed over.
    #[must_use]
    pub fn first(&self, subject: u64, nodes: &[NodeName]) -> Option<NodeName> {
        let roster = lock(&self.roster);
        let now_ms = self.now_ms();
        let first = roster.rank(subject, nodes, now_ms).into_iter().next();
        first.filter(|node| roster.believes_in(node, now_ms)).cloned()
    }

    /// Nodes that are not passed over, this one perhaps among them.
    #[must_use]
    pub fn believed(&self) -> Vec<NodeName> {
        let mut nodes = self.nodes();
        let mut roster = lock(&self.roster);
        let now_ms = self.now_ms();
        roster.forget(now_ms);
        nodes.retain(|node| roster.believes_in(node, now_ms));
        nodes
    }

    /// [`Roster::changes`].
    #[must_use]
    pub fn changes(&self) -> u64 {
        lock(&self.roster).changes()
    }

    /// [`Roster::losses`].
    #[must_use]
    pub fn losses(&self) -> u64 {
        lock(&self.roster).losses()
    }

    fn nodes(&self) -> Vec<NodeName> {
        self.peers.as_ref().and_then(R::nodes).unwrap_or_else(|| vec![self.me.clone()])
    }

    /// Asks another node. None: it has not answered in time, and is passed over for a while.
    pub async fn ask<B, A>(&self, to: &NodeName, path: &str, body: B, time: Duration) -> Option<A>
    where
        B: Serialize + Send + Sync,
        A: DeserializeOwned + Send,
    {
        let answer = self.peers.as_ref()?.reach(to, Question { path, body, time }).await;
        if answer.is_none() {
            tracing::debug!(peer = %to, path, "a node does not answer");
            lock(&self.roster).is_silent(to, self.now_ms());
        }
        answer
    }
}

impl<R> std::fmt::Debug for Members<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").field("me", &self.me).finish_non_exhaustive()
    }
}
