//! Where the programs are that the tests run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A program of this workspace: beside the test's own executable, where cargo puts both.
///
/// # Errors
/// When it has not been built; `make test` builds it first.
pub fn ours(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("the test's executable lies in no target folder")?;
    found(folder.join(name), "cargo build --bins")
}

/// A program of Kubernetes, from the cache that `tests/cluster/cluster` fills.
///
/// # Errors
/// When it has not been built.
pub fn kubernetes(name: &str) -> anyhow::Result<PathBuf> {
    found(cache()?.join("bin").join(name), "tests/cluster/cluster build-control-plane")
}

/// What `tests/redis/clients` has put into the cache: a path below its folder.
///
/// # Errors
/// When it has not.
pub fn redis_clients(path: &str) -> anyhow::Result<PathBuf> {
    found(cache()?.join("redis").join(path), "tests/redis/clients")
}

fn cache() -> anyhow::Result<PathBuf> {
    let cache = std::env::var_os("DC_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/distributed-counter")));
    cache.context("neither DC_CACHE nor HOME is set")
}

/// A file of the repository.
#[must_use]
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn found(path: PathBuf, remedy: &str) -> anyhow::Result<PathBuf> {
    if path.is_file() { Ok(path) } else { bail!("{} is missing: run `{remedy}`", path.display()) }
}
