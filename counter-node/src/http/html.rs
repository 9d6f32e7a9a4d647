//! Pages for people: a counter that keeps itself current, the list at `/`, and what problem types mean. They work without
//! scripts, load nothing from elsewhere, and links in them are relative, so that a proxy may put them under any path.

use std::fmt::Write as _;

use counter_core::counter::Key;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use super::problem::Problem;
use super::{Reply, page, reply};

const SCRIPT: &str = include_str!("../../ui/counter.js");
const STYLE: &str = include_str!("../../ui/style.css");

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A counter that its script keeps current; `named` is its page, none for the whole site.
pub(super) fn counter(named: Option<&str>, updated_at: &str, count: i64) -> Reply {
    let title = escape(named.unwrap_or("The whole site"));
    let root = if named.is_some() { "../" } else { "" };
    let main = format!(
        "<h1>{title}</h1>\n\
         <p class=\"count\" id=\"count\" role=\"status\" aria-live=\"polite\" aria-atomic=\"true\">{count}</p>\n\
         <p id=\"state\">Last change: <time id=\"updated\" datetime=\"{updated_at}\">{shown}</time></p>\n\
         <p><a href=\"{home}\">All pages</a></p>\n\
         <script src=\"{root}ui/counter.js\" type=\"module\"></script>",
        shown = if updated_at.is_empty() { "never" } else { updated_at },
        home = if root.is_empty() { "./" } else { root },
    );
    document(StatusCode::OK, &title, root, &main)
}

/// The list of pages and documentation; `more` when the node holds more pages than these.
pub(super) fn index(pages: &[Key], more: bool) -> Reply {
    let mut list = String::new();
    for key in pages {
        let name = String::from_utf8_lossy(key.as_bytes());
        let _ = writeln!(list, "<li><a href=\"./{}/counter\">{}</a></li>", page::encode(key.as_bytes()), escape(&name));
    }
    let listed = match (pages.is_empty(), more) {
        (true, _) => "<p>This node counts no page yet.</p>".to_owned(),
        (false, false) => format!("<ul>\n{list}</ul>"),
        (false, true) => format!("<ul>\n{list}</ul>\n<p>… and more, which this node does not list.</p>"),
    };
    let main = format!(
        "<h1>Distributed counter</h1>\n\
         <h2>Pages</h2>\n{listed}\n<p><a href=\"counter\">The whole site</a></p>\n\
         <h2>Use it</h2>\n\
         <pre>curl -X PUT http://HOST/front-page/counter\ncurl http://HOST/front-page/counter</pre>\n\
         <dl>\n\
         <dt><code>GET PUT DELETE /{{page}}/counter</code></dt><dd>read, count, reset a page</dd>\n\
         <dt><code>GET /counter</code></dt><dd>the whole site</dd>\n\
         <dt><code>GET POST /counters</code></dt><dd>many at once</dd>\n\
         </dl>\n\
         <h2>Read more</h2>\n\
         <ul>\n<li><a href=\"docs/\">The API, to read and to try</a></li>\n\
         <li><a href=\"openapi.json\">The API as an OpenAPI document</a></li>\n</ul>"
    );
    document(StatusCode::OK, "Distributed counter", "", &main)
}

/// What a problem type means.
pub(super) fn problem(status: StatusCode, title: &str, explanation: &str) -> Reply {
    let main = format!("<h1>{}</h1>\n<p>HTTP status {}.</p>\n<p>{}</p>", escape(title), status.as_u16(), escape(explanation));
    document(StatusCode::OK, title, "../", &main)
}

/// A file that the pages load.
pub(super) fn asset(name: &str) -> Result<Reply, Problem> {
    let (content_type, content) = match name {
        "counter.js" => ("text/javascript; charset=utf-8", SCRIPT),
        "style.css" => ("text/css; charset=utf-8", STYLE),
        _ => return Err(Problem::not_found(&format!("/ui/{name}"))),
    };
    let mut answer = reply(StatusCode::OK, content_type, content);
    secure(&mut answer, POLICY);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(answer)
}

fn document(status: StatusCode, title: &str, root: &str, main: &str) -> Reply {
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<link rel=\"stylesheet\" href=\"{root}ui/style.css\">\n<link rel=\"icon\" href=\"data:,\">\n\
         </head>\n<body>\n<main>\n{main}\n</main>\n</body>\n</html>\n"
    );
    let mut answer = reply(status, "text/html; charset=utf-8", text);
    secure(&mut answer, POLICY);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
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
