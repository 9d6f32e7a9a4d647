//! What the log has been folded into: a tree of tables, sorted by key, from which the counters are read at start.
//!
//! The tree is fjall's engine, used without fjall: a full segment of the log is written as tables of its own, in one
//! step, and nothing else ever is. So there is no journal besides our log, no memtable, no thread of the engine's, and a
//! crash leaves at worst tables that no manifest lists. How far the log has been folded stands in the tree itself.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lsm_tree::compaction::Leveled;
use lsm_tree::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use lsm_tree::config::{CompressionPolicy, FilterPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Error, Guard, SeqNo, SequenceNumberCounter};

use super::folder::sync_folder;
use super::format::FOLDED_KEY;
use super::{StoreError, log};

/// Records are read at start only, from end to end, so a cache has nothing to win.
const CACHE_BYTES: u64 = 4 << 20;

/// How many entries are folded between two looks at whether to stop.
const ENTRIES_BETWEEN_LOOKS: usize = 4_096;

/// The open tree.
pub(super) struct Checkpoint {
    path: PathBuf,
    tree: AnyTree,
    folded: u32,
    stop: Stop,
    /// Set after a failure, until the tree was opened anew: what is on the disk may be newer than what is held of it.
    stale: bool,
}

/// Says that what the checkpoint is at is to be given up: the next start does it again, from what is on the disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For the engine, which gives up what fails.
    fn check(&self) -> lsm_tree::Result<()> {
        if self.is_asked_for() { Err(Error::Io(std::io::ErrorKind::Interrupted.into())) } else { Ok(()) }
    }
}

/// Looks at every record that is merged whether to go on, and changes none.
impl CompactionFilter for Stop {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        self.check().map(|()| Verdict::Keep)
    }
}

impl Factory for Stop {
    fn name(&self) -> &str {
        "stop"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

/// What one step of compaction left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compacted {
    /// Perhaps more.
    OneStep,
    /// Nothing.
    AllThereIs,
}

impl Checkpoint {
    /// Makes an empty tree, complete and on the disk when this returns.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        open_tree(path, &Stop::default()).map(drop).map_err(|error| failed("make the checkpoint", path, error))
    }

    /// Opens the tree, whose files were [verified](super::manifest) before: the engine takes away what it does not list.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let stop = Stop::default();
        let tree = open_found(path, &stop)?;
        let folded = tree.get(FOLDED_KEY, SeqNo::MAX).map_err(|error| unreadable(path, error))?;
        let folded = match folded.as_deref().map(<[u8; 4]>::try_from) {
            None => 0,
            Some(Ok(number)) => u32::from_le_bytes(number),
            Some(Err(_)) => return Err(StoreError::corrupt(path, "it does not say how far the log has been folded into it")),
        };
        Ok(Self { path: path.to_path_buf(), tree, folded, stop, stale: false })
    }

    /// Ends whatever it does, from then on: with [`StoreError::Closed`], and nothing has changed.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The newest segment of the log that it holds all of; 0 for none.
    pub(super) fn folded(&self) -> u32 {
        self.folded
    }

    /// Calls `each` with every key in a range and its bytes, ascending.
    pub(super) fn visit(
        &self,
        keys: (Bound<&[u8]>, Bound<&[u8]>),
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for pair in self.tree.range::<&[u8], _>(keys, SeqNo::MAX, None) {
            let (key, bytes) = pair.into_inner().map_err(|error| unreadable(&self.path, error))?;
            if *key != *FOLDED_KEY {
                each(&key, &bytes)?;
            }
        }
        Ok(())
    }

    /// Takes in a segment of the log, all or nothing; on the disk when this returns. The entries are ascending by key.
    pub(super) fn fold(&mut self, number: u32, entries: &[log::Entry<'_>]) -> Result<(), StoreError> {
        self.freshen()?;
        let folded = catch_unwind(AssertUnwindSafe(|| {
            let mut ingestion = self.tree.ingestion()?;
            for some in entries.chunks(ENTRIES_BETWEEN_LOOKS) {
                self.stop.check()?;
                for log::Entry { key, value } in some {
                    match value {
                        Some(value) => ingestion.write(*key, *value)?,
                        None => ingestion.write_tombstone(*key)?,
                    }
                }
            }
            ingestion.write(FOLDED_KEY, number.to_le_bytes())?;
            ingestion.finish().map(drop)
        }));
        self.settle("write to the checkpoint", folded)?;
        self.folded = number;
        Ok(())
    }

    /// How many runs of tables may overlap each other.
    pub(super) fn runs(&self) -> usize {
        self.tree.l0_run_count()
    }

    /// Merges tables where too many lie over each other.
    pub(super) fn compact(&mut self) -> Result<Compacted, StoreError> {
        self.freshen()?;
        let before = self.tree.current_version().id();
        // Nobody reads older versions of a record.
        let newest = self.tree.get_highest_seqno().unwrap_or_default();
        let compacted = catch_unwind(AssertUnwindSafe(|| self.tree.compact(Arc::new(Leveled::default()), newest)));
        self.settle("compact the checkpoint", compacted)?;
        Ok(if self.tree.current_version().id() == before { Compacted::AllThereIs } else { Compacted::OneStep })
    }

    fn settle(&mut self, action: &'static str, done: std::thread::Result<lsm_tree::Result<()>>) -> Result<(), StoreError> {
        let error = match done {
            Ok(Ok(())) => return Ok(()),
            // What it left unfinished is taken away at the next start.
            _ if self.stop.is_asked_for() => return Err(StoreError::Closed),
            Ok(Err(error)) => failed(action, &self.path, error),
            Err(_) => StoreError::Engine("it panicked".to_owned()),
        };
        self.stale = true;
        // Now, since what was not finished takes room; where that fails, before anything else is done.
        drop(self.freshen());
        Err(error)
    }

    /// After a failure the tree is opened anew, which takes away what was not finished.
    fn freshen(&mut self) -> Result<(), StoreError> {
        if self.stale {
            self.tree = open_found(&self.path, &self.stop)?;
            self.stale = false;
        }
        Ok(())
    }
}

/// Opens a tree that is there already.
fn open_found(path: &Path, stop: &Stop) -> Result<AnyTree, StoreError> {
    // Whoever was killed, or failed, may have left the newest manifest's name to the kernel. It is on the disk before the engine takes away
    // what that one does not list, and before the log does without what it does.
    sync_folder(path).map_err(StoreError::io("force", path))?;
    // The engine asserts what it expects of its files.
    match catch_unwind(|| open_tree(path, stop)) {
        Ok(opened) => opened.map_err(|error| unreadable(path, error)),
        Err(_) => Err(StoreError::corrupt(path, "the storage engine gave up on it")),
    }
}

fn open_tree(path: &Path, stop: &Stop) -> lsm_tree::Result<AnyTree> {
    let sequence = SequenceNumberCounter::default();
    let tree = Config::new(path, sequence.clone(), SequenceNumberCounter::default())
        .with_compaction_filter_factory(Some(Arc::new(stop.clone())))
        .use_cache(Arc::new(Cache::with_capacity_bytes(CACHE_BYTES)))
        // Nothing but one key is ever looked up, so filters would be dead weight.
        .filter_policy(FilterPolicy::disabled())
        .data_block_compression_policy(CompressionPolicy::disabled())
        .index_block_compression_policy(CompressionPolicy::disabled())
        .open()?;
    if let Some(newest) = tree.get_highest_seqno() {
        sequence.fetch_max(newest + 1);
    }
    Ok(tree)
}

/// The engine's refusal of the folder.
fn unreadable(path: &Path, error: Error) -> StoreError {
    use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    match error {
        Error::Io(source) if !matches!(source.kind(), InvalidData | NotFound | UnexpectedEof) => {
            StoreError::io("open the checkpoint", path)(source)
        }
        error => StoreError::corrupt(path, format!("the storage engine cannot read it: {error}")),
    }
}

/// The engine's refusal to write.
fn failed(action: &'static str, path: &Path, error: Error) -> StoreError {
    match error {
        Error::Io(source) => StoreError::io(action, path)(source),
        error => StoreError::Engine(error.to_string()),
    }
}
