//! The kinds of problems: what each is called, and what a client is to make of it. A table.

use hyper::StatusCode;
use serde::Serialize;

/// The kinds of problems; their paths are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Kind {
    BadInput,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    TooLarge,
    UnsupportedMediaType,
    Range,
    TooManyCounters,
    TokenReused,
    TokenExpired,
    TokenFromFuture,
    TooManyTokens,
    Overloaded,
    ForeignOrigin,
    UpgradeRequired,
    TooManyConnections,
    TooManyPages,
    TooManySubscriptions,
    NotSubscribed,
    NotApplied,
    SessionNotReached,
    OutcomeUnknown,
    Internal,
}

/// What there is to say of a kind.
pub(in crate::http) struct Explained {
    /// The last part of its path.
    pub(in crate::http) name: &'static str,
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) title: &'static str,
    pub(in crate::http) explanation: &'static str,
}

impl Kind {
    pub(in crate::http) const ALL: [Self; 24] = [
        Self::BadInput,
        Self::Unauthorized,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::Range,
        Self::TooManyCounters,
        Self::TokenReused,
        Self::TokenExpired,
        Self::TokenFromFuture,
        Self::TooManyTokens,
        Self::Overloaded,
        Self::ForeignOrigin,
        Self::UpgradeRequired,
        Self::TooManyConnections,
        Self::TooManyPages,
        Self::TooManySubscriptions,
        Self::NotSubscribed,
        Self::NotApplied,
        Self::SessionNotReached,
        Self::OutcomeUnknown,
        Self::Internal,
    ];

    pub(in crate::http) fn explained(self) -> Explained {
        let explained = |name, status, title, explanation| Explained { name, status, title, explanation };
        match self {
            Self::BadInput => explained(
                "bad-input",
                StatusCode::BAD_REQUEST,
                "The request is wrong",
                "Nothing was changed. The member `field` names the parameter, header or field that is at fault, `detail` says why.",
            ),
            Self::Unauthorized => explained(
                "unauthorized",
                StatusCode::UNAUTHORIZED,
                "The request needs a token",
                "Nothing was changed. This node takes PUT, POST and DELETE only with `Authorization: Bearer TOKEN`, where TOKEN is \
                 one of those in the file that its --api-token-file names.",
            ),
            Self::NotFound => explained(
                "not-found",
                StatusCode::NOT_FOUND,
                "There is nothing at this path",
                "A counter is at /PAGE/counter, where PAGE is one path segment: a slash in a page is written %2F.",
            ),
            Self::MethodNotAllowed => explained(
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The path does not know the method",
                "Nothing was changed. The header Allow names the methods that the path knows.",
            ),
            Self::RequestTimeout => explained(
                "request-timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request's body did not come in time",
                "Nothing was changed. Send the request again.",
            ),
            Self::TooLarge => explained(
                "too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The request's body is too long",
                "Nothing was changed. Send less at once; the node's --max-body sets the limit.",
            ),
            Self::UnsupportedMediaType => explained(
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The request's body is not declared as JSON",
                "Nothing was changed. A body needs the header Content-Type: application/json.",
            ),
            Self::Range => explained(
                "range",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The number would leave its range",
                "Nothing was changed. A counter is a signed 64-bit number, and an update that would take it further is refused.",
            ),
            Self::TooManyCounters => explained(
                "too-many-counters",
                StatusCode::TOO_MANY_REQUESTS,
                "The node takes no new pages",
                "Nothing was changed. The node holds as many counters as its --max-counters or --max-memory admits. Pages that \
                 are counted already count on; new ones need a higher limit, or more shards.",
            ),
            Self::TokenReused => explained(
                "token-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key has been used for another update",
                "Nothing was changed. A key names one update of one counter: send another update under a key of its own.",
            ),
            Self::TokenExpired => explained(
                "token-expired",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key is too old",
                "This request changed nothing. The key says that it was made longer ago than the node's --token-window, so whether an earlier request under it was counted is not known any more; reading the counter shows what counted.",
            ),
            Self::TokenFromFuture => explained(
                "token-from-future",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key is of the future",
                "Nothing was changed. The time in the key lies more than a minute ahead of the node's clock: one of the two clocks is wrong.",
            ),
            Self::TooManyTokens => explained(
                "too-many-tokens",
                StatusCode::TOO_MANY_REQUESTS,
                "The node takes no new idempotency keys",
                "Nothing was changed. The node remembers as many keys as its --max-tokens admits. Try again after the time that Retry-After names in seconds, when some have been forgotten; updates without a key are counted on.",
            ),
            Self::Overloaded => explained(
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "The node has too much to do",
                "Nothing was changed. Try again after the time that Retry-After names, in seconds.",
            ),
            Self::ForeignOrigin => explained(
                "foreign-origin",
                StatusCode::FORBIDDEN,
                "Pages of this origin may not follow counters here",
                "The header Origin names another host than this one, and none of those that the node's --cors-origin allows.",
            ),
            Self::UpgradeRequired => explained(
                "upgrade-required",
                StatusCode::UPGRADE_REQUIRED,
                "Counts are pushed by WebSocket or as server-sent events",
                "Ask for a WebSocket of version 13 over HTTP/1.1 (`Upgrade: websocket`), or for events (`Accept: text/event-stream`).",
            ),
            Self::TooManyConnections => explained(
                "too-many-connections",
                StatusCode::TOO_MANY_REQUESTS,
                "The address has too many live connections",
                "The node takes as many live connections from one address as its --live-connections-per-address-max admits. Behind \
                 a proxy, all clients have the proxy's address.",
            ),
            Self::TooManyPages => explained(
                "too-many-pages",
                StatusCode::TOO_MANY_REQUESTS,
                "The connection follows too many pages",
                "Nothing was changed: no page of the message was subscribed to. Unsubscribe from others, or open another connection.",
            ),
            Self::TooManySubscriptions => explained(
                "too-many-subscriptions",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The user subscribes to as many pages as anyone may",
                "Nothing was changed. Let the user unsubscribe from another page first.",
            ),
            Self::NotSubscribed => explained(
                "not-subscribed",
                StatusCode::NOT_FOUND,
                "The user does not subscribe to the page",
                "Nothing was changed. What is read is kept for pages that a user subscribes to: \
                 PUT /users/USER/subscriptions/PAGE begins a subscription, with all of the page read.",
            ),
            Self::NotApplied => explained(
                "not-applied",
                StatusCode::SERVICE_UNAVAILABLE,
                "The request could not be served",
                "Nothing was changed: no owner of the counter could be reached, or none could store the update. Trying again, \
                 after the time that Retry-After names in seconds, counts once.",
            ),
            Self::SessionNotReached => explained(
                "session-not-reached",
                StatusCode::SERVICE_UNAVAILABLE,
                "What the session has written does not show yet",
                "Nothing was changed. The request came with a Counter-Session, and what was written under it had not reached the \
                 replicas that could be asked. Try again after the time that Retry-After names in seconds; without the header the \
                 request is served at once, by what they know.",
            ),
            Self::OutcomeUnknown => explained(
                "outcome-unknown",
                StatusCode::SERVICE_UNAVAILABLE,
                "The update's outcome is unknown",
                "The update was sent to the counter's owner, and the answer was lost: it may count, or not. Sent again under \
                 the same Idempotency-Key it counts once; without one it may count twice, and reading the counter shows what counted.",
            ),
            Self::Internal => explained(
                "internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "The node failed",
                "This is a mistake in the node, and its log says more. An update may count, or not.",
            ),
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("/problems/{}", self.explained().name))
    }
}
