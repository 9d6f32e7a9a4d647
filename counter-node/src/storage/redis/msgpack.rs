//! As much of MessagePack as Redis's `cmsgpack` and we exchange: maps from strings to strings, which here are numbers.

/// Strings of one byte more, and longer ones, need another head.
const SHORT_STRING_MAX: u8 = 31;
const SHORT_MAP_MAX: u16 = 15;

/// A map of names to numbers.
pub(super) fn encode(parts: &[(Vec<u8>, u128)]) -> Vec<u8> {
    let mut into = Vec::with_capacity(3 + 24 * parts.len());
    match u16::try_from(parts.len()) {
        Ok(length @ 0..=SHORT_MAP_MAX) => into.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            into.push(0xde);
            into.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            into.push(0xdf);
            into.extend_from_slice(&u32::try_from(parts.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    for (name, number) in parts {
        push_string(&mut into, name);
        push_string(&mut into, number.to_string().as_bytes());
    }
    into
}

/// Names have at most 17 bytes, numbers 39.
fn push_string(into: &mut Vec<u8>, string: &[u8]) {
    match u8::try_from(string.len()) {
        Ok(length @ 0..=SHORT_STRING_MAX) => into.push(0xa0 | length),
        Ok(length) => into.extend_from_slice(&[0xd9, length]),
        Err(_) => {
            into.push(0xdb);
            into.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    into.extend_from_slice(string);
}

/// The names and numbers of a map, in its order; `None` when the bytes are no such map.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<(Vec<u8>, u128)>> {
    let (head, mut rest) = bytes.split_first()?;
    let length = match head {
        0x80..=0x8f => usize::from(head & 0x0f),
        0xde => length_of::<2>(&mut rest)?,
        0xdf => length_of::<4>(&mut rest)?,
        // How an empty table of Lua is encoded.
        0x90 => 0,
        _ => return None,
    };
    // Not reserved by what the bytes claim.
    let mut parts = Vec::new();
    for _ in 0..length {
        let name = take_string(&mut rest)?.to_vec();
        let number = std::str::from_utf8(take_string(&mut rest)?).ok()?.parse().ok()?;
        parts.push((name, number));
    }
    rest.is_empty().then_some(parts)
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, after) = rest.split_first()?;
    *rest = after;
    let length = match head {
        0xa0..=0xbf => usize::from(head & 0x1f),
        0xd9 => length_of::<1>(rest)?,
        0xda => length_of::<2>(rest)?,
        0xdb => length_of::<4>(rest)?,
        _ => return None,
    };
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

fn length_of<const N: usize>(rest: &mut &[u8]) -> Option<usize> {
    let (length, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_every_size_are_read_back() {
        for size in [0_u32, 1, 15, 16, 70_000] {
            let parts: Vec<_> = (0..size).map(|number| (number.to_be_bytes().to_vec(), u128::MAX - u128::from(number))).collect();
            assert_eq!(decode(&encode(&parts)).unwrap(), parts);
        }
        let long = vec![(vec![b'n'; 300], 7)];
        assert_eq!(decode(&encode(&long)), Some(long));
    }

    #[test]
    fn bytes_that_are_no_map_are_refused_wherever_they_end() {
        let whole = encode(&[(b"u".to_vec(), 12), (vec![b'+'; 17], u128::MAX)]);
        for end in 0..whole.len() {
            assert_eq!(decode(&whole[..end]), None);
        }
        for wrong in [
            &[0x81, 0xa1, b'u', 0xa1, b'x'][..],
            &[0x81, 0xa1, b'u', 0xa2, b'-', b'1'],
            &[0x80, 0],
            &[0xdf, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }
}
