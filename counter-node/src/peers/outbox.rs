//! What is to be sent to each peer, and its sending: one envelope at a time, with all that gathered meanwhile.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::id::NodeName;
use counter_core::layout::Layout;
use counter_core::message::{Envelope, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{MESSAGE_BYTES_MAX, Peers, PostError};
use crate::lock::lock;
use crate::protocol::Protocol;

/// Messages that wait for one peer. More are dropped: the protocol repeats what is not answered.
const WAITING_MAX: usize = 256;
/// Messages of one envelope.
const AT_ONCE: usize = 32;
/// Encoded bytes of the messages of one envelope. What is longer would be refused, however often it is repeated.
const BYTES_AT_ONCE: usize = MESSAGE_BYTES_MAX / 2;
/// How long one envelope may take, answer included.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How long to leave a peer alone that could not be reached.
const PAUSE: Duration = Duration::from_millis(100);
/// How often seeds are asked while no layout has come.
const SEED_INTERVAL: Duration = Duration::from_millis(300);

/// One of the conversations that nodes have, each with outboxes of its own, so that none waits behind another.
pub trait Conversation: Clone + Send + Sync + 'static {
    type Message: Serialize + DeserializeOwned + Send + 'static;
    /// Where peers take it in.
    const PATH: &'static str;
    /// Takes an envelope in. Returns what is to be said to its sender at once.
    fn receive(&self, envelope: Envelope<Vec<Self::Message>>) -> Vec<Self::Message>;
    /// Puts a message into a peer's outbox.
    fn send(&self, to: &NodeName, message: Self::Message);
}

/// Every peer's outbox. An outbox begins with the first message to its peer, and ends when the layout drops the peer.
#[derive(Debug)]
pub struct Outboxes<M> {
    boxes: Arc<Mutex<HashMap<NodeName, Arc<Outbox<M>>>>>,
    begun: mpsc::UnboundedSender<Arc<Outbox<M>>>,
}

impl<M> Clone for Outboxes<M> {
    fn clone(&self) -> Self {
        Self { boxes: self.boxes.clone(), begun: self.begun.clone() }
    }
}

/// Outboxes that have begun, for [`deliver`].
pub type Announced<M> = mpsc::UnboundedReceiver<Arc<Outbox<M>>>;

#[derive(Debug)]
pub struct Outbox<M> {
    to: NodeName,
    waiting: Mutex<VecDeque<M>>,
    filled: Notify,
    dropped: CancellationToken,
}

impl<M> Outboxes<M> {
    /// No outboxes yet; [`deliver`] takes the receiver.
    #[must_use]
    pub fn new() -> (Self, Announced<M>) {
        // Bounded by the number of peers: each outbox is announced once.
        let (begun, announced) = mpsc::unbounded_channel();
        (Self { boxes: Arc::default(), begun }, announced)
    }

    /// Puts a message into the peer's outbox; drops it when that is full.
    pub fn push(&self, to: &NodeName, message: M) {
        let outbox = self.outbox(to);
        let mut waiting = lock(&outbox.waiting);
        if waiting.len() < WAITING_MAX {
            waiting.push_back(message);
            outbox.filled.notify_one();
        }
    }

    fn outbox(&self, to: &NodeName) -> Arc<Outbox<M>> {
        let mut boxes = lock(&self.boxes);
        if let Some(outbox) = boxes.get(to) {
            return outbox.clone();
        }
        let outbox = Arc::new(Outbox {
            to: to.clone(),
            waiting: Mutex::default(),
            filled: Notify::new(),
            dropped: CancellationToken::new(),
        });
        boxes.insert(to.clone(), outbox.clone());
        // Nobody listens only while the node stops.
        drop(self.begun.send(outbox.clone()));
        outbox
    }

    /// Ends the outboxes of nodes that the layout does not name.
    pub fn retain(&self, layout: &Layout) {
        let mut boxes = lock(&self.boxes);
        boxes.retain(|name, outbox| {
            let stays = layout.node(name).is_some();
            if !stays {
                outbox.dropped.cancel();
            }
            stays
        });
    }
}

/// What sending takes.
#[derive(Clone)]
pub struct Sending<C> {
    pub conversation: C,
    pub peers: Peers,
}

/// Sends what the outboxes hold, each in a task of its own, until the node has stopped.
pub async fn deliver<C: Conversation>(sending: Sending<C>, mut announced: Announced<C::Message>, stopped: CancellationToken) {
    while let Some(Some(outbox)) = stopped.run_until_cancelled(announced.recv()).await {
        let (sending, stopped) = (sending.clone(), stopped.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = sending.drain(&outbox) => {}
                () = outbox.dropped.cancelled() => {}
                () = stopped.cancelled() => {}
            }
        });
    }
}

impl<C: Conversation> Sending<C> {
    async fn drain(&self, outbox: &Outbox<C::Message>) {
        loop {
            let messages = outbox.take();
            if messages.is_empty() {
                outbox.filled.notified().await;
                continue;
            }
            let Some(address) = self.address_of(&outbox.to) else { continue };
            if let Err(error) = self.exchange(&address, Some(&outbox.to), messages).await {
                tracing::debug!(peer = %outbox.to, %error, "messages were not delivered");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn address_of(&self, name: &NodeName) -> Option<String> {
        let view = self.peers.protocol.view();
        let layout = &view.routes.as_ref()?.layout;
        layout.node(name).map(|node| node.peer.clone())
    }

    /// Posts messages, and takes in what the receiver answers.
    async fn exchange(&self, address: &str, to: Option<&NodeName>, messages: Vec<C::Message>) -> Result<(), PostError> {
        let post = self.peers.post(address, to, C::PATH, messages);
        let answer = tokio::time::timeout(TIMEOUT, post).await.unwrap_or_else(|_| Err(PostError::Lost("time-out".to_owned())))?;
        let own = answer.header.from.clone();
        for message in self.conversation.receive(answer) {
            self.conversation.send(&own, message);
        }
        Ok(())
    }
}

impl<M: Serialize> Outbox<M> {
    fn take(&self) -> Vec<M> {
        let mut waiting = lock(&self.waiting);
        let count = fitting(&*waiting);
        waiting.drain(..count).collect()
    }
}

/// How many of these messages, from the first on, fit one envelope: one at least, if there is any.
pub(super) fn fitting<'a, M: Serialize + 'a>(messages: impl IntoIterator<Item = &'a M>) -> usize {
    let mut bytes = 0_usize;
    let mut messages = messages.into_iter().take(AT_ONCE).map(|message| {
        // Sizing has no way to fail for these types.
        bytes = bytes.saturating_add(postcard::experimental::serialized_size(message).unwrap_or_default());
        bytes
    });
    let first = messages.next().map_or(0, |_| 1);
    first + messages.take_while(|bytes| *bytes <= BYTES_AT_ONCE).count()
}

/// Asks the seeds for their layout until one has come. A node that has one keeps up by what its peers say.
pub async fn ask_seeds(sending: Sending<Arc<Protocol>>, seeds: Vec<String>, stopped: CancellationToken) {
    let ask = async {
        for seed in seeds.iter().cycle() {
            if sending.peers.protocol.view().routes.is_some() {
                return;
            }
            if let Err(error) = sending.exchange(seed, None, vec![Message::LayoutAsk]).await {
                tracing::debug!(%seed, %error, "a seed did not answer");
            }
            tokio::time::sleep(SEED_INTERVAL).await;
        }
    };
    let _ = stopped.run_until_cancelled(ask).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_takes_what_fits_and_one_message_always() {
        let large = || Message::Layout(vec![0; BYTES_AT_ONCE / 2 - 100]);
        let too_large = || Message::Layout(vec![0; BYTES_AT_ONCE + 1]);
        assert_eq!(fitting::<Message>(&[]), 0);
        assert_eq!(fitting(&vec![Message::Hello; 100]), AT_ONCE);
        assert_eq!(fitting(&[large(), large(), large()]), 2);
        assert_eq!(fitting(&[too_large(), Message::Hello]), 1);
        assert_eq!(fitting(&[Message::Hello, too_large()]), 1);
    }
}
