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
    /// `/{page}/modifications`
    Modifications(&'a str),
    /// `/users/{user}/subscriptions`; the user as it stands in the path, encoded.
    Subscriptions(&'a str),
    /// `/users/{user}/subscriptions/{page}`; both as they stand in the path.
    Subscription(&'a str, &'a str),
    /// `/users/{user}/unread`
    Unread(&'a str),
    /// `/users/{user}/unread/live`
    UnreadLive(&'a str),
    /// `/users/{user}/unread/{page}`
    UnreadPage(&'a str, &'a str),
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
    "modifications",
    "subscriptions",
    "subscription",
    "unread",
    "unread-live",
    "unread-page",
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
            Some((page, "modifications")) => Some(Self::Modifications(page)),
            Some(("websocket", "echo")) => Some(Self::Echo),
            Some(("users", below)) if Self::of_user(below).is_some() => Self::of_user(below),
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

    /// What is below `/users/`.
    fn of_user(below: &'a str) -> Option<Self> {
        let (user, below) = below.split_once('/')?;
        match below.split_once('/') {
            None if below == "subscriptions" => Some(Self::Subscriptions(user)),
            None if below == "unread" => Some(Self::Unread(user)),
            Some(("subscriptions", page)) if !page.contains('/') => Some(Self::Subscription(user, page)),
            // A page of that name is written with one of its letters encoded.
            Some(("unread", "live")) => Some(Self::UnreadLive(user)),
            Some(("unread", page)) if !page.contains('/') => Some(Self::UnreadPage(user, page)),
            _ => None,
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
            Self::Modifications(_) => 16,
            Self::Subscriptions(_) => 17,
            Self::Subscription(..) => 18,
            Self::Unread(_) => 19,
            Self::UnreadLive(_) => 20,
            Self::UnreadPage(..) => 21,
        }
    }

    pub(super) fn allowed(self) -> &'static [Method] {
        match self {
            Self::Counter(_) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::Batch => &[Method::GET, Method::HEAD, Method::POST],
            Self::Live(_) | Self::SiteLive | Self::UnreadLive(_) | Self::Echo => &[Method::GET],
            Self::Session(..) => &[Method::PUT, Method::DELETE],
            Self::SessionEnd(..) | Self::Modifications(_) => &[Method::POST],
            Self::Subscription(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Self::UnreadPage(..) => &[Method::PUT],
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
            ("/p/modifications", Some(Route::Modifications("p"))),
            ("/users/modifications", Some(Route::Modifications("users"))),
            ("/users/ann/subscriptions", Some(Route::Subscriptions("ann"))),
            ("/users/ann/subscriptions/a%2Fb", Some(Route::Subscription("ann", "a%2Fb"))),
            ("/users/ann/subscriptions/a/b", None),
            ("/users/ann/unread", Some(Route::Unread("ann"))),
            ("/users/ann/unread/live", Some(Route::UnreadLive("ann"))),
            ("/users/ann/unread/%6Cive", Some(Route::UnreadPage("ann", "%6Cive"))),
            ("/users/ann/unread/a/b", None),
            ("/users/ann", None),
            ("/users/live", Some(Route::Live("users"))),
            ("/users/sessions/unread", Some(Route::Unread("sessions"))),
            ("/users/sessions/tab-1", Some(Route::Session("users", "tab-1"))),
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
            "/p/modifications",
            "/users/u/subscriptions",
            "/users/u/subscriptions/p",
            "/users/u/unread",
            "/users/u/unread/live",
            "/users/u/unread/p",
        ];
        for (index, path) in paths.iter().enumerate() {
            assert_eq!(Route::of(path).unwrap().index(), index, "{path}");
        }
        assert_eq!(ROUTES.len(), paths.len() + 1);
    }
}
