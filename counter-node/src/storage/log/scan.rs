//! Reads the log before it is used, and says what of it counts. Changes nothing.
//!
//! A crash leaves a log that ends somewhere: what the kernel or the disk had not taken is missing. In the modes that do
//! not force each commit a power failure may leave holes too, with later frames intact behind them. All from the first
//! hole on is then dropped: a tail is missing, and never a middle. But what was on the disk once and reads differently now is
//! corruption, and dropping what lies behind it would lose what was promised to be safe. The two are told apart by:
//!
//! - what later frames say: each names a position up to which the log was known to be on the disk when it was written;
//! - what a hole looks like: segments are zeros before they are used, and a disk writes whole sectors, so bytes that never
//!   reached it are zeros to the end of their sector, or of their frame, which itself never ends in a zero.

use std::path::{Path, PathBuf};

use super::frame::{self, Frame, Position};
use super::segment::{self, FIRST_FRAME};
use crate::storage::StoreError;

/// What a disk writes as one; so the least that a power failure can leave unwritten.
const SECTOR_BYTES: usize = 512;

/// A segment with frames that count.
pub(super) struct Used {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    /// All up to where its last frame that counts ends.
    pub(super) bytes: Vec<u8>,
    /// Behind the last byte of the file that is not zero: there are zeros only behind `bytes` when it is no greater.
    pub(super) data_end: usize,
}

/// What of the log counts.
#[derive(Default)]
pub(super) struct Scan {
    /// Ascending, without a gap. The last may have a torn end.
    pub(super) used: Vec<Used>,
    /// The segments after that, ascending, and how far each is not zeros.
    pub(super) unused: Vec<(u32, usize)>,
    /// Segments that were folded into the checkpoint and not yet released.
    pub(super) folded: Vec<u32>,
    /// Where the log was cut, if something was dropped.
    pub(super) cut: Option<Position>,
}

/// A segment as it was found.
struct Found {
    number: u32,
    path: PathBuf,
    bytes: Vec<u8>,
    /// Where the segment before it ends, if its own head is intact.
    previous_end: Option<u32>,
    /// Where its frames end, as far as they are intact from the first on.
    end: usize,
    /// Behind the last byte that is not zero.
    data_end: usize,
    /// The first intact frame behind `end`, if there is one.
    intact_behind: Option<usize>,
    /// The furthest position that an intact frame knew to be on the disk.
    forced: Position,
}

/// Where reading cannot go on.
struct Damage {
    segment: usize,
    at: usize,
}

/// Reads all segments that have not been folded into the checkpoint.
pub(super) fn scan(folder: &Path, folded: u32) -> Result<Scan, StoreError> {
    let mut released = Vec::new();
    let mut found: Vec<Found> = Vec::new();
    for number in segment::numbers(folder)? {
        if number <= folded {
            released.push(number);
            continue;
        }
        let expected = found.last().map_or(folded, |last| last.number).saturating_add(1);
        if number != expected {
            return Err(gone(folder, expected));
        }
        found.push(read(folder, number)?);
    }
    if found.is_empty() {
        return Err(gone(folder, folded.saturating_add(1)));
    }
    Ok(Scan { folded: released, ..settle(found)? })
}

/// Says what counts of segments that follow each other.
fn settle(found: Vec<Found>) -> Result<Scan, StoreError> {
    let mut scan = Scan::default();
    let (used, damage) = follow(&found);
    if let Some(damage) = damage {
        judge(&found, &damage)?;
        if let Some(segment) = found.get(damage.segment) {
            scan.cut = Some(Position { segment: segment.number, at: u32::try_from(damage.at).unwrap_or(u32::MAX) });
        }
    }
    for (index, segment) in found.into_iter().enumerate() {
        match used.get(index) {
            Some(end) => scan.used.push(segment.into_used(*end)),
            None => scan.unused.push((segment.number, segment.data_end)),
        }
    }
    Ok(scan)
}

/// What counts of segments that are held in memory, the first of them number 1.
pub(super) fn scan_bytes(segments: Vec<Vec<u8>>) -> Result<Scan, StoreError> {
    let found = (1..).zip(segments).map(|(number, bytes)| Found::of(segment::path_of(Path::new(""), number), number, bytes));
    settle(found.collect::<Result<_, _>>()?)
}

fn gone(folder: &Path, number: u32) -> StoreError {
    StoreError::corrupt(&segment::path_of(folder, number), "it is gone")
}

fn read(folder: &Path, number: u32) -> Result<Found, StoreError> {
    let path = segment::path_of(folder, number);
    let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
    Found::of(path, number, bytes)
}

impl Found {
    fn of(path: PathBuf, number: u32, bytes: Vec<u8>) -> Result<Self, StoreError> {
        if bytes.len() < segment::HEAD_BYTES {
            return Err(StoreError::corrupt(&path, "the log is damaged at byte 0"));
        }
        let previous_end = segment::parse_head(&bytes, number);
        let mut found = Self {
            number,
            path,
            previous_end,
            end: if previous_end.is_some() { segment::HEAD_BYTES } else { 0 },
            data_end: bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
            intact_behind: None,
            forced: Position::default(),
            bytes,
        };
        found.read_frames();
        Ok(found)
    }

    fn frame_at(&self, at: usize) -> Option<Frame<'_>> {
        let position = Position { segment: self.number, at: u32::try_from(at).ok()? };
        frame::parse(self.bytes.get(at..)?, position)
    }

    fn read_frames(&mut self) {
        if self.previous_end.is_some() {
            while let Some(Frame { forced, bytes, .. }) = self.frame_at(self.end) {
                self.forced = self.forced.max(forced);
                self.end += bytes;
            }
        }
        let mut at = (self.end + 1).max(segment::HEAD_BYTES);
        while at < self.data_end {
            let Some(Frame { forced, bytes, .. }) = self.frame_at(at) else {
                at += 1;
                continue;
            };
            self.forced = self.forced.max(forced);
            self.intact_behind.get_or_insert(at);
            at += bytes;
        }
    }

    /// Whether anything in it shows that it was begun.
    fn is_begun(&self) -> bool {
        self.previous_end.is_some() || self.intact_behind.is_some() || segment::has_number(&self.bytes, self.number)
    }

    fn into_used(self, end: usize) -> Used {
        let Self { number, path, mut bytes, data_end, .. } = self;
        bytes.truncate(end);
        Used { number, path, bytes, data_end }
    }

    /// Whether bytes are missing at `at` that never reached the disk, of a frame that ends at `end` at the latest.
    fn is_unwritten(&self, at: usize, end: usize) -> bool {
        let Some(torn) = self.bytes.get(at..end) else { return false };
        let to_boundary = (SECTOR_BYTES - at % SECTOR_BYTES).min(torn.len());
        let (first, rest) = torn.split_at(to_boundary);
        let is_zeros = |sector: &[u8]| !sector.is_empty() && sector.iter().all(|byte| *byte == 0);
        is_zeros(first) || rest.chunks(SECTOR_BYTES).any(is_zeros)
    }
}

/// Goes through the segments for as long as each goes on where the one before it ends. Returns where each one that counts
/// ends, and where something is damaged.
fn follow(found: &[Found]) -> (Vec<usize>, Option<Damage>) {
    let mut ends = Vec::new();
    for (index, segment) in found.iter().enumerate() {
        let later_is_begun = || found.iter().skip(index + 1).any(Found::is_begun);
        if segment.previous_end.is_none() {
            let damaged = segment.is_begun() || later_is_begun();
            return (ends, damaged.then_some(Damage { segment: index, at: 0 }));
        }
        let next = found.get(index + 1).and_then(|next| next.previous_end);
        match next.map(|end| usize::try_from(end).unwrap_or(usize::MAX)) {
            // What lies behind was written in vain: the store broke then, and went on in the next segment.
            Some(end) if end <= segment.end => ends.push(end),
            None if segment.data_end <= segment.end && !later_is_begun() => {
                ends.push(segment.end);
                return (ends, None);
            }
            None if segment.data_end <= segment.end => ends.push(segment.end),
            Some(_) | None => {
                ends.push(segment.end);
                return (ends, Some(Damage { segment: index, at: segment.end }));
            }
        }
    }
    (ends, None)
}

/// Refuses damage that no crash leaves behind.
fn judge(found: &[Found], damage: &Damage) -> Result<(), StoreError> {
    let Some(segment) = found.get(damage.segment) else { return Ok(()) };
    let corrupt = |why: &str| Err(StoreError::corrupt(&segment.path, format!("the log is damaged at byte {}{why}", damage.at)));
    let position = Position { segment: segment.number, at: u32::try_from(damage.at).unwrap_or(u32::MAX) };
    if found.iter().any(|segment| segment.forced > position) {
        return corrupt(", which was on the disk before");
    }
    let told = segment.bytes.get(damage.at..).and_then(frame::length).filter(|_| damage.at >= segment::HEAD_BYTES);
    let told = told.and_then(|length| damage.at.checked_add(length)).filter(|end| *end <= segment.bytes.len());
    // Where its length is not known, it ends where something else begins, or nothing follows.
    let end = match (damage.at, told) {
        (0, _) => segment::HEAD_BYTES_WRITTEN,
        (_, Some(end)) => end,
        (_, None) => segment.intact_behind.unwrap_or(segment.data_end),
    };
    let is_cut_off = segment.data_end < end || segment.data_end < damage.at.saturating_add(frame::LENGTH_BYTES);
    if is_cut_off || end <= damage.at || segment.is_unwritten(damage.at, end) {
        return Ok(());
    }
    corrupt("")
}

impl Used {
    /// Its frames, in order.
    pub(super) fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        frames(&self.bytes, self.number)
    }
}

/// The frames of a segment, up to the first that is not intact.
pub(super) fn frames(bytes: &[u8], number: u32) -> impl Iterator<Item = Frame<'_>> {
    let mut at = FIRST_FRAME;
    std::iter::from_fn(move || {
        let frame = frame::parse(bytes.get(usize::try_from(at).ok()?..)?, Position { segment: number, at })?;
        at = at.checked_add(u32::try_from(frame.bytes).ok()?)?;
        Some(frame)
    })
}
