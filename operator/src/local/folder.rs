//! The data folder: what Kubernetes keeps in etcd, in Secrets and on volumes stands here in files.
//!
//! ```text
//! operator.lock  ports.json  endpoints.json
//! NAMESPACE/CLUSTER/object.json   the DistributedCounter as it was accepted last
//! NAMESPACE/CLUSTER/layout.json   the record of the layout, written before any node hears of it
//! NAMESPACE/CLUSTER/volumes.json  which data folder each node had, and whose loss was accepted
//! NAMESPACE/CLUSTER/token         the cluster token, minted once
//! NAMESPACE/CLUSTER/api-token     the public API's tokens, where the object asks for some
//! NAMESPACE/CLUSTER/redis-url     the URL of the Redis that keeps the counts, where the object names one
//! NAMESPACE/CLUSTER/logs/NODE.log
//! NAMESPACE/CLUSTER/NODE/         the node's own folder
//! ```
//! Names of namespaces and clusters hold no dots, so they collide with none of these files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use counter_core::layout::Layout;
use counter_core::proof::ClusterToken;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoints;
use super::ports::Ports;
use crate::controller::plan::{VOLUMES_FORMAT, Volumes};

/// A token's length before it is written as hexadecimal digits.
const TOKEN_BYTES: usize = 32;

/// The data folder, held for this process alone.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Held open: the lock goes with it.
    _lock: File,
}

/// One cluster's part of the data folder.
#[derive(Debug, Clone)]
pub(super) struct ClusterFolder {
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} is in use by another operator{}; stop that one or choose another --data", path.display(), holder(pid))]
    Locked { path: PathBuf, pid: String },
    #[error("cannot use {} as the data folder", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is damaged or of a newer release, and nothing was touched: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
}

fn holder(pid: &str) -> String {
    if pid.is_empty() { String::new() } else { format!(" (process {pid})") }
}

impl Folder {
    /// Opens the folder, making it if need be, and locks it.
    ///
    /// # Errors
    /// [`FolderError::Locked`] when another process has it; nothing has changed then.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let refused = |source| FolderError::Open { path: path.to_owned(), source };
        make_private(path).map_err(refused)?;
        // The children run with this path, wherever the operator was started.
        let root = path.canonicalize().map_err(refused)?;
        let lock = lock(&root)?;
        Ok(Self { root, _lock: lock })
    }

    /// The folder's absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.root
    }

    /// The part of one cluster, made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn cluster(&self, namespace: &str, name: &str) -> Result<ClusterFolder, FolderError> {
        let path = self.root.join(namespace).join(name);
        make_private(&path.join("logs")).map_err(|source| FolderError::Write { path: path.clone(), source })?;
        Ok(ClusterFolder { path })
    }

    /// The ports given so far.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn ports(&self) -> Result<Ports, FolderError> {
        Ok(read_json(&self.ports_path())?.unwrap_or_default())
    }

    /// Records the ports.
    ///
    /// # Errors
    /// When they cannot be written; the old ones stand.
    pub(super) fn record_ports(&self, ports: &Ports) -> Result<(), FolderError> {
        write_json(&self.ports_path(), ports)
    }

    /// Shows `text` as `endpoints.json`.
    ///
    /// # Errors
    /// When it cannot be written; the old text stands.
    pub(super) fn show_endpoints(&self, text: &str) -> Result<(), FolderError> {
        write_durably(&self.root.join(endpoints::FILE), text.as_bytes())
    }

    /// Takes `endpoints.json` away: nobody keeps it from now on.
    pub(super) fn hide_endpoints(&self) {
        // It may never have been written.
        let _ = fs::remove_file(self.root.join(endpoints::FILE));
    }

    fn ports_path(&self) -> PathBuf {
        self.root.join("ports.json")
    }
}

impl ClusterFolder {
    /// The recorded layout; none before the first.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn layout(&self) -> Result<Option<Layout>, FolderError> {
        let path = self.layout_path();
        let Some(layout) = read_json::<Layout>(&path)? else { return Ok(None) };
        match layout.validate() {
            Ok(()) => Ok(Some(layout)),
            Err(error) => Err(FolderError::Damaged { path, reason: error.to_string() }),
        }
    }

    /// Records a layout, durably: nodes may hear of it only after this.
    ///
    /// # Errors
    /// When it cannot be written; the old one stands.
    pub(super) fn record_layout(&self, layout: &Layout) -> Result<(), FolderError> {
        write_json(&self.layout_path(), layout)
    }

    /// What is recorded of the cluster's storage; nothing before the first layout.
    ///
    /// # Errors
    /// When it cannot be read, or is of a newer format.
    pub(super) fn volumes(&self) -> Result<Option<Volumes>, FolderError> {
        let path = self.path.join("volumes.json");
        match read_json::<Volumes>(&path)? {
            Some(Volumes { format, .. }) if format > VOLUMES_FORMAT => {
                Err(FolderError::Damaged { path, reason: format!("its format {format} is newer than {VOLUMES_FORMAT}") })
            }
            volumes => Ok(volumes),
        }
    }

    /// Records what is known of the cluster's storage, durably.
    ///
    /// # Errors
    /// When it cannot be written; the old record stands.
    pub(super) fn record_volumes(&self, volumes: &Volumes) -> Result<(), FolderError> {
        write_json(&self.path.join("volumes.json"), volumes)
    }

    /// The object as it was accepted last.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(super) fn object<T: DeserializeOwned>(&self) -> Result<Option<T>, FolderError> {
        read_json(&self.object_path())
    }

    /// Records the accepted object.
    ///
    /// # Errors
    /// When it cannot be written; the old one stands.
    pub(super) fn record_object<T: Serialize>(&self, object: &T) -> Result<(), FolderError> {
        write_json(&self.object_path(), object)
    }

    /// Forgets the object: its cluster left the file. Layout, token and data stay for when it comes back.
    pub(super) fn forget_object(&self) {
        // It may never have been recorded.
        let _ = fs::remove_file(self.object_path());
    }

    /// The cluster token, minted at first use.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub(super) fn token(&self) -> Result<ClusterToken, FolderError> {
        let path = self.token_path();
        let unreadable = |source| FolderError::Read { path: path.clone(), source };
        match fs::read(&path) {
            Ok(bytes) => {
                let token = ClusterToken::new(&bytes);
                if token.is_empty() {
                    return Err(FolderError::Damaged { path, reason: "it holds no token".to_owned() });
                }
                Ok(token)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let digits = mint();
                write_durably(&path, digits.as_bytes())?;
                Ok(ClusterToken::new(digits.as_bytes()))
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// The file with the cluster token.
    pub(super) fn token_path(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The file with the public API's tokens.
    pub(super) fn api_token_path(&self) -> PathBuf {
        self.path.join("api-token")
    }

    /// The file with the URL of the Redis that keeps the counts.
    pub(super) fn redis_url_path(&self) -> PathBuf {
        self.path.join("redis-url")
    }

    /// The folder of a node's data.
    pub(super) fn node(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The folder of the nodes' logs.
    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    fn layout_path(&self) -> PathBuf {
        self.path.join("layout.json")
    }

    fn object_path(&self) -> PathBuf {
        self.path.join("object.json")
    }
}

/// Writes what a Secret says, if the file does not say it already; nodes read it again.
///
/// # Errors
/// When it cannot be written; the old value stands.
pub(super) fn write_secret(path: &Path, value: &[u8]) -> Result<(), FolderError> {
    if fs::read(path).is_ok_and(|written| written == value) { Ok(()) } else { write_durably(path, value) }
}

fn mint() -> String {
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn lock(root: &Path) -> Result<File, FolderError> {
    let path = root.join("operator.lock");
    let refused = |source| FolderError::Open { path: root.to_owned(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message; without it the message is shorter.
            let _ = file.read_to_string(&mut pid);
            return Err(FolderError::Locked { path: root.to_owned(), pid: pid.trim().to_owned() });
        }
        Err(TryLockError::Error(source)) => return Err(refused(source)),
    }
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(refused)?;
    Ok(file)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, FolderError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FolderError::Read { path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(FolderError::Damaged { path: path.to_owned(), reason: error.to_string() }),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), FolderError> {
    let refused = |error: serde_json::Error| FolderError::Write { path: path.to_owned(), source: error.into() };
    let mut bytes = serde_json::to_vec_pretty(value).map_err(refused)?;
    bytes.push(b'\n');
    write_durably(path, &bytes)
}

/// Replaces a file at once and for good: readers see the old bytes or the new ones, and so does a restart after a power cut.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    let write = || -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The rename itself is durable once its folder is.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(|source| FolderError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use counter_core::id::ClusterId;
    use counter_core::layout::Node;

    use super::*;

    fn layout() -> Layout {
        let node = Node { name: "a-0-0".into(), http: "h:1".into(), admin: "h:2".into(), peer: "h:3".into(), resp: None };
        Layout::single(ClusterId(7), node)
    }

    #[test]
    fn a_second_operator_is_told_who_has_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = Folder::open(&path).unwrap();
        let refusal = Folder::open(&path).unwrap_err().to_string();
        assert!(refusal.contains(&format!("is in use by another operator (process {})", std::process::id())), "{refusal}");
        drop(first);
        assert!(Folder::open(&path).is_ok());
    }

    #[test]
    fn the_layout_record_survives_and_a_damaged_one_is_refused_untouched() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let cluster = folder.cluster("default", "a").unwrap();
        assert!(cluster.layout().unwrap().is_none());
        cluster.record_layout(&layout()).unwrap();
        assert_eq!(cluster.layout().unwrap(), Some(layout()));

        let path = parent.path().join("default/a/layout.json");
        let newer = fs::read_to_string(&path).unwrap().replace("\"format\": 1", "\"format\": 9");
        fs::write(&path, &newer).unwrap();
        let refusal = cluster.layout().unwrap_err().to_string();
        assert!(refusal.contains("layout format 9 is newer than 1"), "{refusal}");
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }

    #[test]
    fn the_token_is_minted_once_and_for_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::open(parent.path()).unwrap();
        let cluster = folder.cluster("default", "a").unwrap();
        let token = cluster.token().unwrap();
        assert!(!token.is_empty());
        assert_eq!(cluster.token().unwrap(), token);
        assert_ne!(folder.cluster("default", "b").unwrap().token().unwrap(), token);
        let mode = fs::metadata(cluster.token_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
