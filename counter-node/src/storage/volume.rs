//! The store on a volume: a write-ahead [log](super::log) and the [checkpoint](super::checkpoint) that it is folded into,
//! in a data folder that this process has to itself.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::checkpoint::Checkpoint;
use super::folder::{Folder, Stage};
use super::format::loaded;
use super::log::{Entry, Log, LogConfig};
use super::meta_file::MetaFile;
use super::{Durability, Record, Store, StoreCounts, StoreError, Visitor, log, manifest};

const LOG: &str = "log";
const CHECKPOINT: &str = "checkpoint";
const META: &str = "meta";

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
    pub fn open(path: &Path, visitor: &mut Visitor<'_>) -> Result<Self, StoreError> {
        Self::open_with(path, visitor, LogConfig::default())
    }

    fn open_with(path: &Path, visitor: &mut Visitor<'_>, config: LogConfig) -> Result<Self, StoreError> {
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
        visit(&checkpoint, &sound.latest()?, &store, visitor)?;
        let log = sound.start(&store.join(LOG), checkpoint, config)?;
        Ok(Self { log, meta: Mutex::new(meta), folder })
    }

    fn held_meta(&self) -> MutexGuard<'_, MetaFile> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands out each record once: what the log has of it, or else what the checkpoint has. Both are ascending.
fn visit(checkpoint: &Checkpoint, newer: &[Entry<'_>], store: &Path, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
    let mut newer = newer.iter().peekable();
    let mut visiting = Visiting { store, visitor };
    checkpoint.visit(|key, bytes| {
        while let Some(entry) = newer.next_if(|entry| entry.key < key) {
            visiting.entry(entry)?;
        }
        match newer.next_if(|entry| entry.key == key) {
            Some(entry) => visiting.entry(entry),
            None => visiting.record(key, bytes),
        }
    })?;
    newer.try_for_each(|entry| visiting.entry(entry))
}

struct Visiting<'a, 'v> {
    store: &'a Path,
    visitor: &'a mut Visitor<'v>,
}

impl Visiting<'_, '_> {
    fn record(&mut self, key: &[u8], bytes: &[u8]) -> Result<(), StoreError> {
        let loaded = loaded(key, bytes).ok_or_else(|| StoreError::corrupt(self.store, "a record's key names no slot"))?;
        (self.visitor)(loaded).map_err(|why| {
            let counter = String::from_utf8_lossy(key.get(3..).unwrap_or_default()).into_owned();
            let what = format!("the record of {counter:?} in slot {} cannot be read: {why}", loaded.slot());
            StoreError::corrupt(self.store, what)
        })
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<(), StoreError> {
        entry.value.map_or(Ok(()), |bytes| self.record(entry.key, bytes))
    }
}

impl Store for VolumeStore {
    fn commit(&self, records: &[Record], durability: Durability) -> Result<(), StoreError> {
        let end = self.log.append(records)?;
        match durability {
            Durability::InKernel => Ok(()),
            Durability::OnDisk => self.log.force_to(end),
        }
    }

    fn may_wait(&self) -> bool {
        self.log.may_wait()
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
