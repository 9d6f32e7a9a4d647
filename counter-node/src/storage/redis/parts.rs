//! A counter's record as Redis keeps it: a MessagePack map of named numbers, each of which only grows, so that a script
//! can take the larger of two without knowing what they mean.
//!
//! ```text
//! u               when it last changed
//! +ACTOR -ACTOR   an actor's increments and decrements     (ACTOR: origin and incarnation, 8 bytes each, big-endian)
//! pACTOR mACTOR   what resets have cleared of them
//! ti td ci cd     the base: increments and decrements of retired actors, and what resets have cleared of these
//! ```
//!
//! Numbers are decimal text: up to 128 bits, of which Lua's numbers would keep 53. A number that is zero is left out where
//! another stands for its entry.

use std::collections::BTreeMap;

use counter_core::counter::{Base, Entry, Total};
use counter_core::hlc::Hlc;
use counter_core::id::ActorId;
use serde::{Deserialize, Serialize};

use super::msgpack;

/// A counter as the table encodes it: the same fields in the same order as `counter_core::counter::Counter`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    entries: Vec<(ActorId, Entry)>,
    updated_at: Hlc,
    rest: Option<Rest>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Rest {
    base: Base,
    baselines: Vec<(ActorId, Entry)>,
}

/// The map of a record's bytes; `None` when they are no counter's.
pub(super) fn to_parts(record: &[u8]) -> Option<Vec<u8>> {
    let (counter, rest): (Counter, _) = postcard::take_from_bytes(record).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut parts = vec![(b"u".to_vec(), u128::from(counter.updated_at.0))];
    for (actor, entry) in &counter.entries {
        push_entry(&mut parts, (b'+', b'-'), *actor, *entry);
    }
    if let Some(Rest { base: Base { total, cleared }, baselines }) = &counter.rest {
        // The first stands for the base, even one that is zero.
        parts.push((b"ti".to_vec(), total.increments));
        let others = [(b"td", total.decrements), (b"ci", cleared.increments), (b"cd", cleared.decrements)];
        parts.extend(others.into_iter().filter(|(_, number)| *number > 0).map(|(name, number)| (name.to_vec(), number)));
        for (actor, baseline) in baselines {
            push_entry(&mut parts, (b'p', b'm'), *actor, *baseline);
        }
    }
    Some(msgpack::encode(&parts))
}

fn push_entry(parts: &mut Vec<(Vec<u8>, u128)>, (up, down): (u8, u8), actor: ActorId, entry: Entry) {
    if entry.increments > 0 || entry.decrements == 0 {
        parts.push((name_of(up, actor), entry.increments.into()));
    }
    if entry.decrements > 0 {
        parts.push((name_of(down, actor), entry.decrements.into()));
    }
}

fn name_of(kind: u8, actor: ActorId) -> Vec<u8> {
    let mut name = vec![kind];
    name.extend_from_slice(&actor.origin.to_be_bytes());
    name.extend_from_slice(&actor.incarnation.to_be_bytes());
    name
}

/// The record's bytes, from its map; an `Err` says what is wrong with that.
pub(super) fn from_parts(map: &[u8]) -> Result<Vec<u8>, String> {
    let mut counter = Counter::default();
    let (mut entries, mut baselines) = (BTreeMap::<ActorId, Entry>::new(), BTreeMap::<ActorId, Entry>::new());
    for (name, number) in msgpack::decode(map).ok_or("it is no map of numbers")? {
        match *name.as_slice() {
            [b'u'] => counter.updated_at = Hlc(narrow(number)?),
            [of @ (b't' | b'c'), direction @ (b'i' | b'd')] => {
                let Base { total, cleared } = &mut counter.rest.get_or_insert_default().base;
                *side(if of == b't' { total } else { cleared }, direction) = number;
            }
            [kind, ref actor @ ..] => {
                let actor = actor_of(actor).ok_or_else(|| format!("its part `{}` is unknown", name.escape_ascii()))?;
                let number = narrow(number)?;
                match kind {
                    b'+' => entries.entry(actor).or_default().increments = number,
                    b'-' => entries.entry(actor).or_default().decrements = number,
                    b'p' => baselines.entry(actor).or_default().increments = number,
                    b'm' => baselines.entry(actor).or_default().decrements = number,
                    _ => return Err(format!("its part `{}` is unknown", name.escape_ascii())),
                }
            }
            [] => return Err("it has a part without a name".to_owned()),
        }
    }
    counter.entries = entries.into_iter().collect();
    if !baselines.is_empty() {
        counter.rest.get_or_insert_default().baselines = baselines.into_iter().collect();
    }
    postcard::to_stdvec(&counter).map_err(|error| error.to_string())
}

fn side(total: &mut Total, direction: u8) -> &mut u128 {
    if direction == b'i' { &mut total.increments } else { &mut total.decrements }
}

fn narrow(number: u128) -> Result<u64, String> {
    u64::try_from(number).map_err(|_| format!("its number {number} is too large"))
}

fn actor_of(bytes: &[u8]) -> Option<ActorId> {
    let (origin, incarnation) = bytes.split_first_chunk::<8>()?;
    let incarnation = <[u8; 8]>::try_from(incarnation).ok()?;
    Some(ActorId { origin: u64::from_be_bytes(*origin), incarnation: u64::from_be_bytes(incarnation) })
}

#[cfg(test)]
mod tests {
    use counter_core::counter::{Bases, Counter as Held, Update};
    use proptest::prelude::*;

    use super::*;

    const ACTORS: [ActorId; 3] = [
        ActorId { origin: 1, incarnation: 1 << 32 },
        ActorId { origin: 1, incarnation: 2 << 32 },
        ActorId { origin: u64::MAX, incarnation: u64::MAX },
    ];

    fn update() -> impl Strategy<Value = Update> {
        prop_oneof![
            (0..1_u64 << 40).prop_map(Update::Increment),
            (0..1_u64 << 40).prop_map(Update::Decrement),
            Just(Update::Reset)
        ]
    }

    fn counter(updates: &[(usize, Update, bool)]) -> Held {
        let mut counter = Held::default();
        for (at, (actor, update, retire)) in updates.iter().enumerate() {
            counter.apply(ACTORS[*actor], *update, Hlc(at as u64 + 1)).unwrap();
            if *retire {
                counter.fold(&ACTORS[..1]);
            }
        }
        counter
    }

    proptest! {
        #[test]
        fn every_counter_comes_back_as_it_was(updates in prop::collection::vec((0..3_usize, update(), any::<bool>()), 0..12)) {
            let record = postcard::to_stdvec(&counter(&updates)).unwrap();
            prop_assert_eq!(from_parts(&to_parts(&record).unwrap()).unwrap(), record);
        }

        #[test]
        fn the_larger_of_each_part_is_the_table_s_own_merge(
            common in prop::collection::vec((0..3_usize, update(), any::<bool>()), 0..6),
            left in prop::collection::vec((1..2_usize, update()), 0..4),
            right in prop::collection::vec((2..3_usize, update()), 0..4),
        ) {
            let (mut one, mut other) = (counter(&common), counter(&common));
            for (actor, update) in left {
                one.apply(ACTORS[actor], update, Hlc(20)).unwrap();
            }
            for (actor, update) in right {
                other.apply(ACTORS[actor], update, Hlc(21)).unwrap();
            }
            let parts = |counter: &Held| {
                msgpack::decode(&to_parts(&postcard::to_stdvec(counter).unwrap()).unwrap()).unwrap().into_iter().collect()
            };
            let (mut larger, theirs): (BTreeMap<Vec<u8>, u128>, BTreeMap<_, _>) = (parts(&one), parts(&other));
            for (name, number) in theirs {
                let held = larger.entry(name).or_insert(number);
                *held = number.max(*held);
            }
            one.merge(&other, &[], Bases::Same);
            // The table leaves an empty base out, which stands for nothing.
            let mut merged = parts(&one);
            [&mut larger, &mut merged].into_iter().for_each(|parts| parts.retain(|_, number| *number > 0));
            prop_assert_eq!(larger, merged);
        }
    }

    #[test]
    fn what_is_no_counter_is_refused() {
        assert_eq!(to_parts(b""), None);
        let mut longer = postcard::to_stdvec(&Held::default()).unwrap();
        longer.push(0);
        assert_eq!(to_parts(&longer), None, "a field that this module does not know would be lost");
        for (part, why) in [("x", "`x` is unknown"), ("+123", "is unknown"), ("", "without a name")] {
            let said = from_parts(&msgpack::encode(&[(part.as_bytes().to_vec(), 1)])).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(from_parts(&msgpack::encode(&[(b"u".to_vec(), u128::MAX)])).unwrap_err().contains("too large"));
        assert!(from_parts(b"12").is_err());
    }
}
