//! How the bytes on the disk are laid out: the format's number, and the keys of records.
//!
//! The number stands in a plain file, `FORMAT`, which is read before anything else in the folder is opened, and once
//! more in the `meta` keyspace. It covers the records too: whoever changes their encoding raises it.

use counter_core::slot::Slot;

use super::Change;

/// The format that this release writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const PREFIX: &str = "distributed-counter data format ";

/// The content of the file `FORMAT`.
pub(super) fn format_text(format: u32) -> String {
    format!("{PREFIX}{format}\n")
}

/// The format that a `FORMAT` file names; `None` when it is no such file.
pub(super) fn parse_format(bytes: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(bytes).ok()?.strip_prefix(PREFIX)?.strip_suffix('\n')?;
    let plain = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()) && !number.starts_with('0');
    if plain { number.parse().ok() } else { None }
}

/// Writes the key of a record into `into`: the slot, big-endian so that a slot's counters lie together, then the
/// counter's key.
pub(super) fn record_key(of: &Change, into: &mut Vec<u8>) {
    into.clear();
    match of {
        Change::Slot(slot) => into.extend_from_slice(&slot.number().to_be_bytes()),
        Change::Counter { slot, key } => {
            into.extend_from_slice(&slot.number().to_be_bytes());
            into.extend_from_slice(key.as_bytes());
        }
    }
}

/// The slot, and what follows it, of a record's key; `None` when it is no such key.
pub(super) fn split_key(key: &[u8]) -> Option<(Slot, &[u8])> {
    let (slot, rest) = key.split_first_chunk::<2>()?;
    Some((Slot::new(u16::from_be_bytes(*slot))?, rest))
}

#[cfg(test)]
mod tests {
    use counter_core::counter::Key;

    use super::*;

    #[test]
    fn a_format_file_is_read_back_and_nothing_else_is_taken_for_one() {
        assert_eq!(parse_format(format_text(FORMAT).as_bytes()), Some(FORMAT));
        assert_eq!(parse_format(b"distributed-counter data format 70\n"), Some(70));
        for wrong in [&b""[..], b"1\n", b"distributed-counter data format 1", b"distributed-counter data format 01\n", b"\xff"] {
            assert_eq!(parse_format(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_key_gives_back_its_slot_and_counter() {
        let counter = Key::new(b"front-page").unwrap();
        let slot = counter.slot();
        let mut key = Vec::new();
        record_key(&Change::Counter { slot, key: counter }, &mut key);
        assert_eq!(split_key(&key), Some((slot, &b"front-page"[..])));
        record_key(&Change::Slot(slot), &mut key);
        assert_eq!(split_key(&key), Some((slot, &b""[..])));
        assert_eq!(split_key(&[0x40, 0x00, 1]), None, "slot 16384 does not exist");
        assert_eq!(split_key(&[0]), None);
    }
}
