//! Keys: what a counter is filed under. A page's own key is the page. Whatever else is kept has keys of types of their own, which
//! no page can have, since they begin with a byte that no UTF-8 text begins with: virtual shards of pages, and what unread counts
//! are made of, see [`crate::unread`].

mod list;

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::list::KeyList;
use crate::slot::Slot;

/// The longest page, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The longest name of a user, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// Pages begin with lower bytes, as all UTF-8 text does.
const RESERVED: u8 = 0xF8;
/// What a sub-key begins with. The index follows, then the page.
const SUB_KEY: u8 = 0xFF;
const SUB_KEY_HEAD_BYTES: usize = 3;
/// The length of the user's name follows, then the name, then the page; or no page, in the key of the user.
const SUBSCRIPTION: u8 = 0xFE;
const SUBSCRIPTION_HEAD_BYTES: usize = 2;
/// The page follows.
const MODIFICATIONS: u8 = 0xFD;

/// What is kept under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// What counts under the page's own key.
    Page,
    /// One of the page's virtual shards.
    VirtualShard,
    /// How often the page has been modified.
    Modifications,
    /// One user's subscription to a page.
    Subscription,
    /// Nothing: it stands for all of a user's subscriptions.
    User,
}

impl KeyKind {
    /// Whether clients count under it: it is part of pages' and the site's counts.
    #[must_use]
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Page | Self::VirtualShard)
    }
}

/// A counter's key: a page of 1 to [`KEY_BYTES_MAX`] bytes, or one of another [kind](KeyKind). Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

/// Why some bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("must not be empty")]
    Empty,
    #[error("must be at most {KEY_BYTES_MAX} bytes long, and is {bytes}")]
    TooLong { bytes: usize },
    #[error("must be text, and no text begins with a byte of 0xF8 or more")]
    Reserved,
    #[error("is no virtual shard of any page")]
    SubKey,
    #[error("must be 1 to {USER_BYTES_MAX} bytes long, and is {bytes}")]
    User { bytes: usize },
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

    /// A key of any kind, from the bytes that [`Self::as_bytes`] gave.
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

    /// Under which the modifications of this page are counted.
    #[must_use]
    pub fn modifications(&self) -> Self {
        Self(std::iter::once(&MODIFICATIONS).chain(self.page()).copied().collect())
    }

    /// The key that stands for all subscriptions of a user.
    ///
    /// # Errors
    /// [`KeyError::User`] when the name has no bytes or too many.
    pub fn user(name: &[u8]) -> Result<Self, KeyError> {
        let refused = KeyError::User { bytes: name.len() };
        let bytes = u8::try_from(name.len()).map_err(|_| refused)?;
        if !(1..=USER_BYTES_MAX).contains(&name.len()) {
            return Err(refused);
        }
        Ok(Self([SUBSCRIPTION, bytes].iter().chain(name).copied().collect()))
    }

    /// Under which the subscription of this key's user to a page is kept. None where this is neither a user's key nor a
    /// subscription's.
    #[must_use]
    pub fn subscription(&self, page: &Self) -> Option<Self> {
        let head = KeyRef(&self.0).user_key()?.0;
        Some(Self(head.iter().chain(page.page()).copied().collect()))
    }

    /// What is kept under the key.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        KeyRef(&self.0).kind()
    }

    /// The key's bytes. Those of different kinds are never equal.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The page that the key is about. Empty in the key of a user.
    #[must_use]
    pub fn page(&self) -> &[u8] {
        KeyRef(&self.0).page()
    }

    /// Whether this is not a page's own key but one of its virtual shards'.
    #[must_use]
    pub fn is_virtual_shard(&self) -> bool {
        self.0.first() == Some(&SUB_KEY)
    }

    /// The slot that the key lies in. Virtual shards are spread whatever their page has in braces; modifications lie with their page,
    /// and subscriptions with their user.
    #[must_use]
    pub fn slot(&self) -> Slot {
        slot_of(&self.0)
    }
}

/// The slot of a key's bytes, see [`Key::slot`].
#[must_use]
pub fn slot_of(key: &[u8]) -> Slot {
    match key {
        [SUB_KEY, ..] => Slot::of_whole(key),
        [MODIFICATIONS, page @ ..] => Slot::of(page),
        [SUBSCRIPTION, ..] => Slot::of(KeyRef(key).user().unwrap_or_default()),
        page => Slot::of(page),
    }
}

fn check_page(page: &[u8]) -> Result<(), KeyError> {
    match (page.first().copied(), page.len()) {
        (None, _) => Err(KeyError::Empty),
        (Some(RESERVED..), _) => Err(KeyError::Reserved),
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
            [MODIFICATIONS, page @ ..] => write!(f, "Key(modifications of {})", page.escape_ascii()),
            [SUBSCRIPTION, ..] => {
                let user = self.user().unwrap_or_default().escape_ascii();
                write!(f, "Key(user {user}, page {})", self.page().escape_ascii())
            }
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
                f.write_str("the bytes of a key")
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

    /// A key of any kind.
    ///
    /// # Errors
    /// As [`Key::from_bytes`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, KeyError> {
        match bytes {
            [SUB_KEY, _, _, page @ ..] => check_page(page).map_err(|_| KeyError::SubKey)?,
            [MODIFICATIONS, page @ ..] => check_page(page)?,
            [SUBSCRIPTION, length, rest @ ..] => {
                let refused = KeyError::User { bytes: usize::from(*length) };
                let (user, page) = rest.split_at_checked(usize::from(*length)).ok_or(refused)?;
                if !(1..=USER_BYTES_MAX).contains(&user.len()) {
                    return Err(refused);
                }
                if !page.is_empty() {
                    check_page(page)?;
                }
            }
            _ => check_page(bytes)?,
        }
        Ok(Self(bytes))
    }

    /// What is kept under the key.
    #[must_use]
    pub fn kind(self) -> KeyKind {
        match self.0 {
            [SUB_KEY, ..] => KeyKind::VirtualShard,
            [MODIFICATIONS, ..] => KeyKind::Modifications,
            [SUBSCRIPTION, ..] if self.page().is_empty() => KeyKind::User,
            [SUBSCRIPTION, ..] => KeyKind::Subscription,
            _ => KeyKind::Page,
        }
    }

    /// The name of the user whose subscription this is, or whose key.
    #[must_use]
    pub fn user(self) -> Option<&'a [u8]> {
        self.user_key()?.0.get(SUBSCRIPTION_HEAD_BYTES..)
    }

    /// The key of the user whose subscription this is.
    #[must_use]
    pub fn user_key(self) -> Option<Self> {
        let [SUBSCRIPTION, length, ..] = self.0 else { return None };
        self.0.get(..SUBSCRIPTION_HEAD_BYTES.saturating_add(usize::from(*length))).map(Self)
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

    /// The page that the key is about. Empty in the key of a user.
    #[must_use]
    pub fn page(self) -> &'a [u8] {
        let head = match self.0 {
            [SUB_KEY, ..] => SUB_KEY_HEAD_BYTES,
            [MODIFICATIONS, ..] => 1,
            [SUBSCRIPTION, length, ..] => SUBSCRIPTION_HEAD_BYTES.saturating_add(usize::from(*length)),
            _ => 0,
        };
        self.0.get(head..).unwrap_or_default()
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
        let page = Key::new(b"{front}-page").unwrap();
        let user = Key::user("{ann}é".as_bytes()).unwrap();
        for key in [page.clone(), page.virtual_shard(3), page.modifications(), user.subscription(&page).unwrap(), user] {
            let borrowed = KeyRef::from(&key);
            assert_eq!((borrowed.slot(), borrowed.page(), borrowed.to_key()), (key.slot(), key.page(), key.clone()));
            assert_eq!(format!("{borrowed:?}"), format!("{key:?}"));
        }
        assert_eq!((KeyRef::new(b""), KeyRef::new(&[0xFF])), (Err(KeyError::Empty), Err(KeyError::Reserved)));
    }

    #[test]
    fn every_key_reads_back_and_nothing_else_does() {
        let page = Key::new(&[b'a'; 512]).unwrap();
        let user = Key::user(&[b'u'; 128]).unwrap();
        for key in [page.virtual_shard(65_535), page.modifications(), user.subscription(&page).unwrap(), user, page] {
            let bytes = postcard::to_stdvec(&key).unwrap();
            assert_eq!(postcard::from_bytes::<Key>(&bytes), Ok(key));
        }
        let refused: [&[u8]; 13] = [
            &[],
            &[0xFF],
            &[0xFF, 0],
            &[0xFF, 0, 0],
            &[0xFF, 0, 0, 0xFF, 0, 0, b'a'],
            &[0xFE],
            &[0xFE, 0],
            &[0xFE, 0, b'a'],
            &[0xFE, 2, b'a'],
            &[0xFE, 1, b'a', 0xFD, b'a'],
            &[0xFD],
            &[0xFD, 0xFD, b'a'],
            &[0xF8, b'a'],
        ];
        for bytes in refused {
            assert!(Key::from_bytes(bytes).is_err(), "{bytes:?}");
        }
        assert!(Key::from_bytes(&[&[0xFE, 129][..], &[b'a'; 129]].concat()).is_err());
    }

    #[test]
    fn what_unread_counts_are_made_of_has_keys_of_its_own_beside_its_page_or_its_user() {
        let page = Key::new(b"{blog}/front").unwrap();
        let user = Key::user(b"ann").unwrap();
        let subscription = user.subscription(&page).unwrap();
        assert_eq!(page.modifications().slot(), page.slot());
        assert_eq!(subscription.slot(), Slot::of(b"ann"));
        assert_eq!((user.slot(), user.page()), (Slot::of(b"ann"), &b""[..]));
        assert_eq!(KeyRef::from(&subscription).user_key(), Some(KeyRef::from(&user)));
        assert_eq!((KeyRef::from(&subscription).user(), subscription.page()), (Some(&b"ann"[..]), page.page()));
        assert_eq!((page.subscription(&page), KeyRef::from(&page).user()), (None, None));
        let kinds = [page.kind(), page.virtual_shard(1).kind(), page.modifications().kind(), subscription.kind(), user.kind()];
        let all = [KeyKind::Page, KeyKind::VirtualShard, KeyKind::Modifications, KeyKind::Subscription, KeyKind::User];
        assert_eq!((kinds, kinds.map(KeyKind::is_counted)), (all, [true, true, false, false, false]));
        assert_eq!(Key::user(&[b'u'; 129]).unwrap_err().to_string(), "must be 1 to 128 bytes long, and is 129");
        assert_eq!(Key::user(b""), Err(KeyError::User { bytes: 0 }));
        let named = format!("{subscription:?} {:?}", page.modifications());
        assert_eq!(named, "Key(user ann, page {blog}/front) Key(modifications of {blog}/front)");
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
