//! The layout: the versioned document that says which shard owns which slots, who its nodes are, and which slots move.
//!
//! A move takes three versions. *Copying*: the slots stand under their old shard, the new one receives. *Flipped*: they
//! stand under the new shard, and the old one is a source without a receipt. Then the move leaves the document: that
//! is its receipt. A version that drops a Copying move cancels it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{ClusterId, NodeName, ShardId};
use crate::slot::{SLOTS, Slot, SlotRange, to_ranges};

pub use virtual_shards::{Spread, VirtualShards, VirtualShardsError};

pub mod document;
pub mod virtual_shards;

/// The newest format of the document that this release reads and writes.
pub const LAYOUT_FORMAT: u32 = 1;
/// The most shards of a cluster.
pub const SHARDS_MAX: usize = 256;
/// The most replicas of a shard.
pub const REPLICAS_MAX: usize = 7;

/// A layout's place in the order of layouts; the highest wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayoutVersion(pub u64);

impl LayoutVersion {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for LayoutVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Who owns what, as of one version. JSON, camelCase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layout {
    /// [`LAYOUT_FORMAT`] or an older one.
    pub format: u32,
    pub cluster: ClusterId,
    pub version: LayoutVersion,
    /// In the order of their numbers.
    pub shards: Vec<Shard>,
    #[serde(default)]
    pub moves: Vec<Move>,
    /// Pages that are counted under several sub-keys, the first pattern that is in force first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub virtual_shards: Vec<VirtualShards>,
}

/// A replica group and the slots that it owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shard {
    pub shard: ShardId,
    pub slots: Vec<SlotRange>,
    pub nodes: Vec<Node>,
}

/// A node's name and its addresses, each `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    pub name: NodeName,
    pub http: String,
    pub admin: String,
    pub peer: String,
    /// Where it speaks the Redis protocol, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resp: Option<String>,
}

/// Slots on their way from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Move {
    pub from: ShardId,
    pub to: ShardId,
    pub slots: Vec<SlotRange>,
    pub phase: MovePhase,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MovePhase {
    /// `from` owns, `to` receives.
    Copying,
    /// `to` owns; what `from` still held is on its way, and `from` has no receipt yet.
    Flipped,
}

/// What is wrong with a layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("layout format {found} is newer than {LAYOUT_FORMAT}, the newest that this release knows")]
    NewerFormat { found: u32 },
    #[error("layout format must be at least 1")]
    NoFormat,
    #[error("a layout has between 1 and {SHARDS_MAX} shards, this one has {0}")]
    ShardCount(usize),
    #[error("shards must stand in the order of their numbers, each once: shard {0} does not")]
    ShardOrder(ShardId),
    #[error("shard {shard} must have between 1 and {REPLICAS_MAX} nodes, it has {nodes}")]
    NodeCount { shard: ShardId, nodes: usize },
    #[error("node {0} stands in the layout twice")]
    NodeTwice(NodeName),
    #[error("node {node} has no {port} address of the form host:port: `{address}`")]
    Address { node: NodeName, port: &'static str, address: String },
    #[error("slot {0} is owned by no shard")]
    Unowned(Slot),
    #[error("slot {slot} is owned by shard {first} and by shard {second}")]
    OwnedTwice { slot: Slot, first: ShardId, second: ShardId },
    #[error("slot {0} stands in more than one move")]
    MovedTwice(Slot),
    #[error("a move names shard {0}, which is not in the layout")]
    UnknownShard(ShardId),
    #[error("a move from shard {0} to itself moves nothing")]
    MoveToSelf(ShardId),
    #[error("a move from shard {0} names no slots")]
    EmptyMove(ShardId),
    #[error("slot {slot} is on the move and must stand under shard {expected}, not {found}")]
    MoveOwner { slot: Slot, expected: ShardId, found: ShardId },
    #[error(transparent)]
    VirtualShards(#[from] VirtualShardsError),
}

impl Layout {
    /// What each slot's owner is, by slot index; the proof that every slot has exactly one.
    ///
    /// # Errors
    /// The first [`LayoutError`] found, naming what is wrong.
    pub fn validate(&self) -> Result<(), LayoutError> {
        match self.format {
            0 => return Err(LayoutError::NoFormat),
            1..=LAYOUT_FORMAT => {}
            found => return Err(LayoutError::NewerFormat { found }),
        }
        self.validate_shards()?;
        let owners = self.validate_slots()?;
        self.validate_moves(&owners)?;
        Ok(virtual_shards::validate(&self.virtual_shards)?)
    }

    fn validate_shards(&self) -> Result<(), LayoutError> {
        if self.shards.is_empty() || self.shards.len() > SHARDS_MAX {
            return Err(LayoutError::ShardCount(self.shards.len()));
        }
        if let Some(pair) = self.shards.windows(2).find(|pair| pair[0].shard >= pair[1].shard) {
            return Err(LayoutError::ShardOrder(pair[1].shard));
        }
        let mut names = BTreeSet::new();
        for shard in &self.shards {
            if shard.nodes.is_empty() || shard.nodes.len() > REPLICAS_MAX {
                return Err(LayoutError::NodeCount { shard: shard.shard, nodes: shard.nodes.len() });
            }
            for node in &shard.nodes {
                node.validate()?;
                if !names.insert(&node.name) {
                    return Err(LayoutError::NodeTwice(node.name.clone()));
                }
            }
        }
        Ok(())
    }

    fn validate_slots(&self) -> Result<Vec<ShardId>, LayoutError> {
        let mut owners: Vec<Option<ShardId>> = vec![None; usize::from(SLOTS)];
        for shard in &self.shards {
            for slot in shard.slots.iter().flat_map(|range| range.iter()) {
                if let Some(first) = owners[slot.index()].replace(shard.shard) {
                    return Err(LayoutError::OwnedTwice { slot, first, second: shard.shard });
                }
            }
        }
        Slot::all().map(|slot| owners[slot.index()].ok_or(LayoutError::Unowned(slot))).collect()
    }

    fn validate_moves(&self, owners: &[ShardId]) -> Result<(), LayoutError> {
        let mut moving = BTreeSet::new();
        for slot_move in &self.moves {
            slot_move.validate(self)?;
            let expected = slot_move.owner();
            for slot in slot_move.slots.iter().flat_map(|range| range.iter()) {
                if !moving.insert(slot) {
                    return Err(LayoutError::MovedTwice(slot));
                }
                let found = owners[slot.index()];
                if found != expected {
                    return Err(LayoutError::MoveOwner { slot, expected, found });
                }
            }
        }
        Ok(())
    }

    /// A hash of the whole document: two layouts of one version are equal or one of them is refused.
    #[must_use]
    pub fn hash(&self) -> u64 {
        // Serialising these types to JSON has no way to fail: no maps, no non-finite numbers, no failing writer.
        xxh3_64(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// The shard of this number.
    #[must_use]
    pub fn shard(&self, shard: ShardId) -> Option<&Shard> {
        self.shards.iter().find(|candidate| candidate.shard == shard)
    }

    /// The shard that `node` belongs to.
    #[must_use]
    pub fn shard_of(&self, node: &NodeName) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.nodes.iter().any(|candidate| candidate.name == *node))
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &NodeName) -> Option<&Node> {
        self.nodes().find(|node| node.name == *name)
    }

    /// Every node, shard by shard.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.shards.iter().flat_map(|shard| &shard.nodes)
    }

    /// The shard that owns `slot`. For many look-ups, build [`Owners`] once.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.slots.iter().any(|range| range.contains(slot)))
    }

    /// The move that `slot` is part of.
    #[must_use]
    pub fn move_of(&self, slot: Slot) -> Option<&Move> {
        self.moves.iter().find(|slot_move| slot_move.slots.iter().any(|range| range.contains(slot)))
    }

    /// Over how many sub-keys a page is spread.
    #[must_use]
    pub fn spread(&self, page: &[u8]) -> Spread {
        Spread::of(&self.virtual_shards, page)
    }

    /// The one-node cluster that a node started without flags is.
    #[must_use]
    pub fn single(cluster: ClusterId, node: Node) -> Self {
        Self {
            format: LAYOUT_FORMAT,
            cluster,
            version: LayoutVersion(1),
            shards: vec![Shard { shard: ShardId(0), slots: vec![SlotRange::ALL], nodes: vec![node] }],
            moves: Vec::new(),
            virtual_shards: Vec::new(),
        }
    }
}

impl Node {
    fn validate(&self) -> Result<(), LayoutError> {
        let resp = self.resp.iter().map(|address| ("resp", address));
        for (port, address) in [("http", &self.http), ("admin", &self.admin), ("peer", &self.peer)].into_iter().chain(resp) {
            let valid = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
            if !valid {
                return Err(LayoutError::Address { node: self.name.clone(), port, address: address.clone() });
            }
        }
        Ok(())
    }
}

impl Move {
    /// The shard that owns the slots in this phase.
    #[must_use]
    pub fn owner(&self) -> ShardId {
        match self.phase {
            MovePhase::Copying => self.from,
            MovePhase::Flipped => self.to,
        }
    }

    fn validate(&self, layout: &Layout) -> Result<(), LayoutError> {
        if self.from == self.to {
            return Err(LayoutError::MoveToSelf(self.from));
        }
        if self.slots.is_empty() {
            return Err(LayoutError::EmptyMove(self.from));
        }
        match [self.from, self.to].into_iter().find(|shard| layout.shard(*shard).is_none()) {
            Some(shard) => Err(LayoutError::UnknownShard(shard)),
            None => Ok(()),
        }
    }
}

/// Why a node does not take a layout over; nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutRefused {
    #[error("the layout is of cluster {offered}, this node belongs to {held}")]
    OtherCluster { offered: ClusterId, held: ClusterId },
    #[error("layout version {offered} is older than {held}, which this node has")]
    Older { offered: LayoutVersion, held: LayoutVersion },
    #[error("this node has another layout of the same version {version}")]
    Conflict { version: LayoutVersion },
    #[error("the layout is not valid: {0}")]
    Invalid(#[from] LayoutError),
}

/// What taking an offered layout over would mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It is newer: take it.
    Adopt,
    /// It is the one that is held already.
    Same,
}

impl Layout {
    /// Whether a node that holds `held` takes `self` over: the highest version of its own cluster wins.
    ///
    /// # Errors
    /// [`LayoutRefused`], naming the reason.
    pub fn offered_to(&self, held: Option<&Self>) -> Result<Adoption, LayoutRefused> {
        self.validate()?;
        let Some(held) = held else { return Ok(Adoption::Adopt) };
        if self.cluster != held.cluster {
            return Err(LayoutRefused::OtherCluster { offered: self.cluster, held: held.cluster });
        }
        match self.version.cmp(&held.version) {
            std::cmp::Ordering::Greater => Ok(Adoption::Adopt),
            std::cmp::Ordering::Less => Err(LayoutRefused::Older { offered: self.version, held: held.version }),
            std::cmp::Ordering::Equal if self == held => Ok(Adoption::Same),
            std::cmp::Ordering::Equal => Err(LayoutRefused::Conflict { version: self.version }),
        }
    }
}

/// A layout's owners by slot, for look-ups on the hot path.
#[derive(Debug, Clone)]
pub struct Owners(Box<[u16]>);

impl Owners {
    /// The owners of a valid layout: by slot, the index into `layout.shards`.
    #[must_use]
    pub fn of(layout: &Layout) -> Self {
        let mut owners = vec![0; usize::from(SLOTS)];
        for (index, shard) in (0_u16..).zip(&layout.shards) {
            for slot in shard.slots.iter().flat_map(|range| range.iter()) {
                owners[slot.index()] = index;
            }
        }
        Self(owners.into_boxed_slice())
    }

    /// The index into `layout.shards` of the shard that owns `slot`.
    #[must_use]
    pub fn index(&self, slot: Slot) -> usize {
        usize::from(self.0[slot.index()])
    }
}

/// The slots of a list of ranges, sorted and without repetition, as the fewest ranges.
#[must_use]
pub fn normalised(ranges: &[SlotRange]) -> Vec<SlotRange> {
    to_ranges(ranges.iter().flat_map(|range| range.iter()))
}

#[cfg(test)]
mod tests;
