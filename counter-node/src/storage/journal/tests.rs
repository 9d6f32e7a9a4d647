use std::fs;

use super::*;

fn item(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![TAG_ITEM, 0, 0];
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(u16::try_from(key.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(value.len()).unwrap().to_le_bytes());
    bytes.extend(key);
    bytes.extend(value);
    bytes
}

fn batch(sequence: u64, items: &[Vec<u8>]) -> Vec<u8> {
    let mut hash = Xxh3::new();
    let mut bytes = vec![TAG_START];
    bytes.extend(u32::try_from(items.len()).unwrap().to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    for item in items {
        hash.update(item);
        bytes.extend(item);
    }
    bytes.push(TAG_END);
    bytes.extend(hash.digest().to_le_bytes());
    bytes.extend(MAGIC);
    bytes
}

/// Three batches of one, two and one items, and where each starts.
fn three() -> (Vec<u8>, [usize; 3]) {
    let first = batch(1, &[item(b"a", b"one")]);
    let second = batch(2, &[item(b"b", &[7; 3000]), item(b"c", b"three")]);
    let third = batch(3, &[item(b"a", b"four")]);
    let starts = [0, first.len(), first.len() + second.len()];
    ([first, second, third].concat(), starts)
}

fn verdict(bytes: &[u8]) -> Result<Option<u64>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.jnl");
    fs::write(&path, bytes).unwrap();
    let verdict = verify(folder.path()).map(|journals| journals[0].torn_at).map_err(|error| error.to_string());
    assert_eq!(fs::read(&path).unwrap(), bytes, "verifying must change nothing");
    verdict
}

#[test]
fn an_intact_journal_is_read_to_its_end() {
    assert_eq!(verdict(&three().0), Ok(None));
    assert_eq!(verdict(&[]), Ok(None));
}

#[test]
fn preallocated_zeros_are_no_damage() {
    let (mut bytes, _) = three();
    let end = bytes.len() as u64;
    bytes.resize(1 << 20, 0);
    assert_eq!(verdict(&bytes), Ok(Some(end)));
}

#[test]
fn wherever_the_last_batch_is_torn_the_ones_before_it_stay() {
    let (bytes, starts) = three();
    for length in starts[2] + 1..bytes.len() {
        assert_eq!(verdict(&bytes[..length]), Ok(Some(starts[2] as u64)), "cut at {length}");
    }
    for length in starts[1] + 1..starts[2] {
        assert_eq!(verdict(&bytes[..length]), Ok(Some(starts[1] as u64)), "cut at {length}");
    }
}

#[test]
fn any_flipped_bit_with_something_intact_behind_it_is_corruption() {
    let (bytes, starts) = three();
    for at in 0..starts[2] {
        // The sequence number of a batch is under no checksum.
        let in_sequence = starts.iter().any(|start| (start + 5..start + 13).contains(&at));
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert_eq!(verdict(&damaged).is_err(), !in_sequence, "flipped in byte {at}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_corruption_too() {
    let (bytes, starts) = three();
    let mut damaged = bytes;
    damaged[starts[2] + 40] ^= 0x10;
    assert!(verdict(&damaged).unwrap_err().contains("journal is damaged at byte"));
}

#[test]
fn a_hole_that_a_power_failure_left_is_torn_even_before_intact_batches() {
    let (mut bytes, starts) = three();
    bytes[1024..2048].fill(0);
    assert_eq!(verdict(&bytes), Ok(Some(starts[1] as u64)));
    bytes[starts[2] + 20..].fill(0);
    assert_eq!(verdict(&bytes), Ok(Some(starts[1] as u64)));
}

#[test]
fn a_key_that_looks_like_an_end_mark_does_not_make_a_torn_batch_corrupt() {
    let mut key = vec![TAG_END; 9];
    key.extend(MAGIC);
    key.extend(b"page");
    let (first, second) = (batch(1, &[item(b"a", b"one")]), batch(2, &[item(&key, b"two"), item(b"b", b"three")]));
    let start = first.len() as u64;
    let torn = [&first[..], &second[..second.len() - 15]].concat();
    assert_eq!(verdict(&torn), Ok(Some(start)));
}

#[test]
fn a_length_beyond_reason_is_damage_and_not_allocated() {
    let mut huge = item(b"a", b"one");
    huge[13..21].fill(0xff);
    let bytes = [batch(1, &[huge]), three().0].concat();
    assert!(verdict(&bytes).is_err());
}

#[test]
fn cutting_leaves_the_intact_part() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, starts) = three();
    fs::write(folder.path().join("4.jnl"), &bytes[..bytes.len() - 1]).unwrap();
    let journals = verify(folder.path()).unwrap();
    cut(&journals[0]).unwrap();
    assert_eq!(fs::read(&journals[0].path).unwrap(), &bytes[..starts[2]]);
    assert_eq!(verify(folder.path()).unwrap()[0].torn_at, None);
}

#[test]
fn a_store_without_a_journal_is_corrupt() {
    let folder = tempfile::tempdir().unwrap();
    assert!(verify(folder.path()).unwrap_err().to_string().contains("its journal is gone"));
}
