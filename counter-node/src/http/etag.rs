//! Entity tags (RFC 9110 §8.8.3): a client that has a number already is told so in a few bytes.

use hyper::HeaderMap;
use hyper::header::{HeaderValue, IF_NONE_MATCH};

use super::negotiate::Form;
use crate::router::Reading;

/// `W/"h--9223372036854775808-ffffffffffffffff"` is the longest.
const BYTES_MAX: usize = 43;

/// The tag of a counter in a form. JSON and text are made of the number and the moment alone, so that their tags are
/// strong, and the same at every replica that knows the same; HTML is of a release, too, and its tag weak.
pub(super) fn of(reading: &Reading, form: Form) -> HeaderValue {
    let mut room = [0; BYTES_MAX];
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        room[length..length + bytes.len()].copy_from_slice(bytes);
        length += bytes.len();
    };
    put(match form {
        Form::Json => b"\"j-",
        Form::Text => b"\"t-",
        Form::Html => b"W/\"h-",
    });
    put(itoa::Buffer::new().format(reading.count).as_bytes());
    put(b"-");
    put(&hex(reading.updated_at.map_or(0, |moment| moment.0)));
    put(b"\"");
    // Nothing of it is outside of what a header may hold.
    HeaderValue::from_bytes(&room[..length]).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

fn hex(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    for (place, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[((number >> (60 - 4 * place)) & 0xf) as usize];
    }
    text
}

/// Whether the client has what this tag stands for. Weak comparison, as the header asks for.
pub(super) fn matches(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let mut asked = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).peekable();
    if asked.peek().is_none() {
        return false;
    }
    let Ok(tag) = tag.to_str().map(opaque) else { return false };
    // Our own tags have no commas in them.
    asked.flat_map(|value| value.split(',')).map(str::trim).any(|asked| asked == "*" || opaque(asked) == tag)
}

#[cfg(test)]
mod tests {
    use counter_core::hlc::Hlc;

    use super::*;

    fn reading(count: i64, updated_at: Option<Hlc>) -> Reading {
        Reading { count, clamped: false, tally: count.into(), updated_at, exists: true, replayed: false, viewers: 0 }
    }

    #[test]
    fn a_tag_tells_numbers_moments_and_forms_apart() {
        let longest = of(&reading(i64::MIN, Some(Hlc(u64::MAX))), Form::Html);
        assert_eq!(longest, "W/\"h--9223372036854775808-ffffffffffffffff\"");
        assert_eq!(longest.len(), BYTES_MAX);
        assert_eq!(of(&reading(7, Some(Hlc(0x1_a0))), Form::Json), "\"j-7-00000000000001a0\"");
        assert_eq!(of(&reading(0, None), Form::Text), "\"t-0-0000000000000000\"");
    }

    #[test]
    fn a_client_has_it_when_one_of_its_tags_is_the_one() {
        let tag = of(&reading(7, None), Form::Json);
        let own = tag.to_str().unwrap();
        for (asked, expected) in [
            (vec![], false),
            (vec!["*"], true),
            (vec![own], true),
            (vec!["\"other\""], false),
            (vec!["\"other\"", own], true),
            (vec![&*format!("\"other\", W/{own}")], true),
            (vec!["nonsense"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &asked {
                headers.append(IF_NONE_MATCH, value.parse().unwrap());
            }
            assert_eq!(matches(&headers, &tag), expected, "{asked:?}");
        }
    }
}
