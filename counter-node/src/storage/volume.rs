//! The store on a volume: fjall, in a data folder that this process has to itself.
//!
//! Fjall's journal writer hands every batch to the kernel before a commit returns. After a write error fjall refuses
//! everything until it is opened anew; [`VolumeStore::reopen`] does that in place.

mod engine;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use self::engine::Engine;
use super::folder::{Folder, Stage};
use super::memory::put_all;
use super::{Durability, Record, Store, StoreError, Visitor, journal, manifest};

/// Where the engine is.
enum State {
    Open(Engine),
    /// A reopening failed, or is under way.
    Broken,
    Closed,
}

/// The newest journal, opened a second time.
struct JournalHandle {
    path: PathBuf,
    file: File,
}

/// Records in a data folder.
pub struct VolumeStore {
    folder: Folder,
    state: RwLock<State>,
    /// All of the `meta` keyspace.
    meta: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Held while `meta` is written, so that what is held in memory is what was written last.
    meta_writing: Mutex<()>,
    /// Forces commits to the disk through a descriptor of its own, since the engine would hold up all commits meanwhile. The
    /// kernel reports a failed write-back to every descriptor that was open at the time, so this one learns of those too
    /// that the engine met, and did not tell.
    journal: Mutex<Option<JournalHandle>>,
}

impl VolumeStore {
    /// Takes the data folder, making it where there is none, and hands each record in it to `visitor`.
    ///
    /// # Errors
    /// See [`super::open`].
    pub fn open(path: &Path, visitor: &mut Visitor<'_>) -> Result<Self, StoreError> {
        let (folder, stage) = Folder::take(path)?;
        match stage {
            Stage::New => {
                Engine::create(&folder.draft()?)?;
                folder.mark_format()?;
                folder.finish()?;
            }
            Stage::Drafted => folder.finish()?,
            Stage::Made => {}
        }
        let store = folder.store();
        manifest::verify(&store)?;
        let journals = journal::verify(&store)?;
        for torn in journals.iter().filter(|journal| journal.torn_at.is_some()) {
            tracing::debug!(path = %torn.path.display(), at = torn.torn_at, "cutting off what lies behind the journal's last whole write");
            journal::cut(torn)?;
        }
        Engine::visit(&store, visitor)?;
        let engine = Engine::open(&store)?;
        let meta = engine.meta()?;
        let opened = Self {
            folder,
            state: RwLock::new(State::Open(engine)),
            meta: Mutex::new(meta),
            meta_writing: Mutex::default(),
            journal: Mutex::default(),
        };
        opened.hold_newest_journal(&mut opened.held_journal())?;
        Ok(opened)
    }

    fn with_engine<T>(&self, use_it: impl FnOnce(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Open(engine) => use_it(engine),
            State::Broken => Err(StoreError::Broken),
            State::Closed => Err(StoreError::Closed),
        }
    }

    fn held_journal(&self) -> MutexGuard<'_, Option<JournalHandle>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_meta(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the held descriptor one of the newest journal. The one before is forced to the disk a last time.
    fn hold_newest_journal(&self, held: &mut Option<JournalHandle>) -> Result<(), StoreError> {
        let store = self.folder.store();
        let newest = journal::journals(&store).map_err(StoreError::io("list", &store))?.pop();
        let path = newest.ok_or_else(|| StoreError::corrupt(&store, "its journal is gone"))?;
        if held.as_ref().is_some_and(|handle| handle.path == path) {
            return Ok(());
        }
        let file = File::open(&path).map_err(StoreError::io("open", &path))?;
        if let Some(before) = held.replace(JournalHandle { path, file }) {
            before.file.sync_data().map_err(StoreError::io("force to the disk", &before.path))?;
        }
        Ok(())
    }

    /// Lets go of the engine and of every descriptor of a journal.
    fn shut(&self, next: State) -> Result<(), StoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        drop(self.held_journal().take());
        match std::mem::replace(&mut *state, next) {
            State::Open(engine) => engine.shut(),
            State::Closed => {
                *state = State::Closed;
                Err(StoreError::Closed)
            }
            State::Broken => Ok(()),
        }
    }
}

impl Store for VolumeStore {
    fn commit(&self, records: &[Record], durability: Durability) -> Result<(), StoreError> {
        self.with_engine(|engine| engine.commit(records, durability))
    }

    fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.held_meta().get(name).cloned()
    }

    fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        self.with_engine(|engine| {
            let _writing = self.meta_writing.lock().unwrap_or_else(PoisonError::into_inner);
            engine.put_meta(values)?;
            put_all(&mut self.held_meta(), values);
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.with_engine(|_| {
            let mut held = self.held_journal();
            self.hold_newest_journal(&mut held)?;
            let Some(handle) = &*held else { return Err(StoreError::Broken) };
            handle.file.sync_data().map_err(StoreError::io("force to the disk", &handle.path))
        })
    }

    fn check(&self) -> Result<(), StoreError> {
        self.with_engine(Engine::check)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        self.shut(State::Broken)?;
        let engine = Engine::open(&self.folder.store())?;
        *self.held_meta() = engine.meta()?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Open(engine);
        self.hold_newest_journal(&mut self.held_journal())
    }

    fn close(&self) -> Result<(), StoreError> {
        let synced = self.sync();
        self.shut(State::Closed)?;
        self.folder.release();
        synced
    }
}

#[cfg(test)]
#[path = "volume/tests.rs"]
mod tests;
