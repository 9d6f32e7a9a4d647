//! Reads all records of a folder as it is opened, by several threads: each takes a part of the slots, one after the other, until
//! all are read.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread;

use counter_core::slot::SLOTS;

use crate::storage::checkpoint::Checkpoint;
use crate::storage::format::{KINDS, first_key, loaded};
use crate::storage::log::Entry;
use crate::storage::{StoreError, Visitor};

/// Into how many parts the slots are cut: so many that no thread waits long for the last one.
const PARTS: u16 = 64;
const PART_SLOTS: u16 = SLOTS / PARTS;

/// What is read, and who takes it.
pub(super) struct Visit<'a, 'v> {
    pub(super) checkpoint: &'a Checkpoint,
    /// What the log has, the latest of each key, ascending.
    pub(super) newer: &'a [Entry<'a>],
    pub(super) store: &'a Path,
    pub(super) visitor: &'a Visitor<'v>,
}

/// From where to where keys are read.
type Range<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

impl Visit<'_, '_> {
    /// Hands out each record once: what the log has of it, or else what the checkpoint has.
    ///
    /// # Errors
    /// Of the records that cannot be read one of the first.
    pub(super) fn all(&self, threads: usize) -> Result<(), StoreError> {
        let (next, stop) = (AtomicU16::new(0), AtomicBool::new(false));
        let work = || self.parts(&next, &stop);
        let failed = thread::scope(|scope| {
            let start = |number| thread::Builder::new().name(format!("load-{number}")).spawn_scoped(scope, work);
            // A thread that cannot be had is done without: this one reads, too.
            let others: Vec<_> = (1..threads).filter_map(|number| start(number).ok()).collect();
            let mut failed = Vec::from_iter(work().err());
            for other in others {
                match other.join() {
                    Ok(done) => failed.extend(done.err()),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            failed
        });
        failed.into_iter().min_by_key(|(part, _)| *part).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// One part after the other, until none is left or any thread has failed. An error comes with the part that it is in.
    fn parts(&self, next: &AtomicU16, stop: &AtomicBool) -> Result<(), (u16, StoreError)> {
        while !stop.load(Ordering::Relaxed) {
            let part = next.fetch_add(1, Ordering::Relaxed);
            if part >= PARTS {
                break;
            }
            self.part(part).map_err(|error| {
                stop.store(true, Ordering::Relaxed);
                (part, error)
            })?;
        }
        Ok(())
    }

    /// The first and the last part also take keys that are of no slot, so that none is passed over.
    fn part(&self, part: u16) -> Result<(), StoreError> {
        let (first, end) = (part * PART_SLOTS, (part + 1) * PART_SLOTS);
        for kind in KINDS {
            let (from, to) = (first_key(kind, first), first_key(kind, end));
            let start = match (part, kind) {
                (0, 0) => Bound::Unbounded,
                (0, _) => Bound::Included(&from[..1]),
                _ => Bound::Included(&from[..]),
            };
            let next_kind = [kind + 1];
            let end = match end {
                SLOTS if Some(&kind) == KINDS.last() => Bound::Unbounded,
                SLOTS => Bound::Excluded(&next_kind[..]),
                _ => Bound::Excluded(&to[..]),
            };
            self.range((start, end))?;
        }
        Ok(())
    }

    fn range(&self, keys: Range<'_>) -> Result<(), StoreError> {
        let mut newer = within(self.newer, keys).iter().peekable();
        self.checkpoint.visit(keys, |key, bytes| {
            while let Some(entry) = newer.next_if(|entry| entry.key < key) {
                self.entry(entry)?;
            }
            match newer.next_if(|entry| entry.key == key) {
                Some(entry) => self.entry(entry),
                None => self.record(key, bytes),
            }
        })?;
        newer.try_for_each(|entry| self.entry(entry))
    }

    fn record(&self, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        let loaded = loaded(key, bytes).ok_or_else(|| StoreError::corrupt(self.store, "a record's key names no slot"))?;
        (self.visitor)(loaded).map_err(|why| {
            let counter = String::from_utf8_lossy(key.get(3..).unwrap_or_default()).into_owned();
            let what = format!("the record of {counter:?} in slot {} cannot be read: {why}", loaded.slot());
            StoreError::corrupt(self.store, what)
        })
    }

    fn entry(&self, entry: &Entry<'_>) -> Result<(), StoreError> {
        entry.value.map_or(Ok(()), |bytes| self.record(entry.key, bytes))
    }
}

/// The entries with keys in a range that begins at a key, or before all, and ends before one, or never.
fn within<'e, 'b>(entries: &'e [Entry<'b>], (start, end): Range<'_>) -> &'e [Entry<'b>] {
    let upto = |bound: Bound<&[u8]>, unbounded| match bound {
        Bound::Included(at) | Bound::Excluded(at) => entries.partition_point(|entry| entry.key < at),
        Bound::Unbounded => unbounded,
    };
    &entries[upto(start, 0)..upto(end, entries.len())]
}
