//! Page → who looks at it on this node. Counts come from the presence protocol, one message per page whatever the audience;
//! the hub writes each once, and marks it in its subscribers' mailboxes, at the page's pace.
//!
//! Locks are taken in this order: presence protocol, [`Hub::topics`], a connection's wire, [`Topic::state`], [`Hub::due`].

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use counter_core::counter::Key;
use counter_core::hlc::Hlc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::mailbox::{Mailbox, Sent};
use super::metrics::LiveMetrics;
use super::unread::Audience;
use super::value::{Count, Value};
use super::{Name, pace};
use crate::lock::lock;

/// Connections that are told one after the other. Others are told side by side with them, as far as there are processors, and whatever
/// else this one has to do gets its turn.
const AT_ONCE: usize = 64;

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
    /// Below [`super::PAGES_MAX`].
    place: u8,
    /// It counts as one of the page's viewers, by itself.
    views: bool,
}

/// How one connection is reached.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) connection: u64,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) place: u8,
}

/// A viewer that is a connection: its number, and whose it is.
pub(crate) type Viewer = (u64, Option<Name>);

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

    /// Has a connection told of the subject's counts; if it views, it is one of the page's viewers.
    pub(super) fn enter(&self, subject: Subject, address: Address, views: bool) -> Arc<Topic> {
        let mut topics = lock(&self.topics);
        let topic = topics.entry(subject).or_insert_with_key(|subject| {
            self.metrics.pages.fetch_add(1, Ordering::Relaxed);
            Arc::new(Topic { subject: subject.clone(), state: Mutex::default() })
        });
        let mut state = lock(&topic.state);
        let Address { connection, mailbox, place } = address;
        if state.told.is_some() {
            mailbox.mark(place.into());
        }
        let is_first = state.subscribers.insert(connection, Subscriber { mailbox, place, views }).is_none();
        self.metrics.subscriptions.fetch_add(u64::from(is_first), Ordering::Relaxed);
        if views {
            self.count(&mut state, 1);
        }
        // What was heard while nobody listened.
        if !state.queued && state.newest.is_some() && state.is_untold() {
            state.queued = true;
            self.queue(topic, &state);
        }
        topic.clone()
    }

    /// Ends what [`Self::enter`] began. Returns whether the connection was one of the page's viewers.
    pub(super) fn leave(&self, topic: &Topic, connection: u64) -> bool {
        let mut topics = lock(&self.topics);
        let mut state = lock(&topic.state);
        let left = state.subscribers.remove(&connection);
        self.metrics.subscriptions.fetch_sub(u64::from(left.is_some()), Ordering::Relaxed);
        let viewed = left.is_some_and(|subscriber| subscriber.views);
        if viewed {
            self.count(&mut state, -1);
        }
        self.forget(&mut topics, topic, &state);
        viewed
    }

    /// Has a connection be one of the page's viewers, or not. Returns whether that is a change.
    pub(super) fn set_viewer(&self, topic: &Topic, connection: u64, views: bool) -> bool {
        let mut state = lock(&topic.state);
        let subscriber = state.subscribers.get_mut(&connection);
        let changes = subscriber.is_some_and(|subscriber| std::mem::replace(&mut subscriber.views, views) != views);
        if changes {
            self.count(&mut state, if views { 1 } else { -1 });
        }
        changes
    }

    /// The connection of this number is not a viewer of the page any more, though it may be told of its counts. Returns whose
    /// it is; none when it was no viewer.
    pub(crate) fn end_viewer(&self, page: &Key, connection: u64) -> Option<Option<Name>> {
        let topic = self.topic(&Subject::Page(page.clone()))?;
        let user = lock(&topic.state).subscribers.get(&connection)?.mailbox.user;
        self.set_viewer(&topic, connection, false).then_some(user)
    }

    /// All viewers that are connections, by page: their numbers, and whose they are. They count on, whatever becomes of their
    /// connections, until [`Self::count_viewer`] says otherwise.
    pub(crate) fn take_viewers(&self) -> Vec<(Key, Vec<Viewer>)> {
        let topics: Vec<Arc<Topic>> = lock(&self.topics).values().cloned().collect();
        let viewers = topics.iter().filter_map(|topic| {
            let page = topic.subject.page()?.clone();
            let mut state = lock(&topic.state);
            let viewers = state.subscribers.iter_mut().filter(|(_, subscriber)| subscriber.views);
            let take = |(connection, subscriber): (&u64, &mut Subscriber)| {
                subscriber.views = false;
                (*connection, subscriber.mailbox.user)
            };
            Some((page, viewers.map(take).collect::<Vec<_>>()))
        });
        viewers.filter(|(_, viewers)| !viewers.is_empty()).collect()
    }

    /// The same of one viewer, which the connection of this number is. Returns whose it is; none when it is no viewer.
    pub(crate) fn take_viewer(&self, page: &Key, connection: u64) -> Option<Option<Name>> {
        let topic = self.topic(&Subject::Page(page.clone()))?;
        let mut state = lock(&topic.state);
        let subscriber = state.subscribers.get_mut(&connection)?;
        std::mem::take(&mut subscriber.views).then_some(subscriber.mailbox.user)
    }

    /// So many viewers more, or less, on a page, without connections.
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

    fn tell_one(&self, topic: &Arc<Topic>, now: Instant) {
        let mut state = lock(&topic.state);
        state.queued = false;
        let Some(newest) = state.newest.filter(|_| state.is_untold()) else { return };
        state.told = Some((Arc::new(Value::new(&topic.subject, newest, &self.metrics)), now));
        let (direct, others) = state.subscribers.iter().partition::<Vec<_>, _>(|(_, subscriber)| subscriber.mailbox.is_direct());
        let replaced = others.iter().filter(|(_, subscriber)| subscriber.mailbox.mark(subscriber.place.into())).count();
        self.metrics.replaced.fetch_add(replaced as u64, Ordering::Relaxed);
        for some in direct.chunks(AT_ONCE) {
            let some = some.iter().map(|(connection, subscriber)| subscriber.address(**connection)).collect::<Vec<_>>();
            tokio::spawn(tell_some(topic.clone(), some, self.metrics.clone()));
        }
    }
}

impl Audience for Hub {
    fn follows(&self, user: &Key) -> bool {
        lock(&self.topics).contains_key(&Subject::User(user.clone()))
    }

    fn unread(&self, user: &Key, count: Count) {
        if let Some(topic) = self.topic(&Subject::User(user.clone())) {
            self.take(&topic, &mut lock(&topic.state), count);
        }
    }

    fn metrics(&self) -> &LiveMetrics {
        &self.metrics
    }
}

/// Tells some of those who look at a subject.
async fn tell_some(topic: Arc<Topic>, some: Vec<Address>, metrics: Arc<LiveMetrics>) {
    let (mut sent, mut replaced) = (0, 0);
    for Address { connection, mailbox, place } in some {
        match mailbox.tell(place.into(), || topic.frame_for(connection)) {
            Sent::Now => sent += 1,
            Sent::Marked { replaced: true } => replaced += 1,
            Sent::Marked { replaced: false } | Sent::Nothing => {}
        }
    }
    metrics.sent.fetch_add(sent, Ordering::Relaxed);
    metrics.replaced.fetch_add(replaced, Ordering::Relaxed);
}

impl Subscriber {
    fn address(&self, connection: u64) -> Address {
        Address { connection, mailbox: self.mailbox.clone(), place: self.place }
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

    /// The newest frame, for a connection that still looks.
    fn frame_for(&self, connection: u64) -> Option<Bytes> {
        let state = lock(&self.state);
        state.subscribers.get(&connection)?;
        state.told.as_ref().map(|(value, _)| value.frame.clone())
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
    fn viewers_that_are_taken_count_on_and_one_that_has_resumed_does_not() {
        let user = Name::of_user("ann");
        let hub = Hub::new(Arc::default());
        let enter = |connection, user, views| {
            let address = Address { connection, mailbox: Arc::new(Mailbox::new(user, None)), place: 0 };
            hub.enter(Subject::Page(page()), address, views)
        };
        let topic = enter(1, None, true);
        enter(2, Some(user), true);
        enter(3, Some(user), false);
        assert_eq!(hub.end_viewer(&page(), 2), Some(Some(user)));
        assert_eq!((hub.end_viewer(&page(), 2), hub.end_viewer(&page(), 3), hub.end_viewer(&page(), 4)), (None, None, None));
        assert!(hub.set_viewer(&topic, 2, true) && !hub.set_viewer(&topic, 2, true));
        let mut taken = hub.take_viewers();
        taken[0].1.sort_unstable_by_key(|(connection, _)| *connection);
        assert_eq!(taken, [(page(), vec![(1, None), (2, Some(user))])]);
        assert_eq!(hub.take_viewers(), []);
        for connection in 1..=3 {
            assert!(!hub.leave(&topic, connection), "it is a viewer no more");
        }
        assert_eq!(hub.attendance(&page()), Attendance { sessions: 2, watched: false });
        hub.count_viewer(&page(), -2);
        assert_eq!((hub.attendance(&page()), hub.pages().len()), (Attendance::default(), 0));
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
        assert!(hub.leave(&topic, 1) && !hub.leave(&topic, 1));
        assert_eq!((hub.attendance(&page()), hub.pages().len()), (Attendance::default(), 0));
    }
}
