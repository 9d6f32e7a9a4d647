//! Where the counters stand when the process does not: the seam between the node and its disk.
//!
//! A [`Store`] knows bytes only; what a record means is its writer's business. Every record is absolute (all of one
//! counter, or all of one slot's generation and retired actors), so writing one twice, or a later one first, is harmless, and
//! a lost tail is merely old. [`open`] makes a [`VolumeStore`] (a log and its checkpoint, on a volume), a [`RedisStore`] or a
//! [`MemoryStore`].
//!
//! On a volume every commit is in the kernel when it returns, in every fsync mode: `kill -9` loses nothing that was
//! acknowledged. What [`Fsync`] chooses is how much a power failure may take.

mod checkpoint;
mod error;
mod folder;
mod format;
mod identity;
mod log;
mod manifest;
mod memory;
mod meta_file;
mod redis;
mod volume;

use std::cmp::Ordering;
use std::path::PathBuf;
use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::slot::Slot;
use counter_core::token::TokenName;

pub use error::StoreError;
pub use format::FORMAT;
pub use identity::Identity;
pub use log::{ReadLog, read_log};
pub use memory::MemoryStore;
pub use redis::{RedisConfig, RedisFailure, RedisStore};
pub use volume::VolumeStore;

/// When what was committed is forced from the kernel to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Before each commit returns: survives power loss.
    Always,
    /// Once a second, in the background: a power failure may take the last second or two.
    EverySecond,
    /// When the kernel pleases.
    Never,
}

impl Fsync {
    /// What a commit has to wait for in this mode.
    #[must_use]
    pub fn durability(self) -> Durability {
        match self {
            Self::Always => Durability::OnDisk,
            Self::EverySecond | Self::Never => Durability::InKernel,
        }
    }
}

/// What a commit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The bytes are the kernel's: they survive the process, not the machine.
    InKernel,
    /// The bytes are on the disk.
    OnDisk,
}

/// What a record is of; also how the committer is told that something changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A slot's own record, its generation and its retired actors. As news of a change it means all of its counters too.
    Slot(Slot),
    /// The time before which a slot's tokens are forgotten.
    Floor(Slot),
    /// One counter of a slot.
    Counter {
        /// The slot that the key belongs to.
        slot: Slot,
        /// The counter's key.
        key: Key,
    },
    /// The record of one token of a slot.
    Token {
        /// The slot that the token's counter belongs to.
        slot: Slot,
        /// The record's name.
        name: TokenName,
    },
}

impl Change {
    /// The change of a counter in the slot that its key lies in.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self::Counter { slot: key.slot(), key: key.clone() }
    }

    /// The slot that it is in.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Self::Slot(slot) | Self::Floor(slot) | Self::Counter { slot, .. } | Self::Token { slot, .. } => *slot,
        }
    }

    /// The order within a slot.
    fn rank(&self) -> (u8, Option<&Key>, Option<&TokenName>) {
        match self {
            Self::Slot(_) => (0, None, None),
            Self::Floor(_) => (1, None, None),
            Self::Counter { key, .. } => (2, Some(key), None),
            Self::Token { name, .. } => (3, None, Some(name)),
        }
    }
}

/// By slot, so that each slot has to be locked once; within it, its own record first, and tokens after counters.
impl Ord for Change {
    fn cmp(&self, other: &Self) -> Ordering {
        self.slot().cmp(&other.slot()).then_with(|| self.rank().cmp(&other.rank()))
    }
}

impl PartialOrd for Change {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The whole of one counter or slot as it shall stand on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it is the record of.
    pub of: Change,
    /// Its bytes; `None` removes it.
    pub bytes: Option<Vec<u8>>,
}

/// A record met while a store is opened.
#[derive(Clone, Copy, Debug)]
pub enum Loaded<'a> {
    /// A slot's record. It comes before the slot's floor, that before its counters, and they before its tokens.
    Slot {
        /// Which slot.
        slot: Slot,
        /// Its record, as it was committed.
        bytes: &'a [u8],
    },
    /// A slot's floor.
    Floor {
        /// Which slot.
        slot: Slot,
        /// Its record, as it was committed.
        bytes: &'a [u8],
    },
    /// A token's record.
    Token {
        /// The slot that it was committed under.
        slot: Slot,
        /// Its record, as it was committed.
        bytes: &'a [u8],
    },
    /// A counter's record.
    Counter {
        /// The slot that it was committed under.
        slot: Slot,
        /// The counter's key.
        key: &'a [u8],
        /// Its record, as it was committed.
        bytes: &'a [u8],
    },
}

impl Loaded<'_> {
    /// The slot that it was committed under.
    #[must_use]
    pub fn slot(&self) -> Slot {
        match self {
            Self::Slot { slot, .. } | Self::Floor { slot, .. } | Self::Counter { slot, .. } | Self::Token { slot, .. } => *slot,
        }
    }
}

/// Takes each record on the disk; an `Err` says why the bytes are no record, and makes the folder count as corrupt. Called
/// by several threads, for a slot by one.
pub type Visitor<'a> = dyn Fn(Loaded<'_>) -> Result<(), String> + Sync + 'a;

/// Names of the values that a store keeps besides records. Nothing else writes under them.
pub mod meta {
    /// The volume's random id, eight bytes, little-endian.
    pub const ORIGIN: &str = "origin";
    /// How often the volume was started, four bytes, little-endian.
    pub const STARTS: &str = "starts";
    /// Present (one byte) when the last process ended in order.
    pub const CLEAN: &str = "clean";
    /// The newest layout that the node has adopted, JSON.
    pub const LAYOUT: &str = "layout";
    /// The cluster that the volume belongs to, as text.
    pub const CLUSTER: &str = "cluster";
}

/// Durable bytes. All methods block, for as long as the disk does.
///
/// After an error a store stays broken until [`Store::reopen`] succeeds; what a failed commit left on the disk is all
/// of it or nothing of it, and which is not known.
pub trait Store: Send + Sync {
    /// Writes all of the records or none, and returns when they are as durable as demanded.
    ///
    /// # Errors
    /// When the disk cannot take them, or the store broke earlier.
    fn commit(&self, records: &[Record], durability: Durability) -> Result<(), StoreError>;

    /// Whether the store keeps what is committed. Where it does not, nothing need be.
    fn keeps(&self) -> bool {
        true
    }

    /// Whether to commit the records may take longer than handing bytes to the kernel does, even [`Durability::InKernel`].
    /// It is then made on a thread that may block.
    fn may_wait(&self, _records: &[Record]) -> bool {
        false
    }

    /// A `meta` value. Never waits for the disk, and answers while the store is broken.
    fn meta(&self, name: &str) -> Option<Vec<u8>>;

    /// Writes (or with `None` removes) `meta` values, all or none; on the disk, in every mode, when it returns.
    ///
    /// # Errors
    /// When the disk cannot take them, or the store broke earlier.
    fn put_meta(&self, values: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError>;

    /// Forces everything that was committed before the call to the disk, without holding up commits.
    ///
    /// # Errors
    /// When the disk could not take everything that was committed since the last call that succeeded.
    fn sync(&self) -> Result<(), StoreError>;

    /// Whether the store can still write, as far as is known without writing.
    ///
    /// # Errors
    /// Why it cannot.
    fn check(&self) -> Result<(), StoreError>;

    /// Closes the store, if it is open, and opens it again in place. Everyone who holds it goes on using it.
    ///
    /// # Errors
    /// When it cannot be opened; it is closed then, and may be tried again.
    fn reopen(&self) -> Result<(), StoreError>;

    /// Forces everything to the disk and closes the store for good.
    ///
    /// # Errors
    /// When the disk could not take everything; it is closed all the same.
    fn close(&self) -> Result<(), StoreError>;

    /// What goes on inside, for the metrics.
    fn counts(&self) -> StoreCounts {
        StoreCounts::default()
    }
}

/// What a store with a log has to tell; zeros where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Log segments that are full and not yet folded into the checkpoint.
    pub full_segments: u64,
    /// Log segments folded into the checkpoint since the start.
    pub folds: u64,
    /// Failed attempts to fold a segment, or to make one.
    pub fold_failures: u64,
    /// How long commits have waited for a segment, in microseconds.
    pub waited_us: u64,
}

/// Which store, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A data folder on a volume; made when it does not exist.
    Volume(PathBuf),
    /// Nothing is kept.
    Memory,
    /// An external Redis or Valkey.
    Redis(RedisConfig),
}

/// Opens the store and hands each record in it to `visitor`.
///
/// A folder that is refused is left as it was found: every checksum is compared before anything is written, and every
/// record visited before anything but the checkpoint's leftovers is touched (tables and manifests that nothing names).
///
/// # Errors
/// When the folder is in use, of a newer format, corrupt, or cannot be read or made.
pub fn open(config: &StoreConfig, visitor: &Visitor<'_>) -> Result<Arc<dyn Store>, StoreError> {
    match config {
        StoreConfig::Volume(path) => Ok(Arc::new(VolumeStore::open(path, visitor)?)),
        StoreConfig::Memory => Ok(Arc::new(MemoryStore::default())),
        StoreConfig::Redis(config) => Ok(Arc::new(RedisStore::open(config, visitor)?)),
    }
}
