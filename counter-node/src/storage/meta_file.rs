//! The few values that are not counters: identity, start count, layout. A file of a fixed size that is written in place.
//!
//! In place, so that a node starts, which takes a new incarnation, on a volume that is full to the last byte. And twice: a copy
//! is on the disk before the other is touched, and of a file that was just read the one that does not count is written first, so that
//! whatever crashes leave, one after the other, one copy is whole.
//!
//! ```text
//! file   two copies, each half of the file
//! copy   "COUNTMET" · version u64 · length of the body u32 · body · XXH3-64 of all before u64 · anything
//! ```
//!
//! The body is a map from names to bytes (postcard). The version counts writes; of two whole copies the newer one counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::StoreError;
use super::folder::sync_folder;
use super::memory::put_all;

const MAGIC: &[u8; 8] = b"COUNTMET";
const HEAD_BYTES: usize = 20;
const HASH_BYTES: usize = 8;
/// Of one copy, at first: a layout of some hundred nodes fits.
const COPY_BYTES_MIN: usize = 32 << 10;

type Values = BTreeMap<String, Vec<u8>>;

/// The open file, and what is in it.
pub(super) struct MetaFile {
    path: PathBuf,
    file: File,
    copy_bytes: usize,
    /// The copy, 0 or 1, that holds the values on the disk for certain; written last.
    trusted: usize,
    /// Set while a larger file's name is not known to be on the disk: what is written in place there may be gone after a power failure.
    in_doubt: bool,
    version: u64,
    values: Values,
}

impl MetaFile {
    /// Makes a file without values.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        write_new(path, COPY_BYTES_MIN, &encode(0, &Values::new())).map(drop).map_err(StoreError::io("make", path))
    }

    /// Reads the file, and forces what was read: a process that was killed may have left it, or its name, to the kernel.
    ///
    /// # Errors
    /// When neither copy is whole.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let bytes = fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::corrupt(path, "it is gone"),
            _ => StoreError::io("read", path)(error),
        })?;
        let copy_bytes = bytes.len() / 2;
        let (first, second) = bytes.split_at(copy_bytes);
        let copies = (decode(first), decode(second));
        if copies.0.is_some() != copies.1.is_some() {
            tracing::warn!(path = %path.display(), "one of two copies is not whole; going on by the other");
        }
        let (trusted, (version, values)) = match copies {
            (Some(first), Some(second)) if second.0 > first.0 => (1, second),
            (Some(first), _) => (0, first),
            (None, Some(second)) => (1, second),
            (None, None) => return Err(StoreError::corrupt(path, "both of its copies are damaged")),
        };
        let file = File::options().write(true).open(path).map_err(StoreError::io("open", path))?;
        let meta = Self { path: path.to_path_buf(), file, copy_bytes, trusted, in_doubt: false, version, values };
        meta.file.sync_data().and_then(|()| meta.sync_name()).map_err(StoreError::io("force", path))?;
        Ok(meta)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Vec<u8>> {
        self.values.get(name)
    }

    /// Writes or removes values, all or none; on the disk when this returns.
    ///
    /// # Errors
    /// When the disk cannot take them. Which values are found at the next start is not known then; here the old ones stay.
    pub(super) fn put(&mut self, changes: &[(&str, Option<&[u8]>)]) -> Result<(), StoreError> {
        let mut values = self.values.clone();
        put_all(&mut values, changes);
        // Counted even if writing fails, since it may have worked.
        self.version += 1;
        let copy = encode(self.version, &values);
        let in_place = copy.len() <= self.copy_bytes && !self.in_doubt;
        let written = if in_place { self.write(&copy) } else { self.replace(&copy) };
        written.map_err(StoreError::io("write", &self.path))?;
        self.values = values;
        Ok(())
    }

    fn write(&mut self, copy: &[u8]) -> io::Result<()> {
        for number in [1 - self.trusted, self.trusted] {
            self.file.write_all_at(copy, (number * self.copy_bytes) as u64)?;
            self.file.sync_data()?;
            self.trusted = number;
        }
        Ok(())
    }

    /// Puts a file with room for the copy in the place of this one. On an error up to the rename this one is kept, as it was; behind it,
    /// which of the two a power failure leaves is not known, and the next write makes a file once more.
    fn replace(&mut self, copy: &[u8]) -> io::Result<()> {
        let copy_bytes = copy.len().next_power_of_two().max(self.copy_bytes);
        let draft = self.path.with_extension("part");
        let made = write_new(&draft, copy_bytes, copy).and_then(|file| fs::rename(&draft, &self.path).map(|()| file));
        self.file = made.inspect_err(|_| {
            // What it took so far may be what others lack.
            drop(fs::remove_file(&draft));
        })?;
        (self.copy_bytes, self.in_doubt) = (copy_bytes, true);
        self.sync_name()?;
        self.in_doubt = false;
        Ok(())
    }

    fn sync_name(&self) -> io::Result<()> {
        self.path.parent().map_or(Ok(()), sync_folder)
    }
}

fn write_new(path: &Path, copy_bytes: usize, copy: &[u8]) -> io::Result<File> {
    let file = File::create(path)?;
    let mut half = copy.to_vec();
    half.resize(copy_bytes, 0);
    file.write_all_at(&half, 0)?;
    file.write_all_at(&half, copy_bytes as u64)?;
    file.sync_all()?;
    Ok(file)
}

fn encode(version: u64, values: &Values) -> Vec<u8> {
    // Encoding a map into memory has no way to fail; an empty body would be refused when read.
    let body = postcard::to_stdvec(values).unwrap_or_default();
    let mut copy = MAGIC.to_vec();
    copy.extend_from_slice(&version.to_le_bytes());
    copy.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    copy.extend_from_slice(&body);
    let hash = xxh3_64(&copy);
    copy.extend_from_slice(&hash.to_le_bytes());
    copy
}

fn decode(copy: &[u8]) -> Option<(u64, Values)> {
    let rest = copy.strip_prefix(MAGIC)?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let end = HEAD_BYTES.checked_add(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let (hashed, hash) = copy.get(..end.checked_add(HASH_BYTES)?)?.split_last_chunk::<HASH_BYTES>()?;
    if xxh3_64(hashed) != u64::from_le_bytes(*hash) {
        return None;
    }
    Some((u64::from_le_bytes(*version), postcard::from_bytes(hashed.get(HEAD_BYTES..)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::folder::forcings;

    fn made() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta");
        MetaFile::create(&path).unwrap();
        (folder, path)
    }

    #[test]
    fn values_are_kept_and_removed_whatever_their_size() {
        let (_folder, path) = made();
        for size in [1, 100, COPY_BYTES_MIN, 5 * COPY_BYTES_MIN, 3] {
            let mut file = MetaFile::open(&path).unwrap();
            file.put(&[("layout", Some(&vec![7; size])), ("old", Some(b"x"))]).unwrap();
            file.put(&[("old", None), ("size", Some(&size.to_le_bytes()))]).unwrap();
            let file = MetaFile::open(&path).unwrap();
            assert_eq!(file.get("layout"), Some(&vec![7; size]));
            assert_eq!((file.get("old"), file.get("size").unwrap()), (None, &size.to_le_bytes().to_vec()));
        }
    }

    #[test]
    fn a_write_in_place_takes_no_room() {
        let (_folder, path) = made();
        let before = fs::metadata(&path).unwrap().len();
        let mut file = MetaFile::open(&path).unwrap();
        for start in 0..100_u32 {
            file.put(&[("starts", Some(&start.to_le_bytes()))]).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), before);
    }

    #[test]
    fn whichever_write_is_torn_wherever_the_old_or_the_new_values_are_read() {
        let (_folder, path) = made();
        let mut file = MetaFile::open(&path).unwrap();
        file.put(&[("starts", Some(b"old value"))]).unwrap();
        let old = fs::read(&path).unwrap();
        file.put(&[("starts", Some(b"new"))]).unwrap();
        let new = fs::read(&path).unwrap();
        let half = new.len() / 2;
        for cut in 0..100 {
            // In the first copy while the second is old, and in the second when the first is new.
            let first = [&new[..cut], &old[cut..]].concat();
            let second = [&new[..half + cut], &old[half + cut..]].concat();
            for (torn, newest_for_sure) in [(first, false), (second, true)] {
                fs::write(&path, torn).unwrap();
                let file = MetaFile::open(&path).unwrap();
                let value = file.get("starts").unwrap();
                assert!(value == b"new" || value == b"old value" && !newest_for_sure, "cut {cut}: {value:?}");
            }
        }
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_the_copy_that_was_read_as_good() {
        for torn in [0, 1] {
            let (_folder, path) = made();
            MetaFile::open(&path).unwrap().put(&[("starts", Some(b"7"))]).unwrap();
            let mut damaged = fs::read(&path).unwrap();
            let half = damaged.len() / 2;
            // As a first power failure may leave it.
            damaged[torn * half + 25] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let mut file = MetaFile::open(&path).unwrap();
            // The second copy would lie beyond what any file can hold, so only the first can be written.
            file.copy_bytes = usize::MAX / 2;
            for value in [b"8", b"9"] {
                let before = fs::read(&path).unwrap();
                file.put(&[("starts", Some(value))]).unwrap_err();
                let good = |bytes: &[u8]| bytes.chunks(half).map(|copy| decode(copy).is_some()).collect::<Vec<_>>();
                let after = fs::read(&path).unwrap();
                let untouched = (0..2).any(|copy| {
                    let bytes = copy * half..(copy + 1) * half;
                    good(&before)[copy] && before[bytes.clone()] == after[bytes]
                });
                assert!(untouched, "copy {torn} was torn, and the write of {value:?} began with the other");
            }
        }
    }

    #[test]
    fn a_larger_file_that_did_not_get_the_name_is_not_written_to() {
        let (folder, path) = made();
        let mut file = MetaFile::open(&path).unwrap();
        let (aside, large) = (folder.path().join("aside"), vec![7; 5 * COPY_BYTES_MIN]);
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        file.put(&[("layout", Some(&large))]).unwrap_err();
        assert!(!folder.path().join("meta.part").exists(), "what it took is what others may lack");
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        file.put(&[("starts", Some(b"8"))]).unwrap();
        let read = MetaFile::open(&path).unwrap();
        assert_eq!((read.get("starts"), read.get("layout")), (Some(&b"8".to_vec()), None));
    }

    #[test]
    fn while_the_name_of_a_larger_file_is_not_on_the_disk_no_write_counts() {
        let (folder, path) = made();
        let mut file = MetaFile::open(&path).unwrap();
        let large = vec![7; 5 * COPY_BYTES_MIN];
        forcings::fail(folder.path());
        file.put(&[("layout", Some(&large))]).unwrap_err();
        file.put(&[("starts", Some(b"8"))]).unwrap_err();
        forcings::heal();
        file.put(&[("starts", Some(b"9"))]).unwrap();
        assert_eq!(forcings::last(folder.path()), ["meta"]);
        assert_eq!(MetaFile::open(&path).unwrap().get("starts"), Some(&b"9".to_vec()));
    }

    #[test]
    fn the_name_that_a_killed_process_gave_is_forced_before_the_file_is_used() {
        let (folder, path) = made();
        drop(MetaFile::open(&path).unwrap());
        assert_eq!(forcings::last(folder.path()), ["meta"]);
    }

    #[test]
    fn one_damaged_copy_is_made_good_and_two_are_refused() {
        let (_folder, path) = made();
        MetaFile::open(&path).unwrap().put(&[("starts", Some(b"7"))]).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in [0, 9, 17, 21, 25] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            let mut file = MetaFile::open(&path).unwrap();
            assert_eq!(file.get("starts").unwrap(), b"7");
            file.put(&[]).unwrap();
            let mended = fs::read(&path).unwrap();
            assert!(decode(&mended[..mended.len() / 2]).is_some());
            damaged[whole.len() / 2 + at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(MetaFile::open(&path).err().unwrap().is_data_error());
        }
    }
}
