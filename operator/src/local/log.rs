//! A node's log files: the newest run's, and those of the runs before it, none without bound.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Old logs kept per node: enough to see the first of a few crashes in a row.
const OLD_LOGS: u32 = 3;
/// The size at which a running node's log is set aside.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much of a log's end is searched for its last line.
const TAIL_BYTES: u64 = 4096;
/// How much of that line is shown.
const LINE_CHARS_MAX: usize = 160;

/// A fresh log for a process that is about to start; what was there is set aside.
///
/// # Errors
/// When the file cannot be made.
pub(super) fn start(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0) {
        make_room(path);
        fs::rename(path, old(path, 1))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

/// Sets a running process's log aside when it has grown too large. The process goes on writing to the same, now empty,
/// file; lines that it writes during the copy may be lost.
///
/// # Errors
/// When that fails; the log goes on growing then.
pub(super) fn trim(path: &Path) -> io::Result<()> {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        return Ok(());
    }
    make_room(path);
    fs::copy(path, old(path, 1))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

/// The last line of a log; none when there is nothing to read.
pub(super) fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(LINE_CHARS_MAX).collect())
}

/// Moves every old log one place on; the oldest goes. A log that is missing leaves nothing to move.
fn make_room(path: &Path) {
    for age in (1..OLD_LOGS).rev() {
        let _ = fs::rename(old(path, age), old(path, age + 1));
    }
}

fn old(path: &Path, age: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn each_start_sets_the_last_log_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-0-0.log");
        for run in 0..6 {
            writeln!(start(&path).unwrap(), "run {run}").unwrap();
        }
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "run 5\n");
        assert_eq!([1, 2, 3].map(|age| read(&old(&path, age))), ["run 4\n", "run 3\n", "run 2\n"]);
        assert!(!old(&path, 4).exists());
    }

    #[test]
    fn a_large_log_is_set_aside_under_the_running_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-0-0.log");
        let mut log = start(&path).unwrap();
        log.set_len(LOG_BYTES_MAX + 1).unwrap();
        trim(&path).unwrap();
        writeln!(log, "after").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(fs::metadata(old(&path, 1)).unwrap().len(), LOG_BYTES_MAX + 1);
    }

    #[test]
    fn the_last_line_is_found_and_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-0-0.log");
        assert_eq!(last_line(&path), None);
        fs::write(&path, format!("{}\nthe data folder is in use\n\n", "x".repeat(9000))).unwrap();
        assert_eq!(last_line(&path).as_deref(), Some("the data folder is in use"));
        fs::write(&path, "y".repeat(9000)).unwrap();
        assert_eq!(last_line(&path).unwrap().len(), LINE_CHARS_MAX);
    }
}
