//! Which volume each node had: what tells an old one from a new, empty one under its name, and whose loss was accepted.
//!
//! A volume's random id is recorded with the layout when it is first seen. A node that comes with another one, or whose
//! claim is gone, has lost what only the old one held; what rests on that waits for a person, who brings the volume back
//! or names the node in an annotation. Each entry of the annotation is judged once and for one volume, so that it cannot
//! accept the next loss as well, and never that of a node which is there.

use std::collections::{BTreeMap, BTreeSet};

use counter_core::id::{ActorId, NodeName, ShardId};
use counter_core::layout::{Layout, MovePhase};
use counter_core::status::SourceStatus;
use serde::{Deserialize, Serialize};

use crate::controller::validate::{ACCEPT_LOSS_ANNOTATION, ClusterSpec, Storage};

use super::{Notice, Observed, ObservedNode};

/// The newest format of the record that this release reads and writes.
pub const VOLUMES_FORMAT: u32 = 1;

/// What is recorded of a cluster's storage, beside its layout. JSON, camelCase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volumes {
    /// [`VOLUMES_FORMAT`] or an older one.
    pub format: u32,
    /// The kind of storage that the cluster was begun with: a cluster of another kind would start at zero.
    pub storage: String,
    /// Each node's volume. Of volumes only: memory is another at every start.
    #[serde(default)]
    pub nodes: BTreeMap<NodeName, VolumeId>,
    /// What became of each entry of the annotation, for as long as it stands there.
    #[serde(default)]
    pub judged: BTreeMap<NodeName, Judgement>,
}

/// A volume's random id, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeId(pub String);

/// What was found of a node when the annotation named it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Judgement {
    pub volume: VolumeId,
    /// Whether it was gone, so that its loss is accepted; a node that is there is not skipped.
    pub lost: bool,
}

/// The volumes that are gone.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Nodes with a loss that nobody has accepted, and what is known of it.
    open: BTreeMap<NodeName, String>,
    /// Nodes that do not answer and whose loss is accepted: what they held is waited for no more.
    pub(super) skipped: BTreeSet<NodeName>,
    /// The volume that speaks for each node: the recorded one or, where its loss is accepted, the one that is there.
    speaking: BTreeMap<NodeName, VolumeId>,
    /// Entries of the annotation, by what came of them.
    accepted: Vec<NodeName>,
    there: Vec<NodeName>,
    undecided: Vec<NodeName>,
    outdated: Vec<NodeName>,
    judged: BTreeMap<NodeName, Judgement>,
}

impl VolumeId {
    fn of(node: &ObservedNode) -> Option<Self> {
        Some(Self::of_actor(node.status.as_ref()?.actor))
    }

    fn of_actor(actor: ActorId) -> Self {
        Self(format!("{:016x}", actor.origin))
    }
}

impl Losses {
    pub(super) fn of(spec: &ClusterSpec, observed: &Observed) -> Self {
        let mut losses = Self::default();
        let (Some(layout), Some(volumes)) = (&observed.layout, &observed.volumes) else { return losses };
        for node in &spec.identity.accept_loss {
            losses.judge(node, volumes, observed);
        }
        for node in layout.nodes().map(|node| &node.name) {
            if let Some(volume) = volumes.nodes.get(node) {
                losses.look(node, volume, observed);
            }
        }
        losses
    }

    /// Judges one entry of the annotation.
    fn judge(&mut self, node: &NodeName, volumes: &Volumes, observed: &Observed) {
        let Some(volume) = volumes.nodes.get(node) else { return self.undecided.push(node.clone()) };
        let now = observed.nodes.get(node).and_then(VolumeId::of);
        let lost = match volumes.judged.get(node) {
            Some(known) if known.volume != *volume => {
                self.judged.insert(node.clone(), known.clone());
                return self.outdated.push(node.clone());
            }
            // One that is back with its volume is skipped no more.
            Some(known) => known.lost && now.as_ref() != Some(volume),
            None if now.is_some() => now.as_ref() != Some(volume),
            None if observed.nodes.get(node).is_some_and(|node| node.running) => return self.undecided.push(node.clone()),
            None => true,
        };
        self.judged.insert(node.clone(), Judgement { volume: volume.clone(), lost });
        if lost { self.accepted.push(node.clone()) } else { self.there.push(node.clone()) }
    }

    fn look(&mut self, node: &NodeName, volume: &VolumeId, observed: &Observed) {
        let accepted = self.accepted.contains(node);
        let now = observed.nodes.get(node).and_then(VolumeId::of);
        match &now {
            Some(now) if now == volume || accepted => {}
            Some(_) => {
                let what = format!("node {node} came back with another volume than it had ({})", observed.addresses.volume(node));
                self.open.insert(node.clone(), what);
            }
            None if accepted => {
                self.skipped.insert(node.clone());
            }
            None => {
                if let Some(why) = observed.absent_claims.get(node) {
                    self.open.insert(node.clone(), format!("the volume of node {node} is gone: {why}"));
                }
            }
        }
        let speaks = now.filter(|_| accepted).unwrap_or_else(|| volume.clone());
        self.speaking.insert(node.clone(), speaks);
    }

    /// Whether what has come from an old replica has come from the volume that it had: another one under its name does not say what
    /// it held, be it seen here or not.
    pub(super) fn is_word_of(&self, source: &SourceStatus) -> bool {
        let (speaks, actor) = (self.speaking.get(&source.node), source.actor);
        speaks.zip(actor).is_none_or(|(speaks, actor)| *speaks == VolumeId::of_actor(actor))
    }

    /// Those of `names` with a loss that nobody has accepted.
    pub(super) fn open_among<'a>(&'a self, layout: &'a Layout, shard: ShardId) -> impl Iterator<Item = &'a NodeName> {
        let nodes = layout.shard(shard).into_iter().flat_map(|shard| &shard.nodes);
        nodes.map(|node| &node.name).filter(|name| self.open.contains_key(*name))
    }

    /// What is gone, what waits for it, and how a person can accept it.
    pub(super) fn notice(&self, observed: &Observed) -> Option<Notice> {
        let layout = observed.layout.as_ref()?;
        if self.open.is_empty() {
            return None;
        }
        let what: Vec<&str> = self.open.values().map(String::as_str).collect();
        let nodes: Vec<&str> = self.open.keys().map(|node| node.0.as_str()).collect();
        let waits = match layout.moves.first() {
            Some(slot_move) if self.open_among(layout, slot_move.from).next().is_some() => {
                let stage = if slot_move.phase == MovePhase::Copying { "move of slots" } else { "receipt for the slots moved" };
                format!("the {stage} from shard {} to shard {} waits for what it held", slot_move.from, slot_move.to)
            }
            Some(_) | None => "no slots leave its shard".to_owned(),
        };
        let mut message = format!(
            "{}; {waits}. Bring the volume back, or accept that what nobody else held is lost, by the annotation \
             {ACCEPT_LOSS_ANNOTATION}={}",
            what.join("; "),
            nodes.join(","),
        );
        if let Some(outdated) = self.outdated.iter().find(|node| self.open.contains_key(*node)) {
            message += &format!(" (what stands there for {outdated} was for an earlier volume: take it out, and name it anew)");
        }
        Some(Notice::new("VolumeLost", message))
    }

    /// What became of the annotation, while it stands.
    pub(super) fn verdict(&self) -> Option<Notice> {
        let list = |nodes: &[NodeName]| nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !self.accepted.is_empty() {
            parts.push(format!("accepted: what only the lost volume of {} held is lost", list(&self.accepted)));
        }
        if !self.there.is_empty() {
            parts.push(format!("{} is there with its volume and is not skipped", list(&self.there)));
        }
        if !self.undecided.is_empty() {
            parts.push(format!("of {} it is not known that its volume is gone", list(&self.undecided)));
        }
        if parts.is_empty() {
            return None;
        }
        let reason = if self.accepted.is_empty() { "LossNotAccepted" } else { "LossAccepted" };
        Some(Notice::new(reason, parts.join("; ")))
    }

    /// The nodes whose loss is accepted by this pass for the first time.
    pub(super) fn accepted_now(&self, observed: &Observed) -> Vec<NodeName> {
        let known =
            |node: &NodeName| observed.volumes.as_ref().and_then(|volumes| volumes.judged.get(node)) == self.judged.get(node);
        self.accepted.iter().filter(|node| !known(node)).cloned().collect()
    }

    /// The record as it should be once `layout` is recorded; None where there is nothing to record it with.
    pub(super) fn record(&self, spec: &ClusterSpec, observed: &Observed, layout: Option<&Layout>) -> Option<Volumes> {
        let layout = layout?;
        let mut next = observed.volumes.clone().unwrap_or_else(|| Volumes {
            format: VOLUMES_FORMAT,
            storage: spec.storage.kind().to_owned(),
            nodes: BTreeMap::new(),
            judged: BTreeMap::new(),
        });
        next.judged.clone_from(&self.judged);
        if matches!(spec.storage, Storage::Volume(_)) {
            for node in layout.nodes().map(|node| &node.name).filter(|node| observed.answers_for(node, layout.cluster)) {
                let Some(now) = observed.nodes.get(node).and_then(VolumeId::of) else { continue };
                if self.accepted.contains(node) || !next.nodes.contains_key(node) {
                    next.nodes.insert(node.clone(), now);
                }
            }
        }
        next.nodes.retain(|node, _| layout.node(node).is_some());
        Some(next)
    }
}

/// Why the recorded cluster cannot go on as the spec says: it kept its counts elsewhere, and would start at zero.
pub(super) fn of_another_kind(spec: &ClusterSpec, observed: &Observed) -> Option<Notice> {
    observed.layout.as_ref()?;
    let wanted = spec.storage.kind();
    let recorded = match &observed.volumes {
        Some(volumes) => volumes.storage.as_str(),
        // Of a record that does not say, claims do.
        None if !observed.claims.is_empty() => "volume",
        None => wanted,
    };
    let name = &spec.identity.name;
    (recorded != wanted).then(|| {
        Notice::new(
            "StorageChanged",
            format!(
                "the record {name}-layout is of a cluster that keeps its counts in storage.{recorded}, and spec.storage names {wanted}, \
                 which would start at zero: ask for storage.{recorded}, or give those counts up by deleting the record and the \
                 cluster's claims"
            ),
        )
    })
}
