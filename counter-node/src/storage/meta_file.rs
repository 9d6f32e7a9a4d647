//! The few values that are not counters: identity, start count, layout. A file of a fixed size that is written in place.
//!
//! In place, so that a node starts, which takes a new incarnation, on a volume that is full to the last byte. And twice: a copy
//! is on the disk before the other is touched, so that whatever a crash leaves, one of them is whole.
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
    version: u64,
    values: Values,
}

impl MetaFile {
    /// Makes a file without values.
    pub(super) fn create(path: &Path) -> Result<(), StoreError> {
        write_new(path, COPY_BYTES_MIN, &encode(0, &Values::new())).map(drop).map_err(StoreError::io("make", path))
    }

    /// Reads the file.
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
        let newer = match (decode(first), decode(second)) {
            (Some(first), Some(second)) => Some(if second.0 > first.0 { second } else { first }),
            (Some(only), None) | (None, Some(only)) => {
                tracing::warn!(path = %path.display(), "one of two copies is not whole; going on by the other");
                Some(only)
            }
            (None, None) => None,
        };
        let Some((version, values)) = newer else { return Err(StoreError::corrupt(path, "both of its copies are damaged")) };
        let file = File::options().write(true).open(path).map_err(StoreError::io("open", path))?;
        Ok(Self { path: path.to_path_buf(), file, copy_bytes, version, values })
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
        let written = if copy.len() <= self.copy_bytes { self.write(&copy) } else { self.grow(&copy) };
        written.map_err(StoreError::io("write", &self.path))?;
        self.values = values;
        Ok(())
    }

    fn write(&self, copy: &[u8]) -> io::Result<()> {
        for at in [0, self.copy_bytes] {
            self.file.write_all_at(copy, at as u64)?;
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn grow(&mut self, copy: &[u8]) -> io::Result<()> {
        let copy_bytes = copy.len().next_power_of_two();
        let draft = self.path.with_extension("part");
        self.file = write_new(&draft, copy_bytes, copy)?;
        self.copy_bytes = copy_bytes;
        fs::rename(&draft, &self.path)?;
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
