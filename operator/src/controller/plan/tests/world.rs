//! A small model of what the plan acts upon: StatefulSets and their controller, Pods, and nodes that take layouts over and
//! receive slots. Every step that it performs is checked against what a plan must never do.

use std::collections::{BTreeMap, BTreeSet};

use counter_core::id::{ActorId, ClusterId, NodeName, ShardId};
use counter_core::layout::{Layout, MovePhase, Owners};
use counter_core::slot::{Slot, SlotRange, to_ranges};
use counter_core::status::{
    LayoutStatus, MoveStatus, NodeStatus, Readiness, STATUS_FORMAT, SlotRangeStatus, SourceStatus, StorageStatus,
};
use serde_json::json;

use crate::controller::plan::{
    Addresses, Change, DesiredShard, Eviction, Observed, ObservedNode, ObservedShard, Plan, Step, Template, Volumes, plan,
};
use crate::controller::validate::ClusterSpec;
use crate::controller::validate::tests::spec_of;

/// What outlives a Pod.
#[derive(Clone, Default)]
struct Volume {
    cluster: Option<ClusterId>,
    layout: Option<Layout>,
    /// Slots that it does not hold yet of the move in its layout, per old replica.
    left: BTreeMap<NodeName, Left>,
    origin: u64,
}

/// What is still to come from an old replica, and from which volume the rest has come.
#[derive(Clone, Copy)]
struct Left {
    slots: u64,
    origin: Option<u64>,
}

#[derive(Clone)]
struct Pod {
    uid: String,
    template: String,
    /// Its process runs and answers.
    up: bool,
}

/// All that there is.
pub(super) struct World {
    pub(super) spec: ClusterSpec,
    pub(super) template: Template,
    pub(super) recorded: Option<Layout>,
    pub(super) recorded_volumes: Option<Volumes>,
    /// Nodes whose claims are gone.
    pub(super) absent_claims: BTreeMap<NodeName, String>,
    pub(super) shards: BTreeMap<ShardId, ObservedShard>,
    /// Templates of which no process ever starts.
    pub(super) bad_templates: BTreeSet<String>,
    pub(super) history: Vec<Change>,
    /// How many slots have flipped.
    pub(super) moved: usize,
    pub(super) evicted: Vec<NodeName>,
    pods: BTreeMap<NodeName, Pod>,
    volumes: BTreeMap<NodeName, Volume>,
    /// What nodes have lost, and nobody has accepted since: the first volume where several went.
    lost: BTreeMap<NodeName, Volume>,
    owners_ever: BTreeSet<ShardId>,
    uids: u32,
}

impl World {
    pub(super) fn new(shards: u16, replicas: u16) -> Self {
        Self {
            spec: spec_of(json!({"shards": shards, "replicas": replicas})),
            template: Template("a".to_owned()),
            recorded: None,
            recorded_volumes: None,
            absent_claims: BTreeMap::new(),
            shards: BTreeMap::new(),
            bad_templates: BTreeSet::new(),
            history: Vec::new(),
            moved: 0,
            evicted: Vec::new(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            lost: BTreeMap::new(),
            owners_ever: BTreeSet::new(),
            uids: 0,
        }
    }

    /// A settled cluster of this size.
    pub(super) fn settled(shards: u16, replicas: u16) -> Self {
        let mut world = Self::new(shards, replicas);
        world.settle();
        world.history.clear();
        world
    }

    /// The user edits the spec.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut ClusterSpec)) {
        change(&mut self.spec);
        self.spec.identity.generation += 1;
    }

    pub(super) fn resize(&mut self, shards: u16, replicas: u16) {
        self.edit(|spec| (spec.shards, spec.replicas) = (shards, replicas));
    }

    pub(super) fn layout(&self) -> &Layout {
        self.recorded.as_ref().unwrap()
    }

    pub(super) fn held(&self) -> Vec<usize> {
        self.layout().shards.iter().map(|shard| SlotRange::count_all(&shard.slots)).collect()
    }

    /// The process of a node dies, or comes back.
    pub(super) fn set_up(&mut self, node: &str, up: bool) {
        self.pods.get_mut(&NodeName::from(node)).unwrap().up = up;
    }

    pub(super) fn pods(&self) -> Vec<NodeName> {
        self.pods.keys().cloned().collect()
    }

    /// A volume that has belonged to another cluster.
    pub(super) fn set_cluster(&mut self, node: &str, cluster: ClusterId) {
        self.volumes.insert(NodeName::from(node), Volume { cluster: Some(cluster), ..Volume::default() });
    }

    /// A node comes back with a new, empty volume under the old name.
    pub(super) fn lose(&mut self, node: &str) {
        let node = NodeName::from(node);
        self.uids += 1;
        let lost = self.volumes.insert(node.clone(), Volume { origin: self.uids.into(), ..Volume::default() });
        // One that had never been handed a layout had counted nothing.
        if let Some(lost) = lost.filter(|volume| volume.layout.is_some() && self.layout_names(&node)) {
            self.lost.entry(node).or_insert(lost);
        }
    }

    /// The volume that a node had lost is brought back, if it has lost one.
    pub(super) fn bring_back(&mut self, node: &str) {
        let node = NodeName::from(node);
        if let Some(volume) = self.lost.remove(&node) {
            self.absent_claims.remove(&node);
            self.volumes.insert(node, volume);
        }
    }

    /// A node's claim goes, and no process comes up any more.
    pub(super) fn lose_for_good(&mut self, node: &str) {
        self.lose(node);
        self.set_up(node, false);
        self.absent_claims.insert(NodeName::from(node), format!("claim data-{node} does not exist"));
    }

    /// Every node whose volume is not the recorded one: also those whose acceptance was taken back before it had an effect.
    pub(super) fn all_lost(&self) -> BTreeSet<NodeName> {
        let recorded = self.recorded_volumes.iter().flat_map(|volumes| &volumes.nodes);
        let other = recorded.filter(|(node, id)| id.0 != format!("{:016x}", self.volumes[*node].origin));
        self.lost.keys().chain(other.map(|(node, _)| node)).cloned().collect()
    }

    /// There is room for a new volume.
    pub(super) fn replace_claims(&mut self) {
        self.absent_claims.clear();
    }

    /// The user says whose loss is accepted.
    pub(super) fn accept_loss(&mut self, nodes: &[&str]) {
        self.spec.identity.accept_loss = nodes.iter().map(|node| NodeName::from(*node)).collect();
    }

    fn layout_names(&self, node: &NodeName) -> bool {
        self.recorded.as_ref().is_some_and(|layout| layout.node(node).is_some())
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.spec, &self.observed())
    }

    /// One pass of the operator and one of everything else.
    pub(super) fn round(&mut self) -> Plan {
        let plan = self.act(|_| true);
        self.turn(|_| true);
        plan
    }

    /// Rounds until nothing is left to do.
    pub(super) fn settle(&mut self) -> Plan {
        for _ in 0..2000 {
            let plan = self.round();
            let idle = plan.step == Step::Rest && plan.remove.is_empty() && plan.progress.is_none();
            if idle && plan.publish.as_ref().is_none_or(|publish| publish.nodes.is_empty()) {
                return plan;
            }
        }
        panic!("it does not settle: {:?}", self.plan());
    }

    /// One pass of the operator, of which only those nodes hear whom `reached` lets.
    pub(super) fn act(&mut self, mut reached: impl FnMut(&NodeName) -> bool) -> Plan {
        let plan = self.plan();
        // First, so that it is checked against what the plan was made from.
        if let Step::Evict(eviction) = &plan.step {
            self.evict(eviction, &plan.shards);
        }
        for (shard, desired) in &plan.shards {
            self.apply(*shard, desired);
        }
        if let Some(volumes) = &plan.volumes {
            let judged = volumes.judged.iter().filter(|(_, judgement)| judgement.lost);
            for (node, _) in judged {
                self.lost.remove(node);
            }
            self.recorded_volumes = Some(volumes.clone());
        }
        if let Step::Record(change, layout) = &plan.step {
            self.record(*change, layout);
        }
        for node in plan.publish.iter().flat_map(|publish| &publish.nodes).filter(|node| reached(node)) {
            self.hand_over(node, &plan.publish.as_ref().unwrap().layout);
        }
        for removal in &plan.remove {
            assert!(!self.owners_ever.contains(&removal.shard), "{} owned slots", removal.shard);
            assert!(self.recorded.as_ref().is_none_or(|layout| layout.shard(removal.shard).is_none()));
            assert_eq!(self.shards[&removal.shard].uid, removal.uid);
            self.shards.remove(&removal.shard);
        }
        plan
    }

    /// One turn of what is not the operator: Pods come and go with their StatefulSets, `lively` nodes receive slots.
    pub(super) fn turn(&mut self, lively: impl FnMut(&NodeName) -> bool) {
        let wanted: BTreeMap<NodeName, String> = self
            .shards
            .iter()
            .flat_map(|(shard, own)| {
                let hash = own.pin.as_ref().unwrap().template.hash();
                (0..own.replicas).map(move |replica| (NodeName::of("page-views", *shard, replica), hash.clone()))
            })
            .collect();
        self.pods.retain(|name, _| wanted.contains_key(name));
        for (name, template) in wanted {
            self.uids += 1;
            let (uid, up) = (self.uids.to_string(), !self.bad_templates.contains(&template));
            self.pods.entry(name.clone()).or_insert(Pod { uid, template, up });
            let origin = self.uids.into();
            self.volumes.entry(name).or_insert_with(|| Volume { origin, ..Volume::default() });
        }
        for own in self.shards.values_mut() {
            own.settled = true;
        }
        self.receive(lively);
    }

    /// Lively nodes receive what those old replicas hold that are up and act by the same layout.
    fn receive(&mut self, mut lively: impl FnMut(&NodeName) -> bool) {
        if self.volumes.values().all(|volume| volume.left.is_empty()) {
            return;
        }
        let is_up = |pods: &BTreeMap<NodeName, Pod>, name: &NodeName| pods.get(name).is_some_and(|pod| pod.up);
        let sources: BTreeMap<NodeName, (Option<Layout>, u64)> =
            self.volumes.iter().map(|(name, volume)| (name.clone(), (volume.layout.clone(), volume.origin))).collect();
        for (name, volume) in self.volumes.iter_mut().filter(|(_, volume)| !volume.left.is_empty()) {
            if !(is_up(&self.pods, name) && lively(name)) {
                continue;
            }
            for (source, left) in &mut volume.left {
                let (layout, origin) = &sources[source];
                if is_up(&self.pods, source) && *layout == volume.layout {
                    *left = Left { slots: 0, origin: Some(*origin) };
                }
            }
        }
    }

    fn apply(&mut self, shard: ShardId, desired: &DesiredShard) {
        let named = self.recorded.iter().filter_map(|layout| layout.shard(shard)).flat_map(|shard| &shard.nodes);
        assert!(named.into_iter().all(|node| is_pod_of(&node.name, shard, desired)), "a StatefulSet shrinks below its layout");
        self.uids += 1;
        let uid = self.shards.get(&shard).map_or_else(|| self.uids.to_string(), |own| own.uid.clone());
        let applied = ObservedShard {
            uid,
            replicas: desired.replicas,
            pin: Some(desired.pin.clone()),
            settled: true,
            claim_size: desired.claim_size.clone(),
            when_deleted: desired.when_deleted,
        };
        // A change is seen by the StatefulSet's controller a turn later.
        let settled = self.shards.get(&shard) == Some(&applied);
        self.shards.insert(shard, ObservedShard { settled, ..applied });
    }

    fn record(&mut self, change: Change, next: &Layout) {
        next.validate().unwrap();
        let seen = self.volumes.values().filter_map(|volume| volume.layout.as_ref()).map(|layout| layout.version).max();
        assert!(next.version > seen.unwrap_or_default(), "a version that nodes have seen already");
        assert!(next.moves.len() <= 1, "more than one move");
        if let Some(old) = self.recorded.clone() {
            assert!(next.version > old.version && next.cluster == old.cluster);
            self.check(change, &old, next);
        }
        let owners = next.shards.iter().filter(|shard| !shard.slots.is_empty());
        self.owners_ever.extend(owners.map(|shard| shard.shard));
        self.recorded = Some(next.clone());
        self.history.push(change);
    }

    /// What no version may do to the one before it.
    fn check(&mut self, change: Change, old: &Layout, next: &Layout) {
        for shard in &old.shards {
            match next.shard(shard.shard) {
                None => assert!(!self.owners_ever.contains(&shard.shard), "an owner left"),
                Some(own) => assert!(shard.nodes.iter().all(|node| own.nodes.contains(node)), "a node left"),
            }
        }
        self.check_spread(change, old, next);
        let changed = changed_slots(old, next);
        if change == Change::Flip {
            assert_eq!(to_ranges(changed.iter().copied()), old.moves[0].slots);
        } else {
            assert_eq!(changed, [], "{change:?} changed owners");
        }
        if matches!(change, Change::Flip | Change::Finish) {
            let slot_move = &old.moves[0];
            let receiving = &old.shard(slot_move.to).unwrap().nodes;
            let mut sources = old.shard(slot_move.from).unwrap().nodes.iter().map(|node| &node.name);
            // That a silent node has lost its volume shows when it comes back, or by its claim. Of what others have got from that
            // volume nothing is lost: by this the slots may go on.
            let shows = |source: &NodeName| self.pods[source].up || self.absent_claims.contains_key(source);
            let unknown = |source: &NodeName| self.lost.contains_key(source) && shows(source);
            assert!(!sources.any(unknown), "{change:?} with a loss that nobody accepted");
            let accepted = |source: &NodeName| self.spec.identity.accept_loss.contains(source) && !self.pods[source].up;
            let came = |source: &NodeName, left: &Left| {
                let awaited = self.lost.get(source).unwrap_or(&self.volumes[source]);
                left.slots == 0 && left.origin == Some(awaited.origin)
            };
            let done = receiving.iter().filter(|node| {
                let volume = &self.volumes[&node.name];
                volume.layout.as_ref() == Some(old)
                    && volume.left.iter().all(|(source, left)| came(source, left) || accepted(source))
            });
            assert!(done.count() > receiving.len() / 2, "{change:?} without a majority of the new replicas");
        }
        self.moved += changed.len();
    }

    /// What no version may do to what is read: it never becomes less, and nothing is updated that some node does not read.
    fn check_spread(&self, change: Change, old: &Layout, next: &Layout) {
        let ever = |layout: &Layout, pages: &str| {
            layout.virtual_shards.iter().find(|own| own.pages == pages).map_or(0, |own| own.ever_count)
        };
        assert!(old.virtual_shards.iter().all(|own| ever(next, &own.pages) >= own.ever_count), "what was counted is not read");
        if change == Change::Reassert {
            let known =
                self.volumes.values().filter_map(|volume| volume.layout.as_ref()).flat_map(|layout| &layout.virtual_shards);
            let mut unread = known.filter(|own| ever(next, &own.pages) < own.ever_count);
            return assert_eq!(unread.next(), None, "what nodes have counted by is not read");
        }
        if change != Change::Spread {
            return assert_eq!(old.virtual_shards, next.virtual_shards, "{change:?}");
        }
        assert_eq!((&old.shards, &old.moves), (&next.shards, &next.moves));
        let count = |pages: &str| old.virtual_shards.iter().find(|own| own.pages == pages).map_or(0, |own| own.count);
        let pods = self.pods.iter().filter(|(name, pod)| pod.up || old.node(name).is_some());
        for layout in pods.filter_map(|(name, _)| self.volumes.get(name)?.layout.as_ref()) {
            // What is in force already, a volume from before it does not read when it is brought back.
            let unread = next.virtual_shards.iter().find(|own| own.count > count(&own.pages).max(ever(layout, &own.pages)));
            assert!(unread.is_none(), "{unread:?} is updated, and not read by a node at version {}", layout.version);
        }
    }

    fn hand_over(&mut self, node: &NodeName, layout: &Layout) {
        let Some(volume) = self.volumes.get_mut(node).filter(|_| self.pods.get(node).is_some_and(|pod| pod.up)) else {
            return;
        };
        assert!(volume.cluster.is_none_or(|cluster| cluster == layout.cluster), "{node} is of another cluster");
        layout.offered_to(volume.layout.as_ref()).unwrap();
        let receives = layout
            .moves
            .first()
            .filter(|slot_move| layout.shard(slot_move.to).is_some_and(|shard| shard.nodes.iter().any(|own| own.name == *node)));
        let slots = receives.map_or(0, |slot_move| slot_move.slots.iter().map(|range| range.count() as u64).sum());
        let sources = receives.and_then(|slot_move| layout.shard(slot_move.from)).into_iter().flat_map(|shard| &shard.nodes);
        volume.left = sources.map(|source| (source.name.clone(), Left { slots, origin: None })).collect();
        volume.cluster = Some(layout.cluster);
        volume.layout = Some(layout.clone());
    }

    fn evict(&mut self, eviction: &Eviction, desired: &BTreeMap<ShardId, DesiredShard>) {
        let pod = self.pods.remove(&eviction.node).unwrap();
        assert_eq!(pod.uid, eviction.uid);
        let serving = self.serves(&eviction.node, &pod);
        if serving {
            assert!(self.layout().moves.is_empty(), "a serving Pod was evicted while slots move");
            // One that no layout has named, and that goes with its shard's shrinking, is waited for by nobody.
            let wanted = |name: &NodeName| desired.iter().any(|(shard, own)| is_pod_of(name, *shard, own));
            let mut awaited = self.pods.iter().filter(|(name, _)| self.layout_names(name) || wanted(name));
            assert!(awaited.all(|(name, pod)| self.serves(name, pod)), "two Pods at a time");
        }
        self.evicted.push(eviction.node.clone());
    }

    fn serves(&self, name: &NodeName, pod: &Pod) -> bool {
        let layout = self.volumes.get(name).and_then(|volume| volume.layout.as_ref());
        pod.up && layout.is_some_and(|layout| layout.shard_of(name).is_some())
    }

    pub(super) fn observed(&self) -> Observed {
        Observed {
            layout: self.recorded.clone(),
            fresh_cluster: ClusterId(7),
            addresses: Addresses::Dns { cluster: "page-views".to_owned(), namespace: "site".to_owned(), resp: self.spec.resp },
            template: self.template.clone(),
            shards: self.shards.clone(),
            nodes: self.pods.iter().map(|(name, pod)| (name.clone(), self.node(name, pod))).collect(),
            claims: BTreeMap::new(),
            volumes: self.recorded_volumes.clone(),
            absent_claims: self.absent_claims.clone(),
        }
    }

    fn node(&self, name: &NodeName, pod: &Pod) -> ObservedNode {
        ObservedNode {
            uid: pod.uid.clone(),
            ip: None,
            template: Some(pod.template.clone()),
            ready: self.serves(name, pod),
            terminating: false,
            problem: None,
            running: pod.up,
            status: pod.up.then(|| status(name, &self.volumes[name])),
        }
    }
}

/// Whether a Pod of this name is one of those that the shard is to have.
fn is_pod_of(name: &NodeName, shard: ShardId, desired: &DesiredShard) -> bool {
    (0..desired.replicas).any(|replica| NodeName::of("page-views", shard, replica) == *name)
}

fn changed_slots(old: &Layout, next: &Layout) -> Vec<Slot> {
    let (before, after) = (Owners::of(old), Owners::of(next));
    let owner = |layout: &Layout, owners: &Owners, slot| layout.shards[owners.index(slot)].shard;
    Slot::all().filter(|slot| owner(old, &before, *slot) != owner(next, &after, *slot)).collect()
}

fn status(name: &NodeName, volume: &Volume) -> NodeStatus {
    let layout = volume.layout.as_ref();
    let shard = layout.and_then(|layout| layout.shard_of(name));
    let readiness = match (layout, shard) {
        (None, _) => Readiness::WaitingForLayout,
        (Some(_), None) => Readiness::NotInLayout,
        (Some(_), Some(_)) => Readiness::Ready,
    };
    let slots = shard.into_iter().flat_map(|shard| &shard.slots);
    let moves = layout.into_iter().flat_map(|layout| layout.moves.iter().map(move |slot_move| (layout, slot_move)));
    NodeStatus {
        format: STATUS_FORMAT,
        node: name.clone(),
        cluster: volume.cluster,
        actor: ActorId::new(volume.origin, 1, 1),
        readiness,
        layout: layout.map(|layout| LayoutStatus { version: layout.version, hash: layout.hash() }),
        virtual_shards: layout.map(|layout| layout.virtual_shards.clone()).unwrap_or_default(),
        storage: StorageStatus { kind: "volume".to_owned(), fsync: "Never".to_owned(), writable: true, counters: 0 },
        slots: slots.map(|range| SlotRangeStatus { range: *range, owned: true, counters: 0, tally: 0 }).collect(),
        peers: Vec::new(),
        unsent_entries: 0,
        moves: moves
            .filter(|(_, slot_move)| shard.is_some_and(|shard| shard.shard == slot_move.to))
            .map(|(layout, slot_move)| MoveStatus {
                from: slot_move.from,
                to: slot_move.to,
                phase: slot_move.phase,
                layout_version: layout.version,
                slots_left: volume.left.values().map(|left| left.slots).max().unwrap_or_default(),
                sources: volume.left.iter().map(|(node, left)| left.status(node)).collect(),
            })
            .collect(),
    }
}

impl Left {
    fn status(self, node: &NodeName) -> SourceStatus {
        let actor = self.origin.map(|origin| ActorId::new(origin, 1, 1));
        SourceStatus { node: node.clone(), actor, slots_left: self.slots }
    }
}

impl World {
    /// The phase of the move in the recorded layout.
    pub(super) fn phase(&self) -> Option<MovePhase> {
        self.layout().moves.first().map(|slot_move| slot_move.phase)
    }

    /// Rounds until a version for this purpose is recorded.
    pub(super) fn until(&mut self, change: Change) {
        let before = self.history.len();
        for _ in 0..200 {
            self.round();
            if self.history[before..].contains(&change) {
                return;
            }
        }
        panic!("no {change:?} in {:?}", self.history);
    }
}
