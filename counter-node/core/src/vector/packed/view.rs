//! A counter where it lies, borrowed.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::actors::Actors;
use super::record::{self, Record};
use crate::counter::{Base, Counter, Entry};
use crate::hlc::Hlc;
use crate::id::ActorId;
use crate::vector::digest::Terms;

/// A counter of a slot, borrowed. Serializes as a [`Counter`] does.
#[derive(Clone, Copy, Debug)]
pub struct CounterView<'a>(Held<'a>);

#[derive(Clone, Copy, Debug)]
enum Held<'a> {
    Packed { record: Record<'a>, actors: &'a Actors },
    Whole(&'a Counter),
}

impl<'a> CounterView<'a> {
    pub(super) fn packed(record: Record<'a>, actors: &'a Actors) -> Self {
        Self(Held::Packed { record, actors })
    }

    pub(in crate::vector) fn whole(counter: &'a Counter) -> Self {
        Self(Held::Whole(counter))
    }

    /// See [`Counter::tally`].
    #[must_use]
    pub fn tally(self) -> i128 {
        match self.0 {
            Held::Packed { record, .. } => record.tally(),
            Held::Whole(counter) => counter.tally(),
        }
    }

    /// See [`Counter::exists`].
    #[must_use]
    pub fn exists(self) -> bool {
        match self.0 {
            Held::Packed { record, .. } => record.exists(),
            Held::Whole(counter) => counter.exists(),
        }
    }

    /// When it last changed, if it ever did.
    #[must_use]
    pub fn updated_at(self) -> Option<Hlc> {
        match self.0 {
            Held::Packed { record, .. } => Some(record.updated_at()).filter(|updated_at| *updated_at > Hlc::default()),
            Held::Whole(counter) => counter.updated_at(),
        }
    }

    /// What retired actors have come to.
    #[must_use]
    pub fn base(self) -> Base {
        match self.0 {
            Held::Packed { record, .. } => record.base(),
            Held::Whole(counter) => counter.base(),
        }
    }

    /// What each actor has added and taken away, in the actors' order.
    #[must_use]
    pub fn entries(self) -> Entries<'a> {
        Entries(match self.0 {
            Held::Packed { record, actors } => Of::Packed { items: record.entries(), actors },
            Held::Whole(counter) => Of::Whole(counter.entries().iter()),
        })
    }

    /// How much of each actor's entry resets have cleared, in the actors' order.
    #[must_use]
    pub fn baselines(self) -> Entries<'a> {
        Entries(match self.0 {
            Held::Packed { record, actors } => Of::Packed { items: record.baselines(), actors },
            Held::Whole(counter) => Of::Whole(counter.baselines().iter()),
        })
    }

    /// The actors that have entries or baselines of their own here.
    pub fn actors(self) -> impl Iterator<Item = ActorId> {
        self.entries().chain(self.baselines()).map(|(actor, _)| actor)
    }

    /// An owned copy.
    #[must_use]
    pub fn to_counter(self) -> Counter {
        match self.0 {
            Held::Packed { record, .. } => {
                Counter::of_parts(self.entries().collect(), record.updated_at(), record.base(), self.baselines().collect())
            }
            Held::Whole(counter) => counter.clone(),
        }
    }

    /// A summary of what the counter of this key holds; 0 when nothing. See [`crate::vector::SlotVector::digest`].
    #[must_use]
    pub fn digest(self, key: &[u8]) -> u64 {
        let terms = Terms::of(key);
        let entries = self.entries().map(|(actor, entry)| terms.entry(actor, entry));
        let baselines = self.baselines().map(|(actor, baseline)| terms.baseline(actor, baseline));
        let apart = terms.updated_at(self.updated_at().unwrap_or_default()) ^ terms.base(self.base());
        entries.chain(baselines).fold(apart, |digest, term| digest ^ term)
    }

    /// A summary of what `actors`, sorted, and the retired before them have in it; 0 when nothing.
    #[must_use]
    pub fn digest_of(self, key: &[u8], actors: &[ActorId]) -> u64 {
        let terms = Terms::of(key);
        let theirs = |(actor, _): &(ActorId, Entry)| actors.binary_search(actor).is_ok();
        let entries = self.entries().filter(theirs).map(|(actor, entry)| terms.entry(actor, entry));
        let baselines = self.baselines().filter(theirs).map(|(actor, baseline)| terms.baseline(actor, baseline));
        entries.chain(baselines).fold(terms.base(self.base()), |digest, term| digest ^ term)
    }
}

impl Serialize for CounterView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plain = self.base() == Base::default() && self.baselines().next().is_none();
        if !plain {
            return self.to_counter().serialize(serializer);
        }
        let mut fields = serializer.serialize_struct("Counter", 3)?;
        fields.serialize_field("entries", &self.entries())?;
        fields.serialize_field("updated_at", &self.updated_at().unwrap_or_default())?;
        fields.serialize_field("rest", &None::<()>)?;
        fields.end()
    }
}

/// Entries or baselines of a counter.
#[derive(Clone, Debug)]
pub struct Entries<'a>(Of<'a>);

#[derive(Clone, Debug)]
enum Of<'a> {
    Packed { items: record::Items<'a>, actors: &'a Actors },
    Whole(std::slice::Iter<'a, (ActorId, Entry)>),
}

impl Iterator for Entries<'_> {
    type Item = (ActorId, Entry);

    fn next(&mut self) -> Option<(ActorId, Entry)> {
        match &mut self.0 {
            Of::Packed { items, actors } => items.next().map(|(place, entry)| (actors.at(place), entry)),
            Of::Whole(entries) => entries.next().copied(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.0 {
            Of::Packed { items, .. } => items.size_hint(),
            Of::Whole(entries) => entries.size_hint(),
        }
    }
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.clone())
    }
}
