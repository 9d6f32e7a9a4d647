//! Taking layouts over: who writes where, who the peers are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::links::Link;
use super::parts::Parts;
use super::peers::Peer;
use super::{CommitMark, Effect, Replica, Report, Step};
use crate::id::{ActorId, NodeName};
use crate::layout::{Adoption, Layout, LayoutRefused, LayoutVersion};
use crate::message::{LayoutId, Message};
use crate::slot::Slot;
use crate::table::Table;

impl Replica {
    /// A layout from the operator.
    ///
    /// # Errors
    /// [`LayoutRefused`]; nothing has changed then.
    pub fn offer_layout(&mut self, table: &Table, layout: Layout) -> Result<(Adoption, Vec<Effect>), LayoutRefused> {
        let adoption = layout.offered_to(self.layout.as_deref())?;
        let mut step = Step::on(table);
        if adoption == Adoption::Adopt {
            self.adopt(&mut step, layout);
        }
        Ok((adoption, step.effects.0))
    }

    /// A layout from a peer.
    pub(super) fn take_layout(&mut self, step: &mut Step<'_>, from: &NodeName, json: &[u8]) {
        let layout: Layout = match serde_json::from_slice(json) {
            Ok(layout) => layout,
            Err(error) => {
                let report = Report::UnreadableLayout { peer: from.clone(), reason: error.to_string() };
                return self.report(step, from, report);
            }
        };
        match layout.offered_to(self.layout.as_deref()) {
            Ok(Adoption::Adopt) => self.adopt(step, layout),
            Ok(Adoption::Same) | Err(LayoutRefused::Older { .. }) => {}
            Err(reason) => self.report(step, from, Report::LayoutRefused { peer: from.clone(), reason }),
        }
    }

    fn adopt(&mut self, step: &mut Step<'_>, layout: Layout) {
        let layout = Arc::new(layout);
        step.effects.0.push(Effect::AdoptLayout(Arc::clone(&layout)));
        self.act_by(step, layout);
        for partner in self.parts.partners() {
            step.effects.send(partner, Message::Hello);
        }
    }

    /// From now on this layout holds.
    pub(super) fn act_by(&mut self, step: &mut Step<'_>, layout: Arc<Layout>) {
        self.parts = Parts::of(&layout, &self.me);
        self.layout_id = Some(LayoutId::of(&layout));
        self.layout = Some(layout);
        self.forget_due = false;
        self.forgetting = Default::default();
        self.assign_writers(step);
        self.renew_if_barred(step);
        self.keep_peers();
        self.retiring.abandon();
        self.begin_start();
        self.begin_arrivals();
    }

    /// The layout of this version is durable. If it is the one that this node acts by, the slots that it brought get
    /// their writer, and those that it took are forgotten from now on.
    pub fn layout_persisted(&mut self, table: &Table, version: LayoutVersion) {
        self.durable_layout = self.durable_layout.max(version);
        if !self.is_layout_durable() {
            // A newer one has come meanwhile, which may take away again what this one brought.
            return;
        }
        self.forget_due = self.parts.named;
        self.assign_writers(&mut Step::on(table));
    }

    /// The layout that this node acts by, unless a crash would bring an older one back.
    #[must_use]
    pub fn durable_layout(&self) -> Option<LayoutId> {
        self.layout_id.filter(|_| self.is_layout_durable())
    }

    /// Whether a crash would not bring an older layout back than the one that this node acts by.
    pub(super) fn is_layout_durable(&self) -> bool {
        self.layout_id.is_some_and(|id| id.version <= self.durable_layout)
    }

    /// Gives each slot its writer. A slot that the current actor has written and now loses, it must never write again:
    /// what others know of it there might be more than this node will then hold.
    ///
    /// Slots are given up at once. One that has no writer yet gets one when the layout is durable: a crash would bring
    /// back a layout by which the slot is another's, and by which what was counted in it is to be forgotten.
    pub(super) fn assign_writers(&mut self, step: &mut Step<'_>) {
        let begins = self.is_layout_durable();
        for slot in Slot::all() {
            let owns = self.parts.part(slot).writes() && !self.superseded && self.contest.is_none();
            let mut vector = step.table.slot(slot);
            let goes_on = vector.writer().is_some();
            let barred = &mut self.barred[slot.index()];
            *barred |= vector.writer() == Some(self.actor) && !owns;
            vector.set_writer((owns && !*barred && (begins || goes_on)).then_some(self.actor));
        }
    }

    /// The current actor must not write this slot any more.
    pub(super) fn bar(&mut self, step: &mut Step<'_>, slot: Slot) {
        step.table.slot(slot).set_writer(None);
        self.barred[slot.index()] = true;
        self.renew_if_barred(step);
    }

    /// Asks for a new actor when the current one must not write a slot that this node owns.
    fn renew_if_barred(&mut self, step: &mut Step<'_>) {
        let needed = self.parts.slots(|part| part.writes()).any(|slot| self.barred[slot.index()]);
        if needed && !self.renewing && !self.superseded && self.contest.is_none() {
            self.renewing = true;
            step.effects.0.push(Effect::RenewActor { above: None });
        }
    }

    /// A new incarnation is durable: it writes from now on, everywhere. The rim may renew the actor without having
    /// been asked to. Of two renewals that overlap, the one made first may come last, and is passed over then: peers take
    /// a process whose incarnation goes down for one that another has followed.
    pub fn actor_renewed(&mut self, table: &Table, actor: ActorId) -> Vec<Effect> {
        if actor.origin == self.actor.origin && actor < self.actor {
            return Vec::new();
        }
        let mut step = Step::on(table);
        self.renewing = false;
        // Slots keep the old actor until the next line but one; nothing else may take them for the new one's.
        self.barred.fill(false);
        self.actor = actor;
        self.end_contest();
        self.assign_writers(&mut step);
        self.retiring.stir();
        for partner in self.parts.partners() {
            step.effects.send(partner, Message::Hello);
        }
        step.effects.0
    }

    /// Peers and links for the nodes of the layout.
    fn keep_peers(&mut self) {
        let Some(layout) = &self.layout else { return };
        let names: BTreeSet<&NodeName> = layout.nodes().map(|node| &node.name).filter(|name| **name != self.me).collect();
        self.peers.retain(|name, _| names.contains(name));
        let partners: BTreeSet<&NodeName> = self.parts.partners().into_iter().collect();
        for name in names {
            let random = &mut self.random;
            let peer = self.peers.entry(name.clone()).or_insert_with(|| Peer::new(name.clone(), random.start()));
            peer.retain(|slot| self.parts.is_partner(name, slot));
            if !partners.contains(name) {
                peer.link = None;
                continue;
            }
            let is_new = peer.link.is_none();
            let link = peer.link.get_or_insert_with(|| Link::new(random.start()));
            link.retain(|slot| self.parts.targets(slot).any(|target| target == name));
            // A sibling that joins has none of the changes that clients may be waiting for a majority to hold.
            if is_new && self.parts.is_sibling(name) && self.mark > CommitMark::default() {
                link.fall_behind(CommitMark(1));
            }
        }
    }
}
