//! Reads the engine's journals before the engine does, and changes nothing.
//!
//! The engine takes any byte that it cannot read for the torn end of the journal and cuts the file there. That is
//! right after `kill -9` or a power failure, but one flipped bit in the middle would silently take with it everything behind.
//! So this module first tells the two apart: a torn end is followed by nothing intact, or is a hole of zeros, which
//! is what a power failure leaves of blocks that never reached the disk. Anything else is corruption, and refused.
//!
//! Format, integers little-endian: a batch is a start (`1`, items u32, sequence u64), so many items and an end (`3`, XXH3-64
//! of the items u64, magic). An item is `2`, value type u8, compression u8, keyspace u64, key length u16, value length u32,
//! the same as stored u32, key, value; or `4`, keyspace u64. New journals are preallocated with zeros.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::StoreError;

const MAGIC: [u8; 4] = *b"FJL\x03";
const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TAG_CLEAR: u8 = 4;
/// Far more than any record has; a larger length is damage, and must not make us allocate.
const VALUE_BYTES_MAX: u32 = 64 << 20;
/// What a disk writes as one; so the least that a power failure can leave unwritten.
const SECTOR_BYTES: usize = 512;

/// A journal, and where its intact part ends if something torn follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) path: PathBuf,
    pub(super) torn_at: Option<u64>,
}

/// The engine's journals in order of age, without looking into them.
pub(super) fn journals(store: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(store)? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jnl"));
        if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Reads every journal through.
pub(super) fn verify(store: &Path) -> Result<Vec<Journal>, StoreError> {
    let paths = journals(store).map_err(StoreError::io("list", store))?;
    if paths.is_empty() {
        return Err(StoreError::corrupt(store, "its journal is gone"));
    }
    paths.into_iter().map(verify_one).collect()
}

/// Cuts off what was never written to its end.
pub(super) fn cut(journal: &Journal) -> Result<(), StoreError> {
    let Some(at) = journal.torn_at else { return Ok(()) };
    let cut = || {
        let file = File::options().write(true).open(&journal.path)?;
        file.set_len(at)?;
        file.sync_all()
    };
    cut().map_err(StoreError::io("cut the torn end off", &journal.path))
}

fn verify_one(path: PathBuf) -> Result<Journal, StoreError> {
    let read = |source| StoreError::io("read", &path)(source);
    let mut reader = BufReader::with_capacity(1 << 16, File::open(&path).map_err(read)?);
    let mut at = 0;
    let torn_at = loop {
        match read_batch(&mut reader) {
            Ok(Some(length)) => at += length,
            Ok(None) => break None,
            Err(Unreadable::Io(source)) => return Err(StoreError::io("read", &path)(source)),
            Err(Unreadable::Damaged) => {
                let rest = rest(reader.into_inner(), at).map_err(|source| StoreError::io("read", &path)(source))?;
                if !is_torn(&rest, at) {
                    let what = format!("the journal is damaged at byte {at}, and intact behind that");
                    return Err(StoreError::corrupt(&path, what));
                }
                break Some(at);
            }
        }
    };
    Ok(Journal { path, torn_at })
}

/// All from `at` on, without the zeros at the end.
fn rest(mut file: File, at: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut rest, mut chunk, mut zeros) = (Vec::new(), vec![0; 1 << 16], 0_usize);
    loop {
        let count = reader.read(&mut chunk)?;
        if count == 0 {
            return Ok(rest);
        }
        let read = &chunk[..count];
        match read.iter().rposition(|byte| *byte != 0) {
            None => zeros += count,
            Some(last) => {
                rest.resize(rest.len() + zeros, 0);
                rest.extend_from_slice(&read[..=last]);
                zeros = count - last - 1;
            }
        }
    }
}

/// Whether what starts at `at` is what a crash leaves behind.
fn is_torn(rest: &[u8], at: u64) -> bool {
    if ends_in_a_whole_batch(rest) {
        return has_unwritten_sector(rest, at);
    }
    match (1..rest.len()).find(|start| is_batch(&rest[*start..])) {
        None => true,
        Some(intact) => has_unwritten_sector(&rest[..intact], at),
    }
}

/// Whether the damaged bytes are one batch from its start to its end mark, so that nothing of it was left out.
fn ends_in_a_whole_batch(rest: &[u8]) -> bool {
    let end = rest.len().checked_sub(MAGIC.len() + 9);
    rest.ends_with(&MAGIC) && end.is_some_and(|end| rest[end] == TAG_END)
}

fn is_batch(bytes: &[u8]) -> bool {
    bytes[0] == TAG_START && matches!(read_batch(&mut &*bytes), Ok(Some(_)))
}

fn has_unwritten_sector(bytes: &[u8], at: u64) -> bool {
    let into_sector = usize::try_from(at % SECTOR_BYTES as u64).unwrap_or(0);
    let first = (SECTOR_BYTES - into_sector) % SECTOR_BYTES;
    let sectors = bytes.get(first..).unwrap_or_default().chunks_exact(SECTOR_BYTES);
    sectors.into_iter().any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// Why a batch could not be read.
enum Unreadable {
    /// The bytes are no batch, or end within one.
    Damaged,
    /// The operating system could not read them.
    Io(io::Error),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Damaged } else { Self::Io(error) }
    }
}

/// Reads one batch and returns its length in bytes; `None` at the end of the journal.
fn read_batch(reader: &mut impl Read) -> Result<Option<u64>, Unreadable> {
    let mut tag = [0];
    if reader.read(&mut tag)? == 0 {
        return Ok(None);
    }
    if tag != [TAG_START] {
        return Err(Unreadable::Damaged);
    }
    let items = u32::from_le_bytes(fixed(reader)?);
    let _sequence: [u8; 8] = fixed(reader)?;
    let (mut hash, mut length, mut bytes) = (Xxh3::new(), 13, Vec::new());
    for _ in 0..items {
        bytes.clear();
        read_item(reader, &mut bytes)?;
        hash.update(&bytes);
        length += bytes.len() as u64;
    }
    let [tag] = fixed(reader)?;
    let sum = u64::from_le_bytes(fixed(reader)?);
    let magic: [u8; 4] = fixed(reader)?;
    let intact = tag == TAG_END && sum == hash.digest() && magic == MAGIC;
    if intact { Ok(Some(length + 13)) } else { Err(Unreadable::Damaged) }
}

fn read_item(reader: &mut impl Read, into: &mut Vec<u8>) -> Result<(), Unreadable> {
    let [tag] = fixed(reader)?;
    into.push(tag);
    match tag {
        TAG_CLEAR => {
            into.extend_from_slice(&fixed::<8>(reader)?);
            Ok(())
        }
        TAG_ITEM => {
            let head: [u8; 20] = fixed(reader)?;
            into.extend_from_slice(&head);
            let key_bytes = u16::from_le_bytes([head[10], head[11]]);
            let value_bytes = u32::from_le_bytes([head[12], head[13], head[14], head[15]]);
            let stored_bytes = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
            if value_bytes > VALUE_BYTES_MAX || stored_bytes > VALUE_BYTES_MAX {
                return Err(Unreadable::Damaged);
            }
            let wanted = u64::from(key_bytes) + u64::from(stored_bytes);
            let got = reader.take(wanted).read_to_end(into)?;
            if got as u64 == wanted { Ok(()) } else { Err(Unreadable::Damaged) }
        }
        _ => Err(Unreadable::Damaged),
    }
}

fn fixed<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
