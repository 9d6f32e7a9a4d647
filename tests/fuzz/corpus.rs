//! What fuzzing has ever found, and what it begins with, again; and a little of the search itself, which needs no nightly.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::Path;

use counter_fuzz::TARGETS;

/// Mutations of each seed.
const MUTATIONS: u64 = 40;

#[test]
fn every_case_that_was_found_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let Ok(folder) = std::fs::read_dir(corpus.join(target.name)) else { continue };
        for case in folder {
            let path = case.unwrap().path();
            if path.ends_with(".gitkeep") {
                continue;
            }
            println!("{}", path.display());
            (target.run)(&std::fs::read(&path).unwrap());
        }
    }
    // A folder of another name would never be looked at.
    for folder in std::fs::read_dir(corpus).unwrap() {
        let name = folder.unwrap().file_name();
        assert!(name == "README.md" || TARGETS.iter().any(|target| name == target.name), "{name:?} is no target");
    }
}

#[test]
fn seeds_and_small_changes_of_them_hold() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for seed in seeds {
            (target.run)(&seed);
            for number in 0..MUTATIONS {
                (target.run)(&mutated(&seed, number));
            }
        }
    }
}

/// The seed with some bytes changed, cut off or repeated; the same for the same number.
fn mutated(seed: &[u8], number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap()).unwrap()
    };
    let mut bytes = seed.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(4) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_slice(&seed[at.min(seed.len())..]),
            2 => bytes.insert(at.min(bytes.len()), u8::try_from(next(256)).unwrap()),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << next(8);
                }
            }
        }
    }
    bytes
}
