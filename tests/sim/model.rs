//! What users may be told at the end: a model of their subscriptions, from what they did and what was acknowledged.
//!
//! Where nothing was unknown, lost or concurrent, it says one number. Else it gives bounds: nothing counts as read that
//! nobody who subscribed or read can have heard of, and what was read and acknowledged is not unread again.

use counter_core::unread::{Epoch, Modifications, Subscription};
use counter_node::unread::{Unread, UnreadPage};

use crate::ledger::{Request, Told};
use crate::unread::{Deed, Pair, Wish};
use crate::world::World;

/// How long nodes may take to say totals.
const TOTALS_MS: u64 = 5_000;

/// A wish with how it ended.
struct Ended<'w> {
    wish: &'w Wish,
    told: Told,
    told_ms: u64,
}

/// All that the model knows of a user and a page.
struct Model<'w> {
    wishes: Vec<Ended<'w>>,
    modified: Vec<&'w Request>,
    /// Modifications that may have gone with a lost tail or volume.
    modifications_lost: usize,
    subscription_lost: bool,
}

impl World {
    /// Whether each user is told a number that may be.
    pub(crate) fn check_unread(&mut self) -> Result<(), String> {
        for number in 0..self.users.pairs.len() {
            let pair = self.users.pairs[number];
            let (subscription, page) = self.final_state(pair)?;
            let model = self.model(number, pair);
            let seen = model.check(subscription, page).map_err(|violation| format!("pair {number}: {violation}"))?;
            self.note(seen);
        }
        Ok(())
    }

    /// What a user has not read of all pages together.
    pub(crate) fn final_total(&self, user: usize) -> Result<u64, String> {
        let of = |pair: Pair| self.final_state(pair).map(|(subscription, page)| u64::from(subscription.unread(page)));
        self.users.pairs_of(user).map(of).sum()
    }

    /// A sum is of its parts, and of no more modifications than there may have been.
    pub(crate) fn check_total_on_the_way(&self, user: usize, total: &Unread) -> Result<(), String> {
        let sum: u64 = total.pages.iter().map(|page| u64::from(page.unread)).sum();
        let most = |page: &UnreadPage| {
            let key = self.ledger.number_of(&page.page.modifications());
            let maybe = |request: &&Request| request.key == key && request.told != Told::NotApplied;
            u32::try_from(self.ledger.requests.iter().filter(maybe).count()).unwrap()
        };
        let is_right = |page: &UnreadPage| page.unread <= page.version && page.version <= most(page);
        let is_whole = sum == total.count && total.pages.iter().all(is_right);
        is_whole.then_some(()).ok_or_else(|| format!("user {user} is told {total:?}"))
    }

    /// Every node says of every user what all subscriptions come to.
    pub(crate) fn check_totals(&mut self) -> Result<(), String> {
        let nodes: Vec<usize> = self.operator.layout.nodes().map(|node| self.names[&node.name]).collect();
        let mut asked = 0;
        for node in nodes {
            for user in 0..self.users.names.len() {
                self.ask_total(node, user, true);
                asked += 1;
            }
        }
        let until_ms = self.now_ms + TOTALS_MS;
        while self.users.totals.len() < asked && self.now_ms < until_ms {
            self.run_until(self.now_ms + 1)?;
        }
        let told = std::mem::take(&mut self.users.totals);
        if told.len() < asked {
            return Err(format!("{} of {asked} totals have been told", told.len()));
        }
        for (node, user, total) in told {
            let expected = self.final_total(user)?;
            self.check_total_on_the_way(user, &total)?;
            if total.count != expected {
                return Err(format!("node {node} says that user {user} has {total:?} to read, not {expected}"));
            }
            if total.pages.len() > 1 {
                self.note("total of several pages");
            }
        }
        Ok(())
    }

    /// As the first replica of each owner has it; the others have the same by now.
    fn final_state(&self, pair: Pair) -> Result<(Subscription, Modifications), String> {
        let of = |key: usize| {
            let key = &self.ledger.keys[key];
            let owner = self.operator.layout.owner(key.slot()).ok_or("a slot without an owner")?;
            let process = self.nodes[self.names[&owner.nodes[0].name]].process.as_ref().ok_or("an owner that does not run")?;
            Ok::<_, String>((key, process.table.slot(key.slot())))
        };
        let subscription = of(pair.subscription).map(|(key, vector)| vector.subscription(key))?;
        let page = of(pair.modifications).map(|(key, vector)| vector.modifications(key))?;
        Ok((subscription, page))
    }

    fn model(&self, number: usize, pair: Pair) -> Model<'_> {
        let told = |wish: &Wish| match (wish.request, wish.ended) {
            (Some(request), _) => self.ledger.told(request),
            (None, ended) => ended.unwrap_or((Told::Pending, u64::MAX)),
        };
        let with_end = |wish| {
            let (told, told_ms) = told(wish);
            Ended { wish, told, told_ms }
        };
        Model {
            wishes: self.users.wishes.iter().filter(|wish| wish.pair == number).map(with_end).collect(),
            modified: self.ledger.requests.iter().filter(|request| request.key == pair.modifications).collect(),
            modifications_lost: self.ledger.lost_of(pair.modifications),
            subscription_lost: self.ledger.lost_of(pair.subscription) > 0,
        }
    }
}

impl Model<'_> {
    fn check(&self, subscription: Subscription, page: Modifications) -> Result<&'static str, String> {
        self.check_heard()?;
        self.check_raised(subscription)?;
        self.check_activity(subscription)?;
        self.check_count(subscription, page)
    }

    /// Modifications that had been acknowledged by then.
    fn least_at(&self, ms: u64) -> u32 {
        let acknowledged = |request: &&&Request| request.told == Told::Acknowledged && request.told_ms < ms;
        let count = self.modified.iter().filter(acknowledged).count().saturating_sub(self.modifications_lost);
        u32::try_from(count).unwrap()
    }

    /// Modifications that may have been counted by then.
    fn most_at(&self, ms: u64) -> u32 {
        let maybe = |request: &&&Request| request.told != Told::NotApplied && request.asked_ms <= ms;
        u32::try_from(self.modified.iter().filter(maybe).count()).unwrap()
    }

    /// Who heard all replicas has heard all that had been acknowledged; and nobody hears of what nobody did.
    fn check_heard(&self) -> Result<(), String> {
        for Ended { wish, .. } in &self.wishes {
            if let Some(heard) = wish.heard {
                let number = heard.modifications.number;
                let least = if wish.certain { self.least_at(wish.asked_ms) } else { 0 };
                let most = self.most_at(heard.at_ms);
                if !(least..=most).contains(&number) {
                    return Err(format!("{number} modifications were heard of, not {least} to {most}, by {wish:?}"));
                }
            }
            let Some(standing) = wish.standing.filter(|_| wish.certain && !self.subscription_lost) else { continue };
            for before in self.wishes.iter().filter(|before| before.told == Told::Acknowledged && before.told_ms < wish.asked_ms)
            {
                if before.wish.to.is_some_and(|to| standing.join(to) != standing) {
                    return Err(format!("{wish:?} has not heard of {:?}", before.wish));
                }
            }
        }
        Ok(())
    }

    /// What was acknowledged stands, and nothing that nobody wanted.
    fn check_raised(&self, subscription: Subscription) -> Result<(), String> {
        let to = |told: &Ended<'_>| told.wish.to;
        let acknowledged = self.wishes.iter().filter(|told| told.told == Told::Acknowledged && !self.subscription_lost);
        let least = acknowledged.filter_map(to).fold(Subscription::default(), Subscription::join);
        let maybe = self.wishes.iter().filter(|told| told.told != Told::NotApplied);
        let most = maybe.filter_map(to).fold(Subscription::default(), Subscription::join);
        let within = subscription.join(least) == subscription && subscription.join(most) == most;
        within.then_some(()).ok_or_else(|| format!("{subscription:?} is not within {least:?} to {most:?}"))
    }

    /// The last one's will is done, where it is clear who was the last.
    fn check_activity(&self, subscription: Subscription) -> Result<(), String> {
        let changing =
            || self.wishes.iter().filter(|told| !matches!(told.wish.deed, Deed::Read(_)) && told.told != Told::NotApplied);
        let is_clear = |last: &&Ended<'_>| {
            let agrees = |other: &Ended<'_>| {
                let is_before = other.told == Told::Acknowledged && other.told_ms < last.wish.asked_ms;
                is_before || other.wish.deed == last.wish.deed
            };
            last.told == Told::Acknowledged && last.wish.certain && !self.subscription_lost && changing().all(agrees)
        };
        let Some(last) = changing().find(is_clear) else { return Ok(()) };
        let wanted = last.wish.deed == Deed::Subscribe;
        if subscription.is_active() == wanted {
            return Ok(());
        }
        Err(format!("{subscription:?} at the end, though the last wish was {:?}", last.wish))
    }

    fn check_count(&self, subscription: Subscription, page: Modifications) -> Result<&'static str, String> {
        let unread = subscription.unread(page);
        if !subscription.is_active() {
            return if unread == 0 { Ok("user not subscribed") } else { Err(format!("{unread} unread of no subscription")) };
        }
        let most_read =
            self.wishes.iter().filter(|told| told.told != Told::NotApplied).map(|told| self.most_read(told.wish)).max();
        let least_read = if self.is_counted_apart(page.epoch) {
            0
        } else {
            let acknowledged = self.wishes.iter().filter(|told| told.told == Told::Acknowledged && told.wish.certain);
            acknowledged.map(|told| self.least_read(told.wish)).max().unwrap_or(0)
        };
        let (most_read, number) = (most_read.unwrap_or(0), page.number);
        let may_be = number.saturating_sub(most_read)..=number.saturating_sub(least_read);
        if !may_be.contains(&unread) {
            return Err(format!("{unread} unread of {number} with {subscription:?}, not {may_be:?}"));
        }
        Ok(if may_be.start() < may_be.end() { "unread count within bounds" } else { "unread count as the model's" })
    }

    /// Cursors of a later epoch replace those of an earlier one, and a loss voids them.
    fn is_counted_apart(&self, epoch: Epoch) -> bool {
        let mut epochs = self.wishes.iter().filter_map(|told| told.wish.heard).map(|heard| heard.modifications.epoch);
        let is_apart = epochs.any(|heard| heard != epoch && heard != Epoch::default());
        is_apart || self.modifications_lost > 0 || self.subscription_lost
    }

    /// How many modifications the user can have read by this.
    fn most_read(&self, wish: &Wish) -> u32 {
        let heard = wish.heard.map_or(0, |heard| self.most_at(heard.at_ms));
        match wish.deed {
            Deed::Unsubscribe => 0,
            Deed::Subscribe => heard,
            Deed::Read(version) => heard.min(version),
        }
    }

    /// How many the user must have read by this.
    fn least_read(&self, wish: &Wish) -> u32 {
        match wish.deed {
            Deed::Subscribe if wish.heard.is_some() => self.least_at(wish.asked_ms),
            Deed::Read(version) => self.least_at(wish.asked_ms).min(version),
            Deed::Subscribe | Deed::Unsubscribe => 0,
        }
    }
}
