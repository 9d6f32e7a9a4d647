//! A store that is closed waits for no work that the next start can do.

use super::*;
use crate::storage::checkpoint::Compacted;

/// Runs of tables that overlap: more than the engine lets lie.
const RUNS: u32 = 6;
const RECORDS: u32 = 500;

/// A checkpoint in a folder of its own that has something to compact, and how many files it has.
fn uncompacted(folder: &Path) -> Checkpoint {
    Checkpoint::create(folder).unwrap();
    let mut checkpoint = Checkpoint::open(folder).unwrap();
    for run in 1..=RUNS {
        checkpoint.fold(run, &entries(&keys(), &run.to_string())).unwrap();
    }
    assert_eq!(checkpoint.runs(), RUNS as usize);
    checkpoint
}

fn keys() -> Vec<String> {
    (0..RECORDS).map(|number| format!("\u{2}page-{number:06}")).collect()
}

fn entries<'a>(keys: &'a [String], value: &'a str) -> Vec<log::Entry<'a>> {
    keys.iter().map(|key| log::Entry { key: key.as_bytes(), value: Some(value.as_bytes()) }).collect()
}

/// How often each value stands in it.
fn values(checkpoint: &Checkpoint) -> BTreeMap<Vec<u8>, u32> {
    let mut values = BTreeMap::new();
    let count = |_: &[u8], bytes: &[u8]| {
        *values.entry(bytes.to_vec()).or_default() += 1;
        Ok(())
    };
    checkpoint.visit((std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), count).unwrap();
    values
}

fn tables(folder: &Path) -> usize {
    fs::read_dir(folder.join("tables")).unwrap().count()
}

#[test]
fn compaction_is_given_up_at_a_stop_and_done_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut checkpoint = uncompacted(&path);
    let before = tables(&path);
    checkpoint.stop().now();
    assert!(matches!(checkpoint.compact(), Err(StoreError::Closed)));
    drop(checkpoint);
    manifest::verify(&path).unwrap();
    let mut checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!((checkpoint.runs(), tables(&path)), (RUNS as usize, before), "what was left of it is gone");
    let newest = BTreeMap::from([(RUNS.to_string().into_bytes(), RECORDS)]);
    assert_eq!(values(&checkpoint), newest);
    while checkpoint.compact().unwrap() == Compacted::OneStep {}
    assert!(checkpoint.runs() < RUNS as usize);
    assert_eq!(values(&checkpoint), newest);
}

#[test]
fn folding_is_given_up_at_a_stop_and_nothing_of_it_counts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let mut checkpoint = uncompacted(&path);
    let before = tables(&path);
    checkpoint.stop().now();
    let later = checkpoint.fold(RUNS + 1, &entries(&keys(), "later"));
    assert!(matches!(later, Err(StoreError::Closed)));
    drop(checkpoint);
    manifest::verify(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!((checkpoint.folded(), tables(&path)), (RUNS, before));
    assert_eq!(values(&checkpoint), BTreeMap::from([(RUNS.to_string().into_bytes(), RECORDS)]));
}

#[test]
fn whenever_a_store_is_closed_all_that_was_committed_is_there_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = || LogConfig { first_bytes: 4 << 10, bytes_max: 16 << 10, ..LogConfig::default() };
    let mut expected = Contents::new();
    for round in 0..40_u32 {
        let (store, contents) = open_with(folder.path(), config()).unwrap();
        assert!(contents == expected, "after {round} rounds");
        // Each time the keeper is somewhere else in its work.
        for number in 0..round * 20 {
            let (name, value) = (format!("page-{}", number % 50), format!("{round}-{number}"));
            store.commit(&[record(&name, &value)], Durability::InKernel).unwrap();
            expected.insert((key(&name).slot(), name.into_bytes()), value.into_bytes());
        }
        store.close().unwrap();
    }
}
