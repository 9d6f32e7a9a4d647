use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use counter_core::counter::Key;
use counter_core::slot::Slot;

use super::*;
use crate::storage::{Change, FORMAT, Loaded, meta};

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn record(name: &str, bytes: &str) -> Record {
    Record { of: Change::of(&key(name)), bytes: Some(bytes.as_bytes().to_vec()) }
}

type Contents = BTreeMap<(Slot, Vec<u8>), Vec<u8>>;

/// Opens a folder and returns what is in it; slots stand under an empty key.
fn open(path: &Path) -> Result<(VolumeStore, Contents), StoreError> {
    let mut contents = Contents::new();
    let store = VolumeStore::open(path, &mut |loaded| {
        let (slot, key, bytes) = match loaded {
            Loaded::Slot { slot, bytes } => (slot, &b""[..], bytes),
            Loaded::Counter { slot, key, bytes } => (slot, key, bytes),
        };
        contents.insert((slot, key.to_vec()), bytes.to_vec());
        Ok(())
    })?;
    Ok((store, contents))
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

/// A folder whose counters `0` to `99` were flushed to tables, and `100` to `199` are in the journal.
fn used_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let records: Vec<_> = (0..100).map(|number| record(&number.to_string(), "flushed")).collect();
    store.commit(&records, Durability::InKernel).unwrap();
    store.with_engine(|engine| engine.flush_to_tables()).unwrap();
    for number in 100..200 {
        store.commit(&[record(&number.to_string(), "in the journal")], Durability::InKernel).unwrap();
    }
    store.close().unwrap();
    // Until opening finds nothing more to clear away: manifests that are out of date, preallocated zeros.
    loop {
        let before = snapshot(folder.path());
        open(folder.path()).unwrap().0.close().unwrap();
        if snapshot(folder.path()) == before {
            break;
        }
    }
    folder
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
fn slots_are_visited_before_counters() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let last = Record { of: Change::Slot(Slot::new(16383).unwrap()), bytes: Some(vec![1]) };
    store.commit(&[record("a", "1"), last], Durability::InKernel).unwrap();
    drop(store);
    let mut kinds = Vec::new();
    VolumeStore::open(folder.path(), &mut |loaded| {
        kinds.push(matches!(loaded, Loaded::Slot { .. }));
        Ok(())
    })
    .unwrap();
    assert_eq!(kinds, [true, false]);
}

#[test]
fn records_in_tables_and_in_the_journal_are_both_found() {
    let folder = used_folder();
    assert!(snapshot(folder.path()).keys().any(|path| path.parent().unwrap().ends_with("1/tables")), "no table was made");
    let (_, contents) = open(folder.path()).unwrap();
    assert_eq!(contents.len(), 200);
    assert_eq!(contents.values().filter(|bytes| *bytes == b"flushed").count(), 100);
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
    assert_refused_untouched(folder.path(), "has format 2, and this release knows formats up to 1");
}

#[test]
fn a_newer_format_of_the_records_alone_is_refused_untouched() {
    let folder = used_folder();
    let (store, _) = open(folder.path()).unwrap();
    store.put_meta(&[(meta::FORMAT, Some(&9_u32.to_le_bytes()))]).unwrap();
    store.close().unwrap();
    assert_refused_untouched(folder.path(), "has format 9");
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
    fs::create_dir_all(folder.path().join("store.new/keyspaces/0")).unwrap();
    fs::write(folder.path().join("store.new/0.jnl"), "half").unwrap();
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
        (|folder| fs::write(folder.join("store/version"), "FJL\x09").unwrap(), "does not name the storage engine's format"),
        (|folder| fs::remove_dir_all(folder.join("store/keyspaces/1")).unwrap(), "instead of the keyspaces 0 to 3"),
        (|folder| fs::remove_file(folder.join("store/keyspaces/1/current")).unwrap(), "it is gone"),
        (|folder| fs::write(folder.join("store/keyspaces/1/current"), "v").unwrap(), "does not name the current manifest"),
        (|folder| remove_all(&folder.join("store/keyspaces/1/tables")), "it is gone"),
        (|folder| remove_journals(folder), "its journal is gone"),
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

fn remove_journals(folder: &Path) {
    journal::journals(&folder.join("store")).unwrap().iter().for_each(|path| fs::remove_file(path).unwrap());
}

#[test]
fn a_flipped_byte_in_any_file_is_refused_untouched() {
    let folder = used_folder();
    let store = folder.path().join("store");
    for (path, bytes) in snapshot(&store) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if bytes.is_empty() || name == "lock" {
            continue;
        }
        // Without the last end mark whole, a journal's last batch counts as unfinished.
        let end_mark = if name.ends_with(".jnl") { 13 } else { 0 };
        for at in [0, 20.min(bytes.len() - 1), bytes.len() / 3, bytes.len() - 1 - end_mark] {
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
fn a_table_that_was_cut_short_is_refused_untouched() {
    let folder = used_folder();
    let tables = fs::read_dir(folder.path().join("store/keyspaces/1/tables")).unwrap();
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
    let refused = VolumeStore::open(folder.path(), &mut |_| Err("no counter".to_owned()));
    let error = refused.err().unwrap();
    assert!(error.is_data_error() && error.to_string().contains("cannot be read: no counter"), "{error}");
    assert!(snapshot(folder.path()) == before);
}

#[test]
fn wherever_the_journal_is_torn_a_prefix_is_left_and_more_can_be_committed() {
    let folder = used_folder();
    let journal = journal::journals(&folder.path().join("store")).unwrap().pop().unwrap();
    let whole = fs::read(&journal).unwrap();
    let mut length = whole.len();
    let mut held = 200;
    while length > whole.len() / 2 {
        length -= 37;
        fs::File::options().write(true).open(&journal).unwrap().set_len(length as u64).unwrap();
        let (store, contents) = open(folder.path()).unwrap();
        assert!(contents.len() <= held && contents.len() > 100, "{} of {held} are left", contents.len());
        let numbers: Vec<_> = (0..contents.len()).map(|number| key(&number.to_string())).collect();
        assert!(numbers.iter().all(|key| contents.contains_key(&(key.slot(), key.as_bytes().to_vec()))), "not a prefix");
        held = contents.len();
        store.commit(&[record("later", &held.to_string())], Durability::InKernel).unwrap();
        store.close().unwrap();
        let (store, contents) = open(folder.path()).unwrap();
        assert_eq!(contents.len(), held + 1);
        store.commit(&[Record { of: Change::of(&key("later")), bytes: None }], Durability::InKernel).unwrap();
        drop(store);
        // Back to where it was torn: the two later commits are no part of the prefix.
        fs::write(&journal, &whole[..length]).unwrap();
    }
    assert!(held < 160, "the loop tore nothing off");
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
fn sync_follows_the_journal_as_the_engine_rotates_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path()).unwrap();
    let first = store.held_journal().as_ref().unwrap().path.clone();
    let padding = "x".repeat(1 << 16);
    // A new journal is begun when 64 MB are full and a table is written.
    for round in 0..1200_u32 {
        store.commit(&[record(&format!("page-{}", round % 50), &padding)], Durability::InKernel).unwrap();
    }
    store.with_engine(|engine| engine.flush_to_tables()).unwrap();
    store.commit(&[record("last", "1")], Durability::InKernel).unwrap();
    store.sync().unwrap();
    let last = store.held_journal().as_ref().unwrap().path.clone();
    assert_ne!(first, last);
    drop(store);
    assert_eq!(open(folder.path()).unwrap().1.len(), 51);
}
