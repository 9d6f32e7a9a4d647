//! What can go wrong with a store, as a person who has to mend it should read it.

use std::io;
use std::path::{Path, PathBuf};

use super::redis::RedisFailure;

/// Why a store could not be opened, or could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process works on the folder. Nothing was touched.
    #[error("data folder {} is in use by another process", path.display())]
    InUse {
        /// The data folder.
        path: PathBuf,
    },
    /// A later release wrote the folder. Nothing was touched.
    #[error(
        "data folder {} has format {found}, and this release knows formats up to {known}: start a release at least as new as the one that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The data folder.
        path: PathBuf,
        /// The folder's format.
        found: u32,
        /// The newest that this release reads.
        known: u32,
    },
    /// An earlier release wrote the folder. Nothing was touched.
    #[error("data folder {} has format {found}, and this release reads format {known} only", path.display())]
    OlderFormat {
        /// The data folder.
        path: PathBuf,
        /// The folder's format.
        found: u32,
        /// The one that this release reads.
        known: u32,
    },
    /// The folder's bytes are not what a node has written. Nothing was touched.
    #[error("{} is corrupt: {what}; nothing was changed", path.display())]
    Corrupt {
        /// The file, or the folder where no single file is to blame.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operating system refused. While opening, nothing is lost; in a commit, the outcome is unknown.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// An earlier failure broke the store; it has to be reopened. This call changed nothing.
    #[error("the store broke earlier and has not been reopened")]
    Broken,
    /// The store was closed. This call changed nothing.
    #[error("the store is closed")]
    Closed,
    /// The volume was started 2³² times. Nothing was changed.
    #[error("the volume's start counter is used up")]
    StartsUsedUp,
    /// Redis, or the way to it, failed. Whether the outcome is known, the reason says.
    #[error(transparent)]
    Redis(#[from] RedisFailure),
    /// The storage engine failed in another way. The outcome is unknown.
    #[error("storage engine: {0}")]
    Engine(String),
}

impl StoreError {
    /// Whether what is kept is itself at fault, so that starting again cannot help until a person has looked.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        match self {
            Self::NewerFormat { .. } | Self::OlderFormat { .. } | Self::Corrupt { .. } => true,
            Self::Redis(failure) => failure.is_data_error(),
            _ => false,
        }
    }

    /// Whether it is Redis that is away or refuses, which may heal without this process ending.
    #[must_use]
    pub fn may_heal(&self) -> bool {
        matches!(self, Self::Redis(failure) if !failure.is_data_error())
    }

    pub(super) fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), what: what.into() }
    }

    /// For `map_err`: an operating system's refusal to do `action` on `path`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
