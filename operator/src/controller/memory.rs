//! What is remembered of a cluster between passes: only what paces them. No decision rests on it, and a new process
//! starts without.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::apply::Settled;

/// The wait after a first failure: most are conflicts that a fresh look cures.
const FAILURE_WAIT_MIN: Duration = Duration::from_millis(500);
/// The longest wait after failures. Watches bring a change at once, so this only bounds how late a silent recovery shows.
const FAILURE_WAIT_MAX: Duration = Duration::from_secs(120);
/// Waits are shortened by up to this part, so that clusters that failed together do not all come back together.
const JITTER: f64 = 0.3;

/// Between passes while something progresses that no watch reports, such as a move of slots.
const PROGRESS_WAIT: Duration = Duration::from_secs(1);
/// So many passes in a row may find nothing to do before they come less often: a Pod that nobody can schedule may stay so
/// for days.
const EAGER_PASSES: u32 = 120;
/// Between passes over what has long been in the same state of progress.
const PATIENT_WAIT: Duration = Duration::from_secs(10);
/// Between passes over a cluster that is as it should be: nodes are asked, and what no watch shows is put right.
const REST_WAIT: Duration = Duration::from_secs(60);

/// One cluster's pace.
#[derive(Debug, Default)]
pub struct Memory {
    failures: AtomicU32,
    quiet_passes: AtomicU32,
    reported: Mutex<Option<Instant>>,
    pub settled: Settled,
}

impl Memory {
    /// Notes a failed pass and says how long to wait; `chance` is a random number in 0..1.
    pub fn failed(&self, chance: f64) -> Duration {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(16);
        let wait = FAILURE_WAIT_MIN.saturating_mul(1 << failures).min(FAILURE_WAIT_MAX);
        jittered(wait, chance)
    }

    /// Notes a pass that succeeded and says when the next is due, should nothing wake it before.
    pub fn passed(&self, pace: Pace, chance: f64) -> Duration {
        self.failures.store(0, Ordering::Relaxed);
        let quiet = match pace {
            Pace::Rest | Pace::Acted => 0,
            Pace::Waiting => self.quiet_passes.load(Ordering::Relaxed).saturating_add(1),
        };
        self.quiet_passes.store(quiet, Ordering::Relaxed);
        match pace {
            Pace::Rest => jittered(REST_WAIT, chance),
            Pace::Waiting if quiet > EAGER_PASSES => jittered(PATIENT_WAIT, chance),
            Pace::Acted | Pace::Waiting => jittered(PROGRESS_WAIT, chance),
        }
    }

    /// When this process last wrote the status.
    pub fn reported(&self) -> Option<Instant> {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the status was written.
    pub fn note_report(&self, now: Instant) {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}

/// What a pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All is as it should be.
    Rest,
    /// Something was changed.
    Acted,
    /// Something is under way.
    Waiting,
}

fn jittered(wait: Duration, chance: f64) -> Duration {
    wait.mul_f64(1.0 - JITTER * chance.clamp(0.0, 1.0))
}

/// The memories of all clusters, by the UID of their objects.
#[derive(Debug, Default)]
pub struct Memories(Mutex<HashMap<String, Arc<Memory>>>);

impl Memories {
    /// The memory of one cluster.
    pub fn of(&self, uid: &str) -> Arc<Memory> {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets clusters that are not among `live`.
    pub fn keep(&self, live: &HashSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| live.contains(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_in_a_row_waits_longer_up_to_a_limit_and_success_forgets_them() {
        let memory = Memory::default();
        let waits: Vec<_> = (0..40).map(|_| memory.failed(0.0)).collect();
        assert_eq!(waits[..3], [FAILURE_WAIT_MIN, FAILURE_WAIT_MIN * 2, FAILURE_WAIT_MIN * 4]);
        assert_eq!(waits[39], FAILURE_WAIT_MAX);
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        memory.passed(Pace::Rest, 0.0);
        assert_eq!(memory.failed(0.0), FAILURE_WAIT_MIN);
    }

    #[test]
    fn clusters_do_not_share_their_failures() {
        let memories = Memories::default();
        memories.of("a").failed(0.0);
        memories.of("a").failed(0.0);
        assert_eq!(memories.of("b").failed(0.0), FAILURE_WAIT_MIN);
        memories.keep(&HashSet::from(["b".to_owned()]));
        assert_eq!(memories.of("a").failed(0.0), FAILURE_WAIT_MIN);
    }

    #[test]
    fn chance_shortens_a_wait_by_a_bounded_part() {
        assert_eq!(Memory::default().failed(1.0), FAILURE_WAIT_MIN.mul_f64(0.7));
        assert_eq!(Memory::default().failed(7.0), FAILURE_WAIT_MIN.mul_f64(0.7));
    }

    #[test]
    fn what_progresses_is_looked_at_often_and_what_hangs_less_so() {
        let memory = Memory::default();
        for _ in 0..EAGER_PASSES {
            assert_eq!(memory.passed(Pace::Waiting, 0.0), PROGRESS_WAIT);
        }
        assert_eq!(memory.passed(Pace::Waiting, 0.0), PATIENT_WAIT);
        assert_eq!(memory.passed(Pace::Acted, 0.0), PROGRESS_WAIT);
        assert_eq!(memory.passed(Pace::Waiting, 0.0), PROGRESS_WAIT);
        assert_eq!(memory.passed(Pace::Rest, 0.0), REST_WAIT);
    }
}
