//! The thread that keeps the log short and always has the next segment ready.
//!
//! Its work, the most urgent first: to have a spare segment; to fold the oldest full one into the checkpoint and make its
//! file ready to be used again; to compact the checkpoint. It runs at a low priority, and shares no lock with commits but
//! the list of segments, which it holds for moments only.
//!
//! When something fails it is tried again, after a while or when somebody asks. Until then nothing is lost: the full
//! segments stay, and are read at the next start.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::faults::{Faults, Step};
use super::segment::{FIRST_FRAME, Segment};
use super::{LogConfig, latest_of, lock, not_ours, scan};
use crate::storage::checkpoint::{Checkpoint, Compacted, Stop};
use crate::storage::{StoreCounts, StoreError};

/// How many files the log has at most: the active one, a spare, and three that wait to be folded.
pub(in crate::storage) const SEGMENTS_MAX: usize = 5;
/// Of the volume, all segments together may take no more than about a third.
const VOLUME_SHARE: u64 = 16;
const RETRY: Duration = Duration::from_secs(1);
/// While fewer runs of the checkpoint overlap than this, full segments go before its compaction.
const RUNS_MAX: usize = 12;
/// So low that the kernel gives most of a busy core to the requests, and not so low that the keeper starves.
const NICE: i32 = 5;

/// A full segment.
struct Full {
    segment: Arc<Segment>,
    end: u32,
    /// Set when forcing had failed: what cannot be read of it any more will be written again from the table.
    distrusted: bool,
}

struct Segments {
    full: VecDeque<Full>,
    spares: VecDeque<Arc<Segment>>,
    has_active: bool,
    number_next: u32,
    bytes_next: u32,
    /// Whether the checkpoint may have something to compact.
    compact: bool,
    /// How many jobs were begun.
    jobs: u64,
    /// Which of them was the last that failed, and the reason, if nobody has been told it yet.
    failed_job: u64,
    failure: Option<StoreError>,
    /// Set while failed work waits to be tried again.
    pausing: bool,
    stopping: bool,
}

/// What the thread and the log share.
pub(super) struct Keeper {
    folder: PathBuf,
    bytes_max: u32,
    segments: Mutex<Segments>,
    /// Something changed for the thread.
    work: Condvar,
    /// Something changed for those who wait for the thread.
    done: Condvar,
    /// The thread's alone.
    checkpoint: Mutex<Checkpoint>,
    /// Ends the checkpoint's work.
    stop: Stop,
    faults: Faults,
    folded: AtomicU64,
    folds: AtomicU64,
    failures: AtomicU64,
}

enum Job {
    Make { number: u32, bytes: u32 },
    Fold { segment: Arc<Segment>, end: u32, distrusted: bool },
    Compact,
}

impl Keeper {
    pub(super) fn new(
        folder: &Path,
        checkpoint: Checkpoint,
        active: Option<&Segment>,
        full: Vec<(Arc<Segment>, u32)>,
        spares: Vec<Arc<Segment>>,
        config: LogConfig,
    ) -> Self {
        let LogConfig { first_bytes, bytes_max, faults } = config;
        let all = || full.iter().map(|(segment, _)| &**segment).chain(active).chain(spares.iter().map(|spare| &**spare));
        let bytes_max = bytes_max.min(share_of_volume(folder)).max(first_bytes);
        let segments = Segments {
            number_next: all().map(|segment| segment.number).max().unwrap_or(0).saturating_add(1),
            bytes_next: all().map(|segment| segment.bytes).max().unwrap_or(first_bytes).min(bytes_max),
            has_active: active.is_some(),
            full: full.into_iter().map(|(segment, end)| Full { segment, end, distrusted: false }).collect(),
            spares: spares.into(),
            compact: true,
            jobs: 0,
            failed_job: 0,
            failure: None,
            pausing: false,
            stopping: false,
        };
        Self {
            folder: folder.to_path_buf(),
            bytes_max,
            segments: Mutex::new(segments),
            work: Condvar::new(),
            done: Condvar::new(),
            folded: AtomicU64::new(checkpoint.folded().into()),
            stop: checkpoint.stop(),
            checkpoint: Mutex::new(checkpoint),
            faults,
            folds: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The next segment to begin; waits until there is one. `needed`: how long a frame has to fit into the one after it at
    /// the latest.
    ///
    /// # Errors
    /// When the thread tried meanwhile and failed.
    pub(super) fn spare(&self, needed: u32) -> Result<Arc<Segment>, StoreError> {
        let mut segments = lock(&self.segments);
        segments.bytes_next = segments.bytes_next.max(needed.saturating_add(FIRST_FRAME));
        if let Some(spare) = segments.spares.front() {
            return Ok(spare.clone());
        }
        let mut segments = self.until(segments, |segments| !segments.spares.is_empty())?;
        segments.spares.front_mut().map(|spare| spare.clone()).ok_or(StoreError::Closed)
    }

    /// The spare was begun; the one before it is full.
    pub(super) fn begun(&self, spare: &Segment, full: Option<(Arc<Segment>, u32)>) {
        let mut segments = lock(&self.segments);
        segments.spares.retain(|other| other.number != spare.number);
        segments.full.extend(full.map(|(segment, end)| Full { segment, end, distrusted: false }));
        segments.has_active = true;
        segments.bytes_next = segments.bytes_next.max(spare.bytes.saturating_mul(2).min(self.bytes_max));
        self.work.notify_one();
    }

    /// Nothing more is appended to the active segment, and there is no next one yet.
    pub(super) fn close(&self, segment: Arc<Segment>, end: u32) {
        let mut segments = lock(&self.segments);
        segments.full.push_back(Full { segment, end, distrusted: false });
        segments.has_active = false;
        self.work.notify_one();
    }

    /// Waits until no full segment is left. None of them is trusted to be on the disk.
    pub(super) fn fold_all(&self) -> Result<(), StoreError> {
        let mut segments = lock(&self.segments);
        segments.full.iter_mut().for_each(|full| full.distrusted = true);
        self.until(segments, |segments| segments.full.is_empty()).map(drop)
    }

    /// Wakes the thread, even from waiting after a failure, and waits until it got there or failed. What it was at
    /// already may have nothing to do with it, so only a job that it begins from now on counts as failed.
    fn until<'a>(
        &self,
        mut segments: std::sync::MutexGuard<'a, Segments>,
        reached: impl Fn(&Segments) -> bool,
    ) -> Result<std::sync::MutexGuard<'a, Segments>, StoreError> {
        let begun = segments.jobs;
        loop {
            if reached(&segments) {
                return Ok(segments);
            }
            if segments.stopping {
                return Err(StoreError::Closed);
            }
            if segments.failed_job > begun {
                return Err(segments.failure.take().unwrap_or(StoreError::Broken));
            }
            segments.pausing = false;
            self.work.notify_one();
            segments = self.done.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there is nothing left to do.
    #[cfg(test)]
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        let settled = |segments: &Segments| segments.full.is_empty() && !segments.compact && !segments.spares.is_empty();
        self.until(lock(&self.segments), settled).map(drop)
    }

    pub(super) fn has_spare(&self) -> bool {
        !lock(&self.segments).spares.is_empty()
    }

    /// The newest segment that the checkpoint holds all of.
    pub(super) fn folded(&self) -> u32 {
        u32::try_from(self.folded.load(Ordering::Acquire)).unwrap_or(u32::MAX)
    }

    /// Ends the thread, which gives up what it is at: a segment that is not folded is read again at the next start.
    pub(super) fn stop(&self) {
        self.stop.now();
        lock(&self.segments).stopping = true;
        self.work.notify_one();
        self.done.notify_all();
    }

    pub(super) fn counts(&self) -> StoreCounts {
        let full = lock(&self.segments).full.len() as u64;
        StoreCounts {
            full_segments: full,
            folds: self.folds.load(Ordering::Relaxed),
            fold_failures: self.failures.load(Ordering::Relaxed),
            ..StoreCounts::default()
        }
    }

    /// The thread.
    pub(super) fn run(&self) {
        // Of this thread alone on Linux; elsewhere of the whole process, which must not be slowed down.
        if cfg!(target_os = "linux")
            && let Err(error) = rustix::process::setpriority_process(None, NICE)
        {
            tracing::debug!(%error, "the checkpoint thread runs at the ordinary priority");
        }
        let mut checkpoint = lock(&self.checkpoint);
        while let Some(job) = self.next(&checkpoint) {
            match self.perform(job, &mut checkpoint) {
                Ok(()) => lock(&self.segments).failure = None,
                Err(StoreError::Closed) => return,
                Err(error) => self.failed(error),
            }
            self.done.notify_all();
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self, checkpoint: &Checkpoint) -> Option<Job> {
        let mut segments = lock(&self.segments);
        loop {
            if segments.stopping {
                return None;
            }
            if segments.pausing {
                let (after, waited) = self.work.wait_timeout(segments, RETRY).unwrap_or_else(PoisonError::into_inner);
                segments = after;
                if waited.timed_out() {
                    segments.pausing = false;
                }
                continue;
            }
            if let Some(job) = segments.job(checkpoint) {
                segments.jobs += 1;
                return Some(job);
            }
            segments = self.work.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn perform(&self, job: Job, checkpoint: &mut Checkpoint) -> Result<(), StoreError> {
        match job {
            Job::Make { number, bytes } => {
                let spare = Segment::make(&self.folder, number, bytes, &self.faults)?;
                self.add_spare(spare);
                Ok(())
            }
            Job::Fold { segment, end, distrusted } => {
                self.fold(&segment, end, distrusted, checkpoint)?;
                self.folds.fetch_add(1, Ordering::Relaxed);
                self.folded.store(segment.number.into(), Ordering::Release);
                self.release(&segment, distrusted)
            }
            Job::Compact => {
                if let Compacted::AllThereIs = checkpoint.compact()? {
                    lock(&self.segments).compact = false;
                }
                Ok(())
            }
        }
    }

    fn fold(&self, segment: &Segment, end: u32, distrusted: bool, checkpoint: &mut Checkpoint) -> Result<(), StoreError> {
        self.faults.check(Step::Fold).map_err(StoreError::io("fold", &segment.path))?;
        let bytes = segment.read(end)?;
        let (mut entries, mut read) = (Vec::new(), u64::from(FIRST_FRAME));
        for frame in scan::frames(&bytes, segment.number) {
            read += frame.bytes as u64;
            for entry in frame.entries() {
                entries.push(entry.map_err(|_| not_ours(&segment.path))?);
            }
        }
        if read != u64::from(end) && !distrusted {
            return Err(StoreError::corrupt(&segment.path, format!("the log is damaged at byte {read}")));
        }
        checkpoint.fold(segment.number, &latest_of(entries))
    }

    /// The segment's file is free: it becomes a spare, or goes.
    fn release(&self, segment: &Segment, distrusted: bool) -> Result<(), StoreError> {
        let number = {
            let mut segments = lock(&self.segments);
            segments.full.retain(|full| full.segment.number != segment.number);
            segments.compact = true;
            let useful = segments.spares.is_empty() && segment.bytes >= segments.bytes_next && !distrusted;
            useful.then_some(segments.number_next)
        };
        self.done.notify_all();
        match number {
            Some(number) => segment.recycle(&self.folder, number).map(|spare| self.add_spare(spare)),
            None => segment.remove(),
        }
    }

    /// Only now its number is used up: the next start takes a gap in the numbers for a segment that is gone.
    fn add_spare(&self, spare: Segment) {
        let mut segments = lock(&self.segments);
        segments.number_next = segments.number_next.max(spare.number.saturating_add(1));
        segments.spares.push_back(Arc::new(spare));
    }

    fn failed(&self, error: StoreError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut segments = lock(&self.segments);
        if segments.failed_job == 0 || segments.failure.is_none() {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, cause, "the log cannot be folded into the checkpoint, or has no segment more; trying again");
        }
        segments.failed_job = segments.jobs;
        segments.failure = Some(error);
        segments.pausing = true;
    }
}

impl Segments {
    fn job(&mut self, checkpoint: &Checkpoint) -> Option<Job> {
        let files = self.full.len() + self.spares.len() + usize::from(self.has_active);
        if self.spares.is_empty() && files < SEGMENTS_MAX {
            return Some(Job::Make { number: self.number_next, bytes: self.bytes_next });
        }
        if self.compact && (self.full.is_empty() || checkpoint.runs() >= RUNS_MAX) {
            return Some(Job::Compact);
        }
        let Full { segment, end, distrusted } = self.full.front()?;
        Some(Job::Fold { segment: segment.clone(), end: *end, distrusted: *distrusted })
    }
}

/// How large a segment may become on this volume: a power of two.
fn share_of_volume(folder: &Path) -> u32 {
    let bytes = rustix::fs::statvfs(folder).map_or(u64::MAX, |volume| volume.f_frsize.saturating_mul(volume.f_blocks));
    u32::try_from(1_u64 << (bytes / VOLUME_SHARE).max(1).ilog2()).unwrap_or(u32::MAX)
}
