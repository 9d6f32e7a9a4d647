//! What storage keeps of the table: the encoding of its records, both ways.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};

use counter_core::counter::{Counter, Key, KeyRef};
use counter_core::slot::Slot;
use counter_core::table::Table;
use counter_core::token::{TokenName, TokenRecord};
use counter_core::vector::{SlotRecord, SlotVector};

use crate::commit::RecordSource;
use crate::protocol::Protocol;
use crate::storage::{Change, Identity, Loaded, Record, StoreError};

/// Puts a record that storage had back into the table.
///
/// # Errors
/// Why the bytes are no record.
pub fn restore(table: &Table, loaded: Loaded<'_>) -> Result<(), String> {
    match loaded {
        Loaded::Slot { slot, bytes } => {
            let record: SlotRecord = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
            table.restore_slot(slot, record);
        }
        Loaded::Floor { slot, bytes } => {
            let floor_ms = bytes.try_into().map(u64::from_le_bytes).map_err(|_| "a floor has eight bytes".to_owned())?;
            table.restore_floor(slot, floor_ms);
        }
        Loaded::Token { slot, bytes } => {
            let record: TokenRecord = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
            if record.key.slot() != slot {
                return Err(format!("a token of {:?} stands under slot {slot}", record.key));
            }
            table.restore_token(&record);
        }
        Loaded::Counter { slot, key, bytes } => {
            let key = KeyRef::from_bytes(key).map_err(|error| format!("a key {error}"))?;
            if key.slot() != slot {
                return Err(format!("key {key:?} stands under slot {slot}, but belongs to {}", key.slot()));
            }
            let counter: Counter = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
            table.restore_counter(slot, key, &counter);
        }
    }
    Ok(())
}

/// The committer's view of the node: the current records, and the new actor after storage was opened anew.
pub struct Records {
    pub table: Arc<Table>,
    pub identity: Arc<Identity>,
    /// Set once the protocol, which commits through this, has been made.
    pub protocol: Arc<OnceLock<Weak<Protocol>>>,
}

impl RecordSource for Records {
    fn records(&self, changes: &[Change], into: &mut Vec<Record>) {
        for of_slot in changes.chunk_by(|one, next| one.slot() == next.slot()) {
            if let Some(first) = of_slot.first() {
                self.table.in_slot(first.slot(), |vector| records_of(first.slot(), vector, of_slot, into));
            }
        }
    }

    fn forgo(&self, slot: Slot) {
        self.table.in_slot(slot, SlotVector::forgo_unsaved);
    }

    fn reopened(&self) -> Result<(), StoreError> {
        let actor = self.identity.renew()?;
        if let Some(protocol) = self.protocol.get().and_then(Weak::upgrade) {
            protocol.actor_renewed(actor);
        }
        Ok(())
    }
}

/// One slot's records, read in one go: a generation goes together with every counter of the slot, and a token's record
/// with the counter that its effect is in. Each counter comes once.
fn records_of(slot: Slot, vector: &mut SlotVector, changes: &[Change], into: &mut Vec<Record>) {
    let first = into.len();
    let whole = changes.iter().any(|change| matches!(change, Change::Slot(_)));
    if whole {
        vector.mark_generation_unsaved();
        vector.mark_tokens_unsaved();
    }
    if let Some((record, keys)) = vector.take_unsaved_generation() {
        // A store may keep each generation of a slot apart: all of it goes along.
        vector.mark_tokens_unsaved();
        into.push(Record { of: Change::Slot(slot), bytes: encode(&record) });
        into.extend(keys.iter().map(|key| counter_record(slot, vector, key)));
    } else if whole {
        // Of the first generation there is no record, and one of the slot's earlier stay here must go: after a restart it
        // would pass counters that come anew off as being of a generation whose bases they lack. The counters are to be
        // written all the same.
        into.push(Record { of: Change::Slot(slot), bytes: None });
        into.extend(vector.counters().map(|(key, counter)| Record { of: Change::of(&key.to_key()), bytes: encode(&counter) }));
    }
    let mut tokens = Vec::new();
    for change in changes {
        match change {
            Change::Slot(_) => {}
            Change::Floor(slot) => into.push(floor_record(*slot, vector.floor_ms())),
            Change::Counter { key, .. } => into.push(counter_record(slot, vector, key)),
            Change::Token { name, .. } => tokens.push((*name, vector.token(name))),
        }
    }
    if let Some(floor_ms) = vector.take_unsaved_floor() {
        into.push(floor_record(slot, floor_ms));
    }
    // What any update of the slot has left, whoever asks: no counter is written without the records of what it holds.
    tokens.extend(vector.take_unsaved_tokens());
    // Nor is a record removed without the counters that what it said stands in now.
    let settled = vector.take_unsaved_settled();
    if !tokens.is_empty() || !settled.is_empty() {
        push_tokens(slot, vector, tokens, &settled, first, into);
    }
}

fn floor_record(slot: Slot, floor_ms: u64) -> Record {
    Record { of: Change::Floor(slot), bytes: (floor_ms > 0).then(|| floor_ms.to_le_bytes().to_vec()) }
}

/// Tokens' records, without bytes, which removes them, where the token is forgotten; and their counters with those that
/// forgetting has settled, but for those that stand in `into` already, from `first` on.
fn push_tokens(
    slot: Slot,
    vector: &SlotVector,
    tokens: Vec<(TokenName, Option<TokenRecord>)>,
    settled: &[Key],
    first: usize,
    into: &mut Vec<Record>,
) {
    let of_tokens = tokens.iter().filter_map(|(_, record)| Some(&record.as_ref()?.key));
    let mut keys: HashSet<&Key> = of_tokens.chain(settled).collect();
    for record in &into[first..] {
        if let Change::Counter { key, .. } = &record.of {
            keys.remove(key);
        }
    }
    into.extend(keys.into_iter().map(|key| counter_record(slot, vector, key)));
    let record_of = |(name, record): &(TokenName, Option<TokenRecord>)| Record {
        of: Change::Token { slot, name: *name },
        bytes: record.as_ref().and_then(encode),
    };
    into.extend(tokens.iter().map(record_of));
}

/// The counter's record; without bytes, which removes it, when the table does not hold it.
fn counter_record(slot: Slot, vector: &SlotVector, key: &Key) -> Record {
    Record { of: Change::Counter { slot, key: key.clone() }, bytes: vector.counter(key).as_ref().and_then(encode) }
}

/// What the record of a counter with three replicas' entries takes, about.
const RECORD_BYTES: usize = 128;

fn encode(record: &impl serde::Serialize) -> Option<Vec<u8>> {
    // Most fit into this, which is faster to fill than a vector. Encoding into memory has no other way to fail for these types.
    let mut room = [0; RECORD_BYTES];
    match postcard::to_slice(record, &mut room) {
        Ok(bytes) => Some(bytes.to_vec()),
        Err(_) => postcard::to_stdvec(record).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use counter_core::counter::Update;
    use counter_core::hlc::Hlc;
    use counter_core::id::ActorId;
    use counter_core::table::TableLimits;
    use counter_core::token::Token;

    use super::*;
    use crate::storage::{Durability, Store as _, VolumeStore};

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    #[test]
    fn a_slot_that_was_forgotten_leaves_no_record_behind() {
        let table = Table::new(1, TableLimits { counters: 9, memory_bytes: 1 << 20, tokens: 9, token_window_ms: 600_000 });
        let actor = ActorId { origin: 1, incarnation: 1 };
        let key = Key::new(b"a").unwrap();
        let slot = key.slot();
        table.set_writer([slot], Some(actor));
        table.apply(&key, Update::Increment(3), None, Hlc(1)).unwrap();
        table.slot(slot).retire(&[actor]);
        let changes = [Change::Slot(slot), Change::of(&key)];
        let written = |changes: &[Change]| {
            let mut records = Vec::new();
            records_of(slot, &mut table.slot(slot), changes, &mut records);
            records.into_iter().map(|record| (record.of, record.bytes.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(written(&changes[..1]), changes.clone().map(|change| (change, true)));
        table.clear(slot);
        assert_eq!(written(&changes), changes.map(|change| (change, false)));
    }

    #[test]
    fn a_counter_is_written_once_with_however_many_of_its_tokens() {
        let table = Table::new(1, TableLimits { counters: 9, memory_bytes: 1 << 20, tokens: 9, token_window_ms: 600_000 });
        let key = Key::new(b"a").unwrap();
        let slot = key.slot();
        table.set_writer([slot], Some(ActorId { origin: 1, incarnation: 1 }));
        for id in 0..3 {
            table.apply(&key, Update::Increment(1), Some(&Token { id, made_ms: None }), Hlc(1)).unwrap();
        }
        let written = |changes: &[Change]| {
            let mut records = Vec::new();
            records_of(slot, &mut table.slot(slot), changes, &mut records);
            let is_token = |record: &&Record| matches!(record.of, Change::Token { .. });
            let tokens = records.iter().filter(is_token).count();
            (tokens, records.iter().filter(|record| record.of == Change::of(&key)).count())
        };
        assert_eq!(written(&[Change::of(&key)]), (3, 1));
        assert_eq!(written(&[Change::of(&key)]), (0, 1));
        assert_eq!(written(&[Change::Slot(slot)]), (3, 1));
    }

    #[test]
    fn what_forgetting_tokens_has_settled_is_written_with_the_floor() {
        let actor = |origin| ActorId { origin, incarnation: 1 };
        let [table, other] = [1, 2].map(|origin| {
            let table = Table::new(1, LIMITS);
            table.set_writer(Slot::all(), Some(actor(origin)));
            for name in ["a", "b"] {
                let token = Token { id: 1, made_ms: Some(1_000) };
                table.apply(&key(name), Update::Increment(5), Some(&token), Hlc::from_wall_ms(1_000)).unwrap();
            }
            table
        });
        let slot = key("a").slot();
        let delta = other.slot(slot).delta(slot, &[key("a")]);
        table.merge(&delta);
        let written = || {
            let mut records = Vec::new();
            // Asked for by an update of whatever other counter of the slot.
            records_of(slot, &mut table.slot(slot), &[], &mut records);
            records
        };
        assert_eq!(written().len(), 3, "two records of the token and their counter");
        assert_eq!(table.slot(slot).raise_floor(2_000), [key("a")]);
        let records = written();
        let kinds = |of: fn(&Change) -> bool| records.iter().filter(|record| of(&record.of)).count();
        assert_eq!(kinds(|of| matches!(of, Change::Floor(_))), 1);
        assert_eq!(kinds(|of| matches!(of, Change::Token { .. })), 2);
        assert_eq!(kinds(|of| matches!(of, Change::Counter { .. })), 1);
        assert_eq!((written().len(), table.read(&key("a")).tally), (0, 5));
    }

    #[test]
    fn a_record_is_encoded_however_long_it_is() {
        for bytes in [0, RECORD_BYTES - 2, RECORD_BYTES - 1, RECORD_BYTES, 5 * RECORD_BYTES] {
            let record = vec![7_u8; bytes];
            assert_eq!(encode(&record), postcard::to_stdvec(&record).ok(), "{bytes} bytes");
        }
    }

    const LIMITS: TableLimits =
        TableLimits { counters: 1 << 20, memory_bytes: 1 << 30, tokens: 1 << 20, token_window_ms: 600_000 };

    fn filled() -> Table {
        let table = Table::new(1, LIMITS);
        let name = |number: u32| format!("page-{}", number % 4_000);
        for number in 0..12_000_u32 {
            // Every third part by another actor, of which the first is retired.
            let actor = ActorId { origin: (number / 4_000).into(), incarnation: 1 };
            let key = Key::new(name(number).as_bytes()).unwrap();
            table.set_writer([key.slot()], Some(actor));
            let token = Token { id: number.into(), made_ms: Some(1_000 + u64::from(number)) };
            let token = Some(&token).filter(|_| number % 5 == 4);
            let update = if number % 97 == 96 { Update::Reset } else { Update::Increment(number.into()) };
            table.apply(&key, update, token, Hlc::from_wall_ms(2_000 + u64::from(number))).unwrap();
            if number % 1_000 == 999 {
                table.slot(key.slot()).raise_floor(1_500);
            }
            // Pages that have no token, which would have to be forgotten first.
            let retires = [ActorId { origin: 0, incarnation: 1 }];
            if number % 500 == 498 && table.slot(key.slot()).may_retire(&retires) {
                table.slot(key.slot()).retire(&retires);
            }
        }
        table
    }

    fn all_records(table: &Table) -> Vec<Record> {
        let mut records = Vec::new();
        for slot in Slot::all() {
            records_of(slot, &mut table.slot(slot), &[Change::Slot(slot), Change::Floor(slot)], &mut records);
        }
        records
    }

    fn restored(folder: &Path, threads: usize) -> Result<Table, StoreError> {
        let table = Table::new(2, LIMITS);
        VolumeStore::open_by(folder, &|loaded| restore(&table, loaded), threads)?;
        Ok(table)
    }

    #[test]
    fn what_several_threads_restore_is_what_was_written() {
        let table = filled();
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path(), &|_| Ok(())).unwrap();
        let records = all_records(&table);
        for kind in ["Slot", "Floor", "Counter", "Token"] {
            let of_kind = |record: &&Record| record.bytes.is_some() && format!("{:?}", record.of).starts_with(kind);
            assert!(records.iter().filter(of_kind).count() > 3, "no {kind} to restore");
        }
        let (folded, later) = records.split_at(records.len() / 2);
        for some in folded.chunks(500) {
            store.commit(some, Durability::InKernel).unwrap();
        }
        store.reopen().unwrap();
        for some in later.chunks(500) {
            store.commit(some, Durability::InKernel).unwrap();
        }
        store.close().unwrap();
        for threads in [1, 2, 7] {
            let restored = restored(folder.path(), threads).unwrap();
            assert_eq!((restored.counters(), restored.tokens()), (table.counters(), table.tokens()));
            for slot in Slot::all() {
                let (restored, table) = (restored.slot(slot), table.slot(slot));
                assert_eq!(restored.digest(), table.digest(), "slot {slot}, read by {threads}");
                assert_eq!(restored.total(), table.total(), "slot {slot}, read by {threads}");
                assert_eq!(restored.existing(), table.existing(), "slot {slot}, read by {threads}");
            }
        }
    }

    #[test]
    fn a_record_that_is_none_stops_the_start_whoever_reads() {
        let folder = tempfile::tempdir().unwrap();
        let store = VolumeStore::open(folder.path(), &|_| Ok(())).unwrap();
        let mut records = all_records(&filled());
        let damaged = Change::of(&Key::new(b"page-77").unwrap());
        records.push(Record { of: damaged.clone(), bytes: Some(vec![0xFF; 3]) });
        for some in records.chunks(500) {
            store.commit(some, Durability::InKernel).unwrap();
        }
        store.close().unwrap();
        for threads in [1, 2, 7] {
            let error = restored(folder.path(), threads).err().unwrap();
            let told = format!("the record of \"page-77\" in slot {} cannot be read", damaged.slot());
            assert!(error.is_data_error() && error.to_string().contains(&told), "{error}");
        }
    }
}
