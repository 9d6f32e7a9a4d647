//! The store on a volume: a write-ahead [log](super::log) and the [checkpoint](super::checkpoint) that it is folded into,
//! in a data folder that this process has to itself.

mod visit;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::checkpoint::Checkpoint;
use super::folder::{Folder, Stage};
use super::log::{Log, LogConfig};
use super::meta_file::MetaFile;
use super::{Durability, Record, Store, StoreCounts, StoreError, Visitor, log, manifest};

use self::visit::Visit;

const LOG: &str = "log";
const CHECKPOINT: &str = "checkpoint";
const META: &str = "meta";
/// Beyond this many a start is held up by the disk, and by memory.
const THREADS_MAX: usize = 8;

/// Records in a data folder.
pub struct VolumeStore {
    // Before the folder, so that nothing works there any more when it is let go.
    log: Log,
    meta: Mutex<MetaFile>,
    folder: Folder,
}

impl VolumeStore {
    /// Takes the data folder, making it where there is none, and hands each record in it to `visitor`.
    ///
    /// # Errors
    /// See [`super::open`].
    pub fn open(path: &Path, visitor: &Visitor<'_>) -> Result<Self, StoreError> {
        Self::open_by(path, visitor, threads())
    }

    /// The same, read by so many threads.
    ///
    /// # Errors
    /// See [`super::open`].
    pub(crate) fn open_by(path: &Path, visitor: &Visitor<'_>, threads: usize) -> Result<Self, StoreError> {
        Self::open_with(path, visitor, threads, LogConfig::default())
    }

    fn open_with(path: &Path, visitor: &Visitor<'_>, threads: usize, config: LogConfig) -> Result<Self, StoreError> {
        let (folder, stage) = Folder::take(path)?;
        match stage {
            Stage::New => {
                let draft = folder.draft()?;
                Checkpoint::create(&draft.join(CHECKPOINT))?;
                MetaFile::create(&draft.join(META))?;
                log::create(&draft.join(LOG), &config)?;
                folder.mark_format()?;
                folder.finish()?;
            }
            Stage::Drafted => folder.finish()?,
            Stage::Made => {}
        }
        let store = folder.store();
        manifest::verify(&store.join(CHECKPOINT))?;
        let meta = MetaFile::open(&store.join(META))?;
        let checkpoint = Checkpoint::open(&store.join(CHECKPOINT))?;
        let sound = log::read(&store.join(LOG), checkpoint.folded())?;
        Visit { checkpoint: &checkpoint, newer: &sound.latest()?, store: &store, visitor }.all(threads)?;
        let log = sound.start(&store.join(LOG), checkpoint, config)?;
        Ok(Self { log, meta: Mutex::new(meta), folder })
    }

    fn held_meta(&self) -> MutexGuard<'_, MetaFile> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many threads read a folder at start.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| threads.get().min(THREADS_MAX))
}

impl Store for VolumeStore {
    fn commit(&self, records: &[Record], durability: Durability) -> Result<(), StoreError> {
        let end = self.log.append(records)?;
        match durability {
            Durability::InKernel => Ok(()),
            Durability::OnDisk => self.log.force_to(end),
        }
    }

    fn may_wait(&self, records: &[Record]) -> bool {
        self.log.may_wait(records)
    }

    fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.held_meta().get(name).cloned()
    }

    fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        let mut meta = self.held_meta();
        self.log.usable()?;
        meta.put(values).inspect_err(|_| self.log.mark_broken())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.log.force_all()
    }

    fn check(&self) -> Result<(), StoreError> {
        self.log.usable()
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.log.reopen()
    }

    fn close(&self) -> Result<(), StoreError> {
        let synced = self.log.force_all();
        if !matches!(synced, Err(StoreError::Closed)) {
            self.log.close();
            self.folder.release();
        }
        synced
    }

    fn counts(&self) -> StoreCounts {
        self.log.counts()
    }
}

#[cfg(test)]
mod tests;
