//! What can go wrong between a node and Redis. Nothing in here tells an address or a password: the URL is a secret.

use std::io;
use std::path::PathBuf;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why Redis could not be asked, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RedisFailure {
    /// The file with the URL cannot be read. Nothing was asked.
    #[error("cannot read the file of the Redis URL, {}", path.display())]
    UrlFile {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file holds no URL of a Redis. Nothing was asked.
    #[error("{} holds no URL that can be used: expected redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS", path.display())]
    Url {
        /// The file.
        path: PathBuf,
    },
    /// The file holds another URL than the one in use. This call changed nothing.
    #[error("the Redis URL has changed")]
    UrlChanged,
    /// Nothing accepts connections there, or nothing that can be spoken with. Nothing was asked.
    #[error("cannot connect to Redis: {0}")]
    Connect(String),
    /// The connection broke before the answer came. The outcome is unknown.
    #[error("the connection to Redis broke: {0}")]
    Connection(String),
    /// No answer in time. The outcome is unknown.
    #[error("Redis did not answer in time")]
    Timeout,
    /// Nothing was changed.
    #[error("Redis does not let us in: user and password of the URL are wrong, or missing")]
    Password,
    /// The user that the URL names lacks a right. Nothing was changed.
    #[error("the Redis user may not do what is needed: it needs ~KEYS of the prefix, and +@hash +@scripting +unlink +info")]
    Forbidden,
    /// The other side does not speak its protocol. Nothing was changed.
    #[error("what answers there is no Redis")]
    NotRedis,
    /// Redis has reached its `maxmemory`. This call may have changed a part.
    #[error("Redis is full: raise its maxmemory, and set maxmemory-policy noeviction")]
    Full,
    /// It has become a replica, as after a fail-over. Nothing was changed.
    #[error("this Redis is a read-only replica")]
    ReadOnly,
    /// It is a node of a Redis Cluster, and does not have the keys. Nothing was changed.
    #[error(
        "what answers there is a node of a Redis Cluster that does not have our keys: storage wants a single Redis, or the address that its fail-over keeps, and no Redis Cluster"
    )]
    Elsewhere,
    /// What had been written is gone: Redis was emptied, or has come back with less. Nothing was changed.
    #[error("Redis has lost what had been written")]
    Lost,
    /// Another process of this node's name has taken the records. Nothing was changed.
    #[error("another process with this node's name and prefix has taken the records: this one writes no more")]
    Superseded,
    /// A later release wrote the records. Nothing was changed.
    #[error(
        "the records in Redis have format {found}, and this release knows formats up to {known}: start a release at least as new as the one that wrote them"
    )]
    NewerFormat {
        /// The records' format.
        found: String,
        /// The newest that this release reads.
        known: u32,
    },
    /// An earlier release wrote the records, in a way that this one does not read. Nothing was changed.
    #[error("the records in Redis have format {found}, and this release reads format {known} only")]
    OlderFormat {
        /// The records' format.
        found: String,
        /// The one that this release reads.
        known: u32,
    },
    /// Something in Redis is not what a node has written. Nothing was changed by this call.
    #[error("what Redis holds under {key} is damaged: {what}")]
    Damaged {
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// Redis refused for another reason. This call may have changed a part.
    #[error("Redis refused: {code} {message}")]
    Refused {
        /// The first word of Redis's answer.
        code: String,
        /// The rest of it.
        message: String,
    },
}

impl RedisFailure {
    /// What the client library says when a connection could not be made.
    pub(super) fn connecting(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Password,
            ErrorKind::Server(_) | ErrorKind::Extension => Self::refused(error, ""),
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::NotRedis,
            _ if error.is_timeout() => Self::Connect("no answer in time".to_owned()),
            _ => Self::Connect(error.to_string()),
        }
    }

    /// What the client library says when there was no answer.
    pub(super) fn asking(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Self::NotRedis,
            _ if error.is_timeout() => Self::Timeout,
            _ => Self::Connection(error.to_string()),
        }
    }

    /// What Redis's refusal means. `key` is the one that it is about, as far as is known.
    pub(super) fn refused(error: &RedisError, key: &str) -> Self {
        let code = error.code().unwrap_or("ERR");
        let message = error.detail().unwrap_or_default();
        match (error.kind(), code) {
            (ErrorKind::Server(ServerErrorKind::ReadOnly), _) => Self::ReadOnly,
            (ErrorKind::Server(ServerErrorKind::NoPerm), _) => Self::Forbidden,
            (ErrorKind::Server(kind), _) if is_of_a_cluster(kind) => Self::Elsewhere,
            (_, "WRONGPASS" | "NOAUTH") => Self::Password,
            (_, "OOM") => Self::Full,
            (_, "LOST") => Self::Lost,
            (_, "SUPERSEDED") => Self::Superseded,
            (_, "NEWERFORMAT") => Self::NewerFormat { found: message.to_owned(), known: super::FORMAT },
            (_, "OLDERFORMAT") => Self::OlderFormat { found: message.to_owned(), known: super::FORMAT },
            (_, "DAMAGED") => Self::Damaged { key: key.to_owned(), what: message.to_owned() },
            (_, "WRONGTYPE") => {
                Self::Damaged { key: key.to_owned(), what: "some key below it holds another type than a hash".to_owned() }
            }
            _ => Self::Refused { code: code.to_owned(), message: message.to_owned() },
        }
    }

    pub(super) fn damaged(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Damaged { key: key.into(), what: what.into() }
    }

    /// Whether the records themselves are at fault, so that trying again cannot help.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        matches!(self, Self::NewerFormat { .. } | Self::OlderFormat { .. } | Self::Damaged { .. })
    }
}

/// Whether only a Redis Cluster answers so.
fn is_of_a_cluster(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, CrossSlot, Moved, TryAgain};
    matches!(kind, Moved | Ask | ClusterDown | CrossSlot | TryAgain)
}
