//! A live connection that was asked for and admitted.

use std::sync::Arc;

use counter_core::counter::Key;
use counter_core::presence::SessionToken;

use super::{Live, Mode, Name, Place, Subject};

/// What a live connection begins with.
#[derive(Debug)]
pub struct Opening {
    pub live: Arc<Live>,
    pub place: Place,
    /// What its address names.
    pub subject: Subject,
    pub mode: Mode,
    pub who: Who,
    /// The key of the user whose unread count is sent along.
    pub unread: Option<Key>,
    /// By [`super::value::Count::id`]: what the client has been sent already.
    pub last_id: Option<String>,
}

/// Who a client says that it is.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// The session's id, if it has one of its own.
    pub session: Option<String>,
    /// Whose the session is, if that is said.
    pub user: Option<Name>,
    /// The session that it goes on with, if it had one.
    pub resumes: Option<SessionToken>,
}
