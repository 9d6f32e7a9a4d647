//! What a disk holds after a power failure at any moment of a [`Trace`].
//!
//! A file's bytes are on the disk when an `fsync` or `fdatasync` of that file, which began after the write had ended, has
//! ended. A name, also that of a new file, is when an `fsync` of its folder has. Everything else may be there or not: of
//! names as many as the disk pleases, in order, and of bytes any sectors of any writes. A call that the replay does not
//! know is an error where it concerns the folder.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::image::Image;
use super::trace::{Argument, Call, Trace};

/// Flags of `open` under which a write means something else than here.
const UNKNOWN_FLAGS: [&str; 5] = ["O_APPEND", "O_DIRECT", "O_DSYNC", "O_SYNC", "O_TMPFILE"];
/// In what pieces disks write: what is torn is torn between two of them.
const SECTOR_BYTES: [u64; 2] = [512, 4096];

/// A folder, as the process sees it and as the disk has it.
#[derive(Debug)]
pub struct Disk<'a> {
    root: PathBuf,
    nodes: Vec<Node<'a>>,
    /// By file descriptor.
    open: HashMap<i64, Open>,
    /// Which node a call that forces is of, and how many changes there were when it began.
    forcing: HashMap<usize, (usize, u64)>,
    changes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    node: usize,
    position: u64,
}

/// Contents that are on the disk, and the numbered changes that need not be.
#[derive(Debug)]
enum Node<'a> {
    File { disk: Vec<u8>, since: Vec<(u64, Change<'a>)> },
    Folder { disk: Names, since: Vec<(u64, Renamed)>, live: Names },
}

/// The root is the first of all nodes.
type Names = BTreeMap<String, usize>;

#[derive(Clone, Copy, Debug)]
enum Change<'a> {
    Write { at: u64, bytes: &'a [u8] },
    Empty,
}

/// Names of one folder that change together, and what they stand for then.
type Renamed = Vec<(String, Option<usize>)>;

impl<'a> Disk<'a> {
    /// What has become of the folder `root`, which was forced to the disk with all that was in it, after so many events.
    ///
    /// # Errors
    /// When something was called that this does not know.
    pub fn after(events: usize, trace: &'a Trace, root: &Path, before: &Image) -> anyhow::Result<Self> {
        let (nodes, open) = (Vec::new(), HashMap::new());
        let mut disk = Self { root: root.to_owned(), nodes, open, forcing: HashMap::new(), changes: 0 };
        disk.add(before);
        disk.go_on(events, trace)
    }

    /// What becomes of it in so many events of a further process, which began when the one before had been killed: what that had not
    /// forced, the kernel has.
    ///
    /// # Errors
    /// When something was called that this does not know.
    pub fn go_on(mut self, events: usize, trace: &'a Trace) -> anyhow::Result<Self> {
        self.open.clear();
        self.forcing.clear();
        for event in &trace.events[..events] {
            let call = &trace.calls[event.call];
            let done = match event.gave {
                None => self.begins(event.call, call),
                Some(gave) => u64::try_from(gave).map_or(Ok(()), |gave| self.ends(event.call, call, gave)),
            };
            done.with_context(|| format!("{} by {} at {} µs", call.name, call.thread, event.at_us))?;
        }
        Ok(self)
    }

    fn add(&mut self, image: &Image) -> usize {
        let index = self.nodes.len();
        match image {
            Image::File(bytes) => self.nodes.push(Node::File { disk: bytes.clone(), since: Vec::new() }),
            Image::Folder(entries) => {
                self.nodes.push(Node::Folder { disk: Names::new(), since: Vec::new(), live: Names::new() });
                let names: Names = entries.iter().map(|(name, entry)| (name.clone(), self.add(entry))).collect();
                self.nodes[index] = Node::Folder { disk: names.clone(), since: Vec::new(), live: names };
            }
        }
        index
    }

    fn begins(&mut self, number: usize, call: &Call) -> anyhow::Result<()> {
        match call.name.as_str() {
            // From here on another call may be given the same descriptor.
            "close" => drop(self.open.remove(&call.number(0)?)),
            "fsync" | "fdatasync" => {
                if let Some(open) = self.open.get(&call.number(0)?) {
                    self.forcing.insert(number, (open.node, self.changes));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ends(&mut self, number: usize, call: &'a Call, gave: u64) -> anyhow::Result<()> {
        match call.name.as_str() {
            "close" | "sendto" | "sendmsg" => Ok(()),
            "fsync" | "fdatasync" => {
                let forced = self.forcing.remove(&number);
                forced.map_or(Ok(()), |(node, changes)| self.nodes[node].force(changes))
            }
            "openat" => self.opened(call, gave),
            "write" | "writev" | "pwrite64" => self.written(call, gave),
            "lseek" => {
                if let Some(open) = self.open.get_mut(&call.number(0)?) {
                    open.position = gave;
                }
                Ok(())
            }
            "rename" | "unlink" | "rmdir" | "mkdir" => self.named(call, [None, None], [0, 1]),
            "renameat" | "renameat2" | "unlinkat" | "mkdirat" => self.named(call, [Some(0), Some(2)], [1, 3]),
            "fcntl" if matches!(call.word(1)?, "F_GETFD" | "F_SETFD" | "F_GETFL") => Ok(()),
            "mmap" if !(call.word(3)?.contains("MAP_SHARED") && call.word(2)?.contains("PROT_WRITE")) => Ok(()),
            "mmap" | "io_uring_setup" => bail!("what a process writes that way is not in its trace"),
            _ => self.refuse_ours(call),
        }
    }

    fn refuse_ours(&self, call: &Call) -> anyhow::Result<()> {
        let ours = call.arguments.iter().any(|argument| match argument {
            Argument::Word(word) => word.parse().is_ok_and(|number| self.open.contains_key(&number)),
            Argument::Bytes(bytes) => Path::new(&*String::from_utf8_lossy(bytes)).starts_with(&self.root),
        });
        anyhow::ensure!(!ours, "the replay does not know this call");
        Ok(())
    }

    fn opened(&mut self, call: &Call, fd: u64) -> anyhow::Result<()> {
        let fd = i64::try_from(fd)?;
        // It may have been left behind by a call that is not traced.
        self.open.remove(&fd);
        let flags: Vec<&str> = call.word(2)?.split('|').collect();
        let Some((folder, name)) = self.place(call, Some(0), 1)? else { return Ok(()) };
        anyhow::ensure!(!flags.iter().any(|flag| UNKNOWN_FLAGS.contains(flag)), "the replay does not know these flags");
        let found = if name.is_empty() { Some(folder) } else { self.names(folder)?.get(&name).copied() };
        let node = match found {
            Some(node) => node,
            None => {
                anyhow::ensure!(flags.contains(&"O_CREAT"), "the file was never made");
                let node = self.add(&Image::File(Vec::new()));
                self.rename(folder, vec![(name, Some(node))])?;
                node
            }
        };
        if flags.contains(&"O_TRUNC") {
            self.change(node, Change::Empty)?;
        }
        self.open.insert(fd, Open { node, position: 0 });
        Ok(())
    }

    fn written(&mut self, call: &'a Call, wrote: u64) -> anyhow::Result<()> {
        let fd = call.number(0)?;
        let Some(Open { node, position }) = self.open.get(&fd).copied() else { return Ok(()) };
        let [bytes] = call.strings().collect::<Vec<_>>()[..] else { bail!("the replay does not know writes in parts") };
        let bytes = bytes.get(..usize::try_from(wrote)?).context("more was written than there was")?;
        if call.name == "pwrite64" {
            return self.change(node, Change::Write { at: u64::try_from(call.number(3)?)?, bytes });
        }
        self.open.insert(fd, Open { node, position: position + wrote });
        self.change(node, Change::Write { at: position, bytes })
    }

    /// Takes note of what has another name, or none any more.
    fn named(&mut self, call: &Call, folders: [Option<usize>; 2], paths: [usize; 2]) -> anyhow::Result<()> {
        let from = self.place(call, folders[0], paths[0])?;
        if call.name.starts_with("rename") {
            return match (from, self.place(call, folders[1], paths[1])?) {
                (None, None) => Ok(()),
                (Some((folder, from)), Some((into, to))) if folder == into => {
                    anyhow::ensure!(call.word(4).map_or(true, |flags| flags == "0"), "the replay does not know these flags");
                    let node = *self.names(folder)?.get(&from).context("what is renamed was never made")?;
                    self.rename(folder, vec![(from, None), (to, Some(node))])
                }
                _ => bail!("the replay does not know renames from folder to folder"),
            };
        }
        let Some((folder, name)) = from else { return Ok(()) };
        let node = call.name.starts_with("mkdir").then(|| self.add(&Image::empty()));
        self.rename(folder, vec![(name, node)])
    }

    /// Where a path leads that a call was given, relative to the folder that it was given: a folder of ours, and a name in
    /// it, which is empty for the root.
    fn place(&self, call: &Call, relative_to: Option<usize>, path: usize) -> anyhow::Result<Option<(usize, String)>> {
        let Some(Argument::Bytes(path)) = call.arguments.get(path) else { bail!("a path is missing") };
        let path = PathBuf::from(str::from_utf8(path)?);
        let (start, path) = match path.strip_prefix(&self.root) {
            Ok(path) => (0, path),
            Err(_) if path.is_absolute() => return Ok(None),
            Err(_) => {
                let fd = relative_to.and_then(|folder| call.number(folder).ok());
                let Some(open) = fd.and_then(|fd| self.open.get(&fd)) else { return Ok(None) };
                (open.node, path.as_path())
            }
        };
        let mut names: Vec<&str> =
            path.iter().map(|name| name.to_str().context("a path is no text")).collect::<Result<_, _>>()?;
        let last = names.pop().unwrap_or_default();
        let step = |folder, name: &str| self.names(folder)?.get(name).copied().with_context(|| format!("{name} was never made"));
        let folder = names.into_iter().try_fold(start, step)?;
        Ok(Some((folder, last.to_owned())))
    }

    fn names(&self, folder: usize) -> anyhow::Result<&Names> {
        match &self.nodes[folder] {
            Node::Folder { live, .. } => Ok(live),
            Node::File { .. } => bail!("a file is used as a folder"),
        }
    }

    fn rename(&mut self, folder: usize, renamed: Renamed) -> anyhow::Result<()> {
        let Node::Folder { since, live, .. } = &mut self.nodes[folder] else { bail!("a file is used as a folder") };
        apply(live, &renamed);
        since.push((self.changes, renamed));
        self.changes += 1;
        Ok(())
    }

    fn change(&mut self, file: usize, change: Change<'a>) -> anyhow::Result<()> {
        let Node::File { since, .. } = &mut self.nodes[file] else { bail!("a folder is written to") };
        since.push((self.changes, change));
        self.changes += 1;
        Ok(())
    }

    /// What the process sees.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn seen(&self) -> anyhow::Result<Image> {
        self.left(1.0, SECTOR_BYTES[0], &mut StdRng::seed_from_u64(0))
    }

    /// What a power failure leaves at least: what was forced to the disk, and nothing else.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn forced(&self) -> anyhow::Result<Image> {
        self.left(0.0, SECTOR_BYTES[0], &mut StdRng::seed_from_u64(0))
    }

    /// What a power failure might leave.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn lose_power(&self, random: &mut StdRng) -> anyhow::Result<Image> {
        let survives = match random.random_range(0..4) {
            0 => 0.0,
            1 => 0.5,
            _ => random.random(),
        };
        self.left(survives, SECTOR_BYTES[random.random_range(0..SECTOR_BYTES.len())], random)
    }

    fn left(&self, survives: f64, sector_bytes: u64, random: &mut StdRng) -> anyhow::Result<Image> {
        self.image(0, &mut Fate { survives, sector_bytes, random })
    }

    fn image(&self, node: usize, fate: &mut Fate<'_>) -> anyhow::Result<Image> {
        Ok(match &self.nodes[node] {
            Node::File { disk, since } => {
                let mut bytes = disk.clone();
                for (_, change) in since {
                    fate.befall(&mut bytes, *change)?;
                }
                Image::File(bytes)
            }
            Node::Folder { disk, since, .. } => {
                let mut names = disk.clone();
                // In the order in which they were made: file systems keep a journal of names.
                for (_, renamed) in since.iter().take_while(|_| fate.spares()) {
                    apply(&mut names, renamed);
                }
                let entries = names.into_iter().map(|(name, node)| Ok((name, self.image(node, fate)?)));
                Image::Folder(entries.collect::<anyhow::Result<_>>()?)
            }
        })
    }
}

impl Node<'_> {
    /// Puts on the disk what was changed when there were so many changes.
    fn force(&mut self, changes: u64) -> anyhow::Result<()> {
        match self {
            Self::File { disk, since } => {
                for (_, change) in since.extract_if(.., |(number, _)| *number < changes) {
                    write(disk, change)?;
                }
            }
            Self::Folder { disk, since, .. } => {
                since.extract_if(.., |(number, _)| *number < changes).for_each(|(_, renamed)| apply(disk, &renamed));
            }
        }
        Ok(())
    }
}

/// Decides what survives of that which was not forced.
struct Fate<'a> {
    /// From 0, nothing, to 1, everything.
    survives: f64,
    sector_bytes: u64,
    random: &'a mut StdRng,
}

impl Fate<'_> {
    fn spares(&mut self) -> bool {
        self.random.random_bool(self.survives)
    }

    fn befall(&mut self, file: &mut Vec<u8>, change: Change<'_>) -> anyhow::Result<()> {
        let Change::Write { mut at, mut bytes } = change else {
            return if self.spares() { write(file, change) } else { Ok(()) };
        };
        while !bytes.is_empty() {
            let to_border = usize::try_from(self.sector_bytes - at % self.sector_bytes)?;
            let (sector, rest) = bytes.split_at(to_border.min(bytes.len()));
            if self.spares() {
                write(file, Change::Write { at, bytes: sector })?;
            }
            at += sector.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

fn write(file: &mut Vec<u8>, change: Change<'_>) -> anyhow::Result<()> {
    match change {
        Change::Empty => file.clear(),
        Change::Write { at, bytes } => {
            let at = usize::try_from(at)?;
            let end = at + bytes.len();
            file.resize(file.len().max(end), 0);
            file[at..end].copy_from_slice(bytes);
        }
    }
    Ok(())
}

fn apply(names: &mut Names, renamed: &Renamed) {
    for (name, node) in renamed {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}

impl Call {
    fn word(&self, index: usize) -> anyhow::Result<&str> {
        match self.arguments.get(index) {
            Some(Argument::Word(word)) => Ok(word),
            other => bail!("argument {index} is {other:?}"),
        }
    }

    fn number(&self, index: usize) -> anyhow::Result<i64> {
        Ok(self.word(index)?.parse()?)
    }

    /// What it hands to the kernel, part by part.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> {
        self.arguments.iter().filter_map(|argument| match argument {
            Argument::Bytes(bytes) => Some(bytes.as_slice()),
            Argument::Word(_) => None,
        })
    }
}

#[cfg(test)]
#[path = "disk/tests.rs"]
mod tests;
