//! Page → who looks at it on this node. Counts come from the presence protocol, one message per page whatever the audience;
//! the hub writes each once, and marks it in its subscribers' mailboxes, at the page's pace.
//!
//! Locks are taken in this order: presence protocol, [`Hub::topics`], [`Topic::state`], [`Hub::due`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use counter_core::counter::Key;
use counter_core::hlc::Hlc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::mailbox::Mailbox;
use super::metrics::LiveMetrics;
use super::pace;
use super::value::{Count, Value};
use crate::lock::lock;

/// What can be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Site,
    Page(Key),
    /// What a user, by the key of [`Key::user`], has not read.
    User(Key),
}

/// What this node has on a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attendance {
    /// Viewers that this node holds.
    pub sessions: u32,
    /// Someone is sent its counts.
    pub watched: bool,
}

/// What is heard of one key: a page's own, or one of its virtual shards'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub tally: i128,
    pub viewers: u64,
    pub updated_at: Option<Hlc>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Hub {
    topics: Mutex<HashMap<Subject, Arc<Topic>>>,
    /// Topics with a count that has not been told yet, by when it may be.
    due: Mutex<BTreeMap<(Instant, u64), Arc<Topic>>>,
    wake: Notify,
    metrics: Arc<LiveMetrics>,
}

/// One subject, while anyone looks at it or views it.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) subject: Subject,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: u32,
    /// By the numbers of their connections.
    subscribers: HashMap<u64, Subscriber>,
    /// The keys that the page is counted under, each with what was heard of it.
    parts: Vec<(Key, Option<Part>)>,
    /// The newest count.
    newest: Option<Count>,
    /// What subscribers were told last.
    told: Option<(Arc<Value>, Instant)>,
    queued: bool,
}

#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    place: usize,
}

/// How one connection is reached.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) connection: u64,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) place: usize,
}

impl Hub {
    /// Nobody looks at anything.
    #[must_use]
    pub fn new(metrics: Arc<LiveMetrics>) -> Self {
        Self { topics: Mutex::default(), due: Mutex::default(), wake: Notify::new(), metrics }
    }

    /// Its figures.
    #[must_use]
    pub fn metrics(&self) -> &Arc<LiveMetrics> {
        &self.metrics
    }

    /// What this node has on the page now.
    #[must_use]
    pub fn attendance(&self, page: &Key) -> Attendance {
        let topics = lock(&self.topics);
        topics.get(&Subject::Page(page.clone())).map_or_else(Attendance::default, |topic| {
            let state = lock(&topic.state);
            Attendance { sessions: state.sessions, watched: !state.subscribers.is_empty() }
        })
    }

    /// The pages that this node has something on.
    #[must_use]
    pub fn pages(&self) -> Vec<Key> {
        let topics = lock(&self.topics);
        let pages = topics.keys().filter_map(|subject| match subject {
            Subject::Page(page) => Some(page.clone()),
            Subject::Site | Subject::User(_) => None,
        });
        pages.collect()
    }

    /// Whether someone looks at the whole site.
    #[must_use]
    pub fn watches_site(&self) -> bool {
        lock(&self.topics).contains_key(&Subject::Site)
    }

    /// Whether someone looks at what a user has not read.
    #[must_use]
    pub fn follows(&self, user: &Key) -> bool {
        lock(&self.topics).contains_key(&Subject::User(user.clone()))
    }

    /// The keys that the page is counted under from now on. Of new ones something must be heard before a count is told.
    pub fn set_parts(&self, page: &Key, keys: &[Key]) {
        let Some(topic) = self.topic(&Subject::Page(page.clone())) else { return };
        let mut state = lock(&topic.state);
        if !state.parts.iter().map(|(key, _)| key).eq(keys) {
            let known = |key: &Key| state.parts.iter().find(|(other, _)| other == key).and_then(|(_, part)| *part);
            state.parts = keys.iter().map(|key| (key.clone(), known(key))).collect();
        }
    }

    /// Takes in what was heard of some keys.
    pub fn fed(&self, readings: impl IntoIterator<Item = (Key, Part)>) {
        for (key, part) in readings {
            let page = if key.is_virtual_shard() { Key::new(key.page()).unwrap_or(key.clone()) } else { key.clone() };
            let Some(topic) = self.topic(&Subject::Page(page)) else { continue };
            let mut state = lock(&topic.state);
            let Some(place) = state.parts.iter_mut().find(|(other, _)| *other == key) else { continue };
            place.1 = Some(part);
            let parts = state.parts.iter().map(|(_, part)| *part).collect::<Option<Vec<Part>>>();
            if let Some(count) = parts.as_deref().map(sum) {
                self.take(&topic, &mut state, count);
            }
        }
    }

    /// Takes in the site's total.
    pub fn site(&self, count: Count) {
        if let Some(topic) = self.topic(&Subject::Site) {
            self.take(&topic, &mut lock(&topic.state), count);
        }
    }

    /// Takes in how much a user has not read.
    pub fn unread(&self, user: &Key, count: Count) {
        if let Some(topic) = self.topic(&Subject::User(user.clone())) {
            self.take(&topic, &mut lock(&topic.state), count);
        }
    }

    fn topic(&self, subject: &Subject) -> Option<Arc<Topic>> {
        lock(&self.topics).get(subject).cloned()
    }

    fn take(&self, topic: &Arc<Topic>, state: &mut State, count: Count) {
        state.newest = Some(count);
        if !state.queued && !state.subscribers.is_empty() && state.is_untold() {
            state.queued = true;
            self.queue(topic, state);
        }
    }

    fn queue(&self, topic: &Arc<Topic>, state: &State) {
        let now = Instant::now();
        let pause = pace::interval(state.subscribers.len());
        let at = state.told.as_ref().map_or(now, |(_, told)| now.max(*told + pause));
        // The address tells topics apart that are due in the same nanosecond.
        lock(&self.due).insert((at, Arc::as_ptr(topic).addr() as u64), topic.clone());
        self.wake.notify_one();
    }

    /// Has a connection told of the subject's counts; with a session, it is one of the page's viewers.
    pub(super) fn enter(&self, subject: Subject, address: Address, session: bool) -> Arc<Topic> {
        let mut topics = lock(&self.topics);
        let topic = topics.entry(subject).or_insert_with_key(|subject| {
            self.metrics.pages.fetch_add(1, Ordering::Relaxed);
            Arc::new(Topic { subject: subject.clone(), state: Mutex::default() })
        });
        let mut state = lock(&topic.state);
        let Address { connection, mailbox, place } = address;
        if state.told.is_some() {
            mailbox.mark(place);
        }
        let is_first = state.subscribers.insert(connection, Subscriber { mailbox, place }).is_none();
        self.metrics.subscriptions.fetch_add(u64::from(is_first), Ordering::Relaxed);
        if session {
            self.count(&mut state, 1);
        }
        // What was heard while nobody listened.
        if !state.queued && state.newest.is_some() && state.is_untold() {
            state.queued = true;
            self.queue(topic, &state);
        }
        topic.clone()
    }

    /// Ends what [`Self::enter`] began.
    pub(super) fn leave(&self, topic: &Topic, connection: u64, session: bool) {
        let mut topics = lock(&self.topics);
        let mut state = lock(&topic.state);
        let was_there = state.subscribers.remove(&connection).is_some();
        self.metrics.subscriptions.fetch_sub(u64::from(was_there), Ordering::Relaxed);
        if session {
            self.count(&mut state, -1);
        }
        self.forget(&mut topics, topic, &state);
    }

    /// One viewer more (1) or less (-1) on a page, without a connection of its own.
    pub(crate) fn count_viewer(&self, page: &Key, change: i32) {
        let mut topics = lock(&self.topics);
        let topic = topics.entry(Subject::Page(page.clone())).or_insert_with_key(|subject| {
            self.metrics.pages.fetch_add(1, Ordering::Relaxed);
            Arc::new(Topic { subject: subject.clone(), state: Mutex::default() })
        });
        let topic = topic.clone();
        let mut state = lock(&topic.state);
        self.count(&mut state, change);
        self.forget(&mut topics, &topic, &state);
    }

    fn count(&self, state: &mut State, change: i32) {
        let before = state.sessions;
        state.sessions = before.saturating_add_signed(change);
        let change = i64::from(state.sessions) - i64::from(before);
        self.metrics.sessions.fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    fn forget(&self, topics: &mut HashMap<Subject, Arc<Topic>>, topic: &Topic, state: &State) {
        if state.sessions == 0 && state.subscribers.is_empty() && topics.remove(&topic.subject).is_some() {
            self.metrics.pages.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Tells counts as they may be told, until the node has stopped.
    pub async fn run(self: Arc<Self>, stopped: CancellationToken) {
        loop {
            let next = self.tell(Instant::now());
            let pause = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopped.cancelled() => return,
                () = self.wake.notified() => {}
                () = pause => {}
            }
        }
    }

    /// Tells what is due. Returns when the next will be.
    pub(super) fn tell(&self, now: Instant) -> Option<Instant> {
        loop {
            let topic = {
                let mut due = lock(&self.due);
                match due.first_entry() {
                    Some(entry) if entry.key().0 <= now => entry.remove(),
                    Some(entry) => return Some(entry.key().0),
                    None => return None,
                }
            };
            self.tell_one(&topic, now);
        }
    }

    fn tell_one(&self, topic: &Topic, now: Instant) {
        let mut state = lock(&topic.state);
        state.queued = false;
        let Some(newest) = state.newest.filter(|_| state.is_untold()) else { return };
        state.told = Some((Arc::new(Value::new(&topic.subject, newest)), now));
        let replaced = state.subscribers.values().filter(|subscriber| subscriber.mailbox.mark(subscriber.place)).count();
        self.metrics.replaced.fetch_add(replaced as u64, Ordering::Relaxed);
    }
}

impl State {
    fn is_untold(&self) -> bool {
        self.newest != self.told.as_ref().map(|(value, _)| value.count)
    }
}

impl Topic {
    /// What subscribers were told last.
    pub(super) fn told(&self) -> Option<Arc<Value>> {
        lock(&self.state).told.as_ref().map(|(value, _)| value.clone())
    }
}

fn sum(parts: &[Part]) -> Count {
    let tally = parts.iter().fold(0_i128, |sum, part| sum.saturating_add(part.tally).saturating_add(part.viewers.into()));
    let count = i64::try_from(tally).unwrap_or(if tally < 0 { i64::MIN } else { i64::MAX });
    Count { count, updated_at: parts.iter().map(|part| part.updated_at).max().flatten() }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    fn page() -> Key {
        Key::new(b"p").unwrap()
    }

    fn part(tally: i128, viewers: u64) -> Part {
        Part { tally, viewers, updated_at: Some(Hlc(1)) }
    }

    fn watched(hub: &Hub, connection: u64) -> (Arc<Topic>, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::default());
        let address = Address { connection, mailbox: mailbox.clone(), place: 0 };
        (hub.enter(Subject::Page(page()), address, true), mailbox)
    }

    fn is_marked(mailbox: &Mailbox) -> bool {
        matches!(mailbox.poll_take(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
    }

    #[test]
    fn the_first_count_is_told_at_once_and_of_those_that_follow_the_last() {
        let hub = Hub::new(Arc::default());
        let (topic, mailbox) = watched(&hub, 1);
        hub.set_parts(&page(), &[page()]);
        hub.fed([(page(), part(7, 1))]);
        let began = Instant::now();
        assert_eq!(hub.tell(began), None);
        assert!(is_marked(&mailbox));
        assert_eq!(topic.told().unwrap().count.count, 8);
        hub.fed([(page(), part(8, 1))]);
        hub.fed([(page(), part(9, 1))]);
        let next = hub.tell(began).unwrap();
        assert!(!is_marked(&mailbox), "told again before its time");
        assert_eq!(hub.tell(next), None);
        assert!(is_marked(&mailbox));
        assert_eq!(topic.told().unwrap().count.count, 10, "the last value is always sent");
        // The same again is no news.
        hub.fed([(page(), part(9, 1))]);
        assert_eq!(hub.tell(next + Duration::from_secs(9)), None);
        assert!(!is_marked(&mailbox));
    }

    #[test]
    fn a_page_that_is_spread_is_told_when_every_part_was_heard_and_forgotten_when_nobody_is_left() {
        let hub = Hub::new(Arc::default());
        let (topic, mailbox) = watched(&hub, 1);
        let keys = [page(), page().virtual_shard(0), page().virtual_shard(1)];
        hub.set_parts(&page(), &keys);
        hub.fed([(keys[0].clone(), part(1, 2)), (keys[1].clone(), part(10, 0))]);
        assert_eq!((hub.tell(Instant::now()), is_marked(&mailbox)), (None, false), "a part is missing");
        hub.fed([(keys[2].clone(), part(100, 0))]);
        let began = Instant::now();
        hub.tell(began);
        assert_eq!(topic.told().unwrap().count.count, 113);
        // Another layout, fewer parts; what is known of them stays.
        hub.set_parts(&page(), &keys[..2]);
        hub.fed([(keys[0].clone(), part(1, 3))]);
        let next = hub.tell(began).unwrap();
        hub.tell(next);
        assert_eq!(topic.told().unwrap().count.count, 14);
        assert_eq!(hub.attendance(&page()), Attendance { sessions: 1, watched: true });
        hub.leave(&topic, 1, true);
        assert_eq!((hub.attendance(&page()), hub.pages().len()), (Attendance::default(), 0));
    }
}
