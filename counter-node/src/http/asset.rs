//! The files that pages load: those of the node's own pages, and the two that other sites load as well.

use hyper::StatusCode;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderMap, HeaderName, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use xxhash_rust::xxh3::xxh3_64;

use super::problem::Problem;
use super::{Reply, etag, reply};

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// What lies below `/ui/`.
const FILES: &[(&str, &str, &str)] = &[
    ("cluster.js", SCRIPT, include_str!("../../ui/cluster.js")),
    ("counter.js", SCRIPT, include_str!("../../ui/counter.js")),
    ("dashboard.js", SCRIPT, include_str!("../../ui/dashboard.js")),
    ("follow.js", SCRIPT, include_str!("../../ui/follow.js")),
    ("icon.svg", IMAGE, include_str!("../../ui/icon.svg")),
    ("live.js", SCRIPT, include_str!("../../ui/live.js")),
    ("pages.js", SCRIPT, include_str!("../../ui/pages.js")),
    ("plot.js", SCRIPT, include_str!("../../ui/plot.js")),
    ("repeat.js", SCRIPT, include_str!("../../ui/repeat.js")),
    ("style.css", STYLE, include_str!("../../ui/style.css")),
    ("try.js", SCRIPT, include_str!("../../ui/try.js")),
];
/// What other sites name: at the root, so that its address says nothing of how it is made.
const WIDGET: &str = include_str!("../../ui/widget.js");
/// And what that loads.
const SHARED: &str = "live.js";

/// What other sites load, they load with each of their pages: for an hour a browser need not ask, and for a day it may ask
/// while it uses what it has.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=3600, stale-while-revalidate=86400");
/// The node's own pages run the scripts of their own release.
const ASKED: HeaderValue = HeaderValue::from_static("public, no-cache");
/// An image that is opened by itself runs nothing.
const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'");

/// `/ui/{name}`
pub(super) fn get(name: &str, headers: &HeaderMap) -> Result<Reply, Problem> {
    let found = FILES.iter().find(|(file, ..)| *file == name);
    let (_, content_type, content) = found.ok_or_else(|| Problem::not_found(&format!("/ui/{name}")))?;
    let caching = if name == SHARED { CACHED } else { ASKED };
    Ok(told(content_type, content, caching, headers))
}

/// `/widget.js`
pub(super) fn widget(headers: &HeaderMap) -> Reply {
    told(SCRIPT, WIDGET, CACHED, headers)
}

/// Any site may load them: they are the same for everyone and hold nothing of anyone.
fn told(content_type: &'static str, content: &'static str, caching: HeaderValue, headers: &HeaderMap) -> Reply {
    let tag = HeaderValue::from_str(&format!("\"{:016x}\"", xxh3_64(content.as_bytes())));
    let tag = tag.unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    let mut answer = if etag::matches(headers, &tag) {
        let mut answer = Reply::default();
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer
    } else {
        reply(StatusCode::OK, content_type, content)
    };
    let set = [
        (ETAG, tag),
        (CACHE_CONTROL, caching),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    ];
    answer.headers_mut().extend(set);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/ui");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let is_served = name == "widget.js" || name.ends_with(".html") || get(&name, &HeaderMap::new()).is_ok();
            assert!(is_served, "{name} is in no list");
        }
    }

    #[test]
    fn what_a_script_imports_is_served() {
        let imported = |script: &str| -> Vec<String> {
            let lines = script.lines().filter(|line| line.starts_with("import "));
            lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
        };
        let mut found = 0;
        for (name, _, content) in FILES.iter().filter(|(_, kind, _)| *kind == SCRIPT) {
            for file in imported(content) {
                assert!(get(file.trim_start_matches("./"), &HeaderMap::new()).is_ok(), "{name} imports {file}");
                found += 1;
            }
        }
        for file in imported(WIDGET) {
            assert!(get(file.trim_start_matches("./ui/"), &HeaderMap::new()).is_ok(), "the widget imports {file}");
            found += 1;
        }
        assert!(found > 5, "the imports are not found any more");
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so() {
        let whole = widget(&HeaderMap::new());
        let asked = HeaderMap::from_iter([(hyper::header::IF_NONE_MATCH, whole.headers()[ETAG].clone())]);
        assert_eq!(whole.status(), StatusCode::OK);
        assert_eq!(widget(&asked).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(get("style.css", &asked).unwrap().status(), StatusCode::OK);
    }
}
