//! What storage gives back. It is checked for damage below; what passes may still be of another release.

use std::cell::Cell;

use counter_core::counter::{Key, Update};
use counter_core::hlc::Hlc;
use counter_core::id::ActorId;
use counter_core::slot::Slot;
use counter_core::table::{Table, TableLimits};
use counter_core::token::TokenRecord;
use counter_node::records;
use counter_node::storage::Loaded;

const ACTOR: ActorId = ActorId { origin: 3, incarnation: 1 };

pub(crate) fn limits() -> TableLimits {
    TableLimits { counters: 10_000, memory_bytes: 64 << 20, tokens: 10_000, token_window_ms: 600_000 }
}

/// A table in which something of everything has happened.
pub(crate) fn table_with_counters() -> Table {
    let table = Table::new(7, limits());
    table.set_writer(Slot::all(), Some(ACTOR));
    for (page, update) in [("front-page", Update::Increment(7)), ("a", Update::Decrement(3)), ("front-page", Update::Reset)] {
        table.apply(&Key::new(page.as_bytes()).unwrap(), update, None, Hlc(1 << 16)).unwrap();
    }
    table
}

thread_local! {
    /// A table in which nothing is, from one input to the next: making one takes a hundred times what an input does.
    static EMPTY: Cell<Option<Table>> = const { Cell::new(None) };
}

/// Whether the slot is as new once it has been cleared. Of tokens it keeps in mind what storage is to remove.
pub(crate) fn is_cleared(table: &Table, slot: Slot) -> bool {
    let had_tokens = table.slot(slot).take_unsaved_floor().is_some() || !table.slot(slot).take_unsaved_tokens().is_empty();
    drop(table.clear(slot));
    !had_tokens && table.slot(slot).take_unsaved_floor().is_none() && table.slot(slot).is_new()
}

/// A record is taken whole or refused, and what a table has taken it can sum up.
pub(crate) fn stored(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let table = EMPTY.take().unwrap_or_else(|| Table::new(7, limits()));
    let slot = take_stored(&table, *kind, rest);
    if is_cleared(&table, slot) {
        EMPTY.set(Some(table));
    }
}

fn take_stored(table: &Table, kind: u8, rest: &[u8]) -> Slot {
    let key = Key::new(b"front-page").unwrap();
    let slot = key.slot();
    let loaded = match kind % 5 {
        0 => Loaded::Slot { slot, bytes: rest },
        1 => Loaded::Counter { slot, key: key.as_bytes(), bytes: rest },
        2 => Loaded::Token { slot, bytes: rest },
        3 => Loaded::Floor { slot, bytes: rest },
        _ => {
            let (key, bytes) = rest.split_at(rest.len().min(12));
            Loaded::Counter { slot, key, bytes }
        }
    };
    if records::restore(table, loaded).is_err() {
        assert_eq!(table.counters(), 0, "a refused record has left something behind");
        return slot;
    }
    let vector = table.slot(slot);
    let _ = (vector.digest(), vector.tally(), vector.read(&key), vector.actors());
    slot
}

pub(crate) fn stored_seeds() -> Vec<Vec<u8>> {
    let table = table_with_counters();
    let key = Key::new(b"front-page").unwrap();
    let mut vector = table.slot(key.slot());
    let counter = postcard::to_stdvec(&vector.counter(&key).unwrap()).unwrap();
    let record = TokenRecord {
        key: key.clone(),
        id: 7,
        actor: ACTOR,
        made_ms: 1_700_000_000_000,
        update: Update::Increment(1),
        position: 1,
        observed: None,
    };
    let token = postcard::to_stdvec(&record).unwrap();
    vector.retire(&[ACTOR]);
    let (record, _) = vector.take_unsaved_generation().unwrap();
    let folded = postcard::to_stdvec(&vector.counter(&key).unwrap()).unwrap();
    let of_kind = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        of_kind(0, &postcard::to_stdvec(&record).unwrap()),
        of_kind(1, &counter),
        of_kind(1, &folded),
        of_kind(2, &token),
        of_kind(3, &1_700_000_000_000_u64.to_le_bytes()),
    ]
}
