//! A power failure, file by file: every sector of the log that was written and not forced since may have reached the disk
//! or not, in any of the states that it has had, whatever became of the others.
//!
//! The seed of a run is printed, and `COUNTER_TEST_SEED` runs one again.

use std::io::ErrorKind;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::storage::Identity;
use crate::storage::log::faults::{Faults, Step};

const SECTOR_BYTES: usize = 512;
const RUNS: u64 = 40;

/// What the log's files have held, from when all of it was last on the disk.
struct Disk {
    log: PathBuf,
    states: Vec<BTreeMap<PathBuf, Vec<u8>>>,
}

impl Disk {
    fn new(folder: &Path) -> Self {
        let log = folder.join("store/log");
        Self { states: vec![files(&log)], log }
    }

    fn written(&mut self) {
        self.states.push(files(&self.log));
    }

    fn forced(&mut self) {
        self.states = vec![files(&self.log)];
    }

    /// Leaves the files as the failure might.
    fn lose_power(&self, random: &mut StdRng) {
        let newest = self.states.last().unwrap();
        for (path, bytes) in newest {
            // A file that is new was zeros on the disk before it got its name.
            let zeros = vec![0; bytes.len()];
            let states: Vec<&Vec<u8>> = self.states.iter().map(|state| state.get(path).unwrap_or(&zeros)).collect();
            let mut left = bytes.clone();
            let all_or_nothing = random.random_bool(0.2).then(|| random.random_range(0..states.len()));
            for (number, sector) in left.chunks_mut(SECTOR_BYTES).enumerate() {
                let state = all_or_nothing.unwrap_or_else(|| random.random_range(0..states.len()));
                let start = number * SECTOR_BYTES;
                sector.copy_from_slice(&states[state][start..start + sector.len()]);
            }
            fs::write(path, left).unwrap();
        }
    }
}

/// The log's segments. The keeper may be making one, which does not count before it has its name.
fn files(log: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().unwrap() == "log").map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// What is held after the first so many commits.
#[derive(Default)]
struct Model {
    commits: Vec<Vec<Record>>,
    /// So many of them are on the disk for certain.
    forced: usize,
}

impl Model {
    fn commit(&mut self, random: &mut StdRng) -> &[Record] {
        let number = self.commits.len() + 1;
        let mut records = vec![record("commits", &number.to_string())];
        for _ in 0..random.random_range(0..6) {
            let name = format!("page-{}", random.random_range(0..20));
            let bytes = random.random_bool(0.9).then(|| vec![b'x'; random.random_range(0..300)]);
            records.push(Record { of: Change::of(&key(&name)), bytes });
        }
        self.commits.push(records);
        self.commits.last().unwrap()
    }

    fn after(&self, commits: usize) -> Contents {
        let mut contents = Contents::new();
        for record in self.commits[..commits].iter().flatten() {
            let Change::Counter { slot, key } = &record.of else { unreachable!() };
            let place = (*slot, key.as_bytes().to_vec());
            match &record.bytes {
                Some(bytes) => drop(contents.insert(place, bytes.clone())),
                None => drop(contents.remove(&place)),
            }
        }
        contents
    }
}

/// Several lives of one folder, each ended by a power failure.
fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (folder, faults) = (tempfile::tempdir().unwrap(), Faults::default());
    let config = || LogConfig { first_bytes: 4 << 10, bytes_max: 4 << 10, faults: faults.clone() };
    let always = random.random_bool(0.3);
    let (mut model, mut actors) = (Model::default(), Vec::new());
    let mut folds = true;
    for _ in 0..4 {
        let (store, contents) = open_with(folder.path(), config()).unwrap();
        let held = contents.get(&(key("commits").slot(), b"commits".to_vec()));
        let held: usize = held.map_or(0, |bytes| std::str::from_utf8(bytes).unwrap().parse().unwrap());
        assert!(held >= model.forced, "{held} commits are left, and {} were on the disk", model.forced);
        assert!(!always || held == model.commits.len(), "a commit is lost that was on the disk");
        assert!(contents == model.after(held), "what is left is not what {held} commits made");
        model.commits.truncate(held);
        if folds {
            store.log.settle().unwrap();
        }
        // From here on nothing is folded: what the checkpoint holds is on the disk, and its files are not ours to lose.
        faults.fail(Step::Fold, ErrorKind::StorageFull);
        let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(store);
        actors.push(Identity::open(store.clone()).unwrap().1);
        let mut disk = Disk::new(folder.path());
        for _ in 0..random.random_range(1..25) {
            let durability = if always { Durability::OnDisk } else { Durability::InKernel };
            if store.commit(model.commit(&mut random), durability).is_err() {
                // The log is full. It was not acknowledged, and may be there or not.
                model.commits.pop();
                break;
            }
            disk.written();
            if always || random.random_bool(0.1) {
                store.sync().unwrap();
                disk.forced();
                model.forced = model.commits.len();
            }
        }
        drop(store);
        disk.lose_power(&mut random);
        folds = random.random_bool(0.5);
        if folds {
            faults.heal();
        }
    }
    assert!(actors.is_sorted_by(|one, next| one < next), "{actors:?}");
}

#[test]
fn a_segment_that_was_too_small_for_a_frame_is_forced_with_the_one_that_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { first_bytes: 64 << 10, bytes_max: 1 << 20, faults: Faults::default() };
    let (store, _) = open_with(folder.path(), config).unwrap();
    let log = folder.path().join("store/log");
    store.commit(&[record("small", "1")], Durability::OnDisk).unwrap();
    // Twice as large as the first one, and made beside the work.
    for _ in 0..2_000 {
        if files(&log).len() == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!((files(&log).len(), store.log.unforced().is_empty()), (2, true));
    store.commit(&[record("large", &"x".repeat(200 << 10))], Durability::InKernel).unwrap();
    assert_eq!(store.log.unforced(), [2, 3], "without the head of the second nothing in the third counts");
    store.sync().unwrap();
    assert!(store.log.unforced().is_empty());
}

#[test]
fn a_power_failure_takes_a_tail_at_most_and_nothing_that_was_forced() {
    let told = std::env::var("COUNTER_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let first: u64 = told.unwrap_or_else(rand::random);
    for seed in (0..if told.is_some() { 1 } else { RUNS }).map(|number| first.wrapping_add(number)) {
        println!("COUNTER_TEST_SEED={seed}");
        run(seed);
    }
}
