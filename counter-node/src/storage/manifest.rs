//! Checks the checkpoint's tables before the engine opens them, and changes nothing.
//!
//! The engine deletes tables that its manifest does not list, without having compared the manifest with its checksum. That is
//! right after a crash while a table was written, and wrong when something was damaged. So all checksums are compared
//! first: the manifest's with the one in `current`, each table's with the one in the manifest.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::StoreError;

/// A table that a manifest lists.
struct Table {
    number: u64,
    sum: u128,
}

/// Reads all that the engine has written, and compares it with its checksums.
pub(super) fn verify(checkpoint: &Path) -> Result<(), StoreError> {
    let current_path = checkpoint.join("current");
    let current = read(&current_path)?;
    let (number, sum) =
        parse_current(&current).ok_or_else(|| StoreError::corrupt(&current_path, "it does not name the current manifest"))?;
    let manifest = checkpoint.join(format!("v{number}"));
    compare(&manifest, sum)?;
    for table in tables(&manifest)? {
        compare(&checkpoint.join("tables").join(table.number.to_string()), table.sum)?;
    }
    Ok(())
}

/// The manifest's number and checksum.
fn parse_current(bytes: &[u8]) -> Option<(u64, u128)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (sum, kind) = rest.split_first_chunk::<16>()?;
    (kind == [0]).then(|| (u64::from_le_bytes(*number), u128::from_le_bytes(*sum)))
}

fn tables(manifest: &Path) -> Result<Vec<Table>, StoreError> {
    let corrupt = |what: String| StoreError::corrupt(manifest, what);
    let archive = sfa::Reader::new(manifest).map_err(|error| corrupt(error.to_string()))?;
    let section = archive.toc().section(b"tables").ok_or_else(|| corrupt("it lists no tables".to_owned()))?;
    let mut reader = section.buf_reader(manifest).map_err(StoreError::io("read", manifest))?;
    read_tables(&mut reader).map_err(|error| corrupt(format!("its list of tables cannot be read: {error}")))
}

fn read_tables(reader: &mut impl Read) -> io::Result<Vec<Table>> {
    let mut tables = Vec::new();
    let [levels] = fixed(reader)?;
    for _ in 0..levels {
        let [runs] = fixed(reader)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(fixed(reader)?) {
                let number = u64::from_le_bytes(fixed(reader)?);
                let [_kind_of_sum] = fixed(reader)?;
                let sum = u128::from_le_bytes(fixed(reader)?);
                let _sequence: [u8; 8] = fixed(reader)?;
                tables.push(Table { number, sum });
            }
        }
    }
    Ok(tables)
}

fn compare(path: &Path, sum: u128) -> Result<(), StoreError> {
    let mut file = open(path)?;
    let (mut hash, mut chunk) = (Xxh3::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut chunk).map_err(StoreError::io("read", path))? {
            0 => break,
            count => hash.update(&chunk[..count]),
        }
    }
    if hash.digest128() == sum { Ok(()) } else { Err(StoreError::corrupt(path, "its checksum is wrong")) }
}

fn open(path: &Path) -> Result<File, StoreError> {
    File::open(path).map_err(|error| refusal(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    fs::read(path).map_err(|error| refusal(path, error))
}

/// A missing file is damage; anything else is the operating system's trouble.
fn refusal(path: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::corrupt(path, "it is gone"),
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => StoreError::corrupt(path, error.to_string()),
        _ => StoreError::io("read", path)(error),
    }
}

fn fixed<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
