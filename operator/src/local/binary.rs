//! Which counter-node program the processes run.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The program's file name.
const NAME: &str = "counter-node";

/// No program to run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    #[error("--node-binary {} is no program that can be run; build it with `cargo build -p counter-node` or name another", .0.display())]
    Unusable(PathBuf),
    #[error(
        "there is no {NAME} beside {} nor in PATH; build it with `cargo build -p counter-node`, or name it with --node-binary",
        .0.display()
    )]
    Missing(PathBuf),
}

/// Where to look.
#[derive(Debug)]
pub(super) struct Search<'a> {
    /// `--node-binary`.
    pub(super) named: Option<&'a Path>,
    /// This program's folder.
    pub(super) beside: &'a Path,
    /// PATH.
    pub(super) path: &'a OsStr,
}

/// The program: the named one, else the one beside this program, else the first in PATH. Absolute, so that it stays the
/// same wherever a process starts.
///
/// # Errors
/// [`BinaryError`], naming the ways out.
pub(super) fn find(search: &Search<'_>) -> Result<PathBuf, BinaryError> {
    if let Some(named) = search.named {
        return usable(named).ok_or_else(|| BinaryError::Unusable(named.to_owned()));
    }
    let folders = std::iter::once(search.beside.to_owned()).chain(std::env::split_paths(search.path));
    folders
        .filter(|folder| !folder.as_os_str().is_empty())
        .find_map(|folder| usable(&folder.join(NAME)))
        .ok_or_else(|| BinaryError::Missing(search.beside.to_owned()))
}

fn usable(path: &Path) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;
    let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    runs.then(|| path.canonicalize().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn program(folder: &Path) -> PathBuf {
        let path = folder.join(NAME);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.canonicalize().unwrap()
    }

    #[test]
    fn the_named_program_comes_first_then_the_neighbour_then_the_path() {
        let [beside, one, two] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let path = std::env::join_paths([one.path(), two.path()]).unwrap();
        let search = Search { named: None, beside: beside.path(), path: &path };
        assert_eq!(find(&search), Err(BinaryError::Missing(beside.path().to_owned())));
        let second = program(two.path());
        assert_eq!(find(&search).as_deref(), Ok(second.as_path()));
        let first = program(one.path());
        assert_eq!(find(&search).as_deref(), Ok(first.as_path()));
        let neighbour = program(beside.path());
        assert_eq!(find(&search).as_deref(), Ok(neighbour.as_path()));
        assert_eq!(find(&Search { named: Some(&second), ..search }).as_deref(), Ok(second.as_path()));
    }

    #[test]
    fn a_missing_program_is_explained_with_the_fix() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("nothing");
        let refusal = find(&Search { named: Some(&named), beside: folder.path(), path: OsStr::new("") }).unwrap_err().to_string();
        assert!(
            refusal.contains("nothing is no program that can be run; build it with `cargo build -p counter-node`"),
            "{refusal}"
        );
        fs::write(folder.path().join(NAME), "no program").unwrap();
        let refusal = find(&Search { named: None, beside: folder.path(), path: OsStr::new("") }).unwrap_err().to_string();
        assert!(refusal.contains("name it with --node-binary"), "{refusal}");
    }
}
