//! Updates under tokens, and what becomes of their records in a slot.

use std::collections::HashSet;

use super::packed::PackedCounters;
use super::tokens::{FreshRecords, Inserted, Settlement, Tokens};
use super::{Applied, Changed, CounterView, Growth, Reading, Refusal, SlotDelta, SlotVector, answer};
use crate::counter::{Counter, Entry, Key, KeyRef, Update, entry_in, position};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::slot::Slot;
use crate::token::{TOKEN_FUTURE_MS, Token, TokenName, TokenRecord};
use crate::unread::new_counter;

/// A push as it is sent: see [`SlotVector::push_delta`].
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) delta: SlotDelta,
    /// The last of the slot's own record changes that it carries.
    pub(crate) upto: u64,
    /// Whether there are later ones.
    pub(crate) has_more: bool,
}

impl SlotVector {
    pub(super) fn apply_once(
        &mut self,
        key: KeyRef<'_>,
        update: Update,
        token: &Token,
        (actor, now): (ActorId, Hlc),
        admit: impl FnOnce(Growth) -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        let tokens = self.tokens.get_or_insert_default();
        match tokens.known(key, token.id, update) {
            Some(true) => {
                let actor = tokens.counted_by(key, token.id).unwrap_or(actor);
                return Ok(Applied { reading: self.read(key), actor, changed: true, replayed: true });
            }
            Some(false) => return Err(Refusal::TokenReused),
            None => {}
        }
        let taken = tokens.is_taken(key);
        let made_ms = self.admit_time(token, now)?;
        if taken {
            // Its records would be taken for another key's: no honest pair of keys has one 64-bit hash.
            return Err(Refusal::TooManyTokens { limit: 0 });
        }
        let known = self.counter(key);
        let is_new = known.is_none() && update != Update::Reset;
        let before = self.read(key);
        let mut counter = known.map_or_else(|| new_counter(key, now), CounterView::to_counter);
        if update == Update::Reset && known.is_some() {
            counter.stamp(actor);
        }
        let resets = matches!(update, Update::Reset | Update::Set(_));
        let observed = resets.then(|| Box::new(counter.observe(now)));
        // What a reset clears stands in its record, for as long as that may lose.
        counter.apply_effect(actor, update, now, before.tally)?;
        admit(Growth { counter: is_new, token: true })?;
        let position = position(update, entry_in(counter.entries(), actor));
        let record = TokenRecord { key: key.to_key(), id: token.id, actor, made_ms, update, position, observed };
        if is_new || self.counter(key).is_some() {
            self.counters.set(key.as_bytes(), &counter);
        }
        let tokens = self.tokens.get_or_insert_default();
        tokens.insert(&record, &[]);
        tokens.note_fresh(key, token.id, actor);
        if resets && !tokens.adjust_for_reset(&record) {
            self.readjust(key);
        }
        let after = self.read(key);
        self.changed(key, Changed { before, after });
        Ok(Applied { reading: answer(update, before, after), actor, changed: true, replayed: false })
    }

    /// When the token was made, if it may still be taken.
    fn admit_time(&self, token: &Token, now: Hlc) -> Result<u64, Refusal> {
        let now_ms = now.wall_ms();
        let Some(made_ms) = token.made_ms else { return Ok(now_ms.max(self.floor_ms())) };
        if made_ms < self.floor_ms().max(now_ms.saturating_sub(self.token_window_ms)) {
            return Err(Refusal::TokenExpired { window_ms: self.token_window_ms });
        }
        let ahead_ms = made_ms.saturating_sub(now_ms);
        if ahead_ms > TOKEN_FUTURE_MS { Err(Refusal::TokenFromFuture { ahead_ms }) } else { Ok(made_ms) }
    }

    /// An update without a token of a counter that records adjust.
    pub(super) fn apply_adjusted(
        &mut self,
        key: KeyRef<'_>,
        update: Update,
        (actor, now): (ActorId, Hlc),
    ) -> Result<Applied, Refusal> {
        let before = self.read(key);
        let Some(mut counter) = self.counter(key).map(CounterView::to_counter) else {
            return Ok(Applied { reading: Reading::UNKNOWN, actor, changed: false, replayed: false });
        };
        counter.apply_adjusted(actor, update, now, before.tally)?;
        let Changed { before, after } = self.replace(key, &counter);
        Ok(Applied { reading: answer(update, before, after), actor, changed: true, replayed: false })
    }

    /// Whether the counter, as it is to be, has other baselines, so that other copies of tokens may be cleared.
    pub(super) fn clears_copies(&self, key: KeyRef<'_>, counter: &Counter) -> bool {
        let is_adjustable = self.tokens.as_ref().is_some_and(|tokens| tokens.is_adjustable(key));
        is_adjustable && baselines_of(&self.counters, key) != counter.baselines()
    }

    /// Reckons anew what the key's records do to its reading.
    pub(super) fn readjust(&mut self, key: KeyRef<'_>) {
        if let Some(tokens) = &mut self.tokens {
            let baselines = baselines_of(&self.counters, key);
            tokens.readjust(key, &baselines);
        }
    }

    pub(super) fn retire_records(&mut self) {
        let Some(tokens) = &mut self.tokens else { return };
        for key in tokens.retire(&self.retired) {
            self.reckon(&key, |_| ());
        }
    }

    /// Changes a counter and reckons its adjustment and the slot's tally anew.
    fn reckon(&mut self, key: &Key, change: impl FnOnce(&mut Counter)) {
        let before = self.read(key);
        if let Some(mut counter) = self.counter(key).map(CounterView::to_counter) {
            change(&mut counter);
            self.counters.set(key.as_bytes(), &counter);
        }
        self.readjust(key.into());
        let after = self.read(key);
        self.changed(key.into(), Changed { before, after });
    }

    /// Before this time, in milliseconds since the Unix epoch, made tokens are forgotten, and refused.
    #[must_use]
    pub fn floor_ms(&self) -> u64 {
        self.tokens.as_ref().map_or(0, |tokens| tokens.floor_ms())
    }

    /// When the oldest token was made that has a record here, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn oldest_token_ms(&self) -> Option<u64> {
        self.tokens.as_ref().and_then(|tokens| tokens.oldest_ms())
    }

    /// A summary of the tokens that a floor would touch, and of which copies resets have cleared.
    #[must_use]
    pub fn digest_below(&self, floor_ms: u64) -> u64 {
        let baselines_of = |key: &Key| baselines_of(&self.counters, key.into());
        self.tokens.as_ref().map_or(0, |tokens| tokens.digest_below(floor_ms, baselines_of))
    }

    /// Forgets the tokens made before `floor_ms`. Only after every holder has agreed to it. Returns the keys of what has
    /// changed.
    pub fn raise_floor(&mut self, floor_ms: u64) -> Vec<Key> {
        let counters = &self.counters;
        let tokens = self.tokens.get_or_insert_default();
        let settlements = tokens.raise_floor(floor_ms, |key| baselines_of(counters, key.into()));
        let mut keys = Vec::with_capacity(settlements.len());
        for (key, Settlement { clears, refunds }) in settlements {
            self.reckon(&key, |counter| {
                clears.iter().for_each(|observed| counter.clear(observed));
                refunds.iter().for_each(|refund| counter.refund(refund.actor, refund.update, refund.cleared));
            });
            keys.push(key);
        }
        keys
    }

    /// Whether these actors, sorted, have nothing here that keeps them from being retired.
    #[must_use]
    pub fn may_retire(&self, actors: &[ActorId]) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| tokens.may_retire(actors))
    }

    /// The keys, in no order, that have records and no counter: what nobody had counted was reset under a token.
    pub(crate) fn keys_of_records_alone(&self) -> impl Iterator<Item = KeyRef<'_>> {
        let keys = self.tokens.iter().flat_map(|tokens| tokens.keys_beside_resets());
        keys.filter(|key| self.counter(*key).is_none())
    }

    /// How many records the key has.
    #[must_use]
    pub fn tokens_of<'k>(&self, key: impl Into<KeyRef<'k>>) -> usize {
        self.tokens.as_ref().map_or(0, |tokens| tokens.of_key(key.into()))
    }

    /// A key's records with ids in this range, with their hashes.
    pub(crate) fn records_of<'a>(
        &'a self,
        key: KeyRef<'_>,
        from: u128,
        to: u128,
    ) -> impl Iterator<Item = (u128, u64, TokenRecord)> + use<'a> {
        self.tokens.as_ref().map(|tokens| tokens.range(key, from, to)).into_iter().flatten()
    }

    /// These counters as the writer's news for a sibling that has its own record changes up to `since`: with the further
    /// ones, and the counters that these are of. None when some of these are not kept in mind any more.
    ///
    /// A counter goes with the writer's own entries only while the slot has records of others: their entries would
    /// come without the records that belong to them. It takes all of its own records along that the sibling may lack.
    pub(crate) fn push_delta(&mut self, slot: Slot, keys: &[&Key], since: u64, records_max: usize) -> Option<Push> {
        let mut delta = self.empty_delta(slot);
        if let (Some(tokens), Some(writer)) = (&mut self.tokens, self.writer) {
            keys.iter().for_each(|key| tokens.refresh((*key).into(), writer));
        }
        let Some(tokens) = &self.tokens else {
            delta.counters = keys.iter().filter_map(|key| Some(((*key).clone(), self.counter(*key)?.to_counter()))).collect();
            return Some(Push { delta, upto: since, has_more: false });
        };
        let news = tokens.fresh_since(since, records_max, keys)?;
        let mut named: Vec<&Key> = keys.iter().copied().chain(news.records.iter().map(|record| &record.key)).collect();
        named.sort_unstable();
        named.dedup();
        let origin = self.writer.map(|writer| writer.origin).filter(|origin| tokens.has_foreign(*origin));
        for key in named {
            let Some(counter) = self.counter(key).map(CounterView::to_counter) else { continue };
            let sent = origin.map_or_else(|| counter.clone(), |origin| counter.of_origin(origin));
            delta.counters.push((key.clone(), sent));
        }
        let FreshRecords { records, upto } = news;
        delta.tokens = records;
        Some(Push { delta, upto, has_more: upto < tokens.last_fresh() })
    }

    /// The own records of keys of these hashes that some sibling may lack.
    pub(crate) fn fresh_of(&self, hashes: &HashSet<u64>) -> impl Iterator<Item = TokenRecord> {
        self.tokens.iter().flat_map(|tokens| tokens.fresh_of(hashes))
    }

    /// The number of the last own record change.
    pub(crate) fn last_fresh(&self) -> u64 {
        self.tokens.as_ref().map_or(0, |tokens| tokens.last_fresh())
    }

    /// Every sibling has the own record changes up to this one.
    pub(crate) fn forget_fresh(&mut self, upto: u64) {
        if let Some(tokens) = &mut self.tokens {
            tokens.forget_fresh(upto);
        }
    }

    /// Puts a token's record back as storage had it.
    pub fn restore_token(&mut self, record: &TokenRecord) {
        let before = self.read(&record.key);
        let tokens = self.tokens.get_or_insert_default();
        if tokens.restore(record) == Inserted::Adjusts {
            self.readjust((&record.key).into());
        }
        let after = self.read(&record.key);
        self.changed((&record.key).into(), Changed { before, after });
    }

    /// Puts the floor back as storage had it.
    pub fn restore_floor(&mut self, floor_ms: u64) {
        for key in self.tokens.get_or_insert_default().restore_floor(floor_ms) {
            self.reckon(&key, |_| ());
        }
    }

    /// Whether a sibling's news cannot be merged yet: it has not heard of the floor, which takes copies back in these counters'
    /// entries. Beside the higher entries here, what it has counted since would be lost, for as long as it does not hear of it.
    pub(crate) fn is_ahead_of(&self, delta: &SlotDelta) -> bool {
        let was_refunded = |tokens: &Tokens| {
            let keys = delta.counters.iter().map(|(key, _)| key).chain(delta.tokens.iter().map(|record| &record.key));
            delta.floor_ms < tokens.floor_ms() && keys.into_iter().any(|key| tokens.was_refunded(key.into()))
        };
        self.tokens.as_ref().is_some_and(|tokens| was_refunded(tokens))
    }

    /// The records that storage lacks, or holds though they are gone. They must reach it together with the counters that
    /// they are of.
    pub fn take_unsaved_tokens(&mut self) -> Vec<(TokenName, Option<TokenRecord>)> {
        self.tokens.as_mut().map(|tokens| tokens.take_unsaved()).unwrap_or_default()
    }

    /// The counters that the floor has changed, if storage lacks that. They must reach it together with the floor.
    pub fn take_unsaved_settled(&mut self) -> Vec<Key> {
        self.tokens.as_mut().map(|tokens| tokens.take_unsaved_settled()).unwrap_or_default()
    }

    /// The floor, if storage lacks it; zero when it is to be removed.
    pub fn take_unsaved_floor(&mut self) -> Option<u64> {
        self.tokens.as_mut()?.take_unsaved_floor()
    }

    /// The record of a name, as it is now.
    #[must_use]
    pub fn token(&self, name: &TokenName) -> Option<TokenRecord> {
        self.tokens.as_ref()?.get(name)
    }

    /// Storage may have lost any record: all are to be given to it again.
    pub fn mark_tokens_unsaved(&mut self) {
        if let Some(tokens) = &mut self.tokens {
            tokens.mark_unsaved();
        }
    }
}

fn baselines_of(counters: &PackedCounters, key: KeyRef<'_>) -> Vec<(ActorId, Entry)> {
    counters.get(key.as_bytes()).map(|counter| counter.baselines().collect()).unwrap_or_default()
}
