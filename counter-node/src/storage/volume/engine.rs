//! One opening of fjall.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fjall::config::FilterPolicy;
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode};

use crate::storage::format::{FORMAT, record_key, split_key};
use crate::storage::{Change, Durability, Loaded, Record, StoreError, Visitor, meta};

const COUNTERS: &str = "counters";
const SLOTS: &str = "slots";
const META: &str = "meta";

/// One thread flushes and compacts: it never has more than two full memtables waiting, so a commit never waits for them in
/// the engine, which would go on waiting when that thread has died of a full disk. It also leaves the cores to the API.
const WORKERS: usize = 1;
/// None at all while the folder is only looked at, since they would rewrite tables.
const NO_WORKERS: usize = 0;
/// Records are read at start only, from end to end, so a cache has nothing to win.
const CACHE_BYTES: u64 = 4 << 20;
/// Journals are replayed at start; this bounds that time, and the room that they take on the volume.
const JOURNAL_BYTES: u64 = 192 << 20;
/// Bounds the memory that holds what is in the journal only. Filling one costs an fsync that commits wait for.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// The engine stops commits at 4 full memtables or 30 runs in level 0, for ever if its thread has died. Waiting here
/// instead, a little earlier, looks whether it has.
const FULL_MEMTABLES: usize = 3;
const LEVEL_0_RUNS: usize = 20;
const ROOM_POLL: Duration = Duration::from_millis(5);
/// How long the last writer of a journal that was let go may take to be gone. It may have an fsync to finish.
const SHUT_LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Engine {
    path: PathBuf,
    counters: Keyspace,
    slots: Keyspace,
    meta: Keyspace,
    database: Database,
}

impl Engine {
    /// Makes an empty database, complete and on the disk when this returns.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        let make = || -> fjall::Result<()> {
            let database = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(WORKERS).open()?;
            for name in [COUNTERS, SLOTS] {
                let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
                // Nothing is ever looked up, so filters would be dead weight.
                database.keyspace(name, || options().filter_policy(FilterPolicy::disabled()))?;
            }
            let meta = database.keyspace(META, KeyspaceCreateOptions::default)?;
            meta.insert(meta::FORMAT, FORMAT.to_le_bytes())?;
            database.persist(PersistMode::SyncAll)
        };
        make().map_err(|error| failed("make the store", path, error))?;
        await_last_writer(path)
    }

    /// Opens the database for work.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, WORKERS)
    }

    /// Reads every record once, while nothing else happens to the folder.
    pub(super) fn visit(path: &Path, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        let engine = Self::open_with(path, NO_WORKERS)?;
        let visited = engine.check_format().and_then(|()| engine.visit_records(visitor));
        engine.shut()?;
        visited
    }

    fn open_with(path: &Path, workers: usize) -> Result<Self, StoreError> {
        let open = || -> fjall::Result<Self> {
            let database = Database::builder(path)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .worker_threads_unchecked(workers)
                .open()?;
            // The engine would make a keyspace that is missing, so that its records would be as good as deleted.
            let keyspace = |name: &str| {
                if database.keyspace_exists(name) {
                    database.keyspace(name, KeyspaceCreateOptions::default)
                } else {
                    Err(fjall::Error::Unrecoverable)
                }
            };
            let (counters, slots, meta) = (keyspace(COUNTERS)?, keyspace(SLOTS)?, keyspace(META)?);
            Ok(Self { path: path.to_path_buf(), counters, slots, meta, database })
        };
        // The engine asserts what it expects of its files.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(opened) => opened.map_err(|error| unreadable(path, error)),
            Err(_) => Err(StoreError::corrupt(path, "the storage engine gave up on it")),
        }
    }

    /// The whole `meta` keyspace.
    pub(super) fn meta(&self) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut values = BTreeMap::new();
        for pair in self.meta.iter() {
            let (name, value) = pair.into_inner().map_err(|error| unreadable(&self.path, error))?;
            let name =
                String::from_utf8(name.to_vec()).map_err(|_| StoreError::corrupt(&self.path, "a name in `meta` is no text"))?;
            values.insert(name, value.to_vec());
        }
        Ok(values)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let stored = self.meta()?.remove(meta::FORMAT);
        match stored.and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => Err(StoreError::NewerFormat { path: self.path.clone(), found, known: FORMAT }),
            Some(_) | None => Err(StoreError::corrupt(&self.path, "its records do not say which format they have")),
        }
    }

    fn visit_records(&self, visitor: &mut Visitor<'_>) -> Result<(), StoreError> {
        let corrupt = |what: String| StoreError::corrupt(&self.path, what);
        for keyspace in [&self.slots, &self.counters] {
            for pair in keyspace.iter() {
                let (key, bytes) = pair.into_inner().map_err(|error| unreadable(&self.path, error))?;
                let (slot, counter) = split_key(&key).ok_or_else(|| corrupt("a record's key names no slot".to_owned()))?;
                let loaded = if &**keyspace.name() == SLOTS {
                    Loaded::Slot { slot, bytes: &bytes }
                } else {
                    Loaded::Counter { slot, key: counter, bytes: &bytes }
                };
                visitor(loaded).map_err(|why| {
                    corrupt(format!("the record of {:?} in slot {slot} cannot be read: {why}", String::from_utf8_lossy(counter)))
                })?;
            }
        }
        Ok(())
    }

    pub(super) fn commit(&self, records: &[Record], durability: Durability) -> Result<(), StoreError> {
        self.wait_for_room()?;
        let mode = match durability {
            Durability::InKernel => PersistMode::Buffer,
            Durability::OnDisk => PersistMode::SyncData,
        };
        let mut batch = OwnedWriteBatch::with_capacity(self.database.clone(), records.len()).durability(Some(mode));
        let mut key = Vec::with_capacity(64);
        for record in records {
            let keyspace = match record.of {
                Change::Slot(_) => &self.slots,
                Change::Counter { .. } => &self.counters,
            };
            record_key(&record.of, &mut key);
            match &record.bytes {
                Some(bytes) => batch.insert(keyspace, &*key, &**bytes),
                None => batch.remove(keyspace, &*key),
            }
        }
        self.write(batch)
    }

    pub(super) fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (name, value) in values {
            match value {
                Some(value) => batch.insert(&self.meta, *name, *value),
                None => batch.remove(&self.meta, *name),
            }
        }
        self.write(batch)
    }

    fn write(&self, batch: OwnedWriteBatch) -> Result<(), StoreError> {
        match catch_unwind(AssertUnwindSafe(|| batch.commit())) {
            Ok(written) => written.map_err(|error| failed("write to the store", &self.path, error)),
            Err(_) => Err(StoreError::Engine("it panicked in a commit".to_owned())),
        }
    }

    /// Fails when the engine refuses to write because of an error that it met earlier, perhaps in its own thread.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.database.persist(PersistMode::Buffer).map_err(|error| failed("write to the store", &self.path, error))
    }

    fn wait_for_room(&self) -> Result<(), StoreError> {
        while self.counters.tree.sealed_memtable_count() >= FULL_MEMTABLES || self.counters.tree.l0_run_count() >= LEVEL_0_RUNS {
            self.check()?;
            thread::sleep(ROOM_POLL);
        }
        Ok(())
    }

    /// Writes what is in memtables to tables, as happens by itself when they are full.
    #[cfg(test)]
    pub(super) fn flush_to_tables(&self) -> Result<(), StoreError> {
        let flush = || [&self.counters, &self.slots, &self.meta].into_iter().try_for_each(Keyspace::rotate_memtable_and_wait);
        flush().map_err(|error| failed("flush the store", &self.path, error))
    }

    /// Closes the database, and returns when nothing in this process can write to its journals any more.
    pub(super) fn shut(self) -> Result<(), StoreError> {
        let path = self.path.clone();
        if catch_unwind(AssertUnwindSafe(|| drop(self))).is_err() {
            tracing::warn!(path = %path.display(), "the storage engine panicked while it was closed");
        }
        await_last_writer(&path)
    }
}

/// After a failed write the engine holds bytes that it will try to write when its last thread lets go of the journal,
/// a little after the database itself was dropped. In a journal that has been opened anew these would lie between new
/// batches, and at the next start hide all that follows. So nobody may open it before that.
fn await_last_writer(store: &Path) -> Result<(), StoreError> {
    let since = Instant::now();
    while has_open_journal(store) {
        if since.elapsed() > SHUT_LIMIT {
            return Err(StoreError::Engine("its thread does not let go of the journal".to_owned()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn has_open_journal(store: &Path) -> bool {
    let Ok(store) = fs::canonicalize(store) else { return false };
    let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return false };
    descriptors
        .flatten()
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| target.parent() == Some(&store) && target.extension().is_some_and(|extension| extension == "jnl"))
}

/// The engine's refusal of a folder.
fn unreadable(path: &Path, error: fjall::Error) -> StoreError {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        fjall::Error::Locked => StoreError::InUse { path: path.to_path_buf() },
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if !matches!(source.kind(), InvalidData | NotFound | UnexpectedEof) =>
        {
            StoreError::io("open the store", path)(source)
        }
        error => StoreError::corrupt(path, format!("the storage engine cannot read it: {error}")),
    }
}

/// The engine's refusal to write.
fn failed(action: &'static str, path: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Poisoned => StoreError::Broken,
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => StoreError::io(action, path)(source),
        error => StoreError::Engine(error.to_string()),
    }
}
