//! The write-ahead log: one write per commit to a file that has been made ready before.
//!
//! A commit is a [`frame`], appended to the active [`segment`]. When that is full the next one is used at once, while a
//! [`keeper`] thread folds the full one into the [checkpoint](super::checkpoint), and only when all of it is on the disk
//! there makes the file ready to be used again. So no commit ever waits for the checkpoint, but when it is several
//! segments behind; then it does, for the log never grows beyond [`keeper::SEGMENTS_MAX`] files.
//!
//! [`scan`] reads the log at start. Forcing it to the disk goes by positions: whoever waits for a position is done once
//! anyone has forced the log beyond it, so any number of waiters share one `fdatasync`.

pub(super) mod faults;
mod frame;
mod keeper;
mod scan;
mod segment;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use foldhash::fast::RandomState;

use self::faults::Faults;
pub(super) use self::frame::Entry;
use self::frame::Position;
use self::keeper::Keeper;
#[cfg(test)]
pub(super) use self::keeper::SEGMENTS_MAX;
use self::scan::Scan;
use self::segment::{FIRST_FRAME, Segment};
use super::checkpoint::Checkpoint;
use super::folder::sync_folder;
use super::{Record, StoreCounts, StoreError};

/// How large segments are, and where tests make them fail.
pub(super) struct LogConfig {
    /// The size of a new folder's first segment. Each one made later is twice as large as the largest before, up to a limit.
    pub(super) first_bytes: u32,
    /// That limit: a segment is held in memory while it is folded, and there may be five on the disk.
    pub(super) bytes_max: u32,
    pub(super) faults: Faults,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { first_bytes: 1 << 20, bytes_max: 32 << 20, faults: Faults::default() }
    }
}

/// A log that was read and found sound, and is not yet in use.
pub(super) struct Sound {
    scan: Scan,
}

/// The log in use.
pub(super) struct Log {
    writer: Mutex<Writer>,
    /// Held by whoever forces the log to the disk.
    forcing: Mutex<()>,
    /// How far the log is known to be on the disk, packed.
    forced: AtomicU64,
    health: Health,
    keeper: Arc<Keeper>,
    thread: Mutex<Option<JoinHandle<()>>>,
    waited_us: AtomicU64,
}

#[derive(Default)]
struct Health {
    /// A call failed; nothing is written before `reopen`.
    broken: AtomicBool,
    /// Forcing failed: what the kernel still has need not be on the disk, though it will not say so again.
    distrusted: AtomicBool,
    closed: AtomicBool,
}

#[derive(Default)]
struct Writer {
    active: Option<Arc<Segment>>,
    /// Where the active segment, or without one the last that was, ends.
    at: u32,
    /// Reused from commit to commit.
    frame: Vec<u8>,
    /// What holds frames that are not known to be on the disk, in order; a segment that only has a head, too, since without that nothing
    /// behind it counts.
    unforced: Vec<Arc<Segment>>,
}

/// Makes the first segment.
pub(super) fn create(folder: &Path, config: &LogConfig) -> Result<(), StoreError> {
    std::fs::create_dir(folder).map_err(StoreError::io("make", folder))?;
    Segment::make(folder, 1, config.first_bytes, &config.faults).map(drop)
}

/// Reads the log behind what has been folded, and changes nothing.
///
/// # Errors
/// When it is damaged in a way that no crash explains.
pub(super) fn read(folder: &Path, folded: u32) -> Result<Sound, StoreError> {
    Ok(Sound { scan: scan::scan(folder, folded)? })
}

/// What a log of these segments, the first of them number 1, comes back with: of each segment that counts where its last
/// frame ends, and the latest bytes of each key, which lacks them when it was removed. Files are read by the same code;
/// this is for whoever tests it.
///
/// # Errors
/// When the log is damaged in a way that no crash explains.
pub fn read_log(segments: Vec<Vec<u8>>) -> Result<ReadLog, StoreError> {
    let sound = Sound { scan: scan::scan_bytes(segments)? };
    let latest = sound.latest()?.into_iter().map(|entry| (entry.key.to_vec(), entry.value.map(<[u8]>::to_vec)));
    Ok(ReadLog { ends: sound.scan.used.iter().map(|used| used.bytes.len()).collect(), latest: latest.collect() })
}

/// See [`read_log`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadLog {
    /// In bytes from each segment's start.
    pub ends: Vec<usize>,
    /// Ascending by key.
    pub latest: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Sound {
    /// The latest entry of each key, ascending.
    pub(super) fn latest(&self) -> Result<Vec<Entry<'_>>, StoreError> {
        let mut entries = Vec::new();
        for used in &self.scan.used {
            for entry in used.frames().flat_map(|frame| frame.entries().collect::<Vec<_>>()) {
                entries.push(entry.map_err(|_| not_ours(&used.path))?);
            }
        }
        Ok(latest_of(entries))
    }

    /// Clears away what a crash left, and takes the log into use.
    pub(super) fn start(self, folder: &Path, checkpoint: Checkpoint, config: LogConfig) -> Result<Log, StoreError> {
        let faults = &config.faults;
        let Scan { used, unused, folded, cut } = self.scan;
        segment::remove_draft(folder)?;
        // A process that was killed may have left names to the kernel, of which segments are used from here on.
        sync_folder(folder).map_err(StoreError::io("force", folder))?;
        for number in folded {
            Segment::open(folder, number, faults)?.remove()?;
        }
        if let Some(Position { segment, at }) = cut {
            tracing::warn!(segment, at, "the log ended in an unfinished write; what lies behind it was dropped");
        }
        // The last first: at every moment the folder is one that a crash could have left.
        let mut spares = Vec::new();
        for (number, data_end) in unused.into_iter().rev() {
            let segment = Segment::open(folder, number, faults)?;
            segment.erase(0..u32::try_from(data_end).unwrap_or(segment.bytes))?;
            // A process that was killed while it made the segment zeros may have left them to the kernel.
            segment.force()?;
            spares.insert(0, Arc::new(segment));
        }
        let mut ends = Vec::new();
        for used in used.into_iter().rev() {
            let segment = Segment::open(folder, used.number, faults)?;
            let end = u32::try_from(used.bytes.len()).unwrap_or(segment.bytes);
            if ends.is_empty() && used.data_end > used.bytes.len() {
                segment.erase(end..u32::try_from(used.data_end).unwrap_or(segment.bytes))?;
            }
            // A process that was killed may have left it to the kernel. From here on others are told of it, a part at a time, and
            // must not be left with what the disk then loses.
            segment.force()?;
            ends.insert(0, (Arc::new(segment), end));
        }
        let mut writer = Writer { unforced: ends.iter().map(|(segment, _)| segment.clone()).collect(), ..Writer::default() };
        if let Some((active, end)) = ends.pop() {
            (writer.active, writer.at) = (Some(active), end);
        }
        let keeper = Arc::new(Keeper::new(folder, checkpoint, writer.active.as_deref(), ends, spares, config));
        let log = Log {
            writer: Mutex::new(writer),
            forcing: Mutex::default(),
            forced: AtomicU64::new(0),
            health: Health::default(),
            keeper: keeper.clone(),
            thread: Mutex::default(),
            waited_us: AtomicU64::new(0),
        };
        let thread = thread::Builder::new().name("checkpoint".to_owned()).spawn(move || keeper.run());
        *lock(&log.thread) = Some(thread.map_err(StoreError::io("start a thread for", folder))?);
        Ok(log)
    }
}

/// The last entry of each key, in the order of the keys.
fn latest_of(entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    // Before they are sorted: most updates are of few keys.
    let latest: HashMap<&[u8], Entry<'_>, RandomState> = entries.into_iter().map(|entry| (entry.key, entry)).collect();
    let mut latest: Vec<Entry<'_>> = latest.into_values().collect();
    latest.sort_unstable_by_key(|entry| entry.key);
    latest
}

fn not_ours(path: &Path) -> StoreError {
    StoreError::corrupt(path, "a frame of the log is intact and holds something else than records")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// The segments that the next forcing is of.
    #[cfg(test)]
    pub(super) fn unforced(&self) -> Vec<u32> {
        lock(&self.writer).unforced.iter().map(|segment| segment.number).collect()
    }

    /// Appends the records as one frame. Returns where that ends; the kernel has it then.
    pub(super) fn append(&self, records: &[Record]) -> Result<Position, StoreError> {
        let mut writer = lock(&self.writer);
        self.usable()?;
        if records.is_empty() {
            return Ok(writer.end());
        }
        let forced = Position::from_u64(self.forced.load(Ordering::Acquire));
        self.append_to(&mut writer, records, forced).inspect_err(|_| self.health.broken.store(true, Ordering::Release))
    }

    fn append_to(&self, writer: &mut Writer, records: &[Record], forced: Position) -> Result<Position, StoreError> {
        let too_large = || StoreError::Engine("a commit is too large for the log".to_owned());
        frame::begin(&mut writer.frame);
        records.iter().try_for_each(|record| frame::push(&mut writer.frame, record)).ok_or_else(too_large)?;
        let needed = u32::try_from(writer.frame.len() + frame::FRAME_BYTES_MIN).map_err(|_| too_large())?;
        if !writer.has_room(needed) {
            self.next_segment(writer, needed)?;
        }
        let Some(active) = &writer.active else { return Err(StoreError::Broken) };
        let position = Position { segment: active.number, at: writer.at };
        frame::seal(&mut writer.frame, position, forced).ok_or_else(too_large)?;
        active.write(&writer.frame, writer.at)?;
        writer.at += u32::try_from(writer.frame.len()).map_err(|_| too_large())?;
        if writer.unforced.last().is_none_or(|last| last.number != active.number) {
            writer.unforced.push(active.clone());
        }
        Ok(writer.end())
    }

    /// Begins the next segment that has so much room. Waits for the keeper where there is none.
    fn next_segment(&self, writer: &mut Writer, needed: u32) -> Result<(), StoreError> {
        let since = Instant::now();
        loop {
            let next = self.keeper.spare(needed)?;
            next.write_head(writer.at)?;
            self.keeper.begun(&next, writer.active.replace(next.clone()).map(|full| (full, writer.at)));
            writer.at = FIRST_FRAME;
            writer.unforced.push(next);
            if writer.has_room(needed) {
                break;
            }
        }
        let folded = self.keeper.folded();
        writer.unforced.retain(|segment| segment.number > folded);
        let waited_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited_us.fetch_add(waited_us, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until the log is on the disk up to a position.
    pub(super) fn force_to(&self, position: Position) -> Result<(), StoreError> {
        let _forcing = lock(&self.forcing);
        if Position::from_u64(self.forced.load(Ordering::Acquire)) >= position {
            return Ok(());
        }
        self.force()
    }

    /// Forces all that was appended before the call to the disk. Works on a broken log too, if forcing never failed.
    pub(super) fn force_all(&self) -> Result<(), StoreError> {
        let _forcing = lock(&self.forcing);
        self.force()
    }

    fn force(&self) -> Result<(), StoreError> {
        self.open()?;
        if self.health.distrusted.load(Ordering::Acquire) {
            return Err(StoreError::Broken);
        }
        let (segments, end) = {
            let writer = lock(&self.writer);
            (writer.unforced.clone(), writer.end())
        };
        for segment in &segments {
            segment.force().inspect_err(|_| {
                self.health.distrusted.store(true, Ordering::Release);
                self.health.broken.store(true, Ordering::Release);
            })?;
        }
        self.forced.fetch_max(end.to_u64(), Ordering::AcqRel);
        let mut writer = lock(&self.writer);
        let newest = writer.end();
        writer.unforced.retain(|segment| segment.number > end.segment || segment.number == end.segment && newest != end);
        Ok(())
    }

    /// Goes on in a segment of its own after a failure. Where forcing failed, all that the log holds is first folded into
    /// the checkpoint, and so written anew.
    pub(super) fn reopen(&self) -> Result<(), StoreError> {
        self.open()?;
        let _forcing = lock(&self.forcing);
        let mut writer = lock(&self.writer);
        let distrusted = self.health.distrusted.load(Ordering::Acquire);
        if let Some(active) = writer.active.take() {
            self.keeper.close(active, writer.at);
        }
        if distrusted {
            writer.unforced.clear();
            self.keeper.fold_all()?;
        }
        self.next_segment(&mut writer, 0)?;
        self.health.distrusted.store(false, Ordering::Release);
        self.health.broken.store(false, Ordering::Release);
        Ok(())
    }

    /// Ends the keeper, and with it all work on the folder.
    pub(super) fn close(&self) {
        self.health.closed.store(true, Ordering::Release);
        self.keeper.stop();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread panicked");
        }
    }

    fn open(&self) -> Result<(), StoreError> {
        if self.health.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Whether the log takes commits.
    pub(super) fn usable(&self) -> Result<(), StoreError> {
        self.open()?;
        if self.health.broken.load(Ordering::Acquire) { Err(StoreError::Broken) } else { Ok(()) }
    }

    /// Takes no commits before it was reopened.
    pub(super) fn mark_broken(&self) {
        self.health.broken.store(true, Ordering::Release);
    }

    /// Whether to append the records may have to wait for the keeper.
    pub(super) fn may_wait(&self, records: &[Record]) -> bool {
        let fits = |needed| lock(&self.writer).has_room(needed);
        !self.keeper.has_spare() && !u32::try_from(frame::bytes_max(records)).is_ok_and(fits)
    }

    /// Waits until the keeper has nothing left to do.
    #[cfg(test)]
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        self.keeper.settle()
    }

    pub(super) fn counts(&self) -> StoreCounts {
        StoreCounts { waited_us: self.waited_us.load(Ordering::Relaxed), ..self.keeper.counts() }
    }
}

/// The keeper holds the checkpoint, which nobody may work on after this.
impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

impl Writer {
    fn end(&self) -> Position {
        Position { segment: self.active.as_ref().map_or(0, |active| active.number), at: self.at }
    }

    fn has_room(&self, needed: u32) -> bool {
        self.active.as_ref().is_some_and(|active| active.bytes.saturating_sub(self.at) >= needed)
    }
}
