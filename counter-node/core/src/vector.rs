//! A slot's vector: all that is replicated, digested and moved of one slot.
//!
//! **Retirement.** Closed actors are folded into a base, generation by generation: generation n+1 is made once, by one
//! replica, after all holders of the slot have reported the same generation n and the same final entries and baselines
//! of the actors that retire. Two consequences make [`SlotVector::merge`] exact: equal generations have equal bases,
//! and a holder that lags one generation behind knows the final entries of all that was folded meanwhile.
//!
//! **Tokens.** An update under a token enters the entry and the slot's records in one step, and nothing that shows the one
//! leaves without the other: not to storage, not to a peer. Where several actors have counted one token, the copies of all but
//! the winner are corrected in every reading, and nobody changes an entry for it: whoever loses what it has heard of the
//! others can still tell of its own. Records are forgotten when all holders have agreed on what lies below a *floor*, a time
//! before which tokens were made that nobody takes any more; then all of them correct the entries alike. An actor with records
//! is not retired before that.

mod bounds;
mod digest;
mod merging;
mod once;
mod packed;
mod stored;
#[cfg(test)]
mod tests;
mod tokens;

use std::mem::offset_of;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use self::bounds::{Bounds, bounds_of};
pub use self::merging::{Merged, Retirement, SlotDelta};
pub use self::packed::view::{CounterView, Entries};
use self::packed::{Changed, PackedCounters};
pub use self::stored::SlotRecord;
use self::tokens::Tokens;
use crate::counter::{Adjustment, Base, Counter, Entry, KeyRef, OutOfRange, Update};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::key::KeyKind;
use crate::marks::Mark;
use crate::presence::PageViewers;
use crate::token::{TOKEN_WINDOW_MS, Token};
use crate::unread::{MODIFICATIONS_MAX, new_counter};

/// How often a slot's actors have been retired; the higher wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// One slot of one replica. What an update in place reads comes first, here and in what it consists of, so that it lies in few lines of
/// memory: by the slot's first actor, without tokens, in its first segment.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct SlotVector {
    tally: i128,
    /// As whom this replica applies updates; none while it does not own the slot.
    writer: Option<ActorId>,
    /// The latest change of any counter.
    updated_at: Hlc,
    /// How many of the counters that clients count exist, see [`Counter::exists`].
    existing: usize,
    /// None while there never was a token.
    tokens: Option<Box<Tokens>>,
    counters: PackedCounters,
    generation: Generation,
    /// Sorted.
    retired: Vec<ActorId>,
    /// The generation changed since the slot was last written to storage.
    unsaved_generation: bool,
    token_window_ms: u64,
}

/// A replica's answer about one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// The sum, which concurrent updates can take past the range of the reply.
    pub tally: i128,
    /// None for a counter that nobody has updated.
    pub updated_at: Option<Hlc>,
    /// See [`Counter::exists`].
    pub exists: bool,
    /// Who looks at the page. Vectors know none: whoever answers a client adds them, see [`Self::with`].
    pub viewers: u64,
}

impl Reading {
    /// A counter that nobody has updated.
    pub const UNKNOWN: Self = Self { tally: 0, updated_at: None, exists: false, viewers: 0 };

    /// The sum with viewers, as clients get it: clamped to a signed 64-bit number.
    #[must_use]
    pub fn count(self) -> i64 {
        let sum = self.tally.saturating_add(i128::from(self.viewers));
        let clamped = sum.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        i64::try_from(clamped).unwrap_or(i64::MAX)
    }

    /// The same with the page's viewers, whose coming and going changes the counter, too.
    #[must_use]
    pub fn with(self, PageViewers { viewers, changed_at }: PageViewers) -> Self {
        Self { viewers, updated_at: self.updated_at.max(changed_at), ..self }
    }

    fn of(counter: CounterView<'_>) -> Self {
        Self { tally: counter.tally(), updated_at: counter.updated_at(), exists: counter.exists(), viewers: 0 }
    }
}

/// Why a slot did not apply an update; nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    #[error("this node does not own the slot now")]
    NotOwner,
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    #[error("the node holds {limit} counters, its limit; counters that exist count on")]
    TooManyCounters { limit: u64 },
    #[error("the node's counters take {limit_bytes} bytes, its limit; counters that exist count on")]
    TooMuchMemory { limit_bytes: u64 },
    #[error("the token has been used for another update of the counter")]
    TokenReused,
    #[error("the token was made more than {window_ms} ms ago, and whether it has been counted is not known any more")]
    TokenExpired { window_ms: u64 },
    #[error("the token was made {ahead_ms} ms in the future")]
    TokenFromFuture { ahead_ms: u64 },
    #[error("the node remembers {limit} tokens, its limit; updates without one count on")]
    TooManyTokens { limit: u64 },
}

/// What an update would add to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    pub counter: bool,
    pub token: bool,
}

impl SlotVector {
    /// What most updates in place read of this itself ends here.
    pub(crate) const READ_END: usize = offset_of!(Self, counters) + PackedCounters::READ_END;

    /// An empty slot. `seed` mixes the table's hashes: random in a node, fixed in a simulation.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            writer: None,
            generation: Generation::default(),
            retired: Vec::new(),
            counters: PackedCounters::new(seed),
            tally: 0,
            existing: 0,
            updated_at: Hlc::default(),
            unsaved_generation: false,
            token_window_ms: TOKEN_WINDOW_MS,
            tokens: None,
        }
    }

    /// For how long tokens are taken after they were made.
    pub fn set_token_window_ms(&mut self, token_window_ms: u64) {
        self.token_window_ms = token_window_ms;
    }

    /// From now on updates are applied as `writer`, or refused.
    pub fn set_writer(&mut self, writer: Option<ActorId>) {
        self.writer = writer;
    }

    /// As whom updates are applied.
    #[must_use]
    pub fn writer(&self) -> Option<ActorId> {
        self.writer
    }

    /// The slot's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Σ of the tallies that clients count: see [`KeyKind::is_counted`].
    #[must_use]
    pub fn tally(&self) -> i128 {
        self.tally
    }

    /// The slot's total as a reading: Σ of its tallies, and its latest change.
    #[must_use]
    pub fn total(&self) -> Reading {
        let updated_at = (self.updated_at > Hlc::default()).then_some(self.updated_at);
        Reading { tally: self.tally, updated_at, exists: self.existing > 0, viewers: 0 }
    }

    /// How many counters the slot holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counters.len()
    }

    /// How many of the counters that clients count exist, see [`Counter::exists`].
    #[must_use]
    pub fn existing(&self) -> usize {
        self.existing
    }

    /// Whether the slot holds no counter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counters.len() == 0
    }

    /// What the slot's counters take in memory, in bytes: keys, index and room for growth included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.counters.memory_bytes()
    }

    /// What a counter that one actor has updated takes at least, in bytes.
    pub(crate) fn new_counter_bytes(key: KeyRef<'_>) -> usize {
        packed::new_record_bytes(key.as_bytes())
    }

    /// The slot's counters, in no order.
    pub fn counters(&self) -> impl Iterator<Item = (KeyRef<'_>, CounterView<'_>)> {
        self.counters.iter()
    }

    /// Whether the slot holds anything at all that a new slot does not.
    #[must_use]
    pub fn is_new(&self) -> bool {
        let tokens = self.tokens.as_ref().is_none_or(|tokens| tokens.is_empty() && tokens.floor_ms() == 0);
        self.is_empty() && self.generation == Generation::default() && tokens
    }

    /// How many token records the slot holds.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| tokens.len())
    }

    /// How many counters have token records.
    #[must_use]
    pub fn token_keys(&self) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| tokens.keys())
    }

    /// How many updates the slot's writers have taken back because another replica had counted their tokens, since the start.
    #[must_use]
    pub fn refunded(&self) -> u64 {
        self.tokens.as_ref().map_or(0, |tokens| tokens.refunded())
    }

    /// The slot's keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = KeyRef<'_>> {
        self.counters.iter().map(|(key, _)| key)
    }

    /// A counter, if anyone has updated it.
    #[must_use]
    pub fn counter<'k>(&self, key: impl Into<KeyRef<'k>>) -> Option<CounterView<'_>> {
        self.counters.get(key.into().as_bytes())
    }

    /// What this replica knows of a counter.
    #[must_use]
    pub fn read<'k>(&self, key: impl Into<KeyRef<'k>>) -> Reading {
        let key = key.into();
        self.counter(key).map_or(Reading::UNKNOWN, |counter| self.reading(key, counter))
    }

    /// The hash by which slots of this seed place a key.
    pub(crate) fn place_hash(seed: u64, key: &[u8]) -> u64 {
        PackedCounters::hash(seed, key)
    }

    /// The first of three steps of [`crate::table::Table::warm`] for a key of this hash, which read memory each by the one before. What they
    /// return means nothing.
    pub(crate) fn touch(&self, hash: u64) -> u64 {
        let apart = self.tally == 0 || self.writer.is_none() || self.tokens.is_some() || self.existing == 0;
        self.counters.touch(hash) ^ self.updated_at.0 ^ u64::from(apart)
    }

    /// The second.
    pub(crate) fn touch_index(&self, hash: u64) -> u32 {
        self.counters.touch_index(hash)
    }

    /// The third.
    pub(crate) fn touch_record(&self, hash: u64) -> u8 {
        self.counters.touch_record(hash)
    }

    fn reading(&self, key: KeyRef<'_>, counter: CounterView<'_>) -> Reading {
        let Some(adjustment) = self.adjustment(key) else { return Reading::of(counter) };
        let reading = if adjustment.has_resets() {
            Reading::of(CounterView::whole(&counter.to_counter().adjusted(adjustment)))
        } else {
            Reading::of(counter)
        };
        Reading { tally: reading.tally.saturating_add(adjustment.surplus()), ..reading }
    }

    /// Whether all that the mark stands for is in this copy of the counter.
    #[must_use]
    pub fn has_seen<'k>(&self, key: impl Into<KeyRef<'k>>, mark: &Mark) -> bool {
        let counter = self.counter(key);
        let cleared = counter.map_or_else(Base::default, CounterView::base).cleared;
        let held = || counter?.entries().find(|(actor, _)| *actor == mark.actor).map(|(_, entry)| entry);
        self.generation >= mark.generation
            && cleared.max(mark.cleared) == cleared
            && (self.is_retired(mark.actor) || held().unwrap_or_default().covers(mark.entry))
    }

    /// What stands for an update that has just been applied, or had been before, in the entry of `actor`. None where there is
    /// nothing to wait for: the actor is retired, or the counter was reset before anyone had updated it.
    #[must_use]
    pub fn mark<'k>(&self, key: impl Into<KeyRef<'k>>, actor: ActorId, update: Update) -> Option<Mark> {
        let counter = self.counter(key)?;
        let (_, entry) = counter.entries().find(|(held, _)| *held == actor)?;
        let (generation, cleared) = match update {
            Update::Increment(_) | Update::Decrement(_) => Default::default(),
            Update::Reset | Update::Set(_) | Update::Raise { .. } => (self.generation, counter.base().cleared),
        };
        Some(Mark { actor, entry, generation, cleared })
    }

    fn adjustment(&self, key: KeyRef<'_>) -> Option<&Adjustment> {
        self.tokens.as_ref().and_then(|tokens| tokens.adjustment(key))
    }

    /// Applies a client's update as the slot's writer, or, when it comes again under a token that is known, says so.
    /// `admit` is asked before the table grows.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then.
    pub fn apply<'k>(
        &mut self,
        key: impl Into<KeyRef<'k>>,
        update: Update,
        token: Option<&Token>,
        now: Hlc,
        admit: impl FnOnce(Growth) -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        let actor = self.writer.ok_or(Refusal::NotOwner)?;
        let key = key.into();
        self.check_kind(key, update)?;
        if let Some(token) = token.filter(|_| !matches!(update, Update::Raise { .. })) {
            return self.apply_once(key, update, token, (actor, now), admit);
        }
        if self.adjustment(key).is_some() {
            return self.apply_adjusted(key, update, (actor, now));
        }
        let Some(changed) = self.counters.apply(key.as_bytes(), actor, update, now)? else {
            return self.apply_to_new(key, update, now, actor, admit);
        };
        self.changed(key, changed);
        Ok(Applied { reading: answer(update, changed.before, changed.after), actor, changed: true, replayed: false })
    }

    /// The same without a token, as far as it is a write in place: then nothing grows. None, and nothing has changed, where it
    /// is not.
    pub(crate) fn apply_in_place(&mut self, key: KeyRef<'_>, update: Update, now: Hlc) -> Result<Option<Applied>, Refusal> {
        let actor = self.writer.ok_or(Refusal::NotOwner)?;
        if self.adjustment(key).is_some() {
            return Ok(None);
        }
        self.check_kind(key, update)?;
        let Some(changed) = self.counters.apply_in_place(key.as_bytes(), actor, update, now)? else { return Ok(None) };
        self.changed(key, changed);
        Ok(Some(Applied { reading: answer(update, changed.before, changed.after), actor, changed: true, replayed: false }))
    }

    /// Whether the update is one of those that keys of this kind take: another would make nonsense of what is kept there. One more of
    /// a page's modifications must be within what cursors can tell.
    fn check_kind(&self, key: KeyRef<'_>, update: Update) -> Result<(), OutOfRange> {
        let fits = match (key.kind(), update) {
            (KeyKind::Page | KeyKind::VirtualShard, Update::Raise { .. }) | (KeyKind::User, _) => false,
            (KeyKind::Page | KeyKind::VirtualShard, _) | (KeyKind::Subscription, Update::Raise { .. }) => true,
            (KeyKind::Modifications, Update::Increment(_)) => self.read(key).tally < i128::from(MODIFICATIONS_MAX),
            (KeyKind::Modifications | KeyKind::Subscription, _) => false,
        };
        if fits { Ok(()) } else { Err(OutOfRange { tally: self.read(key).tally }) }
    }

    fn apply_to_new(
        &mut self,
        key: KeyRef<'_>,
        update: Update,
        now: Hlc,
        actor: ActorId,
        admit: impl FnOnce(Growth) -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        if update == Update::Reset {
            return Ok(Applied { reading: Reading::UNKNOWN, actor, changed: false, replayed: false });
        }
        let growth = Growth { counter: true, token: false };
        let counter = match update.change().filter(|_| key.kind().is_counted() && self.tokens.is_none()) {
            Some(change) => {
                let entry = Entry::default().changed_by(change, 0)?;
                admit(growth)?;
                if let Some(changed) = self.counters.begin(key.as_bytes(), actor, entry, now) {
                    self.changed(key, changed);
                    return Ok(Applied { reading: changed.after, actor, changed: true, replayed: false });
                }
                Counter::of_parts(vec![(actor, entry)], now, Base::default(), Vec::new())
            }
            None => {
                let mut counter = new_counter(key, now);
                counter.apply(actor, update, now)?;
                admit(growth)?;
                counter
            }
        };
        let Changed { before, after } = self.replace(key, &counter);
        Ok(Applied { reading: answer(update, before, after), actor, changed: true, replayed: false })
    }

    fn set_generation(&mut self, generation: Generation, retired: Vec<ActorId>) {
        self.generation = generation;
        self.retired = retired;
        self.unsaved_generation = true;
    }

    fn replace(&mut self, key: KeyRef<'_>, counter: &Counter) -> Changed {
        if self.tokens.is_none() {
            // Then there is nothing to be seen of a counter but what it holds.
            let changed = self.counters.set(key.as_bytes(), counter);
            self.changed(key, changed);
            return changed;
        }
        let (before, clears) = (self.read(key), self.clears_copies(key, counter));
        self.counters.set(key.as_bytes(), counter);
        if clears {
            self.readjust(key);
        }
        let changed = Changed { before, after: self.read(key) };
        self.changed(key, changed);
        changed
    }

    /// Keeps the slot's totals in step with a counter that clients count under.
    fn changed(&mut self, key: KeyRef<'_>, Changed { before, after }: Changed) {
        if !key.kind().is_counted() {
            return;
        }
        self.tally = self.tally.saturating_sub(before.tally).saturating_add(after.tally);
        self.existing = self.existing.saturating_sub(usize::from(before.exists)).saturating_add(usize::from(after.exists));
        self.updated_at = self.updated_at.max(after.updated_at.unwrap_or_default());
    }

    /// A summary of everything in the slot: equal vectors have equal digests. It is kept in step with each change.
    #[must_use]
    pub fn digest(&self) -> u64 {
        // An empty slot of the first generation has digest 0, so that it is the same everywhere at no cost.
        let generations = if self.generation == Generation::default() { 0 } else { hash(&(self.generation, &self.retired)) };
        generations ^ self.counters.digest() ^ self.tokens.as_ref().map_or(0, |tokens| tokens.digest())
    }

    /// A summary of what `actors`, sorted, and the retired before them have in the slot.
    #[must_use]
    pub fn digest_of(&self, actors: &[ActorId]) -> u64 {
        let parts = self.counters().map(|(key, counter)| counter.digest_of(key.as_bytes(), actors));
        parts.fold(hash(&self.generation), |digest, part| digest ^ part)
    }

    /// Forgets everything: the slot has been moved away, and its receipt is there.
    pub fn clear(&mut self) {
        self.counters.clear();
        self.retired.clear();
        self.generation = Generation::default();
        self.tally = 0;
        self.existing = 0;
        self.updated_at = Hlc::default();
        self.unsaved_generation = false;
        if let Some(tokens) = &mut self.tokens {
            tokens.clear();
        }
    }
}

/// What an update came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reading: Reading,
    /// In whose entry it is.
    pub actor: ActorId,
    /// False when there is nothing to make durable: the reset of a counter that nobody has updated.
    pub changed: bool,
    /// The update had been applied before, under the same token. That must be made durable all the same before it is
    /// said: the first time may have failed.
    pub replayed: bool,
}

/// What an update is answered with: what the counter came to; a set, whose outcome is known, with what it replaced.
fn answer(update: Update, before: Reading, after: Reading) -> Reading {
    match update {
        Update::Increment(_) | Update::Decrement(_) | Update::Reset | Update::Raise { .. } => after,
        Update::Set(_) => before,
    }
}

/// The hash of a key, by which a pull goes through a slot in parts.
pub(crate) fn key_hash(key: KeyRef<'_>) -> u64 {
    xxh3_64(key.as_bytes())
}

/// A hash that is the same on every node and in every release of one format.
fn hash(value: &impl Serialize) -> u64 {
    // Encoding into memory has no way to fail for these types.
    xxh3_64(&postcard::to_stdvec(value).unwrap_or_default())
}
