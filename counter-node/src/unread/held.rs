//! What one replica's table says: to other nodes, and where a table is all that there is.

use counter_core::counter::Key;
use counter_core::id::NodeName;
use counter_core::table::Table;
use counter_core::unread::Modifications;
use futures::future::{BoxFuture, ready};

use super::{Keeper, SUBSCRIPTIONS_MAX, Standing, Subscribed};
use crate::router::Failure;

/// Subscriptions in one answer: more than a user may have, who can pass the limit by what replicas take at the same time.
const LISTED_MAX: usize = 2 * SUBSCRIPTIONS_MAX;

/// What has become of these pages, in their order. The keys are of [`Key::modifications`].
pub(super) fn modifications(table: &Table, keys: &[Key]) -> Vec<Modifications> {
    keys.iter().map(|key| table.slot(key.slot()).modifications(key)).collect()
}

/// The pages that a user subscribes to, by their names.
pub(super) fn subscriptions(table: &Table, user: &Key) -> Vec<Subscribed> {
    let vector = table.slot(user.slot());
    let active = vector.subscriptions(user).filter(|(_, subscription, _)| subscription.is_active());
    let subscribed = active.filter_map(|(page, subscription, counter)| {
        Some(Subscribed { page: Key::new(page).ok()?, subscription, updated_at: counter.updated_at() })
    });
    let mut subscribed: Vec<Subscribed> = subscribed.collect();
    subscribed.sort_unstable_by(|one, other| one.page.cmp(&other.page));
    subscribed.truncate(LISTED_MAX);
    subscribed
}

/// How a subscription stands.
pub(super) fn standing(table: &Table, key: &Key) -> Standing {
    let vector = table.slot(key.slot());
    Standing { subscription: vector.subscription(key), updated_at: vector.read(key).updated_at }
}

/// To how many pages a user subscribes.
pub(super) fn active(table: &Table, user: &Key) -> usize {
    table.slot(user.slot()).subscriptions(user).filter(|(_, subscription, _)| subscription.is_active()).count()
}

/// A cluster of one replica.
impl Keeper for Table {
    fn modifications(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Modifications>, Failure>> {
        Box::pin(ready(Ok(modifications(self, &keys))))
    }

    fn all_modifications(&self, key: Key) -> BoxFuture<'_, Result<Modifications, Failure>> {
        Box::pin(ready(Ok(self.slot(key.slot()).modifications(&key))))
    }

    fn subscriptions(&self, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        Box::pin(ready(Ok(subscriptions(self, &user))))
    }

    fn subscriptions_at(&self, _: NodeName, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        Keeper::subscriptions(self, user)
    }

    fn standing(&self, subscription: Key) -> BoxFuture<'_, Result<Standing, Failure>> {
        Box::pin(ready(Ok(standing(self, &subscription))))
    }

    fn active(&self, user: Key) -> BoxFuture<'_, Result<usize, Failure>> {
        Box::pin(ready(Ok(active(self, &user))))
    }
}
