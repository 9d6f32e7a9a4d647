//! What replicas of a shard tell each other: whom they have heard, and what those have.
//!
//! So a gateway that one replica cannot hear is known to it all the same, and its lease ends at all of them at about the same
//! moment. An age goes with each renewal, so that handing it on does not make it younger.

use super::copies::{Delta, Reached};
use super::messages::{GatewayId, Heard, PresenceMessage};
use super::owner::{Gateway, Lease, Owner};
use super::step::Step;
use crate::id::NodeName;
use crate::layout::LayoutVersion;

/// Gateways of one message: they have names of up to 60 bytes or so.
const HEARD_MAX: usize = 2_048;

impl Owner {
    /// Tells siblings what is due, and asks them for what they are ahead in.
    pub(super) fn exchange(&mut self, step: &mut Step<'_>) {
        let now_ms = step.now_ms();
        if now_ms >= self.exchange_at_ms {
            self.exchange_at_ms = now_ms.saturating_add(self.config.exchange_ms);
            let news = std::mem::take(&mut self.news);
            if now_ms >= self.exchange_all_at_ms {
                self.exchange_all_at_ms = now_ms.saturating_add(self.config.exchange_all_ms);
                let all = self.gateways.iter().filter(|(_, gateway)| gateway.lease != Lease::Ended);
                let all: Vec<Heard> = all.map(|(_, gateway)| gateway.as_heard(now_ms)).collect();
                self.tell(step, &all);
            } else {
                let news: Vec<Heard> =
                    news.iter().filter_map(|number| Some(self.gateways.get(number)?.as_heard(now_ms))).collect();
                self.tell(step, &news);
            }
        }
        self.catch_up(step);
    }

    fn tell(&self, step: &mut Step<'_>, heard: &[Heard]) {
        for part in heard.chunks(HEARD_MAX) {
            for sibling in &self.siblings {
                step.send(sibling, PresenceMessage::Heard(part.to_vec()));
            }
        }
    }

    pub(super) fn take_heard(&mut self, step: &mut Step<'_>, from: &NodeName, heard: Vec<Heard>) {
        if !self.siblings.contains(from) {
            return;
        }
        let now_ms = step.now_ms();
        for Heard { gateway, renewal, age_ms, reached, gone } in heard {
            if gateway.start == self.start && gateway.node == step.me {
                // What this node has, it knows best.
                continue;
            }
            let heard_ms = now_ms.saturating_sub(age_ms);
            let has_ended = age_ms >= self.config.lease_ms;
            if has_ended && !gone {
                continue;
            }
            let Some(number) = self.number_of(&gateway, now_ms) else { continue };
            if gone {
                self.end(step, number, Lease::Gone);
                continue;
            }
            self.renew(number, renewal, heard_ms, now_ms);
            if let Some(gateway) = self.gateways.get_mut(&number) {
                gateway.compare(from, reached, now_ms);
            }
        }
    }

    /// Asks for what siblings have had for a while.
    fn catch_up(&mut self, step: &mut Step<'_>) {
        let now_ms = step.now_ms();
        let config = &self.config;
        for gateway in self.gateways.values_mut().filter(|gateway| gateway.is_alive()) {
            let Some((sibling, theirs, since_ms)) = &gateway.behind else { continue };
            let own = gateway.copies.reached();
            if !theirs.is_ahead_of(own) {
                gateway.behind = None;
                continue;
            }
            // Whom this node does not hear is asked for at once.
            let silence_ms = config.renew_ms.saturating_add(config.renew_ms / 2);
            let is_silent = gateway.direct_ms.is_none_or(|direct_ms| now_ms >= direct_ms.saturating_add(silence_ms));
            let patience_ms = if is_silent { 0 } else { config.behind_ms };
            if now_ms >= since_ms.saturating_add(patience_ms) {
                step.send(sibling, PresenceMessage::RelayAsk { gateway: gateway.id.clone(), reached: own });
                // Whoever still is ahead will say so again.
                gateway.behind = None;
            }
        }
    }

    pub(super) fn take_relay_ask(&mut self, step: &mut Step<'_>, from: &NodeName, id: GatewayId, reached: Option<Reached>) {
        if !self.siblings.contains(from) {
            return;
        }
        let Some(number) = self.known(&id) else { return };
        let Some(gateway) = self.gateways.get(&number).filter(|gateway| gateway.is_alive()) else { return };
        let Some((ledger, own)) = gateway.copies.shown() else { return };
        let anew = Reached { base: own.base.max(own.upto), upto: 0 };
        let from_there = reached.filter(|reached| reached.follows(ledger)).unwrap_or(anew);
        let delta = Delta::of(ledger, own.upto, from_there, self.config.message_bytes_max);
        step.send(from, PresenceMessage::Relay { gateway: id, layout: gateway.copies.arranged(), delta });
    }

    pub(super) fn take_relay(
        &mut self,
        step: &mut Step<'_>,
        from: &NodeName,
        id: GatewayId,
        layout: LayoutVersion,
        delta: Delta,
    ) {
        if !self.siblings.contains(from) {
            return;
        }
        let Some(number) = self.known(&id) else { return };
        let is_part = delta.upto < delta.head;
        let before = self.gateways.get(&number).and_then(|gateway| gateway.copies.reached());
        self.take_delta(step, number, delta, layout);
        let Some(gateway) = self.gateways.get_mut(&number) else { return };
        let reached = gateway.copies.reached();
        if !is_part {
            gateway.behind = None;
        } else if reached != before {
            step.send(from, PresenceMessage::RelayAsk { gateway: id, reached });
        }
    }
}

impl Gateway {
    fn as_heard(&self, now_ms: u64) -> Heard {
        Heard {
            gateway: self.id.clone(),
            renewal: self.renewal,
            age_ms: now_ms.saturating_sub(self.heard_ms),
            reached: self.copies.shown().map(|(_, reached)| reached),
            gone: self.lease == Lease::Gone,
        }
    }

    /// Notes whether a sibling is ahead.
    fn compare(&mut self, sibling: &NodeName, theirs: Option<Reached>, now_ms: u64) {
        let ahead = theirs.filter(|theirs| self.is_alive() && theirs.is_ahead_of(self.copies.reached()));
        if let (None, Some(theirs)) = (&self.behind, ahead) {
            self.behind = Some((sibling.clone(), theirs, now_ms));
        }
    }
}
