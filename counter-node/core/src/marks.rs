//! Marks: what of a client's own writes a replica must have merged before its answers show them.
//!
//! Every update, a reset included, raises its writer's entry in the counter, and a copy that has the entry has all that the
//! writer had put into the counter by then. So one entry stands for an update: a replica has *seen* it once its own copy of the entry
//! is as high. The actor's retirement takes that over, since all holders agree on the final entry before; a reset has cleared
//! of what was retired earlier as well, which the copy must show, too.
//!
//! A client keeps its marks itself, as a text that nodes make and check: no node remembers a client. The text is no secret
//! and proves nothing: a forged one makes its sender wait.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::counter::{Entry, KeyRef, Total};
use crate::id::{ActorId, ClusterId};
use crate::vector::{Generation, key_hash};

/// Counters, each times the replicas by which it was updated, that marks are kept of. With one more the oldest goes.
pub const MARKS_MAX: usize = 64;
/// The longest encoding, in bytes: of as many marks, each of another actor and with the highest numbers.
pub const MARKS_BYTES_MAX: usize = 6_144;

const FORMAT: u8 = 1;
const CHECK_BYTES: usize = 4;
const ACTOR_BYTES: usize = 16;

/// What a replica must have merged of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose entry it is about.
    pub actor: ActorId,
    /// The entry is to be this high, or the actor retired.
    pub entry: Entry,
    /// After a reset: the slot's generation is to be this high.
    pub generation: Generation,
    /// After a reset: so much is to be cleared of what retired actors came to.
    pub cleared: Total,
}

impl Mark {
    fn max(self, other: Self) -> Self {
        Self {
            actor: self.actor,
            entry: self.entry.max(other.entry),
            generation: self.generation.max(other.generation),
            cleared: self.cleared.max(other.cleared),
        }
    }
}

/// The marks of one client, the latest last; at most [`MARKS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<(u64, Mark)>);

/// Why bytes are no marks of this cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MarksError {
    #[error("is not what a node of this cluster has given out: it is damaged, or was cut off")]
    Malformed,
    #[error("was given out by another cluster")]
    OtherCluster,
    #[error("is of format {found}, and this release knows none but {FORMAT}")]
    OtherFormat { found: u8 },
}

impl Marks {
    /// No marks.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What must have been merged of this counter.
    #[must_use]
    pub fn of<'k>(&self, key: impl Into<KeyRef<'k>>) -> Vec<Mark> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let hash = key_hash(key.into());
        self.0.iter().filter(|(marked, _)| *marked == hash).map(|(_, mark)| *mark).collect()
    }

    /// Whether anything must have been merged of this counter.
    #[must_use]
    pub fn names<'k>(&self, key: impl Into<KeyRef<'k>>) -> bool {
        !self.0.is_empty() && {
            let hash = key_hash(key.into());
            self.0.iter().any(|(marked, _)| *marked == hash)
        }
    }

    /// The client has updated this counter.
    pub fn add<'k>(&mut self, key: impl Into<KeyRef<'k>>, mark: Mark) {
        self.put(key_hash(key.into()), mark);
    }

    /// The client has these, too, and later.
    pub fn add_all(&mut self, later: &Self) {
        for (hash, mark) in &later.0 {
            self.put(*hash, *mark);
        }
    }

    fn put(&mut self, hash: u64, mark: Mark) {
        let same = |(marked, held): &(u64, Mark)| *marked == hash && held.actor == mark.actor;
        let held = self.0.iter().position(same).map(|place| self.0.remove(place).1);
        if self.0.len() >= MARKS_MAX {
            self.0.remove(0);
        }
        self.0.push((hash, held.map_or(mark, |held| held.max(mark))));
    }

    /// The marks as bytes that name their cluster and show damage.
    #[must_use]
    pub fn encode(&self, cluster: ClusterId) -> Vec<u8> {
        let mut actors: Vec<ActorId> = self.0.iter().map(|(_, mark)| mark.actor).collect();
        actors.sort_unstable();
        actors.dedup();
        let mut bytes = vec![FORMAT];
        bytes.extend(cluster_hash(cluster).to_le_bytes());
        bytes.push(count(actors.len()));
        for actor in &actors {
            bytes.extend(actor.origin.to_le_bytes());
            bytes.extend(actor.incarnation.to_le_bytes());
        }
        bytes.push(count(self.0.len()));
        for (hash, mark) in &self.0 {
            let place = actors.binary_search(&mark.actor).map_or(0, count);
            // Encoding into memory has no way to fail for these types.
            bytes.extend(postcard::to_stdvec(&(hash, place, Amounts::of(mark))).unwrap_or_default());
        }
        bytes.extend(check(&bytes));
        bytes
    }

    /// Reads marks back. What is allocated is bounded by [`MARKS_MAX`], whatever the bytes say.
    ///
    /// # Errors
    /// [`MarksError`]
    pub fn decode(bytes: &[u8], cluster: ClusterId) -> Result<Self, MarksError> {
        let (content, checked) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(MarksError::Malformed)?;
        if bytes.len() > MARKS_BYTES_MAX || *checked != check(content) {
            return Err(MarksError::Malformed);
        }
        let (format, content) = content.split_first().ok_or(MarksError::Malformed)?;
        if *format != FORMAT {
            return Err(MarksError::OtherFormat { found: *format });
        }
        let (of, content) = content.split_first_chunk::<8>().ok_or(MarksError::Malformed)?;
        if u64::from_le_bytes(*of) != cluster_hash(cluster) {
            return Err(MarksError::OtherCluster);
        }
        decode_marks(content).ok_or(MarksError::Malformed)
    }
}

/// A mark's numbers, as they are encoded.
#[derive(Serialize, Deserialize)]
struct Amounts(Entry, Generation, Total);

impl Amounts {
    fn of(mark: &Mark) -> Self {
        Self(mark.entry, mark.generation, mark.cleared)
    }
}

fn decode_marks(content: &[u8]) -> Option<Marks> {
    let (actors, content) = content.split_first()?;
    let (actors, content) = content.split_at_checked(usize::from(*actors).saturating_mul(ACTOR_BYTES))?;
    let actor = |place: u8| {
        let start = usize::from(place).saturating_mul(ACTOR_BYTES);
        let (origin, rest) = actors.get(start..)?.split_first_chunk::<8>()?;
        let incarnation = rest.first_chunk::<8>()?;
        Some(ActorId { origin: u64::from_le_bytes(*origin), incarnation: u64::from_le_bytes(*incarnation) })
    };
    let (marks, mut content) = content.split_first()?;
    let marks = Some(usize::from(*marks)).filter(|marks| *marks <= MARKS_MAX)?;
    let mut held = Marks(Vec::with_capacity(marks));
    for _ in 0..marks {
        let ((hash, place, Amounts(entry, generation, cleared)), rest) =
            postcard::take_from_bytes::<(u64, u8, Amounts)>(content).ok()?;
        held.put(hash, Mark { actor: actor(place)?, entry, generation, cleared });
        content = rest;
    }
    content.is_empty().then_some(held)
}

/// Stands for a cluster: a client that talks to two must not mix their marks up.
fn cluster_hash(cluster: ClusterId) -> u64 {
    xxh3_64(&cluster.0.to_le_bytes())
}

fn check(content: &[u8]) -> [u8; CHECK_BYTES] {
    let [a, b, c, d, ..] = xxh3_64(content).to_le_bytes();
    [a, b, c, d]
}

fn count(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
