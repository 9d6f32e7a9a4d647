//! Records as calls of the script `commit`, none of which keeps Redis for long.

use counter_core::slot::Slot;
use counter_core::vector::SlotRecord;
use redis::Cmd;

use super::keys::Keys;
use super::link::{Link, Script};
use super::parts;
use crate::storage::{Change, Record, StoreError};

/// What one call carries: about 5,000 counters, on which Redis works for some 20 ms.
const CALL_BYTES_MAX: usize = 256 << 10;
/// What is sent before the answers are read.
const EXCHANGE_BYTES_MAX: usize = 4 << 20;
/// What a record adds to a call beside its field and value.
const FIELD_HEAD_BYTES: usize = 16;

/// What a counter's field begins with, before its key. The script merges these, and replaces all others.
pub(super) const COUNTER: u8 = b'c';
/// What a token's field begins with, before its name.
pub(super) const TOKEN: u8 = b't';
/// The field of a slot's floor.
pub(super) const FLOOR: u8 = b'f';

/// The name of a field and its value.
type Field = (Vec<u8>, Vec<u8>);

/// Some of one slot's records, to be written in one go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    slot: Slot,
    /// The slot's own record, as the script wants it.
    record: Vec<u8>,
    fields: Vec<Field>,
    bytes: usize,
}

/// The records by slot; those of a slot that are too many for one call in several parts. A new generation is made the
/// slot's by its last part: what comes before is written beside the old. Otherwise all counters go together with all new tokens,
/// however many: of an update that was cut in two, what is there would count twice when it is repeated, or never.
pub(super) fn parts(records: &[Record]) -> Result<Vec<Part>, StoreError> {
    let mut into = Vec::new();
    for of_slot in records.chunk_by(|one, next| one.of.slot() == next.of.slot()) {
        if let Some(first) = of_slot.first() {
            parts_of(first.of.slot(), of_slot, &mut into)?;
        }
    }
    Ok(into)
}

fn parts_of(slot: Slot, records: &[Record], into: &mut Vec<Part>) -> Result<(), StoreError> {
    let (mut last, mut early) = (Vec::new(), Vec::new());
    let new_part = || Part { slot, record: Vec::new(), fields: Vec::new(), bytes: 64 };
    let (first, mut part) = (into.len(), new_part());
    let is_token = |record: &Record| matches!(record.of, Change::Token { .. });
    let is_gone_token = |record: &&Record| is_token(record) && record.bytes.is_none();
    let may_be_cut = records.iter().any(|record| matches!(record.of, Change::Slot(_)))
        || !records.iter().any(|record| is_token(record) && record.bytes.is_some());
    // The tokens that are to go come last: what they said stands in the counters.
    let kept = records.iter().filter(|record| !is_gone_token(record));
    for record in kept.chain(records.iter().filter(is_gone_token)) {
        let Some((field, value)) = field_of(record)? else {
            (last, early) = slot_record(record.bytes.as_deref())?;
            continue;
        };
        let bytes = field.len() + value.len() + FIELD_HEAD_BYTES;
        let may_end = may_be_cut || is_gone_token(&record);
        if may_end && part.bytes + bytes > CALL_BYTES_MAX {
            into.push(std::mem::replace(&mut part, new_part()));
        }
        part.bytes += bytes;
        part.fields.push((field, value));
    }
    into.iter_mut().skip(first).for_each(|earlier| earlier.record.clone_from(&early));
    part.record = last;
    into.push(part);
    Ok(())
}

/// The field and value of a record, an empty value for one that is to go; none for a slot's own record.
fn field_of(record: &Record) -> Result<Option<Field>, StoreError> {
    let plain = || record.bytes.clone().unwrap_or_default();
    Ok(Some(match &record.of {
        Change::Slot(_) => return Ok(None),
        Change::Floor(_) => (vec![FLOOR], plain()),
        Change::Token { name, .. } => ([&[TOKEN], &name.to_bytes()[..]].concat(), plain()),
        Change::Counter { key, .. } => {
            let value = match &record.bytes {
                None => Vec::new(),
                Some(bytes) => parts::to_parts(bytes)
                    .ok_or_else(|| StoreError::Engine(format!("the record of {key:?} is no counter's; nothing was written")))?,
            };
            ([&[COUNTER], key.as_bytes()].concat(), value)
        }
    }))
}

/// A slot's record for the script: in its last part, and in those before.
fn slot_record(bytes: Option<&[u8]>) -> Result<(Vec<u8>, Vec<u8>), StoreError> {
    let generation = match bytes {
        None => 0,
        Some(bytes) => generation_of(bytes).ok_or_else(|| StoreError::Engine("a slot's record is none".to_owned()))?,
    };
    let mut record = format!("{generation} ").into_bytes();
    record.extend_from_slice(bytes.unwrap_or_default());
    Ok((record, format!("+{generation}").into_bytes()))
}

pub(super) fn generation_of(record: &[u8]) -> Option<u64> {
    postcard::from_bytes::<SlotRecord>(record).ok().map(|record| record.generation.0)
}

/// Sends the parts as calls of bounded size, several at a time.
pub(super) fn send(link: &mut Link, keys: &Keys, holder: &str, parts: &[Part]) -> Result<(), super::RedisFailure> {
    let mut rest = parts;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, EXCHANGE_BYTES_MAX));
        link.run(&keys.slots(), |link| calls(link, keys, holder, now))?;
        rest = later;
    }
    Ok(())
}

fn calls(link: &Link, keys: &Keys, holder: &str, parts: &[Part]) -> Vec<Cmd> {
    let mut calls = Vec::new();
    let mut rest = parts;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, CALL_BYTES_MAX));
        let mut names = vec![keys.meta(), keys.slots()];
        names.extend(now.iter().map(|part| keys.slot(part.slot)));
        let mut call = link.call(Script::Commit, &names);
        call.arg(holder);
        for part in now {
            call.arg(part.slot.number()).arg(&part.record).arg(part.fields.len());
            for (field, value) in &part.fields {
                call.arg(field).arg(value);
            }
        }
        calls.push(call);
        rest = later;
    }
    calls
}

/// How many of the parts, at least one, have so many bytes at most.
fn fitting(parts: &[Part], bytes_max: usize) -> usize {
    let mut bytes = 0;
    let beyond = parts.iter().position(|part| {
        bytes += part.bytes;
        bytes > bytes_max
    });
    beyond.unwrap_or(parts.len()).max(1)
}

#[cfg(test)]
mod tests {
    use counter_core::counter::{Counter, Key, Update};
    use counter_core::hlc::Hlc;
    use counter_core::id::ActorId;
    use counter_core::token::TokenName;
    use counter_core::vector::Generation;

    use super::*;

    fn counter(page: &str) -> Record {
        let mut counter = Counter::default();
        counter.apply(ActorId { origin: 1, incarnation: 1 }, Update::Increment(1), Hlc(1)).unwrap();
        Record { of: Change::of(&Key::new(page.as_bytes()).unwrap()), bytes: Some(postcard::to_stdvec(&counter).unwrap()) }
    }

    #[test]
    fn a_slot_too_large_for_one_call_gets_its_generation_with_the_last() {
        let pages: Vec<String> = (0..12_000).map(|number| format!("{{a}}{number}")).collect();
        let slot = Key::new(b"{a}").unwrap().slot();
        let record = postcard::to_stdvec(&SlotRecord { generation: Generation(7), retired: Vec::new() }).unwrap();
        let mut records = vec![Record { of: Change::Slot(slot), bytes: Some(record.clone()) }];
        records.extend(pages.iter().map(|page| counter(page)));
        let parts = parts(&records).unwrap();
        assert!(parts.len() > 2 && parts.iter().all(|part| part.slot == slot && part.bytes <= CALL_BYTES_MAX));
        let (last, earlier) = parts.split_last().unwrap();
        assert_eq!(last.record, [b"7 ", &record[..]].concat());
        assert!(earlier.iter().all(|part| part.record == b"+7"));
        assert_eq!(parts.iter().map(|part| part.fields.len()).sum::<usize>(), pages.len());
    }

    #[test]
    fn counters_and_their_tokens_are_not_cut_apart_and_tokens_that_go_come_after_them() {
        let (pages, slot) = (12_000, Key::new(b"{a}").unwrap().slot());
        let token = |id, bytes: Option<Vec<u8>>| {
            let actor = ActorId { origin: 1, incarnation: 1 };
            Record { of: Change::Token { slot, name: TokenName { key_hash: 1, id, actor } }, bytes }
        };
        let mut records: Vec<Record> = (0..9_000).map(|id| token(id, None)).collect();
        records.extend((0..pages).map(|number| counter(&format!("{{a}}{number}"))));
        records.push(token(10_000, Some(vec![1; 40])));
        let parts = parts(&records).unwrap();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.slot == slot && part.record.is_empty()));
        let is_new = |(_, value): &&Field| !value.is_empty();
        let new: Vec<usize> = parts.iter().map(|part| part.fields.iter().filter(is_new).count()).collect();
        assert_eq!((new[0], new[1..].iter().sum::<usize>()), (pages + 1, 0));
        assert!(parts[0].fields.iter().skip_while(is_new).all(|field| !is_new(&field)));
        assert!(parts[1..].iter().all(|part| part.bytes <= CALL_BYTES_MAX));
        assert_eq!(parts.iter().map(|part| part.fields.len()).sum::<usize>(), records.len());
    }

    #[test]
    fn a_record_is_removed_by_an_empty_value_and_a_slot_s_by_the_first_generation() {
        let key = Key::new(b"a").unwrap();
        let removed = [Change::Slot(key.slot()), Change::of(&key)].map(|of| Record { of, bytes: None });
        let parts = parts(&removed).unwrap();
        assert_eq!(parts.len(), 1);
        assert_eq!((&parts[0].record[..], &parts[0].fields[..]), (&b"0 "[..], &[(b"ca".to_vec(), Vec::new())][..]));
    }

    #[test]
    fn calls_are_filled_up_to_their_bounds() {
        let part = |bytes| Part { slot: Key::new(b"a").unwrap().slot(), record: Vec::new(), fields: Vec::new(), bytes };
        let parts = [part(60), part(40), part(1)];
        assert_eq!([fitting(&parts, 10), fitting(&parts, 99), fitting(&parts, 100), fitting(&parts, 101)], [1, 1, 2, 3]);
    }
}
