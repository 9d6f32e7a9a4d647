//! Who this start of the process is.
//!
//! The identity is on the disk before anything else happens, in every fsync mode, and none is ever resumed: a tail that
//! was lost, a cloned or a restored volume can never write under a name of which others already know more.

use std::sync::{Arc, Mutex, PoisonError};

use counter_core::id::ActorId;

use super::{Store, StoreError, meta};

/// A volume's identity, from which each start takes its actor.
pub struct Identity {
    store: Arc<dyn Store>,
    origin: u64,
    starts: Mutex<u32>,
    stopped_in_order: bool,
}

impl Identity {
    /// Counts this start and returns its actor. The volume's first start mints its random origin.
    ///
    /// # Errors
    /// When the store cannot keep it; the process must not go on then.
    pub fn open(store: Arc<dyn Store>) -> Result<(Self, ActorId), StoreError> {
        let origin = match read(&*store, meta::ORIGIN)? {
            Some(bytes) => u64::from_le_bytes(bytes),
            None => rand::random(),
        };
        let starts = read(&*store, meta::STARTS)?.map_or(0, u32::from_le_bytes);
        let stopped_in_order = starts == 0 || store.meta(meta::CLEAN).is_some();
        let identity = Self { store, origin, starts: Mutex::new(starts), stopped_in_order };
        let actor = identity.renew()?;
        Ok((identity, actor))
    }

    /// A further actor for this process: after the store was reopened, or when slots that had been given away come back.
    ///
    /// # Errors
    /// When the store cannot keep it. The old actor must not be used again all the same if the reason for renewal stands.
    pub fn renew(&self) -> Result<ActorId, StoreError> {
        self.renew_above(0)
    }

    /// A further actor, of a start above `above`: where this volume was restored from a time before that.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub fn renew_above(&self, above: u32) -> Result<ActorId, StoreError> {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted even if the write fails: it may have reached the disk, and a number must not be used twice.
        *starts = (*starts).max(above).checked_add(1).ok_or(StoreError::StartsUsedUp)?;
        self.store.put_meta(&[
            (meta::ORIGIN, Some(&self.origin.to_le_bytes())),
            (meta::STARTS, Some(&starts.to_le_bytes())),
            (meta::CLEAN, None),
        ])?;
        Ok(ActorId::new(self.origin, *starts, rand::random()))
    }

    /// Whether the process before this one ended in order (true on a new volume). Otherwise a tail may be missing.
    #[must_use]
    pub fn stopped_in_order(&self) -> bool {
        self.stopped_in_order
    }

    /// Notes that this process ends in order. Call it last: after the committer has flushed.
    ///
    /// # Errors
    /// When the store cannot keep it; the next start then takes this stop for a crash, which is safe.
    pub fn mark_clean(&self) -> Result<(), StoreError> {
        self.store.put_meta(&[(meta::CLEAN, Some(&[1]))])
    }
}

fn read<const N: usize>(store: &dyn Store, name: &str) -> Result<Option<[u8; N]>, StoreError> {
    let Some(bytes) = store.meta(name) else { return Ok(None) };
    let length = bytes.len();
    let fixed = <[u8; N]>::try_from(bytes)
        .map_err(|_| StoreError::corrupt(name.as_ref(), format!("the store's `{name}` has {length} bytes instead of {N}")))?;
    Ok(Some(fixed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStore;

    #[test]
    fn each_start_and_each_renewal_is_a_greater_incarnation_of_one_origin() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (identity, first) = Identity::open(store.clone()).unwrap();
        let second = identity.renew().unwrap();
        let (identity, third) = Identity::open(store.clone()).unwrap();
        let (fourth, fifth) = (identity.renew_above(8).unwrap(), identity.renew_above(4).unwrap());
        let (_, sixth) = Identity::open(store).unwrap();
        let actors = [first, second, third, fourth, fifth, sixth];
        assert!(actors.iter().all(|actor| actor.origin == first.origin));
        assert_eq!(actors.map(ActorId::starts), [1, 2, 3, 9, 10, 11]);
    }

    #[test]
    fn a_stop_counts_as_clean_only_once_and_only_when_it_was_marked() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (first, _) = Identity::open(store.clone()).unwrap();
        assert!(first.stopped_in_order(), "a new volume misses nothing");
        first.mark_clean().unwrap();
        assert!(Identity::open(store.clone()).unwrap().0.stopped_in_order());
        assert!(!Identity::open(store).unwrap().0.stopped_in_order());
    }

    #[test]
    fn starts_never_wrap_around() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        store.put_meta(&[(meta::STARTS, Some(&u32::MAX.to_le_bytes()))]).unwrap();
        assert!(matches!(Identity::open(store), Err(StoreError::StartsUsedUp)));
    }

    #[test]
    fn an_identity_of_the_wrong_length_is_refused() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        store.put_meta(&[(meta::ORIGIN, Some(&[1, 2, 3]))]).unwrap();
        assert!(matches!(Identity::open(store), Err(StoreError::Corrupt { .. })));
    }
}
