//! One cluster of local processes. It goes through the same plan as a cluster on Kubernetes: a process stands where a
//! Pod is, a number of replicas where a StatefulSet is, a file where the ConfigMap with the layout is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use counter_core::id::{ClusterId, NodeName, ShardId};
use counter_core::layout::Layout;
use counter_core::proof::ClusterToken;

use super::folder::{ClusterFolder, Folder, FolderError};
use super::member::{Member, Place, Settings, ports_of};
use super::ports::{self, NoPorts, Ports};
use super::process::Process;
use super::round::{Answer, Question};
use super::view::{ClusterView, NodeState, PortsView};
use crate::controller::plan::{Addresses, Eviction, Observed, ObservedShard, Pin, Plan, Step, Summary, Volumes, plan};
use crate::controller::validate::ClusterSpec;
use crate::crd::Retain;
use crate::nodes::{Address, Target, causes};

/// What all clusters share.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) folder: Folder,
    pub(super) ports: Ports,
    pub(super) base_port: u16,
    pub(super) program: std::path::PathBuf,
}

/// Why a pass could not be carried out; it is tried again with the next one.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Ports(#[from] NoPorts),
}

/// What stands for a StatefulSet.
#[derive(Clone, Copy, Debug)]
struct LocalShard {
    replicas: u16,
    /// What would become of its data; folders always stay, but the plan removes a shard only once it has been told.
    when_deleted: Retain,
}

#[derive(Debug)]
pub(super) struct Cluster {
    spec: ClusterSpec,
    settings: Settings,
    folder: ClusterFolder,
    tokens: Arc<[ClusterToken]>,
    layout: Option<Arc<Layout>>,
    volumes: Option<Volumes>,
    shards: BTreeMap<ShardId, LocalShard>,
    members: BTreeMap<Place, Member>,
    /// Processes of nodes that left the plan, until they have ended.
    leaving: Vec<Member>,
    /// The nodes that the plan says act by another layout than the record.
    publish: BTreeSet<NodeName>,
    notices: Vec<String>,
    progress: Option<String>,
    /// The figures of the last pass.
    summary: Summary,
}

impl Cluster {
    /// Opens the cluster's part of the data folder. Nothing runs before the first pass.
    ///
    /// # Errors
    /// When something in the folder cannot be used.
    pub(super) fn open(host: &Host, spec: ClusterSpec) -> Result<Self, FolderError> {
        let folder = host.folder.cluster(&spec.identity.namespace, &spec.identity.name)?;
        let layout = folder.layout()?.map(Arc::new);
        let when_deleted = spec.storage.retention().when_deleted;
        let recorded = layout.iter().flat_map(|layout| &layout.shards);
        let shards = recorded.map(|shard| (shard.shard, LocalShard { replicas: count(shard.nodes.len()), when_deleted }));
        Ok(Self {
            settings: Settings::new(host.program.clone(), folder.clone(), &spec),
            volumes: folder.volumes()?,
            tokens: Arc::new([folder.token()?]),
            shards: shards.collect(),
            members: BTreeMap::new(),
            leaving: Vec::new(),
            publish: BTreeSet::new(),
            notices: Vec::new(),
            progress: None,
            summary: Summary::default(),
            spec,
            folder,
            layout,
        })
    }

    /// `NAMESPACE/NAME`.
    pub(super) fn key(&self) -> String {
        format!("{}/{}", self.spec.identity.namespace, self.spec.identity.name)
    }

    /// The cluster's part of the data folder.
    pub(super) fn folder(&self) -> &ClusterFolder {
        &self.folder
    }

    /// What the cluster is to be from now on.
    pub(super) fn set_spec(&mut self, spec: ClusterSpec) {
        self.settings = Settings::new(self.settings.program.clone(), self.folder.clone(), &spec);
        self.spec = spec;
        self.renew_launches();
    }

    /// Plans from what is, and does what the plan says.
    pub(super) fn pass(&mut self, host: &mut Host, now: Instant) {
        let decided = plan(&self.spec, &self.observed());
        self.tell(&decided);
        if let Err(error) = self.act(decided, host, now) {
            self.notices.push(format!("Stalled: {}", causes(&error)));
        }
    }

    /// Starts, ends and buries processes. Returns whether any changed.
    pub(super) fn tend(&mut self, now: Instant) -> bool {
        let mut changed = false;
        let awaits_identity = self.awaits_identity();
        for member in self.members.values_mut().filter(|_| !awaits_identity).chain(&mut self.leaving) {
            changed |= member.tend(now);
        }
        self.leaving.retain(|member| member.process.pid().is_some());
        changed
    }

    /// Stops all processes for good.
    pub(super) fn stop(&mut self, now: Instant) {
        self.all().for_each(|member| member.process.stop(now));
    }

    /// Ends all processes at once.
    pub(super) fn kill(&mut self) {
        self.all().for_each(|member| member.process.kill());
    }

    /// Whether no process is left.
    pub(super) fn is_down(&self) -> bool {
        self.members.values().chain(&self.leaving).all(|member| member.process.pid().is_none())
    }

    /// Whether there is nothing to wait for: all nodes ready, and no layout on its way.
    pub(super) fn is_settled(&self) -> bool {
        let ready = self.members.values().all(|member| member.state() == NodeState::Ready);
        ready && self.progress.is_none() && self.publish.is_empty() && !self.members.is_empty()
    }

    /// What to ask the nodes in the next round.
    pub(super) fn questions(&self) -> impl Iterator<Item = Question> + '_ {
        self.members.values().filter_map(|member| {
            let pid = member.process.pid()?;
            let target = Target {
                node: member.name.clone(),
                address: Address::Direct(member.node().admin),
                cluster: self.layout.as_ref().map(|layout| layout.cluster),
                pod_uid: None,
                tokens: Arc::clone(&self.tokens),
            };
            let layout = self.layout.clone().filter(|_| self.publish.contains(&member.name));
            Some(Question { cluster: self.key(), target, pid, layout })
        })
    }

    /// Its nodes' log files.
    pub(super) fn logs(&self) -> impl Iterator<Item = std::path::PathBuf> + '_ {
        self.members.values().map(|member| self.settings.log(&member.name))
    }

    /// Takes note of an answer.
    pub(super) fn hear(&mut self, answer: Answer) {
        if let Some(member) = self.members.values_mut().find(|member| member.name == answer.node) {
            member.hear(answer);
        }
    }

    /// The cluster as it is shown.
    pub(super) fn view(&self) -> ClusterView {
        let identity = &self.spec.identity;
        ClusterView {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            shards: self.spec.shards,
            replicas: self.spec.replicas,
            layout: self.layout.as_ref().map(|layout| layout.version),
            available: self.summary.is_available(),
            moving: self.summary.slot_move,
            notices: self.notices.clone(),
            progress: self.progress.clone(),
            nodes: self.members.values().chain(&self.leaving).map(Member::view).collect(),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.members.values_mut().chain(&mut self.leaving)
    }

    fn observed(&self) -> Observed {
        let pin = Pin { trigger: self.spec.identity.trigger(), template: self.settings.template() };
        let shard = |number: ShardId, shard: &LocalShard| ObservedShard {
            uid: shard_uid(number),
            replicas: shard.replicas,
            pin: Some(pin.clone()),
            settled: true,
            claim_size: None,
            when_deleted: shard.when_deleted,
        };
        Observed {
            layout: self.layout.as_deref().cloned(),
            fresh_cluster: ClusterId(rand::random()),
            addresses: Addresses::Table(self.members.values().map(|member| (member.name.clone(), member.node())).collect()),
            template: pin.template.clone(),
            // As on Kubernetes, where there is nothing of such a cluster before its record.
            shards: self
                .shards
                .iter()
                .filter(|_| !self.awaits_identity())
                .map(|(number, own)| (*number, shard(*number, own)))
                .collect(),
            nodes: self.members.values().map(|member| (member.name.clone(), member.observed())).collect(),
            // A folder has no size.
            claims: BTreeMap::new(),
            volumes: self.volumes.clone(),
            // A process makes its folder anew before anybody could miss it.
            absent_claims: BTreeMap::new(),
        }
    }

    /// Whether nothing can start yet: nodes that keep their counts in a Redis are told the cluster's id, which comes with
    /// the first layout.
    fn awaits_identity(&self) -> bool {
        self.settings.is_in_redis && self.layout.is_none()
    }

    fn identity(&self) -> Option<ClusterId> {
        self.layout.as_ref().map(|layout| layout.cluster)
    }

    fn tell(&mut self, plan: &Plan) {
        let notice = |kind: &str, message: &str| format!("{kind}: {message}");
        let told = [("Stalled", &plan.stalled), ("ScaleDownBlocked", &plan.blocked), ("UpdatePending", &plan.update_pending)];
        self.notices = told.iter().filter_map(|(kind, what)| what.as_ref().map(|what| notice(kind, &what.message))).collect();
        self.notices.extend(plan.verdict.iter().map(|what| notice(what.reason, &what.message)));
        if plan.paused && plan.stalled.is_none() {
            self.notices.push(notice("Paused", "nothing is changed while spec.paused is true"));
        }
        self.summary = plan.summary.clone();
        self.progress = plan.progress.as_ref().map(|what| notice("Reconciling", &what.message));
        self.publish = plan.publish.iter().flat_map(|publish| publish.nodes.iter().cloned()).collect();
    }

    fn act(&mut self, plan: Plan, host: &mut Host, now: Instant) -> Result<(), PassError> {
        if plan.paused {
            // Nothing is planned anew, but the processes of what is recorded run on, as Pods do.
            return self.man(host);
        }
        for removal in &plan.remove {
            if shard_uid(removal.shard) == removal.uid {
                self.shards.remove(&removal.shard);
            }
        }
        let desired = plan.shards.iter().filter(|(shard, _)| plan.remove.iter().all(|removal| removal.shard != **shard));
        self.shards.extend(
            desired
                .map(|(shard, desired)| (*shard, LocalShard { replicas: desired.replicas, when_deleted: desired.when_deleted })),
        );
        self.man(host)?;
        self.dismiss(now);
        if plan.volumes.is_some() && plan.volumes != self.volumes {
            if let Some(volumes) = &plan.volumes {
                self.folder.record_volumes(volumes)?;
            }
            self.volumes = plan.volumes;
        }
        match plan.step {
            Step::Rest => {}
            Step::Record(_, layout) => {
                // Durable before any node hears of it: nobody may act by a version that could be given anew.
                self.folder.record_layout(&layout)?;
                let is_first = self.layout.is_none();
                self.layout = Some(Arc::new(*layout));
                if is_first {
                    self.renew_launches();
                }
            }
            Step::Evict(eviction) => self.evict(&eviction, now),
        }
        Ok(())
    }

    /// Sees to it that every replica of every shard has a process, with ports that are its own.
    fn man(&mut self, host: &mut Host) -> Result<(), PassError> {
        let before = host.ports.clone();
        let places: Vec<Place> =
            self.shards.iter().flat_map(|(shard, own)| (0..own.replicas).map(|replica| (shard.0, replica))).collect();
        let mut changed = false;
        for place in places {
            let name = NodeName::of(&self.spec.identity.name, ShardId(place.0), place.1);
            let held = self.members.get(&place).map(|member| &member.process);
            let loose = |ports: PortsView| !self.names(&name) && ports::taken(ports).is_some();
            let stays = held.filter(|process| process.pid().is_some() || !loose(process.ports()));
            let ports = match stays.map(Process::next_ports) {
                Some(ports) if ports.resp.is_some() == self.spec.resp => continue,
                Some(ports) => self.with_resp(ports, &name, host)?,
                None => self.ports_for(&name, host)?,
            };
            let launch = self.settings.launch(&name, ports, &[], self.identity());
            match self.members.get_mut(&place) {
                Some(member) => member.process.set_launch(launch),
                None => drop(self.members.insert(place, Member::new(name, place, launch))),
            }
            changed = true;
        }
        if host.ports != before {
            host.folder.record_ports(&host.ports)?;
        }
        if changed {
            self.renew_launches();
        }
        Ok(())
    }

    /// Stops the processes of nodes that no shard has any more. What the layout names is never among them.
    fn dismiss(&mut self, now: Instant) {
        let kept = |place: &Place| self.shards.get(&ShardId(place.0)).is_some_and(|shard| place.1 < shard.replicas);
        let gone: Vec<Place> = self
            .members
            .iter()
            .filter(|(place, member)| !kept(place) && !self.names(&member.name))
            .map(|(place, _)| *place)
            .collect();
        for place in gone {
            if let Some(mut member) = self.members.remove(&place) {
                member.process.stop(now);
                self.leaving.push(member);
            }
        }
    }

    fn evict(&mut self, eviction: &Eviction, now: Instant) {
        let member = self.members.values_mut().find(|member| member.name == eviction.node && member.uid() == eviction.uid);
        if let Some(member) = member {
            member.process.renew(now);
        }
    }

    fn ports_for(&self, name: &NodeName, host: &mut Host) -> Result<PortsView, NoPorts> {
        let key = self.ports_key(name);
        let recorded = self.layout.as_ref().and_then(|layout| layout.node(name)).and_then(ports_of);
        let ports = match recorded {
            Some(ports) => {
                host.ports.reserve(&key, ports);
                ports
            }
            None => host.ports.choose(&key, host.base_port, ports::is_free)?,
        };
        self.with_resp(ports, name, host)
    }

    /// These ports, with one for the Redis protocol or without, as the specification says.
    fn with_resp(&self, ports: PortsView, name: &NodeName, host: &mut Host) -> Result<PortsView, NoPorts> {
        let resp = match ports.resp.filter(|_| self.spec.resp) {
            None if self.spec.resp => Some(host.ports.choose_resp(&self.ports_key(name), host.base_port, ports::is_free)?),
            kept => kept,
        };
        Ok(PortsView { resp, ..ports })
    }

    fn ports_key(&self, name: &NodeName) -> String {
        format!("{}/{name}", self.spec.identity.namespace)
    }

    /// Lets the next start of every node know the newest settings and peers.
    fn renew_launches(&mut self) {
        let all: Vec<(Place, PortsView)> = self.members.iter().map(|(place, member)| (*place, member.process.ports())).collect();
        let cluster = self.identity();
        for (place, member) in &mut self.members {
            // Siblings first: one of them is the likeliest to be up.
            let (mut peers, others): (Vec<_>, Vec<_>) = all.iter().partition(|(other, _)| other.0 == place.0);
            peers.extend(others);
            let peers: Vec<PortsView> = peers.into_iter().map(|(_, ports)| ports).collect();
            member.process.set_launch(self.settings.launch(&member.name, member.process.next_ports(), &peers, cluster));
        }
    }

    fn names(&self, name: &NodeName) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.node(name).is_some())
    }
}

fn shard_uid(shard: ShardId) -> String {
    format!("shard-{shard}")
}

fn count(nodes: usize) -> u16 {
    u16::try_from(nodes).unwrap_or(u16::MAX)
}

#[cfg(test)]
pub(super) mod tests;
