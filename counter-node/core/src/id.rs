//! Names of clusters, nodes, shards and actors. An actor, who wrote an entry, is never an ordinal, a host name or an address.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A cluster's identity: random, minted with its first layout, 32 hexadecimal digits as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: expected {form}")]
pub struct IdError {
    text: String,
    what: &'static str,
    form: &'static str,
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || IdError { text: text.to_owned(), what: "cluster id", form: "32 hexadecimal digits" };
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits {
            return Err(refused());
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| refused())
    }
}

// Text in documents that people read, a number on the wire.
impl Serialize for ClusterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for ClusterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            u128::deserialize(deserializer).map(Self)
        }
    }
}

/// Who wrote an entry: one start of one process on one volume. Text: `ORIGIN-INCARNATION` in hexadecimal.
///
/// No start ever resumes an actor, so a lost tail, a cloned or a restored volume cannot write under an identity that
/// others know more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorId {
    /// Random, kept on the volume.
    pub origin: u64,
    /// The volume's number of starts in the upper 32 bits; 32 random bits below, which keep the starts of clones apart.
    pub incarnation: u64,
}

impl ActorId {
    /// The actor of the `starts`-th start on the volume of `origin`; `nonce` is random.
    #[must_use]
    pub fn new(origin: u64, starts: u32, nonce: u32) -> Self {
        Self { origin, incarnation: (u64::from(starts) << 32) | u64::from(nonce) }
    }

    /// Which start on its volume this is.
    #[must_use]
    pub fn starts(self) -> u32 {
        u32::try_from(self.incarnation >> 32).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.origin, self.incarnation)
    }
}

impl FromStr for ActorId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = |part: &str| u64::from_str_radix(part, 16).ok();
        text.split_once('-')
            .and_then(|(origin, incarnation)| Some(Self { origin: hex(origin)?, incarnation: hex(incarnation)? }))
            .ok_or_else(|| IdError { text: text.to_owned(), what: "actor", form: "ORIGIN-INCARNATION in hexadecimal" })
    }
}

impl Serialize for ActorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.origin, self.incarnation).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ActorId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            let (origin, incarnation) = Deserialize::deserialize(deserializer)?;
            Ok(Self { origin, incarnation })
        }
    }
}

/// A node's name, unique in its cluster: `CLUSTER-SHARD-REPLICA`, its Pod's name in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl NodeName {
    /// The name of the `replica`-th node of a shard.
    #[must_use]
    pub fn of(cluster: &str, shard: ShardId, replica: u16) -> Self {
        Self(format!("{cluster}-{shard}-{replica}"))
    }

    /// The replica's number within its shard, of a name that [`Self::of`] has made.
    #[must_use]
    pub fn replica(&self) -> Option<u16> {
        self.0.rsplit('-').next()?.parse().ok()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// A shard's number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_back_from_their_text() {
        let cluster = ClusterId(0xfeed);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        let actor = ActorId::new(7, 3, 0xffff_ffff);
        assert_eq!(actor.to_string().parse(), Ok(actor));
        assert!("beef".parse::<ClusterId>().unwrap_err().to_string().contains("32 hexadecimal digits"));
        assert!("beef".parse::<ActorId>().unwrap_err().to_string().contains("`beef` is no actor"));
    }

    #[test]
    fn a_later_start_is_a_greater_incarnation_whatever_the_nonce() {
        assert!(ActorId::new(7, 4, 0) > ActorId::new(7, 3, u32::MAX));
    }
}
