//! From what a person wrote to what the rest can trust: every rule of the schema once more, and each value parsed once.
//!
//! `operator local` has no API server that would refuse a wrong object, and an object may be older than a rule.

use std::fmt;

use crate::crd::DistributedCounter;

pub use quantity::Bytes;
pub use spec::{
    ACCEPT_LOSS_ANNOTATION, APPLY_UPDATE_ANNOTATION, ClusterSpec, Identity, Presence, Storage, Tokens, Trigger, Volume,
};

mod quantity;
mod rules;
mod spec;

/// One broken rule: where, and the same words that the API server has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field's path, such as `spec.shards`; empty for a rule of the whole object.
    pub field: &'static str,
    pub message: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// The cluster that an object describes.
///
/// # Errors
/// Every rule that it breaks.
pub fn validate(object: &DistributedCounter) -> Result<ClusterSpec, Vec<Violation>> {
    let violations = rules::broken(object);
    if violations.is_empty() { Ok(spec::parse(object)) } else { Err(violations) }
}

/// The cluster that an object describes, as far as it can be told from one that breaks rules: good for looking at what
/// is, and for nothing else.
#[must_use]
pub fn guess(object: &DistributedCounter) -> ClusterSpec {
    spec::parse(object)
}

/// What may not change from one version of an object to the next. Says nothing of rules for `new` alone.
///
/// # Errors
/// Every rule that the change breaks.
pub fn validate_update(old: &DistributedCounter, new: &DistributedCounter) -> Result<(), Vec<Violation>> {
    let violations = rules::broken_by_update(old, new);
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

#[cfg(test)]
pub(crate) mod tests;
