//! From a path segment or a query value to a page's key.

use std::borrow::Cow;

use counter_core::counter::Key;

use super::problem::Problem;

/// The key of a page as it stands, percent-encoded, in a path.
pub(super) fn key(segment: &str) -> Result<Key, Problem> {
    let page = decode(segment).map_err(|reason| Problem::bad_field("page", reason))?;
    named(&page)
}

/// The key of a page that stands in a document or a query, decoded already.
pub(crate) fn named(page: &str) -> Result<Key, Problem> {
    Key::new(page.as_bytes()).map_err(|error| Problem::bad_field("page", error))
}

/// A page as it stands in a document.
pub(super) fn text(page: &Key) -> String {
    String::from_utf8_lossy(page.as_bytes()).into_owned()
}

/// Percent-decodes. Pages are text, so that they can stand in JSON: what is no UTF-8 is refused, never replaced, since
/// two pages could become one.
pub(super) fn decode(encoded: &str) -> Result<Cow<'_, str>, &'static str> {
    if !encoded.contains('%') {
        return Ok(Cow::Borrowed(encoded));
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let (digits, tail) = tail.split_first_chunk::<2>().ok_or("has a % that is not followed by two hexadecimal digits")?;
        let [high, low] = digits.map(|digit| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
        let (Some(high), Some(low)) = (high, low) else {
            return Err("has a % that is not followed by two hexadecimal digits");
        };
        bytes.push(high << 4 | low);
        rest = tail;
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "is not UTF-8 after percent-decoding")
}

/// Percent-encodes a page as a path segment.
pub(super) fn encode(page: &[u8]) -> String {
    let mut segment = String::with_capacity(page.len());
    for &byte in page {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push('%');
            for digit in [byte >> 4, byte & 15] {
                segment.extend(char::from_digit(digit.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoded_slash_belongs_to_the_page() {
        assert_eq!(key("blog%2Fpost-1").unwrap().as_bytes(), b"blog/post-1");
        assert_eq!(key("a+b%20c").unwrap().as_bytes(), b"a+b c");
        assert_eq!(key("%F0%9F%A6%80").unwrap().as_bytes(), "🦀".as_bytes());
    }

    #[test]
    fn the_limit_counts_decoded_bytes() {
        assert_eq!(key(&"%41".repeat(512)).unwrap().as_bytes().len(), 512);
        assert!(key(&"%41".repeat(513)).is_err());
        assert!(key("").is_err());
    }

    #[test]
    fn what_is_not_text_is_refused() {
        for segment in ["%", "%4", "%zz", "a%4", "%C3", "%FF", "%+1"] {
            assert!(decode(segment).is_err(), "{segment}");
        }
    }

    #[test]
    fn an_encoded_page_is_read_back() {
        for page in ["front-page", "blog/post-1", "100%", "a b?c#d", "🦀", ".."] {
            assert_eq!(decode(&encode(page.as_bytes())).unwrap(), page);
        }
    }
}
