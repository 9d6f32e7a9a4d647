//! Keys: what a counter is filed under. A page's own key is the page; a virtual shard of it has a key of a type of its
//! own, which no page can have.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::slot::Slot;

/// The longest page, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// What a sub-key begins with: a byte that no UTF-8 text has. The index follows, then the page.
const SUB_KEY: u8 = 0xFF;
const SUB_KEY_HEAD_BYTES: usize = 3;

/// A counter's key: a page of 1 to [`KEY_BYTES_MAX`] bytes, or a virtual shard of one. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

/// Why some bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {KEY_BYTES_MAX} bytes long, and is {bytes}")]
    TooLong { bytes: usize },
    #[error("must not begin with the byte 0xFF, which marks virtual shards")]
    Reserved,
    #[error("is no virtual shard of any page")]
    SubKey,
}

impl Key {
    /// The key of a page.
    ///
    /// # Errors
    /// [`KeyError`] when there are no bytes or too many, or when they begin as no text does.
    pub fn new(page: &[u8]) -> Result<Self, KeyError> {
        check_page(page)?;
        Ok(Self(page.into()))
    }

    /// The first of all keys in their order.
    pub(crate) fn least() -> Self {
        Self([0].into())
    }

    /// A key, a page's or a virtual shard's, from the bytes that [`Self::as_bytes`] gave.
    ///
    /// # Errors
    /// [`KeyError`] when they are no key's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        KeyRef::from_bytes(bytes).map(KeyRef::to_key)
    }

    /// The key of this page's virtual shard of this number.
    #[must_use]
    pub fn virtual_shard(&self, index: u16) -> Self {
        let [high, low] = index.to_be_bytes();
        let head = [SUB_KEY, high, low];
        Self(head.iter().chain(self.page()).copied().collect())
    }

    /// The key's bytes. Pages' and virtual shards' are never equal.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The page that is counted under this key.
    #[must_use]
    pub fn page(&self) -> &[u8] {
        KeyRef(&self.0).page()
    }

    /// Whether this is not a page's own key but one of its virtual shards'.
    #[must_use]
    pub fn is_virtual_shard(&self) -> bool {
        self.0.first() == Some(&SUB_KEY)
    }

    /// The slot that the key lies in. Virtual shards are spread whatever their page has in braces.
    #[must_use]
    pub fn slot(&self) -> Slot {
        slot_of(&self.0)
    }
}

/// The slot of a key's bytes, see [`Key::slot`].
#[must_use]
pub fn slot_of(key: &[u8]) -> Slot {
    if key.first() == Some(&SUB_KEY) { Slot::of_whole(key) } else { Slot::of(key) }
}

fn check_page(page: &[u8]) -> Result<(), KeyError> {
    match (page.first(), page.len()) {
        (None, _) => Err(KeyError::Empty),
        (Some(&SUB_KEY), _) => Err(KeyError::Reserved),
        (_, 1..=KEY_BYTES_MAX) => Ok(()),
        (_, bytes) => Err(KeyError::TooLong { bytes }),
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        KeyRef(&self.0).fmt(f)
    }
}

impl std::fmt::Debug for KeyRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [SUB_KEY, high, low, page @ ..] => write!(f, "Key({}#{})", page.escape_ascii(), u16::from_be_bytes([*high, *low])),
            page => write!(f, "Key({})", page.escape_ascii()),
        }
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Key;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "the 1 to {} bytes of a key", KEY_BYTES_MAX.saturating_add(SUB_KEY_HEAD_BYTES))
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Key, E> {
                Key::from_bytes(bytes).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// A borrowed [`Key`]: for looking a counter up without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef<'a>(&'a [u8]);

impl<'a> KeyRef<'a> {
    /// The key of a page.
    ///
    /// # Errors
    /// As [`Key::new`].
    pub fn new(page: &'a [u8]) -> Result<Self, KeyError> {
        check_page(page).map(|()| Self(page))
    }

    /// A key, a page's or a virtual shard's.
    ///
    /// # Errors
    /// As [`Key::from_bytes`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, KeyError> {
        match bytes.split_at_checked(SUB_KEY_HEAD_BYTES) {
            Some(([SUB_KEY, ..], page)) => check_page(page).map_err(|_| KeyError::SubKey)?,
            _ => check_page(bytes)?,
        }
        Ok(Self(bytes))
    }

    /// Bytes that a key gave.
    pub(crate) fn of_stored(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The page that is counted under this key.
    #[must_use]
    pub fn page(self) -> &'a [u8] {
        if self.0.first() == Some(&SUB_KEY) { self.0.get(SUB_KEY_HEAD_BYTES..).unwrap_or_default() } else { self.0 }
    }

    /// The slot that the key lies in.
    #[must_use]
    pub fn slot(self) -> Slot {
        slot_of(self.0)
    }

    /// An owned copy.
    #[must_use]
    pub fn to_key(self) -> Key {
        Key(self.0.into())
    }
}

impl<'a> From<&'a Key> for KeyRef<'a> {
    fn from(key: &'a Key) -> Self {
        Self(&key.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pages_have_1_to_512_bytes() {
        assert_eq!(Key::new(b""), Err(KeyError::Empty));
        assert!(Key::new(&[b'a'; 512]).is_ok());
        let refused = Key::new(&[b'a'; 513]).unwrap_err();
        assert_eq!(refused.to_string(), "must be at most 512 bytes long, and is 513");
    }

    #[test]
    fn no_page_is_a_virtual_shard_of_another() {
        let page = Key::new(b"front").unwrap();
        let shard = page.virtual_shard(3);
        assert_eq!(Key::new(shard.as_bytes()), Err(KeyError::Reserved));
        assert_eq!(Key::from_bytes(shard.as_bytes()), Ok(shard.clone()));
        assert_eq!((shard.page(), shard.is_virtual_shard()), (&b"front"[..], true));
        assert_eq!((page.page(), page.is_virtual_shard()), (&b"front"[..], false));
        assert_ne!(Key::new(b"front#3").unwrap(), shard);
        assert_eq!(shard.virtual_shard(4), page.virtual_shard(4));
        assert_eq!(format!("{shard:?} {page:?}"), "Key(front#3) Key(front)");
    }

    #[test]
    fn a_borrowed_key_is_as_the_owned_one() {
        for key in [Key::new(b"{front}-page").unwrap(), Key::new(b"front").unwrap().virtual_shard(3)] {
            let borrowed = KeyRef::from(&key);
            assert_eq!((borrowed.slot(), borrowed.page(), borrowed.to_key()), (key.slot(), key.page(), key.clone()));
            assert_eq!(format!("{borrowed:?}"), format!("{key:?}"));
        }
        assert_eq!((KeyRef::new(b""), KeyRef::new(&[0xFF])), (Err(KeyError::Empty), Err(KeyError::Reserved)));
    }

    #[test]
    fn every_key_reads_back_and_nothing_else_does() {
        let long = Key::new(&[b'a'; 512]).unwrap().virtual_shard(65_535);
        let bytes = postcard::to_stdvec(&long).unwrap();
        assert_eq!(postcard::from_bytes::<Key>(&bytes), Ok(long));
        for bytes in [&[0xFF][..], &[0xFF, 0], &[0xFF, 0, 0], &[0xFF, 0, 0, 0xFF, 0, 0, b'a']] {
            assert!(Key::from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn virtual_shards_are_spread_even_when_the_page_has_braces() {
        let page = Key::new(b"{site}/front").unwrap();
        let slots: BTreeSet<Slot> = (0..64).map(|index| page.virtual_shard(index).slot()).collect();
        assert!(slots.len() > 60, "{} slots of 64 virtual shards", slots.len());
        // Not only apart, but all over: a few shards that own ranges of slots get about as many each.
        let quarter = |slot: &Slot| slot.number() / (crate::slot::SLOTS / 4);
        for wanted in 0..4 {
            assert!(slots.iter().filter(|slot| quarter(slot) == wanted).count() >= 8, "quarter {wanted}: {slots:?}");
        }
    }
}
