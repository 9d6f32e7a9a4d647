//! Which form of an answer a client wants, by its `Accept` header (RFC 9110 §12.5.1).

use hyper::HeaderMap;
use hyper::header::ACCEPT;

use super::idempotency::is_among;

/// The forms that a counter can be shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Text,
    Html,
}

impl Form {
    fn media(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("application", "json"),
            Self::Text => ("text", "plain"),
            Self::Html => ("text", "html"),
        }
    }
}

/// The form of `offered` that the client likes best; of those that it likes equally, the first. A client that accepts
/// none gets the first as well: an answer that it may not understand serves it better than a refusal.
pub(super) fn form(headers: &HeaderMap, offered: &[Form]) -> Form {
    let first = offered.first().copied().unwrap_or(Form::Json);
    if !is_among(headers, &ACCEPT) {
        return first;
    }
    let mut accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    if accepts.peek().is_none_or(|accept| *accept == "*/*") {
        return first;
    }
    let ranges: Vec<Range<'_>> = accepts.flat_map(|accept| accept.split(',')).filter_map(Range::read).collect();
    let mut best = (first, 0);
    for form in offered {
        let quality = quality(&ranges, *form);
        if quality > best.1 {
            best = (*form, quality);
        }
    }
    best.0
}

/// Whether the client asks for server-sent events, by name.
pub(super) fn accepts_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|accept| accept.split(',')).filter_map(Range::read).any(|range| {
        range.quality > 0 && range.kind.eq_ignore_ascii_case("text") && range.subtype.eq_ignore_ascii_case("event-stream")
    })
}

/// One media range: type, subtype, and quality in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: u16,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some(Self { kind, subtype, quality: weight.map_or(Some(1000), thousandths)? })
    }

    /// How closely the range names the form; none when it does not.
    fn closeness(&self, form: Form) -> Option<u8> {
        let (kind, subtype) = form.media();
        let named = self.kind.eq_ignore_ascii_case(kind);
        match self.subtype {
            "*" if self.kind == "*" => Some(0),
            "*" if named => Some(1),
            own if named && own.eq_ignore_ascii_case(subtype) => Some(2),
            _ => None,
        }
    }
}

/// The quality that the range closest to the form gives it.
fn quality(ranges: &[Range<'_>], form: Form) -> u16 {
    let close = ranges.iter().filter_map(|range| Some((range.closeness(form)?, range.quality)));
    close.max_by_key(|(closeness, _)| *closeness).map_or(0, |(_, quality)| quality)
}

/// `0.5` as 500.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = fraction.len() <= 3 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 1)?;
    let fraction: u16 = if digits { format!("{fraction:0<3}").parse().ok()? } else { return None };
    Some((whole * 1000 + fraction).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Form {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        form(&headers, &[Form::Json, Form::Text, Form::Html])
    }

    #[test]
    fn the_form_that_is_liked_best_is_chosen() {
        for (accept, expected) in [
            ("*/*", Form::Json),
            ("application/json", Form::Json),
            ("text/plain", Form::Text),
            ("TEXT/Plain", Form::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", Form::Html),
            ("text/*", Form::Text),
            ("text/html;q=0.5, text/plain;q=0.6", Form::Text),
            ("text/*;q=0.9, text/plain;q=0.1, */*;q=0.5", Form::Html),
            ("application/json;q=0, */*", Form::Text),
            ("text/html;level=1;q=0.3, application/json;q=0.2", Form::Html),
            ("image/png", Form::Json),
            ("nonsense", Form::Json),
            ("text/html;q=7", Form::Json),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new(), &[Form::Json, Form::Html]), Form::Json);
    }
}
