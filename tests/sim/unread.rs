//! Users of the simulation: what they subscribe to, read and ask for, by the product's own steps, see `counter_node::unread`.
//!
//! What changes a subscription first hears all replicas of its user's and its page's shards that answer, and raises then. What was heard
//! and what was raised is kept for the model, see `model.rs`.

use std::sync::{Arc, Mutex};

use counter_core::counter::{Key, Update};
use counter_core::id::NodeName;
use counter_core::layout::LayoutVersion;
use counter_core::slot::Slot;
use counter_core::unread::{MODIFICATIONS_MAX, Modifications, Subscription};
use counter_core::vector::Generation;
use counter_node::router::Failure;
use counter_node::unread::shards::Shards;
use counter_node::unread::{self, Keeper, Refused, Standing, Subscribed, Unread};
use futures::FutureExt as _;
use futures::future::BoxFuture;

use crate::bugs::Bug;
use crate::events::Event;
use crate::ledger::Told;
use crate::tasks::{Desk, Port};
use crate::world::World;

/// The pages that are modified and subscribed to: some of those that are counted, too.
const PAGES: [&str; 2] = ["page-1", "page-2"];
const USERS: [&str; 2] = ["ann", "ben"];
/// How often a user tries what fails.
const TRIES_MAX: u32 = 3;

/// A user and a page: their own numbers, and those of the keys of the page's modifications and of the subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) user: usize,
    pub(crate) page: usize,
    pub(crate) modifications: usize,
    pub(crate) subscription: usize,
}

/// What a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Subscribe,
    Unsubscribe,
    /// So many modifications.
    Read(u32),
}

/// What a task is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About {
    Wish(usize),
    /// This user's total; at rest, one of those that are looked at in the end.
    Total {
        user: usize,
        is_final: bool,
    },
    /// The subscriptions of a user who is followed.
    Fetch {
        user: usize,
    },
}

/// What a task has come to.
#[derive(Debug)]
pub(crate) enum Done {
    /// How the subscription stands, where that is told.
    Changed(Result<Option<Subscription>, Refused>),
    Total(Result<Unread, Failure>),
    Fetched(Result<Vec<(Subscribed, Modifications)>, Failure>),
}

/// What replicas of a page's shard said of it together, and when the last of them had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) at_ms: u64,
    pub(crate) modifications: Modifications,
}

/// What was heard on the way, as the product put it together.
#[derive(Clone, Copy, Debug, Default)]
struct HeardSoFar {
    standing: Option<Subscription>,
    modifications: Option<Modifications>,
}

/// One wish of a user's, and what has become of it.
#[derive(Debug)]
pub(crate) struct Wish {
    pub(crate) pair: usize,
    pub(crate) deed: Deed,
    pub(crate) asked_ms: u64,
    tries: u32,
    /// No slot was on the move as the user asked, and this was the layout.
    layout: Option<LayoutVersion>,
    /// Every replica was heard, and no slot moved meanwhile: then what has been acknowledged before must have been heard.
    pub(crate) certain: bool,
    /// Of the first copy of the modifications that was heard.
    generation: Option<Generation>,
    so_far: Arc<Mutex<HeardSoFar>>,
    pub(crate) standing: Option<Subscription>,
    pub(crate) heard: Option<Heard>,
    /// What the subscription was to be at least.
    pub(crate) to: Option<Subscription>,
    /// The request by which it was to be raised to that.
    pub(crate) request: Option<u64>,
    /// How it ended where nothing was to be raised, and when.
    pub(crate) ended: Option<(Told, u64)>,
}

/// All wishes.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) names: Vec<Key>,
    pages: Vec<Key>,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) wishes: Vec<Wish>,
    /// What nodes say in the end, by their numbers.
    pub(crate) totals: Vec<(usize, usize, Unread)>,
}

impl Users {
    /// Adds the keys behind the others.
    pub(crate) fn new(keys: &mut Vec<Key>) -> Self {
        let pages: Vec<Key> = PAGES.iter().map(|name| Key::new(name.as_bytes()).unwrap()).collect();
        let names: Vec<Key> = USERS.iter().map(|name| Key::user(name.as_bytes()).unwrap()).collect();
        let first = keys.len();
        keys.extend(pages.iter().map(Key::modifications));
        let mut pairs = Vec::new();
        for (user, name) in names.iter().enumerate() {
            for (page, of) in pages.iter().enumerate() {
                pairs.push(Pair { user, page, modifications: first + page, subscription: keys.len() });
                keys.push(name.subscription(of).unwrap());
            }
        }
        Self { names, pages, pairs, wishes: Vec::new(), totals: Vec::new() }
    }

    /// Whether some have not ended, those apart whose request has not.
    pub(crate) fn are_waiting(&self) -> bool {
        self.wishes.iter().any(|wish| wish.request.is_none() && wish.ended.is_none())
    }

    /// The subscriptions of a user.
    pub(crate) fn pairs_of(&self, user: usize) -> impl Iterator<Item = Pair> {
        self.pairs.iter().copied().filter(move |pair| pair.user == user)
    }
}

impl World {
    /// A user does something, or a page is modified.
    pub(crate) fn user_acts(&mut self) {
        if self.healed {
            return;
        }
        self.events.at(self.now_ms + self.rng.range(1, 2 * self.plan.user_ms), Event::User);
        let Some(node) = self.any_running().filter(|_| self.now_ms >= 800) else { return };
        let pair = self.rng.index(self.users.pairs.len());
        let deed = match self.rng.below(11) {
            0..4 => return self.send_update(node, self.users.pairs[pair].modifications, Update::Increment(1)),
            4..6 => Deed::Subscribe,
            6 => Deed::Unsubscribe,
            7 => return self.ask_total(node, self.users.pairs[pair].user, false),
            _ => Deed::Read(self.version(pair)),
        };
        self.wish(node, (pair, deed), 1);
        // A second click, or the copy of a request, by another way.
        if self.rng.per_mille(100)
            && let Some(other) = self.any_running()
        {
            self.note("user's request made twice");
            self.wish(other, (pair, deed), TRIES_MAX);
        }
    }

    /// Some version that the page has come to, or has not yet.
    fn version(&mut self, pair: usize) -> u32 {
        let key = self.users.pairs[pair].modifications;
        let most = self.ledger.requests.iter().filter(|request| request.key == key).count();
        u32::try_from(self.rng.index(most + 3)).unwrap()
    }

    fn wish(&mut self, node: usize, (pair, deed): (usize, Deed), tries: u32) {
        let wish = Wish {
            pair,
            deed,
            asked_ms: self.now_ms,
            tries,
            layout: self.steady_layout(node),
            certain: true,
            generation: None,
            so_far: Arc::default(),
            standing: None,
            heard: None,
            to: None,
            request: None,
            ended: None,
        };
        let so_far = wish.so_far.clone();
        self.users.wishes.push(wish);
        let number = self.users.wishes.len() - 1;
        self.trace(|| format!("a user wishes {deed:?} of pair {pair} at node {node}: wish {number}"));
        let believes = self.bug == Some(Bug::VersionBelieved) && matches!(deed, Deed::Read(_));
        let Pair { user, page, .. } = self.users.pairs[pair];
        let (user, page) = (self.users.names[user].clone(), self.users.pages[page].clone());
        self.begin_task(node, About::Wish(number), |shards, desk| {
            change(Witness { shards, so_far, believes }, desk, (user, page), deed).map(Done::Changed).boxed()
        });
    }

    /// A user's request has failed, and comes once more.
    pub(crate) fn wish_again(&mut self, number: usize) {
        if self.healed {
            return;
        }
        let Wish { pair, deed, tries, .. } = self.users.wishes[number];
        if let Some(node) = self.any_running() {
            self.note("user's request sent again");
            self.wish(node, (pair, deed), tries + 1);
        }
    }

    /// Asks a node for a user's total.
    pub(crate) fn ask_total(&mut self, node: usize, user: usize, is_final: bool) {
        let name = self.users.names[user].clone();
        let only_own = self.bug == Some(Bug::TotalOfOnePage);
        self.begin_task(node, About::Total { user, is_final }, |shards, _| {
            let total = async move {
                let mut total = unread::unread(&shards, name.clone()).await?;
                if only_own {
                    total = Unread { count: total.pages.iter().take(1).map(|page| u64::from(page.unread)).sum(), ..total };
                }
                Ok(total)
            };
            total.map(Done::Total).boxed()
        });
    }

    /// The layout, where the node acts by the last one and nothing moves.
    fn steady_layout(&self, node: usize) -> Option<LayoutVersion> {
        let layout = &self.operator.layout;
        let held = self.nodes[node].process.as_ref()?.replica.layout()?.version;
        (layout.moves.is_empty() && held == layout.version).then_some(held)
    }

    pub(crate) fn is_replica(&self, node: usize, slot: Slot) -> bool {
        let layout = self.nodes[node].process.as_ref().and_then(|process| process.replica.layout());
        let owner = layout.and_then(|layout| layout.owner(slot));
        owner.is_some_and(|shard| shard.nodes.iter().any(|replica| replica.name == self.nodes[node].name))
    }

    /// One of those that may know something has not said it.
    pub(crate) fn not_all_heard(&mut self, about: About) {
        if let About::Wish(number) = about {
            self.users.wishes[number].certain = false;
        }
    }

    /// Copies of one generation come to exactly what is in any of them. While actors retire they do not: then each has what others have
    /// not, for as long as replication takes.
    pub(crate) fn copy_heard(&mut self, about: About, generation: Generation) {
        if let About::Wish(number) = about {
            let wish = &mut self.users.wishes[number];
            wish.certain &= *wish.generation.get_or_insert(generation) == generation;
        }
    }

    /// Notes for the model what a task has heard by now.
    pub(crate) fn take_heard(&mut self, node: usize, about: About) {
        let About::Wish(number) = about else { return };
        let wish = &self.users.wishes[number];
        let HeardSoFar { standing, modifications } = *wish.so_far.lock().unwrap();
        let pair = self.users.pairs[wish.pair];
        let is_new = [
            (standing.is_some() && wish.standing.is_none()).then_some(pair.subscription),
            (modifications.is_some() && wish.heard.is_none()).then_some(pair.modifications),
        ];
        for key in is_new.into_iter().flatten() {
            // A replica that does not serve has not been heard.
            let slot = self.ledger.keys[key].slot();
            let held = &self.nodes[node];
            let serves = held.process.as_ref().is_some_and(|process| process.serves(&held.name, slot));
            if serves && key == pair.modifications {
                let generation = held.process.as_ref().map(|process| process.table.slot(slot).generation());
                generation.into_iter().for_each(|generation| self.copy_heard(about, generation));
            }
            let (is_replica, steady) = (self.is_replica(node, slot), self.steady_layout(node));
            let wish = &mut self.users.wishes[number];
            wish.certain &= (serves || !is_replica) && steady.is_some() && steady == wish.layout;
        }
        let wish = &mut self.users.wishes[number];
        wish.standing = standing;
        wish.heard = wish.heard.or(modifications.map(|modifications| Heard { at_ms: self.now_ms, modifications }));
    }

    /// Notes what is to be raised. Whether it is acknowledged as it stands, which is the planted bug of an answer that rests on what is
    /// not durable.
    pub(crate) fn raises_nothing(&mut self, about: About, update: Update) -> bool {
        let About::Wish(number) = about else { return false };
        let wish = &mut self.users.wishes[number];
        wish.to = Some(raised_to(update));
        self.bug == Some(Bug::StandingNotDurable) && wish.to == wish.standing
    }

    /// A wish is under way as this request.
    pub(crate) fn raised(&mut self, about: About, update: Update, request: u64) {
        if let About::Wish(number) = about {
            self.users.wishes[number].request = Some(request);
            self.trace(|| format!("wish {number} raises by {update:?}: request {request}"));
        }
    }

    /// A task has come to its end.
    pub(crate) fn task_done(&mut self, node: usize, about: About, done: Done) {
        match (about, done) {
            (About::Wish(number), Done::Changed(result)) => self.wish_done(number, &result),
            (About::Total { user, is_final: true }, Done::Total(Ok(total))) => self.users.totals.push((node, user, total)),
            // Some messages are late even now.
            (About::Total { user, is_final: true }, Done::Total(Err(_))) => self.ask_total(node, user, true),
            (About::Total { user, is_final: false }, Done::Total(Ok(total))) => {
                let checked = self.check_total_on_the_way(user, &total);
                self.note("total told amid faults");
                self.violation = self.violation.take().or(checked.err());
            }
            (About::Total { .. }, _) => self.note("total not told"),
            (About::Fetch { user }, Done::Fetched(result)) => self.fetched(node, user, result),
            (about, done) => unreachable!("{about:?} comes to {done:?}"),
        }
    }

    /// A task has ended with its process.
    pub(crate) fn task_dropped(&mut self, about: About) {
        if let About::Wish(number) = about {
            self.note("user's request cut off by the end of its node");
            self.wish_ended(number, Told::NotApplied);
        }
    }

    fn wish_done(&mut self, number: usize, result: &Result<Option<Subscription>, Refused>) {
        let wish = &self.users.wishes[number];
        if let Ok(Some(subscription)) = result
            && (!subscription.is_active() || Some(*subscription) != wish.to)
        {
            self.violation = Some(format!("{subscription:?} is told of {wish:?}"));
        }
        let told = if result.is_ok() { Told::Acknowledged } else { Told::NotApplied };
        if matches!(result, Err(Refused::NotSubscribed)) {
            self.users.wishes[number].tries = TRIES_MAX;
        }
        self.wish_ended(number, told);
    }

    /// What was raised has been told by its request; else it ends like this. Who has no success tries it again.
    fn wish_ended(&mut self, number: usize, told: Told) {
        let wish = &mut self.users.wishes[number];
        if wish.request.is_none() {
            wish.ended = Some((told, self.now_ms));
        }
        if told != Told::Acknowledged && wish.tries < TRIES_MAX && self.rng.per_mille(500) {
            let at_ms = self.now_ms + self.rng.range(10, 1_500);
            self.events.at(at_ms, Event::WishAgain { wish: number });
        }
    }
}

/// What the update raises a subscription to.
fn raised_to(update: Update) -> Subscription {
    match update {
        Update::Raise { generation, cursor } => Subscription { cursor, generation },
        _ => Subscription::default(),
    }
}

async fn change(witness: Witness, backend: Desk, (user, page): (Key, Key), deed: Deed) -> Result<Option<Subscription>, Refused> {
    let of = (&user, &page);
    match deed {
        Deed::Subscribe => Ok(Some(unread::subscribe(&backend, &witness, of).await?.subscription)),
        Deed::Unsubscribe => unread::unsubscribe(&backend, &witness, of).await.map(|()| None),
        Deed::Read(version) => {
            let (standing, _) = unread::read(&backend, &witness, of, version).await?;
            Ok(Some(standing.subscription))
        }
    }
}

/// The shards, and what was heard of them.
#[derive(Debug)]
struct Witness {
    shards: Shards<Port>,
    so_far: Arc<Mutex<HeardSoFar>>,
    /// The planted bug of a user who has read what the client says, whatever there is.
    believes: bool,
}

impl Keeper for Witness {
    fn modifications(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<Modifications>, Failure>> {
        self.shards.modifications(keys)
    }

    fn all_modifications(&self, key: Key) -> BoxFuture<'_, Result<Modifications, Failure>> {
        Box::pin(async {
            let modifications = self.shards.all_modifications(key).await?;
            self.so_far.lock().unwrap().modifications = Some(modifications);
            let number = if self.believes { MODIFICATIONS_MAX } else { modifications.number };
            Ok(Modifications { number, ..modifications })
        })
    }

    fn subscriptions(&self, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        self.shards.subscriptions(user)
    }

    fn subscriptions_at(&self, node: NodeName, user: Key) -> BoxFuture<'_, Result<Vec<Subscribed>, Failure>> {
        self.shards.subscriptions_at(node, user)
    }

    fn standing(&self, subscription: Key) -> BoxFuture<'_, Result<Standing, Failure>> {
        Box::pin(async {
            let standing = self.shards.standing(subscription).await?;
            self.so_far.lock().unwrap().standing = Some(standing.subscription);
            Ok(standing)
        })
    }

    fn active(&self, user: Key) -> BoxFuture<'_, Result<usize, Failure>> {
        self.shards.active(user)
    }
}
