//! One client on server-sent events: the body of an answer that goes on until either end stops. HTTP/1.1 and HTTP/2 alike.
//!
//! Nothing is given to HTTP while the client has not taken what was sent before: it would keep all of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::metrics::Counted;
use super::{LiveMetrics, Opening, Place, Subject, Subscriptions};
use crate::server::{Peer, Watch};

/// The events of one client. When it is dropped, as it is with its connection, the client views nothing any more.
pub struct Events {
    subscriptions: Subscriptions,
    /// What is to be sent before anything else is looked for.
    ready: VecDeque<Bytes>,
    /// The count that the client has already.
    last_id: Option<String>,
    /// What a user has not read is all that it is about, not something beside a page.
    of_user: bool,
    ping: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    stopped: bool,
    /// Nothing may be sent for long, and so no write tell that the client has gone.
    watch: Watch,
    /// The client has not taken what was sent before: `ping` says when it is cut off.
    is_behind: bool,
    _place: Place,
    _counted: Counted<fn(&LiveMetrics) -> &std::sync::atomic::AtomicU64>,
}

impl Events {
    /// The events that `opening` asks for, for the client at `peer`, until `stopping` is cancelled.
    #[must_use]
    pub fn new(opening: Opening, peer: &Peer, stopping: CancellationToken) -> Self {
        let Opening { live, place, subject, mode, who, unread, last_id } = opening;
        let counted: Counted<fn(&LiveMetrics) -> &_> = Counted::new(Arc::clone(&live.metrics), |metrics| &metrics.streams);
        let mut subscriptions = Subscriptions::new(live, who);
        let live = subscriptions.live().clone();
        let retry_ms = live.retry_ms();
        let hello = serde_json::json!({
            "version": 1,
            "resume": live.resume_token(subscriptions.connection),
            "heartbeat_seconds": live.config.heartbeat.as_secs(),
            "retry_ms": retry_ms,
        });
        let of_user = matches!(subject, Subject::User(_));
        subscriptions.begin(subject, mode, unread);
        Self {
            subscriptions,
            ready: VecDeque::from([Bytes::from(format!("retry: {}\nevent: hello\ndata: {hello}\n\n", within(retry_ms)))]),
            last_id,
            of_user,
            ping: Box::pin(tokio::time::sleep(live.ping_interval())),
            stopping: Box::pin(stopping.cancelled_owned()),
            stopped: false,
            watch: peer.watch(live.config.heartbeat),
            is_behind: false,
            _place: place,
            _counted: counted,
        }
    }

    /// Whether the client takes what is sent: nothing more is looked for until it does, and it is cut off when it takes nothing for a
    /// heartbeat.
    fn poll_taking(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let live = self.subscriptions.live();
        let is_behind = self.watch.poll_taking(cx).is_pending();
        if is_behind != self.is_behind {
            self.is_behind = is_behind;
            let wait = if is_behind { live.config.heartbeat } else { live.ping_interval() };
            self.ping.as_mut().reset(Instant::now() + wait);
        }
        if !is_behind {
            return Poll::Ready(());
        }
        if !self.stopped {
            let is_late = self.ping.as_mut().poll(cx).is_ready();
            live.metrics.cut.fetch_add(is_late.into(), Ordering::Relaxed);
            // To a client that takes nothing there is nothing to say when the node stops.
            if is_late || self.stopping.as_mut().poll(cx).is_ready() {
                self.stopped = true;
                self.watch.give_up();
            }
        }
        Poll::Pending
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.poll_taking(cx).is_pending() {
            return Poll::Pending;
        }
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.stopped {
                return Poll::Ready(None);
            }
            let live = self.subscriptions.live().clone();
            if self.stopping.as_mut().poll(cx).is_ready() {
                self.stopped = true;
                let after_ms = live.reconnect_after_ms();
                self.ready.push_back(format!("event: reconnect\ndata: {{\"after_ms\":{after_ms}}}\n\n").into());
            } else if let Poll::Ready(marks) = self.subscriptions.poll_marks(cx) {
                for value in marks.filter_map(|place| self.subscriptions.value(place)).collect::<Vec<_>>() {
                    if value.is_unread {
                        let named = (!self.of_user).then_some(Bytes::from_static(b"event: unread\n"));
                        self.ready.extend(named.into_iter().chain([value.event.clone()]));
                        continue;
                    }
                    // Only the first can be the one that the client has.
                    if self.last_id.take().is_none_or(|last_id| last_id != value.count.id()) {
                        self.ready.push_back(value.event.clone());
                    }
                }
            } else if self.ping.as_mut().poll(cx).is_ready() {
                self.ping.as_mut().reset(Instant::now() + live.ping_interval());
                self.ready.push_back(Bytes::from_static(b":\n\n"));
            } else {
                return Poll::Pending;
            }
        }
    }
}

/// After how many milliseconds a browser connects anew by itself.
fn within([low, high]: [u64; 2]) -> u64 {
    use rand::Rng as _;
    rand::rng().random_range(low..=high)
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_next(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
