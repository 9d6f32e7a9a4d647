//! Unread counts as users know them: what they subscribe to, what has been modified since they read it, and what is left.
//! [`counter_core::unread`] has the numbers and how they merge; [`shards`] brings them from where they are kept.
//!
//! **Invariants.**
//! - What changes a subscription first hears *all* replicas of its user's and its page's shards that answer: so it goes on from what
//!   any of them has acknowledged, whichever the client spoke to last. While a slot moves, those of both ends are asked. What only reads
//!   hears one of each.
//! - Every change is a step up that can be repeated without harm. One that fails may be sent again.
//! - What is as it should be already is raised to what it is all the same: what a replica says need not be durable yet, and an answer
//!   must rest on what is.

mod held;
pub mod shards;

use counter_core::counter::Key;
use counter_core::hlc::Hlc;
use counter_core::id::NodeName;
use counter_core::token::Token;
use counter_core::unread::{Modifications, Subscription};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::http::Backend;
use crate::router::{Action, Failure, Reading, Write};

/// Pages that one user may subscribe to.
pub const SUBSCRIPTIONS_MAX: usize = 1_000;

/// A page that a user subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    pub page: Key,
    pub subscription: Subscription,
    /// When it last changed.
    pub updated_at: Option<Hlc>,
}

/// One subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub subscription: Subscription,
    /// When it last changed; none: never.
    pub updated_at: Option<Hlc>,
}

/// Where subscriptions and modifications are kept.
pub trait Keeper: std::fmt::Debug + Send + Sync + 'static {
    /// What one replica each says of these pages' modifications, in their order. The keys are of [`Key::modifications`].
    fn modifications(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Modifications>, Failure>>;
    /// What all replicas that answer say of a page's modifications, together.
    fn all_modifications(&self, key: Key) -> BoxFuture<'_, Result<Modifications, Failure>>;
    /// What one replica says of a user's subscriptions, by their pages. The key is of [`Key::user`].
    fn subscriptions(&self, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>>;
    /// What this replica says of them.
    fn subscriptions_at(&self, node: NodeName, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>>;
    /// What all replicas that answer say of a subscription, together. The key is of [`Key::subscription`].
    fn standing(&self, subscription: Key) -> BoxFuture<'_, Result<Standing, Failure>>;
    /// To how many pages a user subscribes: the largest number that any replica says that answers. The key is of [`Key::user`]. Each goes
    /// over the whole slot.
    fn active(&self, user: Key) -> BoxFuture<'_, Result<usize, Failure>>;
}

/// Why a user's subscription was not changed.
#[derive(Debug)]
pub enum Refused {
    /// The user subscribes to as many pages as anyone may.
    TooMany,
    /// The user does not subscribe to the page.
    NotSubscribed,
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a user has not read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    pub count: u64,
    /// The latest modification or change of a subscription.
    pub updated_at: Option<Hlc>,
    /// The pages with anything unread, by their names.
    pub pages: Vec<UnreadPage>,
}

/// A page that has been modified since its user read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadPage {
    pub page: Key,
    pub unread: u32,
    /// How often it has been modified in all: what to say was read.
    pub version: u32,
}

impl Unread {
    /// The sum over a user's subscriptions, each with what is known of its page.
    pub fn of(subscriptions: impl IntoIterator<Item = (Subscribed, Modifications)>) -> Self {
        let mut sum = Self::default();
        for (Subscribed { page, subscription, updated_at }, modifications) in subscriptions {
            let unread = subscription.unread(modifications);
            sum.count = sum.count.saturating_add(unread.into());
            sum.updated_at = sum.updated_at.max(updated_at).max(modifications.updated_at);
            if unread > 0 {
                sum.pages.push(UnreadPage { page, unread, version: modifications.number });
            }
        }
        sum
    }
}

/// Counts one modification of a page. The reading's tally is how many there have been.
///
/// # Errors
/// [`Failure`], which says whether anything changed.
pub async fn modify(backend: &impl Backend, page: &Key, token: Option<Token>) -> Result<Reading, Failure> {
    backend.update(page.modifications(), Write { action: Action::Increment(1), token }).await
}

/// A user's subscriptions, as one replica has them, any or the one that is named; each with what is known of its page, in one round over
/// the shards of the pages.
///
/// # Errors
/// [`Failure`] when some shard does not answer: a part of a sum is no sum.
pub async fn subscriptions(
    keeper: &dyn Keeper,
    user: Key,
    of: Option<NodeName>,
) -> Result<Vec<(Subscribed, Modifications)>, Failure> {
    let subscriptions = match of {
        Some(node) => keeper.subscriptions_at(node, user).await?,
        None => keeper.subscriptions(user).await?,
    };
    let keys = subscriptions.iter().map(|subscribed| subscribed.page.modifications()).collect();
    let modifications = keeper.modifications(keys).await?;
    Ok(subscriptions.into_iter().zip(modifications).collect())
}

/// What a user has not read.
///
/// # Errors
/// As [`subscriptions`].
pub async fn unread(keeper: &dyn Keeper, user: Key) -> Result<Unread, Failure> {
    Ok(Unread::of(subscriptions(keeper, user, None).await?))
}

/// Subscribes a user to a page. Who was not subscribed has read all of it; who was goes on as before.
///
/// # Errors
/// [`Refused`]; after a failure the user may be subscribed, and the request can be sent again.
pub async fn subscribe(backend: &impl Backend, keeper: &dyn Keeper, (user, page): (&Key, &Key)) -> Result<Standing, Refused> {
    let key = subscription_key(user, page)?;
    let standing = keeper.standing(key.clone()).await?;
    if standing.subscription.is_active() {
        return raise(backend, key, standing.subscription).await;
    }
    let (active, modifications) =
        futures::try_join!(keeper.active(user.clone()), keeper.all_modifications(page.modifications()))?;
    if active >= SUBSCRIPTIONS_MAX {
        return Err(Refused::TooMany);
    }
    raise(backend, key, standing.subscription.begun(modifications)).await
}

/// Ends a user's subscription to a page. One that is not there is no error.
///
/// # Errors
/// [`Refused::Failed`]; the subscription may have ended then, and the request can be sent again.
pub async fn unsubscribe(backend: &impl Backend, keeper: &dyn Keeper, (user, page): (&Key, &Key)) -> Result<(), Refused> {
    let key = subscription_key(user, page)?;
    let standing = keeper.standing(key.clone()).await?;
    if standing.subscription != Subscription::default() {
        raise(backend, key, standing.subscription.ended()).await?;
    }
    Ok(())
}

/// Notes that a user has read the first `version` modifications of a page. What was read before stays read.
///
/// # Errors
/// [`Refused`]; after a failure the request can be sent again.
pub async fn read(
    backend: &impl Backend,
    keeper: &dyn Keeper,
    (user, page): (&Key, &Key),
    version: u32,
) -> Result<(Standing, Modifications), Refused> {
    let key = subscription_key(user, page)?;
    let (standing, modifications) =
        futures::try_join!(keeper.standing(key.clone()), keeper.all_modifications(page.modifications()))?;
    if !standing.subscription.is_active() {
        return Err(Refused::NotSubscribed);
    }
    let to = standing.subscription.read(modifications.cursor(version));
    Ok((raise(backend, key, to).await?, modifications))
}

async fn raise(backend: &impl Backend, key: Key, to: Subscription) -> Result<Standing, Refused> {
    let Subscription { generation, cursor } = to;
    let reading = backend.update(key, Action::Raise { generation, cursor }).await?;
    Ok(Standing { subscription: to, updated_at: reading.updated_at })
}

fn subscription_key(user: &Key, page: &Key) -> Result<Key, Failure> {
    let refused = || Failure::NotApplied { reason: "the request names no user".to_owned(), retry_after_s: 1 };
    user.subscription(page).ok_or_else(refused)
}
