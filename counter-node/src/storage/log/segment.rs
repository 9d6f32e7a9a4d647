//! One file of the log: preallocated, filled from its start, and used again.
//!
//! ```text
//! segment   head, 64 bytes · frames · zeros
//! head      "COUNTLOG" · number u32 · where the segment before it ends u32 · its own size u32 · XXH3-64 u64 · zeros
//! ```
//!
//! A segment is written full of zeros and forced to the disk before it is used, so that forcing a frame later costs the
//! frame's own blocks and nothing of the file system's, and so that a sector that never reached the disk reads as zeros.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::faults::{Faults, Step};
use super::frame::fixed;
use crate::storage::StoreError;
use crate::storage::folder::sync_folder;

const MAGIC: &[u8; 8] = b"COUNTLOG";
pub(super) const HEAD_BYTES: usize = 64;
/// Of these the head is not zeros.
pub(super) const HEAD_BYTES_WRITTEN: usize = 28;
/// Where the first frame begins.
pub(super) const FIRST_FRAME: u32 = 64;
const DRAFT: &str = "new.part";
const SUFFIX: &str = ".log";
/// Zeros are written in steps of this size, each forced by itself, so that no commit waits long behind them.
const ERASE_STEP: u32 = 1 << 20;
/// In so many calls: a call's length decides how large the pieces are in which the kernel's cache holds the file, and each
/// commit's write goes through all blocks of the piece that it falls into. With 1 MiB a commit takes three times as long.
const ERASE_BYTES: usize = 64 << 10;

/// An open segment.
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) bytes: u32,
    file: File,
    faults: Faults,
}

impl Segment {
    /// Makes a segment of zeros, on the disk when this returns.
    pub(super) fn make(folder: &Path, number: u32, bytes: u32, faults: &Faults) -> Result<Self, StoreError> {
        let (draft, path) = (folder.join(DRAFT), path_of(folder, number));
        let make = || {
            faults.check(Step::Make)?;
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&draft)?;
            let segment = Self { number, path: path.clone(), bytes, file, faults: faults.clone() };
            segment.zero(0..bytes)?;
            segment.file.sync_all()?;
            fs::rename(&draft, &path)?;
            sync_folder(folder)?;
            Ok(segment)
        };
        make().map_err(|source| {
            // What it took so far may be what others lack.
            drop(fs::remove_file(&draft));
            StoreError::io("make the log segment", &path)(source)
        })
    }

    /// Opens a segment that was found in the folder.
    pub(super) fn open(folder: &Path, number: u32, faults: &Faults) -> Result<Self, StoreError> {
        let path = path_of(folder, number);
        let open = || {
            let file = File::options().read(true).write(true).open(&path)?;
            let bytes = u32::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(StoreError::io("open", &path))?;
        Ok(Self { number, path, bytes, file, faults: faults.clone() })
    }

    /// Gives a segment that is no longer needed a new number, and makes it all zeros. On an error it is deleted.
    pub(super) fn recycle(&self, folder: &Path, number: u32) -> Result<Self, StoreError> {
        let path = path_of(folder, number);
        let rename = || {
            self.faults.check(Step::Make)?;
            // Under its new name none of its frames are intact, so whatever a crash leaves of this is empty.
            fs::rename(&self.path, &path)?;
            sync_folder(folder)
        };
        let recycle = || {
            rename().map_err(StoreError::io("recycle", &self.path))?;
            let segment = Self::open(folder, number, &self.faults)?;
            segment.erase(0..segment.bytes)?;
            Ok(segment)
        };
        recycle().inspect_err(|_| {
            // Under whichever name, it would take room that nobody counts, until the next start.
            drop(fs::remove_file(&self.path));
            drop(fs::remove_file(&path));
        })
    }

    /// Deletes it.
    pub(super) fn remove(&self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(StoreError::io("remove", &self.path))
    }

    pub(super) fn write(&self, bytes: &[u8], at: u32) -> Result<(), StoreError> {
        let write = || {
            self.faults.check(Step::Write)?;
            self.file.write_all_at(bytes, u64::from(at))
        };
        write().map_err(StoreError::io("write to", &self.path))
    }

    /// Writes the head, with which the segment counts as begun.
    pub(super) fn write_head(&self, previous_end: u32) -> Result<(), StoreError> {
        self.write(&head(self.number, previous_end, self.bytes), 0)
    }

    /// Forces to the disk what was written before.
    pub(super) fn force(&self) -> Result<(), StoreError> {
        let force = || {
            self.faults.check(Step::Force)?;
            self.file.sync_data()
        };
        force().map_err(StoreError::io("force to the disk", &self.path))
    }

    /// Makes a part of it zeros, on the disk when this returns.
    pub(super) fn erase(&self, part: Range<u32>) -> Result<(), StoreError> {
        self.zero(part).map_err(StoreError::io("erase", &self.path))
    }

    /// The first `end` bytes.
    pub(super) fn read(&self, end: u32) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; usize::try_from(end).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, 0).map_err(StoreError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// From the end to the start: whatever a crash leaves of it is what an earlier crash could have left, too.
    fn zero(&self, part: Range<u32>) -> io::Result<()> {
        let zeros = vec![0; ERASE_BYTES];
        let mut end = part.end;
        while end > part.start {
            let start = end.saturating_sub(ERASE_STEP).max(part.start);
            for at in (start..end).step_by(ERASE_BYTES).rev() {
                let length = usize::try_from(end - at).map_or(ERASE_BYTES, |left| left.min(ERASE_BYTES));
                self.file.write_all_at(zeros.get(..length).unwrap_or(&zeros), u64::from(at))?;
            }
            self.file.sync_data()?;
            end = start;
        }
        Ok(())
    }
}

/// Removes what a crash left of a segment in the making.
pub(super) fn remove_draft(folder: &Path) -> Result<(), StoreError> {
    let draft = folder.join(DRAFT);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", &draft)(error)),
        _ => Ok(()),
    }
}

/// The numbers of the segments in the folder, ascending.
pub(super) fn numbers(folder: &Path) -> Result<Vec<u32>, StoreError> {
    let entries = fs::read_dir(folder).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::corrupt(folder, "it is gone"),
        _ => StoreError::io("list", folder)(error),
    })?;
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", folder))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|number| number.parse().ok());
        match number {
            Some(number) if path_of(folder, number).file_name() == Some(&name) => numbers.push(number),
            _ if name == DRAFT => {}
            _ => return Err(StoreError::corrupt(folder, format!("it holds `{}`, which is no log segment", name.display()))),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:010}{SUFFIX}"))
}

/// Whether `bytes` begin like the head of segment `number`, intact or not.
pub(super) fn has_number(bytes: &[u8], number: u32) -> bool {
    bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<4>()) == Some(&number.to_le_bytes())
}

fn head(number: u32, previous_end: u32, segment_bytes: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&number.to_le_bytes());
    head[12..16].copy_from_slice(&previous_end.to_le_bytes());
    head[16..20].copy_from_slice(&segment_bytes.to_le_bytes());
    let hash = xxh3_64(&head[..20]);
    head[20..28].copy_from_slice(&hash.to_le_bytes());
    head
}

/// Where the segment before it ended, if `bytes` are a whole segment that begins with the intact head of `number`.
pub(super) fn parse_head(bytes: &[u8], number: u32) -> Option<u32> {
    let previous_end = u32::from_le_bytes(fixed(bytes, 12)?);
    let segment_bytes = u32::try_from(bytes.len()).ok()?;
    (bytes.get(..HEAD_BYTES)? == head(number, previous_end, segment_bytes)).then_some(previous_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::folder::forcings;

    #[test]
    fn what_cannot_be_used_again_is_left_under_neither_name() {
        let folder = tempfile::tempdir().unwrap();
        let segment = Segment::make(folder.path(), 1, 4 << 10, &Faults::default()).unwrap();
        forcings::fail(folder.path());
        segment.recycle(folder.path(), 2).err().unwrap();
        assert_eq!(numbers(folder.path()).unwrap(), [0; 0]);
    }
}
