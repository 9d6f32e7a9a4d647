//! From a client's request to whoever owns the counter: this replica's own table, or a node that the layout names.

mod pipeline;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use counter_core::counter::{Key, Update};
use counter_core::forward::{Attempt, ItemResult, NotApplied, Operation, Outcome, ReadItem, Replayed, UpdateItem};
use counter_core::hlc::Hlc;
use counter_core::id::ClusterId;
use counter_core::marks::Mark;
use counter_core::replica::Freshness;
use counter_core::slot::Slot;
use counter_core::token::Token;
use counter_core::unread::Cursor;
use counter_core::vector::{self, Bounds, Refusal};
use futures::future::join_all;

use crate::details::{Detail, Details};
use crate::forwarding::{Forwarded, Forwarding};
use crate::overview::{ClusterOverview, Overviews};
use crate::own_writes::{OwnWrites, SEEN_WAITS_MAX, Seen, UNTOLD};
use crate::owner::Owner;
use crate::protocol::Protocol;
use crate::site::Site;
use crate::top::{Asked, Busiest, Top};
use crate::totals::SiteTotal;
use crate::unread::shards::Shards;

pub use pipeline::{Here, Pipeline};

/// How often something is tried here when it keeps moving between being ours and not.
const LOCAL_TRIES: usize = 3;
/// How long an update waits for a layout to become durable before it goes to a sibling.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// How long a read waits until the viewers of a page are known, here or by a sibling.
const VIEWERS_TIME: Duration = Duration::from_secs(1);
/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What clients are told to wait before they try again, in seconds.
const RETRY_S: u32 = 1;
/// What the queues before storage and before other nodes hold; for the message that says that they are full.
const WAITING_MAX: u64 = 16_384;

/// What a client learns of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The number, within the range of the reply.
    pub count: i64,
    /// `count` is not the sum: concurrent updates have taken that past the range.
    pub clamped: bool,
    /// The sum without viewers.
    pub tally: i128,
    /// Who looks at the page.
    pub viewers: u64,
    /// When the counter last changed; none when never.
    pub updated_at: Option<Hlc>,
    /// Whether anything counts in it: not when nobody has updated it, nor when it was reset and not updated since.
    pub exists: bool,
    /// The update had been counted before, under its token.
    pub replayed: bool,
}

/// What a client learns of a counter, and of what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detailed {
    pub reading: Reading,
    /// Since when something may have been counted elsewhere that is missing here, in milliseconds.
    pub staleness_ms: u64,
    /// How many replicas stand behind it: those that were heard from just now, the answering ones included.
    pub replicas: u32,
    /// Between what the tally was at a moment while it was asked for; none where that is not known. Where nobody else counts, and so
    /// nothing can be missing, it is the tally.
    pub bounds: Option<Bounds>,
    /// How many people the viewers are, and whether that is an estimate; none where that is not reckoned.
    pub unique: Option<(u64, bool)>,
}

/// What a client asks of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Increment(u64),
    Decrement(u64),
    /// Clears what was observed.
    Reset,
    /// Clears what was observed and counts to this number. The reading is what it replaced.
    Set(i64),
    /// Raises a user's subscription to this, see [`counter_core::unread`].
    Raise {
        generation: u32,
        cursor: Cursor,
    },
}

/// An update as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    pub action: Action,
    /// Under which the action counts once, however often it is sent.
    pub token: Option<Token>,
}

impl From<Action> for Write {
    fn from(action: Action) -> Self {
        Self { action, token: None }
    }
}

/// Why a client gets no reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was changed, and a later try may succeed.
    NotApplied { reason: String, retry_after_s: u32 },
    /// The owner's storage cannot write; nothing was changed.
    ReadOnly { reason: String, retry_after_s: u32 },
    /// What the client has written earlier does not show yet where it was looked for; nothing was changed.
    Behind { reason: String, retry_after_s: u32 },
    /// The client asks to remember more counters than it can: those of one page, spread over so many. Nothing was changed.
    TooManyMarks { counters: usize, limit: usize },
    /// The update may or may not count.
    OutcomeUnknown { reason: String },
    /// The update would leave the range of the number; nothing was changed.
    Range { message: String },
    /// The page is new and the node's table is full; nothing was changed.
    TooManyCounters { limit: u64 },
    /// The page is new and the node's counters take all of the memory that they may; nothing was changed.
    TooMuchMemory { limit_bytes: u64 },
    /// The token has been used for another update of the counter; nothing was changed.
    TokenReused,
    /// The token is too old to be known any more; nothing was changed now.
    TokenExpired { message: String },
    /// The token was made in the future; nothing was changed.
    TokenFromFuture { message: String },
    /// The node remembers as many tokens as it may; nothing was changed.
    TooManyTokens { limit: u64 },
    /// A queue is full; nothing was changed.
    Overloaded { what: &'static str, limit: u64 },
}

/// Takes requests to the counters' owners.
pub struct Router {
    pub protocol: Arc<Protocol>,
    pub owner: Arc<Owner>,
    pub forwarding: Arc<Forwarding>,
    pub site: Site,
    pub details: Arc<Details>,
    pub shards: Arc<Shards>,
    pub seen: Seen,
    pub overviews: Arc<Overviews>,
    pub top: Arc<Top>,
}

impl Router {
    /// Applies one update.
    ///
    /// # Errors
    /// [`Failure`], which says whether anything changed.
    pub async fn update_after(&self, writes: &OwnWrites, key: Key, write: impl Into<Write> + Send) -> Result<Reading, Failure> {
        let Write { action, token } = write.into();
        let (update, slot) = (Update::from(action), key.slot());
        // What nearly every update is: of a client that keeps no marks, to a counter of this node's.
        if !writes.are_told() && self.protocol.serves(slot) {
            match self.owner.update(slot, key.clone(), update, token).await {
                ItemResult::NotApplied(NotApplied::ReadOnly | NotApplied::NotOwner) => {}
                result => return answer(result),
            }
        }
        // Boxed, so that those have no room for what this may have to wait for.
        Box::pin(self.attempt(writes, key, Attempt::new(update, token))).await
    }

    /// Tries an update wherever it can be.
    async fn attempt(&self, writes: &OwnWrites, key: Key, mut attempt: Attempt) -> Result<Reading, Failure> {
        let marks = writes.of(&key);
        for _ in 0..LOCAL_TRIES {
            if self.protocol.serves(key.slot()) {
                let result = match &marks {
                    None => self.owner.update(key.slot(), key.clone(), attempt.update, attempt.token).await,
                    Some(marks) => match self.seen.wait(&key, marks, writes).await {
                        Ok(()) => self.update_marked(&key, attempt, marks).await,
                        Err(reason) if reason == NotApplied::NotOwner || attempt.maybe_applied => ItemResult::NotApplied(reason),
                        Err(reason) => return Err(unseen(reason)),
                    },
                };
                match result {
                    // The slot has just come, and counts here as soon as the layout that brings it is durable.
                    ItemResult::NotApplied(NotApplied::NotOwner) if self.protocol.settles(SETTLE_TIME).await => continue,
                    // A sibling's storage may be able to, and the slot may just have moved.
                    ItemResult::NotApplied(NotApplied::ReadOnly | NotApplied::NotOwner) => {}
                    result => return self.told_to(writes, &key, attempt.told(Outcome::from(result))),
                }
            }
            let _place = match self.seen.place(marks.as_deref()) {
                Ok(place) => place,
                Err(reason) if attempt.maybe_applied => return self.told(attempt.told(Outcome::NotApplied(reason))),
                Err(reason) => return Err(unseen(reason)),
            };
            match self.forwarding.submit(key.clone(), Operation::Update(attempt), marks.clone()).await {
                Forwarded::Outcome(outcome) => return self.told_to(writes, &key, outcome),
                Forwarded::Here(Operation::Update(so_far)) => attempt = so_far,
                Forwarded::Here(Operation::Read) => {}
            }
        }
        self.told(attempt.told(Outcome::NotApplied(NotApplied::NotOwner)))
    }

    /// Applies an update here, where these marks have been seen. It comes with another one.
    async fn update_marked(&self, key: &Key, attempt: Attempt, marks: &[Mark]) -> ItemResult {
        let item = UpdateItem { key: key.clone(), update: attempt.update, token: attempt.token, marks: Some(marks.to_vec()) };
        self.owner.update_many(vec![item]).await.pop().unwrap_or(ItemResult::Unknown)
    }

    /// Reads one counter; one that nobody has updated counts 0. Where the client asks for that, its own writes show, or it is told
    /// that they do not yet.
    ///
    /// # Errors
    /// [`Failure`] when no owner answers.
    pub async fn read_after(&self, writes: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        if !writes.are_told() && self.protocol.serves(key.slot()) {
            return self.read_here(&key, Vec::new()).await;
        }
        // As with updates.
        Box::pin(self.read_anywhere(writes, key)).await
    }

    async fn read_anywhere(&self, writes: &OwnWrites, key: Key) -> Result<Reading, Failure> {
        let marks = writes.of(&key).filter(|marks| !marks.is_empty());
        for _ in 0..LOCAL_TRIES {
            if self.protocol.serves(key.slot()) {
                match &marks {
                    None => return self.read_here(&key, Vec::new()).await,
                    Some(marks) => match self.seen.wait(&key, marks, writes).await {
                        Ok(()) => return self.read_here(&key, marks.clone()).await,
                        Err(NotApplied::NotOwner) => {}
                        Err(reason) => return Err(unseen(reason)),
                    },
                }
            }
            let _place = self.seen.place(marks.as_deref()).map_err(unseen)?;
            match self.forwarding.submit(key.clone(), Operation::Read, marks.clone()).await {
                Forwarded::Outcome(outcome) => return self.told(outcome),
                Forwarded::Here(_) => {}
            }
        }
        Err(not_applied(NotApplied::NotOwner))
    }

    /// Reads a counter of this node's, which has seen the marks.
    async fn read_here(&self, key: &Key, marks: Vec<Mark>) -> Result<Reading, Failure> {
        match self.owner.read(key) {
            ItemResult::NotApplied(NotApplied::NotReady) => Box::pin(self.read_unknown(key, marks)).await,
            result => answer(result),
        }
    }

    /// Reads a counter whose viewers this node does not know yet: a sibling may, or it is known in a moment.
    async fn read_unknown(&self, key: &Key, marks: Vec<Mark>) -> Result<Reading, Failure> {
        let item = ReadItem { key: key.clone(), marks };
        let read = async {
            loop {
                if let ItemResult::Done(reading) = self.owner.read(key) {
                    return Reading::from(reading);
                }
                if let Ok(Detail { reading, .. }) = self.details.read_elsewhere(&item).await {
                    return Reading::from(reading);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(VIEWERS_TIME, read).await.map_err(|_| not_applied(NotApplied::NotReady))
    }

    /// Applies many updates; the results are in their order, each stands for itself. Those of this node share a commit.
    pub async fn update_many_after(&self, writes: &OwnWrites, updates: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        if writes.are_told() {
            let updates = updates.into_iter().map(|(key, write)| self.update_after(writes, key, write));
            return join_all(updates).await;
        }
        self.update_many(updates).await
    }

    async fn update_many(&self, writes: Vec<(Key, Write)>) -> Vec<Result<Reading, Failure>> {
        let (own, foreign): (Vec<_>, Vec<_>) =
            writes.into_iter().enumerate().partition(|(_, (key, _))| self.protocol.serves(key.slot()));
        let (places, own): (Vec<usize>, Vec<UpdateItem>) = own
            .into_iter()
            .map(|(place, (key, Write { action, token }))| (place, UpdateItem { key, update: action.into(), token, marks: None }))
            .unzip();
        let (applied, forwarded) = futures::join!(
            self.update_own(own),
            join_all(
                foreign.into_iter().map(async |(place, (key, write))| (place, self.update_after(&UNTOLD, key, write).await))
            )
        );
        in_order(places.into_iter().zip(applied).chain(forwarded))
    }

    async fn update_own(&self, updates: Vec<UpdateItem>) -> Vec<Result<Reading, Failure>> {
        if updates.is_empty() {
            return Vec::new();
        }
        let again = updates.clone();
        let results = self.owner.update_many(updates).await.into_iter().zip(again);
        join_all(results.map(async |(result, UpdateItem { key, update, token, .. })| match result {
            ItemResult::NotApplied(NotApplied::ReadOnly | NotApplied::NotOwner) => {
                self.attempt(&UNTOLD, key, Attempt::new(update, token)).await
            }
            result => answer(result),
        }))
        .await
    }

    /// The same, where an update may have come with a mark: that is the client's.
    fn told_to(&self, writes: &OwnWrites, key: &Key, outcome: Outcome) -> Result<Reading, Failure> {
        if let Outcome::Marked { mark, .. } = outcome {
            writes.add(key, mark);
        }
        self.told(outcome)
    }

    /// What a client is told of what became of its request elsewhere.
    fn told(&self, outcome: Outcome) -> Result<Reading, Failure> {
        match outcome {
            Outcome::Done(reading) => Ok(Reading::from(reading)),
            Outcome::Replayed(reading) => Ok(Reading { replayed: true, ..Reading::from(reading) }),
            Outcome::Marked { reading, replayed, .. } => Ok(marked(reading, replayed)),
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            // The forwarder knows no reason of this node's but its storage.
            Outcome::NotApplied(NotApplied::ReadOnly) if !self.protocol.is_serving() => Err(not_applied(NotApplied::NotReady)),
            Outcome::NotApplied(reason) => Err(not_applied(reason)),
            Outcome::Unknown => Err(unknown()),
        }
    }

    /// Reads many counters; the results are in their order.
    pub async fn read_many_after(&self, writes: &OwnWrites, keys: Vec<Key>) -> Vec<Result<Reading, Failure>> {
        join_all(keys.into_iter().map(|key| self.read_after(writes, key))).await
    }

    /// Reads one counter, and how fresh that is.
    ///
    /// # Errors
    /// [`Failure`] when no owner answers.
    pub async fn read_detailed_after(&self, writes: &OwnWrites, key: Key) -> Result<Detailed, Failure> {
        let marks = writes.of(&key).unwrap_or_default();
        if !marks.is_empty() && self.protocol.serves(key.slot()) {
            // Where the counter has moved away meanwhile, its new owners are asked.
            self.seen.wait(&key, &marks, writes).await.or_else(unless_moved)?;
        }
        let _place = self.seen.place(Some(&marks)).map_err(unseen)?;
        let Detail { reading, freshness, unique } = self.details.read(ReadItem { key, marks }).await.map_err(not_applied)?;
        let Freshness { replicas, silent_ms, alone } = freshness;
        let bounds = alone.then(|| Bounds::exactly(reading.tally));
        Ok(Detailed { reading: Reading::from(reading), staleness_ms: silent_ms, replicas, bounds, unique: Some(unique) })
    }

    /// Between what a counter's tally was at a moment while this was asked for: by asking all of its replicas. None where one of them does
    /// not answer, and at once where so few as `heard` are known to.
    pub async fn bounds(&self, key: Key, heard: u32) -> Option<Bounds> {
        self.shards.bounds(key, heard).await
    }

    /// The sum over all counters of the cluster, and how fresh that is.
    ///
    /// # Errors
    /// [`Failure`] when no total can be given.
    pub async fn site(&self) -> Result<Detailed, Failure> {
        let total = self.site.total().await;
        let SiteTotal { reading, staleness, replicas, alone } =
            total.map_err(|error| Failure::NotApplied { reason: error.to_string(), retry_after_s: RETRY_S })?;
        let staleness_ms = u64::try_from(staleness.as_millis()).unwrap_or(u64::MAX);
        let bounds = alone.then(|| Bounds::exactly(reading.tally));
        Ok(Detailed { reading: Reading::from(reading), staleness_ms, replicas, bounds, unique: None })
    }

    /// The cluster; none while the node waits for its first layout.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.protocol.view().routes.as_ref().map(|routes| routes.layout.cluster)
    }

    /// How the nodes of the cluster are.
    pub async fn overview(&self) -> Arc<ClusterOverview> {
        self.overviews.cluster().await
    }

    /// The pages that most look at, over the whole cluster.
    ///
    /// # Errors
    /// [`Failure`] when some shard does not answer.
    pub async fn top(&self, asked: &Asked) -> Result<(Busiest, Duration), Failure> {
        let pages = self.top.pages(asked).await;
        pages.map_err(|error| Failure::NotApplied { reason: error.to_string(), retry_after_s: RETRY_S })
    }

    /// Some of the pages that this node holds, at most `limit`. One that only virtual shards of it are here is a page too.
    #[must_use]
    pub fn pages(&self, limit: usize) -> Vec<Key> {
        let mut pages = BTreeSet::new();
        for slot in Slot::all() {
            let vector = self.owner.table.slot(slot);
            let counted = vector.keys().filter(|key| key.kind().is_counted());
            for page in counted.filter_map(|key| Key::new(key.page()).ok()) {
                if pages.len() < limit {
                    pages.insert(page);
                }
            }
            if pages.len() >= limit {
                break;
            }
        }
        pages.into_iter().collect()
    }
}

/// Puts results back into their places.
fn in_order<T>(results: impl Iterator<Item = (usize, T)>) -> Vec<T> {
    let mut results: Vec<(usize, T)> = results.collect();
    results.sort_unstable_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

fn answer(result: ItemResult) -> Result<Reading, Failure> {
    match result {
        ItemResult::Done(reading) => Ok(Reading::from(reading)),
        ItemResult::Replayed(reading) => Ok(Reading { replayed: true, ..Reading::from(reading) }),
        ItemResult::Marked { reading, replayed, .. } => Ok(marked(reading, replayed)),
        ItemResult::Refused(refusal) => Err(Failure::from(refusal)),
        ItemResult::NotApplied(reason) => Err(not_applied(reason)),
        ItemResult::Unknown => Err(unknown()),
    }
}

fn marked(reading: vector::Reading, replayed: Replayed) -> Reading {
    Reading { replayed: replayed == Replayed::Yes, ..Reading::from(reading) }
}

fn unless_moved(reason: NotApplied) -> Result<(), Failure> {
    if reason == NotApplied::NotOwner { Ok(()) } else { Err(unseen(reason)) }
}

/// Why a client's own writes do not show here.
fn unseen(reason: NotApplied) -> Failure {
    let what = "counters that requests wait for until their clients' own writes show";
    let limit = u64::try_from(SEEN_WAITS_MAX).unwrap_or(u64::MAX);
    if reason == NotApplied::Overloaded { Failure::Overloaded { what, limit } } else { not_applied(reason) }
}

pub(crate) fn not_applied(reason: NotApplied) -> Failure {
    match reason {
        NotApplied::Overloaded => Failure::Overloaded { what: "requests that wait", limit: WAITING_MAX },
        NotApplied::Behind => Failure::Behind { reason: reason.to_string(), retry_after_s: RETRY_S },
        NotApplied::ReadOnly => Failure::ReadOnly { reason: reason.to_string(), retry_after_s: RETRY_S },
        reason => Failure::NotApplied { reason: reason.to_string(), retry_after_s: RETRY_S },
    }
}

fn unknown() -> Failure {
    Failure::OutcomeUnknown { reason: "the owner's answer did not come, or its storage failed".to_owned() }
}

impl From<vector::Reading> for Reading {
    fn from(reading: vector::Reading) -> Self {
        let count = reading.count();
        let vector::Reading { tally, updated_at, exists, viewers } = reading;
        let clamped = i128::from(count) != tally.saturating_add(viewers.into());
        Self { count, clamped, tally, viewers, updated_at, exists, replayed: false }
    }
}

impl From<Action> for Update {
    fn from(action: Action) -> Self {
        match action {
            Action::Increment(by) => Self::Increment(by),
            Action::Decrement(by) => Self::Decrement(by),
            Action::Reset => Self::Reset,
            Action::Set(to) => Self::Set(to),
            Action::Raise { generation, cursor } => Self::Raise { generation, cursor },
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotOwner => Self::NotApplied { reason: refusal.to_string(), retry_after_s: 1 },
            Refusal::OutOfRange(range) => Self::Range { message: range.to_string() },
            Refusal::TooManyCounters { limit } => Self::TooManyCounters { limit },
            Refusal::TooMuchMemory { limit_bytes } => Self::TooMuchMemory { limit_bytes },
            Refusal::TokenReused => Self::TokenReused,
            Refusal::TokenExpired { .. } => Self::TokenExpired { message: refusal.to_string() },
            Refusal::TokenFromFuture { .. } => Self::TokenFromFuture { message: refusal.to_string() },
            Refusal::TooManyTokens { limit } => Self::TooManyTokens { limit },
        }
    }
}
