use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use counter_core::counter::Key;
use counter_core::id::ActorId;
use counter_core::slot::Slot;
use counter_core::token::TokenName;

use super::*;
use crate::storage::{Change, FORMAT, Loaded, meta};

mod faults;
mod names;
mod power_loss;
mod stopping;

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn record(name: &str, bytes: &str) -> Record {
    Record { of: Change::of(&key(name)), bytes: Some(bytes.as_bytes().to_vec()) }
}

/// By how many threads the tests read.
const THREADS: usize = 3;

type Contents = BTreeMap<(Slot, Vec<u8>), Vec<u8>>;

/// Opens a folder and returns what is in it; slots stand under an empty key.
fn open(path: &Path) -> Result<(VolumeStore, Contents), StoreError> {
    open_with(path, LogConfig::default())
}

fn open_with(path: &Path, config: LogConfig) -> Result<(VolumeStore, Contents), StoreError> {
    let contents = Mutex::new(Contents::new());
    let visit = |loaded: Loaded<'_>| {
        let (slot, key, bytes) = match loaded {
            Loaded::Slot { slot, bytes } => (slot, &b""[..], bytes),
            Loaded::Floor { slot, bytes } => (slot, &b"the floor"[..], bytes),
            Loaded::Token { slot, bytes } => (slot, &b"a token"[..], bytes),
            Loaded::Counter { slot, key, bytes } => (slot, key, bytes),
        };
        let before = contents.lock().unwrap().insert((slot, key.to_vec()), bytes.to_vec());
        assert!(before.is_none(), "a record was visited twice");
        Ok(())
    };
    let store = VolumeStore::open_with(path, &visit, THREADS, config)?;
    Ok((store, contents.into_inner().unwrap()))
}

#[track_caller]
fn refusal(path: &Path) -> StoreError {
    match open(path) {
        Ok((_, contents)) => panic!("the folder was not refused, and has {} records", contents.len()),
        Err(error) => error,
    }
}

/// Every file in a folder, and what is in it.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.insert(path.clone(), Vec::new());
            files.extend(snapshot(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// A folder whose counters `0` to `99` are in the checkpoint, and `100` to `199` in the log.
fn used_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let records: Vec<_> = (0..100).map(|number| record(&number.to_string(), "folded")).collect();
    store.commit(&records, Durability::InKernel).unwrap();
    store.reopen().unwrap();
    store.log.settle().unwrap();
    for number in 100..200 {
        store.commit(&[record(&number.to_string(), "in the log")], Durability::InKernel).unwrap();
    }
    store.close().unwrap();
    // Until opening finds nothing more to clear away.
    loop {
        let before = snapshot(folder.path());
        let (store, _) = open(folder.path()).unwrap();
        store.log.settle().unwrap();
        store.close().unwrap();
        if snapshot(folder.path()) == before {
            break;
        }
    }
    folder
}

/// The log's segments that hold something, oldest first.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = snapshot(&folder.join("store/log"));
    files.into_iter().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0)).map(|(path, _)| path).collect()
}

#[track_caller]
fn assert_refused_untouched(folder: &Path, why: &str) {
    let before = snapshot(folder);
    let error = refusal(folder);
    assert!(error.is_data_error(), "{error:?}");
    assert!(error.to_string().contains(why), "`{error}` should say `{why}`");
    let after = snapshot(folder);
    let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).map(|(path, _)| path).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "changed: {changed:?}");
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, contents) = open(folder.path()).unwrap();
    assert!(contents.is_empty());
    let slot = Slot::new(7).unwrap();
    let slot_record = Record { of: Change::Slot(slot), bytes: Some(b"generation 3".to_vec()) };
    store.commit(&[record("front-page", "1"), record("old", "1"), slot_record], Durability::InKernel).unwrap();
    let removed = Record { of: Change::of(&key("old")), bytes: None };
    store.commit(&[record("front-page", "2"), removed], Durability::OnDisk).unwrap();
    store.put_meta(&[(meta::LAYOUT, Some(b"{}")), (meta::CLUSTER, Some(b"c"))]).unwrap();
    store.put_meta(&[(meta::CLUSTER, None)]).unwrap();
    store.close().unwrap();
    let (store, contents) = open(folder.path()).unwrap();
    let front = key("front-page");
    let expected = [((slot, vec![]), b"generation 3".to_vec()), ((front.slot(), b"front-page".to_vec()), b"2".to_vec())];
    assert_eq!(contents, Contents::from(expected));
    assert_eq!((store.meta(meta::LAYOUT), store.meta(meta::CLUSTER)), (Some(b"{}".to_vec()), None));
}

#[test]
fn a_slots_records_are_visited_in_the_order_of_their_kinds() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let slot = key("a").slot();
    let name = TokenName { key_hash: 1, id: 2, actor: ActorId { origin: 3, incarnation: 4 } };
    let changes = [Change::Token { slot, name }, Change::of(&key("a")), Change::Floor(slot), Change::Slot(slot)];
    for of in changes {
        store.commit(&[Record { of, bytes: Some(vec![1]) }], Durability::InKernel).unwrap();
    }
    drop(store);
    let kinds = Mutex::new(Vec::new());
    let visit = |loaded: Loaded<'_>| {
        assert_eq!(loaded.slot(), slot);
        kinds.lock().unwrap().push(match loaded {
            Loaded::Slot { .. } => "slot",
            Loaded::Floor { .. } => "floor",
            Loaded::Counter { .. } => "counter",
            Loaded::Token { .. } => "token",
        });
        Ok(())
    };
    VolumeStore::open_by(folder.path(), &visit, THREADS).unwrap();
    assert_eq!(kinds.into_inner().unwrap(), ["slot", "floor", "counter", "token"]);
}

#[test]
fn of_several_records_that_cannot_be_read_one_is_told_whoever_reads() {
    let folder = used_folder();
    for threads in [1, 2, 7] {
        let visit = |loaded: Loaded<'_>| match loaded {
            Loaded::Counter { key: b"17" | b"18" | b"117", .. } => Err("no counter".to_owned()),
            _ => Ok(()),
        };
        let error = VolumeStore::open_by(folder.path(), &visit, threads).err().unwrap().to_string();
        let told = ["17", "18", "117"].map(|name| {
            let slot = key(name).slot();
            error.contains(&format!("the record of {name:?} in slot {slot} cannot be read: no counter"))
        });
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "{error}");
    }
}

#[test]
fn a_key_of_no_slot_is_corrupt_wherever_it_stands() {
    for key in [&b"\0"[..], b"\0\0", b"\x01\x40\0", b"\x02\x40\0page", b"\x02\xff\xff", b"\x03\0\0short"] {
        let folder = used_folder();
        let store = folder.path().join("store");
        let mut checkpoint = Checkpoint::open(&store.join(CHECKPOINT)).unwrap();
        let number = checkpoint.folded();
        checkpoint.fold(number, &[log::Entry { key, value: Some(b"value") }]).unwrap();
        drop(checkpoint);
        let refused = VolumeStore::open_by(folder.path(), &|_| Ok(()), THREADS);
        let error = refused.err().unwrap_or_else(|| panic!("{key:?} was passed over"));
        assert!(error.to_string().contains("a record's key names no slot"), "{key:?}: {error}");
    }
}

#[test]
fn records_in_the_checkpoint_and_in_the_log_are_both_found_and_the_log_is_newer() {
    let folder = used_folder();
    assert!(snapshot(folder.path()).keys().any(|path| path.parent().unwrap().ends_with("tables")), "no table was made");
    let (store, contents) = open(folder.path()).unwrap();
    assert_eq!(contents.len(), 200);
    assert_eq!(contents.values().filter(|bytes| *bytes == b"folded").count(), 100);
    let removed = Record { of: Change::of(&key("8")), bytes: None };
    store.commit(&[record("7", "older"), record("7", "newer"), removed.clone()], Durability::InKernel).unwrap();
    drop(store);
    for _ in 0..2 {
        let (store, contents) = open(folder.path()).unwrap();
        assert_eq!(contents[&(key("7").slot(), b"7".to_vec())], b"newer");
        assert_eq!((contents.len(), contents.contains_key(&(key("8").slot(), b"8".to_vec()))), (199, false));
        // From the checkpoint alone the second time.
        store.reopen().unwrap();
        store.log.settle().unwrap();
        store.close().unwrap();
    }
}

#[test]
fn a_folder_in_use_is_refused_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let error = refusal(folder.path());
    assert!(matches!(error, StoreError::InUse { .. }) && !error.is_data_error());
    store.close().unwrap();
    open(folder.path()).unwrap();
    assert!(matches!(store.commit(&[record("a", "1")], Durability::InKernel), Err(StoreError::Closed)));
    assert!(matches!(store.reopen(), Err(StoreError::Closed)), "a closed store must not come back");
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let folder = used_folder();
    fs::write(folder.path().join("FORMAT"), format!("distributed-counter data format {}\n", FORMAT + 1)).unwrap();
    assert_refused_untouched(folder.path(), "has format 4, and this release knows formats up to 3");
}

#[test]
fn an_older_format_is_refused_untouched() {
    let folder = used_folder();
    fs::write(folder.path().join("FORMAT"), "distributed-counter data format 1\n").unwrap();
    assert_refused_untouched(folder.path(), "has format 1, and this release reads format 3 only");
}

#[test]
fn a_folder_that_is_not_ours_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.txt"), "precious").unwrap();
    assert_refused_untouched(folder.path(), "holds `thesis.txt` but no FORMAT file");
    let file = folder.path().join("thesis.txt");
    assert!(refusal(&file).to_string().contains("is a file, not a data folder"));
}

#[test]
fn the_empty_root_of_a_new_volume_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_folder_that_was_only_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("store.new/log")).unwrap();
    fs::write(folder.path().join("store.new/meta"), "half").unwrap();
    fs::write(folder.path().join("FORMAT.new"), "distri").unwrap();
    drop(open(folder.path()).unwrap());
    // The same, with all but the last rename done.
    fs::rename(folder.path().join("store"), folder.path().join("store.new")).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn missing_and_unreadable_parts_are_refused_untouched() {
    type Damage = fn(&Path);
    let damages: [(Damage, &str); 9] = [
        (|folder| fs::write(folder.join("FORMAT"), "1").unwrap(), "does not say which format"),
        (|folder| fs::remove_file(folder.join("FORMAT")).unwrap(), "holds `store` but no FORMAT file"),
        (|folder| fs::remove_dir_all(folder.join("store")).unwrap(), "its folder `store` is gone"),
        (|folder| fs::remove_file(folder.join("store/meta")).unwrap(), "it is gone"),
        (|folder| fs::remove_dir_all(folder.join("store/log")).unwrap(), "it is gone"),
        (|folder| fs::remove_file(&segments(folder)[0]).unwrap(), "it is gone"),
        (|folder| fs::remove_file(folder.join("store/checkpoint/current")).unwrap(), "it is gone"),
        (|folder| fs::write(folder.join("store/checkpoint/current"), "v").unwrap(), "does not name the current manifest"),
        (|folder| remove_all(&folder.join("store/checkpoint/tables")), "it is gone"),
    ];
    for (damage, why) in damages {
        let folder = used_folder();
        damage(folder.path());
        assert_refused_untouched(folder.path(), why);
    }
}

fn remove_all(folder: &Path) {
    fs::read_dir(folder).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
}

#[test]
fn a_flipped_byte_in_any_file_is_refused_untouched() {
    let folder = used_folder();
    for (path, bytes) in snapshot(&folder.path().join("store")) {
        let data_end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // Of `meta` there are two copies, and one is enough.
        if data_end == 0 || path.ends_with("meta") {
            continue;
        }
        let in_log = path.extension().is_some_and(|extension| extension == "log");
        let step = if in_log { 23 } else { bytes.len().div_ceil(6) };
        for at in (0..data_end).step_by(step).chain([data_end - 1]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, damaged).unwrap();
            println!("byte {at} of {}", path.display());
            assert_refused_untouched(folder.path(), "corrupt");
        }
        fs::write(&path, bytes).unwrap();
    }
    assert_eq!(open(folder.path()).unwrap().1.len(), 200);
}

#[test]
fn damage_in_the_log_is_told_with_file_and_byte() {
    let folder = used_folder();
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_refused_untouched(folder.path(), &format!("{name} is corrupt: the log is damaged at byte 64"));
}

#[test]
fn a_log_that_was_cut_short_is_refused_untouched() {
    let folder = used_folder();
    let path = segments(folder.path()).pop().unwrap();
    for length in [1000, 700, 64, 40, 3] {
        fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert_refused_untouched(folder.path(), "the log is damaged at byte 0");
    }
}

#[test]
fn a_hole_in_what_was_on_the_disk_is_refused_untouched() {
    let folder = used_folder();
    let (store, _) = open(folder.path()).unwrap();
    store.sync().unwrap();
    // Says how far the log was on the disk.
    store.commit(&[record("later", "1")], Durability::InKernel).unwrap();
    store.close().unwrap();
    let path = segments(folder.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1024..1536].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_refused_untouched(folder.path(), ", which was on the disk before");
}

#[test]
fn a_table_that_was_cut_short_is_refused_untouched() {
    let folder = used_folder();
    let tables = fs::read_dir(folder.path().join("store/checkpoint/tables")).unwrap();
    for table in tables {
        let path = table.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    assert_refused_untouched(folder.path(), "its checksum is wrong");
}

#[test]
fn a_record_that_its_reader_does_not_know_is_refused_untouched() {
    let folder = used_folder();
    let before = snapshot(folder.path());
    let refused = VolumeStore::open(folder.path(), &|_| Err("no counter".to_owned()));
    let error = refused.err().unwrap();
    assert!(error.is_data_error() && error.to_string().contains("cannot be read: no counter"), "{error}");
    assert!(snapshot(folder.path()) == before);
}

#[test]
fn wherever_the_log_is_torn_a_prefix_is_left_and_more_can_be_committed() {
    let folder = used_folder();
    let path = segments(folder.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut held = 200;
    while end > 64 + 37 {
        end -= 37;
        // As a write that the process did not survive leaves it: zeros from anywhere on.
        let mut torn = whole.clone();
        torn[end..].fill(0);
        fs::write(&path, torn).unwrap();
        let (store, contents) = open(folder.path()).unwrap();
        let numbers: Vec<_> = (0..contents.len()).map(|number| key(&number.to_string())).collect();
        assert!(numbers.iter().all(|key| contents.contains_key(&(key.slot(), key.as_bytes().to_vec()))), "not a prefix");
        assert!(contents.len() <= held, "{} of {held} are left", contents.len());
        held = contents.len();
        store.commit(&[record("later", &held.to_string())], Durability::InKernel).unwrap();
        drop(store);
        assert_eq!(open(folder.path()).unwrap().1.len(), held + 1);
    }
    assert_eq!(held, 100, "all of the log was torn off");
}

#[test]
fn reopening_in_place_keeps_records_meta_and_the_lock() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    for round in 0..5 {
        store.commit(&[record(&format!("page-{round}"), "1")], Durability::InKernel).unwrap();
        store.put_meta(&[(meta::STARTS, Some(&[round]))]).unwrap();
        store.reopen().unwrap();
        assert_eq!(store.meta(meta::STARTS), Some(vec![round]));
        assert!(matches!(refusal(folder.path()), StoreError::InUse { .. }));
    }
    store.sync().unwrap();
    store.check().unwrap();
    drop(store);
    assert_eq!(open(folder.path()).unwrap().1.len(), 5);
}

#[test]
fn a_log_of_many_segments_never_grows_beyond_its_bound_and_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = || LogConfig { first_bytes: 4 << 10, bytes_max: 16 << 10, ..LogConfig::default() };
    let (mut store, _) = open_with(folder.path(), config()).unwrap();
    let (mut expected, mut folds) = (BTreeMap::new(), 0);
    for round in 0..3000_u32 {
        let name = format!("page-{}", round % 97);
        // Now and then one that no segment of the ordinary size has room for.
        let bytes = if round % 701 == 700 { "x".repeat(40_000) } else { round.to_string() };
        store.commit(&[record(&name, &bytes)], Durability::InKernel).unwrap();
        expected.insert((key(&name).slot(), name.into_bytes()), bytes.into_bytes());
        assert!(fs::read_dir(folder.path().join("store/log")).unwrap().count() <= log::SEGMENTS_MAX + 1);
        if round % 500 == 499 {
            folds += store.counts().folds;
            drop(store);
            let contents;
            (store, contents) = open_with(folder.path(), config()).unwrap();
            assert!(contents == expected, "after {round}");
        }
    }
    assert!(folds > 0);
    store.log.settle().unwrap();
    assert_eq!(store.counts().full_segments, 0);
    store.close().unwrap();
    assert!(open_with(folder.path(), config()).unwrap().1 == expected);
}
