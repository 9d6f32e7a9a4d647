//! All that is in a folder, in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// A file's bytes, or a folder's entries by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    File(Vec<u8>),
    Folder(BTreeMap<String, Image>),
}

impl Image {
    /// A folder with nothing in it.
    #[must_use]
    pub fn empty() -> Self {
        Self::Folder(BTreeMap::new())
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or has a name that is no text.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Ok(Self::File(fs::read(path).with_context(|| path.display().to_string())?));
        }
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| anyhow::anyhow!("a file's name is {name:?}"))?;
            entries.insert(name, Self::read(&entry.path())?);
        }
        Ok(Self::Folder(entries))
    }

    /// Puts it at `path`, in place of what is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, path: &Path) -> anyhow::Result<()> {
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
        self.write(path)
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        match self {
            Self::File(bytes) => fs::write(path, bytes)?,
            Self::Folder(entries) => {
                fs::create_dir(path)?;
                for (name, entry) in entries {
                    entry.write(&path.join(name))?;
                }
            }
        }
        Ok(())
    }

    /// The first path at which two images differ, and how: to be told, where all bytes would be too much.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::File(one), Self::File(two)) => {
                let at = one.iter().zip(two).position(|(one, two)| one != two);
                (one != two).then(|| format!(": {} and {} bytes, first other than each other at {at:?}", one.len(), two.len()))
            }
            (Self::Folder(one), Self::Folder(two)) => {
                let names = one.keys().chain(two.keys());
                names.into_iter().find_map(|name| match (one.get(name), two.get(name)) {
                    (Some(one), Some(two)) => one.difference(two).map(|difference| format!("/{name}{difference}")),
                    (found, _) => Some(format!("/{name}: only in the {}", if found.is_some() { "first" } else { "second" })),
                })
            }
            _ => Some(": a file and a folder".to_owned()),
        }
    }
}
