//! The table of routes: what exists, what may be done with it, and what the metrics call it.

use hyper::Method;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// `/{page}/counter`; the page as it stands in the path, encoded.
    Counter(&'a str),
    /// `/counter`
    Site,
    /// `/counters`
    Batch,
    /// `/cluster`
    Cluster,
    /// `/{page}/live`
    Live(&'a str),
    /// `/live`
    SiteLive,
    /// `/{page}/sessions/{id}`; both as they stand in the path.
    Session(&'a str, &'a str),
    /// `/{page}/sessions/{id}/end`
    SessionEnd(&'a str, &'a str),
    /// `/pages`
    TopPages,
    /// `/websocket/echo`, which is there for tests.
    Echo,
    /// `/`
    Index,
    /// `/openapi.json`
    OpenApi,
    /// `/docs`, and what is below it.
    Docs(Option<&'a str>),
    /// `/problems/{name}`
    Problem(&'a str),
    /// `/ui/{name}`
    Asset(&'a str),
    /// `/widget.js`
    Widget,
}

/// The routes' names in metrics, by [`Route::index`]; the last one is for paths that name nothing.
pub(super) const ROUTES: &[&str] = &[
    "counter",
    "site",
    "batch",
    "index",
    "openapi",
    "docs",
    "problem",
    "asset",
    "cluster",
    "widget",
    "live",
    "site-live",
    "session",
    "session-end",
    "echo",
    "pages",
    "none",
];

/// The methods' names in metrics, by [`method_index`].
pub(super) const METHODS: &[&str] = &["GET", "PUT", "DELETE", "POST", "HEAD", "other"];

/// The method's place in [`METHODS`].
pub(super) fn method_index(method: &Method) -> usize {
    METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1)
}

impl<'a> Route<'a> {
    /// What `path` names. A page is exactly one segment, so a slash in it comes encoded.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix('/')?;
        if let Some(page) = rest.strip_suffix("/counter") {
            return (!page.contains('/')).then_some(Self::Counter(page));
        }
        match rest.split_once('/') {
            Some((page, "live")) => Some(Self::Live(page)),
            Some(("websocket", "echo")) => Some(Self::Echo),
            Some((page, below)) if below.starts_with("sessions/") => Self::of_session(page, &below["sessions/".len()..]),
            None => match rest {
                "live" => Some(Self::SiteLive),
                "" => Some(Self::Index),
                "counter" => Some(Self::Site),
                "counters" => Some(Self::Batch),
                "pages" => Some(Self::TopPages),
                "cluster" => Some(Self::Cluster),
                "widget.js" => Some(Self::Widget),
                "openapi.json" => Some(Self::OpenApi),
                "docs" => Some(Self::Docs(None)),
                _ => None,
            },
            Some(("docs", file)) => Some(Self::Docs(Some(file))),
            Some(("problems", name)) => Some(Self::Problem(name)),
            Some(("ui", name)) => Some(Self::Asset(name)),
            Some(_) => None,
        }
    }

    fn of_session(page: &'a str, below: &'a str) -> Option<Self> {
        match below.split_once('/') {
            None => Some(Self::Session(page, below)),
            Some((id, "end")) => Some(Self::SessionEnd(page, id)),
            Some(_) => None,
        }
    }

    /// Whether what is no read changes a counter. Sessions are viewers: who may look, may be seen.
    pub(super) fn is_update(self) -> bool {
        !matches!(self, Self::Session(..) | Self::SessionEnd(..))
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::Counter(_) => 0,
            Self::Site => 1,
            Self::Batch => 2,
            Self::Index => 3,
            Self::OpenApi => 4,
            Self::Docs(_) => 5,
            Self::Problem(_) => 6,
            Self::Asset(_) => 7,
            Self::Cluster => 8,
            Self::Widget => 9,
            Self::Live(_) => 10,
            Self::SiteLive => 11,
            Self::Session(..) => 12,
            Self::SessionEnd(..) => 13,
            Self::Echo => 14,
            Self::TopPages => 15,
        }
    }

    pub(super) fn allowed(self) -> &'static [Method] {
        match self {
            Self::Counter(_) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Batch => &[Method::GET, Method::HEAD, Method::POST],
            Self::Live(_) | Self::SiteLive | Self::Echo => &[Method::GET],
            Self::Session(..) => &[Method::PUT, Method::DELETE],
            Self::SessionEnd(..) => &[Method::POST],
            _ => &[Method::GET, Method::HEAD],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_one_segment_and_may_be_named_like_a_route() {
        for (path, route) in [
            ("/front-page/counter", Some(Route::Counter("front-page"))),
            ("/blog%2Fpost-1/counter", Some(Route::Counter("blog%2Fpost-1"))),
            ("/counter/counter", Some(Route::Counter("counter"))),
            ("/docs/counter", Some(Route::Counter("docs"))),
            ("//counter", Some(Route::Counter(""))),
            ("/blog/post-1/counter", None),
            ("/front-page/counter/", None),
            ("/front-page", None),
            ("/counter", Some(Route::Site)),
            ("/counters", Some(Route::Batch)),
            ("/", Some(Route::Index)),
            ("/docs/swagger-ui.css", Some(Route::Docs(Some("swagger-ui.css")))),
            ("/front-page/live", Some(Route::Live("front-page"))),
            ("/docs/live", Some(Route::Live("docs"))),
            ("/live", Some(Route::SiteLive)),
            ("/p/sessions/tab-1", Some(Route::Session("p", "tab-1"))),
            ("/p/sessions/tab-1/end", Some(Route::SessionEnd("p", "tab-1"))),
            ("/p/sessions/tab-1/start", None),
            ("/p/sessions", None),
            ("/a/b/live", None),
            ("*", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }

    #[test]
    fn every_route_has_a_name_of_its_own_in_metrics() {
        let paths = [
            "/p/counter",
            "/counter",
            "/counters",
            "/",
            "/openapi.json",
            "/docs",
            "/problems/range",
            "/ui/page.js",
            "/cluster",
            "/widget.js",
            "/p/live",
            "/live",
            "/p/sessions/s",
            "/p/sessions/s/end",
            "/websocket/echo",
            "/pages",
        ];
        for (index, path) in paths.iter().enumerate() {
            assert_eq!(Route::of(path).unwrap().index(), index, "{path}");
        }
        assert_eq!(ROUTES.len(), paths.len() + 1);
    }
}
