//! Unread counts of the users that someone on this node follows: kept in step by what owners tell of their subscriptions and of the
//! pages that these are of, see [`crate::presence`].
//!
//! A user's subscriptions are fetched when following begins and whenever a replica tells that they have changed, and then of that one:
//! another may not have heard of it yet, and nobody would tell when it has. Should it not answer, any is asked. Pages are watched
//! before they are fetched, so nothing falls between; of what comes twice the higher number stands.
//!
//! So many subscriptions are held at most. Beyond that nobody else is followed: who asks is refused, and who had asked just before waits
//! without a number. Whoever has one keeps it right. What is being fetched at that moment is held as well, [`FETCHED_AT_ONCE`] users.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use counter_core::counter::Key;
use counter_core::hlc::Hlc;
use counter_core::id::NodeName;
use counter_core::key::KeyKind;
use counter_core::presence::FeedReading;
use counter_core::unread::{Epoch, Modifications, Subscription};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::LiveMetrics;
use super::hub::Hub;
use super::value::Count;
use crate::lock::lock;
use crate::presence::PresenceProtocol;
use crate::unread::{Keeper, Subscribed, subscriptions};

/// Users whose subscriptions are fetched at the same time.
const FETCHED_AT_ONCE: usize = 64;
/// How long to wait after a shard has not answered.
pub const AGAIN: Duration = Duration::from_secs(1);

/// Those who look at what users have not read: the [`Hub`], but for tests.
pub trait Audience {
    /// Whether someone looks at this user's.
    fn follows(&self, user: &Key) -> bool;
    /// Takes in how much a user has not read.
    fn unread(&self, user: &Key, count: Count);
    /// What is counted of it.
    fn metrics(&self) -> &LiveMetrics;
}

/// See the module's text. Its lock is taken below presence's and above the [`Hub`]'s.
#[derive(Debug)]
pub struct Followed<A = Hub> {
    hub: Arc<A>,
    /// Subscriptions with which no user more is taken.
    held_max: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<Key, Following>,
    /// By the keys of their modifications.
    pages: HashMap<Key, Page>,
    /// Subscriptions of all users.
    held: usize,
    /// Users whose subscriptions are to be fetched.
    due: HashSet<Key>,
    /// Users whose subscriptions are being fetched: one answer at a time, so that none comes after a later one.
    fetching: HashSet<Key>,
}

/// A user, while anyone follows what is unread. Pages by the keys of their modifications.
#[derive(Debug, Default)]
struct Following {
    /// There is a number to tell.
    is_known: bool,
    /// There has been one: what the user subscribes to is held.
    is_held: bool,
    subscriptions: BTreeMap<Key, Subscription>,
    /// The replica that told last that they have changed, unless it did not answer.
    told_by: Option<NodeName>,
    count: u64,
    updated_at: Option<Hlc>,
}

#[derive(Debug, Default)]
struct Page {
    known: Modifications,
    users: HashSet<Key>,
    /// How often in a row its owner has told of fewer modifications than are known.
    fewer: u32,
}

/// What is to be watched from now on, and what no more.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rewatch {
    pub begin: Vec<Key>,
    pub end: Vec<Key>,
}

impl<A: Audience> Followed<A> {
    /// Nobody is followed.
    #[must_use]
    pub fn new(hub: Arc<A>, held_max: usize) -> Self {
        Self { hub, held_max, state: Mutex::default(), wake: Notify::new() }
    }

    /// Whether there is room to follow the user.
    #[must_use]
    pub fn may_follow(&self, user: &Key) -> bool {
        let state = lock(&self.state);
        state.held < self.held_max || state.users.contains_key(user)
    }

    /// Follows the user if someone looks, and does not if nobody does.
    pub fn refresh(&self, user: &Key) -> Rewatch {
        let mut state = lock(&self.state);
        match (self.hub.follows(user), state.users.contains_key(user)) {
            (true, false) => {
                state.users.insert(user.clone(), Following::default());
                self.measure(&state);
                self.fetch(&mut state, user);
                Rewatch { begin: vec![user.clone()], end: Vec::new() }
            }
            (false, true) => {
                let Following { subscriptions, .. } = state.users.remove(user).unwrap_or_default();
                state.due.remove(user);
                state.held -= subscriptions.len();
                self.measure(&state);
                // There may be room for others now.
                self.wake.notify_one();
                let mut end: Vec<Key> = subscriptions.into_keys().filter(|page| state.leave(page, user)).collect();
                end.push(user.clone());
                Rewatch { begin: Vec::new(), end }
            }
            (true, true) | (false, false) => Rewatch::default(),
        }
    }

    /// Takes in what a replica tells of a key that is watched for a user's sake.
    pub fn fed(&self, by: &NodeName, key: &Key, reading: FeedReading) {
        let mut state = lock(&self.state);
        match key.kind() {
            KeyKind::User => {
                let Some(following) = state.users.get_mut(key) else { return };
                following.told_by = Some(by.clone());
                self.fetch(&mut state, key);
            }
            KeyKind::Modifications => {
                let Some(page) = state.pages.get_mut(key) else { return };
                let number = u32::try_from(reading.tally.max(0)).unwrap_or(u32::MAX);
                let before = page.known;
                let is_lost = page.seems_lost(number);
                if let Some(user) = page.users.iter().next().filter(|_| is_lost).cloned() {
                    self.fetch(&mut state, &user);
                }
                // Where replicas have counted the first ones apart, the epoch becomes an earlier one as they hear of each other.
                let heard = Modifications { epoch: reading.epoch, number, updated_at: reading.updated_at };
                self.know(&mut state, key, before.join(heard));
            }
            _ => {}
        }
    }

    /// Takes in the subscriptions that a user has, with what is known of their pages. None that nobody follows any more.
    pub fn fetched(&self, user: &Key, subscribed: Vec<(Subscribed, Modifications)>) -> Rewatch {
        let mut state = lock(&self.state);
        let Some(following) = state.users.get_mut(user) else { return Rewatch::default() };
        // Nothing is told before all of it is added up.
        following.is_known = false;
        following.is_held = true;
        following.updated_at = subscribed.iter().map(|(subscribed, _)| subscribed.updated_at).max().flatten();
        let now = subscribed.iter().map(|(subscribed, _)| (subscribed.page.modifications(), subscribed.subscription));
        let before = std::mem::replace(&mut following.subscriptions, now.collect());
        let (more, fewer) = (following.subscriptions.len(), before.len());
        let gone: Vec<Key> = before.into_keys().filter(|page| !following.subscriptions.contains_key(page)).collect();
        state.held = (state.held + more).saturating_sub(fewer);
        self.measure(&state);
        let mut rewatch = Rewatch { begin: Vec::new(), end: gone.into_iter().filter(|page| state.leave(page, user)).collect() };
        for (Subscribed { page, .. }, modifications) in subscribed {
            let key = page.modifications();
            let page = state.pages.entry(key.clone()).or_default();
            if page.users.is_empty() {
                rewatch.begin.push(key.clone());
            }
            page.users.insert(user.clone());
            // A later epoch is that of a page whose modifications were lost.
            let known = page.known;
            let is_anew = known.epoch > Epoch::default() && modifications.epoch > known.epoch;
            self.know(&mut state, &key, if is_anew { modifications } else { known.join(modifications) });
        }
        state.reckon(user);
        self.tell(&state, user);
        rewatch
    }

    /// What is known of a page from now on; tells those who follow its subscribers.
    fn know(&self, state: &mut State, page: &Key, known: Modifications) {
        let Some(held) = state.pages.get_mut(page) else { return };
        let before = std::mem::replace(&mut held.known, known);
        if before == known {
            return;
        }
        let users: Vec<Key> = held.users.iter().cloned().collect();
        for user in users {
            if let Some(following) = state.users.get_mut(&user)
                && let Some(subscription) = following.subscriptions.get(page)
            {
                let (was, is) = (subscription.unread(before), subscription.unread(known));
                following.count = following.count.saturating_sub(was.into()).saturating_add(is.into());
                following.updated_at = following.updated_at.max(known.updated_at);
                self.tell(state, &user);
            }
        }
    }

    fn tell(&self, state: &State, user: &Key) {
        if let Some(following) = state.users.get(user).filter(|following| following.is_known) {
            let count = i64::try_from(following.count).unwrap_or(i64::MAX);
            self.hub.metrics().unread_changes.fetch_add(1, Ordering::Relaxed);
            self.hub.unread(user, Count { count, updated_at: following.updated_at });
        }
    }

    fn measure(&self, state: &State) {
        let metrics = self.hub.metrics();
        metrics.followed_users.store(state.users.len() as u64, Ordering::Relaxed);
        metrics.followed_subscriptions.store(state.held as u64, Ordering::Relaxed);
    }

    fn fetch(&self, state: &mut State, user: &Key) {
        if state.due.insert(user.clone()) {
            self.wake.notify_one();
        }
    }

    /// A user whose subscriptions are to be fetched now, and of which replica; none: of any. Those that change meanwhile are fetched again
    /// afterwards.
    pub fn take_due(&self) -> Option<(Key, Option<NodeName>)> {
        let mut state = lock(&self.state);
        let is_full = state.held >= self.held_max;
        let has_room = |user: &Key| !is_full || state.users.get(user).is_some_and(|following| following.is_held);
        let user = state.due.iter().find(|user| !state.fetching.contains(*user) && has_room(user)).cloned()?;
        state.due.remove(&user);
        state.fetching.insert(user.clone());
        let of = state.users.get(&user).and_then(|following| following.told_by.clone());
        Some((user, of))
    }

    /// The user's subscriptions have been fetched, or not: then they are to be.
    pub fn end_fetch(&self, user: &Key, failed: bool) {
        let mut state = lock(&self.state);
        state.fetching.remove(user);
        let metrics = self.hub.metrics();
        (if failed { &metrics.fetches_failed } else { &metrics.fetched }).fetch_add(1, Ordering::Relaxed);
        let State { users, due, .. } = &mut *state;
        // Whoever has told and does not answer may never answer again. If nobody has told since, any other is asked.
        if let Some(following) = users.get_mut(user).filter(|_| failed)
            && due.insert(user.clone())
        {
            following.told_by = None;
        }
        // Others may have waited for room.
        if !state.due.is_empty() {
            self.wake.notify_one();
        }
    }
}

impl Page {
    /// Whether its owner is to be asked what has become of its modifications, now that it tells of this many. Lost with their epoch, they
    /// are told anew from 1; without it, each that comes is fewer for as long as it takes to make up for the loss. So the owner is asked
    /// at the first, the second, the fourth and so on, and once more when there are as many as there were.
    fn seems_lost(&mut self, number: u32) -> bool {
        if number < self.known.number {
            self.fewer = self.fewer.saturating_add(1);
            return self.fewer.is_power_of_two();
        }
        std::mem::take(&mut self.fewer) > 0
    }
}

impl State {
    /// The user does not subscribe to the page any more, or is not followed. Whether it need not be watched then.
    fn leave(&mut self, page: &Key, user: &Key) -> bool {
        let Some(held) = self.pages.get_mut(page) else { return false };
        held.users.remove(user);
        let is_last = held.users.is_empty();
        if is_last {
            self.pages.remove(page);
        }
        is_last
    }

    /// Adds a user's count up anew.
    fn reckon(&mut self, user: &Key) {
        let Some(following) = self.users.get_mut(user) else { return };
        (following.is_known, following.count) = (true, 0);
        for (page, subscription) in &following.subscriptions {
            let known = self.pages.get(page).map(|page| page.known).unwrap_or_default();
            following.count = following.count.saturating_add(subscription.unread(known).into());
            following.updated_at = following.updated_at.max(known.updated_at);
        }
    }
}

/// Fetches the subscriptions of users that are followed, until the node has stopped.
pub async fn run(presence: Arc<PresenceProtocol>, keeper: Arc<dyn Keeper>, stopped: CancellationToken) {
    let places = Arc::new(Semaphore::new(FETCHED_AT_ONCE));
    while stopped.run_until_cancelled(presence.followed().wake.notified()).await.is_some() {
        while let Some((user, of)) = presence.followed().take_due() {
            let acquired = stopped.run_until_cancelled(places.clone().acquire_owned()).await;
            let Some(Ok(place)) = acquired else { return };
            let (presence, keeper, stopped) = (presence.clone(), keeper.clone(), stopped.clone());
            tokio::spawn(async move {
                let fetched = subscriptions(&*keeper, user.clone(), of).await;
                drop(place);
                let failed = fetched.is_err();
                match fetched {
                    Ok(subscribed) => presence.fetched(&user, subscribed),
                    Err(failure) => {
                        tracing::debug!(?failure, ?user, "what a user has not read is not known; asking again");
                        stopped.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
                    }
                }
                presence.followed().end_fetch(&user, failed);
            });
        }
    }
}

#[cfg(test)]
mod tests;
