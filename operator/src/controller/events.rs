//! Events for what a person should see. Each stands for something that happened once, so a state that lasts is not
//! told again with every pass.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

use super::apply::{Applied, ApplyError, Evicted};
use super::plan::{Change, Plan, Step};
use super::status::condition::{AVAILABLE, SCALE_DOWN_BLOCKED, STALLED, UPDATE_PENDING};
use crate::crd::DistributedCounterStatus;

/// The API server refuses longer notes.
const NOTE_BYTES_MAX: usize = 1000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    pub warning: bool,
    /// Events of one action and reason are told as one, with the first one's note: what deserves a note of its own needs
    /// an action of its own.
    pub action: String,
    pub reason: String,
    pub note: String,
}

impl Occurrence {
    fn normal(action: impl Into<String>, reason: &str, note: impl Into<String>) -> Self {
        Self { warning: false, action: action.into(), reason: reason.to_owned(), note: note.into() }
    }

    fn warning(action: impl Into<String>, reason: &str, note: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(action, reason, note) }
    }
}

/// What a pass did.
#[must_use]
pub fn of_deeds(plan: &Plan, applied: &Applied) -> Vec<Occurrence> {
    let mut told = Vec::new();
    if applied.created > 0 {
        told.push(Occurrence::normal("Create", "Created", format!("created {} objects", applied.created)));
    }
    if applied.removed > 0 {
        told.push(Occurrence::normal("Delete", "Removed", format!("removed {} objects", applied.removed)));
    }
    if applied.resized > 0 {
        told.push(Occurrence::normal("Resize", "VolumesGrow", format!("asked {} volumes to grow", applied.resized)));
    }
    if applied.recorded {
        told.extend(plan.accepted.iter().map(|node| {
            let note = format!("accepted: what only the lost volume of {node} held is lost");
            Occurrence::warning(format!("AcceptLoss-{node}"), "LossAccepted", note)
        }));
    }
    told.extend(applied.troubles.iter().filter_map(|trouble| match trouble {
        ApplyError::Disputed { kind, name, news: true, .. } => {
            Some(Occurrence::warning(format!("Correct-{kind}-{name}"), "Disputed", trouble.to_string()))
        }
        _ => None,
    }));
    match &plan.step {
        Step::Record(change, layout) if applied.recorded => {
            told.push(Occurrence::normal(
                format!("Publish-{}", layout.version),
                reason(*change),
                format!("layout version {}: {}", layout.version, meaning(*change)),
            ));
        }
        Step::Evict(eviction) if applied.eviction == Some(Evicted::Started) => {
            let why = &eviction.why;
            told.push(Occurrence::normal(
                format!("Evict-{}", eviction.node),
                why.reason,
                format!("restarting {}: {}", eviction.node, why.message),
            ));
        }
        Step::Rest | Step::Record(..) | Step::Evict(_) => {}
    }
    told
}

fn reason(change: Change) -> &'static str {
    match change {
        Change::First => "LayoutCreated",
        Change::Reassert | Change::Readdress => "LayoutRenewed",
        Change::Spread => "PagesSpread",
        Change::Join => "NodesJoin",
        Change::Leave => "NodesLeave",
        Change::Copy => "MoveStarted",
        Change::Flip => "MoveFlipped",
        Change::Finish => "MoveFinished",
        Change::Cancel => "MoveCancelled",
    }
}

fn meaning(change: Change) -> &'static str {
    match change {
        Change::First => "the first",
        Change::Reassert => "above one that nodes have seen",
        Change::Readdress => "nodes are reached elsewhere",
        Change::Spread => "pages are spread over another number of keys",
        Change::Join => "new nodes take part",
        Change::Leave => "shards that never owned a slot go",
        Change::Copy => "slots are copied to their new shard",
        Change::Flip => "the new shard counts for them",
        Change::Finish => "the old shard's receipt is there",
        Change::Cancel => "a move that had not flipped is taken back",
    }
}

/// What became true, or stopped being true, from one status to the next.
#[must_use]
pub fn of_conditions(before: &DistributedCounterStatus, after: &DistributedCounterStatus) -> Vec<Occurrence> {
    let stood = |kind: &str| before.conditions.iter().find(|condition| condition.type_ == kind);
    let mut told = Vec::new();
    for condition in &after.conditions {
        let before = stood(&condition.type_);
        // For these two another reason is news; for the others, which explain progress, only a flip is.
        let news = before.is_none_or(|before| before.status != condition.status || before.reason != condition.reason);
        let holds = condition.status == "True";
        let note = condition.message.clone();
        match condition.type_.as_str() {
            STALLED | SCALE_DOWN_BLOCKED if holds && news => {
                told.push(Occurrence::warning("Reconcile", &condition.reason, note));
            }
            UPDATE_PENDING if holds && news => told.push(Occurrence::normal("Reconcile", &condition.reason, note)),
            AVAILABLE if before.is_some_and(|before| before.status != condition.status) => {
                told.push(if holds {
                    Occurrence::normal("Reconcile", AVAILABLE, note)
                } else {
                    Occurrence::warning("Reconcile", "Unavailable", note)
                });
            }
            _ => {}
        }
    }
    told
}

/// Tells them. An event that cannot be written is no reason for a pass to fail.
pub async fn tell(recorder: &Recorder, about: &ObjectReference, occurrences: Vec<Occurrence>) {
    for occurrence in occurrences {
        tracing::info!(reason = occurrence.reason, note = occurrence.note, "event");
        let event = Event {
            type_: if occurrence.warning { EventType::Warning } else { EventType::Normal },
            reason: occurrence.reason,
            note: Some(cut(&occurrence.note)),
            action: occurrence.action,
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, about).await {
            tracing::warn!(%error, "an event could not be written");
        }
    }
}

fn cut(note: &str) -> String {
    let end = (0..=note.len().min(NOTE_BYTES_MAX)).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::super::status::condition::{Claim, condition};
    use super::*;

    fn status(claims: &[(&str, Claim)]) -> DistributedCounterStatus {
        let conditions = claims.iter().map(|(kind, claim)| condition(&[], kind, claim, None, Timestamp::UNIX_EPOCH)).collect();
        DistributedCounterStatus { conditions, ..DistributedCounterStatus::default() }
    }

    #[test]
    fn a_condition_is_told_when_it_comes_to_hold_and_not_while_it_does() {
        let fine = status(&[(SCALE_DOWN_BLOCKED, Claim::no("NotBlocked", ""))]);
        let blocked = status(&[(SCALE_DOWN_BLOCKED, Claim::yes("Unsupported", "spec.shards"))]);
        assert_eq!(of_conditions(&fine, &blocked), [Occurrence::warning("Reconcile", "Unsupported", "spec.shards")]);
        assert_eq!(of_conditions(&blocked, &blocked), []);
        assert_eq!(of_conditions(&blocked, &fine), []);
    }

    #[test]
    fn losing_availability_is_a_warning_and_a_new_cluster_is_none() {
        let off = status(&[(AVAILABLE, Claim::no("Unserved", "shard 1"))]);
        let on = status(&[(AVAILABLE, Claim::yes("Serving", "all"))]);
        assert_eq!(of_conditions(&DistributedCounterStatus::default(), &off), []);
        assert_eq!(of_conditions(&on, &off), [Occurrence::warning("Reconcile", "Unavailable", "shard 1")]);
        assert_eq!(of_conditions(&off, &on), [Occurrence::normal("Reconcile", "Available", "all")]);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"é".repeat(600)).len(), 1000);
    }
}
