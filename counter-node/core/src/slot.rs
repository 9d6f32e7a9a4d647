//! Slots: the unit of placement. A key's slot is computed exactly as Redis Cluster does, so that its clients can route.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many slots there are. Redis Cluster's number; part of every client's contract.
pub const SLOTS: u16 = 16384;

/// One of the [`SLOTS`] slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slot(u16);

impl Slot {
    /// The slot of this number; `None` from [`SLOTS`] on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// The slot of a key: CRC16 of the key, or of its first non-empty `{…}` part, modulo [`SLOTS`].
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(crc16(hash_tag(key)) % SLOTS)
    }

    /// The slot of a key that is spread whatever it has in braces.
    #[must_use]
    pub fn of_whole(key: &[u8]) -> Self {
        Self(crc16(key) % SLOTS)
    }

    /// The slot's number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// The slot's number, for indexing.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u16::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom(format!("slot {number} is not below {SLOTS}")))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let inner = &key[open.saturating_add(1)..];
    match inner.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &inner[..close],
    }
}

/// CRC16 in its XMODEM form: polynomial 0x1021, initial value 0, nothing reflected. Eight bytes at a time: every request
/// of a client's computes it.
fn crc16(bytes: &[u8]) -> u16 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(0, |crc, eight| crc16_of_eight(crc, *eight));
    rest.iter().fold(crc, |crc, &byte| {
        let index = usize::from((crc >> 8) ^ u16::from(byte));
        (crc << 8) ^ CRC16_TABLES[0][index]
    })
}

/// Each byte's part is looked up by itself; of the sum so far only the first two bytes take part.
fn crc16_of_eight(crc: u16, [a, b, c, d, e, f, g, h]: [u8; 8]) -> u16 {
    let [high, low] = crc.to_be_bytes();
    let part = |table: usize, byte: u8| CRC16_TABLES[table][usize::from(byte)];
    let first = part(7, a ^ high) ^ part(6, b ^ low) ^ part(5, c) ^ part(4, d);
    first ^ part(3, e) ^ part(2, f) ^ part(1, g) ^ part(0, h)
}

/// At `[n][byte]` the CRC16 of the byte with `n` zeros behind it.
static CRC16_TABLES: [[u16; 256]; 8] = crc16_tables();

#[expect(clippy::arithmetic_side_effects, reason = "loop bounds are constants, and all of it runs in the compiler")]
const fn crc16_tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    let mut top: u16 = 0;
    while index < 256 {
        let mut crc = top;
        let mut zeros = 0;
        while zeros < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
                bit += 1;
            }
            tables[zeros][index] = crc;
            zeros += 1;
        }
        index += 1;
        top = top.wrapping_add(0x0100);
    }
    tables
}

/// An inclusive range of slots; its text form is `0-8191`, or `7` for a single slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    first: Slot,
    last: Slot,
}

impl SlotRange {
    /// All slots.
    pub const ALL: Self = Self { first: Slot(0), last: Slot(SLOTS - 1) };

    /// The range from `first` to `last`, both included; `None` when it would be empty.
    #[must_use]
    pub fn new(first: Slot, last: Slot) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest slot of the range.
    #[must_use]
    pub fn first(self) -> Slot {
        self.first
    }

    /// The highest slot of the range.
    #[must_use]
    pub fn last(self) -> Slot {
        self.last
    }

    /// Whether `slot` lies in the range.
    #[must_use]
    pub fn contains(self, slot: Slot) -> bool {
        self.first <= slot && slot <= self.last
    }

    /// How many slots the range holds.
    #[must_use]
    pub fn count(self) -> usize {
        self.last.index().saturating_sub(self.first.index()).saturating_add(1)
    }

    /// How many slots these ranges hold, none of which overlap.
    #[must_use]
    pub fn count_all(ranges: &[Self]) -> usize {
        ranges.iter().map(|range| range.count()).fold(0, usize::saturating_add)
    }

    /// The range's slots, in order.
    pub fn iter(self) -> impl Iterator<Item = Slot> {
        (self.first.0..=self.last.0).map(Slot)
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Why a text is no slot range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no slot range: expected FIRST-LAST or one slot, each from 0 to 16383, FIRST not above LAST")]
pub struct SlotRangeError(String);

impl FromStr for SlotRange {
    type Err = SlotRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let slot = |part: &str| part.parse().ok().and_then(Slot::new);
        slot(first)
            .zip(slot(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or_else(|| SlotRangeError(text.to_owned()))
    }
}

impl Serialize for SlotRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The fewest ranges that hold exactly these slots, in order. `slots` may come in any order, with repetitions.
#[must_use]
pub fn to_ranges(slots: impl IntoIterator<Item = Slot>) -> Vec<SlotRange> {
    let mut sorted: Vec<Slot> = slots.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<SlotRange> = Vec::new();
    for slot in sorted {
        match ranges.last_mut() {
            Some(range) if range.last.0.saturating_add(1) == slot.0 => range.last = slot,
            _ => ranges.push(SlotRange { first: slot, last: slot }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn crc16_by_eights_is_crc16_bit_by_bit(bytes: Vec<u8>) {
            let bit = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            let bitwise = bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), bit));
            proptest::prop_assert_eq!(crc16(&bytes), bitwise);
        }
    }

    #[test]
    fn crc16_gives_the_check_value_that_redis_cluster_publishes() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // CLUSTER KEYSLOT of a real Redis 7 for each of these.
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("hello", 866), ("somekey", 11058), ("", 0)] {
            assert_eq!(Slot::of(key.as_bytes()).number(), slot, "{key}");
        }
    }

    #[test]
    fn only_the_first_non_empty_tag_is_hashed() {
        let slot = |key: &str| Slot::of(key.as_bytes());
        assert_eq!(slot("{user1000}.following"), slot("{user1000}.followers"));
        assert_eq!(slot("foo{bar}{zap}"), slot("bar"));
        assert_eq!(slot("foo{{bar}}zap"), slot("{bar"));
        assert_eq!(slot("foo{}{bar}").number(), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot("foo{bar").number(), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn ranges_parse_print_and_refuse() {
        for text in ["0-8191", "7", "16383"] {
            assert_eq!(text.parse::<SlotRange>().unwrap().to_string(), text);
        }
        for text in ["", "-", "9-8", "0-16384", "a", "1-2-3"] {
            let refusal = text.parse::<SlotRange>().unwrap_err().to_string();
            assert!(refusal.contains(&format!("`{text}`")), "{refusal}");
        }
    }

    #[test]
    fn ranges_of_slots_are_the_fewest() {
        let slots = [5, 1, 2, 3, 9, 2].map(|number| Slot::new(number).unwrap());
        let ranges: Vec<String> = to_ranges(slots).iter().map(SlotRange::to_string).collect();
        assert_eq!(ranges, ["1-3", "5", "9"]);
    }
}
