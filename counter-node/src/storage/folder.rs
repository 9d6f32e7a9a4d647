//! The data folder: whose it is, which format it has, and how it comes into being.
//!
//! ```text
//! FORMAT       which format; read before anything else is opened
//! LOCK         held for as long as a process works here
//! store/       meta: identity and layout · log/: what was committed last · checkpoint/: all that was before
//! store.new/   the same while the folder is being made; gone once it is
//! ```
//!
//! A folder is made in an order that neither a crash nor a power failure can turn into one that looks used, each step on the disk before the
//! next: all files in `store.new`, their names and those on the way to them included, then `FORMAT`, then the rename to `store`. So a `store`
//! without `FORMAT`, or the reverse, is damage and never taken for new.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::format::{FORMAT, format_text, parse_format};

const FORMAT_FILE: &str = "FORMAT";
const FORMAT_DRAFT: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const STORE: &str = "store";
const STORE_DRAFT: &str = "store.new";
/// What may lie in a folder that is new to us: our own drafts, and what `mkfs` puts at the root of a volume.
const IN_NEW_FOLDERS: [&str; 4] = [LOCK_FILE, FORMAT_DRAFT, STORE_DRAFT, "lost+found"];

/// How far a data folder has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// There is nothing in it yet.
    New,
    /// All is there but the last rename.
    Drafted,
    /// It has been used, or could be.
    Made,
}

/// A data folder that this process has to itself.
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, which may not exist, and says how far it has come. A folder that is refused is not touched.
    pub(super) fn take(path: &Path) -> Result<(Self, Stage), StoreError> {
        inspect(path)?;
        fs::create_dir_all(path).map_err(StoreError::io("make the data folder", path))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(StoreError::io("open the lock file", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_path_buf() }),
            Err(TryLockError::Error(source)) => return Err(StoreError::io("lock", &lock_path)(source)),
        }
        // Only now nobody else can be at work in here.
        let stage = inspect(path)?;
        if stage == Stage::New {
            sync_way_to(path).map_err(StoreError::io("force the way to", path))?;
        }
        Ok((Self { path: path.to_path_buf(), lock }, stage))
    }

    /// Where the store's files are.
    pub(super) fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// An empty folder for the store's first files.
    pub(super) fn draft(&self) -> Result<PathBuf, StoreError> {
        let draft = self.path.join(STORE_DRAFT);
        match fs::remove_dir_all(&draft) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("clear away", &draft)(source)),
        }
        fs::create_dir(&draft).map_err(StoreError::io("make", &draft))?;
        Ok(draft)
    }

    /// Writes `FORMAT`: from here on the folder is ours, and of this format, and what was drafted is used, also after a power failure.
    pub(super) fn mark_format(&self) -> Result<(), StoreError> {
        let draft = self.path.join(FORMAT_DRAFT);
        let write = || {
            sync_folder(&self.path.join(STORE_DRAFT))?;
            sync_folder(&self.path)?;
            let mut file = File::create(&draft)?;
            file.write_all(format_text(FORMAT).as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, self.path.join(FORMAT_FILE))?;
            sync_folder(&self.path)
        };
        write().map_err(StoreError::io("write", &draft))
    }

    /// Puts the drafted files in their place.
    pub(super) fn finish(&self) -> Result<(), StoreError> {
        let draft = self.path.join(STORE_DRAFT);
        let finish = || {
            // A process that was killed may have left the name of `FORMAT` to the kernel.
            sync_folder(&self.path)?;
            fs::rename(&draft, self.store())?;
            sync_folder(&self.path)
        };
        finish().map_err(StoreError::io("put in place", &draft))
    }

    /// Lets other processes have the folder.
    pub(super) fn release(&self) {
        // Cannot fail on a lock that is held; and if it did, the lock would go with the file.
        drop(self.lock.unlock());
    }
}

/// Says how far the folder has come, by reading only.
fn inspect(path: &Path) -> Result<Stage, StoreError> {
    let format_path = path.join(FORMAT_FILE);
    match fs::read(&format_path) {
        Ok(bytes) => match parse_format(&bytes) {
            None => Err(StoreError::corrupt(&format_path, "it does not say which format the data folder has")),
            Some(found) if found > FORMAT => Err(StoreError::NewerFormat { path: path.to_path_buf(), found, known: FORMAT }),
            Some(found) if found < FORMAT => Err(StoreError::OlderFormat { path: path.to_path_buf(), found, known: FORMAT }),
            Some(_) if path.join(STORE).is_dir() => Ok(Stage::Made),
            Some(_) if path.join(STORE_DRAFT).is_dir() => Ok(Stage::Drafted),
            Some(_) => Err(StoreError::corrupt(path, "it has a FORMAT file but its folder `store` is gone")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => inspect_unmarked(path),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(StoreError::corrupt(path, "it is a file, not a data folder"))
        }
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            Err(StoreError::corrupt(&format_path, "it is a folder, not a file"))
        }
        Err(source) => Err(StoreError::io("read", &format_path)(source)),
    }
}

/// A folder without `FORMAT` must be new: anything that we did not put there would be somebody else's, or damage.
fn inspect_unmarked(path: &Path) -> Result<Stage, StoreError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Stage::New),
        Err(source) => return Err(StoreError::io("list", path)(source)),
    };
    for entry in entries {
        let name = entry.map_err(StoreError::io("list", path))?.file_name();
        if !IN_NEW_FOLDERS.iter().any(|known| name == *known) {
            let name = name.to_string_lossy().into_owned();
            return Err(StoreError::corrupt(path, format!("it holds `{name}` but no FORMAT file, so it is no data folder")));
        }
    }
    Ok(Stage::New)
}

/// Forces a folder's entries to the disk.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    forcings::of(path)?;
    File::open(path)?.sync_all()
}

/// Forces the names that lead to a folder, on its own file system: whoever made it, and what it lies in, may not have come so far.
fn sync_way_to(path: &Path) -> io::Result<()> {
    let path = path.canonicalize()?;
    let device = fs::metadata(&path)?.dev();
    for parent in path.ancestors().skip(1) {
        if fs::metadata(parent)?.dev() != device {
            break;
        }
        match sync_folder(parent) {
            // Others made what is in there, long ago as a rule.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            forced => forced?,
        }
    }
    Ok(())
}

/// For tests: which folders this thread has forced, what was in them then, and which of them cannot be forced.
#[cfg(test)]
pub(super) mod forcings {
    use std::cell::RefCell;

    use super::{Path, PathBuf, fs, io};

    thread_local! {
        static FORCED: RefCell<Vec<(PathBuf, Vec<String>)>> = RefCell::default();
        static FAILING: RefCell<Option<PathBuf>> = RefCell::default();
    }

    pub(super) fn of(path: &Path) -> io::Result<()> {
        if FAILING.with_borrow(|failing| failing.as_deref() == Some(path)) {
            return Err(io::Error::other("it cannot be forced"));
        }
        let mut names: Vec<String> = fs::read_dir(path)?.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        FORCED.with_borrow_mut(|forced| forced.push((path.to_path_buf(), names)));
        Ok(())
    }

    /// From now on the folder cannot be forced.
    pub(in crate::storage) fn fail(path: &Path) {
        FAILING.set(Some(path.to_path_buf()));
    }

    /// From now on every folder can be forced.
    pub(in crate::storage) fn heal() {
        FAILING.set(None);
    }

    /// The names that were in the folder each time that it was forced.
    pub(in crate::storage) fn all(path: &Path) -> Vec<Vec<String>> {
        FORCED.with_borrow(|forced| forced.iter().filter(|(of, _)| of == path).map(|(_, names)| names.clone()).collect())
    }

    /// The names that were in the folder when it was forced last.
    pub(in crate::storage) fn last(path: &Path) -> Vec<String> {
        all(path).pop().unwrap_or_default()
    }
}
