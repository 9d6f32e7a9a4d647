//! A live connection that was asked for and admitted.

use std::sync::Arc;

use counter_core::counter::Key;

use super::{Live, Mode, Name, Place, Subject};

/// What a live connection begins with.
#[derive(Debug)]
pub struct Opening {
    pub live: Arc<Live>,
    pub place: Place,
    /// What its address names.
    pub subject: Subject,
    pub mode: Mode,
    /// The session's id, if it has one of its own.
    pub session: Option<String>,
    /// Who it is, if that is said.
    pub user: Option<Name>,
    /// The key of the user whose unread count is sent along.
    pub unread: Option<Key>,
    /// By [`super::value::Count::id`]: what the client has been sent already.
    pub last_id: Option<String>,
}
