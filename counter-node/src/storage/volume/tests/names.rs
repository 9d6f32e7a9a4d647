//! Names that this process or a killed one before it gave are on the disk before anything is built on them.

use super::*;
use crate::storage::checkpoint::Compacted;
use crate::storage::folder::forcings;

#[test]
fn the_way_to_a_new_data_folder_is_on_the_disk_whoever_made_it() {
    for made_before in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("cluster/node");
        if made_before {
            fs::create_dir_all(&path).unwrap();
        }
        open(&path).unwrap();
        let forced = (forcings::last(root.path()), forcings::last(&root.path().join("cluster")));
        assert_eq!(forced, (vec!["cluster".to_owned()], vec!["node".to_owned()]), "made before: {made_before}");
    }
}

#[test]
fn what_was_drafted_is_on_the_disk_before_format_and_that_before_the_store() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let forced = forcings::all(folder.path());
    let first = |name: &str| forced.iter().position(|names| names.iter().any(|found| found == name));
    assert!(first("store.new") < first("FORMAT") && first("FORMAT") < first("store"), "{forced:?}");
    // A process that was killed before it had forced `FORMAT`.
    fs::rename(folder.path().join("store"), folder.path().join("store.new")).unwrap();
    drop(open(folder.path()).unwrap());
    let forced = forcings::all(folder.path()).split_off(forced.len());
    assert_eq!(forced.first().unwrap(), &["FORMAT", "LOCK", "store.new"], "{forced:?}");
}

#[test]
fn a_checkpoint_whose_names_cannot_be_forced_is_refused_untouched() {
    let folder = used_folder();
    let checkpoint = folder.path().join("store/checkpoint");
    // What is not listed goes, once what lists it is on the disk.
    fs::write(checkpoint.join("v999"), "what the disk may still go by").unwrap();
    let before = snapshot(folder.path());
    forcings::fail(&checkpoint);
    assert!(matches!(refusal(folder.path()), StoreError::Io { .. }));
    assert!(snapshot(folder.path()) == before);
    forcings::heal();
    open(folder.path()).unwrap();
    assert!(!checkpoint.join("v999").exists());
}

#[test]
fn after_a_failure_nothing_is_folded_into_a_checkpoint_that_is_older_than_the_one_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    Checkpoint::create(&path).unwrap();
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    let entry = |key| [log::Entry { key, value: Some(b"value") }];
    // As if it had failed when all but the last forcing was done.
    Checkpoint::open(&path).unwrap().fold(1, &entry(b"\x02one")).unwrap();
    fs::rename(path.join("tables"), folder.path().join("aside")).unwrap();
    forcings::fail(&path);
    checkpoint.fold(2, &entry(b"\x02two")).unwrap_err();
    fs::rename(folder.path().join("aside"), path.join("tables")).unwrap();
    checkpoint.fold(2, &entry(b"\x02two")).unwrap_err();
    checkpoint.compact().unwrap_err();
    forcings::heal();
    checkpoint.fold(2, &entry(b"\x02two")).unwrap();
    while checkpoint.compact().unwrap() == Compacted::OneStep {}
    drop(checkpoint);
    manifest::verify(&path).unwrap();
    let mut keys = Vec::new();
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let note = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        Ok(())
    };
    checkpoint.visit(all, note).unwrap();
    assert_eq!((checkpoint.folded(), keys), (2, vec![b"\x02one".to_vec(), b"\x02two".to_vec()]));
}
