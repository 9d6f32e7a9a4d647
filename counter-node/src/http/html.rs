//! Pages for people: a counter that keeps itself current, the dashboard at `/`, and what problem types mean. They say what they
//! can without scripts, load nothing from elsewhere, and links in them are relative, so that a proxy may put them under any path.

use std::fmt::Write as _;

use counter_core::counter::Key;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use super::{Reply, page, reply};

const INDEX: &str = include_str!("../../ui/index.html");
const COUNTER: &str = include_str!("../../ui/counter.html");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A counter that its script keeps current; `named` is its page, none for the whole site.
pub(super) fn counter(named: Option<&str>, updated_at: &str, count: i64) -> Reply {
    let title = escape(named.unwrap_or("The whole site"));
    let count = count.to_string();
    let parts = match named {
        Some(_) => {
            [("root", "../"), ("home", "../"), ("explained", "You are one of its viewers for as long as this page is open.")]
        }
        None => [("root", ""), ("home", "./"), ("explained", "The sum over all pages, viewers included.")],
    };
    let source = if named.is_some() { format!("page=\"{title}\"") } else { "site".to_owned() };
    let shown = if updated_at.is_empty() { "never" } else { updated_at };
    let own = [("title", &*title), ("source", &source), ("count", &count), ("updated", updated_at), ("shown", shown)];
    page_of(filled(COUNTER, |name| parts.iter().chain(&own).find(|part| part.0 == name).map_or("", |part| part.1)))
}

/// The dashboard, with a list of pages in it until its script shows the busiest; `more` when the node holds more than these.
pub(super) fn index(pages: &[Key], more: bool) -> Reply {
    let mut list = String::new();
    for key in pages {
        let name = String::from_utf8_lossy(key.as_bytes());
        let _ = writeln!(list, "<li><a href=\"./{}/counter\">{}</a></li>", page::encode(key.as_bytes()), escape(&name));
    }
    let listed = match (pages.is_empty(), more) {
        (true, _) => "<p class=\"empty\">This node counts no page yet.</p>".to_owned(),
        (false, false) => format!("<ul>\n{list}</ul>"),
        (false, true) => format!("<ul>\n{list}</ul>\n<p class=\"note\">… and more, which this node does not list.</p>"),
    };
    page_of(filled(INDEX, |_| &listed))
}

/// What a problem type means.
pub(super) fn problem(status: StatusCode, title: &str, explanation: &str) -> Reply {
    let main = format!("<h1>{}</h1>\n<p>HTTP status {}.</p>\n<p>{}</p>", escape(title), status.as_u16(), escape(explanation));
    document(StatusCode::OK, title, "../", &main)
}

fn document(status: StatusCode, title: &str, root: &str, main: &str) -> Reply {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<link rel=\"stylesheet\" href=\"{root}ui/style.css\">\n\
         <link rel=\"icon\" href=\"{root}ui/icon.svg\">\n\
         </head>\n<body class=\"single\">\n<main>\n<section class=\"card\">\n{main}\n</section>\n</main>\n</body>\n</html>\n"
    );
    let mut answer = page_of(text);
    *answer.status_mut() = status;
    answer
}

fn page_of(text: String) -> Reply {
    let mut answer = reply(StatusCode::OK, "text/html; charset=utf-8", text);
    secure(&mut answer, POLICY);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A document with each `{{name}}` of it replaced, in one pass: what a part brings is not looked into.
fn filled<'a>(document: &str, part: impl Fn(&str) -> &'a str) -> String {
    let mut text = String::with_capacity(document.len());
    let mut rest = document;
    while let Some((before, (name, after))) = rest.split_once("{{").and_then(|(b, after)| Some((b, after.split_once("}}")?))) {
        text.push_str(before);
        text.push_str(part(name));
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Headers that keep a browser from doing more with the answer than was meant.
pub(super) fn secure(answer: &mut Reply, policy: &'static str) {
    let set = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in set {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
}

/// Text as it stands in HTML, between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}
