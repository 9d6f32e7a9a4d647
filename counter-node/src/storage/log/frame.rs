//! One commit in the log, as bytes.
//!
//! ```text
//! frame    length of the body u32 · the same, xor MARK u32 · forced u64 · body · XXH3-64 u64
//! body     any number of: length of the key u16 · length of the value u32, or REMOVED · key · value
//! ```
//!
//! Integers are little-endian. The hash (63 bits of it) covers all before it and is seeded with the frame's own position, so what a
//! recycled segment still holds, or a frame that was moved, is never taken for a frame of this place. `forced` is how
//! far the log was known to be on the disk when the frame was written: damage before that cannot be a torn end.

use counter_core::counter::KEY_BYTES_MAX;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::storage::Record;
use crate::storage::format::push_key;

/// In a frame's head, so that frames behind damage can be found.
const MARK: u32 = 0x9E67_F1C3;
const HEAD_BYTES: usize = 16;
const HASH_BYTES: usize = 8;
/// What a frame takes besides its body.
pub(super) const FRAME_BYTES_MIN: usize = HEAD_BYTES + HASH_BYTES;
/// What a record takes at most besides its value: its head, a kind, a slot, and a virtual shard's key.
const RECORD_HEAD_BYTES_MAX: usize = 6 + 3 + 3 + KEY_BYTES_MAX;
/// The length of a value that is none.
const REMOVED: u32 = u32::MAX;

/// A place in the log. Positions grow with time, through all segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::storage) struct Position {
    /// The segment's number; the first is 1.
    pub(super) segment: u32,
    /// Bytes from the segment's start.
    pub(super) at: u32,
}

impl Position {
    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.at)
    }

    pub(super) fn from_u64(packed: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = packed.to_be_bytes();
        Self { segment: u32::from_be_bytes([a, b, c, d]), at: u32::from_be_bytes([e, f, g, h]) }
    }
}

/// What a frame of these records takes at most, and the least one behind it.
pub(super) fn bytes_max(records: &[Record]) -> usize {
    let of = |record: &Record| RECORD_HEAD_BYTES_MAX + record.bytes.as_ref().map_or(0, Vec::len);
    2 * FRAME_BYTES_MIN + records.iter().map(of).sum::<usize>()
}

/// Begins a frame in a buffer, whose old content goes.
pub(super) fn begin(frame: &mut Vec<u8>) {
    frame.clear();
    frame.resize(HEAD_BYTES, 0);
}

/// Appends a record. `None` when it is too large for the format: keys are below 64 KiB, values below 4 GiB.
pub(super) fn push(frame: &mut Vec<u8>, record: &Record) -> Option<()> {
    let head = frame.len();
    frame.extend_from_slice(&[0; 6]);
    push_key(&record.of, frame);
    let key_bytes = u16::try_from(frame.len() - head - 6).ok()?;
    let value_bytes = match &record.bytes {
        None => REMOVED,
        Some(bytes) => {
            frame.extend_from_slice(bytes);
            u32::try_from(bytes.len()).ok().filter(|length| *length != REMOVED)?
        }
    };
    frame.get_mut(head..head + 2)?.copy_from_slice(&key_bytes.to_le_bytes());
    frame.get_mut(head + 2..head + 6)?.copy_from_slice(&value_bytes.to_le_bytes());
    Some(())
}

/// Fills in the head and appends the hash: the frame is then what is to be written at `position`. `None` when the body is
/// too large for the format.
pub(super) fn seal(frame: &mut Vec<u8>, position: Position, forced: Position) -> Option<()> {
    let body_bytes = u32::try_from(frame.len().checked_sub(HEAD_BYTES)?).ok()?;
    frame.get_mut(0..4)?.copy_from_slice(&body_bytes.to_le_bytes());
    frame.get_mut(4..8)?.copy_from_slice(&(body_bytes ^ MARK).to_le_bytes());
    frame.get_mut(8..16)?.copy_from_slice(&forced.to_u64().to_le_bytes());
    let hash = hash(frame, position);
    frame.extend_from_slice(&hash.to_le_bytes());
    Some(())
}

/// The highest bit is always set, so that no whole frame ends in a zero byte.
fn hash(bytes: &[u8], position: Position) -> u64 {
    xxh3_64_with_seed(bytes, position.to_u64()) | 1 << 63
}

/// An intact frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) forced: Position,
    body: &'a [u8],
    /// Of the whole frame.
    pub(super) bytes: usize,
}

/// The length of the whole frame that `bytes` begin with, judging by its head alone.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let body_bytes = u32::from_le_bytes(fixed(bytes, 0)?);
    let again = u32::from_le_bytes(fixed(bytes, 4)?);
    if body_bytes ^ again != MARK {
        return None;
    }
    usize::try_from(body_bytes).ok()?.checked_add(FRAME_BYTES_MIN)
}

/// The frame that `bytes` begin with, if there is an intact one of this position.
pub(super) fn parse(bytes: &[u8], position: Position) -> Option<Frame<'_>> {
    let whole = bytes.get(..length(bytes)?)?;
    let (hashed, hash) = whole.split_last_chunk::<HASH_BYTES>()?;
    if self::hash(hashed, position) != u64::from_le_bytes(*hash) {
        return None;
    }
    let forced = Position::from_u64(u64::from_le_bytes(fixed(hashed, 8)?));
    Some(Frame { forced, body: hashed.get(HEAD_BYTES..)?, bytes: whole.len() })
}

/// A record in a frame: its key as in [`push_key`], and its bytes, which it lacks when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Entry<'a> {
    pub(in crate::storage) key: &'a [u8],
    pub(in crate::storage) value: Option<&'a [u8]>,
}

impl<'a> Frame<'a> {
    /// The records, in the order in which they were written. An `Err` in the place of one means that the frame was written
    /// by something else than this module.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<Entry<'a>, NoEntry>> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let entry = next_entry(&mut rest);
            if entry.is_none() {
                rest = &[];
            }
            Some(entry.ok_or(NoEntry))
        })
    }
}

/// The bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoEntry;

fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<Entry<'a>> {
    let key_bytes = usize::from(u16::from_le_bytes(fixed(rest, 0)?));
    let value_bytes = u32::from_le_bytes(fixed(rest, 2)?);
    let (key, after) = rest.get(6..)?.split_at_checked(key_bytes)?;
    let value = if value_bytes == REMOVED {
        *rest = after;
        None
    } else {
        let (value, after) = after.split_at_checked(usize::try_from(value_bytes).ok()?)?;
        *rest = after;
        Some(value)
    };
    Some(Entry { key, value })
}

/// Bytes of a head that say how long the frame is.
pub(super) const LENGTH_BYTES: usize = 8;

pub(super) fn fixed<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

#[cfg(test)]
mod tests {
    use counter_core::counter::Key;
    use counter_core::slot::Slot;

    use super::*;
    use crate::storage::Change;

    const HERE: Position = Position { segment: 7, at: 64 };
    const FORCED: Position = Position { segment: 6, at: 4096 };

    fn sealed() -> Vec<u8> {
        let mut frame = Vec::new();
        begin(&mut frame);
        let of = Change::of(&Key::new(b"page").unwrap());
        push(&mut frame, &Record { of: of.clone(), bytes: Some(b"value".to_vec()) }).unwrap();
        push(&mut frame, &Record { of, bytes: None }).unwrap();
        push(&mut frame, &Record { of: Change::Slot(Slot::new(3).unwrap()), bytes: Some(Vec::new()) }).unwrap();
        seal(&mut frame, HERE, FORCED).unwrap();
        frame
    }

    #[test]
    fn a_frame_gives_back_its_records() {
        let mut bytes = sealed();
        bytes.extend_from_slice(b"the next one");
        let frame = parse(&bytes, HERE).unwrap();
        assert_eq!((frame.forced, frame.bytes), (FORCED, bytes.len() - 12));
        let entries: Vec<_> = frame.entries().map(Result::unwrap).collect();
        assert_eq!(entries.iter().map(|entry| entry.value).collect::<Vec<_>>(), [Some(&b"value"[..]), None, Some(&b""[..])]);
        assert!(entries[0].key.ends_with(b"page") && entries[0].key == entries[1].key && entries[2].key == [0, 0, 3]);
    }

    #[test]
    fn a_frame_is_intact_only_whole_unchanged_and_in_its_place() {
        let bytes = sealed();
        for at in 0..bytes.len() {
            assert!(parse(&bytes[..at], HERE).is_none(), "cut at {at}");
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(parse(&flipped, HERE).is_none(), "bit {bit} of byte {at}");
            }
        }
        for elsewhere in [Position { at: 65, ..HERE }, Position { segment: 8, ..HERE }] {
            assert!(parse(&bytes, elsewhere).is_none(), "{elsewhere:?}");
        }
    }

    #[test]
    fn positions_are_packed_in_their_order() {
        let positions = [Position::default(), Position { segment: 1, at: u32::MAX }, Position { segment: 2, at: 0 }, HERE];
        assert!(positions.is_sorted() && positions.is_sorted_by_key(|position| position.to_u64()));
        positions.iter().for_each(|position| assert_eq!(Position::from_u64(position.to_u64()), *position));
    }
}
