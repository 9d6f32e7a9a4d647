//! Inline requests, as typed into telnet: words, some of them quoted. They are unquoted where they stand, since what a
//! quoted word means is never longer than what is written.

use std::ops::Range;

/// A quote is not closed, or something follows it without a space.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits a line without its end. `offset` is where the line stands in the buffer, which the ranges refer to.
///
/// # Errors
/// [`Unbalanced`]. Some ranges may have been added then.
pub(super) fn split(line: &mut [u8], offset: usize, args: &mut Vec<Range<usize>>) -> Result<(), Unbalanced> {
    let (mut from, mut to) = (0, 0);
    loop {
        while line.get(from).is_some_and(u8::is_ascii_whitespace) {
            from += 1;
        }
        if from == line.len() {
            return Ok(());
        }
        // What has been read already may be written over.
        let start = to;
        (from, to) = word(line, from, to)?;
        args.push(offset + start..offset + to);
    }
}

/// Reads one word at `from` and writes what it means at `to`. Returns where both have come to.
fn word(line: &mut [u8], mut from: usize, mut to: usize) -> Result<(usize, usize), Unbalanced> {
    while let Some(&byte) = line.get(from) {
        match byte {
            byte if byte.is_ascii_whitespace() => break,
            b'"' | b'\'' => {
                (from, to) = quoted(line, byte, from + 1, to)?;
                // Nothing may follow the closing quote but a space.
                return match line.get(from) {
                    Some(next) if !next.is_ascii_whitespace() => Err(Unbalanced),
                    _ => Ok((from, to)),
                };
            }
            byte => {
                line[to] = byte;
                (from, to) = (from + 1, to + 1);
            }
        }
    }
    Ok((from, to))
}

fn quoted(line: &mut [u8], quote: u8, mut from: usize, mut to: usize) -> Result<(usize, usize), Unbalanced> {
    loop {
        let (byte, length) = match line.get(from..).unwrap_or_default() {
            [] => return Err(Unbalanced),
            [byte, ..] if *byte == quote => return Ok((from + 1, to)),
            [b'\\', b'x', high, low, ..] if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), 4)
            }
            [b'\\', escaped, ..] if quote == b'"' => (unescaped(*escaped), 2),
            [b'\\', b'\'', ..] if quote == b'\'' => (b'\'', 2),
            [byte, ..] => (*byte, 1),
        };
        line[to] = byte;
        (from, to) = (from + length, to + 1);
    }
}

fn unescaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Vec<String>, Unbalanced> {
        let mut bytes = line.as_bytes().to_vec();
        let mut args = Vec::new();
        split(&mut bytes, 0, &mut args)?;
        Ok(args.into_iter().map(|range| bytes[range].escape_ascii().to_string()).collect())
    }

    #[test]
    fn words_are_split_and_unquoted() {
        assert_eq!(words("").unwrap(), Vec::<String>::new());
        assert_eq!(words("  incr \t a ").unwrap(), ["incr", "a"]);
        assert_eq!(words(r#"set "a b" 'c"d' "" pre"fix""#).unwrap(), ["set", "a b", r#"c\"d"#, "", "prefix"]);
        assert_eq!(words(r#""\x41\n\q\"" '\'' '\n'"#).unwrap(), [r#"A\nq\""#, r"\'", r"\\n"]);
    }

    #[test]
    fn open_quotes_are_refused() {
        for line in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\", "a \""] {
            assert_eq!(words(line), Err(Unbalanced), "{line}");
        }
    }
}
