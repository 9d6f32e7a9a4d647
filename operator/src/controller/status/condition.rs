//! Conditions: what is said, since when, and of which generation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// What one condition says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub holds: bool,
    pub reason: String,
    pub message: String,
}

impl Claim {
    /// A condition that holds.
    pub fn yes(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { holds: true, reason: reason.into(), message: message.into() }
    }

    /// A condition that does not hold.
    pub fn no(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { holds: false, reason: reason.into(), message: message.into() }
    }
}

/// The conditions' types, in the order in which they are listed.
pub const AVAILABLE: &str = "Available";
pub const RECONCILING: &str = "Reconciling";
pub const STALLED: &str = "Stalled";
pub const SCALE_DOWN_BLOCKED: &str = "ScaleDownBlocked";
pub const UPDATE_PENDING: &str = "UpdatePending";

/// The condition for `claim`. Its transition time is kept for as long as its status does not flip.
#[must_use]
pub fn condition(before: &[Condition], kind: &str, claim: &Claim, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if claim.holds { "True" } else { "False" };
    let since =
        before.iter().find(|known| known.type_ == kind && known.status == status).map(|known| known.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: claim.reason.clone(),
        message: claim.message.clone(),
        observed_generation: generation,
        // The API keeps whole seconds only; more would read back as a change.
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
    }
}

/// Whether the condition of this type stands at True.
#[must_use]
pub fn stands(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_on_flips_only() {
        let first = condition(&[], AVAILABLE, &Claim::no("Starting", "0 of 2"), Some(1), at(10));
        assert_eq!((first.status.as_str(), first.last_transition_time.0), ("False", at(10)));
        let same = condition(std::slice::from_ref(&first), AVAILABLE, &Claim::no("Starting", "1 of 2"), Some(2), at(20));
        assert_eq!((same.message.as_str(), same.observed_generation, same.last_transition_time.0), ("1 of 2", Some(2), at(10)));
        let flipped = condition(&[same], AVAILABLE, &Claim::yes("Serving", ""), Some(2), at(30));
        assert_eq!((flipped.status.as_str(), flipped.last_transition_time.0), ("True", at(30)));
    }

    #[test]
    fn another_conditions_time_is_not_taken() {
        let other = condition(&[], STALLED, &Claim::no("Fine", ""), None, at(10));
        assert_eq!(condition(&[other], AVAILABLE, &Claim::no("Starting", ""), None, at(20)).last_transition_time.0, at(20));
    }
}
