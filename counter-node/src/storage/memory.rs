//! The store that keeps nothing: `storage: memory` promises no more than the other replicas hold.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Durability, Record, Store, StoreError};

/// Records are dropped, since the node's own tables are all there is; `meta` lasts as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    meta: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryStore {
    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn commit(&self, _records: &[Record], _durability: Durability) -> Result<(), StoreError> {
        Ok(())
    }

    fn keeps(&self) -> bool {
        false
    }

    fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.values().get(name).cloned()
    }

    fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        put_all(&mut self.values(), values);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What `put_meta` does to the values held in memory.
pub(super) fn put_all(held: &mut BTreeMap<String, Vec<u8>>, values: &[(&str, Option<&[u8]>)]) {
    for (name, value) in values {
        match value {
            Some(value) => drop(held.insert((*name).to_owned(), value.to_vec())),
            None => drop(held.remove(*name)),
        }
    }
}
