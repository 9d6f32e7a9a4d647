//! How the bytes on the disk are laid out: the format's number, and the keys of records.
//!
//! The number stands in a plain file, `FORMAT`, which is read before anything else in the folder is opened. It covers all
//! of the folder, the encoding of the records included: whoever changes any of it raises the number.

use counter_core::slot::Slot;
use counter_core::token::TOKEN_NAME_BYTES;

use super::{Change, Loaded};

/// The format that this release reads and writes. Formats 1 and 2 were never released, and are not read.
pub const FORMAT: u32 = 3;

const PREFIX: &str = "distributed-counter data format ";

const KIND_SLOT: u8 = 0;
const KIND_FLOOR: u8 = 1;
const KIND_COUNTER: u8 = 2;
const KIND_TOKEN: u8 = 3;
/// The key in the checkpoint of how far the log has been folded into it. It comes after all records.
pub(super) const FOLDED_KEY: &[u8] = &[4];

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

/// Appends the key of a record to `into`: its kind, so that slots and floors come before counters, and tokens after them;
/// the slot, big-endian so that a slot's counters lie together; then the counter's key, or the token's name.
pub(super) fn push_key(of: &Change, into: &mut Vec<u8>) {
    let token;
    let (kind, key): (u8, &[u8]) = match of {
        Change::Slot(_) => (KIND_SLOT, &[]),
        Change::Floor(_) => (KIND_FLOOR, &[]),
        Change::Counter { key, .. } => (KIND_COUNTER, key.as_bytes()),
        Change::Token { name, .. } => {
            token = name.to_bytes();
            (KIND_TOKEN, &token)
        }
    };
    let [high, low] = of.slot().number().to_be_bytes();
    into.extend_from_slice(&[kind, high, low]);
    into.extend_from_slice(key);
}

/// Every kind of record, in the order in which a slot's are to be read.
pub(super) const KINDS: [u8; 4] = [KIND_SLOT, KIND_FLOOR, KIND_COUNTER, KIND_TOKEN];

/// Where a slot's records of one kind begin.
pub(super) fn first_key(kind: u8, slot: u16) -> [u8; 3] {
    let [high, low] = slot.to_be_bytes();
    [kind, high, low]
}

/// The record that a key and its bytes are; `None` when it is no such key.
pub(super) fn loaded<'a>(key: &'a [u8], bytes: &'a [u8]) -> Option<Loaded<'a>> {
    let (&[kind, high, low], key) = key.split_first_chunk::<3>()?;
    let slot = Slot::new(u16::from_be_bytes([high, low]))?;
    match kind {
        KIND_SLOT if key.is_empty() => Some(Loaded::Slot { slot, bytes }),
        KIND_FLOOR if key.is_empty() => Some(Loaded::Floor { slot, bytes }),
        KIND_COUNTER => Some(Loaded::Counter { slot, key, bytes }),
        KIND_TOKEN if key.len() == TOKEN_NAME_BYTES => Some(Loaded::Token { slot, bytes }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use counter_core::counter::Key;
    use counter_core::id::ActorId;
    use counter_core::token::TokenName;

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
        push_key(&Change::Counter { slot, key: counter }, &mut key);
        assert!(matches!(loaded(&key, b"v"), Some(Loaded::Counter { slot: of, key: b"front-page", bytes: b"v" }) if of == slot));
        key.clear();
        push_key(&Change::Slot(slot), &mut key);
        assert!(matches!(loaded(&key, b"v"), Some(Loaded::Slot { slot: of, bytes: b"v" }) if of == slot));
        let name = TokenName { key_hash: 1, id: 2, actor: ActorId { origin: 3, incarnation: 4 } };
        key.clear();
        push_key(&Change::Token { slot, name }, &mut key);
        assert!(matches!(loaded(&key, b"v"), Some(Loaded::Token { slot: of, bytes: b"v" }) if of == slot));
        key.clear();
        push_key(&Change::Floor(slot), &mut key);
        assert!(matches!(loaded(&key, b"v"), Some(Loaded::Floor { slot: of, bytes: b"v" }) if of == slot));
        for wrong in [&[2, 0x40, 0x00, 1][..], &[0, 0], &[0, 0, 0, 1], &[1, 0, 0, 1], &[3, 0, 0, 1], FOLDED_KEY, &[5, 0, 0]] {
            assert!(loaded(wrong, b"").is_none(), "{wrong:?}");
        }
    }
}
