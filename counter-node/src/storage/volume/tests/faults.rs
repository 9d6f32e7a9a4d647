//! A disk that refuses, at each step, and then takes everything again.

use std::io::ErrorKind;

use super::*;
use crate::storage::log::faults::{Faults, Step};

/// Small segments, so that all steps come soon.
fn failing(faults: &Faults) -> LogConfig {
    LogConfig { first_bytes: 4 << 10, bytes_max: 8 << 10, faults: faults.clone() }
}

/// Commits until the store refuses. Returns what was acknowledged, as the number of the last commit.
fn commit_until_refused(store: &VolumeStore, from: u32, durability: Durability) -> (u32, StoreError) {
    for number in from..from + 100_000 {
        let records = [record(&format!("page-{}", number % 10), &number.to_string()), record("last", &number.to_string())];
        if let Err(error) = store.commit(&records, durability) {
            return (number - 1, error);
        }
    }
    panic!("it was never refused");
}

fn last(contents: &Contents) -> u32 {
    let bytes = &contents[&(key("last").slot(), b"last".to_vec())];
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

#[test]
fn whatever_step_fails_nothing_acknowledged_is_lost_and_the_store_is_mended_in_place() {
    for durability in [Durability::InKernel, Durability::OnDisk] {
        for step in [Step::Write, Step::Force, Step::Make, Step::Fold] {
            if (step, durability) == (Step::Force, Durability::InKernel) {
                continue;
            }
            for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
                println!("{step:?}, {durability:?}, {kind:?}");
                let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
                let (store, _) = open_with(folder.path(), failing(&faults)).unwrap();
                store.commit(&[record("last", "0")], durability).unwrap();
                faults.fail(step, kind);
                let (acknowledged, error) = commit_until_refused(&store, 1, durability);
                assert!(matches!(&error, StoreError::Io { source, .. } if source.kind() == kind), "{error:?}");
                // Broken until it is reopened, which does not work before the disk does.
                assert!(matches!(store.check(), Err(StoreError::Broken)));
                assert!(matches!(store.commit(&[record("last", "x")], durability), Err(StoreError::Broken)));
                assert!(matches!(store.put_meta(&[(meta::STARTS, Some(b"x"))]), Err(StoreError::Broken)));
                while matches!(step, Step::Make | Step::Fold) && store.reopen().is_ok() {
                    // There was a spare segment left.
                    drop(commit_until_refused(&store, acknowledged + 1, durability));
                }
                faults.heal();
                store.reopen().unwrap();
                store.check().unwrap();
                store.put_meta(&[(meta::STARTS, Some(b"7"))]).unwrap();
                store.commit(&[record("after", "1")], durability).unwrap();
                drop(store);
                let (store, contents) = open_with(folder.path(), failing(&faults)).unwrap();
                assert!(last(&contents) >= acknowledged && contents.len() >= 2);
                assert_eq!(store.meta(meta::STARTS), Some(b"7".to_vec()));
            }
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_forced_before_all_of_the_log_was_written_anew() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let (store, _) = open_with(folder.path(), failing(&faults)).unwrap();
    for number in 0..10 {
        store.commit(&[record(&format!("page-{number}"), "1")], Durability::InKernel).unwrap();
    }
    faults.fail(Step::Force, ErrorKind::Other);
    assert!(matches!(store.sync(), Err(StoreError::Io { .. })));
    faults.heal();
    assert!(matches!(store.sync(), Err(StoreError::Broken)), "the kernel would say that all is well");
    let before = segments(folder.path());
    store.reopen().unwrap();
    store.sync().unwrap();
    store.log.settle().unwrap();
    assert!(before.iter().all(|path| !path.exists()), "a file that the disk failed to take was used again");
    drop(store);
    assert_eq!(open(folder.path()).unwrap().1.len(), 10);
}

#[test]
fn a_segment_that_cannot_be_used_again_leaves_no_gap_in_the_numbers() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let config = || LogConfig { first_bytes: 4 << 10, bytes_max: 4 << 10, faults: faults.clone() };
    let (store, _) = open_with(folder.path(), config()).unwrap();
    // Until there are as many as there may be, so that only one that is folded gives room for another.
    faults.fail(Step::Fold, ErrorKind::StorageFull);
    let (acknowledged, _) = commit_until_refused(&store, 1, Durability::InKernel);
    faults.heal();
    faults.fail(Step::Make, ErrorKind::Other);
    assert!(matches!(store.reopen(), Err(StoreError::Io { action: "recycle", .. })));
    faults.heal();
    store.reopen().unwrap();
    store.commit(&[record("after", "1")], Durability::OnDisk).unwrap();
    drop(store);
    let (_, contents) = open_with(folder.path(), config()).unwrap();
    assert!(last(&contents) >= acknowledged && contents.contains_key(&(key("after").slot(), b"after".to_vec())));
}

#[test]
fn a_segment_without_frames_is_forced_at_start_since_its_zeros_may_be_the_kernels_alone() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    faults.fail(Step::Force, ErrorKind::Other);
    let refused = open_with(folder.path(), failing(&faults)).err();
    assert!(matches!(refused, Some(StoreError::Io { action: "force to the disk", .. })), "{refused:?}");
    faults.heal();
    open_with(folder.path(), failing(&faults)).unwrap();
}

#[test]
fn a_node_starts_and_takes_a_new_incarnation_when_no_file_can_grow() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let (store, _) = open_with(folder.path(), failing(&faults)).unwrap();
    faults.fail(Step::Make, ErrorKind::StorageFull);
    faults.fail(Step::Fold, ErrorKind::StorageFull);
    let (mut acknowledged, _) = commit_until_refused(&store, 1, Durability::OnDisk);
    drop(store);
    let mut actors = Vec::new();
    for _ in 0..20 {
        let (store, contents) = open_with(folder.path(), failing(&faults)).unwrap();
        assert!(last(&contents) >= acknowledged);
        let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(store);
        actors.push(crate::storage::Identity::open(store.clone()).unwrap().1);
        // What room is left in the segments may be used.
        while store.commit(&[record("last", &(acknowledged + 1).to_string())], Durability::OnDisk).is_ok() {
            acknowledged += 1;
        }
    }
    assert!(actors.is_sorted_by(|one, next| one < next), "{actors:?}");
    faults.heal();
    let (store, contents) = open_with(folder.path(), failing(&faults)).unwrap();
    assert!(last(&contents) >= acknowledged);
    store.commit(&[record("last", "9999999")], Durability::OnDisk).unwrap();
}

#[test]
fn commits_wait_for_the_keeper_no_longer_than_it_takes() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let (store, _) = open_with(folder.path(), failing(&faults)).unwrap();
    faults.fail(Step::Fold, ErrorKind::StorageFull);
    let (acknowledged, error) = commit_until_refused(&store, 1, Durability::InKernel);
    assert!(error.to_string().starts_with("cannot fold"), "{error}");
    let counts = store.counts();
    assert!(counts.full_segments >= 3 && counts.fold_failures >= 1 && counts.waited_us > 0, "{counts:?}");
    let next = [record("last", "x")];
    assert!(store.may_wait(&next), "there is neither room nor a spare segment");
    faults.heal();
    store.reopen().unwrap();
    store.log.settle().unwrap();
    assert_eq!((store.counts().full_segments, store.may_wait(&next)), (0, false));
    drop(store);
    assert!(last(&open(folder.path()).unwrap().1) >= acknowledged);
}

#[test]
fn a_commit_that_has_room_waits_for_no_spare_segment() {
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let (store, _) = open_with(folder.path(), failing(&faults)).unwrap();
    // No more segments than there are, and none is made free.
    faults.fail(Step::Make, ErrorKind::StorageFull);
    faults.fail(Step::Fold, ErrorKind::StorageFull);
    let (small, large) = ([record("small", "1")], [record("large", &"x".repeat(20 << 10))]);
    while !store.may_wait(&large) {
        store.commit(&small, Durability::InKernel).unwrap();
    }
    assert!(!store.may_wait(&small), "the last segment has just been begun");
}
