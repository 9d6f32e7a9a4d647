//! Where tests make the disk fail. Outside of the crate's own tests nothing ever does, and all of this is compiled away.

use std::io;
#[cfg(test)]
use std::sync::{Arc, Mutex, PoisonError};

/// What is about to be asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::storage) enum Step {
    /// To take a frame.
    Write,
    /// To force frames.
    Force,
    /// To have a segment more.
    Make,
    /// To have a segment folded into the checkpoint.
    Fold,
}

/// Which steps fail.
#[derive(Clone, Debug, Default)]
pub(in crate::storage) struct Faults {
    #[cfg(test)]
    failing: Arc<Mutex<Vec<(Step, io::ErrorKind)>>>,
}

impl Faults {
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' variant looks")]
    pub(in crate::storage) fn check(&self, _: Step) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::storage) fn check(&self, step: Step) -> io::Result<()> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match failing.iter().find(|(failing, _)| *failing == step) {
            Some((_, kind)) => Err(io::Error::from(*kind)),
            None => Ok(()),
        }
    }

    /// From now on the step fails in this way.
    #[cfg(test)]
    pub(in crate::storage) fn fail(&self, step: Step, kind: io::ErrorKind) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).push((step, kind));
    }

    /// From now on nothing fails.
    #[cfg(test)]
    pub(in crate::storage) fn heal(&self) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
