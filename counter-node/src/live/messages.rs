//! The messages on a WebSocket: JSON, version 1. `docs/live.md` is their description for clients.

use serde::{Deserialize, Serialize};

use super::{Mode, PAGES_MAX, Subject, Subscriptions, TooManyPages};
use crate::http::{Problem, page_named};

/// The protocol's version, which `hello` names.
const VERSION: u32 = 1;
/// The longest message that a client may send, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// What clients say.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Request {
    /// Send me the counts of these pages from now on; with `observe`, without counting me.
    Subscribe {
        pages: Vec<String>,
        #[serde(default)]
        observe: bool,
    },
    /// Send me these no more.
    Unsubscribe {
        pages: Vec<String>,
    },
    Ping {},
}

/// What they are told, but for counts, see [`super::Value`].
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Reply<'a> {
    Hello {
        version: u32,
        resume: String,
        heartbeat_seconds: u64,
        retry_ms: [u64; 2],
    },
    Subscribed {
        pages: &'a [String],
    },
    Unsubscribed {
        pages: &'a [String],
    },
    Pong {},
    Error {
        problem: &'a Problem,
    },
    /// The node stops: connect anew, elsewhere, after this time.
    Reconnect {
        after_ms: u64,
    },
}

/// Does what a client says, whatever that is, and returns what it is told.
#[must_use]
pub fn answer(subscriptions: &mut Subscriptions, text: &str) -> String {
    let done = Request::read(text).and_then(|request| request.perform(subscriptions));
    done.unwrap_or_else(|problem| Reply::Error { problem: &problem }.to_text())
}

/// The pages of a message, all of them or none.
fn subjects(pages: &[String]) -> Result<Vec<Subject>, Problem> {
    pages.iter().map(|page| page_named(page).map(Subject::Page)).collect()
}

impl Request {
    fn perform(&self, subscriptions: &mut Subscriptions) -> Result<String, Problem> {
        let reply = match self {
            Self::Ping {} => Reply::Pong {},
            Self::Subscribe { pages, observe } => {
                let mode = if *observe { Mode::Observe } else { Mode::View };
                subscriptions.add(subjects(pages)?, mode)?;
                Reply::Subscribed { pages }
            }
            Self::Unsubscribe { pages } => {
                subjects(pages)?.iter().for_each(|subject| subscriptions.remove(subject));
                Reply::Unsubscribed { pages }
            }
        };
        Ok(reply.to_text())
    }

    /// Reads a message.
    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        // serde would take an array's items for an object's fields.
        if !text.trim_start().starts_with('{') {
            return Err(Problem::bad_message(&"expected an object"));
        }
        serde_json::from_str(text).map_err(|error| Problem::bad_message(&error))
    }
}

impl Reply<'_> {
    /// The first message.
    pub(super) fn hello(resume: String, heartbeat_seconds: u64, retry_ms: [u64; 2]) -> Self {
        Self::Hello { version: VERSION, resume, heartbeat_seconds, retry_ms }
    }

    /// As it is sent.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<TooManyPages> for Problem {
    fn from(_: TooManyPages) -> Self {
        Self::too_many_pages(PAGES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_and_what_is_none_is_refused() {
        let Ok(Request::Subscribe { pages, observe: false }) = Request::read(r#"{"type":"subscribe","pages":["a"]}"#) else {
            panic!("not read");
        };
        assert_eq!(pages, ["a"]);
        assert!(matches!(Request::read(r#"{"type":"ping"}"#), Ok(Request::Ping {})));
        for text in [
            "",
            "{",
            "[]",
            r#"["ping"]"#,
            r#" ["subscribe",["a"]]"#,
            "null",
            r#"{"type":"shout"}"#,
            r#"{"pages":["a"]}"#,
            r#"{"type":"subscribe"}"#,
            r#"{"type":"subscribe","pages":"a"}"#,
        ] {
            assert!(Request::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn replies_are_as_documented() {
        let hello = Reply::hello("t".to_owned(), 20, [200, 3_000]).to_text();
        assert_eq!(hello, r#"{"type":"hello","version":1,"resume":"t","heartbeat_seconds":20,"retry_ms":[200,3000]}"#);
        assert_eq!(Reply::Pong {}.to_text(), r#"{"type":"pong"}"#);
        assert_eq!(Reply::Reconnect { after_ms: 5 }.to_text(), r#"{"type":"reconnect","after_ms":5}"#);
    }
}
